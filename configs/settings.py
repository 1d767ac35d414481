"""Settings: one frozen, typed object, built once in each ``__main__`` and handed down.

Order, the later winning: defaults in this file, a TOML file, ``SORTLINE_*`` in the environment, flags.
This is the only module that reads TOML or the environment.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from base.urls import checked_url, is_url

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENV_PREFIX = "SORTLINE_"
CONFIGS_FOLDER = Path(__file__).parent


class SettingsError(Exception):
    """A setting is unknown, of the wrong type or out of range. The message names the file or variable."""


# What load_settings has read, the strongest first; empty outside it.
_LAYERS: ContextVar[tuple[PydanticBaseSettingsSource, ...]] = ContextVar("layers", default=())


class _Table(BaseModel):
    # An error's own text, and so a traceback, must not show the broker's password.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class AugmentationSettings(_Table):
    """Random changes of training images. Validation images are never changed."""

    repeat: int = Field(
        0,
        ge=0,
        le=100,
        description="augmented passes beside the plain one, where features are cached; else one an epoch",
    )
    crop_area: float = Field(
        1.0, gt=0, le=1, description="smallest part of the image that a random crop shows; 1 never crops"
    )
    crop_ratio: float = Field(1.0, ge=1, le=4, description="how much wider or narrower a random crop may be")
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="largest turn either way, degrees")
    shift: float = Field(0.0, ge=0, le=0.5, description="largest shift either way, as a part of the side")
    zoom: float = Field(0.0, ge=0, le=0.9, description="largest change of size either way, as a part")
    flip: bool = Field(False, description="mirror half of the images left to right")
    brightness: float = Field(0.0, ge=0, lt=1, description="largest change either way, as a part")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest change either way, as a part")
    saturation: float = Field(0.0, ge=0, le=1, description="largest change either way, as a part")


class TrainingSettings(_Table):
    """The recipe of one training job. Travels in the job's message."""

    network: Literal["lenet5", "mobilenet_v2"] = "mobilenet_v2"
    backbone: str | None = Field(
        None, description="model-store reference of the pretrained, frozen backbone; none trains from scratch"
    )
    freeze: str = Field(
        "backbone",
        pattern=r"^(backbone|none|features\.([1-9]|1[0-8]))$",
        description="what is not trained: backbone (all of it), features.N (its layers before N) or none",
    )
    batch_norm: Literal["frozen", "trained"] = Field(
        "frozen", description="whether batch norm of trained layers of a backbone keeps its statistics"
    )
    height_px: int = Field(224, ge=8, le=1024)
    width_px: int = Field(224, ge=8, le=1024)
    fit: Literal["stretch", "crop", "pad"] = Field("crop", description="how an image is brought to height and width")
    pooling: Literal["mean", "max"] = Field("mean", description="of the last feature map, before the head")
    taps: tuple[Annotated[int, Field(ge=2, le=17)], ...] = Field(
        (), description="blocks of mobilenet_v2, 2 to 17, whose expanded maps are pooled beside the last map"
    )
    scales: tuple[Annotated[float, Field(gt=0, le=4)], ...] = Field(
        (1.0,), min_length=1, description="of the input, at which the backbone sees each image; above 1 enlarges"
    )
    mirrored: bool = Field(False, description="average each image's features with its mirror image's")
    root: bool = Field(False, description="take the root of each map's features and bring them to length 1")
    prototypes: int = Field(
        0,
        ge=0,
        le=4096,
        description="radial units between features and classes, at most one a training image; 0 is a linear head",
    )
    head_bias: bool = True
    dropout: float = Field(0.0, ge=0, lt=1, description="part of the head's inputs dropped in training")
    epochs: int = Field(40, ge=1, le=10_000)
    batch_size: int = Field(32, ge=1, le=4096, description="images in one training step")
    optimizer: Literal["momentum", "adam", "adamw", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    beta1: float = Field(0.9, ge=0, lt=1, description="of adam and adamw: decay of the mean gradient")
    beta2: float = Field(0.999, ge=0, lt=1, description="of adam and adamw: decay of the mean squared gradient")
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
        0.01, ge=0, le=1, description="accuracy that a new version may lose against production, as a part"
    )
    gate_recall_margin: float = Field(
        0.15, ge=0, le=1, description="recall of any one class that a new version may lose, as a part"
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=0.9, description="part of the families held out when there is no val/"
    )
    int8: bool = Field(
        False, description="make an 8-bit graph too, and publish it if it labels as f32 does; for CPUs with VNNI"
    )
    f16: bool = Field(
        False, description="judge 16-bit floats too, so that GPU workers serve them if they label as f32 does"
    )
    feature_dtype: Literal["float16", "float32"] = Field("float16", description="of cached features on disk")
    seed: int = Field(0, ge=0, lt=2**31)
    augmentation: AugmentationSettings = AugmentationSettings()

    @model_validator(mode="after")
    def _check_rates(self) -> TrainingSettings:
        if self.lr_init > self.lr_max or self.lr_end > self.lr_max:
            raise ValueError("lr_init and lr_end must not be above lr_max")
        return self

    @model_validator(mode="after")
    def _check_int8(self) -> TrainingSettings:
        if self.int8 and self.network != "mobilenet_v2":
            raise ValueError(f"int8 makes 8-bit graphs of mobilenet_v2 only, not of {self.network}")
        return self

    @model_validator(mode="after")
    def _check_frozen_part(self) -> TrainingSettings:
        widened = bool(self.taps or self.scales != (1.0,) or self.mirrored or self.root or self.prototypes)
        if widened and (self.freeze != "backbone" or self.backbone is None):
            raise ValueError(
                'taps, scales, mirrored, root and prototypes need a backbone that is frozen whole (freeze = "backbone")'
            )
        if self.backbone is not None and self.freeze == "none" and self.augmentation.repeat:
            raise ValueError(
                "augmentation.repeat counts views of cached features; freeze = none changes them every epoch"
            )
        return self


