"""Protocol buffers, read and written field by field (https://protobuf.dev/programming-guides/encoding).

By hand: the onnx package would bring a protobuf into training workers beside which MindSpore can't be imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

VARINT, LENGTH = 0, 2  # wire types
_SIZES: Final = {1: 8, 5: 4}  # of those of fixed sizes, in bytes
_MOST_DIGITS: Final = 10  # of 7 bits, in a number of 64


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield number, wire type and value of each field: whole numbers, and the bytes of all others.

    Raises:
        ValueError: it is cut off, or no protocol buffer; groups, which nobody uses any more, are none either.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        field, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            number, at = varint(message, at)
            yield field, wire_type, number
            continue
        if wire_type == LENGTH:
            length, at = varint(message, at)
        elif wire_type in _SIZES:
            length = _SIZES[wire_type]
        else:
            raise ValueError(f"a field {field} of type {wire_type}")
        if length > len(message) - at:
            raise ValueError(f"{length} bytes are to come, and {len(message) - at} do")
        yield field, wire_type, message[at : at + length]
        at += length


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at ``at``, and where it ends."""
    number = 0
    for digit, byte in enumerate(message[at : at + _MOST_DIGITS]):
        number |= (byte & 0x7F) << 7 * digit
        if byte < 0x80:
            return number, at + digit + 1
    raise ValueError("a number that is cut off, or of more than 64 bits")


def encoded(values: Iterable[tuple[int, int | bytes]]) -> bytes:
    """Return the message of these fields."""
    parts = []
    for field, value in values:
        if isinstance(value, int):
            parts += [_encoded_varint(field << 3), _encoded_varint(value)]
        else:
            parts += [_encoded_varint(field << 3 | LENGTH), _encoded_varint(len(value)), value]
    return b"".join(parts)


def _encoded_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
