"""Whether a run looks like what its model was trained on: indexes, their limits, the sentence, the summary."""

from __future__ import annotations

import csv
import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.drift import (
    CONFIDENCE_BINS,
    Expected,
    confidence_bin,
    confidence_shift,
    label_shift,
    mean_of,
    outlier_place,
    outlier_shift,
)
from producer.errors import UsageError
from producer.reports.drift import Drift
from producer.reports.drift_page import measured_by
from producer.reports.layout import Layout
from producer.reports.page import write_page
from producer.reports.report import Report
from producer.reports.summary import summary, write_summary
from tests.conftest import sortline
from tests.unit.reported import ok, run_of, tally
from worker.train.calibration import Calibration

SEEDS = range(40)


def drawn(random: np.random.Generator, images: int, high: float = 5.0, low: float = 1.0) -> list[int]:
    """Confidences of so many images, counted by hundredths."""
    places = [confidence_bin(value) for value in random.beta(high, low, images).tolist()]
    return [int(count) for count in np.bincount(places, minlength=CONFIDENCE_BINS)]


def mixed(random: np.random.Generator, images: int, classes: int = 26) -> list[int]:
    return [int(count) for count in np.bincount(random.integers(0, classes, images), minlength=classes)]


@pytest.mark.parametrize(("before", "now"), [(300, 50), (2000, 100), (2000, 2000)])
def test_images_of_the_same_source_are_no_drift_however_few(before: int, now: int) -> None:
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        assert not confidence_shift(drawn(random, before), drawn(random, now)).is_drift
        assert not label_shift(mixed(random, before), mixed(random, now)).is_drift


@pytest.mark.parametrize(("before", "now"), [(300, 50), (2000, 100), (2000, 2000)])
def test_a_network_that_is_less_sure_is_drift(before: int, now: int) -> None:
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        assert confidence_shift(drawn(random, before), drawn(random, now, 2.0, 1.5)).is_drift


def test_a_network_that_was_always_sure_is_held_to_it() -> None:
    sure = [0] * 99 + [200]

    assert not confidence_shift(sure, [0] * 99 + [50]).is_drift
    assert confidence_shift(sure, [0] * 60 + [50] + [0] * 39).is_drift


def test_the_index_is_that_of_the_definition_where_bins_are_few_and_full() -> None:
    before, now = [5000, 5000], [8000, 2000]

    expected = (0.8 - 0.5) * np.log(0.8 / 0.5) + (0.2 - 0.5) * np.log(0.2 / 0.5)
    assert label_shift(before, now).index == pytest.approx(expected, abs=1e-3)


def test_a_class_that_was_rare_and_now_is_not_shows_in_the_mix_of_labels() -> None:
    assert label_shift([500, 500, 0], [400, 400, 800]).is_drift
    assert not label_shift([500, 500, 1], [250, 252, 1]).is_drift


def test_nothing_to_compare_with_is_no_drift() -> None:
    assert not confidence_shift([0] * 100, [1] * 100).is_drift
    assert not label_shift([3, 4], [0, 0]).is_drift
    assert mean_of([0] * 100) == 0.0
    assert mean_of([0] * 99 + [3]) == pytest.approx(0.995)


QUANTILES = [
    float(value) for value in np.quantile(np.random.default_rng(0).gamma(4, 0.1, 2000), np.linspace(0, 1, 101))
]


def placed(random: np.random.Generator, images: int, scale: float) -> Counter[int]:
    return Counter(outlier_place(QUANTILES, score) for score in random.gamma(4, scale, images).tolist())


@pytest.mark.parametrize("images", [30, 100, 2000])
def test_images_further_away_are_drift_and_others_of_the_source_or_nearer_ones_are_not(images: int) -> None:
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        assert not outlier_shift(QUANTILES, 2000, placed(random, images, 0.1)).is_drift
        assert not outlier_shift(QUANTILES, 2000, placed(random, images, 0.05)).is_drift
        assert outlier_shift(QUANTILES, 2000, placed(random, images, 0.2)).is_drift


