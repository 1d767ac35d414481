"""The page of a training report in a browser, as the template shows it on any screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.browser.conftest import Open
from tests.browser.test_report_page import CONTRAST
from tests.unit.test_training_report import EVIL, classes, small_report
from vision.images import ImageLimits
from worker.train.plots import draw
from worker.train.report import report_files


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels, names and lines that are long, and some that are HTML."""
    folder = tmp_path_factory.mktemp("training")
    infos = classes(EVIL, *(f"a rather long name of a class number {number}" for number in range(11)))
    targets = [number % 12 for number in range(40)]
    names = [f"{'folder/' * 8}{number}.png" for number in range(40)]
    report = small_report(folder, infos, targets, [(number * 5) % 12 for number in range(40)], names=names)
    report = replace(
        report,
        title=f"{'a-long-model-name-' * 5}, train-20260101-abcdef",
        leaks=[(report.images[0].path, report.images[1].path)] * 3,
        skipped=["x" * 300, EVIL],
        recipe={"long": [0.5] * 100},
    )
    files = report_files(report, draw(report.plotted()), ImageLimits())
    path = folder / "report.html"
    path.write_bytes(files["report.html"])
    return path


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light")])
def test_text_can_be_read_and_nothing_is_wider_than_the_window(
    page_file: Path, opened: Open, width: int, scheme: str
) -> None:
    with opened(page_file, width, scheme) as watched:
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        plots = "[...document.querySelectorAll('.plot')].map(plot => plot.scrollWidth - plot.clientWidth)"
        assert page.evaluate(plots) == [0, 0, 0]
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.evaluate("document.scripts.length") == 0
