"""Which network a weights file of another project fits, by what its header states and else by what its names imply."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray

from vision.errors import VisionError, WeightsError
from vision.networks.registry import spec_from_json
from vision.networks.spec import Channels, NetworkSpec
from vision.networks.weight_names import AXES, RBF_CENTERS

SPEC_KEY: Final = "network_spec"  # header entry of files we write: the spec as JSON text
_SCALINGS: Final[Mapping[str, tuple[float, float]]] = {
    "(x-128)/128": (1 / 128, -1.0),
    "x/127.5-1": (1 / 127.5, -1.0),
    "x/255": (1 / 255, 0.0),
}


class ForeignFile(NamedTuple):
    """A weights file: its name, its arrays by their plain names, and what its header states."""

    name: str
    arrays: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, str]


def spec_metadata(spec: NetworkSpec) -> dict[str, str]:
    """Return the header entry by which ``read_foreign`` knows the padding and scaling of a file of ours."""
    return {SPEC_KEY: json.dumps(spec.to_json(), sort_keys=True)}


def spec_of(
    file: ForeignFile, kind: type[NetworkSpec], project: str, convention: str | None
) -> tuple[NetworkSpec, list[str]]:
    """Return the spec that a file of a network fits, by the names of ``project``, and a note for each decision."""
    naming = kind.namings()[project]
    head = {t.ours.rpartition(".")[2]: t for t in naming.arrays if t.ours.startswith(f"{kind.head_name}.")}
    weight = file.arrays.get(head["weight"].foreign)
    classes = 0
    if weight is not None and weight.ndim:
        classes = weight.shape[-1] if head["weight"].layout in AXES else weight.shape[0]
    if SPEC_KEY in file.metadata:
        return _own_spec(file, classes, convention)
    centers = file.arrays.get(RBF_CENTERS)
    side_px = kind.size_px_of(file.arrays)
    fields: dict[str, Any] = {
        "classes": classes,
        "height_px": side_px,
        "width_px": side_px,
        "rbf_centers": centers.shape[0] if classes and centers is not None and centers.ndim else 0,
        "head_bias": head["bias"].foreign in file.arrays or not classes,
    }
    notes = []
    if kind.conventions:
        usual = naming.convention, f"usual with the names of {project}"
        fields["convention"], reason = _convention(file, convention, usual)
        notes.append(f"convention {fields['convention']}: {reason}")
    elif convention is not None:
        notes.append(f"convention {convention}: left out, since the padding of {kind.name} is always the same")
    stated = file.metadata.get("input", "").rsplit(", ", 1)[-1].replace(" ", "")
    if stated in _SCALINGS:
        factor, shift = _SCALINGS[stated]
        fields |= {"scale": (factor,) * 3, "offset": (shift,) * 3}
    elif stated and convention is None:
        known = ", ".join(_SCALINGS)
        raise WeightsError(f"{file.name}: unknown input scaling {stated!r} in its header (known: {known})")
    spec = kind(**fields)
    origin = "stated in the header" if stated in _SCALINGS else "usual for the convention"
    notes.append(f"input scaling, {origin}: {_shown(spec.scale, spec.offset)}")
    return spec, [*notes, f"classes: {classes or 'none, no head'}"]


def _own_spec(file: ForeignFile, classes: int, convention: str | None) -> tuple[NetworkSpec, list[str]]:
    try:
        spec = spec_from_json(json.loads(file.metadata[SPEC_KEY]))
    except (ValueError, VisionError, RecursionError, OverflowError) as error:
        raise WeightsError(f"{file.name}: its header holds no valid network spec: {error}") from error
    own = getattr(spec, "convention", None)
    if own is not None and convention not in (None, own):
        raise WeightsError(f"{file.name}: trained with convention {own}, so it can't be read as {convention}")
    if spec.classes != classes:
        raise WeightsError(f"{file.name}: its header says {spec.classes} classes and its head has {classes}")
    return spec, ["network, convention and scaling: stated in the header"]


def _convention(file: ForeignFile, explicit: str | None, usual: tuple[str, str]) -> tuple[str, str]:
    """Return the convention of a file's weights, and how it was decided."""
    metadata = file.metadata
    if explicit is not None:
        return explicit, "asked for"
    stated = set()
    if "padding" in metadata:
        stated.add("tf" if "TF SAME" in metadata["padding"] else "torch")
    if "bn_epsilon" in metadata:
        stated.add({"0.001": "tf", "1e-3": "tf", "1e-05": "torch", "1e-5": "torch"}.get(metadata["bn_epsilon"], "?"))
    if len(stated) > 1 or "?" in stated:
        raise WeightsError(
            f"{file.name}: its header has padding {metadata.get('padding')!r} and bn_epsilon "
            f"{metadata.get('bn_epsilon')!r}, of no one convention (tf: TF SAME and 0.001, torch: 1 on every side and "
            "1e-05); pass the convention"
        )
    if stated:
        return stated.pop(), "stated in the header"
    return usual


def _shown(scale: Channels, offset: Channels) -> str:
    return f"x * {[round(value, 6) for value in scale]} + {[round(value, 6) for value in offset]}"
