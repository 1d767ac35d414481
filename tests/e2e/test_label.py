"""`sortline label` as a person runs it: real processes, a real Redis, kills."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.canaries import MARK, secret
from tests.conftest import LABELS, NOTHING, SORTLINE, RedisServer, environment, sortline, wait_until, write_images

pytestmark = pytest.mark.slow

SLOWED = {"TEST_FAULT": "before publish=nap"}  # so that a signal comes in the middle of the work on any machine


def rows_of(report: Path) -> list[dict[str, str]]:
    with report.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run_file_of(home: Path) -> Path | None:
    return next(iter((home / "runs").glob("*.run")), None)


def rows_done(home: Path) -> int:
    """Rows in the run file of a producer that is still writing it."""
    import sqlite3

    path = run_file_of(home)
    if path is None:
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as database:
            return int(database.execute("SELECT count(*) FROM rows").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


@contextmanager
def producer(*arguments: str, home: Path, env: Mapping[str, str] = NOTHING) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [SORTLINE, *arguments], env=environment(home, env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        print("\n".join(said for said in process.communicate() if said))  # pytest shows it when the test fails
        for log in sorted((home / "logs").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


@contextmanager
def worker(
    redis_server: RedisServer, home: Path, store: Path, root: Path | str, more: Mapping[str, str] = NOTHING
) -> Iterator[psutil.Process]:
    log = (home / f"worker-{time.monotonic_ns()}.log").open("wb")
    process = psutil.Popen(
        [sys.executable, "-m", "worker", "--queues", "label"],
        env=environment(home, {**cluster(redis_server, store, root), **more}),
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=home,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def cluster(redis_server: RedisServer, store: Path, root: Path | str) -> dict[str, str]:
    return {
        "SORTLINE_BROKER": redis_server.url,
        "SORTLINE_STORE": str(store),
        "SORTLINE_DATA_ROOT": str(root),
        "SORTLINE_CHUNK_IMAGES": "32",
        "SORTLINE_VISIBILITY_TIMEOUT_S": "4",
        "SORTLINE_STALE_S": "8",
    }


def processes_below(home: Path) -> list[psutil.Process]:
    """Living processes that were started for ``home``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SORTLINE_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def expect_none_running(home: Path) -> None:
    """Fail if processes that were started for ``home`` go on."""
    left = processes_below(home)
    ending = [process for process in left if ends_by_itself(process)]
    assert [process for process in left if process not in ending] == []
    assert psutil.wait_procs(ending, 10)[1] == []


