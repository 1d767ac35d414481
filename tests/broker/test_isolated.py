"""An image that ends whatever reads it costs its own row; its neighbours keep the labels that they would have had."""

from __future__ import annotations

import hashlib
import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from base.errors import UnavailableError
from configs.settings import Settings
from jobs.label import ChunkResult, LabelChunk, Row, SampledInput
from tests.broker.conftest import KEYS, Desk, NewProducer, chunk_of, really_working, stored_pin, waiting, working
from tests.conftest import wait_until
from worker.errors import WorkerError
from worker.handler import Delivery
from worker.label.chunk import label_chunk
from worker.label.handler import LabelHandler
from worker.label.isolated import ProcessLost, _Process, _row, label_isolated
from worker.runtime import ATTEMPTS, Runtime

IMAGES = 6
POISON = 2


def undisturbed(settings: Settings) -> ChunkResult:
    runtime = Runtime(settings)
    chunk = chunk_of(settings, 0, IMAGES, pin=stored_pin(settings))
    result = label_chunk(chunk, runtime.classifier(chunk.model), runtime.data_root, runtime.limits)
    runtime.classifier(chunk.model).close()
    return result


def isolated(settings: Settings) -> tuple[Row, ...]:
    return label_isolated(chunk_of(settings, 0, IMAGES, pin=stored_pin(settings)), settings).rows


def test_a_chunk_without_poison_has_the_rows_of_an_undisturbed_worker(real_settings: Settings) -> None:
    assert isolated(real_settings) == undisturbed(real_settings).rows


@pytest.mark.parametrize(
    ("action", "detail"),
    [
        ("kill", "the process that labelled it ended with SIGKILL"),
        ("segv", "the process that labelled it ended with SIGSEGV"),
        ("memory", "the process that labelled it ended with SIGKILL"),
        ("hang", "the process that labelled it did not answer within 2 s"),
    ],
)
def test_a_poison_image_costs_its_own_row(
    real_settings: Settings, monkeypatch: pytest.MonkeyPatch, action: str, detail: str
) -> None:
    monkeypatch.setenv("TEST_FAULT", f"decode {POISON:05d}.png={action}")
    calm = undisturbed(real_settings).rows

    rows = isolated(real_settings.model_copy(update={"stuck_s": 2.0 if action == "hang" else 60.0}))

    assert rows[POISON] == Row(error="worker_lost", detail=detail)
    others = [place for place in range(IMAGES) if place != POISON]
    assert [rows[place].top[0][0] for place in others] == [calm[place].top[0][0] for place in others]
    assert [rows[place].width for place in others] == [12] * len(others)


