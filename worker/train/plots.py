"""The plots of a training report, as the bytes of PNG files: same input, same bytes on the same machine.

Drawn with matplotlib's objects alone: pyplot would keep every figure in a global, and could look for a display.

    python -m worker.train.plots PARENT FOLDER < plotted.json

is how `worker.train.drawing` has them drawn into files, by a process that dies with the one whose number PARENT is.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from base.process import die_with
from vision.training import ClassInfo, Reliability

BLUE, ORANGE, GREEN, GREY = "#2a6fbb", "#d9772b", "#3a8f4d", "#888888"
DPI = 110
MOST_NAMED = 60  # classes with a name on the axes of a confusion matrix; above, they are numbered
MOST_COUNTED = 40  # classes with a number in each cell
NAME_LENGTH = 24
# matplotlib's own font has no Chinese, Japanese and Korean; the first of these that is installed helps out.
MORE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
    "Noto Sans CJK JP",
)


def draw(plotted: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the plots by the name of their file; ``plotted`` is that of `TrainingReport.plotted`."""
    classes = [ClassInfo(**info, names={}) for info in plotted["classes"]]
    before, after = (
        Reliability(**{name: np.array(values) for name, values in plotted[when].items()})
        for when in ("before", "after")
    )
    return {
        **curves(plotted["history"], plotted["kept"]),
        "confusion_matrix.png": confusion_png(np.array(plotted["matrix"], np.int64), classes),
        "reliability_before.png": reliability_png(before, "Before"),
        "reliability_after.png": reliability_png(after, f"After temperature {plotted['temperature']:.3g}"),
    }


def curves(history: Sequence[Mapping[str, float]], kept: int) -> dict[str, bytes]:
    """Return loss, accuracy and learning rate by epoch as PNG files by name, with a line at the epoch that is kept.

    Args:
        history: the figures of `vision.training.options.Epoch` by name, for each.
        kept: the number of an epoch.
    """
    epochs = [epoch["epoch"] for epoch in history]
    marker = "o" if len(history) <= 40 else ""  # a single epoch is no line
    percent = PercentFormatter(1.0)

    def curve(title: str, lines: Mapping[str, tuple[str, str]], shown: PercentFormatter | None = None) -> bytes:
        figure = _panel()
        axes = figure.subplots()
        for label, (name, colour) in lines.items():
            values = [epoch[name] for epoch in history]
            axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3, linewidth=1.5)
        axes.set_title(title)
        if shown is not None:
            axes.yaxis.set_major_formatter(shown)
        axes.axvline(kept, color="black", linestyle=":", linewidth=1, label=f"kept epoch: {kept}")
        axes.set_xlabel("epoch")
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
        return _png(figure)

    return {
        "loss.png": curve("Loss", {"training, as minimised": ("train_loss", ORANGE), "validation": ("val_loss", BLUE)}),
        "accuracy.png": curve(
            "Validation accuracy", {"top-5": ("val_top5", GREEN), "top-1": ("val_top1", BLUE)}, percent
        ),
        "learning_rate.png": curve("Learning rate", {"of the last step": ("lr", GREY)}),
    }


def _panel() -> Figure:
    """Return a figure that a phone shows whole; a wider page shows several beside each other."""
    figure = Figure(figsize=(4.2, 3.6), dpi=DPI)
    figure.subplots_adjust(left=0.16, right=0.97, bottom=0.13, top=0.92, hspace=0.08)
    return figure


def confusion_png(matrix: NDArray[np.int64], classes: Sequence[ClassInfo]) -> bytes:
    """Return a confusion matrix: colour is the share of the true class's images, text the number of images."""
    count = len(classes)
    side = min(10.0, max(2.8, 0.34 * count))  # inches
    # "constrained" cuts off the axis label of a picture with square cells.
    figure = Figure(figsize=(side + 3.0, side + 1.6), dpi=DPI, layout="compressed")
    axes = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)  # a class without images stays white
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, shrink=0.6, format=PercentFormatter(1.0), label="share of the true class")
    numbered = count > MOST_NAMED
    axes.set_xlabel("predicted class" + " (its number)" * numbered)
    axes.set_ylabel("true class" + " (its number)" * numbered)
    if not numbered:
        names = drawable_names(classes)
        font = FontProperties(family=_families(), size=9 if count <= 10 else 7)
        # parse_math: a label may hold '$', which would start a formula
        axes.set_xticks(range(count), names, rotation=90, fontproperties=font, parse_math=False)
        axes.set_yticks(range(count), names, fontproperties=font, parse_math=False)
        axes.set_xticks(np.arange(count) - 0.5, minor=True)
        axes.set_yticks(np.arange(count) - 0.5, minor=True)
        axes.grid(which="minor", color=GREY, alpha=0.3, linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    if count <= MOST_COUNTED:
        for row, column in np.argwhere(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(matrix[row, column])
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=10 if count <= 10 else 7)
    return _png(figure)


def reliability_png(measured: Reliability, title: str) -> bytes:
    """Return a reliability diagram, with the images of each bin below."""
    figure = _panel()
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, len(measured.images) + 1)
    filled = measured.images > 0
    accuracy = np.where(filled, measured.accuracy, 0)
    diagram.bar(edges[:-1], accuracy, 1 / len(accuracy), align="edge", color=BLUE, alpha=0.35, edgecolor=BLUE)
    diagram.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as it should be")
    diagram.plot(
        measured.confidence[filled],
        measured.accuracy[filled],
        color=BLUE,
        marker="o",
        markersize=4,
        linestyle="",
        label=f"measured, ECE {measured.expected_error:.3f}",
    )
    diagram.set_title(title)
    diagram.legend(fontsize=8, loc="upper left")
    diagram.set_ylim(0, 1.02)
    diagram.set_ylabel("accuracy")
    histogram.bar(edges[:-1], measured.images, 1 / len(accuracy), align="edge", color=GREY, edgecolor="white")
    histogram.set_xlim(0, 1)
    histogram.set_xlabel("confidence")
    histogram.set_ylabel("images")
    histogram.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    return _png(figure)


def drawable_names(classes: Sequence[ClassInfo]) -> list[str]:
    """Return a short name of each class that the fonts can draw: its label, else its folder, else its number."""
    drawable = _characters(_families())
    names = []
    for index, info in enumerate(classes):
        candidates = (" ".join(name.split()) for name in (info.label, info.folder))
        name = next((name for name in candidates if name and drawable.issuperset(name)), f"class {index}")
        names.append(name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…")
    return names


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    # Without the metadata, which would name matplotlib's version.
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
    return data.getvalue()


@cache
def _families() -> tuple[str, ...]:
    """The font of all text, and where one is installed a second for the characters that it lacks."""
    installed = {entry.name for entry in fontManager.ttflist}
    return ("DejaVu Sans", *[name for name in MORE_FONTS if name in installed][:1])


@cache
def _characters(families: tuple[str, ...]) -> frozenset[str]:
    """All characters that the fonts can draw; matplotlib warns of others and draws a box."""
    fonts = (get_font(findfont(FontProperties(family=name))) for name in families)
    return frozenset(chr(code) for font in fonts for code in font.get_charmap())


def main() -> None:
    """Be the process that draws."""
    parent, folder = sys.argv[1:]
    die_with(int(parent))
    for name, png in draw(json.load(sys.stdin)).items():
        (Path(folder) / name).write_bytes(png)


if __name__ == "__main__":
    main()
