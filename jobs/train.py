"""Training: the job that a producer queues, and the events that come back on its stream."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from jobs.messages import JobMessage, Message, ModelName, ModelPin, PathText, RunId

EventState = Literal["progress", "done", "failed", "cancelled"]


class TrainModel(JobMessage):
    """Train a network on a labelled folder and publish it as a new version of ``name``.

    ``purpose`` "score" publishes nothing and answers with the scores; so does "folds", with those of a cross-validation
    over ``folds`` parts of all images.
    """

    queue: ClassVar[str] = "train"
    task: ClassVar[str] = "sortline.train_model"

    job: RunId
    dataset: PathText
    name: ModelName
    recipe: dict[str, Any]  # configs.recipe.Recipe, validated by the worker
    backbone: ModelPin | None = None
    promote: Literal["gate", "always", "never"] = "gate"
    purpose: Literal["publish", "score", "folds"] = "publish"
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    fail_on_leak: bool = False


class JobEvent(Message):
    """One step in the life of a training job, on the job's stream."""

    job: RunId
    state: EventState
    text: str
    epoch: dict[str, float] | None = None
    model: ModelPin | None = None
    scores: dict[str, float] | None = None
