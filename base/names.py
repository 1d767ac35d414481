"""How models, their aliases and what is trained to be one may be called."""

from __future__ import annotations

# Of the whole name. A folder of the store has it, and it stands before ':' and '@' in references.
MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
