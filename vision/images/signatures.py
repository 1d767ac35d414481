"""What a file is by its bytes, for those that can't be decoded: so that the reason helps the person who reads it."""

from __future__ import annotations

from vision.images.tiff import TIFF, is_raw_tiff

_READ = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)
_RAW = (
    (0, b"FUJIFILMCCD-RAW"),
    (4, b"ftypcrx"),  # Canon CR3
    (6, b"HEAPCCDR"),  # Canon CRW
    (0, b"IIRO"), (0, b"IIRS"), (0, b"MMOR"),  # Olympus
    (0, b"IIU\0"),  # Panasonic
    (0, b"\0MRM"),  # Minolta
    (0, b"FOVb"),  # Sigma
)  # fmt: skip
_FOREIGN = (
    *((at, mark, "a camera's raw file") for at, mark in _RAW),
    (4, b"ftyp", "a film"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "icon"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?R", "Radiance HDR"),
    (0, b"DDS ", "DDS"),
    (128, b"DICM", "DICOM"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
)
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_MAX_BRANDS_BYTES = 1024
_HEAD_BYTES = 1024  # within which a drawing's first tag stands, behind declaration and comments


def heif_kind(data: bytes) -> str | None:
    """Return HEIC, HEIF or AVIF by the brands that a file begins with; None for all other files, films too."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), _MAX_BRANDS_BYTES)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]
    if brands[0] in (b"avif", b"avis"):
        return "AVIF"
    if brands[0][:3] in (b"hei", b"hev"):
        return "HEIC"
    if brands[0] in (b"mif1", b"mif2", b"msf1", b"miaf"):
        return "AVIF" if {b"avif", b"avis"} & set(brands) else "HEIF"
    return None


def is_raw(data: bytes) -> bool:
    """Whether a file is a camera's raw one, by its first bytes or its TIFF directory."""
    return any(data[at : at + len(mark)] == mark for at, mark in _RAW) or (data.startswith(TIFF) and is_raw_tiff(data))


def read_format(data: bytes) -> str | None:
    """Return the name of the format that ``data`` starts as, if it is one that is read."""
    return heif_kind(data) or _first_match(data, _READ)


def foreign_format(data: bytes) -> str | None:
    """Return what ``data`` is, if it holds a picture or film of a format that is not read."""
    head = data[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE svg")) and b"<svg" in head:
        return "SVG"
    return _first_match(data, _FOREIGN)


def ends_early(data: bytes) -> bool:
    """Whether a damaged file lacks its end, by its own format's account."""
    name = read_format(data)
    if name in ("AVIF", "HEIC", "HEIF"):
        return _boxes_end_early(data)
    if name == "WebP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if name == "TIFF":  # the directory stands where bytes 4 to 7 say
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)
    return name in _END_MARKS and _END_MARKS[name] not in data


def _boxes_end_early(data: bytes) -> bool:
    """Whether a file that can't be read lacks its end: its last box or all behind the first one."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        if size < 8:  # 0: up to the end
            return False
        at += size
    return at != len(data) or b"meta" not in data


def _first_match(data: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for at, mark, name in table if data[at : at + len(mark)] == mark), None)
