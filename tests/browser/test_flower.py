"""Flower as people see it: Debian's chromium looks at `sortline monitor` while real workers label and train."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from tests.canaries import secret
from tests.conftest import SORTLINE, RedisServer, end, environment, free_port, sortline, wait_until, write_images
from tests.e2e.test_train import write_shades

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
MOVING = re.compile(r"(\d+)/(\d+) images, \d+ img/s, eta \d+ s")
LONG_TRAINING = ("--config", "digits", "--set", "height_px=16", "--set", "width_px=16", "--set", "epochs=5000")


@contextmanager
def process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped with SIGTERM; its log is shown when the test fails."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield started
    finally:
        with suppress(subprocess.TimeoutExpired):
            end(started, 30)
        print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


class Site:
    """A Redis, a label and a training worker, and Flower, started when asked for."""

    def __init__(self, redis_server: RedisServer, home: Path, store: Path, stack: ExitStack) -> None:
        self.home, self.password = home, secret("flower")
        (home / "flower-password").touch(0o600)
        (home / "flower-password").write_text(self.password)
        self.env = environment(
            home,
            {
                "SORTLINE_BROKER": redis_server.url,
                "SORTLINE_STORE": str(store),
                "SORTLINE_DATA_ROOT": "/",
                "SORTLINE_CHUNK_IMAGES": "2",
                "SORTLINE_DECODE_THREADS": "1",
            },
        )
        self._stack = stack

    def own(self, stack: ExitStack) -> None:
        """Let what starts from now on end with ``stack``."""
        self._stack = stack

    def start_worker(self, kind: str) -> None:
        command = [sys.executable, "-m", "worker", "--queues", kind]
        self._stack.enter_context(process(command, self.env, self.home / f"{kind}.log"))

    def start_producer(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self._stack.enter_context(process([SORTLINE, *arguments], self.env, self.home / "producer.log"))

    def start_flower(self, *arguments: str) -> str:
        """Return Flower's address once it answers."""
        port, log = free_port(), self.home / "flower.log"
        self._stack.enter_context(process([SORTLINE, "monitor", "--port", str(port), *arguments], self.env, log))
        wait_until(lambda: "Visit me at" in log.read_text(), 60, "Flower")
        return f"http://127.0.0.1:{port}"


@pytest.fixture
def site(redis_server: RedisServer, home: Path, tmp_path: Path, model_store: Path) -> Iterator[Site]:
    store = tmp_path / "store"
    shutil.copytree(model_store, store)
    with ExitStack() as stack:
        yield Site(redis_server, home, store, stack)


