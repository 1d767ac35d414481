"""How a wrong setting is explained to a person."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from base.urls import is_url


class SettingsError(Exception):
    """A setting is unknown, of the wrong type or out of range. The message names the file or variable."""


def explained(error: ValidationError, table: type[BaseModel], prefix: tuple[str, ...] = ()) -> SettingsError:
    """Return pydantic's ``error`` about ``table``, which stands at ``prefix``, with a line for each wrong setting."""
    return SettingsError("\n".join(_explain(item, table, prefix) for item in error.errors()))


def _explain(item: Any, table: type[BaseModel], prefix: tuple[str, ...]) -> str:
    """Turn one of pydantic's errors into a line for the person who wrote the setting."""
    where = (*prefix, *(str(part) for part in item["loc"] if not str(part).startswith("as a ")))  # see configs.recipe
    key = ".".join(where) or "settings"
    if item["type"] != "extra_forbidden":
        # a password; a whole table; a URL that may carry either
        hidden = where[-1:] == ("broker",) or isinstance(item["input"], Mapping) or is_url(str(item["input"]))
        shown = "" if hidden else f" (got {item['input']!r})"
        return f"setting {key}: {item['msg'].removeprefix('Value error, ')}{shown}"
    known = _known_keys(table, prefix)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
        candidate for candidate in known if candidate.split(".")[-1] == where[-1]
    ]
    hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
    return f"unknown setting {key}{hint}"


def _known_keys(table: type[BaseModel], prefix: tuple[str, ...]) -> list[str]:
    keys: list[str] = []
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, (*prefix, name))
        else:
            keys.append(".".join((*prefix, name)))
    return keys
