"""Write docs/reference/configuration.md from the settings class: ``python docs/make_configuration.py``.

A unit test compares the page with what this script would write.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.recipe import Augmentation, Recipe
from configs.settings import Settings

PAGE = Path(__file__).with_name("reference") / "configuration.md"

# Meanings of settings whose field has no description of its own.
MEANINGS = {
    "device": "what labels: auto takes CUDA if ONNX Runtime can use it, else the CPU",
    "engine": "what runs the exported network: auto is openvino on a CPU, onnxruntime on CUDA, mindspore on Ascend",
    "precision": "of the engine's arithmetic: auto is the fastest that was proven to label as f32 does",
    "log_level": "of the workers' logs",
    "training.network": "which network is trained",
    "training.height_px": "height of the network's input, pixels",
    "training.width_px": "width of the network's input, pixels",
    "training.epochs": "passes over the training images, at most",
    "training.optimizer": "how weights follow gradients",
    "training.momentum": "of the momentum optimizer",
    "training.weight_decay": "as the optimizer defines it; biases and batch norm have none",
    "training.lr_schedule": "the way of the learning rate from lr_max to lr_end after the warm-up",
    "training.head_bias": "whether the head has a bias",
    "training.warmup_steps": "steps from lr_init to lr_max",
    "training.label_smoothing": "probability taken from the true class and spread over all",
    "training.seed": "of the split, the first weights, the order of images and the augmentation",
}
BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}

HEAD = """# Configuration

This page is written by `python docs/make_configuration.py` from `configs/settings.py` and
`configs/recipe.py`; change it there.

A setting is looked for in this order, the later winning:

1. the defaults below;
2. the TOML file of `--config`: a path, or the name of one that ships (`default`, `digits`, `waste26`, `waste26-fast`,
   `waste26-best`);
3. the environment: `SORTLINE_` and the key in capitals, two underscores for a table;
4. options of the command, such as `--home`, `--broker`, `--data-root`, `--store`, and `--set KEY=VALUE` of `train`.

An unknown key is an error that names the nearest known one. A worker reads its own file and environment; of a
producer's settings only those of `[training]` travel, inside the job. An empty variable counts as not set.

```sh
export SORTLINE_CHUNK_IMAGES=64
export SORTLINE_TRAINING__AUGMENTATION__FLIP=true
sortline train photos/ --config waste26 --set epochs=20
```
"""
SECTIONS: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("General", "", Settings),
    ("Training recipe: `[training]`", "training.", Recipe),
    ("Augmentation: `[training.augmentation]`", "training.augmentation.", Augmentation),
)


def page() -> str:
    """Return the text of docs/reference/configuration.md."""
    parts = [HEAD]
    used: set[str] = set()
    for title, prefix, table in SECTIONS:
        parts.append(f"\n## {title}\n\n| key | type and range | default | meaning |\n|---|---|---|---|\n")
        for name, field in table.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                continue
            key = prefix + name
            meaning = field.description or MEANINGS[key]
            used.add(key)
            cells = (f"`{key}`", kind_of(field), default_of(name, field), meaning)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    if stale := MEANINGS.keys() - used:
        raise SystemExit(f"MEANINGS has settings that are gone: {', '.join(sorted(stale))}")
    return "".join(parts)


def kind_of(field: FieldInfo) -> str:
    """Return a field's type and range for a person."""
    return ", ".join([", ".join(_types(field.annotation)), *_bounds(field)])


def default_of(name: str, field: FieldInfo) -> str:
    """Return a field's default for a person."""
    if name == "home":
        return "`$XDG_DATA_HOME/sortline`, else `~/.local/share/sortline`"
    value = field.default
    if value is None:
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
        yield " ".join([*_types(base), *(bound for rule in rules for bound in _bounds(rule))])
    elif origin is tuple:
        yield f"list of: {', '.join(_types(typing.get_args(annotation)[0]))}"
    elif origin in (types.UnionType, typing.Union):
        for part in typing.get_args(annotation):
            if part is not type(None):
                yield from _types(part)
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
    PAGE.write_text(page(), encoding="utf-8")