def default_home() -> Path:
    """Where Sortline keeps its state when nothing says otherwise: the XDG data folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "sortline"


class Settings(BaseSettings):
    """Everything a Sortline process can be told. Units stand in each description.

    Made directly, it holds what it is given; only ``load_settings`` reads files and the environment.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    home: Path = Field(default_factory=default_home, description="store, runs, caches, sockets and the private Redis")
    broker: str | None = Field(
        None, description="redis://, rediss:// or unix:// URL; none starts a private Redis", repr=False
    )
    broker_ca: Path | None = Field(None, description="certificate authority (PEM) that a rediss:// server must prove")
    data_root: Path | str | None = Field(
        None,
        description="folder that holds all images, or its URL; messages carry paths below it. Needed with a broker of "
        "your own",
    )
    store: Path | None = Field(None, description="model store; none is HOME/store")
    key_prefix: str = Field("sortline:", pattern=r"^[A-Za-z0-9:_-]{1,64}$", description="of every key in Redis")

    chunk_images: int = Field(
        0, ge=0, le=4096, description="images in one queue message; 0 aims at 2 s of a worker's time"
    )
    window_chunks: int = Field(16, ge=1, le=100_000, description="chunks of a run that may wait in Redis at once")
    stale_s: float = Field(90.0, gt=0, description="seconds without rows after which a lost chunk is sent again")
    visibility_timeout_s: int = Field(
        10, ge=3, le=86_400, description="seconds after which Redis gives the work of a silent worker to another"
    )
    stuck_s: float = Field(
        300.0, gt=0, description="seconds on one chunk after which a label worker counts as stuck and ends itself"
    )
    max_memory_bytes: int = Field(
        0, ge=0, description="resident memory above which a label worker ends after its chunk, to start anew; 0 never"
    )

    device: Literal["auto", "cpu", "cuda", "ascend"] = "auto"
    engine: Literal["auto", "openvino", "onnxruntime", "mindspore"] = "auto"
    precision: Literal["auto", "f32", "bf16", "f16", "int8", "int8+bf16"] = "auto"
    decode_threads: int = Field(0, ge=0, le=256, description="threads that read and decode; 0 is one a core")
    remote_connections: int = Field(
        32, ge=1, le=256, description="images that a label worker fetches at once where its data root is a URL"
    )
    feature_cache: Path | None = Field(
        None, description="features of training images, kept for later jobs; none is HOME/features"
    )
    feature_cache_bytes: int = Field(20_000_000_000, ge=1, description="that the feature cache may take on disk")
    max_image_bytes: int = Field(100_000_000, ge=1, description="larger files become error rows, unread")
    max_image_pixels: int = Field(100_000_000, ge=1, description="larger images become error rows, undecoded")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field("text", description="of the workers' logs: for people, or JSON lines")
    metrics_port: int = Field(
        0, ge=0, le=65_535, description="on which a worker answers Prometheus; one of its own for each, 0 for none"
    )
    metrics_address: str = Field("127.0.0.1", description="that the metrics are bound to; they know no password")

    training: TrainingSettings = TrainingSettings()

    @field_validator("broker")
    @classmethod
    def _check_broker(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("a broker is a redis://, rediss:// or unix:// URL")
        return url

    @field_validator("data_root", mode="before")
    @classmethod
    def _check_root(cls, root: object) -> object:
        if isinstance(root, str):
            return checked_url(root) if is_url(root) else Path(root)
        if root is not None and not isinstance(root, Path):
            raise ValueError("a folder or a URL")
        return root

    @field_validator("home", "store", "data_root", "broker_ca", "feature_cache")
    @classmethod
    def _make_absolute(cls, path: Path | str | None) -> Path | str | None:
        if not isinstance(path, Path):  # none, or a URL
            return path
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps links

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the layers of ``load_settings`` below what is given."""
        return init_settings, *_LAYERS.get()

    @property
    def store_root(self) -> Path:
        """Root folder of the model store."""
        return self.store or self.home / "store"

    @property
    def feature_cache_root(self) -> Path:
        """Root folder of the feature cache."""
        return self.feature_cache or self.home / "features"


def load_settings(
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of this process.

    Args:
        config_file: TOML file, or the bare name of one that ships in ``configs/``.
        flags: settings from the command line, nested like the TOML file; ``None`` values are ignored.
        environment: ``os.environ`` unless given. ``SORTLINE_TRAINING__EPOCHS`` sets ``training.epochs``.

    Raises:
        SettingsError: the file can't be read, or a key is unknown (the nearest known one is named) or has a bad value.
    """
    # Not the library's own source for the environment: it passes over a variable that no setting has.
    variables = _from_environment(os.environ if environment is None else environment)
    layers: list[PydanticBaseSettingsSource] = [InitSettingsSource(Settings, variables)]
    if config_file is not None:
        layers.append(_toml_layer(find_config(config_file)))
    token = _LAYERS.set(tuple(layers))
    try:
        return Settings(**{key: value for key, value in (flags or {}).items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item) for item in error.errors())) from error
    finally:
        _LAYERS.reset(token)


