"""Weights files that somebody made to do harm: each is a sentence, before MindSpore trusts its sizes."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.seeded import seeded_network
from vision.errors import VisionError, WeightsError
from vision.networks.ckpt import read_ckpt
from vision.networks.lenet5 import LeNet5Spec
from vision.networks.registry import network_kinds
from vision.networks.weights import get_weights, read_foreign, to_safetensors
from vision.serving.export import export_checkpoint
from worker.models.reading import read_apart

LENET = LeNet5Spec(classes=10, height_px=32, width_px=32)


def number(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + number(rest) if rest else bytes([low])


def part(field: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return number(field << 3) + number(content)
    return number(field << 3 | 2) + number(len(content)) + content


def tensor(name: bytes, dims: list[int], kind: bytes, content: bytes) -> bytes:
    inner = b"".join(part(1, size) for size in dims) + part(2, kind) + part(3, content)
    return part(1, part(1, name) + part(2, inner))


def test_a_checkpoint_of_mindspore_is_read_as_mindspore_reads_it(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in ("int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool")
    } | {"one": np.float32(7), "empty dims": np.ones((1, 1, 1), np.float32)}
    path = tmp_path / "all.ckpt"
    values = [{"name": name, "data": mindspore.Tensor(array)} for name, array in arrays.items()]
    mindspore.save_checkpoint(values, str(path), crc_check=True)

    found = read_ckpt(path.read_bytes())

    assert found.keys() == arrays.keys()
    for name, parameter in mindspore.load_checkpoint(str(path)).items():
        assert found[name].dtype == parameter.asnumpy().dtype
        np.testing.assert_array_equal(found[name], parameter.asnumpy())


def test_slices_and_packed_shapes_are_put_together() -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    packed = part(1, number(2) + number(3)) + part(2, b"Float32")
    slices = [part(1, part(1, b"a") + part(2, packed + part(3, piece))) for piece in (data[:8], data[8:])]

    found = read_ckpt(b"".join(slices) + tensor(b"b", [0], b"Float32", data[:4]))

    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].shape == ()


FOUR = b"A" * 4
CHECKPOINTS = {
    "long": (tensor(b"conv1.weight", [1], b"Float32", b"A" * 4_000_000), "has 4000000 bytes of content, not 4"),
    "scalar": (tensor(b"conv1.weight", [], b"Float32", b"A" * 400), "has 400 bytes of content, not 4"),
    "int8": (tensor(b"conv1.weight", [100], b"Int8", b"A" * 400), "has 400 bytes of content, not 100"),
    "many": (
        b"".join(tensor(b"conv1.weight", [100], b"Float32", b"A" * 100_000) for _ in range(50)),
        "has 5000000 bytes of content, not 400",
    ),
    "short": (tensor(b"a", [9], b"Float32", FOUR), "has 4 bytes of content, not 36"),
    "a huge shape": (tensor(b"a", [2**62, 2**62], b"Float32", FOUR), "has 4 bytes of content, not "),
    "a negative size": (tensor(b"a", [2**64 - 1], b"Float32", FOUR), "has 4 bytes of content, not "),
    "no bytes for a huge shape": (tensor(b"a", [0, 2**62], b"Float32", b""), "is too large|larger than|too big"),
    "axes": (tensor(b"a", [1] * 33, b"Float32", FOUR), "an array of more than 32 axes"),
    "packed axes": (
        part(1, part(1, b"a") + part(2, part(1, b"\1" * 1000) + part(2, b"Float32") + part(3, FOUR))),
        "an array of more than 32 axes",
    ),
    "a type": (tensor(b"a", [1], b"BFloat16", b"AA"), "of type 'BFloat16' and shape .1.: only Bool, Int8"),
    "no type": (part(1, part(1, b"a") + part(2, part(3, FOUR))), "0 values where one must be"),
    "slices that differ": (
        tensor(b"a", [2], b"Float32", FOUR) + tensor(b"a", [1], b"Float32", FOUR),
        "a slice of it has another type or shape",
    ),
    "twice": (
        tensor(b"a", [1], b"Float32", FOUR) + tensor(b"b", [1], b"Int32", FOUR) + tensor(b"a", [1], b"Float32", FOUR),
        "two arrays are called 'a'",
    ),
    "a name of bytes": (tensor(b"\xff", [1], b"Float32", FOUR), "a name that is no UTF-8"),
    "another field": (part(2, b"x"), "it has a field 2 of type 2"),
    "a wire type": (b"\x09" + b"A" * 8, "it has a field 1 of type 1"),
    "an endless number": (b"\xff" * 20, "or cut off"),
    "a length beyond the end": (b"\x0a\x7f" + b"A", "127 bytes are to come, and 1 do"),
    "a number for a tensor": (part(1, part(1, b"a") + part(2, 7)), "a number where bytes must be"),
    "text": (b"no checkpoint", "not a MindSpore checkpoint"),
    "a wrong checksum": (tensor(b"a", [1], b"Float32", FOUR) + b"crc_num" + b"\0" * 10, "damaged: its checksum is not"),
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_a_checkpoint_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    data, why = CHECKPOINTS[what]
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)

    with pytest.raises(WeightsError, match=rf"a\.ckpt: .*({why})"):
        read_foreign(path)


def test_four_changed_bytes_of_a_sound_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    export_checkpoint(seeded_network(LENET), path)
    data = path.read_bytes()
    at = data.index(b"\x08\x06\x08\x01\x08\x05\x08\x05")  # the shape of conv1.weight
    path.write_bytes(data[: at + 1] + b"\1" + data[at + 2 :])

    with pytest.raises(
        WeightsError, match=r"conv1.weight.* and shape \[1, 1, 5, 5\] has 600 bytes of content, not 100"
    ):
        read_foreign(path)


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_checkpoint_gives_arrays_or_a_sentence(data: st.DataObject) -> None:
    whole = bytearray(tensor(b"conv1.bias", [6], b"Float32", b"A" * 24) + tensor(b"b", [2, 2], b"Int16", b"A" * 8))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_ckpt(bytes(whole))
    except WeightsError:
        return
    assert all(array.nbytes == array.size * array.itemsize for array in found.values())


def header(value: object, data: bytes = b"") -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[int], size: int = 4, kind: str = "F32") -> dict[str, Any]:
    return {"conv1.weight": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    "data",
    [
        header(b'{"a":' + b"[" * 100_000),
        header({"__metadata__": {"network_spec": "[" * 100_000}, **entry([1])}, FOUR),
        header({"__metadata__": {"network_spec": "1" * 5000}, **entry([1])}, FOUR),
        header({"__metadata__": None, **entry([])}, FOUR),
        header(entry([])),
        *(header(entry([1] * rank), FOUR) for rank in (0, 5, 32, 33, 64, 65, 1000)),
        header(entry([2**62, 2**62])),
        header(entry([0, 2**62], 0)),
        header(entry([4], 4, "F8_E4M3"), FOUR),
        header(entry([2], 4, "BF16"), FOUR),
        header(entry([8], 4, "F4"), FOUR),
        header([]),
        struct.pack("<Q", 2**63) + b"{}",
    ],
    ids=range(19),
)
def test_a_safetensors_header_of_any_depth_and_rank_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)

    with pytest.raises(VisionError, match=r"."):
        read_foreign(tmp_path / "a.safetensors")


@pytest.mark.parametrize("rank", range(6))
@pytest.mark.parametrize("size", [0, 1, 3])
def test_arrays_of_any_rank_under_each_known_name_are_refused(rank: int, size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for kind in network_kinds():
        for naming in kind.namings().values():
            names = [translation.foreign for translation in naming.arrays]
            for chosen in ([names[0]], names[-2:], names):
                path.write_bytes(to_safetensors({name: np.zeros((size,) * rank, np.float32) for name in chosen}, {}))
                with pytest.raises(VisionError, match=r"."):
                    read_foreign(path)


def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").mkdir()

    for name, why in (("a", "is a pipe"), ("b", "is a folder"), ("c", "does not exist")):
        with pytest.raises(WeightsError, match=why):
            read_foreign(tmp_path / f"{name}.ckpt")


@pytest.mark.slow
def test_weights_read_apart_are_those_of_the_file(tmp_path: Path) -> None:
    network = seeded_network(LENET)
    export_checkpoint(network, tmp_path / "a.ckpt")

    found = read_apart(tmp_path / "a.ckpt", None)

    here = read_foreign(tmp_path / "a.ckpt")
    assert (found.spec, found.notes) == (here.spec, here.notes)
    assert found.arrays.keys() == get_weights(network).keys()
    for name, array in get_weights(network).items():
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.slow
def test_what_is_wrong_with_a_file_is_said_by_the_process_that_read_it(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(CHECKPOINTS["long"][0])

    with pytest.raises(WeightsError, match=r"^a\.ckpt: 'conv1.weight' .* has 4000000 bytes of content, not 4$"):
        read_apart(tmp_path / "a.ckpt", None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("import os; os.abort()", r"a\.ckpt is not imported: the process that read it ended with SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "ended with SIGSEGV"),
        ("raise ZeroDivisionError('oops')", "ended with code 1: ZeroDivisionError: oops"),
        ("bytearray(2**40)", "reading it takes more than 8 GB of memory"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n while True: pass", "SIG(XCPU|KILL)"),
    ],
)
def test_a_file_that_ends_what_reads_it_is_not_imported(
    does: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is exchanged for one that does what a library with a fault would; the process and limits are real."""
    program = f"""
import sys
from worker.models import reading
def read(path, *, convention):
 {does}
reading.read_foreign = read
sys.exit(reading.main(sys.argv[1:]))
"""
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **more: run([sys.executable, "-c", program, *command[3:]], **more)
    )

    with pytest.raises(WeightsError, match=why):
        read_apart(tmp_path / "a.ckpt", None)
