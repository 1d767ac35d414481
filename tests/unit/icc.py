"""Colour profiles made from their published numbers, for photos as phones, cameras and printers tag them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Columns = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]

# Red, green, blue in XYZ, adapted to D50 (Bradford), as in the profiles of Apple, Adobe and Kodak.
SRGB_COLUMNS: Columns = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
P3_COLUMNS: Columns = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_COLUMNS: Columns = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO_COLUMNS: Columns = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(columns: Columns, curve: Sequence[float]) -> bytes:
    """Return a profile of three primaries and one curve: a gamma, or five numbers where its foot is straight."""
    parts = {b"wtpt": _xyz(D50)}
    parts |= {name + b"XYZ": _xyz(column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve))
    return _profile(b"mntr", b"RGB ", b"XYZ ", parts)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": _curve((gamma,))})


def cmyk_profile(lab_of_inks: Sequence[tuple[int, int, int]]) -> bytes:
    """Return a profile that knows the L, a, b (8 bits each) of the 16 mixtures of full inks, the last one inmost."""
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + b"".join(_fixed(int(n in (0, 4, 8))) for n in range(9))
    table += straight * 4 + b"".join(bytes(lab) for lab in lab_of_inks) + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": table})


def _profile(kind: bytes, space: bytes, connection: bytes, parts: dict[bytes, bytes]) -> bytes:
    parts = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79), **parts}
    at, directory, body = 128 + 4 + 12 * len(parts), struct.pack(">I", len(parts)), b""
    for name, content in parts.items():
        directory += name + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, kind, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, D50))
    return header.ljust(128, b"\0") + directory + body


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _curve(curve: Sequence[float]) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", 3 if len(curve) == 5 else 0, 0) + b"".join(map(_fixed, curve))


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
