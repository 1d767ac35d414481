"""report.html: one page that holds all it needs. Its only script is ours, known to the browser by its hash.

Text of files, labels and workers passes jinja's escaping, or stands as JSON in a block that browsers don't run; the
page's policy is a second lock. A gallery of 20,000 images is what a browser bears; of larger runs it holds a part.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import localtime, strftime
from typing import Any
from urllib.parse import quote

from base.durations import duration
from base.errors import UnavailableError
from base.image_files import has_image_suffix
from base.paths import below_root, path_to_text, text_to_path
from base.urls import is_url
from pages import accuracy_card, card, template
from producer.reports.files import replacing
from producer.reports.layout import CONFIDENCE_DIGITS, Layout
from producer.reports.page_parts import evaluated, histogram, ranked
from producer.reports.summary import Timing
from producer.reports.tally import Tally
from producer.reports.thumbnails import SMALL_PX, thumbnails
from producer.reports.truth import FolderTruth
from producer.runfile import RunFile, StoredRow
from storage import ExtraMissing, Folder, open_folder

GALLERY_IMAGES = 20_000
LISTED_ERRORS = 200
SHOWN_FIRST = 24  # of the least sure, and of the mistakes
SLOW_IMAGES = 2000  # from here on the making of thumbnails is worth a word


def write_page(
    run: RunFile,
    path: Path,
    layout: Layout,
    counts: Tally,
    *,
    embed_mb: float,
    max_pixels: int,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Write the page beside ``path`` and rename it there.

    Args:
        embed_mb: size of the thumbnails inside; further images are linked to, and load when they are looked at.
        max_pixels: images that claim more get no thumbnail.
        say: is told when it takes long.
    """
    from markupsafe import Markup

    chosen = _choose(run, counts)
    gallery = _Gallery(run, layout, path.parent, counts.evaluation is not None)
    if sum(1 for row in chosen if row.top) > SLOW_IMAGES:
        say(f"making thumbnails for {path.name}")
    pictures = _embedded(gallery, chosen, counts, int(embed_mb * 1_000_000), max_pixels, say)
    by_index = {row.input_index: row for row in chosen}
    figures = {
        name: [gallery.figure(by_index[index], pictures) for index in indexes[:SHOWN_FIRST]]
        for name, indexes in (("review", counts.least_sure), ("mistakes", counts.mistakes))
    }
    page = template(
        "label.html"
    ).stream(
        title=_title(run),
        subtitle=_subtitle(run),
        images_from=_origin(run.plan.data_root),
        cards=_cards(run, counts),
        counts=counts,
        labels=ranked(counts.labels),
        groups=ranked(counts.groups),
        reasons=ranked(counts.reasons),
        histogram=histogram(counts),
        evaluation=evaluated(counts.evaluation) if counts.evaluation else None,
        review=figures["review"],
        mistakes=figures["mistakes"],
        errors=[(row.path, row.error, row.detail) for row in chosen if row.error][:LISTED_ERRORS],
        sampled=_sampled(counts, len(chosen)),
        data=(Markup(piece) for piece in gallery.json(chosen, pictures)),  # noqa: S704 - escaped by _json
        footer=f"Made by Sortline {version('sortline')} from run {run.plan.run}; model {run.plan.model}, "
        f"{run.plan.model.digest[:12]}.",
    )
    page.enable_buffering(64)
    with replacing(path, run.path) as beside, beside.open("wb") as file:
        page.dump(file, encoding="utf-8")


