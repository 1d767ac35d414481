"""A search for the best recipe: what is tried, as one job a trial, and what came of it."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from configs import Recipe, SettingsError, parse_assignments, read_recipe
from jobs import JobEvent, JobState, TrainModel
from producer.errors import UsageError
from producer.local.session import Session
from producer.training.events import follow
from producer.training.jobs import queue_once

MOST_TRIALS = 200
MOST_DRAWS = 20_000  # until enough of them differ
DIGITS = 3  # of a drawn number: more says nothing, and nobody wants to read it
# They decide which images validate.
SPLITTING = frozenset({"seed", "validation_fraction"})


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole ones if both are."""

    low: float
    high: float

    def draw(self, source: random.Random) -> float:
        """Return one of them: any whole one as likely as the next; others evenly by their logarithm if above 0."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return source.randint(self.low, self.high)
        if self.low > 0:
            value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = source.uniform(self.low, self.high)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Axis:
    """One key of the recipe and what to try for it."""

    key: str
    choices: Sequence[Any] | Range

    def draw(self, source: random.Random) -> Any:
        return self.choices.draw(source) if isinstance(self.choices, Range) else source.choice(self.choices)


@dataclass(slots=True)
class Trial:
    """One recipe of a search, and how far its job is. ``scores`` stays empty unless the state is "done"."""

    number: int
    values: dict[str, Any]
    recipe: Recipe
    job: str = ""
    state: str = "planned"  # planned, queued, running, done, failed, cancelled
    text: str = ""
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What sets it apart, as in ``lr_max=0.01, epochs=5``."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.values.items())

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def update(self, event: JobEvent | JobState) -> None:
        self.state = "running" if event.state == "progress" else event.state
        self.text = event.text
        if self.state != "done":
            return
        scores = event.scores if isinstance(event, JobEvent) else None
        if scores is not None and {"val_top1", "val_loss"} <= scores.keys():
            self.scores = scores
        else:
            self.state, self.text = "failed", f"its scores are lost; its last message: {event.text}"


def parse_axes(texts: Sequence[str], recipe: Recipe) -> list[Axis]:
    """Return what ``KEY=V1,V2`` and ``KEY=LOW..HIGH`` ask for; commas in brackets and quotes belong to a value.

    Raises:
        SettingsError: one is of another form, or a key comes twice.
    """
    axes: list[Axis] = []
    for text in texts:
        key, equals, tried = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise SettingsError(f"--sweep takes KEY=V1,V2,... or KEY=LOW..HIGH, not {text!r}")
        if any(axis.key == key for axis in axes):
            raise SettingsError(f"--sweep {key} is given twice; list all its values in one: {key}=V1,V2,...")
        parts = [part.strip() for part in _split(tried)]
        if not all(parts):
            raise SettingsError(f"--sweep {text}: a value is empty; write {key}=V1,V2,... (an empty text is '')")
        if any(_is_range(part) for part in parts):
            axes.append(Axis(key, _range(text, key, parts, recipe)))
        else:
            axes.append(Axis(key, [parse_assignments([f"value={part}"])["value"] for part in parts]))
    return axes


def plan_trials(axes: Sequence[Axis], recipe: Recipe, count: int | None = None) -> list[Trial]:
    """Return the trials: every combination, or ``count`` different ones drawn with the recipe's seed.

    Raises:
        UsageError: there are too many, too few, or a range without a ``count``.
        SettingsError: a trial's recipe can't be; the message names its values.
    """
    tried = _grid(axes) if count is None else _draws(axes, recipe.seed, count)
    trials: dict[str, Trial] = {}
    for values in tried:
        trial = _trial(len(trials) + 1, values, recipe)
        trials.setdefault(trial.recipe.model_dump_json(), trial)
        if len(trials) == count:
            break
    if count is not None and len(trials) < count:
        raise UsageError(
            f"--trials {count}: only {len(trials)} different trials were found; ask for fewer, or sweep more values"
        )
    return list(trials.values())


def refuse_other_splits(axes: Sequence[Axis], dataset: Path) -> None:
    """Refuse a search whose trials would be scored on different images."""
    for axis in axes:
        if axis.key in SPLITTING and dataset.is_dir() and not (dataset / "val").is_dir():
            raise UsageError(
                f"--sweep {axis.key}: without a val/ folder it decides which images validate, so the trials' scores "
                f"could not be compared; give {dataset} a val/, or use --folds"
            )


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials, the best first: by validation top-1, then by validation loss; those without scores last."""
    return sorted(
        trials,
        key=lambda trial: (
            not trial.scores,
            -trial.scores.get("val_top1", 0.0),
            trial.scores.get("val_loss", 0.0),
            trial.number,
        ),
    )


