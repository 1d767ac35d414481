"""A search: what --sweep asks for, which trials come of it, how they are ranked, and their table."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from configs.errors import SettingsError
from configs.recipe import Recipe
from jobs.state import JobState
from jobs.train import JobEvent
from producer.__main__ import run
from producer.errors import USAGE, UsageError
from producer.training.sweep import Axis, Range, Trial, parse_axes, plan_trials, ranked, refuse_other_splits
from producer.training.sweep_page import write_sweep_page
from producer.training.sweep_view import SweepView, table_of, write_sweep_csv

RECIPE = Recipe()


def plan(*texts: str, recipe: Recipe = RECIPE, count: int | None = None) -> list[Trial]:
    return plan_trials(parse_axes(texts, recipe), recipe, count)


def trial(number: int, top1: float = 0.0, loss: float = 0.0, **values: object) -> Trial:
    """Return a trial that has ended with these scores; failed without any."""
    scores = {"val_top1": top1, "val_loss": loss} if top1 else {}
    return Trial(number, dict(values), RECIPE, f"job-{number}", "done" if scores else "failed", "said", scores)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("epochs=5", [5]),
        ("epochs=5, 10 ,20", [5, 10, 20]),
        ("lr_max=1e-3,0.01", [0.001, 0.01]),
        ("intermediate_layers=[],[15],[14, 16]", [[], [15], [14, 16]]),
        ("optimizer=adam,\"sgd\",'momentum'", ["adam", "sgd", "momentum"]),
        ("backbone='a,b',c", ["a,b", "c"]),
        ("head_bias=true,false", [True, False]),
        ("augmentation={flip=true, shift=0.1},{}", [{"flip": True, "shift": 0.1}, {}]),
        ("lr_max=1e-4..1e-2", Range(1e-4, 1e-2)),
        ("epochs=5..50", Range(5, 50)),
        ("dropout=0..0.5", Range(0.0, 0.5)),
    ],
)
def test_values_are_toml_and_commas_in_brackets_and_quotes_part_nothing(text: str, choices: object) -> None:
    (axis,) = parse_axes([text], RECIPE)

    assert axis == Axis(text.partition("=")[0], choices)  # type: ignore[arg-type]


def test_a_range_of_whole_numbers_for_a_key_with_a_fraction_means_all_between() -> None:
    (axis,) = parse_axes(["dropout=0..1"], RECIPE)

    assert isinstance(axis.choices, Range)
    assert isinstance(axis.choices.low, float)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs"], r"--sweep takes KEY=V1,V2,... or KEY=LOW..HIGH, not 'epochs'"),
        (["=5"], r"--sweep takes KEY=V1,V2,... or KEY=LOW..HIGH, not '=5'"),
        (["epochs="], r"--sweep epochs=: a value is empty"),
        (["epochs=1,,2"], r"--sweep epochs=1,,2: a value is empty"),
        (["epochs=1", "epochs=2"], r"--sweep epochs is given twice"),
        (["epochs=1..2,3"], r"a range stands alone; list values or give LOW..HIGH, not both"),
        (["epochs=5..1"], r"a range is two numbers, the lower first, as in epochs=0.001..0.1"),
        (["lr_max=a..b"], r"a range is two numbers"),
        (["lr_max=0.1..inf"], r"a range is two numbers"),
        (["epochs=1.5..3"], r"epochs is a whole number, so both ends of its range are, too"),
    ],
)
def test_a_search_in_another_form_is_refused_in_words(texts: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_axes(texts, RECIPE)

    assert message in str(raised.value)


def test_the_grid_holds_every_combination_once_and_leaves_the_rest_of_the_recipe() -> None:
    recipe = Recipe(batch_size=7)

    trials = plan("epochs=5,10,5", "augmentation.repeat=0,4", recipe=recipe)

    assert [(t.number, t.recipe.epochs, t.recipe.augmentation.repeat) for t in trials] == [
        (1, 5, 0),
        (2, 5, 4),
        (3, 10, 0),
        (4, 10, 4),
    ]
    assert {t.recipe.batch_size for t in trials} == {7}
    assert trials[1].name == "epochs=5, augmentation.repeat=4"


def test_lists_are_swept_as_one_value() -> None:
    recipe = Recipe(backbone="mobilenetv2-imagenet")

    assert [t.recipe.intermediate_layers for t in plan("intermediate_layers=[],[15],[14,16]", recipe=recipe)] == [
        (),
        (15,),
        (14, 16),
    ]


@pytest.mark.parametrize(
    ("texts", "count", "message"),
    [
        (["seed=" + ",".join(map(str, range(100))), "epochs=1,2,3"], None, "the grid has 300 trials, the limit is 200"),
        (["lr_max=0.1..0.2"], None, "--sweep lr_max is a range; say how many draws of it to try: --trials N"),
        (["lr_max=0.1..0.2"], 201, "--trials 201: the limit is 200"),
        (["epochs=1,2"], 3, "--trials 3: only 2 different trials were found"),
    ],
)
def test_too_many_too_few_and_endless_searches_are_refused(texts: list[str], count: int | None, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan(*texts, count=count)

    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs=5,0"], "trial 2 (epochs=0): setting training.epochs"),
        (["epocs=5"], "trial 1 (epocs=5): unknown setting training.epocs; did you mean training.epochs?"),
        (["lr_max=0.1", "lr_end=0.01,0.2"], "trial 2 (lr_max=0.1, lr_end=0.2): setting training: lr_init and lr_end"),
        (["epochs.flip=true"], "--sweep epochs.flip: training.epochs holds no further keys"),
    ],
)
def test_a_trial_whose_recipe_can_not_be_is_named_with_its_values(texts: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        plan(*texts)

    assert message in str(raised.value)


def test_draws_differ_stay_inside_and_come_out_again_with_the_same_seed() -> None:
    texts = ("lr_max=1e-4..1e-1", "dropout=0..0.5", "epochs=3..5", "optimizer=adam,sgd")
    recipe = Recipe(seed=3)

    trials = plan(*texts, recipe=recipe, count=100)

    recipes = [t.recipe for t in trials]
    assert len({r.model_dump_json() for r in recipes}) == 100
    assert all(1e-4 <= r.lr_max <= 1e-1 and 0 <= r.dropout <= 0.5 and r.epochs in (3, 4, 5) for r in recipes)
    assert {r.optimizer for r in recipes} == {"adam", "sgd"}
    assert {r.seed for r in recipes} == {3}  # the trials differ in what is swept and in nothing else
    assert [t.values for t in plan(*texts, recipe=recipe, count=100)] == [t.values for t in trials]
    assert [t.values for t in plan(*texts, recipe=Recipe(seed=4), count=100)] != [t.values for t in trials]


def test_a_drawn_rate_has_three_digits_and_is_spread_evenly_over_the_powers_of_ten() -> None:
    rates = [t.recipe.lr_max for t in plan("lr_max=1e-4..1e-1", count=200)]

    assert all(float(f"{rate:.3g}") == rate for rate in rates)
    below = [sum(rate < bound for rate in rates) / 200 for bound in (1e-3, 1e-2)]
    assert math.isclose(below[0], 1 / 3, abs_tol=0.12)  # 3.6 standard deviations
    assert math.isclose(below[1], 2 / 3, abs_tol=0.12)


def test_every_combination_is_found_when_all_are_asked_for() -> None:
    assert len(plan("epochs=1..10", "batch_size=8,16", count=20)) == 20


def test_a_search_over_the_split_is_refused_unless_val_is_given(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a val/ folder it decides which images validate"):
        refuse_other_splits([Axis("seed", [1, 2])], tmp_path)

    (tmp_path / "val").mkdir()
    refuse_other_splits([Axis("seed", [1, 2])], tmp_path)


def test_the_best_has_the_highest_top1_then_the_lowest_loss_and_failures_come_last() -> None:
    trials = [trial(1), trial(2, 0.8, 0.5), trial(3, 0.9, 0.4), trial(4, 0.9, 0.3), trial(5)]

    assert [t.number for t in ranked(trials)] == [4, 3, 2, 1, 5]


def test_a_trial_keeps_what_its_job_says_and_is_no_success_without_scores() -> None:
    scored, lost, failed = (Trial(number, {}, RECIPE) for number in (1, 2, 3))

    scored.update(JobEvent(job="a", state="progress", text="epoch 1/2"))
    assert (scored.state, scored.text, scored.ended) == ("running", "epoch 1/2", False)
    scored.update(JobEvent(job="a", state="done", text="val 90%", scores={"val_top1": 0.9, "val_loss": 0.2}))
    lost.update(JobState(job="b", kind="train", title="", state="done", text="val 80%"))
    failed.update(JobEvent(job="c", state="failed", text="the loss is nan"))

    assert (scored.state, scored.scores["val_top1"]) == ("done", 0.9)
    assert (lost.state, lost.text) == ("failed", "its scores are lost; its last message: val 80%")
    assert (failed.state, failed.text, failed.ended) == ("failed", "the loss is nan", True)


def test_the_csv_file_has_a_row_a_trial_and_no_cell_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sweep.csv"
    evil = trial(1, backbone="=1+1", intermediate_layers=[15])
    evil.text = "@SUM(A1)"

    write_sweep_csv([evil, trial(2, 0.75, 1 / 3, backbone="b", intermediate_layers=[])], path)

    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["trial", "backbone", "intermediate_layers", "state", "val_top1", "val_top5", "val_loss", "detail", "job"],
        ["2", "b", "[]", "done", "0.75", "", "0.333333", "said", "job-2"],
        ["1", "'=1+1", "[15]", "failed", "", "", "", "'@SUM(A1)", "job-1"],
    ]
    assert [file.name for file in path.parent.iterdir()] == ["sweep.csv"]


def test_the_page_has_a_plot_of_the_search_and_one_of_each_key(tmp_path: Path) -> None:
    tried = [
        trial(number, top1, 0.1, lr_max=rate, epochs=number, backbone=name)
        for number, (top1, rate, name) in enumerate([(0.8, 0.001, "a"), (0.9, 0.1, "<b>"), (0.85, 0.01, "a")], start=1)
    ]
    write_sweep_page([*tried, trial(4, lr_max=1, epochs=4, backbone="a")], "Search s", tmp_path / "new" / "s.html")

    page = (tmp_path / "new" / "s.html").read_text()
    assert "4 of 4 trials have ended, 3 with a score" in page
    titles = ["trial", "lr_max, logarithmic", "epochs", "backbone"]
    plots = page.split("<section>")
    assert [plot[4:].partition("</h2>")[0] for plot in plots[1:-1]] == [
        f"Validation top-1 by {name}" for name in titles
    ]
    assert all(plot.count("<circle") == 3 and plot.count('class="bar wrong"') == 1 for plot in plots[1:-1])
    across = [re.findall(r'<circle[^>]*cx="([\d.]+)" cy="([\d.]+)"', plot) for plot in plots[1:-1]]
    first, last, middle = (float(x) for x, _ in across[1])
    assert middle == pytest.approx((first + last) / 2, abs=0.2)  # 0.001, 0.1 and 0.01
    assert across[3][0][0] == across[3][2][0] != across[3][1][0]  # "a", "<b>", "a"
    assert [y for _, y in across[0]] == ["190.0", "12.0", "101.0"]
    (line,) = re.findall(r'<polyline class="far" points="([^"]*)"', page)
    assert [step.partition(",")[2] for step in line.split()] == ["190.0", "190.0", "190.0", "12.0", "12.0", "12.0"]
    assert "<b>" not in page
    write_sweep_page([trial(1, epochs=1)], "Search s", tmp_path / "s.html")  # none has a score
    write_sweep_page([trial(1, 0.5, epochs=1)], "Search s", tmp_path / "s.html")  # a single one


def test_the_table_shows_lists_as_they_are_and_reasons_of_failures() -> None:
    console = Console(file=io.StringIO(), width=100)

    console.print(
        table_of(
            [trial(2, 0.75, 0.25, intermediate_layers=[15]), trial(1, intermediate_layers=[14, 16])],
            ["intermediate_layers"],
        )
    )

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.split() for line in shown.splitlines()] == [
        ["trial", "intermediate_layers", "val", "top-1", "val", "loss", "message"],
        ["2", "[15]", "75.00%", "0.2500", "said"],
        ["1", "[14,", "16]", "failed:", "said"],
    ]


def test_a_pipe_gets_a_line_at_the_end_of_each_trial_with_what_sets_it_apart() -> None:
    console = Console(file=io.StringIO(), width=100, soft_wrap=True)
    trials = plan("intermediate_layers=[]", "epochs=5,10")

    with SweepView(console, trials) as view:
        for one in trials:
            one.update(JobEvent(job="a", state="progress", text="epoch 1"))
            view.show(one)  # too early for a line between the ends
            one.update(JobEvent(job="a", state="failed", text="the loss is nan"))
            view.show(one)

    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "trial 1/2, intermediate_layers=[], epochs=5: failed: the loss is nan; 1/2 trials, 1 failed",
        "trial 2/2, intermediate_layers=[], epochs=10: failed: the loss is nan; 2/2 trials, 2 failed",
    ]


def test_a_terminal_gets_a_table_of_the_best_and_the_running_trials() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, _environ={"TERM": "xterm"})
    trials = [trial(1, 0.75, 0.25, epochs=5), trial(2, epochs=6), Trial(3, {"epochs": 7}, RECIPE, state="running")]

    with SweepView(console, trials) as view:
        view.show(trials[0])

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2/3 trials, 1 failed" in shown
    assert "75.00%" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sweep", "epochs=1,2", "--folds", "5"], "--folds measures one recipe and --sweep looks for one"),
        (["--sweep", "epochs=1,2", "--detach"], "--sweep can't be detached"),
        (["--trials", "5"], "--trials needs a search: say what to try, as in --sweep"),
        (["--sweep-report", "x.csv"], "--sweep-report needs a search"),
        (["--sweep", "epochs=1,2", "--sweep-report", "x.json"], "--sweep-report x.json: the table is a CSV"),
        (["--sweep", "epochs=0"], "trial 1 (epochs=0): setting training.epochs"),
        (["--sweep", "seed=1,2"], "--sweep seed: without a val/ folder"),
        (["--folds", "1"], "Invalid value for '--folds'"),
        (["--folds", "21"], "Invalid value for '--folds'"),
        (["--sweep", "epochs=1,2", "--trials", "0"], "Invalid value for '--trials'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_contradict_each_other_are_usage_errors_before_anything_starts(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "photos").mkdir()

    assert run(["train", str(tmp_path / "photos"), "--config", "digits", *arguments]) == USAGE

    assert message in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
