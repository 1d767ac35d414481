"""Arrays of a MindSpore checkpoint, read without MindSpore, which writes behind its memory where a file lies on sizes.

A ``.ckpt`` file is a protocol buffer (``checkpoint.proto`` of MindSpore), of which only what weights need is read:

    Checkpoint  1: repeated Value
    Value       1: tag, the name      2: Tensor
    Tensor      1: repeated dims      2: type, such as "Float32"      3: content, little-endian

Large arrays come in slices: values of one name, one after the other, each with the shape of the whole.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision.errors import WeightsError
from vision.protobuf import LENGTH, VARINT, fields, varint

_Part = int | memoryview
NO_CHECKPOINT = "not a MindSpore checkpoint"
MOST_AXES = 32  # of NumPy 1
_NUMBERS = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float16", "Float32", "Float64")
_TYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "Bool": np.dtype(np.bool_),
    **{name: np.dtype(name.lower()).newbyteorder("<") for name in _NUMBERS},
}
_CHECKSUM: Final = b"crc_num"  # at the end of some files, before ten bytes
_CHECKSUM_BYTES: Final = len(_CHECKSUM) + 10


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type_name: str
    content: memoryview


def read_ckpt(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of a checkpoint's bytes, in their stored types.

    Raises:
        WeightsError: the bytes are no such file, or the content of an array is not that of its shape and type.
    """
    body = memoryview(data)
    if data[-_CHECKSUM_BYTES:].startswith(_CHECKSUM):
        body = body[:-_CHECKSUM_BYTES]
        if zlib.crc32(body) != int.from_bytes(data[-10:], "big"):
            raise WeightsError("damaged: its checksum is not that of its content")
    arrays: dict[str, NDArray[Any]] = {}
    try:
        tensors = [_tensor(value) for value in _parts(body, 1)[1]]
    except ValueError as error:
        raise WeightsError(f"{NO_CHECKPOINT}, or cut off: {error}") from error
    for name, slices in groupby(tensors, key=lambda tensor: tensor.name):
        if name in arrays:
            raise WeightsError(f"two arrays are called {name!r:.200}")
        arrays[name] = _array(list(slices))
    return arrays


def _array(slices: list[_Tensor]) -> NDArray[Any]:
    name, shape, type_name, _ = slices[-1]
    what = f"{name!r:.200} of type {type_name!r:.40} and shape {list(shape)}"
    if (kind := _TYPES.get(type_name)) is None:
        raise WeightsError(f"{what}: only {', '.join(_TYPES)} are read")
    if any((tensor.shape, tensor.type_name) != (shape, type_name) for tensor in slices):
        raise WeightsError(f"{what}: a slice of it has another type or shape")
    if shape == (0,):  # how MindSpore writes a single number
        shape = ()
    stored, expected = sum(len(tensor.content) for tensor in slices), math.prod(shape) * kind.itemsize
    if stored != expected:
        raise WeightsError(f"{what} has {stored} bytes of content, not {expected}")
    try:
        return np.frombuffer(b"".join(tensor.content for tensor in slices), kind).reshape(shape)
    except ValueError as error:  # no bytes, and sizes beyond all memory
        raise WeightsError(f"{what}: {error}") from error


def _tensor(value: _Part) -> _Tensor:
    parts = _parts(value, 1, 2)
    name, tensor = _one(parts[1]), _parts(_one(parts[2]), 1, 2, 3)
    shape: list[int] = []
    for size in tensor[1]:  # one by one, or several in a row
        shape += [size] if isinstance(size, int) else _numbers(size)
        if len(shape) > MOST_AXES:
            raise WeightsError(f"an array of more than {MOST_AXES} axes")
    return _Tensor(_text(name), tuple(shape), _text(_one(tensor[2])), _bytes(_one(tensor[3])))


def _parts(message: _Part, *known: int) -> dict[int, list[_Part]]:
    """Return what a message holds, by the numbers of its fields, of which all are ``known``."""
    parts: dict[int, list[_Part]] = {number: [] for number in known}
    for number, wire_type, value in fields(_bytes(message)):
        if number not in parts or wire_type not in (VARINT, LENGTH):
            raise WeightsError(f"{NO_CHECKPOINT}: it has a field {number} of type {wire_type}")
        parts[number].append(value)
    return parts


def _numbers(data: memoryview) -> list[int]:
    found: list[int] = []
    at = 0
    while at < len(data) and len(found) <= MOST_AXES:
        value, at = varint(data, at)
        found.append(value)
    return found


def _one(values: list[_Part]) -> _Part:
    if len(values) != 1:
        raise WeightsError(f"{NO_CHECKPOINT}: {len(values)} values where one must be")
    return values[0]


def _bytes(value: _Part) -> memoryview:
    if isinstance(value, int):
        raise WeightsError(f"{NO_CHECKPOINT}: a number where bytes must be")
    return value


def _text(value: _Part) -> str:
    try:
        return bytes(_bytes(value)).decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{NO_CHECKPOINT}: a name that is no UTF-8") from error
