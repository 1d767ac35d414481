"""Take the pictures of docs/images from a finished demo: ``python docs/images/make_pictures.py demo-run``.

`sortline eval` labels the demo's held-out digits, and Debian's Chromium takes pictures of the page that it writes.
Nothing in them is drawn by hand.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).parent
SORTLINE = str(Path(sys.executable).parent / "sortline")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
COLOURS = 256  # of a palette: half the bytes, and no eye sees it


def main() -> int:
    """Take the pictures of the demo in the folder given as first argument."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run").absolute()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("the pictures need Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    report = demo / "evaluation" / "report.html"
    subprocess.run(
        [SORTLINE, "eval", str(demo / "digits" / "held-out"), "-o", str(report.parent), "--on-existing", "overwrite"],
        env={**os.environ, "SORTLINE_HOME": str(demo / "home")},
        check=True,
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 1080}, color_scheme="light")
        page.goto(report.as_uri())
        take(page, "report.png")
        page = browser.new_page(viewport={"width": 1180, "height": 820}, color_scheme="dark")
        page.goto(report.as_uri())
        page.select_option("#order", "least")
        page.locator("#images").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('images').scrollIntoView()")
        take(page, "report-gallery.png")
        browser.close()
    return 0


def take(page: Page, name: str) -> None:
    """Save what the window shows, once every picture in it has been drawn."""
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)
    print(PICTURES / name)


if __name__ == "__main__":
    sys.exit(main())
