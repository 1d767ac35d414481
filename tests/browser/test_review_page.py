"""`sortline review` in a real browser, with a real server that is killed: keys, undo, two tabs, nothing lost."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page
from sklearn.datasets import load_digits

from jobs.label import Row
from tests.browser.conftest import LIMIT_MS
from tests.conftest import SORTLINE, environment, sortline
from tests.unit.reported import LABELS, ok, run_of
from tests.unit.test_review import draw

pytestmark = pytest.mark.slow

BROKEN = Row(error="truncated", detail="the file ends early")
HOSTILE = '"><img src=x onerror=alert(1)>.png'
MARKUP = "<img src=x onerror=alert(1)>"


OF_A_KILL = ("ERR_CONNECTION", "ERR_CONTENT_LENGTH")  # the second: in the midst of a picture


@dataclass
class Desk:
    """A run of images whose true label is that of their folder, a third of them labelled wrongly."""

    folder: Path
    paths: list[str]
    home: Path
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)

    @property
    def corrections(self) -> Path:
        return self.folder / "corrections.csv"

    def rows(self) -> list[dict[str, str]]:
        with self.corrections.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def held(self) -> dict[str, tuple[str, str]]:
        """What holds for each image by its name: the last row."""
        return {Path(row["path"]).name: (row["verdict"], row["label"]) for row in self.rows()}

    @contextmanager
    def served(self, run: str = "inbox.run", *more: str) -> Iterator[str]:
        """The link of a running server, which is killed at the end."""
        command = [SORTLINE, "review", str(self.folder / run), "-o", str(self.corrections), "--who", "ann", *more]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(self.home)
        ) as process:
            assert process.stdout is not None
            said = ""
            try:
                while not (link := re.search(r"http://\S+", said)):
                    line = process.stdout.readline()
                    assert line, said
                    said += line
                yield link[0]
            finally:
                process.kill()

    def complaints(self, *expected: str) -> list[str]:
        """What browsers have said that holds none of ``expected``."""
        return [line for line in self.console if not any(sign in line for sign in expected)]

    def watch(self, page: Page) -> Page:
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.console.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        return page


def desk_of(folder: Path, count: int) -> Desk:
    paths = [f"{LABELS[number % 3]}-{number:04}.png" for number in range(count)]
    rows = [
        ok(number % 3 if number % 3 != number % 9 // 3 else (number + 1) % 3, 0.4 + number / count / 2)
        for number in range(count)
    ]
    paths, rows = [*paths, HOSTILE], [*rows, BROKEN]
    for path in paths:
        draw(folder / "inbox" / path, path)
    with run_of(folder, paths, rows, base=str(folder / "inbox")):
        return Desk(folder, paths, folder / "home")


@contextmanager
def opened(browser: Browser, width: int = 1280, scheme: str = "light") -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(LIMIT_MS)
    yield context
    with suppress(Exception):
        context.close()


def status(page: Page, words: str) -> None:
    page.locator("#status", has_text=words).wait_for()


def settle(page: Page) -> None:
    """Wait until all that was asked of the server is done: the page may have turned by itself."""
    page.locator("#grid[aria-busy=false]").wait_for()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_images_are_corrected_by_keys_undone_and_there_again_after_kills(tmp_path: Path, browser: Browser) -> None:
    desk = desk_of(tmp_path, 24)
    with opened(browser) as context:
        with desk.served() as link:
            page = desk.watch(context.new_page())
            page.goto(link)
            page.locator("#grid .tile").nth(24).wait_for()
            names = [
                text.split(", ")[-1]
                for text in page.locator("#grid .tile").evaluate_all("all => all.map(t => t.ariaLabel)")
            ]
            assert page.evaluate("document.activeElement.id") == "grid"
            assert names[-1] == HOSTILE  # failed ones come last

            press(page, "Space", "Shift+ArrowRight", "2")  # two images are paper
            status(page, "2 images: paper. Saved.")
            press(page, "w", "i", "n", "e", "Enter")  # one has a label that nobody knew
            status(page, "1 image: wine. Saved.")
            press(page, "Delete")
            status(page, "not usable. Saved.")
            press(page, "0", "Enter", "Escape")  # in the large view
            status(page, "1 image: right. Saved.")
            assert [desk.held()[name][1] for name in names[:4]] == ["paper", "paper", "wine", ""]
            press(page, "Control+z", "Control+z")
            page.locator("#redo", has_text="Redo (2)").wait_for()
            assert (desk.held()[names[3]], desk.held()[names[4]]) == (("open", ""), ("open", ""))
            press(page, "Control+y")
            page.locator("#redo", has_text="Redo (1)").wait_for()

            other = desk.watch(context.new_page())  # the link is used up; the session is the browser's
            other.goto(page.url)
            other.locator("#grid .tile").first.wait_for()
            press(other, "1")
            status(other, "Saved.")
            decided = desk.rows()
            # At once, before the first tab has asked what is new: the next image is the one that the other has decided.
            sent = "keys => keys.forEach(key => grid.dispatchEvent(new KeyboardEvent('keydown', {key})))"
            page.evaluate(sent, ["ArrowRight", "-"])
            status(page, "Changed by another tab, so nothing was saved.")
            page.locator("#grid .tile .verdict", has_text=decided[-1]["label"]).first.wait_for()
            assert desk.rows() == decided
            page.bring_to_front()
            page.locator("#grid").focus()
            assert desk.complaints("409") == []  # of the conflict
        press(page, "1")
        status(page, "The server does not answer")  # and nothing is shown as saved
    assert desk.complaints("409", *OF_A_KILL) == []
    desk.console.clear()
    before = desk.corrections.read_bytes()
    with opened(browser, 390, "dark") as context, desk.served() as link:
        page = desk.watch(context.new_page())
        page.goto(link)
        page.locator("#grid .tile").first.wait_for()
        page.locator("#done-text", has_text="5 of 25 images decided").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#grid").focus()
        press(page, "Enter", "Enter")  # faster than the server answers: two images, not one twice
        page.locator("#done-text", has_text="7 of 25 images decided").wait_for()
        page.fill("#label", MARKUP)
        press(page, "Enter")
        status(page, f"1 image: {MARKUP}. Saved.")
        press(page, "Shift+Enter")  # all that are shown are right, but the one without a label
        status(page, "16 images: right. Saved.")
        assert [label for _, label in desk.held().values() if "<" in label] == [MARKUP]
        assert desk.corrections.read_bytes().startswith(before)
        page.goto(link)
        assert "has been used" in page.content()
        assert desk.complaints("403") == []  # of the used link

    assert sum(verdict != "open" for verdict, _ in desk.held().values()) == 24
    assert desk.complaints("403", *OF_A_KILL) == []
    assert [url for url in desk.requests if not url.startswith("http://127.0.0.1:")] == []


@pytest.mark.long
def test_the_page_shows_what_became_unknown_and_counts_it_by_label(tmp_path: Path, browser: Browser) -> None:
    paths = [f"{LABELS[number % 3]}-{number}.png" for number in range(12)]
    rows = [
        ok(number % 3, 0.9).model_copy(update={"outlier": 1.5 if number in (0, 1, 3) else 0.5}) for number in range(12)
    ]
    for path in paths:
        draw(tmp_path / "inbox" / path, path)
    thresholds = {"0.95": [0.95, 0.5, 0.5]}
    with run_of(tmp_path, paths, rows, base=str(tmp_path / "inbox"), thresholds=thresholds, outliers=True):
        desk = Desk(tmp_path, paths, tmp_path / "home")
    with opened(browser) as context, desk.served("inbox.run", "--decision", "unknown", "--order", "outlier") as link:
        page = desk.watch(context.new_page())
        page.goto(link)
        page.locator("#grid .tile .note", has_text="unknown").nth(2).wait_for()
        settle(page)
        assert (page.locator("#decision").input_value(), page.locator("#grid .tile").count()) == ("unknown", 3)
        options = page.locator("#group option").all_inner_texts()
        assert options[:2] == ["all labels: 3 of 3 to do", "glass: 2 of 2 to do"]
        page.locator("#grid").focus()
        press(page, "Delete")
        page.locator("#group option", has_text="all labels: 2 of 3 to do").wait_for(state="attached")
        page.select_option("#decision", "review")
        page.locator("#found", has_text="2 images").wait_for()  # of glass, less sure than 0.95
        page.locator("#done-text", has_text="0 of 2 images decided").wait_for()
        page.locator("#grid").focus()
        press(page, "0")  # the whole picture is in its frame, though it is not as wide
        page.locator("#large-picture img").wait_for()
        frame, shown = (page.locator(found).bounding_box() for found in ("#large-picture", "#large-picture img"))
        assert frame is not None
        assert shown is not None
        assert shown["height"] <= frame["height"]
        assert desk.complaints() == []


@pytest.mark.long
def test_500_images_are_corrected_in_minutes(tmp_path: Path, browser: Browser) -> None:
    """A person who knows the answers: label by label, chooses the wrong ones, says what they are, takes the rest."""
    desk = desk_of(tmp_path, 1500)  # and one of a hostile name without a label, in a group of its own
    with opened(browser) as context, desk.served() as link:
        page = desk.watch(context.new_page())
        page.goto(link)
        page.locator("#grid .tile").first.wait_for()
        page.select_option("#count", "120")
        started = time.monotonic()
        labels = page.locator("#choices button").evaluate_all("all => all.map(button => button.dataset.label)")
        page.select_option("#group", LABELS[0])  # a label that is done leads to the next by itself
        settle(page)
        actions = 2
        while (group := page.locator("#group").input_value()) in LABELS:
            tiles = page.locator("#grid .tile").evaluate_all("all => all.map(t => [t.id, t.ariaLabel])")
            truths = {name: text.split(", ")[-1].partition("-")[0] for name, text in tiles if ", undecided, " in text}
            mistaken = {truth: [name for name, of in truths.items() if of == truth] for truth in truths.values()}
            other = next((truth for truth in mistaken if truth != group), None)
            page.locator("#status").evaluate("status => status.textContent = ''")
            if other is not None:  # click all that are of this other label, and say so
                for name in mistaken[other]:
                    page.locator(f"#{name} .shown").click()
                page.locator("#grid").focus()
                press(page, str(labels.index(other) + 1))
                actions += len(mistaken[other]) + 1
                status(page, f": {other}. Saved.")
            else:  # the rest is right
                page.locator("#grid").focus()
                press(page, "Shift+Enter")
                actions += 1
                status(page, "right. Saved.")
            settle(page)
        seconds = time.monotonic() - started
    held = desk.held()
    wrong = sum(verdict == "wrong" for verdict, _ in held.values())
    assert all(name.startswith(label) for name, (verdict, label) in held.items() if verdict in ("right", "wrong"))
    print(f"{wrong} corrected of {len(held)} in {seconds:.0f} s by {actions} clicks and keys")
    assert wrong >= 500
    assert seconds < 300


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_newcomer_labels_reviews_retrains_and_labels_better(tmp_path: Path, home: Path, browser: Browser) -> None:
    """100 digits to begin with, 300 to label, the 60 least sure of them corrected; 500 others compare both versions."""
    write_digits(tmp_path)
    desk = Desk(tmp_path, [], home)
    label = ("label", str(tmp_path / "inbox"), "-o", str(tmp_path / "inbox.csv"), "--model", "digits", "--top-k", "3")
    sortline("train", str(tmp_path / "photos"), "--config", "digits", "--name", "digits", home=home, limit_s=300)
    sortline(*label, home=home)

    with opened(browser) as context, desk.served("inbox.csv") as link:
        page = desk.watch(context.new_page())
        page.goto(link)
        page.locator("#grid .tile").first.wait_for()
        settle(page)
        assert page.locator("#grid .tile").count() == 60
        for _ in range(60):
            path = page.locator("#grid .tile.here .path").text_content() or ""
            page.fill("#label", path.partition("-")[0])
            press(page, "Enter")
            settle(page)
        assert len(desk.held()) == 60
        page.get_by_role("button", name="Train now").click()
        page.locator("#training", has_text="Done.").wait_for(timeout=300_000)
        said = page.locator("#training-lines").inner_text()
        assert "published digits:2; in production" in said
        sortline("compare", "digits:1", "digits:2", str(tmp_path / "inbox"), "-o", str(tmp_path / "both"), home=home)
        assert "digits:2" in (tmp_path / "both" / "comparison.html").read_text(encoding="utf-8")
        again = sortline(*label, home=home)
        assert (
            "digits:2 is in production now: labelling anew" in again.stderr or "digits is digits:2 now" in again.stderr
        )
        page.get_by_role("button", name="Look for new answers").click()
        status(page, "digits:2 after digits:1: ")
        print(page.locator("#status").inner_text())

    compared = sortline("compare", "digits:1", "digits:2", str(tmp_path / "held-out"), "-o", "compared.html", home=home)
    print(compared.stderr)
    found = json.loads((home / "compared.summary.json").read_text())["truth"]
    assert found["images"] == 500
    assert found["second"]["share"] > found["first"]["share"]
    with opened(browser) as context, desk.served(str(home / "compared.csv"), "--order", "disagreement") as link:
        page = desk.watch(context.new_page())
        page.goto(link)
        page.locator("#grid .tile .note", has_text="other: ").first.wait_for()
        assert page.locator("#order").input_value() == "disagreement"
        first = page.locator("#grid .tile.here").get_attribute("aria-label") or ""
        press(page, "=")
        status(page, "1 image: ")
        name, (verdict, given) = list(desk.held().items())[-1]
        assert (first.endswith(name), verdict) == (True, "wrong")
        assert given != first.partition(",")[0]


def write_digits(folder: Path) -> None:
    """Real digits: 10 of each class to train on, 300 to label with their truth in the name, 500 held out."""
    digits = load_digits()
    per_class: Counter[int] = Counter()
    rest = 0
    for number, (image, target) in enumerate(zip(digits.images, digits.target, strict=True)):
        per_class[target] += 1
        name = folder / "photos" / str(target) / f"{number}.png"
        if per_class[target] > 10:
            rest += 1
            name = (
                folder / "inbox" / f"{target}-{number}.png"
                if rest <= 300
                else folder / "held-out" / str(target) / f"{number}.png"
            )
        if rest > 800:
            break
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15.9).astype("uint8")).save(name)
