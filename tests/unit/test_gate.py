"""The promotion gate: what a new version may lose, on which images it is compared, and of what the verdict speaks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.intervals import paired_interval
from vision.training.dataset import LabelledImage
from vision.training.families import split_by_family
from worker.train.promotion import Verdict, better_than_chance, judge
from worker.train.seen import Seen

TRUTH = np.array(["glass"] * 20 + ["paper"] * 20 + ["tin"] * 4)


def verdict(new: set[int], old: set[int], truth: NDArray[np.str_] = TRUTH) -> Verdict:
    """Judge versions that label these images wrong."""
    right = [np.array([place not in wrong for place in range(len(truth))]) for wrong in (new, old)]
    return judge(truth, *right, accuracy_margin=0.05, recall_margin=0.25)


def test_a_version_that_is_no_worse_passes_and_the_verdict_says_what_so_few_images_can_not_tell() -> None:
    found = verdict(set(), {0})

    assert found == Verdict(
        True,
        "accuracy 100.0% against 97.7%, 1 won and 0 lost; the true difference may be -4 to +8 points, so they can't "
        "tell which is better",
    )


def test_a_clear_gain_is_not_called_doubtful() -> None:
    found = verdict({0}, set(range(12)))

    assert found.passed
    assert "tell" not in found.text
    assert "the true difference may be +" in found.text


@pytest.mark.parametrize(("lost", "won", "passed"), [(2, 0, True), (3, 0, False), (6, 3, True), (8, 3, False)])
def test_accuracy_may_fall_by_its_margin_and_by_what_chance_makes(lost: int, won: int, passed: bool) -> None:
    found = verdict(set(range(0, 5 * lost, 5)), set(range(1, 5 * won, 5)))  # 2 of 44 are 4.5 %, 3 are 6.8 %

    assert found.passed is passed
    if not passed:
        assert f"{won} won and {lost} lost; allowed is a loss of 5.0%" in found.text


def test_one_image_of_thirty_two_refuses_no_version() -> None:
    assert verdict({0, 1, 2}, {0, 1}, TRUTH[:32]).passed  # 90.6 against 93.8 %


def test_four_images_are_enough_to_keep_out_what_has_learnt_nothing() -> None:
    found = verdict({0, 1}, set(), TRUTH[18:22])

    assert found == Verdict(False, "accuracy 50.0% against 100.0%, 0 won and 2 lost; allowed is a loss of 5.0%")


def test_a_refusal_names_the_class_whose_recall_fell_though_the_accuracy_is_fine() -> None:
    found = verdict({40, 41, 42, 43}, {0, 1, 2, 3})  # both have 40 of 44

    assert found == Verdict(False, "recall of 'tin' fell from 100% to 0% (4 images); allowed is a loss of 25%")


def test_recall_of_a_class_may_fall_by_what_chance_makes_of_one_class_in_three() -> None:
    assert verdict({40, 41, 42}, {0, 1, 2}).passed


def test_without_an_image_to_compare_on_nothing_is_promoted() -> None:
    assert verdict(set(), set(), TRUTH[:0]) == Verdict(False, "no image was held out from both; promote it by hand")


SEEN = Seen(frozenset({"a", "b"}), {"c": "tin", "d": "glass"}, is_refit=False)


@pytest.mark.parametrize(
    ("image", "family", "refit", "shown"),
    [
        ("a", "a", False, True),
        ("c", "c", False, False),
        ("new", ["new"], False, False),
        ("new", ["new", "b"], False, True),  # a near-duplicate of one that was trained on
        ("c", "cb", False, True),
        ("new", ["new", "c"], False, False),
        ("new", ["new", "c"], True, True),  # the published weights were trained on c; there is no answer from before
        ("c", "cd", True, False),  # there is one
    ],
)
def test_an_image_is_no_test_of_a_version_that_was_trained_on_it_or_its_family(
    image: str, family: list[str], refit: bool, shown: bool
) -> None:
    assert replace(SEEN, is_refit=refit).has_been_shown(image, family) is shown


# A world in which retraining can be planted: points of eight classes in families of near-duplicates.
CLASSES, FAMILIES = 8, 60


class World:
    """Families of one to three points in 12 dimensions; a network is a nearest-centroid classifier."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        centers = random.normal(size=(CLASSES, 12)) * 0.9
        self.images: list[LabelledImage] = []
        self.known: dict[Path, str] = {}
        points = []
        for number in range(FAMILIES * CLASSES):
            middle = centers[number % CLASSES] + random.normal(size=12)
            for member in range(random.integers(1, 4)):
                path = Path(f"{seed}/{number}-{member}.png")
                self.images.append(LabelledImage(path, number % CLASSES))
                self.known[path] = str(number)
                points.append(middle + random.normal(size=12) * 0.1)
        self.points = dict(zip(self.images, points, strict=True))
        self.digests = {image.path: hashlib.sha256(str(image.path).encode()).hexdigest() for image in self.images}

    def trained(
        self, images: list[LabelledImage], spoil: Callable[[int], int] = lambda label: label
    ) -> NDArray[np.float64]:
        """Return the centroids of the classes."""
        labels = np.array([spoil(image.class_index) for image in images])
        points = np.array([self.points[image] for image in images])
        return np.stack([points[labels == label].mean(axis=0) for label in range(CLASSES)])

    def right(self, centroids: NDArray[np.float64], images: list[LabelledImage]) -> NDArray[np.bool_]:
        points = np.array([self.points[image] for image in images])
        answers = np.linalg.norm(points[:, None] - centroids, axis=2).argmin(axis=1)
        return answers == [image.class_index for image in images]