def test_a_process_killed_once_for_another_reason_costs_no_row(
    real_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Alone the image passes; the second time, together with the others, it ends the process.
    monkeypatch.setenv("TEST_FAULT", f"decode {POISON:05d}.png:2")

    rows = isolated(real_settings)

    assert [row.error for row in rows] == [None] * IMAGES


def test_no_number_of_kills_from_outside_costs_a_row(real_settings: Settings) -> None:
    calm, kills, ended = undisturbed(real_settings).rows, [0], threading.Event()

    def kill() -> None:
        while not ended.wait(0.05) and kills[0] < 6:
            for child in psutil.Process().children():
                with suppress(psutil.Error):
                    if "worker.label.isolated" in child.cmdline() and random.random() < 0.15:  # noqa: S311
                        child.kill()
                        kills[0] += 1

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        labelled: list[tuple[Row, ...]] = []
        while not labelled or kills[0] < 4:
            with suppress(WorkerError):  # it goes back to the queue, and comes again
                labelled.append(isolated(real_settings))
    finally:
        ended.set()
        killer.join(30)

    assert labelled == [calm] * len(labelled)


def test_rows_of_a_process_are_not_taken_when_another_folder_lies_there_in_the_end(
    real_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(str(real_settings.data_root))
    seen = (root / "00000.png").read_bytes()
    sample = (SampledInput(path="00000.png", size=len(seen), sha256=hashlib.sha256(seen).hexdigest()),)
    chunk = chunk_of(real_settings, 0, IMAGES, pin=stored_pin(real_settings)).model_copy(update={"sample": sample})
    handler = LabelHandler(
        Runtime(real_settings), chunk, Delivery(retries=0, worker="", tag=None, queued_at=None, show=print)
    )
    assert len(handler.work(ATTEMPTS + 1).rows) == IMAGES

    def swapped(*arguments: Any) -> ChunkResult:
        result = label_isolated(*arguments)
        root.rename(root.with_name("before"))
        shutil.copytree(root.with_name("before"), root)
        (root / "00000.png").write_bytes(seen[::-1])
        return result

    monkeypatch.setattr("worker.label.handler.label_isolated", swapped)
    with pytest.raises(UnavailableError, match="is it the same folder as the command's"):
        handler.work(ATTEMPTS + 1)


def test_a_file_system_that_stands_still_is_not_blamed_on_an_image(
    real_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FAULT", f"read {POISON:05d}.png=hang")

    with pytest.raises(UnavailableError, match=rf"{POISON:05d}.png could not be read within 2 s: its file system"):
        isolated(real_settings.model_copy(update={"stuck_s": 2.0}))


OWN, OUTER = ProcessLost("ended with SIGSEGV", by_itself=True), ProcessLost("ended with SIGKILL", by_itself=False)
LABELLED = Row(top=((0, 1.0),))


class Scripted:
    """A process that ends as it is told to, one chunk after the other, and is new after each end."""

    busy_s = 0.1

    def __init__(self, *ends: ProcessLost, is_running: bool = False, is_hunted: bool = False) -> None:
        self.ends, self.is_running, self.is_hunted = list(ends), is_running, is_hunted

    def idle(self, seconds: float) -> None:
        assert seconds > self.busy_s
        if self.is_hunted:
            raise WorkerError("a process that had nothing to do ended with SIGKILL")

    def label(self, _: LabelChunk) -> tuple[Row, ...]:
        self.is_running = not self.ends
        if self.ends:
            raise self.ends.pop(0)
        return (LABELLED,)


@pytest.mark.parametrize(
    ("process", "is_lost"),
    [
        (Scripted(OWN), False),
        (Scripted(OWN, OWN), True),
        (Scripted(OWN, OWN, is_running=True), False),  # the first had labelled others before
        (Scripted(OWN, OWN, OWN, is_running=True), True),
        (Scripted(OUTER, OUTER, OUTER), False),
        (Scripted(OUTER, OUTER, OUTER, OUTER), True),
        (Scripted(OUTER, OWN, OUTER), False),
    ],
)
def test_an_image_is_blamed_for_what_it_does_again_to_processes_that_had_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, process: Any, is_lost: bool
) -> None:
    monkeypatch.setattr("worker.label.isolated.PAUSE_S", 0)

    row = _row(process, chunk_of(settings, 0, 1))

    assert row.error == ("worker_lost" if is_lost else None)


def test_what_ends_idle_processes_as_well_is_not_the_image(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.label.isolated.PAUSE_S", 0)
    hunted: Any = Scripted(OUTER, OUTER, OUTER, OUTER, is_hunted=True)

    with pytest.raises(WorkerError, match="had nothing to do"):
        _row(hunted, chunk_of(settings, 0, 1))


def test_an_idle_process_lives_or_is_named(real_settings: Settings) -> None:
    def kill() -> None:
        wait_until(lambda: psutil.Process().children(), 20, "the process")
        time.sleep(3)  # it loads for a second
        for child in psutil.Process().children():
            if "worker.label.isolated" in child.cmdline():
                child.kill()

    with _Process(real_settings, stored_pin(real_settings)) as process:
        process.idle(0.2)
        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with pytest.raises(WorkerError, match="a process that had nothing to do ended with SIGKILL"):
            process.idle(20)
        killer.join(30)


def test_a_model_that_can_not_be_loaded_is_not_blamed_on_an_image(real_settings: Settings) -> None:
    chunk = chunk_of(real_settings, 0, pin=stored_pin(real_settings).model_copy(update={"version": 7}))

    with pytest.raises(WorkerError, match="colours:7"):
        label_isolated(chunk, real_settings)


def test_a_data_root_that_is_away_is_not_blamed_on_an_image(real_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="is the share mounted"):
        isolated(real_settings.model_copy(update={"data_root": tmp_path / "away"}))


def test_an_isolated_process_is_gone_when_its_chunk_is_done(real_settings: Settings) -> None:
    before = psutil.Process().num_fds()

    isolated(real_settings)

    assert [child for child in psutil.Process().children() if "worker.label.isolated" in child.cmdline()] == []
    assert psutil.Process().num_fds() <= before


def test_attempts_that_die_are_counted_and_those_that_end_are_not_unless_isolated(
    real_settings: Settings, client: redis.Redis
) -> None:
    runtime, chunk = Runtime(real_settings), chunk_of(real_settings, 4)
    key = KEYS.attempts(chunk.run)

    with runtime.attempt(chunk) as first:
        pass
    with pytest.raises(OSError, match="share"), runtime.attempt(chunk) as second:
        raise OSError("share away")
    assert (first, second, client.exists(key), client.hget(key, "4")) == (1, 1, 1, "0")
    for number in range(1, ATTEMPTS + 1):
        assert runtime.attempt(chunk).__enter__() == number  # and the process dies
    for number in (ATTEMPTS + 1, ATTEMPTS + 2):  # a late copy is isolated as well
        with runtime.attempt(chunk) as last:
            pass
        assert last == number
    runtime.forget_attempts(chunk.run)
    assert client.exists(key) == 0


def test_a_late_copy_of_an_ended_run_is_dropped_with_its_attempts_though_redis_forgot_the_run(
    settings: Settings, client: redis.Redis, desk: Desk, new_producer: NewProducer
) -> None:
    producer = new_producer(4)
    with working(desk):
        producer.finish()
        assert client.exists(KEYS.attempts("inbox-1"), KEYS.results("inbox-1")) == 0
        client.hset(KEYS.attempts("inbox-1"), "0", 1)  # of a worker that died on a late copy

        producer.sender.send(0, ["00000.png"])
        wait_until(lambda: waiting(client) == client.hlen(KEYS.unacked) == 0, 10, "the end of the late copy")

    assert desk.answered == [0]
    assert client.exists(KEYS.attempts("inbox-1"), KEYS.results("inbox-1")) == 0


def test_a_chunk_on_which_three_workers_died_is_isolated_and_the_next_is_not(
    real_settings: Settings, client: redis.Redis, new_producer: NewProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_FAULT", f"decode {POISON:05d}.png=segv")  # for children: this process has looked already
    producer = new_producer(8, pin=stored_pin(real_settings))
    client.hset(KEYS.attempts(producer.run.plan.run), "0", ATTEMPTS)

    with really_working(real_settings):
        producer.finish(60)

    assert [row.error for row in producer.run.rows()] == [None, None, "worker_lost", None] + [None] * 4
    assert client.exists(KEYS.attempts(producer.run.plan.run)) == 0
