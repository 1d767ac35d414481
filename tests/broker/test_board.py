"""The board of jobs, and detached runs in Redis."""

from __future__ import annotations

import json
import time
import zlib
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from configs.settings import Settings, environment_of
from jobs.board import KEPT_S, JobBoard
from jobs.broker import connect
from jobs.errors import MessageError
from producer.__main__ import run
from producer.errors import UsageError
from producer.local.session import Session
from producer.run.detached import MAX_PIECE_BYTES, download, find_detached, upload
from producer.runfile import RunFile
from tests.broker.conftest import KEYS, Desk, NewProducer, labelled, new_run, plan_of, working
from tests.conftest import RedisServer


@pytest.fixture
def board(client: redis.Redis) -> JobBoard:
    return JobBoard(client, KEYS)


def test_a_new_job_is_queued_and_can_be_read_back(board: JobBoard) -> None:
    board.add("inbox-1", kind="label", title="Fotos, 3 Bilder é", model="colours:1")

    state = board.get("inbox-1")
    assert state is not None
    assert (state.job, state.kind, state.title, state.model) == ("inbox-1", "label", "Fotos, 3 Bilder é", "colours:1")
    assert (state.state, state.text, state.ended) == ("queued", "", False)
    assert state.created == state.updated == pytest.approx(time.time(), abs=5)


def test_an_update_changes_what_it_names_and_the_time(board: JobBoard) -> None:
    board.add("inbox-1", kind="label", title="inbox")
    before = board.get("inbox-1")
    time.sleep(0.01)  # so that the clock has moved

    board.update("inbox-1", state="done", text="12 rows")

    after = board.get("inbox-1")
    assert before is not None
    assert after is not None
    assert (after.title, after.state, after.text, after.ended) == ("inbox", "done", "12 rows", True)
    assert after.created == before.created
    assert after.updated > before.updated


def test_jobs_come_the_newest_first(board: JobBoard) -> None:
    for name in ("b", "a", "c"):
        board.add(name, kind="train", title=name)
        time.sleep(0.002)  # jobs are ordered by the clock

    assert [state.job for state in board.jobs()] == ["c", "a", "b"]


def test_jobs_are_kept_for_a_month(board: JobBoard, client: redis.Redis) -> None:
    client.zadd(KEYS.jobs, {"old": time.time() - KEPT_S - 1})

    board.add("inbox-1", kind="label", title="inbox")

    assert client.zrange(KEYS.jobs, 0, -1) == ["inbox-1"]
    assert KEPT_S - 5 <= client.ttl(KEYS.job("inbox-1")) <= KEPT_S


def test_an_unknown_job_is_none_and_an_update_does_not_make_it(board: JobBoard, client: redis.Redis) -> None:
    board.update("gone", state="running")

    assert board.get("gone") is None
    assert client.keys() == []


def test_a_forgotten_job_disappears_from_the_list(board: JobBoard, client: redis.Redis) -> None:
    for name in ("a", "b"):
        board.add(name, kind="train", title=name)
    client.delete(KEYS.job("a"))

    assert [state.job for state in board.jobs()] == ["b"]


@pytest.mark.parametrize("leave", [JobBoard.count_attempt, JobBoard.ask_to_cancel])
def test_what_is_left_for_a_forgotten_job_does_not_make_it_known_and_goes_away(
    board: JobBoard, client: redis.Redis, leave: object
) -> None:
    assert callable(leave)
    leave(board, "forgotten")
    board.update("forgotten", state="running", text="epoch 1")

    assert board.get("forgotten") is None
    assert set(client.hgetall(KEYS.job("forgotten"))) <= {"attempts", "cancel"}
    assert 0 < client.ttl(KEYS.job("forgotten")) <= KEPT_S


def test_attempts_are_counted_one_by_one_and_do_not_show(board: JobBoard) -> None:
    board.add("train-1", kind="train", title="train")

    assert [board.count_attempt("train-1") for _ in range(3)] == [1, 2, 3]
    assert board.get("train-1") is not None


