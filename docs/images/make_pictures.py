"""Take the pictures of docs/images of a finished demo: ``python -m docs.images.make_pictures demo-run``.

`sortline eval` labels the demo's held-out digits, and Debian's Chromium takes pictures of the page that it writes, of
the page of the training, and of that of `sortline review`. Then `sortline up` labels and trains at the same time, and
Chromium looks at its Flower, and at the pages of a search, a comparison, an audit and drift. For these some digits are
put into a wrong folder, or blurred; the pages are as the commands write them.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFilter
from playwright.sync_api import Browser, Page, sync_playwright

from examples.digits_demo import stack_up

PICTURES = Path(__file__).parent
SORTLINE = str(Path(sys.executable).parent / "sortline")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
COLOURS = 256  # of a palette: half the bytes, and no eye sees it
TIMES = 100  # the digits are labelled: else the run is over before anybody has looked
CHUNK_IMAGES = "900"
LIMIT_MS = 120_000
WEEKS = 8  # runs of which the last ones are blurred


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
            take_sweep(browser, demo)
            take_comparison(browser, demo)
            take_audit(browser, demo)
            take_drift(browser, demo)
            take_decisions(browser, demo)
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
    with reviewed(browser, demo / "report.csv") as page:
        for key in ("Enter", "Space", "Shift+ArrowRight", "1"):
            page.keyboard.press(key)
        page.locator("#status", has_text="2 images: ").wait_for()
        for key in ("Delete", "ArrowRight", "Space", "Shift+ArrowRight"):
            page.keyboard.press(key)
        page.locator("#grid[aria-busy=false] .tile.chosen").nth(1).wait_for()
        take(page, "review.png")


@contextmanager
def reviewed(browser: Browser, report: Path, *options: str) -> Iterator[Page]:
    """Serve the page of `sortline review` of a report without corrections, and open it."""
    corrections = report.with_suffix(".corrections.csv")
    corrections.unlink(missing_ok=True)
    command = [SORTLINE, "review", str(report), "-o", str(corrections), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = (link for line in server.stdout or () if (link := re.search(r"http://\S+", line)))
            page = browser.new_page(viewport={"width": 1180, "height": 820}, color_scheme="light")
            page.goto(next(said)[0])
            page.locator("#grid[aria-busy=false] .tile").first.wait_for()
            yield page
        finally:
            server.terminate()


def take_training(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of the demo's training."""
    take_page(browser, demo / "home" / "store" / "digits" / "versions" / "0001" / "report.html", "training.png", 730)


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


def take_sweep(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of a search among short trainings."""
    table = demo / "sweep.csv"
    values = ("--sweep", "lr_max=0.0003..0.02", "--sweep", "augmentation.rotate_degrees=0..30", "--trials", "10")
    more = ("--config", "digits", "--name", "searched", "--sweep-report", str(table), "--overwrite")
    sortline("train", str(demo / "digits" / "train"), *more, *values, "--set", "epochs=4", "--set", "refit=false")
    take_page(browser, table.with_suffix(".html"), "sweep.png", 950)


def take_comparison(browser: Browser, demo: Path) -> None:
    """Take the pictures of the page that compares a version of three epochs with that of the demo."""
    page = demo / "comparison.html"
    hasty = ("--config", "digits", "--name", "hasty", "--set", "epochs=3", "--set", "refit=false")
    sortline("train", str(demo / "digits" / "train"), *hasty)
    sortline("compare", "hasty", "digits", str(demo / "digits" / "held-out"), "-o", str(page))
    take_page(browser, page, "comparison.png", 560)
    take_page(browser, page, "comparison-images.png", 625, "disagreements")


def take_audit(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of an audit of digits, ten of them in the folder of another."""
    folder = demo / "audited"
    shutil.rmtree(folder, ignore_errors=True)
    for label in range(10):
        for number, path in enumerate(sorted((demo / "digits" / "train" / str(label)).iterdir())):
            inside = folder / str((label + 3) % 10 if number == 7 else label)
            inside.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, inside)
    sortline("audit", "audited", "-o", "audit.html", "--config", "digits", "--set", "epochs=8", folder=demo)
    take_page(browser, demo / "audit.html", "audit.png", 820)


def take_drift(browser: Browser, demo: Path) -> None:
    """Take the picture of the page of drift: runs of digits, the last of them more and more blurred."""
    digits, reports = sorted((demo / "digits" / "held-out").glob("*/*.png")), []
    for week in range(1, WEEKS + 1):
        folder, report = demo / "weeks" / f"week-{week}", demo / f"week-{week}.csv"
        folder.mkdir(parents=True, exist_ok=True)
        blur = ImageFilter.GaussianBlur(0.3 * max(0, week - WEEKS // 2))
        for path in digits[week % 2 :: 2]:
            Image.open(path).filter(blur).save(folder / f"{path.parent.name}-{path.name}")
        time.sleep(2 - time.time() % 2)  # the page's axis is time, in whole seconds
        sortline("label", str(folder), "-o", str(report), "--model", "digits", "--on-existing", "overwrite")
        reports.append(str(report))
    sortline("drift", *reports, "-o", str(demo / "drift.html"))
    take_page(browser, demo / "drift.html", "drift.png", 820)


def take_decisions(browser: Browser, demo: Path) -> None:
    """Take the picture of `sortline review` of the digits that a run is not sure enough of."""
    report = demo / "decided.csv"
    label = ("label", str(demo / "digits" / "held-out"), "-o", str(report), "--model", "digits")
    sortline(*label, "--min-confidence", "0.98", "--top-k", "3", "--on-existing", "overwrite")
    with reviewed(browser, report, "--decision", "review") as page:
        take(page, "review-decision.png")
        page.keyboard.press("0")
        page.locator("#large-picture img").wait_for()
        take(page, "review-large.png")


def take_page(browser: Browser, page: Path, name: str, height_px: int, begin: str = "") -> None:
    """Take the picture of a page in the light, from its top or from the element of this id on."""
    shown = browser.new_page(viewport={"width": 1180, "height": height_px}, color_scheme="light")
    shown.goto(page.as_uri())
    if begin:
        shown.evaluate("id => document.getElementById(id).scrollIntoView()", begin)
    take(shown, name)


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


def sortline(*arguments: str, folder: Path | None = None) -> str:
    """Run one command, in this folder, and return what it printed; raise when it fails."""
    return subprocess.run([SORTLINE, *arguments], stdout=subprocess.PIPE, text=True, check=True, cwd=folder).stdout


def take(page: Page, name: str) -> None:
    """Save what the window shows, once every picture in it has been drawn."""
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)
    print(PICTURES / name)


if __name__ == "__main__":
    sys.exit(main())
