"""report.parquet: the columns of report.csv with types that don't depend on what the rows hold."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from base.install import pip_install
from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.reports.report import replacing, table
from producer.runfile import RunFile, StoredRow

ROWS_A_GROUP = 10_000  # what is in memory at once


def check_pyarrow(option: str = "--format parquet") -> None:
    """Raise UsageError where pyarrow is missing: before hours of labelling, not after."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{option} needs pyarrow ({error}); install it with: {pip_install('sortline[parquet]')}"
        ) from error


def write_parquet(run: RunFile, path: Path, layout: Layout, rows: Iterable[StoredRow] | None = None) -> None:
    check_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Nothing of this one run: the same answers give the same bytes.
    schema = schema_of(layout).with_metadata({"model": layout.model, "digest": run.plan.model.digest})
    answers = layout.answers(run.rows() if rows is None else rows)
    with replacing(path, run.path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        while group := [layout.values(answer) for answer in islice(answers, ROWS_A_GROUP)]:
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*group, strict=True), schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


PARQUET = table("parquet", write_parquet, check_pyarrow)


def schema_of(layout: Layout) -> Any:
    """Return the schema: text, float32 for confidences, int32 for sizes, float64 for degrees.

    Only path and status are never null.
    """
    import pyarrow as pa

    kinds = {
        **dict.fromkeys(("width", "height", "page", "burst"), pa.int32()),
        **dict.fromkeys(("latitude", "longitude"), pa.float64()),
        "bytes": pa.int64(),
        **dict.fromkeys(("burst_share", "outlier"), pa.float32()),
    }

    def kind(column: str) -> Any:
        return pa.float32() if column.startswith(("confidence", "p:")) else kinds.get(column, pa.string())

    return pa.schema([pa.field(name, kind(name), nullable=name not in ("path", "status")) for name in layout.columns])
