"""Weights of a network as named arrays: into and out of cells, our own files, and files of other projects.

Names are torchvision's ("features.0.0.weight", "features.0.1.running_mean", "classifier.1.weight" of MobileNetV2),
layouts OIHW and (out, in), values float32. Cells need MindSpore.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from base.errors import ImageError
from base.files import read_file
from base.networks import PRETRAINED
from vision.errors import WeightsError
from vision.networks.ckpt import read_ckpt
from vision.networks.foreign_spec import ForeignFile, spec_of
from vision.networks.registry import network_kinds
from vision.networks.spec import NetworkSpec
from vision.networks.torch_file import read_torch_file
from vision.networks.weight_names import (
    AXES,
    CONV_DENSE,
    FOLDED,
    RBF,
    RBF_CENTERS,
    RBF_WIDTH,
    Naming,
    Translation,
    is_bookkeeping,
)

MAX_FILE_BYTES = 2**31  # of a foreign file: no protocol buffer is larger
MOST_AXES = 4

Arrays = dict[str, NDArray[np.float32]]
AnyValue = TypeVar("AnyValue")

_REFUSED: Final[Mapping[str, str]] = {
    ".pth": "it may run code when unpickled; convert it with safetensors.torch.save_file",
    ".pt": "it may run code when unpickled; convert it with safetensors.torch.save_file",
    ".bin": "it may run code when unpickled; convert it with safetensors.torch.save_file",
    ".pkl": "it may run code when unpickled; store its arrays with safetensors.numpy.save_file",
    ".npz": "it may hold pickled objects; store its arrays with safetensors.numpy.save_file",
    ".h5": "reading HDF5 is not built in; store {w.path: w.numpy()} of model.weights with safetensors.numpy.save_file",
    ".keras": "reading Keras archives is not built in; store {w.path: w.numpy()} with safetensors.numpy.save_file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedWeights:
    """A foreign file under our names: the spec it fits, its arrays, and how each thing not stated in it was decided."""

    spec: NetworkSpec
    arrays: Arrays
    notes: tuple[str, ...]


def get_weights(network: Any) -> Arrays:
    """Return copies of the network's arrays, batch-norm statistics among them, under our names."""
    return {name: parameter.asnumpy().astype(np.float32) for name, parameter in _parameters(network).items()}


def set_weights(network: Any, arrays: Mapping[str, NDArray[Any]], *, allow_missing_head: bool = False) -> None:
    """Copy ``arrays`` into the network; nothing is copied unless all of it fits.

    Args:
        arrays: float16 or float32 under our names, exactly those of the network.
        allow_missing_head: take a backbone's arrays for a network with a head and leave that head as it is.

    Raises:
        WeightsError: names, shapes or dtypes differ, or a value is not finite; the message lists every one.
    """
    from mindspore import Tensor

    parameters = _parameters(network)
    head = parameters.keys() - backbone_only(parameters, network.spec).keys()
    expected = parameters.keys() - head if allow_missing_head and not head & arrays.keys() else parameters.keys()
    wrong = [
        f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, not float32{list(parameters[name].shape)}"
        for name in sorted(expected & arrays.keys())
        if arrays[name].shape != tuple(parameters[name].shape) or arrays[name].dtype not in (np.float16, np.float32)
    ]
    _refuse_misfits(network.spec.name, sorted(expected - arrays.keys()), sorted(arrays.keys() - expected), wrong)
    _refuse_not_finite(arrays)
    for name in expected:
        parameters[name].set_data(Tensor(np.ascontiguousarray(arrays[name], dtype=np.float32)))


def backbone_only(arrays: Mapping[str, AnyValue], spec: NetworkSpec) -> dict[str, AnyValue]:
    """Return the arrays of such a network without those of its head: what fits one of 0 classes."""
    heads = f"{spec.head_name}.", f"{RBF}."
    return {name: array for name, array in arrays.items() if not name.startswith(heads)}


