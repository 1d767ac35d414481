"""Promotion, and its gate: a new version goes into production unless it was shown to be worse than the one there.

Both are compared on images that neither was trained on, nor on a near-duplicate of. A loss counts when it is larger
than its margin and chance would hardly make it; the verdict says how far the figures of so few images may be off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.files import read_file
from base.intervals import paired_interval, wilson_interval
from jobs import ModelPin
from model_store import ModelVersion
from worker.models.precision import chance_of_loss
from worker.runtime import Runtime
from worker.train.images import Split
from worker.train.network import Fitted
from worker.train.seen import read_seen, short
from worker.train.training import Training

READ_AT_ONCE = 256
NAMED = 8  # images that a refusal names
# Losses that chance makes more often than this don't count. Two images lost and none won are just enough. A test at 5 %
# would let a network that learnt nothing replace a good one where four images are all there is to compare.
DOUBT = 0.25


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may go into production, and why in one sentence."""

    passed: bool
    text: str


def judge(
    truth: NDArray[np.str_],
    new: NDArray[np.bool_],
    old: NDArray[np.bool_],
    *,
    accuracy_margin: float,
    recall_margin: float,
) -> Verdict:
    """Compare two versions by which of the same images each labels right.

    Args:
        truth: the label of each image, (N,); neither version was trained on it.
        new: whether the new version labels it so, (N,).
        old: whether the one in production does, (N,).
        accuracy_margin: how much lower the new one's accuracy may be, in [0, 1].
        recall_margin: how much lower its recall of any one class may be, in [0, 1].
    """
    images = len(truth)
    if not images:
        return Verdict(False, "no image was held out from both; promote it by hand")
    won, lost = new & ~old, old & ~new
    accuracy = f"accuracy {new.mean():.1%} against {old.mean():.1%}, {won.sum()} won and {lost.sum()} lost"
    if _is_worse(won, lost, accuracy_margin, DOUBT):
        return Verdict(False, f"{accuracy}; allowed is a loss of {accuracy_margin:.1%}")
    labels = sorted(set(truth.tolist()))
    for label in labels:
        own = truth == label
        # Shared among the classes: of many, chance makes one lose much.
        if _is_worse(won[own], lost[own], recall_margin, DOUBT / len(labels)):
            return Verdict(
                False,
                f"recall of {label!r} fell from {old[own].mean():.0%} to {new[own].mean():.0%} ({own.sum()} images); "
                f"allowed is a loss of {recall_margin:.0%}",
            )
    low, high = (100 * bound for bound in paired_interval(int(won.sum()), int(lost.sum()), images))
    doubt = ", so they can't tell which is better" if low < 0 < high else ""
    return Verdict(True, f"{accuracy}; the true difference may be {low:+.0f} to {high:+.0f} points{doubt}")


def better_than_chance(accuracy: float, counts: Counter[int]) -> Verdict | None:
    """Return why not, if the accuracy may be that of always naming the class with the most of these images."""
    images, most = counts.total(), max(counts.values())
    low, high = wilson_interval(accuracy, images)
    if low > most / images:
        return None
    return Verdict(
        False,
        f"accuracy {accuracy:.1%} of {images} images (95 % interval {low:.1%} to {high:.1%}) may be chance: naming one "
        f"class each time would be right in {most / images:.1%}",
    )


def promote(training: Training, version: ModelVersion, split: Split, fitted: Fitted) -> str:
    """Make the version the candidate and, by the job's rule, the one in production; return what was decided."""
    job, store = training.job, training.runtime.store
    who = f"job {job.job}"
    store.set_alias(job.name, "candidate", version.version, who=who, why="trained")
    verdict = Verdict(job.promote == "always", f"--promote {job.promote}")
    current = store.aliases(job.name).get("production")
    if job.promote == "gate" and current is None:
        verdict = Verdict(True, "nothing was in production")
    elif job.promote == "gate":
        verdict = _compared(training, version, store.resolve(f"{job.name}:{current}"), split, fitted)
    if job.promote == "gate" and verdict.passed:
        counts = Counter(image.class_index for image in split.validation.images)
        verdict = better_than_chance(version.manifest.scores["val_top1"], counts) or verdict
    if verdict.passed:
        store.set_alias(job.name, "production", version.version, who=who, why=verdict.text)
        return f"in production ({verdict.text})"
    return f"production stays {current or 'empty'} ({verdict.text})"


def _compared(
    training: Training, version: ModelVersion, current: ModelVersion, split: Split, fitted: Fitted
) -> Verdict:
    """Judge the new version against ``current``, on the validation images that ``current`` was not trained on either.

    Raises:
        JobRefused: ``current`` can't be loaded.
    """
    images, labels = split.validation.images, [entry.label for entry in version.manifest.classes]
    families = [[short(digest) for digest in family] for family in split.families]
    seen = read_seen(training.runtime.store, current)
    if seen is None:
        fair, known = list(range(len(images))), {}
    else:
        fair = [place for place, family in enumerate(families) if not seen.has_been_shown(family[0], family)]
        known = {place: seen.answers[families[place][0]] for place in fair if families[place][0] in seen.answers}
    asked = [place for place in fair if place not in known]
    known |= dict(zip(asked, _answers(training.runtime, current, [images[place].path for place in asked]), strict=True))
    truth = np.array([labels[images[place].class_index] for place in fair])
    new = np.array([labels[index] for index in fitted.logits.argmax(axis=1)[fair]]) == truth
    old = np.array([known[place] for place in fair]) == truth
    verdict = judge(
        truth,
        new,
        old,
        accuracy_margin=training.recipe.gate_accuracy_margin,
        recall_margin=training.recipe.gate_recall_margin,
    )
    if not verdict.passed and (lost := np.flatnonzero(old & ~new)).size:
        answers = [labels[index] for index in fitted.logits.argmax(axis=1)[fair]]
        named = [f"{images[fair[place]].path.name} ({truth[place]}, now {answers[place]})" for place in lost[:NAMED]]
        more = f" and {lost.size - NAMED} more" if lost.size > NAMED else ""
        verdict = Verdict(False, f"{verdict.text}; lost: {', '.join(named)}{more}")
    whose = f"{version.manifest.reference} against {current.manifest.reference} on {len(fair)} images"
    how = " held out from both" if seen else f"; what {current.manifest.reference} was trained on is not known"
    return Verdict(verdict.passed, f"{whose}{how}: {verdict.text}")


def _is_worse(won: NDArray[np.bool_], lost: NDArray[np.bool_], margin: float, doubt: float) -> bool:
    """Return whether more than ``margin`` was lost, and chance would lose as much at most ``doubt`` of the time."""
    more = int(lost.sum()) - int(won.sum())
    return more > margin * len(lost) + 1e-9 and chance_of_loss(int(lost.sum()), int(won.sum())) <= doubt


def _answers(runtime: Runtime, version: ModelVersion, paths: Sequence[Path]) -> list[str]:
    """Return the label that the version gives each image, through the engine that serves; "" where it can't read it."""
    if not paths:
        return []
    manifest = version.manifest
    classifier = runtime.classifier(ModelPin(name=version.name, version=version.version, digest=manifest.digest))
    answers: list[str] = []
    for start in range(0, len(paths), READ_AT_ONCE):
        some = [partial(read_file, path, runtime.limits.max_bytes) for path in paths[start : start + READ_AT_ONCE]]
        outcomes, _ = classifier.classify(some, 1)
        answers += [manifest.classes[outcome.top[0][0]].label if outcome.top else "" for outcome in outcomes]
    return answers
