"""What a file is by its bytes, for those that can't be decoded: so that the reason helps the person who reads it."""

from __future__ import annotations

from vision.images.heif import boxes_end_early, heif_kind

_READ = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
)
_FOREIGN = (
    (4, b"ftypcrx", "a camera's raw file"),
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
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
_HEAD_BYTES = 1024  # within which a drawing's first tag stands, behind declaration and comments


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
        return boxes_end_early(data)
    if name == "WebP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if name == "GIF":
        return not data.rstrip(b"\0").endswith(b";")
    if name == "TIFF":  # the directory stands where bytes 4 to 7 say
        return int.from_bytes(data[4:8], "little" if data[:1] == b"I" else "big") >= len(data)
    return name in _END_MARKS and _END_MARKS[name] not in data


def _first_match(data: bytes, table: tuple[tuple[int, bytes, str], ...]) -> str | None:
    return next((name for at, mark, name in table if data[at : at + len(mark)] == mark), None)
