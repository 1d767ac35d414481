"""Searches and cross-validations as a person runs them: real processes, a real Redis, a real network."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from configs.recipe import Recipe
from configs.settings import Settings
from jobs.messages import to_json
from jobs.train import JobEvent, TrainModel
from producer.local.session import Session, open_session
from producer.training.events import follow
from producer.training.sweep import Trial, run_trials
from tests.conftest import SORTLINE, RedisServer, environment, sortline, wait_until
from tests.e2e.test_label import processes_below
from tests.e2e.test_train import QUICK, trainer, write_shades

pytestmark = pytest.mark.slow

SMALL = (*QUICK, "--set", "batch_size=8", "--set", "warmup_steps=0", "--set", "optimizer=momentum", "--name", "shades")


def versions(home: Path) -> list[str]:
    folder = home / "store" / "shades" / "versions"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
    assert processes_below(home) == []


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
    assert processes_below(home) == []


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

    running = run_trials(session, trials, [job("a"), job("b")])
    next(running)
    assert session.client.llen(session.keys.queue("train")) == queued_at_first
    assert list(running)

    assert session.client.llen(session.keys.queue("train")) == 2
    assert [trial.state for trial in trials] == ["done", "done"]


def test_a_job_whose_stream_is_gone_ends_as_the_board_says(session: Session) -> None:
    for name in "ab":
        session.board.add(name, kind="train", title=name)
    session.board.update("a", state="failed", text="the disk is full")
    say(session, "b", "done")

    events = [(event.job, event.state, event.text) for event in follow(session, ["a", "b"]) if event is not None]

    assert sorted(events) == [("a", "failed", "the disk is full"), ("b", "done", "done")]