def retrained(seed: int, *, worse: bool) -> tuple[Verdict, float]:
    """Train on a part of the images, then on more; judge as a job would. Return what was found and the true gain."""
    world = World(seed)
    random = np.random.default_rng([seed, 1])
    numbers = {image: int(world.known[image.path]) for image in world.images}
    limit = 4 * CLASSES if not worse else 30 * CLASSES
    before = [image for image in world.images if numbers[image] < limit]
    after = [image for image in world.images if numbers[image] < 30 * CLASSES]
    unseen = [image for image in world.images if numbers[image] >= 30 * CLASSES]
    first = split_by_family(before, fraction=0.1, known=world.known, digests=world.digests)
    held_before = {world.digests[image.path]: image in first.validation for image in before}
    second = split_by_family(after, fraction=0.1, known=world.known, digests=world.digests, held_before=held_before)

    old = world.trained(list(first.train))
    spoil = (lambda label: int(random.integers(CLASSES)) if random.random() < 0.85 else label) if worse else int
    new = world.trained(list(second.train), spoil)
    seen = Seen(
        frozenset(world.digests[image.path] for image in first.train),
        {world.digests[image.path]: "" for image in first.validation},
        is_refit=False,
    )
    family_of = {image: family for family in second.families for image in family}
    fair = [
        image
        for image in second.validation
        if not seen.has_been_shown(world.digests[image.path], [world.digests[m.path] for m in family_of[image]])
    ]
    assert fair
    assert not {world.known[image.path] for image in fair} & {world.known[image.path] for image in first.train}
    found = judge(
        np.array([str(image.class_index) for image in fair]),
        world.right(new, fair),
        world.right(old, fair),
        accuracy_margin=0.01,
        recall_margin=0.15,
    )
    return found, float(world.right(new, unseen).mean() - world.right(old, unseen).mean())


@pytest.mark.parametrize("worse", [False, True])
def test_a_planted_better_successor_passes_and_a_planted_worse_one_does_not(worse: bool) -> None:
    """About 48 images of eight classes are compared: few."""
    outcomes = [retrained(seed, worse=worse) for seed in range(20)]

    assert all((gain < 0) is worse for _, gain in outcomes)  # planted as meant
    assert sum(found.passed is not worse for found, _ in outcomes) >= 19


@pytest.mark.parametrize(("won", "lost", "images"), [(0, 0, 32), (2, 1, 32), (40, 10, 400)])
def test_the_paired_interval_holds_the_difference_and_shrinks_with_the_images(won: int, lost: int, images: int) -> None:
    low, high = paired_interval(won, lost, images)

    assert low < (won - lost) / images < high
    wide = paired_interval(10 * won, 10 * lost, 10 * images)
    assert wide[1] - wide[0] < (high - low) / 2


def test_the_paired_interval_covers_the_true_difference_in_about_95_of_100_samples() -> None:
    random = np.random.default_rng(0)
    cells = random.multinomial(40, [0.12, 0.05, 0.83], size=4000)
    inside = [low <= 0.07 <= high for low, high in (paired_interval(int(w), int(n), 40) for w, n, _ in cells)]

    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("accuracy", "counts", "passes"),
    [
        (0.5, {0: 50, 1: 50}, False),
        (0.58, {0: 50, 1: 50}, False),  # as may come of chance
        (0.65, {0: 50, 1: 50}, True),
        (0.9, {0: 90, 1: 10}, False),  # as good as saying 0 each time
        (0.97, {0: 90, 1: 10}, True),
        (0.2, dict.fromkeys(range(26), 10), True),
        (1.0, {0: 2, 1: 2}, True),
        (1.0, {0: 1, 1: 1}, False),  # two images say nothing
    ],
)
def test_what_may_be_chance_is_refused_with_what_chance_would_be(
    accuracy: float, counts: dict[int, int], passes: bool
) -> None:
    verdict = better_than_chance(accuracy, Counter(counts))

    assert (verdict is None) == passes
    if verdict is not None:
        assert not verdict.passed
        assert f"would be right in {max(counts.values()) / sum(counts.values()):.1%}" in verdict.text
