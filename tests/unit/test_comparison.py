"""Two versions on the same images: what is counted, the sentence, the table that review opens, the page."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from base.intervals import mcnemar
from configs import Settings
from jobs.label import Row
from producer.errors import UsageError
from producer.reports.comparison import Comparison, compared, write_table
from producer.reports.comparison_page import write_comparison_page
from producer.review.images import Collection, open_collection
from producer.review.review import review
from producer.review.views import Query, Views
from producer.runfile import RunFile
from tests.unit.reported import ok, run_of
from tests.unit.test_review import draw

BROKEN = Row(error="truncated", detail="the file ends early")
HOSTILE = "glass/=<script>alert(1)<script>.png"
PATHS = ["glass/1.png", "glass/2.png", "paper/3.png", "tin/4.png", "tin/5.png", HOSTILE]
FIRST = [ok(0, 0.9), ok(1, 0.8), ok(1, 0.7), ok(2, 0.9), BROKEN, ok(2, 0.6)]
SECOND = [ok(0, 0.5), ok(0, 0.9), ok(1, 0.7), ok(1, 0.4), ok(2, 0.9), ok(0, 0.75)]


@contextmanager
def both(folder: Path, paths: Sequence[str] = PATHS, base: str = "/data/inbox") -> Iterator[tuple[RunFile, RunFile]]:
    with (
        run_of(folder / "a", paths, FIRST, base=base) as first,
        run_of(folder / "b", paths, SECOND, base=base, version=8) as second,
    ):
        yield first, second


def counted(first: RunFile, second: RunFile) -> Comparison:
    found = Comparison(first.plan.model, second.plan.model)
    assert [pair.row.path for pair in compared(first, second, found)] == [row.path for row in second.rows()]
    return found


def test_what_both_labelled_is_compared_and_where_folders_are_classes_with_the_truth(tmp_path: Path) -> None:
    with both(tmp_path) as (first, second):
        found = counted(first, second)

    assert (found.images, found.unanswered, found.agreed.right) == (5, 1, 2)
    assert found.moved() == [("paper", "glass", 1), ("tin", "glass", 1), ("tin", "paper", 1)]
    assert [(score.right, score.images) for score in found.right] == [(3, 5), (4, 5)]
    assert (found.won.total(), found.lost.total(), found.chance) == (2, 1, 1.0)
    assert (found.won["tin", "glass"], found.lost["tin", "paper"]) == (1, 1)
    assert [(item.name, item.first, item.second, item.both) for item in found.classes()] == [
        ("glass", 1, 3, 1), ("paper", 2, 2, 1), ("tin", 2, 0, 0)
    ]  # fmt: skip
    assert [pair.row.path for pair in found.disagreements] == ["glass/2.png", HOSTILE, "tin/4.png"]
    assert found.sentence() == (
        "which of waste:7 and waste:8 is right more often can't be told: 80.0 % against 60.0 % of 5, 2 won and 1 lost "
        "(McNemar p = 1)"
    )
    assert found.to_json()["classes"]["glass"] == {
        "first": 1, "second": 3, "both": 1, "images": 3, "first_right": 1, "second_right": 3
    }  # fmt: skip
    assert found.to_json()["mean_confidence"] == [0.78, 0.65]


def test_folders_that_are_no_classes_are_no_truth_and_the_other_run_may_be_a_part(tmp_path: Path) -> None:
    paths = ["x/1.png", "glass/2.png", "x/3.png"]
    with (
        run_of(tmp_path / "a", paths, [ok(0), ok(1), ok(2)]) as first,
        run_of(tmp_path / "b", paths[1:], [ok(1), ok(1)], version=8) as second,
    ):
        found = counted(first, second)

    assert (found.images, found.judged.total(), "truth" in found.to_json()) == (2, 0, False)
    assert found.sentence().startswith("waste:8 gives 1 of 2 images (50.0 %; 95 % interval ")


def test_a_better_version_is_said_to_be_better_when_chance_would_hardly_make_it(tmp_path: Path) -> None:
    paths = [f"glass/{number}.png" for number in range(20)]
    with (
        run_of(tmp_path / "a", paths, [ok(1)] * 8 + [ok(0)] * 12) as first,
        run_of(tmp_path / "b", paths, [ok(0)] * 20, version=8) as second,
    ):
        assert counted(first, second).sentence() == (
            "waste:8 is right more often than waste:7: waste:8 has 100.0 % against 60.0 % of 20, 8 won and 0 lost "
            "(McNemar p = 0.0078)"
        )
        back = counted(second, first).sentence()
        assert back.startswith("waste:8 is right more often than waste:7: waste:7 has 60.0 % against 100.0 %")


@pytest.mark.parametrize(
    ("won", "lost", "chance"), [(0, 0, 1.0), (3, 2, 1.0), (8, 0, 0.00781), (45, 16, 0.00027), (700, 590, 0.0024)]
)
def test_mcnemar_is_the_binomial_test_of_two_sides(won: int, lost: int, chance: float) -> None:
    """Held to `scipy.stats.binomtest`."""
    assert mcnemar(won, lost) == mcnemar(lost, won) == pytest.approx(chance, abs=1e-4)


def test_review_opens_the_table_by_disagreement(tmp_path: Path) -> None:
    table = tmp_path / "out" / "comparison.csv"
    for path in PATHS:
        draw(tmp_path / "out" / path, path)
    with both(tmp_path, base=str(tmp_path / "out")) as (first, second):
        found = Comparison(first.plan.model, second.plan.model)
        write_table(first, compared(first, second, found), table, (found.first, found.second))
        write_comparison_page(
            first, found, table.with_suffix(".html"), table, max_pixels=10**8, say=lambda text: pytest.fail(text)
        )
    rows = list(csv.DictReader(table.read_text().splitlines()))
    page = table.with_suffix(".html").read_text()

    assert [row["agree"] for row in rows] == ["yes", "no", "yes", "no", "", "no"]
    assert (rows[1]["label"], rows[1]["other_label"], rows[1]["other_confidence"]) == ("paper", "glass", "0.9000")
    assert (rows[1]["truth"], rows[1]["model"], rows[1]["other_model"]) == ("glass", "waste:7", "waste:8")
    assert (rows[4]["status"], rows[4]["error"], rows[4]["other_label"]) == ("error", "truncated", "tin")
    assert page.count('<li><div class="tile wrong">') == 3
    assert page.count("data:image/webp;base64,") == 3
    assert "<script" not in page
    assert "sortline review comparison.csv --order disagreement" in page

    collection = open_collection(Settings(home=tmp_path / "home"), str(table))
    assert (collection.version, collection.other) == ("waste:7", "waste:8")
    assert collection.images[1].other == ("glass", 0.9)
    ordered = Views(collection, dict).open(Query(order="disagreement", show="all")).indexes
    assert [PATHS[index] for index in ordered] == [
        "glass/2.png", HOSTILE, "tin/4.png", "glass/1.png", "paper/3.png", "tin/5.png"
    ]  # fmt: skip


def test_an_order_of_two_versions_is_refused_where_there_is_one(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "a")
    (tmp_path / "report.csv").write_text("path,label,confidence\na.png,tin,0.9\n")

    with pytest.raises(UsageError, match=r"--order disagreement: .* has the answers of one version"):
        review(Settings(home=tmp_path), str(tmp_path / "report.csv"), None, None, "ann", "disagreement", browse=False)


def test_a_confidence_of_the_other_version_that_is_none_names_its_line(tmp_path: Path) -> None:
    def opened(value: str) -> Collection:
        text = f"path,label,confidence,other_label,other_confidence\na.png,tin,0.9,glass,{value}\n"
        (tmp_path / "comparison.csv").write_text(text)
        return open_collection(Settings(home=tmp_path), str(tmp_path / "comparison.csv"))

    assert opened("0.5").images[0].other == ("glass", 0.5)
    for wrong, message in (("much", "'much', not a number"), ("7", "7, and not from 0 to 1"), ("", "'', not a number")):
        with pytest.raises(UsageError, match=f"line 2: other_confidence is {message}"):
            opened(wrong)
