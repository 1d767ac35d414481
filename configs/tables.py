"""Tables of settings as text: TOML files and ``KEY=VALUE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from base.text_files import TextError, read_text
from configs.errors import SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIGS_FOLDER = Path(__file__).parent


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
        merge(table, nest(key.strip().split("."), _parse_value(text.strip())))
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file; SettingsError says why it can't be read."""
    try:
        table: dict[str, Any] = tomllib.loads(read_text(path))
    except TextError as error:
        raise SettingsError(str(error)) from error
    except (OSError, ValueError, RecursionError) as error:  # no TOML, too long a number, too deep
        raise SettingsError(f"{path}: {error}") from error
    return table


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def nest(keys: list[str], value: Any) -> dict[str, Any]:
    """Return ``value`` below ``keys``, the outermost first."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merge(base: dict[str, Any], top: Mapping[str, Any]) -> None:
    """Lay ``top`` over ``base``, key by key."""
    for key, value in top.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value