def read_safetensors(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a safetensors file's bytes, in their stored dtypes, and the header's metadata.

    Raises:
        WeightsError: the bytes are no safetensors file, or hold a dtype that numpy lacks (bfloat16).
    """
    try:
        arrays = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise WeightsError(f"not a safetensors file of float16 or float32 arrays: {error!r}") from error
    return arrays, header.get("__metadata__") or {}


def to_safetensors(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with these arrays and this metadata in its header.

    The same bytes for the same arrays only where the metadata has one entry: safetensors writes several in any order.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data: bytes = safetensors.numpy.save(contiguous, metadata=dict(metadata))
    return data


def read_foreign(path: Path, *, convention: str | None = None) -> ImportedWeights:
    """Return the weights of a ``.safetensors`` or MindSpore ``.ckpt`` file under our names, with the spec they fit.

    Recognised are the names of torchvision (also with batch norm folded into the convolutions), timm, Keras, TF-Slim,
    MindSpore's model zoo and our own. Padding, epsilon and scaling are the header's where it states them, and else what
    projects with such names use; an explicit ``convention`` ("tf" or "torch") decides padding and epsilon.

    Raises:
        WeightsError: another kind of file, names of no such project, arrays missing, unexpected, wrongly shaped or not
            finite, a header that contradicts itself, or a file that can't be read.
    """
    stored, metadata = _read_file(path)
    kind, project = _recognised(path.name, stored)
    notes = [f"names: {project}"]
    named: dict[str, NDArray[Any]] = {}
    if left_out := [name for name in stored if is_bookkeeping(name)]:
        others = f" and {len(left_out) - 1} more" if left_out[1:] else ""
        notes.append(f"left out {left_out[0]}{others}: state of the training, not of the network")
    for name, array in stored.items():
        if is_bookkeeping(name):
            continue
        if named.setdefault(kind.plain_name(name), array) is not array:
            raise WeightsError(f"{path.name}: two arrays mean {kind.plain_name(name)!r}; keep one of them")
    if odd := [f"{name} has {array.ndim}" for name, array in named.items() if not 1 <= array.ndim <= MOST_AXES]:
        raise WeightsError(f"{path.name}: arrays of a network have 1 to {MOST_AXES} axes, and {', '.join(odd)}")
    naming = kind.namings()[project]
    spec, more = spec_of(ForeignFile(path.name, named, metadata), kind, project, convention)
    arrays = _translated(path.name, named, naming.arrays, spec)
    if any(translation.layout == FOLDED for translation in naming.arrays):
        more.append("batch norm was folded away: stored as mean 0, variance 1, gamma sqrt(1 + epsilon), beta = bias")
    return ImportedWeights(spec=spec, arrays=arrays, notes=(*notes, *more))


def _parameters(network: Any) -> dict[str, Any]:
    """Return the network's parameters by our names."""
    heads = {"head.rbf": RBF, "head.dense": network.spec.head_name}
    ends = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for name, parameter in network.parameters_and_names():
        cell, _, end = name.rpartition(".")
        ours = heads.get(cell) or network.spec.our_name(cell.removeprefix("backbone."))
        found[f"{ours}.{ends.get(end, end)}"] = parameter
    return found


def _recognised(file_name: str, stored: Mapping[str, NDArray[Any]]) -> tuple[type[NetworkSpec], str]:
    """Return the network and the project whose names for it are most among the ``stored`` ones.

    Sizes of one network share names: then the one that misses fewest, and whose shapes are most of the stored ones.
    """

    def likeness(kind: type[NetworkSpec], naming: Naming) -> tuple[int, int, int]:
        named = {kind.plain_name(name): array for name, array in stored.items()}
        found = [t for t in naming.arrays if t.foreign in named]
        fitting = sum(_fits(_in_our_layout(named[t.foreign], t), t.shape) for t in found)
        return len(found), len(found) - len(naming.arrays), fitting

    likely = {
        (kind, project): likeness(kind, naming)
        for kind in network_kinds()
        for project, naming in kind.namings().items()
    }
    best = max(likely, key=likely.__getitem__)
    if not likely[best][0]:
        raise WeightsError(
            f"{file_name}: names of no known project (it has {', '.join(sorted(stored)[:5]) or 'no arrays'})"
        )
    return best


def _read_file(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    # An allow-list: most other formats of weights are pickles, which run the code inside them.
    published = {Path(known.file).name: known.sha256 for known in PRETRAINED.values()}
    if path.suffix not in (".safetensors", ".ckpt") and path.name not in published:
        reason = _REFUSED.get(path.suffix.lower(), "convert its arrays with safetensors.numpy.save_file")
        raise WeightsError(f"{path.name}: only .safetensors and MindSpore .ckpt files are read; {reason}")
    try:
        data = read_file(path, MAX_FILE_BYTES)
        if path.name in published:
            if hashlib.sha256(data).hexdigest() != published[path.name]:
                raise WeightsError("it is not the published file of that name; install its package again")
            return read_torch_file(data), {}
        return read_safetensors(data) if path.suffix == ".safetensors" else (read_ckpt(data), {})
    except ImageError as error:
        raise WeightsError(error.detail) from error
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from error


def _translated(
    file_name: str, named: Mapping[str, NDArray[Any]], table: list[Translation], spec: NetworkSpec
) -> Arrays:
    """Return the arrays under our names and layouts, or refuse with every key that does not fit."""
    head = f"{spec.head_name}."
    optional = {t.foreign for t in table if t.ours.startswith(head) and (not spec.classes or t.ours.endswith("bias"))}
    sizes = spec.classes, spec.head_inputs
    table = [replace(t, shape=sizes[: len(t.shape)]) if t.ours.startswith(head) else t for t in table]
    if spec.classes and spec.rbf_centers:
        shapes = {RBF_CENTERS: (spec.rbf_centers, spec.features), RBF_WIDTH: (1,)}
        table = [*table, *(Translation(name, name, shape) for name, shape in shapes.items())]
    known = {translation.foreign for translation in table}
    present = [translation for translation in table if translation.foreign in named]
    moved = {t.ours: _in_our_layout(named[t.foreign], t) for t in present}
    wrong = [_misfit(named[t.foreign], t) for t in present if not _fits(moved[t.ours], t.shape)]
    _refuse_misfits(file_name, sorted(known - optional - named.keys()), sorted(named.keys() - known), wrong)
    _refuse_not_finite(named)
    arrays = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in moved.items()}
    for translation in present:
        if translation.layout == FOLDED:
            prefix, channels = translation.ours.removesuffix("bias"), translation.shape
            arrays[f"{prefix}running_mean"] = np.zeros(channels, np.float32)
            arrays[f"{prefix}running_var"] = np.ones(channels, np.float32)
            arrays[f"{prefix}weight"] = np.full(channels, math.sqrt(1 + spec.batch_norm_epsilon), np.float32)
    return arrays


def _fits(array: NDArray[Any], expected: tuple[int, ...]) -> bool:
    same_rank = len(array.shape) == len(expected)
    same = same_rank and all(side in (-1, size) for side, size in zip(expected, array.shape, strict=True))
    return same and array.dtype in (np.float16, np.float32)


def _misfit(array: NDArray[Any], translation: Translation) -> str:
    expected = ", ".join("any" if side == -1 else str(side) for side in translation.shape)
    order = " in the order OIHW" if len(translation.shape) == 4 else ""
    return f"{translation.foreign} is {array.dtype}{list(array.shape)}, not float32[{expected}]{order}"


def _in_our_layout(array: NDArray[Any], translation: Translation) -> NDArray[Any]:
    axes = AXES.get(translation.layout)
    if axes is None or array.ndim != len(axes):
        return array
    moved = array.transpose(axes)
    return moved[:, :, 0, 0] if translation.layout == CONV_DENSE and moved.shape[2:] == (1, 1) else moved


def _refuse_misfits(what: str, missing: list[str], unexpected: list[str], wrong: list[str]) -> None:
    if missing or unexpected or wrong:
        parts = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
        listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names)
        raise WeightsError(f"{what}: the weights do not fit ({listed})")


def _refuse_not_finite(arrays: Mapping[str, NDArray[Any]]) -> None:
    bad = sorted(name for name, array in arrays.items() if not np.isfinite(array).all())
    if bad:
        raise WeightsError(f"not finite (NaN or infinity): {', '.join(bad)}; the training that wrote them had diverged")
