"""The promotion gate: a new version goes into production only if it is no worse than the one that is there."""

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
from worker.runtime import Runtime

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


def _right(
    runtime: Runtime, version: ModelVersion, images: Sequence[tuple[Path, str]], truth: NDArray[np.str_]
) -> NDArray[np.bool_]:
    """Return bool (N,): which images the version labels right. An image that it can't read counts as wrong."""
    manifest = version.manifest
    classifier = runtime.classifier(ModelPin(name=version.name, version=version.version, digest=manifest.digest))
    said: list[str | None] = []
    for start in range(0, len(images), READ_AT_ONCE):
        some = images[start : start + READ_AT_ONCE]
        outcomes, _ = classifier.classify([partial(read_file, path, runtime.limits.max_bytes) for path, _ in some], 1)
        said += [manifest.classes[outcome.top[0][0]].label if outcome.top else None for outcome in outcomes]
    return np.array([label == true for label, true in zip(said, truth.tolist(), strict=True)])
