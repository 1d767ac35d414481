"""Files that PyTorch wrote before version 1.6: their tensors are rebuilt, and nothing else.

Such a file is five pickles (a magic number, the format's version, the writer's machine, the object, the keys of its
storages) and then the numbers of each storage. A pickle is a program that may call whatever it names, so pickle's own
reader is not used: the one here knows the few instructions that a dict of tensors needs, and four names. Whatever else
a file asks for is refused by its name, before anything is made of it.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vision.errors import WeightsError

MAGIC: Final = 0x1950A86A20F9469CFC6C
VERSION: Final = 1001
MOST_INSTRUCTIONS: Final = 1_000_000  # a network of 400 tensors takes 14,000
_ORDERED_DICT: Final = "collections.OrderedDict"
_REBUILD: Final = "torch._utils._rebuild_tensor_v2"
_STORAGES: Final[dict[str, np.dtype[Any]]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.LongStorage": np.dtype("<i8"),
}
_CONSTANTS: Final = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES: Final = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1")
_MEMORY: Final = ("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET")
_OPCODES: Final = {opcode.code: opcode for opcode in pickletools.opcodes}
_MARK: Final = object()


class _Name(NamedTuple):
    text: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    numbers: int


class _Tensor(NamedTuple):
    """A view of a storage: counts of numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file's dict by their names, float32 or int64, each in memory of its own.

    Raises:
        WeightsError: the file is cut or damaged, or holds anything but a dict of such tensors.
    """
    stream = io.BytesIO(data)
    try:
        magic, version, machine, found, keys = (_unpickled(stream) for _ in range(5))
        if (magic, version) != (MAGIC, VERSION):
            raise WeightsError("it is no PyTorch file of before version 1.6")
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise WeightsError("it was not written by a little-endian machine")
        if not isinstance(found, dict) or not all(isinstance(tensor, _Tensor) for tensor in found.values()):
            raise WeightsError("it holds something else than a dict of tensors")
        return _tensors(found, keys, stream)
    except WeightsError as error:
        raise WeightsError(f"not a file of PyTorch tensors: {error}") from error
    except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise WeightsError(f"not a file of PyTorch tensors, or a damaged one: {error}") from error


def _unpickled(stream: io.BytesIO) -> Any:
    """Return the value of the next pickle: constants, containers of them, and tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for _ in range(MOST_INSTRUCTIONS):
        code = stream.read(1)
        opcode = _OPCODES.get(code.decode("latin-1"))
        name = opcode.name if opcode else f"{code!r}"
        if opcode is None or name not in (*_VALUES, *_CONSTANTS, *_MEMORY, *_INSTRUCTIONS, "GLOBAL", "PROTO", "STOP"):
            raise WeightsError(f"its pickle uses the instruction {name}, which no file of tensors needs")
        argument: Any = opcode.arg.reader(stream) if opcode.arg and name != "GLOBAL" else None
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_known_name(stream.readline(), stream.readline()))
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](stack)
        elif name == "STOP":
            (found,) = stack
            return found
    raise WeightsError("its pickle is far longer than that of any network")


