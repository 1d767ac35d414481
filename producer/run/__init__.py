"""One run of `sortline label`, from its source to its reports: labelling.py holds the whole flow."""

from typing import Literal

OnExisting = Literal["resume", "overwrite", "error"]  # what to do when the same command has run before
