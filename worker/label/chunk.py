"""One chunk of images -> its rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

from base.fault import fault
from base.paths import path_to_text
from jobs import ChunkResult, LabelChunk, Row
from storage import Folder
from vision.images import DEFAULT_LIMITS, ImageLimits
from vision.serving import Classifier, Outcome, Source
from worker.label.data_root import check_local, opened_images


def label_chunk(
    chunk: LabelChunk,
    classifier: Classifier,
    data_root: Path | Folder,
    limits: ImageLimits = DEFAULT_LIMITS,
    worker: str = "",
    on_read: Callable[[], object] = lambda: None,
) -> ChunkResult:
    """Return one row for each path of ``chunk``, in order; what can't be read becomes an error row.

    ``on_read`` is called each time an image is in memory, before it is decoded.

    Raises:
        UnavailableError: the data root itself is away: a share that isn't mounted, say.
    """
    with opened_images(data_root, chunk.paths, limits.max_bytes) as sources:
        contents: dict[int, tuple[int, str]] = {}  # of the files that could be read: bytes and sha256
        note = contents if chunk.file_info else None
        watched = [
            partial(_read, source, path, on_read, place, note)
            for place, (source, path) in enumerate(zip(sources, chunk.paths, strict=True))
        ]
        outcomes, seconds = classifier.classify(watched, chunk.top_k)
    # strict: as many rows as paths, or no result at all
    found = zip(range(len(chunk.paths)), outcomes, strict=True)
    rows = tuple(_row(outcome, *contents.get(place, (0, None))) for place, outcome in found)
    if isinstance(data_root, Path) and any(row.error in ("not_found", "unreadable") for row in rows):
        # It may have gone away meanwhile: these rows would be of images that are well.
        missing = [path for path, row in zip(chunk.paths, rows, strict=True) if row.error == "not_found"]
        check_local(data_root, missing, limits.max_bytes)
    engine = f"{classifier.engine.name}/{classifier.engine.device}/{classifier.engine.precision}"
    return ChunkResult(run=chunk.run, first=chunk.first, rows=rows, worker=worker, engine=engine, seconds=seconds)


def _read(
    source: Source, path: str, on_read: Callable[[], object], place: int, contents: dict[int, tuple[int, str]] | None
) -> bytes:
    data = source()
    on_read()
    if contents is not None:
        contents[place] = len(data), sha256(data).hexdigest()
    fault(f"decode {path}")
    return data


def _row(outcome: Outcome, size: int, digest: str | None) -> Row:
    row = Row(width=outcome.width_px, height=outcome.height_px, bytes=size, sha256=digest)
    if outcome.error is None:
        return row.model_copy(update={"top": tuple(outcome.top)})
    detail = path_to_text(outcome.error.detail)[:1000]
    return row.model_copy(update={"error": outcome.error.reason, "detail": detail})
