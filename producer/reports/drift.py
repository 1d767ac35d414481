"""Whether what a run labelled looks like what its model was trained on: by confidences and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from base.drift import LEAST_IMAGES, Expected, Shift, confidence_shift, label_shift, mean_of, outlier_shift
from jobs import ModelPin
from producer.reports.tally import Tally
from producer.runfile import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the answers of a run differ from those about the images that its model was not trained on.

    Attributes:
        images: that were labelled.
        distance: how much further from those of training, where that is known.
        means: of the confidences, expected and found.
        more: the label whose part has grown most, with its expected and its found part.
    """

    model: ModelPin
    images: int
    expected: Expected
    confidence: Shift
    labels: Shift
    distance: Shift | None
    means: tuple[float, float]
    more: tuple[str, float, float]

    @classmethod
    def of(cls, plan: Plan, counts: Tally) -> Drift | None:
        """Return the drift of a run; None where it is not known what its model answered before."""
        if (expected := plan.expected) is None or not expected.images:
            return None
        found = [counts.classes[index] for index in range(len(plan.labels))]
        parts = [
            (name, before / expected.images, now / max(counts.ok, 1))
            for name, before, now in zip(plan.labels, expected.labels, found, strict=True)
        ]
        return cls(
            model=plan.model,
            images=counts.ok,
            expected=expected,
            confidence=confidence_shift(expected.confidences, counts.confidences),
            labels=label_shift(expected.labels, found),
            distance=(
                outlier_shift(expected.outliers, expected.images, counts.outliers)
                if counts.outliers.total() >= LEAST_IMAGES
                else None
            ),
            means=(mean_of(expected.confidences), mean_of(counts.confidences)),
            more=max(parts, key=lambda part: part[2] - part[1]),
        )

    @property
    def is_known(self) -> bool:
        """Whether there are enough images to say anything."""
        return self.images >= LEAST_IMAGES

    @property
    def looks_alike(self) -> bool | None:
        """Whether the images look like those of training; None where they are too few to say.

        Where distances say that they do, another mix of labels is no reason against it.
        """
        if not self.is_known:
            return None
        if self.distance is None:
            return not (self.confidence.is_drift or self.labels.is_drift)
        return not (self.confidence.is_drift or self.distance.is_drift)

    def sentence(self) -> str:
        """Return whether the images look like what the model was trained on."""
        model, confidence, labels, distance = self.model, self.confidence, self.labels, self.distance
        if not self.is_known:
            return f"{self.images} images are too few to say whether they look like those {model} was trained on"
        before, now = (f"{100 * mean:.0f} %" for mean in self.means)
        index = f"(stability index {confidence.index:.2f}, limit {confidence.limit:.2f})"
        unlike = f"these images do not look like those {model} was trained on"
        less_sure = f"its mean confidence is {now}, and was {before} on images held out {index}"
        is_less_sure = confidence.is_drift and self.means[1] < self.means[0]
        if distance is not None and distance.is_drift:
            also = f"; {less_sure}" if is_less_sure else ""
            return (
                f"{unlike}: they are further from them than images held out (two-sample distance {distance.index:.2f}, "
                f"limit {distance.limit:.2f}){also}"
            )
        if is_less_sure:
            return f"{unlike}: {less_sure}"
        if confidence.is_drift:
            return (
                f"{model} is surer of these images, {now} on average, than of those held out, {before} {index}: they "
                "may be easier, or among those that it was trained on"
            )
        if labels.is_drift:
            name, was, is_now = self.more
            mix = (
                f"{name} is {100 * is_now:.0f} %, and was {100 * was:.0f} % (stability index {labels.index:.2f}, limit "
                f"{labels.limit:.2f})"
            )
            if distance is not None:
                return f"these images look like those {model} was trained on, in another mix of labels: {mix}"
            return (
                f"these images have another mix of labels than those {model} was trained on: {mix}; they may show "
                "other parts of the classes, or something else"
            )
        far = f", two-sample distance {distance.index:.2f}" if distance is not None else ""
        return (
            f"these images look like those {model} was trained on (stability index of confidences "
            f"{confidence.index:.2f}, of labels {labels.index:.2f}{far})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what a script wants to know."""
        return {
            "looks_alike": self.looks_alike,
            "held_out_images": self.expected.images,
            "confidence": {
                **_shift(self.confidence),
                "mean": round(self.means[1], 4),
                "expected": round(self.means[0], 4),
            },
            "labels": _shift(self.labels),
            **({"distance": _shift(self.distance, "two_sample")} if self.distance is not None else {}),
            "sentence": self.sentence(),
        }


def _shift(shift: Shift, name: str = "psi") -> dict[str, Any]:
    return {name: round(shift.index, 4), "limit": round(shift.limit, 4), "drift": shift.is_drift}