def test_the_two_sample_distance_is_that_of_the_definition() -> None:
    """Half of the images beyond all that were held out; scores that are equal are no distance."""
    assert outlier_shift(QUANTILES, 2000, {101: 50, 0: 50}).index == pytest.approx(0.5, abs=0.01)
    assert outlier_shift([0.0] * 100 + [1.0], 2000, {0: 100}).index == 0.0
    assert outlier_shift(QUANTILES, 2000, {}).index == 0.0


EXPECTED = Expected([0] * 80 + [10] * 20, [100, 60, 40])


def sentence(
    folder: Path, best: list[int], confidence: list[float], outliers: list[float] | None = None
) -> tuple[str, bool | None]:
    rows = [ok(*answer) for answer in zip(best, confidence, strict=True)]
    if outliers is not None:
        rows = [row.model_copy(update={"outlier": score}) for row, score in zip(rows, outliers, strict=True)]
    expected = replace(EXPECTED, outliers=QUANTILES) if outliers else EXPECTED
    paths = [f"{number}.jpg" for number in range(len(rows))]
    with run_of(folder, paths, rows, expected=expected, outliers=outliers is not None) as run:
        found = Drift.of(run.plan, tally(run, Layout.of(run.plan)))
    assert found is not None
    return found.sentence(), found.looks_alike


SURE = [0.8 + number % 20 / 100 + 0.001 for number in range(100)]
BEST = [0] * 50 + [1] * 30 + [2] * 20


def test_one_sentence_says_whether_images_look_like_those_of_training(tmp_path: Path) -> None:
    assert sentence(tmp_path / "a", BEST, SURE) == (
        "these images look like those waste:7 was trained on (stability index of confidences 0.00, of labels 0.00)",
        True,
    )
    unsure = sentence(tmp_path / "b", BEST, [value - 0.4 for value in SURE])
    assert unsure[0].startswith(
        "these images do not look like those waste:7 was trained on: its mean confidence is 50 %, and was 90 % on "
    )
    assert unsure[1] is False
    assert sentence(tmp_path / "c", BEST, [0.999] * 100)[0].startswith("waste:7 is surer of these images, 100 % ")
    assert sentence(tmp_path / "d", [2] * 100, SURE) == (
        "these images have another mix of labels than those waste:7 was trained on: tin is 100 %, and was 20 % "
        "(stability index 4.75, limit 0.25); they may show other parts of the classes, or something else",
        False,
    )
    assert sentence(tmp_path / "e", BEST[:20], SURE[:20]) == (
        "20 images are too few to say whether they look like those waste:7 was trained on",
        None,
    )


def test_distances_tell_another_mix_from_other_images(tmp_path: Path) -> None:
    near = [float(value) for value in np.random.default_rng(1).gamma(4, 0.1, 100)]
    far = [score + 0.4 for score in near]

    mix, is_alike = sentence(tmp_path / "a", [2] * 100, SURE, near)
    assert mix.startswith("these images look like those waste:7 was trained on, in another mix of labels: tin is 100 %")
    assert is_alike is True
    other, is_alike = sentence(tmp_path / "b", BEST, SURE, far)
    assert other.startswith(
        "these images do not look like those waste:7 was trained on: they are further from them than images held out "
        "(two-sample distance 0."
    )
    assert is_alike is False
    both, _ = sentence(tmp_path / "c", BEST, [value - 0.4 for value in SURE], far)
    assert both.endswith(
        "its mean confidence is 50 %, and was 90 % on images held out (stability index 8.57, limit 0.45)"
    )


def test_summary_and_page_say_it_and_a_version_without_such_answers_says_nothing(tmp_path: Path) -> None:
    paths, rows = [f"{number}.jpg" for number in range(100)], [ok(0, value - 0.4) for value in SURE]
    with run_of(tmp_path / "a", paths, rows, expected=EXPECTED) as run:
        counts = tally(run, Layout.of(run.plan))
        found = summary(run, counts)["drift"]
        write_page(
            Report(run=run, layout=Layout.of(run.plan), counts=counts, max_pixels=10**8), tmp_path / "report.html"
        )
    with run_of(tmp_path / "b", paths, rows) as run:
        assert "drift" not in summary(run, tally(run, Layout.of(run.plan)))

    assert (found["looks_alike"], found["held_out_images"], found["confidence"]["drift"]) == (False, 200, True)
    assert (found["confidence"]["mean"], found["confidence"]["expected"]) == (0.5, 0.9)
    assert "its mean confidence is 50 %" in (tmp_path / "report.html").read_text()


