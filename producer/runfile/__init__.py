"""The run file: what a run was asked for, its inputs, and every row that it has."""

from producer.runfile.file import Progress, RowsMisfit, RunFile, RunFileError
from producer.runfile.growing import Batch, GrowingRun
from producer.runfile.plan import Plan
from producer.runfile.rows import CURABLE, StoredRow

__all__ = ["CURABLE", "Batch", "GrowingRun", "Plan", "Progress", "RowsMisfit", "RunFile", "RunFileError", "StoredRow"]