def test_a_cancelled_job_is_cancelled_until_it_is_queued_again(board: JobBoard) -> None:
    board.add("inbox-1", kind="label", title="inbox")
    assert not board.is_cancelled("inbox-1")
    board.ask_to_cancel("inbox-1")
    assert board.is_cancelled("inbox-1")
    assert not board.is_cancelled("inbox-2")

    board.add("inbox-1", kind="label", title="inbox")

    assert not board.is_cancelled("inbox-1")


FOREIGN_JOBS: dict[str, dict[Any, object]] = {
    "no kind": {"job": "x", "title": "t"},
    "another kind": {"job": "x", "kind": "mine", "title": "t"},
    "another state": {"job": "x", "kind": "label", "title": "t", "state": "lost"},
    "another job": {"job": "y", "kind": "label", "title": "t"},
    "no number": {"job": "x", "kind": "label", "title": "t", "created": "noon"},
    "no date": {"job": "x", "kind": "label", "title": "t", "created": "1e300"},
    "not a number": {"job": "x", "kind": "label", "title": "t", "updated": "nan"},
    "no field": {b"\xff": b"\xfe"},
}


@pytest.mark.parametrize("what", [*FOREIGN_JOBS, "a text"])
def test_an_entry_that_no_sortline_wrote_hides_no_job(what: str, settings: Settings, client: redis.Redis) -> None:
    board = JobBoard(connect(settings), KEYS)
    board.add("inbox-1", kind="label", title="inbox")
    if what == "a text":
        client.set(KEYS.job("x"), "text")
    else:
        client.hset(KEYS.job("x"), mapping=FOREIGN_JOBS[what])
    client.zadd(KEYS.jobs, {"x": 2e9, b"\xff\xfe": 3e9, "../../y": 4e9})

    assert [state.job for state in board.jobs()] == ["inbox-1"]
    assert board.get("x") is None
    assert board.is_wanted("x")
    assert not board.is_cancelled("x")
    assert board.ended_by("x") == ""
    board.update("x", state="done")


