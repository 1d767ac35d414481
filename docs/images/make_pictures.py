"""Take the pictures of docs/images of a finished demo: ``python -m docs.images.make_pictures demo-run``.

`sortline eval` labels the demo's held-out digits, and Debian's Chromium takes pictures of the page that it writes, of
the page of the training, and of that of `sortline review`. Then `sortline up` labels and trains at the same time, and
Chromium looks at its Flower.
Nothing in them is drawn by hand.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from examples.digits_demo import stack_up

PICTURES = Path(__file__).parent
SORTLINE = str(Path(sys.executable).parent / "sortline")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
COLOURS = 256  # of a palette: half the bytes, and no eye sees it
TIMES = 100  # the digits are labelled: else the run is over before anybody has looked
CHUNK_IMAGES = "900"
LIMIT_MS = 120_000


def main() -> int:
    """Take the pictures of the demo in the folder given as first argument."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-run").absolute()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("the pictures need Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    os.environ["SORTLINE_HOME"] = str(demo / "home")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        take_report(browser, demo)
        take_review(browser, demo)
        take_training(browser, demo)
        with stack_up(demo):
            take_flower(browser, demo)
        browser.close()
    return 0


def take_report(browser: Browser, demo: Path) -> None:
    """Take the pictures of the page that `sortline eval` writes."""
    report = demo / "evaluation" / "report.html"
    sortline("eval", str(demo / "digits" / "held-out"), "-o", str(report.parent), "--on-existing", "overwrite")
    page = browser.new_page(viewport={"width": 1180, "height": 1080}, color_scheme="light")
    page.goto(report.as_uri())
    take(page, "report.png")
    page = browser.new_page(viewport={"width": 1180, "height": 820}, color_scheme="dark")
    page.goto(report.as_uri())
    page.select_option("#order", "least")
    page.evaluate("document.getElementById('images').scrollIntoView()")
    take(page, "report-gallery.png")


def take_review(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of `sortline review` while somebody corrects doubtful digits."""
    corrections = demo / "review.csv"
    corrections.unlink(missing_ok=True)
    command = [SORTLINE, "review", str(demo / "report.csv"), "-o", str(corrections)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = (link for line in server.stdout or () if (link := re.search(r"http://\S+", line)))
            page = browser.new_page(viewport={"width": 1180, "height": 820}, color_scheme="light")
            page.goto(next(said)[0])
            page.locator("#grid[aria-busy=false] .tile").first.wait_for()
            for key in ("Enter", "Space", "Shift+ArrowRight", "1"):
                page.keyboard.press(key)
            page.locator("#status", has_text="2 images: ").wait_for()
            for key in ("Delete", "ArrowRight", "Space", "Shift+ArrowRight"):
                page.keyboard.press(key)
            page.locator("#grid[aria-busy=false] .tile.chosen").nth(1).wait_for()
            take(page, "review.png")
        finally:
            server.terminate()


def take_training(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of the demo's training."""
    page = browser.new_page(viewport={"width": 1180, "height": 730}, color_scheme="light")
    page.goto((demo / "home" / "store" / "digits" / "versions" / "0001" / "report.html").as_uri())
    take(page, "training.png")


def take_flower(browser: Browser, demo: Path) -> None:
    """Take the pictures of Flower's pages while a run and a training are under way."""
    inbox = demo / "inbox.txt"
    digits = [str(path) for path in sorted((demo / "digits" / "held-out").glob("*/*.png"))]
    inbox.write_text("\n".join(digits * TIMES), encoding="utf-8")
    flower = re.search(r"http://127.0.0.1:(\d+)", (demo / "up.log").read_text(encoding="utf-8"))
    if flower is None:
        raise SystemExit("sortline up has no Flower here")
    wait_until(lambda: is_listening(int(flower[1])))
    password = (demo / "home" / "flower-password").read_text(encoding="utf-8").strip()
    context = browser.new_context(
        viewport={"width": 1480, "height": 760},
        color_scheme="light",
        http_credentials={"username": "sortline", "password": password},
    )
    context.set_default_timeout(LIMIT_MS)
    page = context.new_page()
    page.goto(f"{flower[0]}/workers")
    for kind in ("label-", "train-"):
        page.get_by_text(kind).first.wait_for()
    photos = str(demo / "digits" / "train")
    training = sortline(
        "train", photos, "--config", "digits", "--name", "digits", "--promote", "never", "--detach"
    ).strip()
    page.goto(f"{flower[0]}/tasks")
    page.locator("td", has_text=re.compile(r"epoch [3-9]/")).first.wait_for()
    label = [SORTLINE, "label", str(inbox), "-o", str(demo / "inbox.csv"), "--model", "digits"]
    with subprocess.Popen(
        [*label, "--on-existing", "overwrite"], env={**os.environ, "SORTLINE_CHUNK_IMAGES": CHUNK_IMAGES}
    ):
        page.locator("td", has_text=re.compile(r"\d/36000 images, ")).first.wait_for()
        take(page, "flower-tasks.png")
        page.goto(f"{flower[0]}/workers")
        page.locator("#workers-table .badge").nth(1).wait_for()
        take(page, "flower-workers.png")
    context.close()
    sortline("jobs", "cancel", training)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once ``condition()`` is true."""
    deadline = time.monotonic() + LIMIT_MS / 1000
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("Flower does not answer")
        time.sleep(0.1)


def is_listening(port: int) -> bool:
    """Return whether somebody answers at ``port`` of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sortline(*arguments: str) -> str:
    """Run one command and return what it printed; raise when it fails."""
    return subprocess.run([SORTLINE, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def take(page: Page, name: str) -> None:
    """Save what the window shows, once every picture in it has been drawn."""
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)
    print(PICTURES / name)


if __name__ == "__main__":
    sys.exit(main())
