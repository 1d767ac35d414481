"""Training: the job that a producer queues, and the events that come back on its stream."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from jobs.messages import JobMessage, Message, ModelName, ModelPin, PathText, RunId

EventState = Literal["progress", "done", "failed", "cancelled"]


class TrainModel(JobMessage):
    """Train a network on a labelled folder and publish it as a new version of ``name``.

    ``purpose`` "score" publishes nothing and answers with the scores; so does "folds", with those of a cross-validation
    over ``folds`` parts of all images, and "audit", with what such networks find wrong with the images.
    """

    queue: ClassVar[str] = "train"
    task: ClassVar[str] = "sortline.train_model"

    job: RunId
    dataset: PathText
    later_sources: tuple[PathText, ...] = ()  # further images, and other labels for those of ``dataset``
    name: ModelName
    recipe: dict[str, Any]  # configs.recipe.Recipe, validated by the worker
    backbones: tuple[ModelPin, ...] = ()  # of the recipe, in its order
    promote: Literal["gate", "always", "never"] = "gate"
    purpose: Literal["publish", "score", "folds", "audit"] = "publish"
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    fail_on_leak: bool = False
    embeddings: bool = False  # whether an audit sends the features of each image, projected

    @property
    def ids(self) -> dict[str, object]:
        return {"job": self.job}

    @property
    def sources(self) -> tuple[PathText, ...]:
        """All that is trained on; of the same image the last label counts."""
        return (self.dataset, *self.later_sources)


class Finding(NamedTuple):
    """What an audit found of one image; paths are below the data root.

    Attributes:
        suggested: the label that networks which have not seen the image give it.
        suspicious: whether they are sure of another label.
        same_as, similar_to: another image with the same bytes, or one of the same class that looks alike; or "".
        leak: an image on the other side of train and val with the same bytes or the same looks; or "".
        outlier: how far it is from the images that are most like it, from 0 to 1; None without a backbone.
        blur, dark, overexposed, tiny, odd_shape: of the picture, from 0 to 1, higher for worse.
    """

    path: str
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    suspicious: bool
    same_as: str
    similar_to: str
    leak: str
    outlier: float | None
    blur: float
    dark: float
    overexposed: float
    tiny: float
    odd_shape: float


class JobEvent(Message):
    """One step in the life of a training job, on the job's stream."""

    job: RunId
    state: EventState
    text: str
    epoch: dict[str, float] | None = None
    model: ModelPin | None = None
    scores: dict[str, float] | None = None
    findings: tuple[Finding, ...] = ()
    embeddings: tuple[str, ...] = ()  # of the findings, if the job asks for them: float16 in base64
