"""The promotion gate: what a new version may lose, and of what a refusal speaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from base.errors import ImageError
from vision.images.decode import ImageLimits
from vision.serving.classifier import Outcome
from worker.train.promotion import Verdict, judge

LABELS = ("glass", "paper", "tin")
TRUTH = ["glass"] * 20 + ["paper"] * 20 + ["tin"] * 4


class Answering:
    """A classifier that answers each image by its place; -1 is an image that it can't read."""

    def __init__(self, answers: list[int]) -> None:
        self.answers, self.place = answers, 0

    def classify(self, sources: list[Callable[[], bytes]], top_k: int) -> tuple[list[Outcome], dict[str, float]]:
        some = self.answers[self.place : self.place + len(sources)]
        self.place += len(sources)
        unread = Outcome(error=ImageError("corrupt", "x"))
        return [Outcome([(answer, 1.0)]) if answer >= 0 else unread for answer in some], {}


def verdict(new: list[int], old: list[int], *, accuracy_margin: float = 0.05, recall_margin: float = 0.25) -> Verdict:
    answers = {"a": new, "b": old}

    def version(number: int, digest: str) -> Any:
        classes = [SimpleNamespace(label=label) for label in LABELS]
        manifest = SimpleNamespace(digest=digest * 64, classes=classes, reference=f"m:{number}")
        return SimpleNamespace(name="m", version=number, manifest=manifest)

    runtime: Any = SimpleNamespace(classifier=lambda pin: Answering(answers[pin.digest[0]]), limits=ImageLimits())
    images = [(Path(f"{number}.png"), label) for number, label in enumerate(TRUTH)]
    return judge(
        runtime, version(2, "a"), version(1, "b"), images, accuracy_margin=accuracy_margin, recall_margin=recall_margin
    )  # fmt: skip


RIGHT = [LABELS.index(label) for label in TRUTH]


def wrong(*places: int) -> list[int]:
    return [(answer + 1) % 3 if place in places else answer for place, answer in enumerate(RIGHT)]


def test_a_version_that_is_no_worse_passes() -> None:
    found = verdict(RIGHT, wrong(0))

    assert found == Verdict(
        True, "m:2 against m:1 on 44 images: accuracy 100.0% against 97.7%, no class lost more than 25%"
    )


def test_a_refusal_names_the_class_whose_recall_fell_though_the_accuracy_is_fine() -> None:
    found = verdict(wrong(40, 41), wrong(0, 1))  # both have 42 of 44

    assert found == Verdict(
        False,
        "m:2 against m:1 on 44 images: recall of 'tin' fell from 100% to 50% (4 images), allowed is a loss of 25%",
    )


@pytest.mark.parametrize(("lost", "passed"), [(2, True), (3, False)])
def test_accuracy_may_fall_by_its_margin(lost: int, passed: bool) -> None:
    found = verdict(wrong(*range(lost)), RIGHT)  # 2 of 44 are 4.5 %, 3 are 6.8 %

    assert found.passed is passed
    assert passed or "accuracy 93.2% against 100.0%, allowed is a loss of 5.0%" in found.text


@pytest.mark.parametrize(("lost", "passed"), [(1, True), (2, False)])
def test_recall_of_a_class_may_fall_by_its_margin(lost: int, passed: bool) -> None:
    assert verdict(wrong(*range(40, 40 + lost)), RIGHT).passed is passed


def test_an_image_that_a_version_can_not_read_counts_as_wrong() -> None:
    unread = [-1 if place in (40, 41) else answer for place, answer in enumerate(RIGHT)]

    assert "recall of 'tin' fell from 100% to 50%" in verdict(unread, RIGHT).text