def test_a_calibration_counts_its_answers_for_the_manifest() -> None:
    logits = np.eye(3)[[0, 0, 1, 2, 1]] * 9

    found = Calibration.of(logits, np.array([0, 0, 1, 2, 2])).held_out

    assert (found.labels, sum(found.confidences)) == ([2, 2, 1], 5)


# ---- over time


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: one like the images of training, one not, and one of a version that knows no such answers."""
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    for name, shift, expected in (("a", 0.0, EXPECTED), ("b", 0.4, EXPECTED), ("c", 0.0, None)):
        rows = [ok(best, value - shift) for best, value in zip(BEST, SURE, strict=True)]
        paths = [f"{number}.jpg" for number in range(len(rows))]
        with run_of(home / name, paths, rows, expected=expected, name=f"run-{name}") as run:
            layout = Layout.of(run.plan)
            write_summary(run, home / f"{name}.summary.json", tally(run, layout), layout)
        run.path.rename(home / "runs" / f"{name}.run")
    return home


def drift_of(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return sortline("drift", *arguments, "-o", "drift.html", "--home", str(home), home=home, code=None)


def test_runs_over_time_become_a_page_and_a_table_by_run_file_and_by_summary_alike(runs: Path) -> None:
    done = drift_of(runs)
    rows = list(csv.DictReader((runs / "drift.csv").read_text().splitlines()))
    page = (runs / "drift.html").read_text()

    assert done.returncode == 0, done.stderr
    assert "of 2 runs; 1 left out, without such answers" in done.stdout
    assert [(row["run"], row["looks_alike"]) for row in rows] == [("run-a", "yes"), ("run-b", "no")]
    assert float(rows[1]["confidence_psi"]) > float(rows[1]["confidence_limit"]) == 0.4464  # of 100 against 200
    assert page.count("<circle") == 4
    assert "do not look like those waste:7 was trained on" in page

    summary_ = json.loads((runs / "a.summary.json").read_text())
    summary_["drift"]["distance"] = {"two_sample": 0.31, "limit": 0.2, "drift": True}
    (runs / "far.summary.json").write_text(json.dumps(summary_))
    drift_of(runs, "far.summary.json")
    (row,) = csv.DictReader((runs / "drift.csv").read_text().splitlines())
    assert (row["distance_two_sample"], row["distance_limit"]) == ("0.3100", "0.2000")
    assert "two-sample distance 0.31" in (runs / "drift.html").read_text()

    again = drift_of(runs, "a.summary.json", "b.summary.json", "run-b")
    assert list(csv.DictReader((runs / "drift.csv").read_text().splitlines())) == rows, again.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no summary of a run"),
        ('{"run": "x", "drift": {}, "ended": "2026-03-01T12:00:00+00:00"}', "can't be read as the summary"),
        ("{", "can't be read as the summary"),
        ("[" * 100_000, "can't be read as the summary"),
    ],
    ids=range(4),
)
def test_what_is_no_summary_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "summary.json").write_text(text)

    with pytest.raises(UsageError, match=rf"summary\.json.* {message}"):
        measured_by(tmp_path / "summary.json")


def test_figures_that_are_none_and_markup_reach_no_page(runs: Path) -> None:
    summary_ = json.loads((runs / "b.summary.json").read_text())
    summary_["source"] = "<script>alert(1)</script>"
    (runs / "b.summary.json").write_text(json.dumps(summary_))
    drift_of(runs, "b.summary.json")
    assert "<script" not in (runs / "drift.html").read_text()
    summary_["drift"]["confidence"]["psi"] = float("nan")
    (runs / "b.summary.json").write_text(json.dumps(summary_))

    assert "has no figures" in drift_of(runs, "b.summary.json").stderr
