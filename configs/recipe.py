"""The recipe of one training: what ``[training]`` in a TOML file may say. It travels in the job's message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from base.networks import NETWORKS
from configs.errors import SettingsError, explained

MOST_BACKBONES = 8

Layers = tuple[Annotated[int, Field(ge=1)], ...]
Scales = Annotated[tuple[Annotated[float, Field(gt=0, le=4)], ...], Field(min_length=1)]

# What only a training in epochs uses.
IN_EPOCHS = (
    "dropout", "epochs", "batch_size", "optimizer", "momentum", "beta1", "beta2", "weight_decay",
    "lr_schedule", "lr_init", "lr_max", "lr_end", "warmup_steps", "loss", "label_smoothing", "patience",
)  # fmt: skip


class _Table(BaseModel):
    # An error's own text, and so a traceback, must not show the broker's password.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Augmentation(_Table):
    """Random changes of training images. Validation images are never changed."""

    repeat: int = Field(
        0,
        ge=0,
        le=100,
        description="augmented views of each image beside the plain one, where features are cached; else one an epoch",
    )
    crop_area: float = Field(
        1.0, gt=0, le=1, description="smallest part of the image that a random crop shows; 1 never crops"
    )
    crop_ratio: float = Field(1.0, ge=1, le=4, description="how much wider or narrower a random crop may be")
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="largest turn either way, degrees")
    shift: float = Field(0.0, ge=0, le=0.5, description="largest shift either way, as a fraction of the side")
    zoom: float = Field(0.0, ge=0, le=0.9, description="largest change of size either way, as a fraction")
    flip: bool = Field(False, description="flip half of the images left to right")
    brightness: float = Field(0.0, ge=0, lt=1, description="largest change either way, as a fraction")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest change either way, as a fraction")
    saturation: float = Field(0.0, ge=0, le=1, description="largest change either way, as a fraction")


class Backbone(_Table):
    """One of the pretrained, frozen parts of a network; what is left out is as the recipe says for all."""

    name: str = Field(min_length=1, description="model-store reference")
    features_at: str = Field(
        "",
        description="of an imported graph: the node whose output are the features; without it, what goes into the last "
        "linear layer",
    )
    pooling: Literal["mean", "max"] | None = Field(None, description="instead of the recipe's")
    intermediate_layers: Layers | None = Field(None, description="instead of the recipe's")
    scales: Scales | None = Field(None, description="instead of the recipe's")


def _form(value: object) -> str:
    return "as a table" if isinstance(value, Mapping | Backbone) else "as a name"


def _forms(value: object) -> str:
    return "as a list" if isinstance(value, list | tuple) else _form(value)


# Tagged, so that an error names the one form that was given; `configs.errors` leaves the tags out.
_Name: TypeAlias = Annotated[str, Tag("as a name")]
_OneTable: TypeAlias = Annotated[Backbone, Tag("as a table")]
_List: TypeAlias = tuple[Annotated[_Name | _OneTable, Discriminator(_form)], ...]
Backbones: TypeAlias = Annotated[
    _Name | _OneTable | Annotated[_List, Field(min_length=1, max_length=MOST_BACKBONES), Tag("as a list")],
    Discriminator(_forms),
]


class Recipe(_Table):
    """The recipe of one training job. Travels in the job's message."""

    network: str = Field(
        "mobilenet_v2",
        description=f"which network is trained: {', '.join(NETWORKS)}; an imported graph and joined backbones are what "
        "they are",
    )
    backbone: Backbones | None = Field(
        None,
        description="model-store reference of the pretrained, frozen backbone, or a list of several to be joined; none "
        "trains from scratch",
    )
    freeze: str = Field(
        "backbone",
        pattern=r"^(backbone|none|features\.[1-9][0-9]?)$",
        description="what is not trained: backbone (all of it), features.N (its layers before N) or none",
    )
    batch_norm: Literal["frozen", "trained"] = Field(
        "frozen", description="whether trained layers of a backbone keep the statistics of their batch norm"
    )
    height_px: int = Field(224, ge=8, le=1024)
    width_px: int = Field(224, ge=8, le=1024)
    fit: Literal["stretch", "crop", "pad"] = Field("crop", description="how an image is brought to height and width")
    pooling: Literal["mean", "max"] = Field("mean", description="how the last feature map is pooled, before the head")
    intermediate_layers: Layers = Field(
        (), description="layers whose maps are pooled beside the last one; of mobilenet_v2 2 to 17"
    )
    scales: Scales = Field(
        (1.0,),
        description="scales of the input at which the backbone sees each image, one pass each; above 1 enlarges",
    )
    cascade: float = Field(
        0.0,
        ge=0,
        le=4,
        description="scale of the input at which a first stage answers the images that it is sure of; 0 is none",
    )
    flip_averaging: bool = Field(False, description="average each image's features with its mirror image's")
    hellinger: bool = Field(
        False, description="Hellinger normalisation: square root of each map's features, brought to length 1"
    )
    rbf_centers: int = Field(
        0,
        ge=0,
        le=4096,
        description="RBF units between features and classes, at most one a training image; 0 is a linear head",
    )
    ridge: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="penalty of a head on RBF centers, which is solved at once by kernel ridge regression",
    )
    head_bias: bool = True
    dropout: float = Field(0.0, ge=0, lt=1, description="fraction of the head's inputs dropped in training")
    epochs: int = Field(40, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=4096, description="images in one training step")
    optimizer: Literal["momentum", "adam", "adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean gradient, for adam and adamw")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the mean squared gradient, for adam and adamw")
    weight_decay: float = Field(0.0, ge=0, le=1)
    lr_schedule: Literal["constant", "square", "cosine"] = "cosine"
    lr_init: float = Field(0.0, ge=0, le=10, description="learning rate at the first step of the warm-up")
    lr_max: float = Field(0.001, gt=0, le=10, description="learning rate after the warm-up")
    lr_end: float = Field(0.0, ge=0, le=10, description="learning rate at the last step")
    warmup_steps: int = Field(0, ge=0)
    loss: Literal["cross_entropy", "squared"] = Field(
        "cross_entropy", description="squared: distance of the outputs to 1 for the true class and 0 for the others"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class counts the same, however many images it has"
    )
    patience: int = Field(0, ge=0, description="epochs without a better one before training stops; 0 never")
    gate_accuracy_margin: float = Field(
        0.01, ge=0, le=1, description="fraction of accuracy that a new version may lose against production"
    )
    gate_recall_margin: float = Field(
        0.15, ge=0, le=1, description="fraction of recall of any one class that a new version may lose"
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.9, description="fraction of the families held out when there is no val/"
    )
    refit: bool = Field(
        True,
        description="train once more on all images and publish that; the scores stay those of the training before",
    )
    int8: bool = Field(
        False, description="make an 8-bit graph too, and publish it if it labels as f32 does; for CPUs with VNNI"
    )
    f16: bool = Field(
        False, description="compare 16-bit floats too, so that GPU workers use them if they label as f32 does"
    )
    feature_dtype: Literal["float16", "float32"] = Field("float16", description="type of cached features on disk")
    seed: int = Field(0, ge=0, lt=2**31)
    augmentation: Augmentation = Augmentation()

    @field_validator("network")
    @classmethod
    def _check_network(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"must be one of {', '.join(NETWORKS)}")
        return name

    @property
    def backbones(self) -> tuple[Backbone, ...]:
        """The backbones, none or one or several to be joined, each with all that it leaves to the recipe."""
        usual = {key: getattr(self, key) for key in ("pooling", "intermediate_layers", "scales")}
        return tuple(Backbone(**{**usual, **one.model_dump(exclude_none=True)}) for one in self._tables)

    @property
    def _tables(self) -> tuple[Backbone, ...]:
        """The backbones as they were written; a name is a table that says nothing more."""
        given = self.backbone if isinstance(self.backbone, tuple) else (self.backbone,)
        return tuple(one if isinstance(one, Backbone) else Backbone(name=one) for one in given if one)

    def with_features_at(self, texts: Sequence[str]) -> Recipe:
        """Return this recipe with ``features_at`` of its backbones from ``NODE``, for the only one, or ``NAME=NODE``.

        Raises:
            SettingsError: one does not say of which backbone, or the recipe has none.
        """
        tables = list(self._tables)
        for text in texts:
            name, equals, node = text.partition("=")
            if len(tables) == 1 and not (equals and name == tables[0].name):
                name, node = tables[0].name, text  # the name of a node may hold a "="
            places = [place for place, one in enumerate(tables) if one.name == name]
            if len(places) != 1 or not node:
                known = ", ".join(one.name for one in tables) or "none; name one with --set backbone=NAME"
                raise SettingsError(
                    f"--features-at takes the NODE of the recipe's only backbone, or NAME=NODE, not {text!r}; "
                    f"backbones of the recipe: {known}"
                )
            tables[places[0]] = tables[places[0]].model_copy(update={"features_at": node})
        return self.model_copy(update={"backbone": tuple(tables) if isinstance(self.backbone, tuple) else tables[0]})

    @model_validator(mode="after")
    def _check_rates(self) -> Recipe:
        if self.lr_init > self.lr_max or self.lr_end > self.lr_max:
            raise ValueError("lr_init and lr_end must not be above lr_max")
        return self

    @model_validator(mode="after")
    def _check_frozen_part(self) -> Recipe:
        backbones = self.backbones
        plain = Backbone(name="plain", intermediate_layers=self.intermediate_layers, scales=self.scales)
        widened = any((self.flip_averaging, self.hellinger, self.rbf_centers, self.cascade, len(backbones) > 1)) or any(
            one.intermediate_layers or one.scales != (1.0,) for one in (plain, *backbones)
        )
        if widened and (self.freeze != "backbone" or not backbones):
            raise ValueError(
                "intermediate_layers, scales, cascade, flip_averaging, hellinger, rbf_centers and several backbones "
                'need backbones that are frozen whole (freeze = "backbone")'
            )
        unused = [key for key in IN_EPOCHS if getattr(self, key) != type(self).model_fields[key].default]
        if self.rbf_centers and unused:
            raise ValueError(
                f"{', '.join(unused)}: a head on RBF centers is solved at once and has no epochs; take "
                f"{'it' if len(unused) == 1 else 'them'} out and change ridge, or set rbf_centers = 0"
            )
        if backbones and self.freeze == "none" and self.augmentation.repeat:
            raise ValueError(
                "augmentation.repeat counts views of cached features; freeze = none changes them every epoch"
            )
        return self


def read_recipe(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe in ``values`` (from a message); a bad or unknown key raises SettingsError."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise explained(error, Recipe, ("training",)) from error