def training_settings(values: Mapping[str, Any]) -> TrainingSettings:
    """Return the recipe in ``values`` (from a message); a bad or unknown key raises SettingsError."""
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(item, ("training",)) for item in error.errors())) from error


def find_config(path: Path) -> Path:
    """Return the TOML file that ``path`` means: itself, or the one of that name that ships with Sortline."""
    shipped = CONFIGS_FOLDER / f"{path.stem}.toml"
    # Only a bare name or configs/NAME can mean a shipped file: ./my/waste26.toml that is missing must be an error.
    may_ship = path.parent in (Path(), Path("configs"))
    for candidate in (path, shipped) if may_ship else (path,):
        if candidate.is_file():
            return candidate
    names = ", ".join(sorted(file.name for file in CONFIGS_FOLDER.glob("*.toml")))
    raise SettingsError(f"no configuration file {path}; pass a TOML file, or one of these: {names}")


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """Return ``["epochs=5", "augmentation.flip=true"]`` as a nested table; values are TOML, else text."""
    table: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--set takes KEY=VALUE, not {assignment!r}")
        _merge(table, _nest(key.strip().split("."), _parse_value(text.strip())))
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file that holds no settings; SettingsError says why it can't be read."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, no TOML, too long a number, too deep
        raise SettingsError(f"{path}: {error}") from error
    return table


def _toml_layer(path: Path) -> PydanticBaseSettingsSource:
    try:
        return TomlConfigSettingsSource(Settings, path)
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, no TOML, too long a number, too deep
        raise SettingsError(f"{path}: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX) and text != "":
            _merge(table, _nest(name[len(ENV_PREFIX) :].lower().split("__"), text))
    return table


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(item: Any, prefix: tuple[str, ...] = ()) -> str:
    """Turn one of pydantic's errors into a line for the person who wrote the setting."""
    where = (*prefix, *(str(part) for part in item["loc"]))
    key = ".".join(where) or "settings"
    if item["type"] != "extra_forbidden":
        # a password; a whole table; a URL that may carry either
        hidden = where[-1:] == ("broker",) or isinstance(item["input"], Mapping) or is_url(str(item["input"]))
        shown = "" if hidden else f" (got {item['input']!r})"
        return f"setting {key}: {item['msg'].removeprefix('Value error, ')}{shown}"
    known = _known_keys()
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
        candidate for candidate in known if candidate.split(".")[-1] == where[-1]
    ]
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
    return f"unknown setting {key}{hint}"


def _known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
