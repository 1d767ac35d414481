"""report.html in a real browser: filters, keyboard, hostile names, ten thousand images."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from jobs.label import Row
from producer.reports.layout import Layout
from producer.reports.page import write_page
from producer.reports.report import Report
from producer.reports.tally import Truth
from producer.runfile import RunFile
from tests.browser.conftest import Open
from tests.unit.reported import LABELS, ok, run_of, tally

pytestmark = pytest.mark.slow
BROKEN = Row(error="truncated", detail="the file ends early")
COLOURS = ("teal", "goldenrod", "slateblue")


def page_of(run: RunFile, path: Path, truth: Truth = "auto", embed_mb: float = 32) -> Path:
    layout = Layout.of(run.plan)
    counts = tally(run, layout, truth)
    write_page(Report(run=run, layout=layout, counts=counts, embed_mb=embed_mb, max_pixels=10**8), path)
    return path


def drawn(path: Path, text: str = "", size: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (size, size * 3 // 4), COLOURS[hash(text) % 3])
    ImageDraw.Draw(image).text((10, 10), text)
    image.save(path)


FOLDER = [LABELS[number % 3] for number in range(200)]
LABEL = [LABELS[number % 3 if number % 4 else 0] for number in range(199)]  # the last one is broken
SURE = [0.4 + 0.003 * number for number in range(199)]
WRONG = [number for number in range(199) if FOLDER[number] != LABEL[number]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that no test changes."""
    return report_in(tmp_path_factory.mktemp("report"))


def report_in(folder: Path) -> Path:
    """200 images in folders named after their labels, a quarter of them wrong, one of them broken."""
    paths = [f"{FOLDER[number]}/{number:03}.jpg" for number in range(200)]
    for path in paths:
        drawn(folder / "inbox" / path, path)
    rows = [ok(LABELS.index(label), sure) for label, sure in zip(LABEL, SURE, strict=True)]
    with run_of(folder, paths, [*rows, BROKEN], base=str(folder / "inbox")) as run:
        return page_of(run, folder / "report.html")


def found(page: Page) -> str:
    return page.locator("#found").inner_text()


def one_page(images: int) -> str:
    return f"{images} images, page 1 of 1"


def show_all(page: Page) -> None:
    page.get_by_role("button", name="Show all").click()
    wait_for(lambda: page.evaluate("document.getElementById('found').textContent.startsWith('200')"))


def shown(page: Page, part: str) -> list[str]:
    return page.locator(f"#tiles {part}").all_inner_texts()


