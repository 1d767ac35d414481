"""Draw docs/images/report.png from a finished demo: ``python docs/images/make_report_picture.py demo-run``.

The picture holds every 45th row of the demo's report and, below a line, the rows of the least confidence, each with
its image. Nothing in it is typed by hand.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURE = Path(__file__).with_name("report.png")
COLUMNS = ("path", "status", "label", "confidence", "label_2", "confidence_2", "width", "height", "model")
EVERY, LEAST_SURE = 45, 4
SCALE = 2  # drawn at twice the size, for sharp screens
ROW_PX, TEXT_PX, PAD_PX, IMAGE_PX = 36 * SCALE, 15 * SCALE, 16 * SCALE, 28 * SCALE
INK, MUTED, LINE, PAPER, WRONG = "#1f2328", "#59636e", "#d1d9e0", "#ffffff", "#b35900"


def main() -> int:
    """Draw the picture of the demo in the folder given as first argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run")
    with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    unsure = sorted(rows, key=lambda row: float(row["confidence"] or 0))[:LEAST_SURE]
    picture = draw(rows[::EVERY], unsure, len(rows), folder / "digits" / "held-out")
    picture.quantize(64).save(PICTURE, optimize=True)
    print(PICTURE)
    return 0


def draw(spread: list[dict[str, str]], unsure: list[dict[str, str]], total: int, images: Path) -> Image.Image:
    """Return the table of both lists of rows; ``images`` is the folder that their paths are below."""
    font, small = ImageFont.load_default(TEXT_PX), ImageFont.load_default(13 * SCALE)
    widths = [
        max(font.getlength(text) for text in (name, *(row[name] for row in (*spread, *unsure)))) for name in COLUMNS
    ]
    starts = [2 * PAD_PX + IMAGE_PX]
    for width in widths:
        starts.append(starts[-1] + int(width) + 2 * PAD_PX)
    parts = (
        (f"report.csv: every {EVERY}th of its {total} rows", spread),
        (f"the {len(unsure)} rows of the least confidence", unsure),
    )
    lines = 1 + sum(1 + len(rows) for _, rows in parts)
    picture = Image.new("RGB", (starts[-1], lines * ROW_PX + PAD_PX), PAPER)
    pen = ImageDraw.Draw(picture)
    middle = PAD_PX // 2 + ROW_PX // 2
    for name, start in zip(COLUMNS, starts, strict=False):
        pen.text((start, middle), name, INK, font, anchor="lm", stroke_width=SCALE // 2)
    for title, rows in parts:
        middle += ROW_PX
        pen.line([(0, middle - ROW_PX // 2), (picture.width, middle - ROW_PX // 2)], LINE, SCALE)
        pen.text((PAD_PX, middle), title, MUTED, small, anchor="lm")
        for row in rows:
            middle += ROW_PX
            with Image.open(images / row["path"]) as image:
                shown = image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), Image.Resampling.NEAREST)
            picture.paste(shown, (PAD_PX, middle - IMAGE_PX // 2))
            wrong = row["path"].split("/")[0] != row["label"]  # the demo's folders are the true digits
            for name, start in zip(COLUMNS, starts, strict=False):
                ink = WRONG if wrong and name in ("path", "label") else INK
                pen.text((start, middle), row[name], ink, font, anchor="lm")
    return picture


if __name__ == "__main__":
    sys.exit(main())
