"""Networks by name. Each has a file of its own, which says all that is particular to it; see `base.networks`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from base.networks import NETWORKS
from vision.checks import checked_keys, one_of
from vision.errors import VisionError
from vision.networks.spec import NetworkSpec, json_keys


def network_kind(name: object) -> type[NetworkSpec]:
    """Return the class of specs of the network ``name``, whose module is imported for it.

    Raises:
        VisionError: there is no such network.
    """
    one_of("network spec", "name", name, NETWORKS)
    module, _, kind = NETWORKS[str(name)].partition(":")
    found: type[NetworkSpec] = getattr(importlib.import_module(module), kind)
    return found


def network_kinds() -> list[type[NetworkSpec]]:
    """Return the classes of specs of all networks."""
    return [network_kind(name) for name in NETWORKS]


def spec_from_json(value: object) -> NetworkSpec:
    """Return the spec that ``NetworkSpec.to_json`` made this decoded JSON object of.

    Raises:
        VisionError: a key is missing or unknown, or a value of another type, not finite or out of range.
    """
    if not isinstance(value, dict) or "name" not in value:
        value = checked_keys("network spec", value, ["name"])  # raises
    kind = network_kind(value["name"])
    found = checked_keys("network spec", value, ["name", *json_keys(kind)])
    return kind(**{key: item for key, item in found.items() if key != "name"})


def own_options(kind: type[NetworkSpec], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``options`` of a recipe that this kind of network has; others must be at what changes nothing.

    Raises:
        VisionError: the network has no such option.
    """
    from vision.networks.layered import LayeredSpec

    own = json_keys(kind)
    plain = {field.name: field.default for field in fields(LayeredSpec)}
    missing = sorted(key for key, value in options.items() if key not in own and value != plain[key])
    if missing:
        raise VisionError(f"{kind.name} has no {' and no '.join(missing)}; leave {'them' if missing[1:] else 'it'} out")
    return {key: value for key, value in options.items() if key in own}
