"""What a version has seen of which images: ``split.csv`` beside its weights, so that later ones are compared fairly.

    sha256,side,answer
    3f1c9ab2d07e4411,training,
    90b1d2c0ffee0123,validation,paper

An answer is of the network that was measured, which was not trained on that image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from model_store import ModelStore, ModelVersion

SPLIT = "split.csv"
DIGEST_CHARS = 16  # of 64: some two of a million images agree by chance once in 37 million times


@dataclass(frozen=True, slots=True)
class Seen:
    """The images of a version, by the first characters of their digests.

    Attributes:
        trained: those that the measured network was trained on.
        answers: the labels that it gave to the others.
        is_refit: whether the published weights were trained on the others too.
    """

    trained: frozenset[str]
    answers: Mapping[str, str]
    is_refit: bool

    def has_been_shown(self, image: str, family: Iterable[str]) -> bool:
        """Whether what this version says of ``image`` is no test: it was trained on it or on one of its ``family``.

        All are digests; the image is one of its family.
        """
        shown = self.trained | self.answers.keys() if self.is_refit and image not in self.answers else self.trained
        return not shown.isdisjoint(family)


def seen_csv(trained: Iterable[str], answers: Mapping[str, str]) -> bytes:
    """Return the file, from whole digests of images that were trained on and of others with their answers."""
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(["sha256", "side", "answer"])
    table.writerows([short(digest), "training", ""] for digest in trained)
    table.writerows([short(digest), "validation", answer] for digest, answer in answers.items())
    return file.getvalue().encode()


def read_seen(store: ModelStore, version: ModelVersion) -> Seen | None:
    """Return what a version has seen; None where it says nothing, as of imported weights."""
    if SPLIT not in version.manifest.files:
        return None
    text = store.open_file(version.name, version.version, SPLIT).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    trained = frozenset(row["sha256"] for row in rows if row["side"] == "training")
    # Equal bytes in two classes may lie on both sides.
    answers = {row["sha256"]: row["answer"] for row in rows if row["sha256"] not in trained}
    return Seen(trained, answers, is_refit=bool(version.manifest.training.get("refit")))


def short(digest: str) -> str:
    """Return what stands in the file of a whole digest."""
    return digest[:DIGEST_CHARS]
