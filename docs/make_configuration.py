"""Write docs/reference/configuration.md and recipe.md from their classes: ``python docs/make_configuration.py``.

A unit test compares the pages with what this script would write.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.recipe import Augmentation, Backbone, Recipe
from configs.settings import Settings

FOLDER = Path(__file__).with_name("reference")

# Meanings of settings whose field has no description of its own.
MEANINGS = {
    "device": "where labels are computed: auto takes CUDA if ONNX Runtime can use it, else the CPU",
    "engine": "what runs the exported network: auto is openvino on a CPU, onnxruntime on CUDA, mindspore on Ascend",
    "precision": "precision of the engine: auto is the fastest that was proven to label as f32 does",
    "log_level": "level of the workers' logs",
    "training.height_px": "height of the network's input, pixels",
    "training.width_px": "width of the network's input, pixels",
    "training.epochs": "passes over the training images, at most",
    "training.optimizer": "how gradients change the weights",
    "training.momentum": "for the momentum optimizer",
    "training.weight_decay": "as the optimizer defines it; not for biases and batch norm",
    "training.lr_schedule": "how the learning rate goes from lr_max to lr_end after the warm-up",
    "training.head_bias": "whether the head has a bias",
    "training.warmup_steps": "steps from lr_init to lr_max",
    "training.label_smoothing": "probability that is taken from the true class and spread over all",
    "training.seed": "seed of the folds, the first weights, the order of images and the augmentation",
}
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}

CONFIGURATION = """# Configuration

This page is written by `python docs/make_configuration.py` from `configs/settings.py`; change it there.

A setting is looked for in this order; the later one wins:

1. the defaults below;
2. the TOML file of `--config`: a path, or the name of one in `configs/`, such as `default` or `waste26`;
3. the environment: `SORTLINE_` and the key in capitals, two underscores for a table;
4. options of the command, such as `--home`, `--broker`, `--data-root`, `--store`, and `--set KEY=VALUE` of `train`.

An unknown key is an error that names the nearest known one. An empty variable counts as not set. A worker reads its own
file and environment. Of a producer's settings only those of a [training recipe](recipe.md) travel, inside the job.

```sh
export SORTLINE_CHUNK_IMAGES=64
export SORTLINE_TRAINING__AUGMENTATION__FLIP=true
sortline train photos/ --config waste26 --set ridge=0.3
```

## Settings
"""
RECIPE = """# Training recipe

This page is written by `python docs/make_configuration.py` from `configs/recipe.py`; change it there.

A recipe is the table `[training]` of a TOML file. `sortline train --config FILE` names the file, `--set KEY=VALUE`
changes one value, `--sweep KEY=V1,V2` tries several. [Training](../guide/training.md#recipes) says which recipes ship.

`intermediate_layers`, `scales`, `cascade`, `flip_averaging`, `hellinger`, `rbf_centers` and several backbones need
backbones that are frozen whole (`freeze = "backbone"`). A head on RBF centers is solved at once: beside `rbf_centers`,
keys that only a training in epochs uses (such as `epochs` and `lr_max`) are refused. `lr_init` and `lr_end` may not be
above `lr_max`.

## Keys of `[training]`
"""
BACKBONE = """
## A backbone as a table

Several backbones see the same picture, and the head gets the features of all of them, in this order. Each may have
pooling, layers and scales of its own:

```toml
backbone = ["efficientnet-lite1", { name = "mobilenetv2-imagenet", intermediate_layers = [15], scales = [1.0, 1.43] }]
```
"""
AUGMENTATION = "\n## Augmentation: `[training.augmentation]`\n"


def pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    used: set[str] = set()
    found = {
        "configuration.md": CONFIGURATION + table(Settings, "", "", used),
        "recipe.md": RECIPE
        + table(Recipe, "training.", "training.", used)
        + BACKBONE
        + table(Backbone, "", "", used)
        + AUGMENTATION
        + table(Augmentation, "training.augmentation.", "training.", used),
    }
    if stale := MEANINGS.keys() - used:
        raise SystemExit(f"MEANINGS has settings that are gone: {', '.join(sorted(stale))}")
    return found


def table(record: type[BaseModel], prefix: str, hidden: str, used: set[str]) -> str:
    """Return one row a field of ``record``, whose keys begin with ``prefix`` and are shown without ``hidden``."""
    rows = ["\n| key | type and range | default | meaning |\n|---|---|---|---|\n"]
    for name, field in record.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        key = prefix + name
        used.add(key)
        shown = f"`{key.removeprefix(hidden)}`"
        cells = (shown, kind_of(field), default_of(name, field), field.description or MEANINGS[key])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(rows)


def kind_of(field: FieldInfo) -> str:
    """Return a field's type and range for a person."""
    return ", ".join([", ".join(_types(field.annotation)), *_bounds(field)])


def default_of(name: str, field: FieldInfo) -> str:
    """Return a field's default for a person."""
    if name == "home":
        return "`$XDG_DATA_HOME/sortline`, else `~/.local/share/sortline`"
    if field.is_required():
        return "must be given"
    value = field.default
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _types(annotation: Any) -> Iterator[str]:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        yield " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    elif origin is typing.Annotated:
        base, *rules = typing.get_args(annotation)
        bounds = (bound for rule in rules if isinstance(rule, FieldInfo) for bound in _bounds(rule))
        yield " ".join([", ".join(_types(base)), *bounds])
    elif origin is tuple:
        yield f"list of: {' or '.join(dict.fromkeys(_types(typing.get_args(annotation)[0])))}"
    elif origin in (types.UnionType, typing.Union):
        for part in typing.get_args(annotation):
            if part is not type(None):
                yield from _types(part)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "table"
    else:
        yield {Path: "path", str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _bounds(field: FieldInfo) -> Iterator[str]:
    for rule in field.metadata:
        for name, text in BOUNDS.items():
            if (limit := getattr(rule, name, None)) is not None:
                yield text.format(limit)
        if (pattern := getattr(rule, "pattern", None)) is not None:
            yield f"matches `{pattern}`"


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