def run_trials(
    session: Session, trials: Sequence[Trial], jobs: Sequence[TrainModel], keep: Callable[[Trial], None]
) -> Iterator[Trial | None]:
    """Queue a job for each trial that has not ended and yield each whose job sends an event; None while none does.

    With a backbone the first one runs alone: it leaves the features in the cache, which others would else compute too.

    Args:
        keep: is called with each trial that was queued or has ended.
    """
    left = [(trial, job) for trial, job in zip(trials, jobs, strict=True) if not trial.ended]
    alone = 1 if len(left) == len(trials) and trials[0].recipe.backbones else 0
    for part in (left[:alone], left[alone:]):
        trial_of: dict[str, Trial] = {}
        queued: list[TrainModel] = []
        for trial, planned in part:
            job = queue_once(session, planned, trial.name)
            trial.job, trial.state = job.job, "queued"
            trial_of[job.job] = trial
            queued.append(job)
            keep(trial)
        for event in follow(session, [*trial_of], queued):
            if event is None:
                yield None
                continue
            trial = trial_of[event.job]
            trial.update(event)
            if trial.ended:
                keep(trial)
            yield trial


def cancel_trials(session: Session, trials: Iterable[Trial]) -> None:
    """Stop what has not ended: its worker stops within seconds, and what no worker has yet is never begun.

    Workers of this command alone end with it, and leave the checkpoints that the same command goes on at.
    """
    unfinished = [trial for trial in trials if not trial.ended]
    with suppress(redis.RedisError):  # an interrupt must end the command, also with Redis away
        for trial in unfinished if session.stack is None else ():
            if trial.job:
                session.board.ask_to_cancel(trial.job)
            if trial.state == "queued":
                session.board.update(trial.job, state="cancelled", text="cancelled before it began")
    for trial in unfinished:
        trial.state = "cancelled"


def shown(value: Any) -> str:
    """Return a value of a recipe as it is written after ``--set KEY=``."""
    return value if isinstance(value, str) else json.dumps(value)


def _trial(number: int, values: dict[str, Any], recipe: Recipe) -> Trial:
    table = recipe.model_dump()
    for key, value in values.items():
        *groups, last = key.split(".")
        inner = table
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise SettingsError(f"--sweep {key}: training.{group} holds no further keys")
        inner[last] = value
    trial = Trial(number, values, recipe)
    try:
        trial.recipe = read_recipe(table)
    except SettingsError as error:
        raise SettingsError(f"trial {number} ({trial.name}): {error}") from error
    return trial


def _grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    choices: list[Sequence[Any]] = []
    for axis in axes:
        if isinstance(axis.choices, Range):
            raise UsageError(f"--sweep {axis.key} is a range; say how many draws of it to try: --trials N")
        choices.append(axis.choices)
    if (size := math.prod(map(len, choices))) > MOST_TRIALS:
        raise UsageError(
            f"the grid has {size} trials, the limit is {MOST_TRIALS}; list fewer values, or draw some: --trials N"
        )
    keys = [axis.key for axis in axes]
    return (dict(zip(keys, values, strict=True)) for values in itertools.product(*choices))


def _draws(axes: Sequence[Axis], seed: int, count: int) -> Iterator[dict[str, Any]]:
    if count > MOST_TRIALS:
        raise UsageError(f"--trials {count}: the limit is {MOST_TRIALS}")
    source = random.Random(seed)  # noqa: S311 - no secret, and the same search must come out again
    return ({axis.key: axis.draw(source) for axis in axes} for _ in range(MOST_DRAWS))


def _split(text: str) -> Iterator[str]:
    """Yield the parts between commas that stand outside brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def _is_range(part: str) -> bool:
    return ".." in part and part[0] not in "'\"[{"


def _range(text: str, key: str, parts: Sequence[str], recipe: Recipe) -> Range:
    if len(parts) > 1:
        raise SettingsError(f"--sweep {text}: a range stands alone; list values or give LOW..HIGH, not both")
    ends = [_number(end) for end in parts[0].split("..", 1)]
    if ends[0] is None or ends[1] is None or not ends[0] < ends[1]:
        raise SettingsError(f"--sweep {text}: a range is two numbers, the lower first, as in {key}=0.001..0.1")
    usual: Any = recipe.model_dump()
    for part in key.split("."):
        usual = usual.get(part) if isinstance(usual, dict) else None
    if isinstance(usual, float):  # 0..1 for a rate means all between, not 0 or 1
        return Range(float(ends[0]), float(ends[1]))
    if isinstance(usual, int) and not all(isinstance(end, int) for end in ends):
        raise SettingsError(f"--sweep {text}: {key} is a whole number, so both ends of its range are, too")
    return Range(ends[0], ends[1])


def _number(text: str) -> float | None:
    """Return the int or float in ``text``; None when it is no finite number."""
    for kind in (int, float):
        with suppress(ValueError):
            return value if math.isfinite(value := kind(text)) else None
    return None