def _known_name(module: bytes, name: bytes) -> _Name:
    text = f"{module[:-1].decode()}.{name[:-1].decode()}"
    if text not in (_ORDERED_DICT, _REBUILD, *_STORAGES):
        raise WeightsError(f"its pickle asks for {text!r}, which is not loaded")
    return _Name(text)


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take what lies above the last mark off the stack, and the mark."""
    at = next((place for place in reversed(range(len(stack))) if stack[place] is _MARK), None)
    if at is None:
        raise WeightsError("an instruction of its pickle has no beginning")
    found = stack[at + 1 :]
    del stack[at:]
    return found


def _set_items(stack: list[Any], items: list[Any]) -> None:
    keys = items[::2]
    if not isinstance(stack[-1], dict) or not all(isinstance(key, str) for key in keys):
        raise WeightsError("something else than a dict with names as keys is filled")
    stack[-1].update(zip(keys, items[1::2], strict=True))


def _last(stack: list[Any], count: int) -> list[Any]:
    found = stack[-count:]
    del stack[-count:]
    return found


def _append(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], list):
        raise WeightsError("something else than a list is appended to")
    stack[-1].extend(items)


def _call(stack: list[Any]) -> None:
    arguments, called = stack.pop(), stack.pop()
    name = called.text if isinstance(called, _Name) else ""
    if name == _ORDERED_DICT and isinstance(arguments, tuple) and not arguments:
        stack.append({})
    elif name == _REBUILD:
        storage, offset, shape, strides, *_ = arguments  # then whether it had a gradient, and hooks
        if not isinstance(storage, _Storage):
            raise WeightsError("a tensor without a storage")
        stack.append(_Tensor(storage, offset, shape, strides))
    else:
        raise WeightsError("its pickle calls something with arguments that no file of tensors needs")


def _build(stack: list[Any]) -> None:
    """Leave out the attributes of a dict, such as the versions of its modules."""
    state = stack.pop()
    if not isinstance(state, dict) or not isinstance(stack[-1], dict):
        raise WeightsError("its pickle sets attributes of something else than a dict")


def _persistent(stack: list[Any]) -> None:
    kind, storage, key, _, numbers, view = stack.pop()
    dtype = _STORAGES.get(storage.text) if isinstance(storage, _Name) else None
    if kind != "storage" or view is not None or dtype is None or type(key) is not str or type(numbers) is not int:
        raise WeightsError("it keeps something else than whole storages of float32 or int64 outside its pickle")
    stack.append(_Storage(key, dtype, numbers))


_INSTRUCTIONS: Final[dict[str, Callable[[list[Any]], None]]] = {
    "MARK": lambda stack: stack.append(_MARK),
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "TUPLE1": lambda stack: stack.append(tuple(_last(stack, 1))),
    "TUPLE2": lambda stack: stack.append(tuple(_last(stack, 2))),
    "TUPLE3": lambda stack: stack.append(tuple(_last(stack, 3))),
    "SETITEM": lambda stack: _set_items(stack, _last(stack, 2)),
    "SETITEMS": lambda stack: _set_items(stack, _since_mark(stack)),
    "APPEND": lambda stack: _append(stack, _last(stack, 1)),
    "APPENDS": lambda stack: _append(stack, _since_mark(stack)),
    "REDUCE": _call,
    "BUILD": _build,
    "BINPERSID": _persistent,
}


def _tensors(found: dict[str, _Tensor], keys: list[str], stream: io.BytesIO) -> dict[str, NDArray[Any]]:
    """Return the tensors; the storages follow in the order of ``keys``, each behind its count of numbers."""
    kinds = {tensor.storage.key: tensor.storage for tensor in found.values()}
    if sorted(kinds) != sorted(keys) or not all(kinds[t.storage.key] == t.storage for t in found.values()):
        raise WeightsError("its list of storages is not that of its tensors")
    storages = {}
    for key in keys:
        kind, count = kinds[key], int.from_bytes(stream.read(8), "little")
        data = stream.read(kind.dtype.itemsize * kind.numbers)
        if count != kind.numbers or len(data) != kind.dtype.itemsize * kind.numbers:
            raise WeightsError(f"storage {key} is cut or of another size than its tensors say")
        storages[key] = np.frombuffer(data, kind.dtype)
    if stream.read(1):
        raise WeightsError("it goes on behind its last storage")
    return {name: _view(name, tensor, storages[tensor.storage.key]) for name, tensor in found.items()}


def _view(name: str, tensor: _Tensor, storage: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a tensor's numbers, which need not lie in a row in its storage."""
    counts = (tensor.offset, *tensor.shape, *tensor.strides)
    if len(tensor.shape) != len(tensor.strides) or not all(type(count) is int and count >= 0 for count in counts):
        raise WeightsError(f"the shape of {name} makes no sense")
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    # Of strides of 0 a small storage could make any amount of memory.
    if tensor.offset + max(last, 0) >= len(storage) or math.prod(tensor.shape) > len(storage):
        raise WeightsError(f"{name} reaches beyond its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