@pytest.mark.parametrize(
    ("key", "command"),
    [
        (KEYS.jobs, ["list"]),
        (KEYS.job("train-1"), ["cancel", "train-1"]),
        (KEYS.job("train-1"), ["show", "train-1"]),
        (KEYS.results("train-2"), ["watch", "train-2"]),
        (KEYS.inputs("x"), ["gather", "x"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_key_of_another_type_is_a_sentence(
    key: str,
    command: list[str],
    settings: Settings,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    JobBoard(client, KEYS).add("train-2", kind="train", title="train")
    client.delete(key)
    client.set(key, "text")

    assert run(["jobs", *command]) in (1, 2)

    said = capsys.readouterr().err
    assert said.startswith("sortline: ")
    assert "Traceback" not in said


def test_a_field_of_a_later_version_is_passed_over(board: JobBoard, client: redis.Redis) -> None:
    board.add("inbox-1", kind="label", title="inbox")
    client.hset(KEYS.job("inbox-1"), "colour", "green")

    assert board.get("inbox-1") is not None


ODD = [
    "a b.png",
    "ü.png",
    "100%.png",
    "new\nline.png",
    "\udcff\udcfe.png",
    "=1+1.png",
    '"quoted", comma.png',
    "-rf",
    "%41",
]


def test_the_inputs_of_a_detached_run_come_back_as_they_were(
    settings: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    names = [f"{ODD[number % len(ODD)]}/{number}" for number in range(12_000)]
    run = RunFile.create(tmp_path / "here.run", plan_of(settings), names)

    upload(client, KEYS, run)
    found = download(client, KEYS, "inbox-1", tmp_path / "other" / "there.run")

    assert found.plan == run.plan  # the digest of the inputs is part of it
    assert [row.path for row in found.rows()] == [row.path for row in run.rows()]
    assert found.total == 12_000
    assert found.done == 0
    assert found.sent() == [(first, 4) for first in range(0, 12_000, 4)]
    assert client.llen(KEYS.inputs("inbox-1")) == 1 + 12
    run.close()
    found.close()


def test_a_second_upload_replaces_the_first(settings: Settings, client: redis.Redis, tmp_path: Path) -> None:
    long, short = new_run(settings, 20), RunFile.create(tmp_path / "short.run", plan_of(settings), ["a.png"])
    upload(client, KEYS, long)

    upload(client, KEYS, short)
    found = download(client, KEYS, "inbox-1", tmp_path / "there.run")

    assert [row.path for row in found.rows()] == ["a.png"]
    for each in (long, short, found):
        each.close()


def test_a_run_that_redis_does_not_know_is_a_usage_error_and_leaves_no_file(
    client: redis.Redis, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no detached run inbox-7 on this broker; `sortline jobs list`"):
        download(client, KEYS, "inbox-7", tmp_path / "there.run")

    assert list(tmp_path.glob("there*")) == []


def test_another_host_gathers_what_was_detached(
    desk: Desk, client: redis.Redis, settings: Settings, new_producer: NewProducer, tmp_path: Path
) -> None:
    producer = new_producer(24)
    upload(client, KEYS, producer.run)
    for first, paths in producer.run.missing_chunks(lambda: 4):
        producer.sender.send(first, paths)
        producer.run.note_sent(first, len(paths))
    elsewhere = new_producer(run=download(client, KEYS, "inbox-1", tmp_path / "other" / "inbox.run"))

    with working(desk):
        elsewhere.finish()

    assert sorted(desk.answered) == list(range(0, 24, 4))
    assert len(labelled(elsewhere.run)) == 24
    assert client.exists(KEYS.inputs("inbox-1")) == 0


def packed(text: str) -> str:
    return b64encode(zlib.compress(text.encode())).decode()


def planned(settings: Settings, **changes: object) -> str:
    return json.dumps({**json.loads(plan_of(settings, "x").to_json()), "total": 1, **changes})


# The plan, and the inputs of a run.
FOREIGN_RUNS: dict[str, tuple[object, str]] = {
    "no JSON": ("nonsense", packed('["a.png"]')),
    "a list": ("[]", packed('["a.png"]')),
    "a deep list": ("[" * 100_000, packed('["a.png"]')),
    "bytes": (b"\xff\xfe", packed('["a.png"]')),
    "another run": ({"run": "y"}, packed('["a.png"]')),
    "a path as run": ({"run": "../../x"}, packed('["a.png"]')),
    "a huge top_k": ({"top_k": 10**9}, packed('["a.png"]')),
    "a huge chunk": ({"chunk_images": 10**9}, packed('["a.png"]')),
    "a huge total": ({"total": 10**12}, packed('["a.png"]')),
    "a negative total": ({"total": -1}, packed('["a.png"]')),
    "fewer groups than labels": ({"groups": []}, packed('["a.png"]')),
    "a base that is no file name": ({"base": "/\ud800"}, packed('["a.png"]')),
    "an unknown field": ({"command": "touch"}, packed('["a.png"]')),
    "no base64": ({}, "A"),
    "no zlib": ({}, b64encode(b"xx").decode()),
    "inputs that are no JSON": ({}, packed("{")),
    "numbers": ({}, packed("[1]")),
    "half a character": ({}, packed('["\\ud800.png"]')),
    "deep inputs": ({}, packed("[" * 100_000)),
    "too few inputs": ({}, packed("[]")),
    "too many inputs": ({}, packed('["a.png", "b.png"]')),
    "a bomb": ({}, packed(" " * (MAX_PIECE_BYTES + 1) + '["a.png"]')),
    "a path out of the folder": ({}, packed('["../a.png"]')),
    "a path from the root": ({}, packed('["/a.png"]')),
    "a NUL": ({}, packed('["a%00.png"]')),
}


@pytest.mark.parametrize("what", FOREIGN_RUNS)
def test_a_detached_run_that_no_sortline_wrote_is_refused_and_leaves_no_run_file(
    what: str, settings: Settings, client: redis.Redis
) -> None:
    plan, piece = FOREIGN_RUNS[what]
    client.rpush(KEYS.inputs("x"), planned(settings, **plan) if isinstance(plan, dict) else plan, piece)

    with pytest.raises(MessageError, match=r"what Redis has of x is no detached run of Sortline: ."):
        find_detached(Session(settings, connect(settings)), "x")

    assert {path.suffix for path in (settings.home / "runs").glob("*")} <= {".lock"}


def test_the_control_of_foreign_runs_is_gathered(settings: Settings, client: redis.Redis) -> None:
    client.rpush(KEYS.inputs("x"), planned(settings), packed('["a.png"]'))

    with closing(find_detached(Session(settings, connect(settings)), "x")) as run:
        assert run.total == 1


def test_a_key_of_another_type_is_no_detached_run(settings: Settings, client: redis.Redis) -> None:
    client.set(KEYS.inputs("x"), "text")

    with pytest.raises(MessageError, match="x is no detached run of Sortline: WRONGTYPE"):
        find_detached(Session(settings, client), "x")


@pytest.mark.parametrize("job", ["../../x", "/x", "", "x/y", "x\n", ".x", "x" * 129])
def test_a_job_that_is_no_name_makes_no_file(job: str, settings: Settings, client: redis.Redis) -> None:
    client.rpush(KEYS.inputs(job), planned(settings, run="x"), packed('["a.png"]'))

    with pytest.raises(UsageError, match="is no name of a run"):
        find_detached(Session(settings, client), job)

    assert list(settings.home.rglob("*.run")) == list(settings.home.parent.glob("*.run")) == []


def test_images_behind_a_url_that_redis_names_are_fetched_only_if_it_is_ours(
    settings: Settings, client: redis.Redis
) -> None:
    url = "https://photos.test/archive"
    client.rpush(KEYS.inputs("x"), planned(settings, base=f"{url}/a", data_root=url), packed('["a.png"]'))
    session = Session(settings, client)

    for other in (None, Path("/"), "https://photos.test/other"):
        with pytest.raises(UsageError, match=f"the images of x are at {url}: set SORTLINE_DATA_ROOT"):
            find_detached(session, "x", other)
    with closing(find_detached(session, "x", url)) as run:
        assert run.total == 1


def test_the_uploaded_plan_is_json_that_says_where_the_images_are(settings: Settings, client: redis.Redis) -> None:
    run = new_run(settings, 3)
    upload(client, KEYS, run)
    run.close()

    plan = json.loads(client.lindex(KEYS.inputs("inbox-1"), 0))
    assert (plan["run"], plan["base"], plan["total"]) == ("inbox-1", str(settings.data_root), 3)


def test_a_job_is_wanted_until_it_is_cancelled_or_has_ended_also_when_redis_can_not_tell(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    board = JobBoard(client, KEYS)
    for job in ("new", "cancelled", "done"):
        board.add(job, kind="label", title="inbox")
    board.ask_to_cancel("cancelled")
    board.update("done", state="done")
    with redis_server.client().pipeline() as pipeline:
        board.end_work(pipeline, "over", "process 7 on a")  # Redis has forgotten it, or lost all
        pipeline.execute()

    jobs = ("new", "unknown", "cancelled", "done", "over")
    assert [board.is_wanted(job) for job in jobs] == [True, True, False, False, False]
    assert board.ended_by("over") == "process 7 on a"
    board.resume_work("over")
    board.resume_work("done")
    assert [board.is_wanted(job) for job in jobs] == [True, True, False, True, True]
    redis_server.kill()
    assert board.is_wanted("done")
    board.add("later", kind="label", title="inbox")  # neither ends a run
    board.update("new", state="running")
