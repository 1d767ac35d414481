"""The images of report.html: which of them it shows, their thumbnails, and the data that its script reads.

A gallery of 20,000 images is what a browser bears; of larger runs it holds a part.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from base.errors import UnavailableError
from base.image_files import has_image_suffix
from base.paths import below_root, text_to_path
from base.urls import is_url
from producer.reports.layout import CONFIDENCE_DIGITS
from producer.reports.report import Report
from producer.reports.tally import Tally
from producer.reports.thumbnails import SMALL_PX, thumbnails
from producer.reports.truth import FolderTruth
from producer.runfile import Plan, RunFile, StoredRow
from storage import ExtraMissing, open_folder

GALLERY_IMAGES = 20_000
LISTED_ERRORS = 200
SHOWN_FIRST = 24  # of the least sure, and of the mistakes
SLOW_IMAGES = 2000  # from here on the making of thumbnails is worth a word


@dataclass(frozen=True, slots=True)
class Figure:
    """One image as the page's template shows it."""

    path: str
    name: str
    confidence: float
    truth: str
    second: str
    source: str
    tiny: bool
    missing: str = "no picture to be had here"  # where there is no source

    @property
    def wrong(self) -> bool:
        return bool(self.truth) and self.truth != self.name


class Gallery:
    """The images of one report, whose page is to lie at ``path``.

    Attributes:
        rows: of the images that it holds.
    """

    def __init__(self, report: Report, path: Path) -> None:
        self._plan = report.run.plan
        self._is_remote = is_url(self._plan.data_root)
        self._layout, self._counts = report.layout, report.counts
        self._folder = os.path.realpath(path.parent)
        self._truth = FolderTruth(report.run, self._layout) if report.counts.evaluation is not None else None
        self._names = list(dict.fromkeys(self._layout.names))
        self._places = {name: place for place, name in enumerate(self._names)}
        self.rows = _choose(report.run, report.counts)
        self._pictures = self._embedded(report, path.name)

    @property
    def note(self) -> str:
        """What the gallery leaves out, if it does."""
        if len(self.rows) == self._counts.images:
            return ""
        step = -(-self._counts.images // GALLERY_IMAGES)
        return (
            f"The gallery holds {len(self.rows):,} of {self._counts.images:,} images: the least sure, the worst "
            f"mistakes, the first errors and one in {step} of the others. All counts on this page are of all images."
        )

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        """Path, reason and detail of the first images that could not be labelled."""
        return [(_shown(row), row.error, row.detail) for row in self.rows if row.error][:LISTED_ERRORS]

    @property
    def images_from(self) -> str:
        """The web server that images are linked to, if they are on one."""
        root = self._plan.data_root
        return "/".join(root.split("/", 3)[:3]) if root.startswith(("http://", "https://")) else ""

    def figures(self, indexes: list[int]) -> list[Figure]:
        by_index = {row.input_index: row for row in self.rows}
        return [self._figure(by_index[index]) for index in indexes[:SHOWN_FIRST]]

    def json(self) -> Iterator[str]:
        yield f'{{"names":{_json(self._names)},"images":[\n'
        for number, row in enumerate(self.rows):
            yield (",\n" if number else "") + _json(self._columns(row))
        yield "\n]}"

    def _embedded(self, report: Report, page: str) -> dict[int, str]:
        """Return base64 thumbnails by input index until ``embed_mb`` are full, those to look at first before others."""
        by_index = {row.input_index: row for row in self.rows if row.top}
        if len(by_index) > SLOW_IMAGES:
            report.say(f"making thumbnails for {page}")
        counts = report.counts
        first = dict.fromkeys([*counts.least_sure[:SHOWN_FIRST], *counts.mistakes[:SHOWN_FIRST]])
        order = [*first, *(index for index in by_index if index not in first)]
        found: dict[int, str] = {}
        try:
            made = thumbnails_of(self._plan, (by_index[index] for index in order), report.max_pixels)
        except (ExtraMissing, UnavailableError) as error:
            report.say(f"no thumbnails: {error}")
            return found
        size = 0
        for index, data in zip(order, made, strict=True):
            if data is None:
                continue
            found[index] = b64encode(data).decode()
            size += len(found[index])
            if size > int(report.embed_mb * 1_000_000):
                del found[index]
                made.close()
                break
        return found

    def _link(self, path: str) -> str:
        """Return the address of an image, relative to the page, so that both may be moved together.

        A list may name any file, and a browser would run some kinds: only images are linked.
        """
        if not has_image_suffix(path):
            return ""
        if self._is_remote:
            return f"{self._plan.data_root}/{quote(os.fsencode(_file(self._plan, path)))}" if self.images_from else ""
        try:
            relative = os.path.relpath(_file(self._plan, path), self._folder)
        except ValueError:  # a NUL byte: no file
            return ""
        return "./" + quote(os.fsencode(relative))

    def _figure(self, row: StoredRow) -> Figure:
        names = [self._layout.names[index] for index, _ in row.top[:2]]
        embedded = self._pictures.get(row.input_index)
        return Figure(
            _shown(row),
            names[0],
            row.top[0][1],
            (self._truth.name(row.path) if self._truth else "") or "",
            names[1] if len(names) > 1 else "",
            f"data:image/webp;base64,{embedded}" if embedded else "",
            0 < max(row.width, row.height) <= SMALL_PX,
        )

    def _columns(self, row: StoredRow) -> list[Any]:
        names = self._layout.names
        ranks = [
            [self._places[names[index]], round(value, CONFIDENCE_DIGITS)]
            for index, value in row.top[: self._layout.ranks]
        ]
        truth = self._truth.name(row.path) if self._truth else None
        best, confidence = ranks[0] if ranks else (-1, -1)
        return [
            _shown(row),
            best,
            confidence,
            self._places[truth] if truth is not None else -1,
            ranks,
            row.error or "",
            row.detail,
            row.width,
            row.height,
            self._pictures.get(row.input_index, ""),
            self._link(row.path),
            self._layout.decision(row) or "",
        ]


def thumbnails_of(plan: Plan, rows: Iterable[StoredRow], max_pixels: int) -> Generator[bytes | None, None, None]:
    """Return a WebP file of the image of each row in turn, None where it can't be had.

    Raises:
        ExtraMissing, UnavailableError: the images are behind a URL that can't be opened.
    """
    folder = open_folder(plan.data_root) if is_url(plan.data_root) else None
    if folder is not None:
        folder.check()
    return thumbnails(((_file(plan, row.path), row.page) for row in rows), max_pixels, folder)


def _file(plan: Plan, path: str) -> str:
    """Return the path of an image on this machine, or below the data root where that is a URL."""
    if is_url(plan.data_root):
        return below_root(text_to_path(path), plan.base, plan.data_root)
    return os.path.join(plan.base, text_to_path(path))  # noqa: PTH118 - a path may hold any byte


def _shown(row: StoredRow) -> str:
    return f"{row.path} (page {row.page})" if row.page > 1 else row.path


def _choose(run: RunFile, counts: Tally) -> list[StoredRow]:
    """Return the rows of the gallery: all, or those to look at first, some errors, and an even share of the rest."""
    if run.total <= GALLERY_IMAGES:
        return list(run.rows())
    first_errors = islice((row.input_index for row in run.rows(failed=True)), LISTED_ERRORS)
    wanted = {*counts.least_sure, *counts.mistakes, *first_errors}
    step = -(-run.total // GALLERY_IMAGES)
    return [row for row in run.rows() if row.input_index in wanted or row.input_index % step == 0]


def _json(value: object) -> str:
    """Return JSON that can stand in a page's data block: nothing in it ends the block or starts another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
