"""What the page can ask for and do, without HTTP: views, decisions, undo, near-duplicates. Safe for several threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from base.decisions import Decision as AnswerDecision
from base.text import printable
from producer.errors import UsageError
from producer.review import Order
from producer.review.corrections import OPEN, Action, Corrections, Decision, Subject, clean_label
from producer.review.images import Collection, ReviewImage
from producer.review.pictures import Pictures
from producer.review.retraining import Retraining
from producer.review.views import Query, Views, group_of, groups

MOST_AT_ONCE: Final = 5000  # images of one action
SHOWN_LABELS: Final = 5  # of one image
DIGITS: Final = 4

Answer = dict[str, Any]


class ViewGone(UsageError):
    """The server has forgotten the view, or was started anew; the page asks for it again."""


class Session:
    """One collection under review."""

    def __init__(
        self,
        collection: Collection,
        corrections: Corrections,
        pictures: Pictures,
        load: Callable[[], Collection],
        order: Order = "uncertain",
        retraining: Retraining | None = None,
        only: AnswerDecision | None = None,
    ) -> None:
        self.retraining = retraining
        self.pictures = pictures
        self._corrections, self._load, self._order, self._only = corrections, load, order, only
        self._lock = threading.RLock()
        self._predicted: dict[str, str] = {}
        self._first = 0  # number of the first image, by which the page knows it
        self._take(collection)

    def _take(self, collection: Collection) -> None:
        self._collection = collection
        self._places = {image.key: index for index, image in enumerate(collection.images)}
        self._views = Views(collection, self._corrections.decisions)
        self._groups = groups(collection, self._corrections.decisions())

    def state(self) -> Answer:
        """Return what the page shows around the images."""
        with self._lock:
            return {
                "title": printable(self._collection.title),
                "model": self._collection.version,
                "other": self._collection.other,
                "outliers": self._collection.has_outliers,
                "decisions": self._collection.has_decisions,
                "images": len(self._collection.images),
                "groups": list(self._groups.values()),
                "order": self._order,
                "only": self._only or "",
                "command": self.retraining.command if self.retraining is not None else "",
                "labels": self._labels(),
                "file": printable(str(self._corrections.path)),
                **self._standing(),
            }

    def open_view(self, query: Query) -> Answer:
        """Return key and size of a new view."""
        with self._lock:
            view = self._views.open(query.check())
            return {"key": view.key, "total": len(view.indexes), **self._standing()}

    def page(self, key: str, start: int, count: int) -> Answer:
        """Return some images of a view, in its order."""
        with self._lock:
            view = self._views.find(key)
            if view is None:
                raise ViewGone("this list is not kept any more")
            chosen = view.indexes[max(0, start) : max(0, start) + count]
            return {"images": [self._shown(index) for index in chosen], "total": len(view.indexes)}

    def decide(self, numbers: Sequence[int], verdict: str, label: str, known: int) -> Answer:
        """Save a decision about images; the answer has the new state of all images that changed since ``known``.

        Args:
            verdict: "right", "label" (then ``label`` is what they are), "reject", "skip" or "open".

        Raises:
            UsageError: it can't be decided so.
            Conflict: another tab was faster.
        """
        images = [self._collection.images[self.index(number)] for number in dict.fromkeys(numbers)]
        if not images or len(images) > MOST_AT_ONCE:
            raise UsageError(f"choose 1 to {MOST_AT_ONCE:,} images")
        label = clean_label(label) if verdict == "label" else ""
        digests = [image.sha256 or self.pictures.digest(self._places[image.key]) for image in images]
        with self._lock:
            chosen = [
                (self._subject(image, digest), self._decision(image, verdict, label))
                for image, digest in zip(images, digests, strict=True)
            ]
            self._count(self._corrections.decide(chosen, known).changes.items())
            return self._news(known)

    def undo(self, known: int, view: str = "") -> Answer:
        """Take the last action back, as `decide` answers; with how many images it was, and where in the view."""
        with self._lock:
            return self._moved(self._corrections.undo(known), known, view, is_back=True)

    def redo(self, known: int, view: str = "") -> Answer:
        """Do again what was taken back last, as `undo` answers."""
        with self._lock:
            return self._moved(self._corrections.redo(known), known, view, is_back=False)

    def news(self, known: int) -> Answer:
        """Return the state of all images that changed since ``known``."""
        with self._lock:
            return self._news(known)

    def near(self, numbers: Sequence[int]) -> Answer:
        """Return undecided images that look like these, or have the same bytes."""
        with self._lock:
            indexes = [self.index(number) for number in numbers]
            given = {self._collection.images[index].key for index in indexes}
            found = [
                index
                for index in self.pictures.near(indexes)
                if (key := self._collection.images[index].key) not in given
                and self._corrections.decision(key).verdict == "open"
            ]
            return {"images": [self._shown(index) for index in found[:MOST_AT_ONCE]], "among": self.pictures.compared}

    def reload(self) -> Answer:
        """Read the run again, which may have more answers by now."""
        collection = self._load()
        with self._lock:
            before, self._predicted = self._collection.version, self._predictions()
            if self._keys(collection) != self._keys(self._collection):
                self._first += len(self._collection.images)  # another tab must not mean the wrong image
            self.pictures.take(collection)
            self._take(collection)
            return {**self.state(), "compared": self._compared(before) if collection.version != before else ""}

    @staticmethod
    def _keys(collection: Collection) -> list[str]:
        return [image.key for image in collection.images]

    def _predictions(self) -> dict[str, str]:
        return {image.key: self._collection.label(image) for image in self._collection.images}

    def _compared(self, before: str) -> str:
        """Return what another version says about the images now: those that were corrected, and the others."""
        decisions, now = self._corrections.decisions(), self._predictions()
        wanted = {key: decisions[key].label for key in now if decisions.get(key, OPEN).verdict == "wrong"}
        right = sum(now[key] == label for key, label in wanted.items())
        others = sum(now[key] != label for key, label in self._predicted.items() if key in now and key not in wanted)
        return (
            f"{self._collection.version} after {before}: {right:,} of {len(wanted):,} corrected images are right now; "
            f"{others:,} others have another label than before"
        )

    def _moved(self, action: Action | None, known: int, view: str, *, is_back: bool) -> Answer:
        if action is None:
            return {**self._news(known), "moved": 0, "place": -1}
        changes = action.changes.items()
        self._count(((key, (after, before)) for key, (before, after) in changes) if is_back else changes)
        return {**self._news(known), "moved": len(changes), "place": self._place(next(iter(action.changes)), view)}

    def _place(self, key: str, view: str) -> int:
        """Return where an image stands in a view, -1 where it doesn't."""
        found, index = self._views.find(view), self._places.get(key)
        if found is None or index is None or index not in found.indexes:
            return -1
        return found.indexes.index(index)

    def _count(self, changes: Iterable[tuple[str, tuple[Decision, Decision]]]) -> None:
        """Keep the groups' numbers of images to look at."""
        for key, (before, after) in changes:
            if (index := self._places.get(key)) is None:
                continue
            group = self._groups[group_of(self._collection, self._collection.images[index])]
            group["todo"] = int(str(group["todo"])) + (after.verdict == "open") - (before.verdict == "open")

    def _news(self, known: int) -> Answer:
        paths = self._corrections.changed_since(known)
        changed = [self._shown(self._places[path]) for path in paths if path in self._places]
        return {"changed": changed, "groups": list(self._groups.values()), **self._standing()}

    def _standing(self) -> Answer:
        corrections = self._corrections
        return {"version": corrections.version, "undo": corrections.can_undo, "redo": corrections.can_redo}

    def _labels(self) -> list[str]:
        """Return all labels: those of the model that are predicted most first, then new ones."""
        predicted: Counter[str] = Counter()
        for (name, _), group in self._groups.items():
            predicted[name] += int(str(group["images"]))
        known = sorted(self._collection.labels, key=lambda label: -predicted[label])
        new = sorted({decision.label for decision in self._corrections.decisions().values() if decision.label})
        return list(dict.fromkeys([*known, *new]))

    def index(self, number: int) -> int:
        """Return where the image stands that the page knows by this number.

        Raises:
            UsageError: there is none; ViewGone if there was one before the run was read again.
        """
        index = number - self._first
        if 0 <= number < self._first:
            raise ViewGone("the run was read again, and has other images now")
        if not 0 <= index < len(self._collection.images):
            raise UsageError(f"there is no image {number}")
        return index

    def _decision(self, image: ReviewImage, verdict: str, label: str) -> Decision:
        predicted = self._collection.label(image)
        if verdict == "label":
            return Decision("right" if label == predicted else "wrong", label)
        if verdict == "right":
            if not predicted:
                raise UsageError(f"{image.path} has no label that could be right")
            return Decision("right", predicted)
        if verdict not in ("reject", "skip", "open"):
            raise UsageError(f"no verdict {verdict!r}")
        return Decision(verdict, "")

    def _subject(self, image: ReviewImage, digest: str) -> Subject:
        confidence = f"{image.ranked[0][1]:.{DIGITS}f}" if image.ranked else ""
        return Subject(image.key, self._collection.label(image), confidence, self._collection.version, digest)

    def _shown(self, index: int) -> Answer:
        image = self._collection.images[index]
        decision = self._corrections.decisions().get(image.key, OPEN)
        labels = self._collection.labels
        return {
            "id": self._first + index,
            "path": image.path,
            "ranked": [[labels[place], round(share, DIGITS)] for place, share in image.ranked[:SHOWN_LABELS]],
            "other": [image.other[0], round(image.other[1], DIGITS)] if image.other is not None else None,
            "decision": image.decision or "",
            "error": image.error,
            "detail": printable(image.detail),
            "verdict": decision.verdict,
            "label": decision.label,
        }