def _choose(run: RunFile, counts: Tally) -> list[StoredRow]:
    """Return the rows of the gallery: all, or those to look at first, some errors, and every so-manieth of the rest."""
    if run.total <= GALLERY_IMAGES:
        return list(run.rows())
    wanted = {*counts.least_sure, *counts.mistakes}
    step = -(-run.total // GALLERY_IMAGES)
    errors = 0
    chosen = []
    for row in run.rows():
        errors += row.error is not None
        first_errors = row.error is not None and errors <= LISTED_ERRORS
        if row.input_index in wanted or first_errors or row.input_index % step == 0:
            chosen.append(row)
    return chosen


def _sampled(counts: Tally, chosen: int) -> str:
    if chosen == counts.images:
        return ""
    step = -(-counts.images // GALLERY_IMAGES)
    return (
        f"The gallery holds {chosen:,} of {counts.images:,} images: the least sure, the worst mistakes, the first "
        f"errors and one in {step} of the others. All counts on this page are of all images."
    )


def _embedded(
    gallery: _Gallery,
    chosen: Sequence[StoredRow],
    counts: Tally,
    limit: int,
    max_pixels: int,
    say: Callable[[str], None],
) -> dict[int, str]:
    """Return base64 thumbnails by input index until ``limit`` bytes are full, those to look at first before others."""
    first = dict.fromkeys([*counts.least_sure[:SHOWN_FIRST], *counts.mistakes[:SHOWN_FIRST]])
    by_index = {row.input_index: row for row in chosen if row.top}
    order = [*first, *(index for index in by_index if index not in first)]
    found: dict[int, str] = {}
    try:
        folder = gallery.folder()
    except UnavailableError as error:
        say(f"no thumbnails: {error}")
        return found
    made = thumbnails((gallery.file(by_index[index].path) for index in order), max_pixels, folder)
    size = 0
    for index, data in zip(order, made, strict=True):
        if data is None:
            continue
        found[index] = b64encode(data).decode()
        size += len(found[index])
        if size > limit:
            del found[index]
            made.close()
            break
    return found


@dataclass(frozen=True, slots=True)
class _Figure:
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


class _Gallery:
    """Turns rows into what the page shows of an image."""

    def __init__(self, run: RunFile, layout: Layout, folder: Path, with_truth: bool) -> None:
        self._plan = run.plan
        self._is_remote = is_url(run.plan.data_root)
        self._layout = layout
        self._folder = os.path.realpath(folder)
        self._truth = FolderTruth(run.plan, layout) if with_truth else None
        self._names = list(dict.fromkeys(layout.names))
        self._places = {name: place for place, name in enumerate(self._names)}

    def file(self, path: str) -> str:
        """Return the path of an image on this machine, or below the data root where that is a URL."""
        if self._is_remote:
            return below_root(text_to_path(path), self._plan.base, self._plan.data_root)
        return os.path.join(self._plan.base, text_to_path(path))  # noqa: PTH118 - a path may hold any byte

    def folder(self) -> Folder | None:
        """Return what reads the images where they are remote; UnavailableError when it can't from here."""
        if not self._is_remote:
            return None
        try:
            folder = open_folder(self._plan.data_root)
        except ExtraMissing as error:
            raise UnavailableError(str(error)) from error
        folder.check()
        return folder

    def link(self, path: str) -> str:
        """Return the address of an image, relative to the page, so that both may be moved together.

        A list may name any file, and a browser would run some kinds: only images are linked.
        """
        if not has_image_suffix(path):
            return ""
        if self._is_remote:
            root = self._plan.data_root
            return f"{root}/{quote(os.fsencode(self.file(path)))}" if _origin(root) else ""
        try:
            relative = os.path.relpath(self.file(path), self._folder)
        except ValueError:  # a NUL byte: no file
            return ""
        return "./" + quote(os.fsencode(relative))

    def figure(self, row: StoredRow, pictures: dict[int, str]) -> _Figure:
        names = [self._layout.names[index] for index, _ in row.top[:2]]
        embedded = pictures.get(row.input_index)
        return _Figure(
            row.path,
            names[0],
            row.top[0][1],
            (self._truth.name(row.path) if self._truth else "") or "",
            names[1] if len(names) > 1 else "",
            f"data:image/webp;base64,{embedded}" if embedded else "",
            0 < max(row.width, row.height) <= SMALL_PX,
        )

    def json(self, rows: Iterable[StoredRow], pictures: dict[int, str]) -> Iterator[str]:
        yield f'{{"names":{_json(self._names)},"images":[\n'
        for number, row in enumerate(rows):
            yield (",\n" if number else "") + _json(self._columns(row, pictures))
        yield "\n]}"

    def _columns(self, row: StoredRow, pictures: dict[int, str]) -> list[Any]:
        names = self._layout.names
        ranks = [
            [self._places[names[index]], round(value, CONFIDENCE_DIGITS)]
            for index, value in row.top[: self._layout.ranks]
        ]
        truth = self._truth.name(row.path) if self._truth else None
        return [
            row.path,
            ranks[0][0] if ranks else -1,
            ranks[0][1] if ranks else -1,
            self._places[truth] if truth is not None else -1,
            ranks,
            row.error or "",
            row.detail,
            row.width,
            row.height,
            pictures.get(row.input_index, ""),
            self.link(row.path),
        ]


def _cards(run: RunFile, counts: Tally) -> list[dict[str, str]]:
    timing = Timing.of(run)
    missing = f", {counts.missing:,} without an answer yet" if counts.missing else ""
    cards = [card("Images", f"{counts.images:,}", f"{counts.ok:,} labelled{missing}")]
    evaluation = counts.evaluation
    if evaluation is not None and evaluation.images:
        shown = [("Accuracy", evaluation.top1)]
        shown += [("In the first 5", evaluation.top5)] if len(set(counts.labels)) > 5 else []
        shown += [("Right group", evaluation.groups)] if evaluation.groups else []
        cards += [accuracy_card(name, score.right, score.images, score.interval) for name, score in shown]
    failed_note = ", ".join(f"{name} {count:,}" for name, count in ranked(counts.reasons)[:3])
    cards.append(card("Not readable", f"{counts.failed:,}", failed_note or "every image was read"))
    if counts.ok:
        unsure = sum(counts.histogram[: len(counts.histogram) // 2])
        mean = f"{100 * counts.confidence_sum / counts.ok:.1f} %"
        cards.append(card("Confidence", mean, f"on average; {unsure:,} images below 50 %"))
    if timing.rate:
        note = f"{timing.images:,} images in {duration(max(1, round(timing.seconds)))}"
        cards.append(card("Rate", f"{timing.rate:,.0f} img/s", note))
    return cards


def _origin(root: str) -> str:
    """Return the web server that images are linked to, if ``root`` is on one."""
    return "/".join(root.split("/", 3)[:3]) if root.startswith(("http://", "https://")) else ""


def _title(run: RunFile) -> str:
    """Return the last two folders of what was labelled: whoever gets the page need not learn all of the path."""
    return path_to_text("/".join(Path(run.plan.base).parts[-2:]).strip("/")) if run.plan.walked else run.plan.source


def _subtitle(run: RunFile) -> str:
    timing = Timing.of(run)
    parts = [f"labelled by {run.plan.model}"]
    if timing.ended:
        parts.append(strftime("%Y-%m-%d %H:%M", localtime(timing.ended)))
    engines = [name.replace("/", " ") for name in timing.engines if name != "unknown"]
    parts += [", ".join(engines)] if engines else []
    parts += [f"{len(timing.workers)} workers"] if len(timing.workers) > 1 else []
    return " · ".join(parts)


def _json(value: object) -> str:
    """Return JSON that can stand in a page's data block: nothing in it ends the block or starts another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
