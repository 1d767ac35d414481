"""Messages are unpacked within a limit, in the one way that producers pack them."""

from __future__ import annotations

import pytest
from kombu import compression
from kombu.exceptions import DecodeError
from kombu.transport import resolve_transport

from jobs.app import make_app
from jobs.messages import MAX_MESSAGE_BYTES
from jobs.transport import Transport, unpack


def test_what_is_packed_comes_out_again() -> None:
    packed, kind = compression.compress(b"x" * MAX_MESSAGE_BYTES, "zstd")

    assert compression.decompress(packed, kind) == b"x" * MAX_MESSAGE_BYTES


def test_a_bomb_is_unpacked_up_to_the_limit_only() -> None:
    packed, kind = compression.compress(b"x" * (MAX_MESSAGE_BYTES + 1), "zstd")
    assert len(packed) < 20_000

    with pytest.raises(DecodeError, match="more than 67108864 bytes"):
        compression.decompress(packed, kind)


@pytest.mark.parametrize("data", [b"", b"no zstd", compression.compress(b"text", "zstd")[0][:-1]])
def test_what_is_no_whole_frame_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        unpack(data)


@pytest.mark.parametrize("kind", sorted(set(compression.encoders()) - {"application/zstd"}))
def test_no_other_packing_is_unpacked(kind: str) -> None:
    with pytest.raises(DecodeError, match="packed with zstd or not at all"):
        compression.decompress(b"", kind)


def test_every_app_has_the_checked_transport() -> None:
    assert make_app is not None  # importing it is enough
    assert [resolve_transport(name) for name in ("redis", "rediss")] == [Transport, Transport]