def wait_for(condition: Callable[[], object], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks


def test_the_page_tells_totals_and_shows_every_thumbnail(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        cards = page.locator(".cards .card").all_inner_texts()
        assert cards[0].split("\n") == ["Images", "200", "199 labelled"]
        assert cards[1].startswith(f"Accuracy\n{100 * (1 - len(WRONG) / 199):.1f} %")
        assert found(page) == "200 images, page 1 of 4"
        assert shown(page, ".class") == ["glass"]
        wait_for(
            lambda: page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        )
        assert page.locator("#tiles img").count() == 60
        cropped = (
            "[...document.querySelectorAll('.shown img')].filter((image) => "
            "image.getBoundingClientRect().bottom > image.parentElement.getBoundingClientRect().bottom + 1).length"
        )
        assert page.evaluate(cropped) == 0
        assert watched.requests == [report.as_uri()]


def test_each_filter_narrows_the_gallery(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        page.select_option("#label", "paper")
        assert found(page) == one_page(LABEL.count("paper"))
        assert set(shown(page, ".label")) == {"paper"}

        page.select_option("#status", "wrong")
        assert found(page) == "no image is like this"

        show_all(page)
        page.select_option("#status", "wrong")
        assert found(page) == one_page(len(WRONG))
        page.select_option("#folder", "tin")
        assert set(shown(page, ".truth")) == {"is tin"}

        show_all(page)
        page.select_option("#status", "error")
        assert found(page) == "1 image, page 1 of 1"
        assert shown(page, ".label") == ["truncated"]

        show_all(page)
        page.fill("#high", "45")
        page.select_option("#order", "least")
        assert shown(page, ".percent")[0] == "40.0 %"
        assert found(page) == one_page(sum(sure <= 0.45 for sure in SURE))
        page.fill("#text", "GLASS 012")
        assert found(page) == "1 image, page 1 of 1"


def test_the_orders_are_what_they_say(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page

        def percents() -> list[float]:
            return [float(text.removesuffix(" %")) for text in shown(page, ".percent")]

        assert percents() == sorted(percents(), reverse=True)  # within the first label
        page.select_option("#order", "least")
        assert percents() == sorted(percents())
        page.select_option("#order", "most")
        assert percents() == sorted(percents(), reverse=True)
        page.select_option("#order", "input")
        assert [path.split("/")[1] for path in shown(page, ".path")][:3] == ["000.jpg", "001.jpg", "002.jpg"]


def test_the_keyboard_reaches_filters_pages_and_images(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        focused = "document.activeElement.dataset.place || document.activeElement.id"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the gallery"
        page.keyboard.press("/")
        assert page.evaluate(focused) == "text"
        page.keyboard.type("paper")
        paper = sum("paper" in (folder, label) for folder, label in zip(FOLDER, [*LABEL, ""], strict=True))
        wait_for(lambda: page.evaluate(f"document.getElementById('found').textContent.startsWith('{paper} ')"))
        assert 60 < paper <= 120

        page.focus("#tiles button")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(focused) == "1"
        page.keyboard.press("ArrowDown")
        below = int(page.evaluate(focused))
        assert below > 1
        page.keyboard.press("ArrowUp")
        assert page.evaluate(focused) == "1"
        page.keyboard.press("PageDown")
        assert found(page) == f"{paper} images, page 2 of 2"
        assert page.evaluate(focused) == "60"

        page.keyboard.press("Enter")
        assert page.locator("#closer").is_visible()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Escape")
        wait_for(lambda: page.evaluate("!document.getElementById('closer').open"))
        wait_for(lambda: page.evaluate(f"({focused}) === '59'"))  # on the page before, where the last one lies
        assert found(page) == f"{paper} images, page 1 of 2"


def test_bars_and_the_matrix_lead_to_their_images(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        page.get_by_role("button", name="tin", exact=True).first.click()
        assert found(page) == one_page(LABEL.count("tin"))
        assert page.evaluate("document.activeElement.id") == "label"

        confused = sum(FOLDER[number] == "tin" for number in WRONG)
        page.get_by_role("button", name=f"tin labelled glass: {confused} images").click()
        assert found(page) == one_page(confused)
        assert set(shown(page, ".truth")) == {"is tin"}


def test_an_image_is_shown_large_with_all_that_is_known(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        page.select_option("#status", "wrong")
        page.locator("#tiles button").first.click()
        assert page.locator("#closer-title").inner_text().startswith("glass, ")
        assert "The folder says" in page.locator("#closer-facts").inner_text()
        assert page.locator("#closer-facts .bars li").count() == 3
        wait_for(lambda: page.evaluate("document.querySelector('#closer-image img').naturalWidth") == 200)  # the file
        assert watched.requests[-1].startswith("file:")


def test_the_gallery_shows_what_was_decided(opened: Open, tmp_path: Path) -> None:
    scores = (0.5, 0.5, 0.5, 2.0, 2.0, None)
    rows = [ok(number % 3).model_copy(update={"outlier": score}) for number, score in enumerate(scores)]
    paths, inbox = [f"{number}.jpg" for number in range(len(rows) + 1)], tmp_path / "inbox"
    for path in paths:
        drawn(inbox / path)
    decides: dict[str, Any] = {"thresholds": {"0.95": [0.5, None, 0.5]}, "outliers": True}
    with run_of(tmp_path, paths, [*rows, BROKEN], base=str(inbox), **decides) as run:
        report = page_of(run, tmp_path / "report.html")
    with opened(report) as watched:
        page = watched.page
        for decision, images in (("accept", "3 images"), ("review", "1 image"), ("unknown", "2 images")):
            page.select_option("#status", decision)
            assert found(page) == f"{images}, page 1 of 1"
        page.locator("#tiles button").first.click()
        assert "Decision: unknown" in page.locator("#closer-facts").inner_text()
        card = page.locator(".card", has_text="To review")
        assert (card.locator(".value").inner_text(), "2 of them" in card.inner_text()) == ("3", True)


def test_an_image_that_is_gone_keeps_its_thumbnail(opened: Open, tmp_path: Path) -> None:
    report = report_in(tmp_path)
    for path in (tmp_path / "inbox").rglob("*.jpg"):
        path.unlink()
    with opened(report) as watched:
        page = watched.page
        page.locator("#tiles button").first.click()
        wait_for(lambda: str(page.evaluate("document.querySelector('#closer-image img').src")).startswith("data:"))
        assert [message for message in watched.console if "ERR_FILE_NOT_FOUND" in message]
        watched.console.clear()


def test_every_control_and_region_has_a_name_for_screen_readers(report: Path, opened: Open) -> None:
    with opened(report) as watched:
        page = watched.page
        page.locator("#tiles button").first.click()
        nameless = page.evaluate(
            """[...document.querySelectorAll('button, input, select, [role=img], [role=group], dialog')].filter(
                (e) => !(e.labels && e.labels.length) && !e.textContent.trim() && !e.getAttribute('aria-label')
                    && !e.getAttribute('aria-labelledby')).map((e) => e.outerHTML)"""
        )
        assert nameless == []
        assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("#found").get_attribute("aria-live") == "polite"
        headings = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
        assert headings[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(headings))


CONTRAST = """() => {
  const light = (rgb) => {
    const [r, g, b] = rgb.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent/.test(colour) && !/rgba/.test(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  return [...document.querySelectorAll('h1, h2, p, dt, dd, .label, .path, .truth, .count, td, th, button, option')]
    .filter((e) => e.textContent.trim() && e.offsetParent && !e.disabled && !e.closest('.matrix td'))
    .map((e) => [e, light(getComputedStyle(e).color), light(ground(e))])
    .filter(([, a, b]) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5)
    .map(([e]) => e.className + ': ' + e.textContent.slice(0, 40));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_text_can_be_read_and_nothing_is_wider_than_the_window(
    scheme: str, width: int, report: Path, opened: Open
) -> None:
    with opened(report, width, scheme) as watched:
        page = watched.page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "</script x",
    '"><img src=x onerror=alert(3)>',
    "<!--<script>alert(4)//",
    "' onmouseover='alert(5)",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(6)",
    "\u2028\u2029</style><style>*{display:none}",
    "\x1b[31m\0",
    "&lt;b&gt;<b>bold",
    "]]><svg onload=alert(7)>",
    "../../../../etc/passwd",
    "//example.invalid/x.png",
]


def test_hostile_names_labels_and_messages_run_nothing_and_are_shown_as_they_are(tmp_path: Path, opened: Open) -> None:
    labels = [f"{text}{number}" for number, text in enumerate(HOSTILE)]
    count = len(labels)
    paths = [f"in/{text.replace('/', '_')}/{text.replace('/', '_')}.jpg".replace("\0", "") for text in HOSTILE]
    paths += [text.replace("\0", "") for text in HOSTILE[-2:]]
    for path in paths[:count]:
        drawn(tmp_path / path, "x")
    rows = [ok(index, 0.5, classes=count, top_k=5) for index in range(count)]
    rows += [Row(error="corrupt", detail=text) for text in HOSTILE[:2]]
    with run_of(
        tmp_path / "runs", paths, rows, base=str(tmp_path), labels=labels, groups=list(HOSTILE), folders=labels,
        top_k=5, worker=HOSTILE[0], engine=HOSTILE[1][:40],
    ) as run:  # fmt: skip
        report = page_of(run, tmp_path / "report.html", "folders")

    with opened(report) as watched:
        page = watched.page
        assert found(page) == f"{count + 2} images, page 1 of 1"
        page.select_option("#order", "input")
        assert page.locator("#tiles .label").all_text_contents()[:count] == labels
        for place in range(count):
            page.locator(f"#tiles button[data-place='{place}']").click()
            page.keyboard.press("Escape")
            wait_for(lambda: page.evaluate("!document.getElementById('closer').open"))
        page.mouse.move(300, 300)
        page.select_option("#label", labels[1])
        assert found(page) == "1 image, page 1 of 1"
        assert page.locator("script").count() == 2
        assert page.evaluate("document.querySelectorAll('[onerror], [onload], [onmouseover]').length") == 0
        assert page.evaluate("getComputedStyle(document.body).display") == "block"


def test_the_policy_stops_a_script_that_slipped_in(report: Path, opened: Open, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(
        text.replace("<main>", "<main><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)>"),
        encoding="utf-8",
    )

    with opened(spoiled) as watched:
        assert found(watched.page) == "200 images, page 1 of 4"
        assert watched.dialogs == []
        assert len([message for message in watched.console if "Content Security Policy" in message]) >= 2
        watched.console.clear()
        watched.requests.clear()


def test_ten_thousand_images_answer_at_once_and_never_fill_the_document(tmp_path: Path, opened: Open) -> None:
    source = random.Random(1)  # noqa: S311 - made-up confidences
    drawn(tmp_path / "inbox" / "one.jpg", "one")
    paths = [f"{LABELS[number % 3]}/{number:05}.jpg" for number in range(10_000)]
    for label in LABELS:
        (tmp_path / "inbox" / label).mkdir()
    for path in paths:  # one file under many names
        (tmp_path / "inbox" / path).hardlink_to(tmp_path / "inbox" / "one.jpg")
    rows = [ok(source.randrange(3), source.uniform(0.34, 1)) for _ in paths]
    with run_of(tmp_path, paths, rows, base=str(tmp_path / "inbox")) as run:
        report = page_of(run, tmp_path / "report.html", embed_mb=1)
    assert report.stat().st_size < 5_000_000

    with opened(report) as watched:
        page = watched.page
        nodes = "document.querySelectorAll('*').length"
        assert found(page) == "10,000 images, page 1 of 167"
        assert page.evaluate(nodes) < 3000
        page.select_option("#order", "least")
        for _ in range(5):
            page.focus("#tiles button")
            page.keyboard.press("PageDown")
        assert found(page) == "10,000 images, page 6 of 167"
        page.fill("#text", "0999")
        assert found(page).startswith("11 images") or found(page).startswith("10 images")
        page.fill("#text", "")
        # Filtering and drawing anew, measured in the page: generous on a loaded machine, and far from a freeze.
        taken = page.evaluate(
            "(() => { const start = performance.now(); document.getElementById('status').dispatchEvent("
            "new Event('input', {bubbles: true})); return performance.now() - start; })()"
        )
        assert taken < 5000
        assert page.evaluate(nodes) < 3000


def test_beyond_the_stated_size_images_are_linked_and_still_seen(tmp_path: Path, opened: Open) -> None:
    paths = [f"{number:03}.jpg" for number in range(30)]
    for path in paths:
        drawn(tmp_path / "in box" / path, path)
    with run_of(tmp_path, paths, [ok(0, 0.9)] * 30, base=str(tmp_path / "in box")) as run:
        report = page_of(run, tmp_path / "out" / "report.html", embed_mb=0)

    assert "data:image" not in report.read_text(encoding="utf-8").partition("<script")[0]
    with opened(report) as watched:
        page = watched.page
        page.locator("#tiles li").last.scroll_into_view_if_needed()
        wait_for(lambda: page.evaluate("[...document.querySelectorAll('#tiles img')].every((i) => i.naturalWidth > 0)"))
        assert len({url for url in watched.requests if url.endswith(".jpg")}) == 30


def test_without_javascript_everything_but_the_gallery_is_there(report: Path, browser: object) -> None:
    from playwright.sync_api import Browser

    assert isinstance(browser, Browser)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".matrix tbody tr").count() == 3
    assert page.locator("#review + p + ul .tile").count() == 24
    assert "The gallery needs JavaScript" in page.content()
    assert not page.locator("#filters").is_visible()
    context.close()
