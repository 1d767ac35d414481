"""One chunk of images -> its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from base.fault import fault
from base.paths import path_to_text
from jobs import ChunkResult, LabelChunk, Photo, Row
from storage import Folder, LocalFolder
from vision.images import DEFAULT_LIMITS, ImageLimits, Page, photo_facts
from vision.serving import Classifier, Outcome, Source
from worker.label.data_root import check_local, opened_images
from worker.label.paged import paged

Ask = Callable[[bytes], dict[str, Any]]  # bytes of a file -> more fields of its row


def label_chunk(
    chunk: LabelChunk,
    classifier: Classifier,
    data_root: Path | LocalFolder | Folder,
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
        facts: list[dict[str, Any]] = [{} for _ in chunk.paths]  # of the files that could be read: more of their rows
        asked = [ask for ask, is_wanted in ((_contents, chunk.file_info), (_photo, chunk.exif)) if is_wanted]
        watched = [
            partial(_read, source, path, on_read, asked, of_file)
            for source, path, of_file in zip(paged(sources, chunk), chunk.paths, facts, strict=True)
        ]
        outcomes, seconds = classifier.classify(watched, chunk.top_k)
    # strict: as many rows as paths, or no result at all
    rows = tuple(_row(outcome, of_file) for of_file, outcome in zip(facts, outcomes, strict=True))
    local = data_root.root if isinstance(data_root, LocalFolder) else data_root
    if isinstance(local, Path) and any(row.error in ("not_found", "unreadable") for row in rows):
        # It may have gone away meanwhile: these rows would be of images that are well.
        missing = [path for path, row in zip(chunk.paths, rows, strict=True) if row.error == "not_found"]
        check_local(local, missing, limits.max_bytes)
    engine = f"{classifier.engine.name}/{classifier.engine.device}/{classifier.engine.precision}"
    return ChunkResult(
        run=chunk.run,
        first=chunk.first,
        rows=rows,
        worker=worker,
        engine=engine,
        early=sum(outcome.early for outcome in outcomes),
        seconds=seconds,
    )


def _read(
    source: Source, path: str, on_read: Callable[[], object], asked: Iterable[Ask], facts: dict[str, Any]
) -> bytes | Page:
    found = source()
    on_read()
    data, known = (found.file.data, found.file.facts) if isinstance(found, Page) else (found, {})
    for ask in asked if not known else ():
        known.update(ask(data))
    facts.update(known)
    fault(f"decode {path}")
    return found


def _contents(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def _photo(data: bytes) -> dict[str, Any]:
    return {"photo": Photo(**photo_facts(data)._asdict())}


def _row(outcome: Outcome, facts: dict[str, Any]) -> Row:
    row = Row(width=outcome.width_px, height=outcome.height_px, **facts)
    if outcome.error is None:
        return row.model_copy(update={"top": tuple(outcome.top), "outlier": outcome.outlier})
    detail = path_to_text(outcome.error.detail)[:1000]
    return row.model_copy(update={"error": outcome.error.reason, "detail": detail})
