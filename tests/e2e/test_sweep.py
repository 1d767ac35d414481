"""Searches and cross-validations as a person runs them: real processes, a real Redis, a real network."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.messages import to_json
from jobs.train import JobEvent, TrainModel
from producer.local.session import Session, open_session
from producer.training.events import follow
from producer.training.jobs import Training
from producer.training.sweep import Trial, run_trials
from producer.training.unfinished import search_of
from tests.conftest import SORTLINE, RedisServer, environment, sortline, wait_until
from tests.e2e.test_label import expect_none_running
from tests.e2e.test_train import QUICK, trainer, write_shades

pytestmark = pytest.mark.slow

SMALL = (*QUICK, "--set", "batch_size=8", "--set", "warmup_steps=0", "--set", "optimizer=momentum", "--name", "shades")


def versions(home: Path) -> list[str]:
    folder = home / "store" / "shades" / "versions"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_search_survives_a_trial_that_diverges_and_publishes_the_best_recipe_once(home: Path, tmp_path: Path) -> None:
    photos = write_shades(tmp_path / "photos")

    # Of a squared loss, so large a step makes the next one larger still.
    done = sortline("train", str(photos), *SMALL, "--set", "loss=squared", "--sweep", "lr_max=10.0,1e-9,0.02",
                    "--sweep-report", "s.csv", home=home, limit_s=240)  # fmt: skip
    shown = json.loads(sortline("models", "show", "shades:1", "--json", home=home).stdout)

    best, middle, failed = rows_of(home / "s.csv")
    assert done.stdout == "shades:1\n"
    assert [row["lr_max"] for row in (best, middle, failed)] == ["0.02", "1e-09", "10.0"]
    assert [row["state"] for row in (best, middle, failed)] == ["done", "done", "failed"]
    assert (-float(best["val_top1"]), float(best["val_loss"])) < (-float(middle["val_top1"]), float(middle["val_loss"]))
    assert "the loss is inf at step" in failed["detail"]
    assert "try a lower lr_max than 10" in failed["detail"]
    assert "3/3 trials, 1 failed" in done.stderr
    assert "The best of 3 trials on one validation split is an optimistic score" in done.stderr
    assert "--set lr_max=0.02 --folds 5" in done.stderr
    assert versions(home) == ["0001"]
    assert shown["training"]["recipe"]["lr_max"] == 0.02
    assert best["job"] == f"{shown['training']['job']}-t03"
    expect_none_running(home)


@pytest.mark.long
def test_folds_print_the_rate_of_all_images_and_publish_nothing(home: Path, tmp_path: Path) -> None:
    write_shades(tmp_path / "photos" / "train", 16)
    write_shades(tmp_path / "photos" / "val", 8)

    done = sortline("train", str(tmp_path / "photos"), *SMALL, "--folds", "2", home=home)

    assert done.stdout.count("\n") == 1
    rate, _, rest = done.stdout.partition("%")
    assert 0 <= float(rate) <= 100
    assert rest.startswith(" of 48 images in 2 folds by family, standard error ")
    assert "fold 2/2, epoch 2/2" in done.stderr
    assert versions(home) == []


@pytest.mark.long
def test_two_training_workers_share_a_search(home: Path, tmp_path: Path, redis_server: RedisServer) -> None:
    photos = write_shades(tmp_path / "photos")
    env = {"SORTLINE_BROKER": redis_server.url, "SORTLINE_DATA_ROOT": "/"}
    settings = Settings(home=home, broker=redis_server.url, data_root=Path("/"))
    with trainer(redis_server, home), trainer(redis_server, home):
        with open_session(settings) as session:
            wait_until(lambda: len(session.workers("train")) == 2, 60, "both workers")
        done = sortline("train", str(photos), *SMALL, "--set", "epochs=40", "--sweep", "lr_max=0.01,0.02",
                        "--sweep-report", "s.csv", home=home, env=env, limit_s=240)  # fmt: skip

    assert done.stdout == "shades:1\n"
    with redis_server.client() as client:
        spans = [
            (entries[0][0], entries[-1][0])
            for row in rows_of(home / "s.csv")
            if (entries := client.xrange(f"sortline:results:{row['job']}"))
        ]
    (begun, ended), (other_begun, other_ended) = spans
    assert begun < other_ended
    assert other_begun < ended


@pytest.mark.long
def test_a_killed_search_goes_on_where_it_was(home: Path, tmp_path: Path) -> None:
    photos = write_shades(tmp_path / "photos")
    # 5,000 epochs last until the kill; in them a trial writes a checkpoint again and again.
    command = ("train", str(photos), *SMALL, "--sweep", "epochs=2,5000", "--sweep-report", "s.csv")
    with (home / "err").open("w") as errors:
        search = subprocess.Popen([SORTLINE, *command], env=environment(home), stdout=errors, stderr=errors, cwd=home)
        try:
            wait_until(lambda: "2, epochs=5000: epoch" in (home / "err").read_text(), 120, "the second trial")
            children = psutil.Process(search.pid).children(recursive=True)
        finally:
            search.kill()
            search.wait(10)
    first, second = (row["job"] for row in sorted(rows_of(home / "s.csv"), key=lambda row: row["trial"]))
    psutil.wait_procs(children, 30)
    (checkpoint,) = (home / "checkpoints").iterdir()
    assert checkpoint.name == second

    with (home / "again").open("w") as errors:
        again = subprocess.Popen([SORTLINE, *command], env=environment(home), stdout=errors, stderr=errors, cwd=home)
        try:
            wait_until(lambda: "2, epochs=5000: epoch" in (home / "again").read_text(), 120, "the second trial again")
            again.send_signal(signal.SIGINT)
            assert again.wait(60) == 130
        finally:
            again.kill()

    said = (home / "again").read_text()
    assert "2 trials, 1 of them done before" in said
    assert "the same command goes on with the trials that are left" in said
    assert "trial 1/2, epochs=2: " not in said  # no event of it: it was not scored again
    rows = {row["trial"]: row for row in rows_of(home / "s.csv")}
    assert (rows["1"]["state"], rows["1"]["job"], rows["2"]["job"]) == ("done", first, second)
    assert re.search(r"2, epochs=5000: epoch (?!1/)\d", said)  # from its checkpoint
    assert "Validation top-1 by epochs" in (home / "s.html").read_text()


@pytest.mark.long
def test_an_interrupted_search_shows_its_table_and_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    photos = write_shades(tmp_path / "photos")
    with (home / "err").open("w") as errors, (home / "out").open("w") as output:
        search = subprocess.Popen(
            [SORTLINE, "train", str(photos), *SMALL, "--set", "epochs=5000", "--sweep", "lr_max=0.01,0.02",
             "--sweep-report", "s.csv"],
            env=environment(home), stdout=output, stderr=errors, cwd=home,
        )  # fmt: skip
        try:
            wait_until(lambda: "epoch " in (home / "err").read_text(), 90, "an epoch of the first trial")
            search.send_signal(signal.SIGINT)
            assert search.wait(30) == 130
        finally:
            for child in psutil.Process(search.pid).children(recursive=True) if search.poll() is None else []:
                child.kill()
            search.kill()

    assert [row["state"] for row in rows_of(home / "s.csv")] == ["cancelled", "cancelled"]
    assert "cancelled: epoch " in (home / "err").read_text()
    assert "Traceback" not in (home / "err").read_text()
    assert (home / "out").read_text() == ""
    assert versions(home) == []
    expect_none_running(home)


@pytest.fixture
def session(redis_server: RedisServer, home: Path) -> Iterator[Session]:
    """An open connection without any worker."""
    with open_session(Settings(home=home, broker=redis_server.url, data_root=Path("/"))) as opened:
        yield opened


def job(name: str) -> TrainModel:
    return TrainModel(job=name, dataset="d", name="m", recipe={}, purpose="score", promote="never")


def say(session: Session, name: str, state: str, **scores: float) -> None:
    event = JobEvent.model_validate({"job": name, "state": state, "text": state, "scores": scores or None})
    session.client.xadd(session.keys.results(name), {"json": to_json(event)})


@pytest.mark.parametrize(("backbone", "queued_at_first"), [(None, 2), ("mobilenetv2-imagenet", 1)])
def test_the_first_trial_fills_the_feature_cache_alone(
    session: Session, backbone: str | None, queued_at_first: int
) -> None:
    trials = [Trial(number, {}, Recipe(backbone=backbone)) for number in (1, 2)]
    for name in "ab":
        say(session, name, "progress")
        say(session, name, "done", val_top1=0.5, val_loss=1.0)

    running = run_trials(session, trials, [job("a"), job("b")], lambda trial: None)
    next(running)
    assert session.client.llen(session.keys.queue("train")) == queued_at_first
    assert list(running)

    assert session.client.llen(session.keys.queue("train")) == 2
    assert [trial.state for trial in trials] == ["done", "done"]


def test_a_search_goes_on_with_what_is_done_at_work_queued_and_cancelled(session: Session, tmp_path: Path) -> None:
    def trials() -> list[Trial]:
        return [Trial(number, {}, Recipe(epochs=number)) for number in (1, 2, 3, 4)]

    training = Training(dataset=tmp_path, name="m")
    jobs = [job(f"train-m-00{name}") for name in "abcd"]
    with suppress(KeyboardInterrupt), search_of(session.settings, training, trials()) as log:
        running = run_trials(session, earlier := trials(), jobs, log.add)
        for number, state in ((0, "done"), (1, "progress"), (3, "failed")):
            say(session, jobs[number].job, state, val_top1=0.5, val_loss=1.0)
        for _ in range(3):
            next(running)
        session.board.update(jobs[1].job, state="running")
        session.board.ask_to_cancel(jobs[2].job)
        session.board.update(jobs[3].job, state="failed")
        raise KeyboardInterrupt
    assert [trial.state for trial in earlier] == ["done", "running", "queued", "failed"]
    say(session, jobs[1].job, "done", val_top1=0.25, val_loss=1.0)  # while no command is there
    session.board.update(jobs[1].job, state="done")

    with suppress(KeyboardInterrupt), search_of(session.settings, training, left := trials()) as log:
        planned = [job(trial.job) for trial in left]
        running = run_trials(session, left, planned, log.add)
        while not all(trial.ended for trial in left[:2]):
            next(running)
        again = [trial.job for trial in left]
        raise KeyboardInterrupt

    assert [trial.state for trial in left] == ["done", "done", "queued", "queued"]
    assert again[:2] == [jobs[0].job, jobs[1].job]
    assert re.fullmatch(r"train-m-00c-[0-9a-f]{4}", again[2])
    assert re.fullmatch(r"train-m-00d-[0-9a-f]{4}", again[3])
    assert session.client.llen(session.keys.queue("train")) == 4 + 2
    with search_of(session.settings, training, last := trials()):
        assert [trial.job for trial in last] == again
        assert [trial.scores.get("val_top1") for trial in last] == [0.5, 0.25, None, None]
    with search_of(session.settings, training, after := trials()):
        assert [trial.job for trial in after] == [""] * 4


def test_a_job_whose_stream_is_gone_ends_as_the_board_says(session: Session) -> None:
    for name in "ab":
        session.board.add(name, kind="train", title=name)
    session.board.update("a", state="failed", text="the disk is full")
    say(session, "b", "done")

    events = [(event.job, event.state, event.text) for event in follow(session, ["a", "b"]) if event is not None]

    assert sorted(events) == [("a", "failed", "the disk is full"), ("b", "done", "done")]
