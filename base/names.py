"""Names that several packages agree on: how models and their aliases may be called, and the priorities of runs."""

from __future__ import annotations

from typing import Literal

# Of the whole name. A folder of the store has it, and it stands before ':' and '@' in references.
MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"

Priority = Literal["high", "normal", "low"]
