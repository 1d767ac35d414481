"""A watched folder, with a worker in this process: what arrives, changes, goes and comes back."""

from __future__ import annotations

import _thread
import csv
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import redis

from configs.settings import Settings
from producer.errors import INTERRUPTED, OK, UsageError
from producer.reports.request import request_of
from producer.run import watching
from producer.run.hook import Hook
from producer.run.watching import Watching, watch_folder
from producer.terminal.progress import RunView
from tests.broker.conftest import KEYS, really_working
from tests.conftest import RedisServer, wait_until, write_images

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WAITS_S", (0.1,))


@pytest.fixture
def inbox(real_settings: Settings) -> Path:
    folder = Path(str(real_settings.data_root)) / "inbox"
    write_images(folder, 3)
    return folder


@pytest.fixture
def asked(inbox: Path, tmp_path: Path) -> Watching:
    reports = request_of(tmp_path / "report.csv", None, ranks=2)
    return Watching(folder=str(inbox), model=None, reports=reports, settle_s=0.1, once=True)


def rows(tmp_path: Path) -> dict[str, str]:
    """Path -> label or error, of the report, which has each path once."""
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    paths = [row["path"] for row in found]
    assert len(paths) == len(set(paths))
    return {row["path"]: row["label"] or row["error"] for row in found}


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Run ``act`` beside the block, then end the block's command as Ctrl-C does."""
    failed: list[BaseException] = []

    def acting() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)
        _thread.interrupt_main()  # a signal would end this process where somebody has set its handler back

    thread = Thread(target=acting, daemon=True)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # another test may have left another
    try:
        thread.start()
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a block that ended by itself must not be interrupted any more
        thread.join()
        signal.signal(signal.SIGINT, before)
    if failed:
        raise failed[0]


def test_new_and_replaced_images_are_labelled_and_deleted_ones_keep_their_row(
    real_settings: Settings,
    asked: Watching,
    inbox: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    client: redis.Redis,
) -> None:
    counts = Hook(command=f"echo $WATCH_IMAGES $WATCH_FAILED $WATCH_TOTAL_IMAGES >> {tmp_path}/counts")
    asked = replace(asked, hook=counts)
    with really_working(real_settings):
        assert watch_folder(real_settings, asked) == OK
        first = rows(tmp_path)
        assert watch_folder(real_settings, asked) == OK  # nothing has changed
        (inbox / "00000.png").unlink()
        (inbox / "00001.png").write_bytes(b"no image at all")
        os.utime(inbox / "00001.png", (1e9, 1e9))
        write_images(tmp_path / "made", 1)
        shutil.copytree(tmp_path / "made", inbox / "late")
        assert watch_folder(real_settings, asked) == OK

    assert list(first) == ["00000.png", "00001.png", "00002.png"]
    assert rows(tmp_path) == {**first, "00001.png": "not_an_image", "late/00000.png": first["00000.png"]}
    assert (tmp_path / "counts").read_text() == "3 0 3\n1 0 4\n1 1 4\n"  # the error waits until its file is old enough
    assert "4 images of inbox have their row, 1 failed" in capsys.readouterr().err
    assert sorted(path.name.partition(".")[2] for path in (real_settings.home / "runs").iterdir()) == [
        "run",
        "run.lock",
    ]
    assert client.keys(KEYS.results("*")) == []
    assert client.zcard(KEYS.jobs) == 0
    assert all(0 < client.ttl(key) <= watching.BATCH_KEPT_S for key in client.keys(KEYS.job("*")))


def test_a_half_written_image_waits_and_never_becomes_an_error_row(
    real_settings: Settings, asked: Watching, inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (inbox / "00002.png").read_bytes()
    (inbox / "00002.png").write_bytes(whole[: len(whole) // 2])
    seen: list[dict[str, str]] = []

    def writer_rests_and_goes_on() -> None:
        wait_until(lambda: (tmp_path / "report.csv").exists() and len(rows(tmp_path)) == 2, 20)
        time.sleep(1.0)  # longer than a file must stand still
        seen.append(rows(tmp_path))
        (inbox / "00002.png").write_bytes(whole)
        wait_until(lambda: len(rows(tmp_path)) == 3, 20)

    with really_working(real_settings), meanwhile(writer_rests_and_goes_on):
        assert watch_folder(real_settings, replace(asked, settle_s=0.5, once=False)) == INTERRUPTED

    assert list(seen[0]) == ["00000.png", "00001.png"]
    assert "truncated" not in rows(tmp_path).values()
    assert "00002.png can't be read yet" in capsys.readouterr().err


def test_a_folder_that_is_away_is_waited_for(
    real_settings: Settings, asked: Watching, inbox: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = tmp_path / "away"

    def unmounted_and_mounted() -> None:
        wait_until(lambda: (tmp_path / "report.csv").exists() and len(rows(tmp_path)) == 3, 20)
        inbox.rename(away)
        inbox.mkdir()  # as an unmounted share leaves it
        time.sleep(1.0)  # two looks at least
        inbox.rmdir()
        away.rename(inbox)
        shutil.copy(inbox / "00000.png", inbox / "new.png")
        wait_until(lambda: len(rows(tmp_path)) == 4, 20)

    with really_working(real_settings), meanwhile(unmounted_and_mounted):
        assert watch_folder(real_settings, replace(asked, once=False)) == INTERRUPTED

    said = capsys.readouterr().err
    assert said.count(f"{inbox} is away (") == 1
    assert f"{inbox} is there again" in said
    assert len(rows(tmp_path)) == 4


def test_redis_is_waited_for(
    real_settings: Settings, asked: Watching, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(RunView, "say", lambda _, text: said.append(text))
    redis_server.kill()

    def comes_back() -> None:
        wait_until(lambda: any(line.startswith("waiting, and trying again: ") for line in said), 20)
        redis_server.start()
        with really_working(real_settings):
            wait_until(lambda: len(rows(tmp_path)) == 3, 20)

    with meanwhile(comes_back):
        assert watch_folder(real_settings, replace(asked, poll_s=0.1, once=False)) == INTERRUPTED

    assert len([line for line in said if line.startswith("waiting")]) == 1


def test_what_can_not_be_watched_is_refused(
    real_settings: Settings, asked: Watching, inbox: Path, tmp_path: Path
) -> None:
    for folder in (str(inbox / "00000.png"), str(tmp_path / "nowhere"), "http://127.0.0.1/x"):
        with pytest.raises(UsageError):
            watch_folder(real_settings, replace(asked, folder=folder))
    with really_working(real_settings):
        watch_folder(real_settings, asked)
    (inbox / "new.png").write_bytes((inbox / "00000.png").read_bytes())
    with pytest.raises(UsageError, match="no column "):
        watch_folder(real_settings, replace(asked, reports=replace(asked.reports, columns=["path", "x"])))
    assert len(rows(tmp_path)) == 3
    with pytest.raises(UsageError, match="watched before"):
        watch_folder(real_settings, replace(asked, on_existing="error"))
