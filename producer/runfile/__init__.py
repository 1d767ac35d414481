"""The run file: what a run was asked for, its inputs, and every row that it has."""

from producer.runfile.file import Progress, RunFile, RunFileError
from producer.runfile.plan import Plan
from producer.runfile.rows import StoredRow

__all__ = ["Plan", "Progress", "RunFile", "RunFileError", "StoredRow"]
