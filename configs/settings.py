"""Settings of a process: one frozen, typed object, built once in each ``__main__`` and handed down.

Order, the later winning: defaults in this file, a TOML file, ``SORTLINE_*`` in the environment, flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from base.broker_url import parse_broker_url
from base.names import Priority
from base.urls import checked_url, is_url
from configs.errors import SettingsError, explained
from configs.recipe import Recipe
from configs.tables import find_config, merge, nest, read_toml

ENV_PREFIX = "SORTLINE_"
MAX_CHUNK_IMAGES = 4096  # in one message
MAX_PROCESSES = 64


def default_home() -> Path:
    """Where Sortline keeps its state when nothing says otherwise: the XDG data folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    try:
        return Path(data).expanduser() / "sortline"
    except RuntimeError as error:
        raise SettingsError("this user has no home folder: set SORTLINE_HOME to a folder that it may write") from error


class Settings(BaseModel):
    """All settings of a Sortline process. Units stand in each description.

    Made directly, it holds what it is given; only ``load_settings`` reads files and the environment.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )

    home: Path = Field(default_factory=default_home, description="store, runs, caches, sockets and the private Redis")
    broker: str | None = Field(
        None, description="redis://, rediss://, unix:// or sentinel:// URL; none starts a private Redis", repr=False
    )
    webhook: str | None = Field(
        None, description="http:// or https:// URL that `sortline watch` sends the counts of each batch to", repr=False
    )
    broker_ca: Path | None = Field(None, description="certificate authority (PEM) that a server with TLS must prove")
    data_root: Path | str | None = Field(
        None,
        description="folder that holds all images, or its URL; messages carry paths below it. Needed with a broker of "
        "your own",
    )
    store: Path | None = Field(None, description="model store; none is HOME/store")
    key_prefix: str = Field("sortline:", pattern=r"^[A-Za-z0-9:_-]{1,64}$", description="prefix of every key in Redis")

    chunk_images: int = Field(
        0, ge=0, le=MAX_CHUNK_IMAGES, description="images in one chunk; 0 aims at 2 s of a worker's time"
    )
    window_chunks: int = Field(
        0,
        ge=0,
        le=100_000,
        description="chunks of a run that may be in flight at once; 0 is three a worker, or 16 of a fixed chunk_images",
    )
    priority: Priority = Field(
        "normal",
        description="of runs: high goes before all others with small runs, low after all others; of trainings that "
        "wait: high is the next, low comes after all others",
    )
    stale_s: float = Field(
        90.0, gt=0, description="seconds without news after which a training job that Redis lost is queued again"
    )
    visibility_timeout_s: int = Field(
        10,
        ge=3,
        le=86_400,
        description="seconds without a sign of a worker after which its work is redelivered to another",
    )
    stuck_s: float = Field(
        300.0, gt=0, description="seconds on one chunk after which a label worker counts as stuck and ends itself"
    )
    max_memory_bytes: int = Field(
        0,
        ge=0,
        description="resident memory above which a label worker ends after its chunk and is started again; 0 never",
    )

    device: Literal["auto", "cpu", "cuda", "ascend"] = "auto"
    engine: Literal["auto", "openvino", "onnxruntime", "mindspore"] = "auto"
    precision: Literal["auto", "f32", "bf16", "f16", "int8", "int8+bf16"] = "auto"
    cascade: Literal["auto", "off"] = Field(
        "auto", description="whether versions that have a first stage use it, on a CPU: it answers what it is sure of"
    )
    processes: int = Field(
        0,
        ge=0,
        le=MAX_PROCESSES,
        description="processes of a label worker, which share the cores and GPUs; 0 is one on a CPU, and on a GPU as "
        "many as it takes to fill it",
    )
    cores: int = Field(
        0, ge=0, le=1024, description="cores for the engine and for reading and decoding, in each process; 0 is all"
    )
    decode_threads: int = Field(0, ge=0, le=256, description="threads that read and decode; 0 is one a core")
    remote_connections: int = Field(
        32, ge=1, le=256, description="images that a label worker fetches at once where its data root is a URL"
    )
    feature_cache: Path | None = Field(
        None, description="features of training images, kept for later jobs; none is HOME/features"
    )
    feature_cache_bytes: int = Field(20_000_000_000, ge=1, description="bytes that the feature cache may take on disk")
    max_image_bytes: int = Field(100_000_000, ge=1, description="larger files become error rows, unread")
    max_image_pixels: int = Field(100_000_000, ge=1, description="larger images become error rows, undecoded")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = Field(
        "text", description="format of the workers' logs: text for people, or JSON lines"
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port on which a worker serves Prometheus metrics; each worker needs its own; 0 for none",
    )
    metrics_address: str = Field("127.0.0.1", description="address of the metrics, which have no password")

    training: Recipe = Recipe()

    @field_validator("broker")
    @classmethod
    def _check_broker(cls, url: str | None) -> str | None:
        try:
            if url is not None:
                parse_broker_url(url)
            return url
        except ValueError as error:
            raise ValueError(f"not a URL that Sortline can connect by: {error}") from None

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
        try:
            return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - keeps links
        except RuntimeError as error:
            raise ValueError("~ stands for no folder: that user is not known here, or has no home") from error

    @property
    def store_root(self) -> Path:
        return self.store or self.home / "store"

    @property
    def feature_cache_root(self) -> Path:
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
    table = {} if config_file is None else read_toml(find_config(config_file))
    merge(table, _from_environment(os.environ if environment is None else environment))
    merge(table, {key: value for key, value in (flags or {}).items() if value is not None})
    try:
        return Settings(**table)
    except ValidationError as error:
        raise explained(error, Settings) from error


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the variables that give another process these settings, whatever file or option they came from.

    A recipe travels inside its job.
    """
    named = settings.model_copy(update={"store": settings.store_root}).model_dump(
        exclude={"training", "webhook"}, exclude_none=True
    )
    return {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in named.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX) and text != "":
            merge(table, nest(name[len(ENV_PREFIX) :].lower().split("__"), text))
    return table