OpenBrowser = Callable[..., BrowserContext]


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[OpenBrowser]:
    """Opens chromium with an empty profile of its own, and a password to answer with."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright, ExitStack() as stack:

        def open_one(password: str) -> BrowserContext:
            context = playwright.chromium.launch_persistent_context(
                tmp_path / ("profile" if password == secret("flower") else "stranger"),
                executable_path=CHROMIUM,
                headless=True,
                args=FLAGS,
                http_credentials={"username": "sortline", "password": password},
                viewport={"width": 1400, "height": 800},
            )
            context.set_default_timeout(60_000)
            stack.callback(context.close)
            return context

        yield open_one


def open_page(browser: BrowserContext, url: str) -> Page:
    """A page whose errors fail the test at the end."""
    page = browser.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"{url}: {error}"))
    page.goto(url)
    return page


def rows_of(page: Page) -> list[dict[str, str]]:
    """What the table of the page shows: cells by column."""
    page.wait_for_selector("tbody tr td")
    heads = [cell.strip().lower() for cell in page.locator("thead").first.locator("th").all_inner_texts()]
    cells = [row.locator("td").all_inner_texts() for row in page.locator("tbody tr").all()]
    joined = [[cell.replace("\n", "") for cell in row] for row in cells]  # a long name is broken into two parts
    return [dict(zip(heads, row, strict=True)) for row in joined if len(row) == len(heads)]


def statuses(page: Page, url: str) -> dict[str, str]:
    """What the workers page says of each kind of worker."""
    page.goto(f"{url}/workers")
    page.locator("#workers-table tbody .badge").first.wait_for()
    return {row["worker"].partition("-")[0]: row["status"] for row in rows_of(page)}


def row_with(page: Page, url: str, arguments: str) -> dict[str, str]:
    """The row of the tasks page, loaded anew, with these arguments; empty as long as there is none."""
    page.goto(url)
    return row_on(page, arguments)


def row_on(page: Page, arguments: str) -> dict[str, str]:
    """The row with these arguments on the page that is shown."""
    return next((row for row in rows_of(page) if row["args"].startswith(arguments)), {})


def test_a_run_shows_its_workers_online_its_moving_text_and_its_chunks(
    site: Site, open_browser: OpenBrowser, tmp_path: Path
) -> None:
    write_images(tmp_path / "waste-photos", 300, size=64)
    site.env["TEST_FAULT"] = "before publish=nap"  # so that there is time to look
    site.start_worker("label")
    site.start_worker("train")
    url = site.start_flower()
    page = open_page(open_browser(site.password), url)
    page.get_by_text("label-").first.wait_for()
    page.get_by_text("train-").first.wait_for()
    site.start_producer("label", str(tmp_path / "waste-photos"), "-o", "report.csv")
    run, seen = "label waste-photos, 300 images", set[str]()
    page.goto(f"{url}/tasks?state=STARTED")  # once: the page itself asks for what is new

    def moves() -> bool:
        row = row_on(page, run)
        if moving := MOVING.fullmatch(row.get("result", "")):
            seen.add(moving.group(1))
            assert (row["state"], moving.group(2)) == ("STARTED", "300")
            assert row["worker"].startswith("label-")
        return len(seen) >= 2

    wait_until(moves, 120, "text that changes")
    assert statuses(page, url) == {"label": "Online", "train": "Online"}
    assert len(rows_of(page)) == 2  # the run's own events are no third worker

    done = re.compile(r"300 images, 0 failed, \d+ img/s, colours:1")
    wait_until(lambda: done.fullmatch(row_with(page, f"{url}/tasks?name=sortline.label_run", run)["result"]), 120)
    page.goto(f"{url}/tasks?name=sortline.label_chunk")
    chunk = rows_of(page)[0]
    assert re.fullmatch(r"waste-photos chunk \d+/150, 2 images", chunk["args"])
    assert re.fullmatch(r"2 images, 0 failed, \d+ img/s, colours:1", chunk["result"])
    page.locator("tbody tr td a", has_text=chunk["uuid"][:8]).first.click()
    page.wait_for_url("**/task/**")
    told = page.locator("dl.detail-list").inner_text()
    assert chunk["args"] in told
    assert chunk["result"] in told
    assert "waste-photos-" in told  # the run, as a link
    assert page.locator("#task-terminate, #task-revoke").count() == 0

    page.goto(f"{url}/workers")
    page.locator("#workers-table a", has_text="label-").click()
    page.locator("#worker-tab-other").click()
    told = page.locator("#tab-other").inner_text()
    assert "label worker" in told
    assert "colours:1" in told
    assert re.search(r"engine\s+openvino\s+device\s+cpu\s+precision\s+(f32|bf16)", told)


@pytest.mark.long
def test_a_wrong_password_is_refused(site: Site, open_browser: OpenBrowser) -> None:
    url = site.start_flower()

    page = open_browser("wrong").new_page()
    for path in ("/", "/tasks", "/workers", "/broker"):
        answer = page.goto(url + path)
        assert answer is not None
        assert answer.status == 401
    page = open_page(open_browser(site.password), url)
    assert "Cluster overview" in page.content()
    assert page.request.get(f"{url}/api/workers").status == 401  # it asks for no password, and this sends none unasked
    assert page.evaluate("fetch('/api/workers').then(answer => answer.status)") == 200


@pytest.mark.long
def test_the_broker_page_shows_how_much_waits_on_our_queues(
    site: Site, open_browser: OpenBrowser, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.lpush("sortline:label", "{}", "{}", "{}")
        client.lpush("sortline:train", "{}")
    url = site.start_flower()
    page = open_page(open_browser(site.password), f"{url}/broker")

    assert {(row["queue"], row["messages"]) for row in rows_of(page)} >= {("label", "3"), ("train", "1")}


@pytest.mark.long
def test_a_failed_training_shows_its_reason(site: Site, open_browser: OpenBrowser, tmp_path: Path) -> None:
    (tmp_path / "photos" / "only").mkdir(parents=True)
    write_images(tmp_path / "photos" / "only", 3)
    site.start_worker("train")
    url = site.start_flower()
    page = open_page(open_browser(site.password), url)
    site.start_producer("train", str(tmp_path / "photos"), "--config", "digits", "--name", "shades")

    wait_until(lambda: row_with(page, f"{url}/tasks", "train shades on photos").get("state") == "FAILURE", 120)

    row = row_with(page, f"{url}/tasks", "train shades on photos")
    assert "only the class folder 'only'" in row["result"]
    page.locator("tbody tr td a", has_text=row["uuid"][:8]).first.click()
    assert "only the class folder 'only'" in page.locator("dl.detail-list").inner_text()


@pytest.mark.long
@pytest.mark.parametrize("may_change", [False, True], ids=["read-only", "changes allowed"])
def test_a_training_can_be_terminated_only_where_changes_are_allowed(
    site: Site, open_browser: OpenBrowser, tmp_path: Path, may_change: bool
) -> None:
    site.start_worker("train")
    url = site.start_flower(*(["--allow-changes"] if may_change else []))
    page = open_page(open_browser(site.password), url)
    photos = write_shades(tmp_path / "photos")
    job = sortline("train", str(photos), *LONG_TRAINING, "--name", "shades", "--detach", home=site.home, env=site.env)
    what = "train shades on photos"
    wait_until(lambda: "epoch" in row_with(page, f"{url}/tasks", what).get("result", ""), 180, "a training at work")
    page.locator("tbody tr td a", has_text=row_with(page, f"{url}/tasks", what)["uuid"][:8]).first.click()
    page.wait_for_url("**/task/**")
    button, task = page.locator("#task-terminate"), page.url.rpartition("/")[2]

    if not may_change:
        assert button.count() == 0
        assert statuses(page, url) == {"train": "Online"}  # also while it trains
        page.goto(f"{url}/task/{task}")
        revoke = f"fetch('/api/task/revoke/{task}?terminate=true', {{method: 'POST'}}).then(answer => answer.status)"
        assert page.evaluate(revoke) == 403
        state = sortline("jobs", "show", job.stdout.strip(), home=site.home, env=site.env).stdout
        assert "state   running" in state
        return

    button.click()
    wait_until(lambda: row_with(page, f"{url}/tasks", what)["state"] == "REVOKED", 60)
    ended = sortline("jobs", "watch", job.stdout.strip(), home=site.home, env=site.env, code=1)
    assert "cancelled: terminated while it ran" in ended.stderr


@pytest.mark.long
def test_the_tasks_page_asks_for_newer_texts_but_leaves_what_somebody_marks(
    site: Site, open_browser: OpenBrowser
) -> None:
    asked, dialogs, question = list[str](), list[str](), "**/tasks/datatable"
    with ExitStack() as flower:
        site.own(flower)
        url = site.start_flower()
        page = open_page(open_browser(site.password), f"{url}/tasks")
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        with page.expect_request(question), page.expect_request(question):
            pass
        page.evaluate("getSelection().selectAllChildren(document.querySelector('.tasks-table-card'))")
        page.wait_for_timeout(2500)  # a question under way
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(5000)  # two turns: nothing else tells that nothing happens
        assert asked == []
        page.evaluate("getSelection().removeAllRanges()")
        with page.expect_response(question):
            pass
    for _ in range(2):
        with page.expect_event("requestfailed"):  # Flower is gone
            pass
    assert dialogs == []