def ends_by_itself(process: psutil.Process) -> bool:
    """Return whether it is a semaphore tracker, which cleans up after a killed process a moment later, or has ended."""
    try:
        return any("semaphore_tracker" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return True


def test_a_folder_becomes_a_report_with_a_row_for_each_file_and_nothing_keeps_running(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    photos = tmp_path / "photos"
    good = write_images(photos / "a", 40)
    (photos / "a" / "00007.png").write_bytes(good[7].read_bytes()[:60])
    (photos / "b.jpg").write_text("not a picture")
    (photos / "notes.txt").write_text("no image suffix")

    done = sortline("label", str(photos), "-o", "out/report.csv", home=home, env={"SORTLINE_STORE": str(model_store)})

    rows = rows_of(home / "out" / "report.csv")
    assert [row["path"] for row in rows] == [f"a/{number:05d}.png" for number in range(40)] + ["b.jpg"]
    failed = {row["path"]: row["error"] for row in rows if row["status"] == "error"}
    assert failed == {"a/00007.png": "truncated", "b.jpg": "not_an_image"}
    assert all(row["label"] in LABELS and row["model"] == "colours:1" for row in rows if row["status"] == "ok")
    assert "41 images: 39 labelled, 2 failed (not_an_image 1, truncated 1)" in done.stderr.replace(
        "truncated 1, not_an_image 1", "not_an_image 1, truncated 1"
    )
    assert "skipped, without an image suffix: 1" in done.stderr
    expect_none_running(home)


def test_more_failures_than_allowed_exit_with_4_and_still_write_the_report(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    write_images(tmp_path / "photos", 3)
    (tmp_path / "photos" / "empty.jpg").touch()

    sortline(
        "label",
        str(tmp_path / "photos"),
        "--max-failures",
        "0",
        home=home,
        code=4,
        env={"SORTLINE_STORE": str(model_store)},
    )

    assert len(rows_of(home / "report.csv")) == 4


def test_a_killed_worker_costs_no_row(home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer) -> None:
    photos = tmp_path / "photos"
    write_images(photos, 3000)
    env = cluster(redis_server, model_store, tmp_path)
    with worker(redis_server, home, model_store, tmp_path):
        sortline("label", str(photos), "-o", "calm.csv", home=home, env=env)
    other = home / "other"
    other.mkdir()
    with (
        worker(redis_server, home, model_store, tmp_path) as first,
        producer("label", str(photos), "-o", str(home / "disturbed.csv"), home=other, env=env) as running,
    ):
        wait_until(lambda: rows_done(other) > 300, 30, "some rows")
        first.send_signal(signal.SIGKILL)
        with worker(redis_server, home, model_store, tmp_path):
            assert running.wait(90) == 0

    assert (home / "disturbed.csv").read_bytes() == (home / "calm.csv").read_bytes()
    assert len(rows_of(home / "calm.csv")) == 3000


def test_a_killed_producer_takes_its_private_stack_along_and_the_same_command_finishes_the_rest(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    photos = tmp_path / "photos"
    write_images(photos, 3000)
    env = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "32"}
    command = ("label", str(photos), "-o", str(home / "report.csv"))
    calm = home / "calm"
    calm.mkdir()
    sortline("label", str(photos), "-o", str(home / "calm.csv"), home=calm, env=env)
    with producer(*command, home=home, env={**env, **SLOWED}) as running:
        wait_until(lambda: rows_done(home) > 300, 30, "some rows")
        running.kill()
        running.wait()
    wait_until(lambda: not processes_below(home), 10, "the stack's end")
    before = rows_done(home)
    assert 300 < before < 3000
    assert not (home / "report.csv").exists()

    done = sortline(*command, home=home, env=env)

    assert "resuming photos-" in done.stderr
    assert f"{before} of 3000 images have their row" in done.stderr
    assert (home / "report.csv").read_bytes() == (home / "calm.csv").read_bytes()


def test_a_redis_that_loses_its_memory_costs_no_row(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    photos = tmp_path / "photos"
    write_images(photos, 3000)
    env = cluster(redis_server, model_store, tmp_path)
    with (
        worker(redis_server, home, model_store, tmp_path),
        producer("label", str(photos), "-o", str(home / "report.csv"), home=home, env=env) as running,
    ):
        wait_until(lambda: rows_done(home) > 300, 30, "some rows")
        redis_server.kill()
        time.sleep(1)  # long enough for both sides to notice
        redis_server.start()
        assert running.wait(90) == 0

    rows = rows_of(home / "report.csv")
    assert len(rows) == 3000
    assert all(row["status"] == "ok" for row in rows)


def test_ctrl_c_says_how_to_go_on_and_leaves_nothing_running(home: Path, tmp_path: Path, model_store: Path) -> None:
    write_images(tmp_path / "photos", 1000)
    env = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "32", **SLOWED}
    with producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running:
        wait_until(lambda: rows_done(home) > 100, 30, "some rows")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)

    assert running.returncode == 130
    assert f"to go on: sortline label {tmp_path / 'photos'} -o {home / 'report.csv'}" in said
    assert "Traceback" not in said
    expect_none_running(home)


def test_a_detached_run_can_be_gathered_on_another_host(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 200)
    env = cluster(redis_server, model_store, tmp_path)
    job = sortline("label", str(tmp_path / "photos"), "--detach", home=home, env=env).stdout.strip()
    other = home / "elsewhere"
    other.mkdir()
    with worker(redis_server, home, model_store, tmp_path):
        here = {"SORTLINE_BROKER": redis_server.url}
        listed = sortline("jobs", "list", home=other, env=here).stdout
        sortline("jobs", "gather", job, "-o", str(other / "report.csv"), home=other, env=here)

    assert job in listed
    rows = rows_of(other / "report.csv")
    assert [row["path"] for row in rows] == [f"{number:05d}.png" for number in range(200)]
    assert {row["status"] for row in rows} == {"ok"}


def test_a_run_keeps_its_model_when_another_is_promoted_meanwhile(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    write_images(tmp_path / "photos", 100)
    env = cluster(redis_server, model_store, tmp_path)
    sortline("label", str(tmp_path / "photos"), "--detach", home=home, env=env)
    with worker(redis_server, home, model_store, tmp_path):
        done = sortline("label", str(tmp_path / "photos"), home=home, env=env)

    assert "resuming" in done.stderr
    assert {row["model"] for row in rows_of(home / "report.csv")} == {"colours:1"}


def test_a_wrong_password_fails_at_once_and_is_not_shown(home: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    wrong = redis_server.url.replace(redis_server.password, secret("wrong"))

    done = sortline("doctor", home=home, code=69, limit_s=30, env={"SORTLINE_BROKER": wrong})
    worker_done = sortline(
        "worker",
        "--queues",
        "label",
        "--data-root",
        str(tmp_path),
        home=home,
        code=69,
        limit_s=30,
        env={"SORTLINE_BROKER": wrong},
    )

    for said in (done.stdout + done.stderr, worker_done.stdout + worker_done.stderr):
        assert "refuses the user or password" in said
        assert MARK not in said
    assert "refuses" not in sortline("doctor", home=home, code=None, env={"SORTLINE_BROKER": redis_server.url}).stdout


def test_a_model_that_was_tampered_with_is_refused_at_once(home: Path, tmp_path: Path, model_store: Path) -> None:
    import shutil

    write_images(tmp_path / "photos", 5)
    store = tmp_path / "store"
    shutil.copytree(model_store, store)
    graph = next(store.glob("colours/versions/0001/serving.onnx"))
    graph.chmod(0o644)
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)

    done = sortline("label", str(tmp_path / "photos"), home=home, code=1, env={"SORTLINE_STORE": str(store)})

    assert "refuses this run: model colours:1" in done.stderr
    assert "is not what was published" in done.stderr


def test_the_same_finished_command_has_nothing_to_do_until_the_folder_changes(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    write_images(tmp_path / "photos", 4)
    env = {"SORTLINE_STORE": str(model_store)}
    sortline("label", str(tmp_path / "photos"), home=home, env=env)
    started = (home / "run").stat().st_mtime_ns

    again = sortline("label", str(tmp_path / "photos"), home=home, env=env)
    refused = sortline("label", str(tmp_path / "photos"), "--on-existing", "error", home=home, code=2, env=env)
    assert (home / "run").stat().st_mtime_ns == started  # neither has started even a Redis
    write_images(tmp_path / "photos", 6)
    more = sortline("label", str(tmp_path / "photos"), home=home, env=env)

    assert "nothing new: all 4 images have their row" in again.stderr
    assert "this command has run before" in refused.stderr
    assert "6 images: 6 labelled" in more.stderr
    assert (home / "runs").stat().st_mode & 0o077 == 0


def test_the_worker_of_a_private_stack_has_the_settings_of_the_file_that_its_command_was_given(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    write_images(tmp_path / "photos", 4)
    (home / "mine.toml").write_text('precision = "f32"\nlog_format = "json"\nkey_prefix = "mine:"\n')
    env = {"SORTLINE_STORE": str(model_store), "SORTLINE_CHUNK_IMAGES": "1"}
    label = "label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), "--config", str(home / "mine.toml")

    with producer(*label, home=home, env=env) as process:
        wait_until(lambda: any((home / "logs").glob("*label-worker.log")), 60, "a worker")
        (log,) = (home / "logs").glob("*label-worker.log")
        with log.open() as lines:
            assert process.wait(60) == 0
            text = lines.read()

    assert '"event": "chunk labelled"' in text
    assert list((home / "logs").iterdir()) == []  # of no use any more
    assert [row["status"] for row in rows_of(home / "report.csv")] == ["ok"] * 4


def test_since_an_earlier_report_only_new_and_changed_images_are_labelled(
    home: Path, tmp_path: Path, model_store: Path
) -> None:
    photos = tmp_path / "photos"
    write_images(photos, 6)
    env = {"SORTLINE_STORE": str(model_store)}
    sortline("label", str(photos), "-o", "monday.csv", home=home, env=env)
    write_images(photos / "new", 2)
    write_images(photos, 1, size=32)

    tuesday = sortline("label", str(photos), "-o", "tuesday.csv", "--since", "monday.csv", home=home, env=env)
    wednesday = sortline("label", str(photos), "-o", "wednesday.csv", "--since", "tuesday.csv", home=home, env=env)
    refused = sortline("label", str(photos), "-o", "monday.csv", "--since", "monday.csv", home=home, env=env, code=2)

    assert "5 unchanged since monday.csv, 3 to label" in tuesday.stderr
    assert [row["path"] for row in rows_of(home / "tuesday.csv")] == ["00000.png", "new/00000.png", "new/00001.png"]
    assert {row["status"] for row in rows_of(home / "tuesday.csv")} == {"ok"}
    assert "8 unchanged since tuesday.csv, 0 to label" in wednesday.stderr
    assert rows_of(home / "wednesday.csv") == []
    assert "give -o another name" in refused.stderr
    assert len(rows_of(home / "monday.csv")) == 6


def test_copies_are_labelled_once_and_a_killed_worker_changes_no_byte(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer
) -> None:
    photos = tmp_path / "photos"
    for number, path in enumerate(write_images(photos, 1500)):
        (photos / f"copy-{number:05d}.png").write_bytes(path.read_bytes())
    for name in ("bad.png", "worse.png"):
        (photos / name).write_text("not a picture")
    env = cluster(redis_server, model_store, tmp_path)
    with worker(redis_server, home, model_store, tmp_path):
        calm = sortline("label", str(photos), "-o", "calm.csv", "--duplicates", home=home, env=env)
        sortline("label", str(photos), "-o", "plain.csv", home=home, env=env)
    other = home / "other"
    other.mkdir()
    command = ("label", str(photos), "-o", str(home / "disturbed.csv"), "--duplicates")
    with (
        worker(redis_server, home, model_store, tmp_path) as first,
        producer(*command, home=other, env=env) as running,
    ):
        wait_until(lambda: rows_done(other) > 200, 30, "some rows")
        first.send_signal(signal.SIGKILL)
        with worker(redis_server, home, model_store, tmp_path):
            assert running.wait(90) == 0

    assert "1,501 of 3,002 images are duplicates of another" in calm.stderr
    assert (home / "disturbed.csv").read_bytes() == (home / "calm.csv").read_bytes()
    rows, plain = rows_of(home / "calm.csv"), rows_of(home / "plain.csv")
    copies = {row["path"]: row.pop("duplicate_of") for row in rows}
    assert [row["path"] for row in rows if row["error"] == "not_an_image"] == ["bad.png", "worse.png"]
    assert [(row["path"], row["label"]) for row in rows] == [(row["path"], row["label"]) for row in plain]
    assert all(first == path.removeprefix("copy-") * path.startswith("copy-") for path, first in copies.items())
