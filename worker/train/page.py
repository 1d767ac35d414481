"""The pieces of an HTML page that needs nothing but itself: styles, pictures and tables are inside, no script is.

Arguments named ``cells``, ``body`` or ``caption`` are HTML. Whatever is not ours becomes HTML through `text`.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from vision.errors import ImageError
from vision.images.decode import ImageLimits, decode_within, read_file

THUMBNAIL_PX = 160

# What no page, table or UTF-8 file should hold as it is: control characters, and bytes of names that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Plots are drawn on white. In the dark their lightness is turned round, and the hue turned back.
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6475; --line: #d9dde5; --card: #f5f7fa; --page: #fff; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa4b5; --line: #343b48; --card: #1d222c; --page: #12161d; }
  .plot img { filter: invert(0.93) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 0.5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; border-bottom: 1px solid var(--line); padding-bottom: 0.25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
p { margin: 0.5rem 0; }
.note, .path { color: var(--soft); font-size: 0.85rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 0.75rem; margin: 1rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.75rem; }
.card h3 { margin: 0; font-size: 0.85rem; font-weight: 600; color: var(--soft); }
.card p { margin: 0.15rem 0; }
.card .note { font-size: 0.8rem; line-height: 1.35; }
.value { font-size: 1.35rem; font-weight: 600; line-height: 1.25; white-space: nowrap; }
.plot { overflow-x: auto; }
.plot img { display: block; max-width: 100%; height: auto; }
.scroll { overflow: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 0.2rem 1.25rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: break-word; }
td:last-child:not(.number) { overflow-wrap: anywhere; }
td, b, .label, .path { unicode-bidi: isolate; }
.number { text-align: right; white-space: nowrap; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0.5rem; grid-column: span 2; }
figure { margin: 0; font-size: 0.85rem; line-height: 1.35; break-inside: avoid; }
figure img, .gone { display: block; width: 100%; height: 10rem; object-fit: contain; background: var(--card);
  border-radius: 0.25rem; margin-bottom: 0.25rem; }
.gone { display: grid; place-items: center; color: var(--soft); border: 1px dashed var(--line); }
ul { padding-left: 1.25rem; margin: 0.5rem 0; font-size: 0.9rem; }
@media screen {
  .tall { max-height: 46rem; }
  .tall th { position: sticky; top: 0; background: var(--page); }
}
@media screen and (max-width: 40rem) {
  .wide img { max-width: none; width: 46rem; }
  .images { grid-template-columns: 1fr 1fr; }
  th, td { padding-right: 0.6rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 0.8rem; }
  .value { font-size: 1.1rem; }
  h2 { break-after: avoid; }
  .card, tr, .plot { break-inside: avoid; }
}
"""

# The policy is a second lock: should anything ever slip through `text`, browsers neither run nor fetch it.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}</body>
</html>
"""


def page(title: str, body: str) -> str:
    """Return the whole page; ``title`` is plain text."""
    return _PAGE.format(title=text(title), style=_STYLE, body=body)


def text(plain: str) -> str:
    """Return HTML that shows just ``plain``, also inside a quoted attribute."""
    return html.escape(printable(plain))


def printable(plain: str) -> str:
    """Return ``plain`` in one line of valid Unicode: control characters and stray bytes become backslash escapes."""
    return _UNPRINTABLE.sub(lambda match: match.group().encode("unicode_escape").decode(), plain)


def section(title: str, body: str) -> str:
    """Return a part of the page under its heading."""
    return f"<section><h2>{title}</h2>\n{body}</section>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int = 1, css: str = "scroll") -> str:
    """Return a table; its columns from ``numbers_from`` on are set to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="number"' if column >= numbers_from else "" for column in range(len(cells))]
        return "".join(f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>\n" for row in rows)
    return (
        f'<div class="{css}"><table><thead><tr>{line("th", head)}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'
    )


def plot(png: bytes, description: str, *, css: str = "plot") -> str:
    """Return a plot as wide as the page allows."""
    return f'<div class="{css}"><img src="{_data_uri("png", png)}" alt="{description}"></div>\n'


def figure(path: Path, limits: ImageLimits, caption: str) -> str:
    """Return a small copy of an image file above its caption; where it can't be read, a box that says why."""
    try:
        thumbnail = f'<img src="{_data_uri("jpeg", _thumbnail(path, limits))}" alt="">'
    except ImageError as error:
        thumbnail = f'<div class="gone">can\'t be read: {text(error.reason)}</div>'
    return f"<figure>{thumbnail}<figcaption>{caption}</figcaption></figure>\n"


def _thumbnail(path: Path, limits: ImageLimits) -> bytes:
    data = read_file(path, limits.max_bytes)
    # A large JPEG is decoded at a fraction: never below the thumbnail, never far above it.
    image = decode_within(data, limits, lambda width, height: max(width, height) / THUMBNAIL_PX / 2)
    small, jpeg = Image.fromarray(image.pixels), io.BytesIO()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
