"""One training, from its request to the published version: training.py holds the whole flow."""

from typing import Literal

Promote = Literal["gate", "always", "never"]  # what becomes of a new version
