"""Counts of a run: confidences, review list, mistakes, and how right the answers are where folders name the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.label import Row
from producer.errors import UsageError
from producer.reports.layout import Layout
from producer.reports.request import request_of
from producer.reports.summary import evaluated
from producer.reports.tally import Tally, Truth
from producer.reports.truth import Evaluation, FolderTruth, Score
from tests.unit.reported import ok, run_of, tally

BROKEN = Row(error="truncated", detail="the file ends early")


def counted(folder: Path, paths: Sequence[str], rows: Sequence[Row], truth: Truth = "auto", **plan: Any) -> Tally:
    with run_of(folder, paths, rows, **plan) as run:
        return tally(run, Layout.of(run.plan), truth)


def evaluation_of(found: Tally) -> Evaluation:
    assert found.evaluation is not None
    return found.evaluation


def test_folders_that_are_all_labels_are_taken_for_the_truth(tmp_path: Path) -> None:
    paths = ["glass/a.jpg", "glass/b.jpg", "paper/c.jpg", "paper/d.jpg"]

    found = evaluation_of(counted(tmp_path, paths, [ok(0), ok(1), ok(1), BROKEN]))

    assert found.pairs == {("glass", "glass"): 1, ("glass", "paper"): 1, ("paper", "paper"): 1}
    assert (found.top1.right, found.top1.images, found.unreadable) == (2, 3, 1)
    assert found.confusions() == [("glass", "paper", 1)]


def test_one_folder_of_another_name_and_nothing_is_claimed(tmp_path: Path) -> None:
    found = counted(tmp_path, ["glass/a.jpg", "paper/b.jpg", "misc/c.jpg"], [ok(0), ok(0), ok(0)])

    assert found.evaluation is None
    assert sum(found.wrong_histogram) == 0
    assert found.mistakes == []


SHIFTED = {"labels": ["1", "2", "3"], "folders": ["0", "1", "2"]}


@pytest.mark.parametrize(
    ("paths", "right"),
    [
        (["0/a", "1/b", "2/c"], True),  # only training's folders have all of these
        (["0/a", "1/b", "misc/c"], True),
        (["1/a", "2/b", "3/c"], False),  # only the labels
    ],
)
def test_names_that_are_labels_and_folders_of_other_classes_are_read_in_the_way_that_fits_all(
    paths: list[str], right: bool, tmp_path: Path
) -> None:
    found = evaluation_of(counted(tmp_path, paths, [ok(0), ok(1), ok(2)], "folders", **SHIFTED))

    assert found.top1.right == (found.images if right else 3)
    assert set(found.pairs) == {(name, name) for name in ["1", "2", "3"][: found.images]}


@pytest.mark.parametrize("paths", [["1/a", "2/b"], ["0/a", "1/b", "3/c"]])
def test_names_of_two_meanings_are_refused_when_asked_for_and_else_labels_if_they_can_be(
    paths: list[str], tmp_path: Path
) -> None:
    rows = [ok(0)] * len(paths)
    with pytest.raises(UsageError, match=r"names are ambiguous: 1(, 2)? are labels of waste:7, .*: 1, 2, 3$"):
        counted(tmp_path, paths, rows, "folders", **SHIFTED)

    found = counted(tmp_path / "auto", paths, rows, "auto", **SHIFTED).evaluation
    assert found is None if "0/a" in paths else found is not None and set(found.pairs) == {("1", "1"), ("2", "1")}


def test_an_evaluation_of_which_no_folder_is_a_class_is_refused_with_both_lists(tmp_path: Path) -> None:
    request = request_of(tmp_path / "r.html", None, truth="folders")
    folders = ["cats/a.jpg", "dogs/b.jpg", *(f"{n:02}/c.jpg" for n in range(30))]
    with run_of(tmp_path / "1", folders, []) as run, pytest.raises(UsageError) as raised:
        request.check_rows(run)
    with run_of(tmp_path / "2", ["cats/a.jpg", "tin/b.jpg"], []) as run:
        request.check_rows(run)
    with run_of(tmp_path / "3", ["cats/a.jpg"], []) as run:
        request_of(tmp_path / "r.html", None).check_rows(run)  # only an evaluation needs truths

    assert "the folders are 00, 01, 02" in str(raised.value)
    assert "19 and 12 more; the labels of waste:7 are glass, paper, tin" in str(raised.value)


def test_when_asked_for_images_of_other_folders_are_listed_and_not_counted(tmp_path: Path) -> None:
    paths = ["glass/a.jpg", "misc/b.jpg", "misc/c.jpg", "d.jpg"]

    found = evaluation_of(counted(tmp_path, paths, [ok(0), ok(0), BROKEN, ok(1)], "folders"))

    assert (found.images, found.top1.right) == (1, 1)
    assert found.other_folders == {"misc": 2, "inbox": 1}
    assert found.unreadable == 0


def test_a_folder_may_be_named_after_the_training_folder_too(tmp_path: Path) -> None:
    found = evaluation_of(counted(tmp_path, ["00_paper/a.jpg", "x/01_tin/b.jpg"], [ok(1), ok(0)]))

    assert found.pairs == {("paper", "paper"): 1, ("tin", "glass"): 1}


def test_a_label_wins_over_a_training_folder_of_the_same_name(tmp_path: Path) -> None:
    found = evaluation_of(counted(tmp_path, ["glass/a.jpg"], [ok(0)], folders=["paper", "glass", "tin"]))

    assert found.pairs == {("glass", "glass"): 1}


def test_the_folder_that_was_labelled_counts_as_parent_of_what_lies_in_it(tmp_path: Path) -> None:
    found = evaluation_of(counted(tmp_path, ["a.jpg", "b.jpg"], [ok(2), ok(0)], base="/data/tin"))

    assert found.pairs == {("tin", "tin"): 1, ("tin", "glass"): 1}


def test_a_class_map_renames_the_truth_as_well(tmp_path: Path) -> None:
    with run_of(tmp_path, ["glass/a.jpg", "tin/b.jpg", "paper/c.jpg"], [ok(2), ok(0), ok(0)]) as run:
        layout = Layout.of(run.plan, class_map={"glass": ("hard", "x"), "tin": ("hard", "x")})
        found = evaluation_of(tally(run, layout))

    assert found.pairs == {("hard", "hard"): 2, ("paper", "hard"): 1}


def test_names_with_percent_signs_are_compared_as_they_are(tmp_path: Path) -> None:
    found = evaluation_of(counted(tmp_path, ["100% wool/a.jpg"], [ok(0)], labels=["100% wool", "b", "c"]))

    assert found.pairs == {("100% wool", "100% wool"): 1}


def test_groups_are_right_more_often_than_labels(tmp_path: Path) -> None:
    found = evaluation_of(counted(tmp_path, ["glass/a.jpg", "paper/b.jpg", "tin/c.jpg"], [ok(1), ok(2), ok(2)]))

    assert found.groups is not None
    assert (found.groups.right, found.groups.images) == (1, 2)  # tin has no group
    assert found.group_pairs == {("recyclable", "recyclable"): 1, ("recyclable", ""): 1}


def test_the_first_five_count_as_five(tmp_path: Path) -> None:
    labels = [f"c{number}" for number in range(8)]
    plan: dict[str, Any] = {"labels": labels, "groups": [None] * 8, "folders": labels, "top_k": 8}
    rows = [ok(0, classes=8, top_k=8)] * 2  # then c1, c2, c3, c4, c5 ...

    found = evaluation_of(counted(tmp_path, ["c4/a.jpg", "c5/b.jpg"], rows, **plan))

    assert (found.top1.right, found.top5.right) == (0, 1)


def test_per_class_scores_add_up(tmp_path: Path) -> None:
    paths = ["glass/1", "glass/2", "glass/3", "paper/4"]

    found = evaluation_of(counted(tmp_path, paths, [ok(0), ok(0), ok(1), ok(1)]))

    glass, paper = found.classes()
    assert (glass.name, glass.images, glass.answers, glass.right) == ("glass", 3, 2, 2)
    assert (glass.recall.share, glass.precision.share) == (2 / 3, 1.0)
    assert (paper.recall.share, paper.precision.share, paper.f1) == (1.0, 0.5, 2 / 3)
    assert evaluated(found)["classes"]["paper"]["precision"] == 0.5


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    # Wilson 1927, as statsmodels' proportion_confint(method="wilson") gives it
    [(206, 256, 0.751824, 0.848633), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (1, 1, 0.206549, 1.0)],
)
def test_the_interval_is_wilsons(right: int, images: int, low: float, high: float) -> None:
    assert list(Score(right, images).interval) == pytest.approx([low, high], abs=2e-4)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_the_interval_holds_its_share_and_stays_within_0_and_1(right: int, wrong: int) -> None:
    score = Score(right, right + wrong)
    low, high = score.interval

    assert 0 <= low <= high <= 1
    if score.images:
        assert low - 1e-9 <= score.share <= high + 1e-9


def test_the_least_sure_and_the_worst_mistakes_come_first(tmp_path: Path) -> None:
    confidences = [0.9, 0.5, 0.99, 0.4, 0.95]
    paths = ["glass/0", "glass/1", "paper/2", "paper/3", "paper/4"]

    found = counted(tmp_path, paths, [ok(0, confidence) for confidence in confidences])

    assert found.least_sure[:3] == [3, 1, 0]
    assert found.mistakes == [2, 4, 3]


def test_the_histogram_counts_every_labelled_image_once(tmp_path: Path) -> None:
    rows = [ok(0, 1.0), ok(0, 0.95), ok(1, 0.949), ok(0, 0.5), BROKEN]

    found = counted(tmp_path, [f"glass/{number}" for number in range(6)], rows)

    assert sum(found.histogram) == found.ok == 4
    assert found.histogram[-1] == 2
    assert found.wrong_histogram[-2] == 1
    assert found.missing == 1


def test_the_truth_of_a_path_is_its_last_folder_only(tmp_path: Path) -> None:
    with run_of(tmp_path, ["a"], []) as run:
        truth = FolderTruth(run, Layout.of(run.plan))

    assert truth.name("glass/paper/a.jpg") == "paper"
    assert truth.name("glass/misc/a.jpg") is None
    assert truth.folder("x/caf%E9/a.jpg") == "caf%E9"
