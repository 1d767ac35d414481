"""Which network a weights file of another project fits, by what its header states and else by what its names imply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from vision.errors import VisionError, WeightsError
from vision.networks.spec import LENET5, MOBILENET_V2, Channels, NetworkSpec, default_scaling
from vision.networks.weight_names import HEADS, RADIAL, Translation

SPEC_KEY: Final = "network_spec"  # header entry of files we write: the spec as JSON text
IMAGENET_SIZE_PX: Final = 224
_CONVENTION_OF: Final = {"Keras": "tf", "TF-Slim": "tf"}  # all others: torch
_SCALINGS: Final[Mapping[str, tuple[float, float]]] = {
    "(x-128)/128": (1 / 128, -1.0),
    "x/127.5-1": (1 / 127.5, -1.0),
    "x/255": (1 / 255, 0.0),
}


def spec_metadata(spec: NetworkSpec) -> dict[str, str]:
    """Return the header entry by which ``read_foreign`` knows the padding and scaling of a file of ours."""
    return {SPEC_KEY: json.dumps(spec.to_json(), sort_keys=True)}


def spec_of(
    file_name: str,
    named: Mapping[str, NDArray[Any]],
    naming: str,
    table: list[Translation],
    metadata: Mapping[str, str],
    convention: str | None,
) -> tuple[NetworkSpec, list[str]]:
    """Return the spec the file fits and a note for each decision."""
    network = LENET5 if naming == "LeNet-5" else MOBILENET_V2
    heads = {t.ours.rpartition(".")[2]: named.get(t.foreign) for t in table if t.ours.startswith(HEADS[network])}
    bias, weight = heads["bias"], heads["weight"]
    classes = 0
    if weight is not None and weight.ndim:
        classes = weight.shape[-1] if naming in _CONVENTION_OF else weight.shape[0]
    if SPEC_KEY in metadata:
        return _own_spec(file_name, metadata[SPEC_KEY], classes, convention)
    decided, reason = _convention(file_name, naming, metadata, convention)
    scale, offset = default_scaling(network, decided)
    stated = metadata.get("input", "").rsplit(", ", 1)[-1].replace(" ", "")
    if stated in _SCALINGS:
        factor, shift = _SCALINGS[stated]
        scale, offset = (factor,) * 3, (shift,) * 3
    elif stated and convention is None:
        known = ", ".join(_SCALINGS)
        raise WeightsError(f"{file_name}: unknown input scaling {stated!r} in its header (known: {known})")
    radial = named.get(f"{RADIAL}.prototypes")
    side_px = _lenet5_side_px(named) if network == LENET5 else IMAGENET_SIZE_PX
    spec = NetworkSpec(
        name=network,
        classes=classes,
        height_px=side_px,
        width_px=side_px,
        convention=decided,
        prototypes=radial.shape[0] if classes and radial is not None and radial.ndim else 0,
        head_bias=bias is not None or not classes,
        scale=scale,
        offset=offset,
    )
    scaling = (
        f"{'stated in the header' if stated in _SCALINGS else 'usual for the convention'}: {_shown(scale, offset)}"
    )
    return spec, [
        f"convention {decided}: {reason}",
        f"input scaling, {scaling}",
        f"classes: {classes or 'none, no head'}",
    ]


def _own_spec(file_name: str, text: str, classes: int, convention: str | None) -> tuple[NetworkSpec, list[str]]:
    try:
        spec = NetworkSpec.from_json(json.loads(text))
    except (ValueError, VisionError) as error:
        raise WeightsError(f"{file_name}: its header holds no valid network spec: {error}") from error
    if convention not in (None, spec.convention):
        raise WeightsError(
            f"{file_name}: trained with convention {spec.convention}, so it can't be read as {convention}"
        )
    if spec.classes != classes:
        raise WeightsError(f"{file_name}: its header says {spec.classes} classes and its head has {classes}")
    return spec, ["network, convention and scaling: stated in the header"]


def _convention(file_name: str, naming: str, metadata: Mapping[str, str], explicit: str | None) -> tuple[str, str]:
    if explicit is not None:
        return explicit, "asked for"
    stated = set()
    if "padding" in metadata:
        stated.add("tf" if "TF SAME" in metadata["padding"] else "torch")
    if "bn_epsilon" in metadata:
        stated.add({"0.001": "tf", "1e-3": "tf", "1e-05": "torch", "1e-5": "torch"}.get(metadata["bn_epsilon"], "?"))
    if len(stated) > 1 or "?" in stated:
        raise WeightsError(
            f"{file_name}: its header has padding {metadata.get('padding')!r} and bn_epsilon "
            f"{metadata.get('bn_epsilon')!r}, of no one convention (tf: TF SAME and 0.001, torch: 1 on every side and "
            "1e-05); pass the convention"
        )
    if stated:
        return stated.pop(), "stated in the header"
    return _CONVENTION_OF.get(naming, "torch"), f"usual with the names of {naming}"


def _lenet5_side_px(named: Mapping[str, NDArray[Any]]) -> int:
    """Return the smallest square input whose last maps (16 channels) flatten to what the first dense layer takes."""
    flat = named["fc1.weight"].shape[-1] if "fc1.weight" in named else 400
    return 4 * math.isqrt(flat // 16) + 12


def _shown(scale: Channels, offset: Channels) -> str:
    return f"x * {[round(value, 6) for value in scale]} + {[round(value, 6) for value in offset]}"
