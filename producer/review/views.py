"""Which images a person sees, in which order: the doubtful first."""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from base.decisions import DECISIONS
from producer.errors import UsageError
from producer.review import Order
from producer.review.corrections import OPEN, Decision
from producer.review.images import Collection, ReviewImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Show = Literal["todo", "all", "done", "right", "wrong", "reject", "skip"]
FAILED: Final = "\0failed"  # the group of images without a label; no label holds a NUL
KEPT_VIEWS = 32
SEED = 0
MOST_DIVERSE = 2000  # images that are spread out; those after them follow by margin
DIVERSE_AMONG = 10_000  # the least sure, that those are chosen from


class Query(NamedTuple):
    """What somebody asks to see."""

    group: str = ""  # a predicted label, FAILED, or "" for all
    order: str = "uncertain"
    show: str = "todo"
    text: str = ""  # words that the path has
    decision: str = ""  # what became of the answers, or "" for all

    def check(self) -> Query:
        """Return this; UsageError for an order, a state or a decision that doesn't exist."""
        if self.order not in get_args(Order) or self.show not in get_args(Show):
            raise UsageError(f"no order {self.order!r} or no state {self.show!r}")
        if self.decision not in ("", *DECISIONS):
            raise UsageError(f"no decision {self.decision!r}")
        return self


@dataclass(frozen=True, slots=True)
class View:
    """The images of one query as they were when it was asked: decisions don't move what somebody looks at."""

    key: str
    indexes: array[int]


class Views:
    """The views of a collection, the newest few kept."""

    def __init__(self, collection: Collection, decisions: Callable[[], Mapping[str, Decision]]) -> None:
        self._collection, self._decisions = collection, decisions
        self._kept: OrderedDict[str, View] = OrderedDict()
        self._made = 0

    def open(self, query: Query) -> View:
        """Return a new view."""
        images, decisions = self._collection.images, self._decisions()
        words, wanted = query.text.lower().split(), _STATES[query.show]
        chosen = [
            index
            for index, image in enumerate(images)
            if _is_of(self._collection, image, query.group)
            and query.decision in ("", image.decision)
            and wanted(decisions.get(image.key, OPEN).verdict)
            and all(word in image.path.lower() for word in words)
        ]
        self._made += 1
        view = View(str(self._made), array("I", self._ordered(chosen, query.order)))
        self._kept[view.key] = view
        while len(self._kept) > KEPT_VIEWS:
            self._kept.popitem(last=False)
        return view

    def find(self, key: str) -> View | None:
        """Return a view that is kept still."""
        return self._kept.get(key)

    def _ordered(self, chosen: list[int], order: str) -> list[int]:
        images = self._collection.images
        if order == "listed":
            return chosen
        if order == "random":
            random.Random(SEED).shuffle(chosen)  # noqa: S311 - the same at each call
            return chosen
        answered = [index for index in chosen if images[index].ranked]
        failed = [index for index in chosen if not images[index].ranked]
        if order == "disagreement":
            return sorted(chosen, key=lambda index: [-part for part in self._collection.disagreement(images[index])])
        if order == "outlier":
            scores = {index: -1.0 if (score := images[index].outlier) is None else score for index in chosen}
            return sorted(chosen, key=lambda index: -scores[index])
        if order == "entropy":
            return [*sorted(answered, key=lambda index: -entropy(images[index])), *failed]
        by_margin = sorted(answered, key=lambda index: images[index].margin)
        return [*(self._spread(by_margin) if order == "diverse" else by_margin), *failed]

    def _spread(self, by_margin: list[int]) -> list[int]:
        images, embeddings = self._collection.images, self._collection.embeddings
        if embeddings is None:
            among = by_margin[:DIVERSE_AMONG]
            points = dense([images[index].ranked for index in among], len(self._collection.labels))
        else:
            among = [index for index in by_margin if not math.isnan(embeddings[index, 0])][:DIVERSE_AMONG]
            points = embeddings[among]
        doubt = [1 - images[index].margin for index in among]
        spread = [among[place] for place in k_center(points, doubt, MOST_DIVERSE)]
        taken = set(spread)
        return [*spread, *(index for index in by_margin if index not in taken)]


def groups(collection: Collection, decisions: Mapping[str, Decision]) -> dict[tuple[str, str], dict[str, object]]:
    """Return how many images each predicted label has, and how many of them are to look at, the largest label first.

    By label and by what became of the answers, "" where nothing was decided.
    """
    images: Counter[tuple[str, str]] = Counter()
    to_do: Counter[tuple[str, str]] = Counter()
    of_label: Counter[str] = Counter()
    for image in collection.images:
        group = group_of(collection, image)
        images[group] += 1
        of_label[group[0]] += 1
        to_do[group] += decisions.get(image.key, OPEN).verdict == "open"
    found = sorted(images, key=lambda group: (group[0] == FAILED, -of_label[group[0]], group))
    return {
        group: {"name": group[0], "decision": group[1], "images": images[group], "todo": to_do[group]}
        for group in found
    }


def group_of(collection: Collection, image: ReviewImage) -> tuple[str, str]:
    """Return the predicted label of an image and what became of the answer, by which `groups` counts."""
    return collection.label(image) if image.ranked else FAILED, image.decision or ""


def entropy(image: ReviewImage) -> float:
    """Return the entropy of the labels that are known, in nats; what they leave of 1 counts as one more label."""
    shares = [share for _, share in image.ranked]
    shares.append(max(0.0, 1 - sum(shares)))
    return -sum(share * math.log(share) for share in shares if share > 0)


def dense(answers: Sequence[Sequence[tuple[int, float]]], classes: int) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of (class index, probability) pairs; what isn't named is 0."""
    import numpy as np

    found = np.zeros((len(answers), classes), np.float32)
    for place, pairs in enumerate(answers):
        for index, share in pairs:
            found[place, index] = share
    return found


def k_center(points: NDArray[np.float32], weights: Sequence[float], count: int) -> list[int]:
    """Return up to ``count`` of the points (N, D), the first, then each the farthest from all before (Gonzalez 1985).

    The squared distance counts times the weight, so that of two that are as far the heavier one comes first.
    """
    import numpy as np

    chosen: list[int] = []
    nearest, doubt = np.full(len(points), np.inf, np.float32), np.array(weights, np.float32)
    is_left = np.ones(len(points), bool)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(np.where(is_left, nearest * doubt, -1.0).argmax()) if chosen else 0)
        is_left[chosen[-1]] = False
        np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1), out=nearest)
    return chosen


def _is_of(collection: Collection, image: ReviewImage, group: str) -> bool:
    if not group:
        return True
    return not image.ranked if group == FAILED else bool(image.ranked) and collection.label(image) == group


_STATES: Final[dict[str, Callable[[str], bool]]] = {
    "todo": lambda verdict: verdict == "open",
    "all": lambda verdict: True,
    "done": lambda verdict: verdict != "open",
    **{name: (lambda verdict, name=name: verdict == name) for name in ("right", "wrong", "reject", "skip")},  # type: ignore[misc]
}
