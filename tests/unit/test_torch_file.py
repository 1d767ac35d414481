"""PyTorch's old files: tensors come out as they went in, and whatever else a pickle asks for is refused by its name."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vision.networks.weights
from base.networks import PRETRAINED, Pretrained
from vision.errors import WeightsError
from vision.networks.torch_file import MAGIC, read_torch_file
from vision.networks.weights import read_foreign

MACHINE = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
NUMBERS = np.arange(24, dtype="<f4")
PROTO, STOP, MARK, TUPLE = b"\x80\x02", b".", b"(", b"t"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return MARK + b"".join(map(number, values)) + TUPLE


def storage(key: str = "a", kind: bytes = b"ctorch\nFloatStorage\n", count: int = 24, word: str = "storage") -> bytes:
    return MARK + text(word) + kind + text(key) + text("cpu") + number(count) + b"N" + TUPLE + b"Q"


def tensor(
    shape: tuple[int, ...] = (4, 6), strides: tuple[int, ...] = (6, 1), offset: int = 0, at: bytes = b""
) -> bytes:
    arguments = (at or storage()) + number(offset) + numbers(*shape) + numbers(*strides) + b"\x89" + ORDERED + b")R"
    return REBUILD + MARK + arguments + TUPLE + b"R"


def dict_of(**tensors: bytes) -> bytes:
    return ORDERED + b")R" + MARK + b"".join(text(name) + made for name, made in tensors.items()) + b"u"


def torch_file(
    body: bytes, keys: tuple[str, ...] = ("a",), stored: bytes | None = None, magic: int = MAGIC, machine: Any = MACHINE
) -> bytes:
    """Return a file as ``torch.save`` wrote it before version 1.6, of an object that the instructions ``body`` make."""
    head = b"".join(pickle.dumps(value, 2) for value in (magic, 1001, machine))
    data = struct.pack("<q", 24) + NUMBERS.tobytes() if stored is None else stored
    return head + PROTO + body + STOP + pickle.dumps(list(keys), 2) + data


def test_tensors_come_out_as_they_are_viewed_and_not_as_they_lie() -> None:
    found = read_torch_file(
        torch_file(
            dict_of(
                plain=tensor(),
                turned=tensor((6, 4), (1, 6)),
                part=tensor((2, 3), (6, 2), offset=7),
                one=tensor((), (), offset=5),
                none=tensor((0, 3), (3, 1)),
            )
        )
    )

    square = NUMBERS.reshape(4, 6)
    assert {name: array.tolist() for name, array in found.items()} == {
        "plain": square.tolist(),
        "turned": square.T.tolist(),
        "part": square[1:3, 1::2].tolist(),
        "one": 5.0,
        "none": [],
    }
    assert all(array.dtype == np.float32 and array.flags.writeable for array in found.values())


def test_counters_are_whole_numbers_and_attributes_of_the_dict_are_left_out() -> None:
    counter = tensor((), (), at=storage("c", b"ctorch\nLongStorage\n", 1))
    attributes = b"}" + text("_metadata") + ORDERED + b")R" + b"s"
    stored = struct.pack("<q", 24) + NUMBERS.tobytes() + struct.pack("<qq", 1, 77)

    found = read_torch_file(torch_file(dict_of(weight=tensor(), seen=counter) + attributes + b"b", ("a", "c"), stored))

    assert found["seen"].dtype == np.int64
    assert found["seen"].item() == 77
    assert found["weight"].shape == (4, 6)


HOSTILE = {
    "a system call": (b"cposix\nsystem\n" + text("touch /tmp/x") + b"\x85R", r"'posix\.system', which is not loaded"),
    "eval": (b"c__builtin__\neval\n" + text("1") + b"\x85R", r"'__builtin__\.eval', which is not loaded"),
    "a name with a line's end in it": (b"ctorch\\nos\nsystem\n", "which is not loaded"),
    "getattr": (b"cbuiltins\ngetattr\n", r"'builtins\.getattr', which is not loaded"),
    "a loader": (b"ctorch.storage\n_load_from_bytes\n", r"'torch\.storage\._load_from_bytes', which is not loaded"),
    "another rebuilder": (b"ctorch._utils\n_rebuild_parameter\n", r"'torch\._utils\._rebuild_parameter', which is"),
    "a class by two strings": (text("os") + text("system") + b"\x93", "the instruction STACK_GLOBAL"),
    "an old instance": (MARK + text("x") + b"iposix\nsystem\n", "the instruction INST"),
    "an instance by its class": (MARK + ORDERED + b"o", "the instruction OBJ"),
    "a new object": (ORDERED + b")\x81", "the instruction NEWOBJ"),
    "a new object with keywords": (ORDERED + b")}\x92", "the instruction NEWOBJ_EX"),
    "an extension": (b"\x82\x01", "the instruction EXT1"),
    "a persistent id as text": (b"Pstorage\n", "the instruction PERSID"),
    "bytes": (b"\x8e" + struct.pack("<Q", 1) + b"x", "the instruction BINBYTES8"),
    "a set": (b"\x8f", "the instruction EMPTY_SET"),
    "a buffer outside": (b"\x97", "the instruction NEXT_BUFFER"),
    "a module outside": (storage(word="module"), "something else than whole storages"),
    "a storage of unknown numbers": (storage(kind=ORDERED), "something else than whole storages"),
    "a storage that names no kind": (storage(kind=text("torch.FloatStorage")), "something else than whole storages"),
    "a view of a storage": (storage()[:-3] + b"K\x01" + TUPLE + b"Q", "something else than whole storages"),
    "a call of a storage": (b"ctorch\nFloatStorage\n)R", "calls something with arguments"),
    "a call of a text": (text("torch._utils._rebuild_tensor_v2") + b")R", "calls something with arguments"),
    "a dict of what it is called with": (ORDERED + numbers(1) + b"R", "calls something with arguments"),
    "a tensor of a text": (tensor(at=text("a")), "a tensor without a storage"),
    "attributes of a tensor": (tensor() + b"}b", "attributes of something else than a dict"),
    "no dict": (tensor(), "something else than a dict of tensors"),
    "a dict in the dict": (dict_of(weight=b"}"), "something else than a dict of tensors"),
    "a number as name": (b"}K\x01K\x02s", "a dict with names as keys"),
    "a list that is no list": (b"}" + MARK + b"K\x01e", "something else than a list"),
    "two values": (b"}}", "damaged"),
    "nothing": (b"", "damaged"),
    "too many instructions": (b"N" * 1_000_001, "far longer than that of any network"),
    "a value from an empty memory": (b"h\x07", "damaged"),
    "no mark": (b"u", "no beginning"),
    "an odd number of items": (b"}" + MARK + text("x") + b"u", "damaged"),
    "an unknown instruction": (b"\xff", r"the instruction b'\\xff'"),
    "text that is longer than the file": (b"X\xff\xff\xff\x7f", "damaged"),
    "a tensor beyond its storage": (dict_of(weight=tensor((4, 6), (6, 1), offset=1)), "weight reaches beyond"),
    "an empty tensor beyond it": (dict_of(weight=tensor((), (), offset=24)), "weight reaches beyond"),
    "a tensor of any size by strides of 0": (dict_of(weight=tensor((2**31 - 1,), (0,))), "weight reaches beyond"),
    "a negative stride": (dict_of(weight=tensor((4, 6), (-6, 1), offset=20)), "shape of weight makes no sense"),
    "a negative offset": (dict_of(weight=tensor(offset=-4)), "shape of weight makes no sense"),
    "a negative size": (dict_of(weight=tensor((-4, 6))), "shape of weight makes no sense"),
    "fewer strides than sides": (dict_of(weight=tensor((4, 6), (6,))), "shape of weight makes no sense"),
    "one storage of two sizes": (
        dict_of(one=tensor(), other=tensor((2,), (1,), at=storage(count=2))),
        "list of storages is not that",
    ),
    "a storage of a negative size": (dict_of(weight=tensor(at=storage(count=-1))), "cut or of another size"),
    "a storage of more than there is": (dict_of(weight=tensor(at=storage(count=2**31 - 1))), "cut or of another size"),
}


@pytest.mark.parametrize(("body", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_dict_of_tensors_is_refused_by_its_name(body: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_torch_file(torch_file(body))


def test_nesting_as_deep_as_a_file_is_long_ends_nothing() -> None:
    deep = b")" + b"\x85" * 200_000
    nowhere = dict_of(weight=tensor(at=storage().replace(text("a"), deep)))
    for body in (deep, b"}" + text("x") + deep + b"s", nowhere, tensor(at=deep)):
        with pytest.raises(WeightsError):
            read_torch_file(torch_file(body))


def test_a_file_around_the_tensors_that_makes_no_sense_is_refused() -> None:
    body, data = dict_of(weight=tensor()), struct.pack("<q", 24) + NUMBERS.tobytes()
    for file, message in (
        (torch_file(body, magic=7), "no PyTorch file of before version 1.6"),
        (torch_file(body, machine={**MACHINE, "little_endian": False}), "not written by a little-endian machine"),
        (torch_file(body, machine=[]), "not written by a little-endian machine"),
        (torch_file(body, keys=("a", "b")), "list of storages is not that of its tensors"),
        (torch_file(body, keys=()), "list of storages is not that of its tensors"),
        (torch_file(body, stored=data + b"\0"), "goes on behind its last storage"),
        (torch_file(body, stored=struct.pack("<q", 23) + data[8:]), "storage a is cut or of another size"),
        (b"PK\3\4" + bytes(100), "not a file of PyTorch tensors"),
        (b"", "not a file of PyTorch tensors"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_torch_file(file)


def test_a_file_cut_or_changed_anywhere_is_refused_or_gives_tensors_of_the_same_names() -> None:
    whole = torch_file(dict_of(weight=tensor(), turned=tensor((6, 4), (1, 6))))
    random = np.random.default_rng(0)
    for length in range(len(whole)):
        with pytest.raises(WeightsError):
            read_torch_file(whole[:length])
    for _ in range(3000):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] = random.integers(256)
        try:
            found = read_torch_file(bytes(changed))
        except WeightsError:
            continue
        assert all(array.size <= 24 for array in found.values())


def test_only_the_published_file_is_read_and_under_its_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch_file(dict_of(weight=tensor()))
    known = Pretrained("a-package", "1.0", "a/known.pth", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(vision.networks.weights, "PRETRAINED", {**PRETRAINED, "known": known})
    for name, content, message in (
        ("known.pth", data, "names of no known project"),  # so it was read
        ("known.pth", data + b"\0", "is not the published file of that name"),
        ("other.pth", data, "it may run code when unpickled"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_foreign(tmp_path / name)
