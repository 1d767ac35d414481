"""Promotion, and its gate: a new version goes into production only if it is no worse than the one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from base.files import read_file
from jobs import ModelPin
from model_store import ModelVersion
from vision.training import Dataset
from worker.runtime import Runtime
from worker.train.images import Split
from worker.train.training import Training

READ_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a version may go into production, and why in one sentence."""

    passed: bool
    text: str


def judge(
    runtime: Runtime,
    candidate: ModelVersion,
    current: ModelVersion,
    images: Sequence[tuple[Path, str]],
    *,
    accuracy_margin: float,
    recall_margin: float,
) -> Verdict:
    """Let both versions label the same images, through the engine that serves, and compare.

    Args:
        images: (path, label) of images that the candidate was not trained on. The current version may have seen some of
            them, which can only make the gate stricter.
        accuracy_margin: how much lower the candidate's accuracy may be, in [0, 1].
        recall_margin: how much lower its recall of any one class may be, in [0, 1].

    Raises:
        JobRefused: one of the versions can't be loaded.
    """
    truth = np.array([label for _, label in images])
    new, old = (_right(runtime, version, images, truth) for version in (candidate, current))
    names = f"{candidate.manifest.reference} against {current.manifest.reference} on {len(images)} images"
    accuracy = f"accuracy {new.mean():.1%} against {old.mean():.1%}"
    if new.mean() < old.mean() - accuracy_margin:
        return Verdict(False, f"{names}: {accuracy}, allowed is a loss of {accuracy_margin:.1%}")
    for label in sorted(set(truth.tolist())):
        own = truth == label
        lost = old[own].mean() - new[own].mean()
        if lost > recall_margin:
            return Verdict(
                False,
                f"{names}: recall of {label!r} fell from {old[own].mean():.0%} to {new[own].mean():.0%} "
                f"({own.sum()} images), allowed is a loss of {recall_margin:.0%}",
            )
    return Verdict(True, f"{names}: {accuracy}, no class lost more than {recall_margin:.0%}")


def promote(training: Training, version: ModelVersion, dataset: Dataset, split: Split) -> str:
    """Make the version the candidate and, by the job's rule, the one in production; return what was decided."""
    job, recipe, store = training.job, training.recipe, training.runtime.store
    who = f"job {job.job}"
    store.set_alias(job.name, "candidate", version.version, who=who, why="trained")
    verdict = Verdict(job.promote == "always", f"--promote {job.promote}")
    current = store.aliases(job.name).get("production")
    if job.promote == "gate" and current is None:
        verdict = Verdict(True, "nothing was in production")
    elif job.promote == "gate":
        verdict = judge(
            training.runtime,
            version,
            store.resolve(f"{job.name}:{current}"),
            [(image.path, dataset.classes[image.class_index].label) for image in split.validation.images],
            accuracy_margin=recipe.gate_accuracy_margin,
            recall_margin=recipe.gate_recall_margin,
        )
    if verdict.passed:
        store.set_alias(job.name, "production", version.version, who=who, why=verdict.text)
        return f"in production ({verdict.text})"
    return f"production stays {current or 'empty'} ({verdict.text})"


def _right(
    runtime: Runtime, version: ModelVersion, images: Sequence[tuple[Path, str]], truth: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return bool (N,): which images the version labels right. An image that it can't read counts as wrong."""
    manifest = version.manifest
    classifier = runtime.classifier(ModelPin(name=version.name, version=version.version, digest=manifest.digest))
    answers: list[str | None] = []
    for start in range(0, len(images), READ_AT_ONCE):
        some = images[start : start + READ_AT_ONCE]
        outcomes, _ = classifier.classify([partial(read_file, path, runtime.limits.max_bytes) for path, _ in some], 1)
        answers += [manifest.classes[outcome.top[0][0]].label if outcome.top else None for outcome in outcomes]
    return np.array([label == true for label, true in zip(answers, truth.tolist(), strict=True)])
