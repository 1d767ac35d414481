"""``sortline clean`` removes what is old and nobody needs, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from base.supervisor import Supervisor
from base.temporary import abandoned_folders
from configs.settings import Settings
from jobs.board import JobBoard
from jobs.state import JobState, State
from producer.__main__ import run
from producer.local.disk import sizes
from producer.run.cleaning import remove, seconds_of, unneeded
from producer.runfile import RunFile
from producer.runfile.growing import GrowingRun
from tests.conftest import wait_until
from tests.unit.test_run_file import OK, answer, names, plan

OLD_S = 40 * 24 * 3600.0
MONTH_S = 30 * 24 * 3600.0


@pytest.fixture
def settings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # elsewhere other tests kill what has a folder
    monkeypatch.setenv("SORTLINE_HOME", str(home))
    return Settings(home=home)


def aged(path: Path) -> Path:
    """``path``, and all below it, as it would be after forty days."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - OLD_S,) * 2)
    return path


def make_run(home: Path, name: str, rows: int) -> Path:
    """A run file of four images, so many of which have their row."""
    path = home / "runs" / f"{name}.run"
    with closing(RunFile.create(path, plan(), names(4))) as made:
        if rows:
            made.record(answer(0, *[OK] * rows))
    for file in path.parent.glob(f"{name}.run*"):
        aged(file)
    return path


def write(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return aged(path)


def found(settings: Settings) -> dict[str, str]:
    """Names of what is old, with why it stays."""
    return {each.path.name: each.kept for each in unneeded(settings, MONTH_S)}


def test_only_finished_run_files_go_when_they_are_old(settings: Settings) -> None:
    make_run(settings.home, "finished", 4)
    make_run(settings.home, "unfinished", 3)
    os.utime(make_run(settings.home, "new", 4))
    grown = settings.home / "runs" / "watched.run"
    GrowingRun.begin(grown, plan()).close()
    aged(grown)
    write(settings.home / "runs" / "foreign.run")

    expected = {
        "finished.run": "",
        "foreign.run": "it can't be read (file is not a database)",
        "unfinished.run": "not finished: 1 images have no row",
        "watched.run": "`sortline watch` goes on with it",
    }
    assert found(settings) == expected
    assert found(settings) == expected  # also after a --dry-run, whose looking makes them no younger


def test_a_run_file_that_a_command_holds_stays(settings: Settings) -> None:
    path = make_run(settings.home, "finished", 4)
    (old,) = unneeded(settings, MONTH_S)
    with closing(RunFile(path)):
        assert not remove(settings, old)
    assert path.exists()

    assert remove(settings, old)


@dataclass
class Board:
    """What a broker knows of jobs."""

    states: dict[str, State]

    def get(self, job: str) -> JobState | None:
        return JobState(job=job, kind="train", title="train", state=self.states[job]) if job in self.states else None


def test_what_a_training_that_has_not_ended_needs_stays(settings: Settings) -> None:
    states: dict[str, State] = {"train-queued": "queued", "train-done": "done"}
    for job in (*states, "train-unknown"):
        write(settings.home / "checkpoints" / job / "epoch-3.ckpt")
        aged(settings.home / "checkpoints" / job)

    board = cast("JobBoard", Board(states))
    assert {each.path.name: each.kept for each in unneeded(settings, MONTH_S, board)} == {
        "train-queued": "its job is queued",
        "train-done": "",
        "train-unknown": "",
    }


def test_a_run_that_another_host_has_gathered_goes(settings: Settings) -> None:
    path = make_run(settings.home, "sent", 0)
    watched = settings.home / "runs" / "watched.run"
    GrowingRun.begin(watched, plan()).close()
    aged(watched)

    def kept(state: State) -> dict[str, str]:
        board = cast("JobBoard", Board({plan().run: state}))
        return {each.path.name: each.kept for each in unneeded(settings, MONTH_S, board)}

    assert kept("labelled")["sent.run"] == "not finished: 4 images have no row"
    assert kept("cancelled")["sent.run"] == "not finished: 4 images have no row"  # the same command labels the rest
    assert kept("done") == {"sent.run": "", "watched.run": "`sortline watch` goes on with it"}
    assert path.exists()


def test_what_a_training_goes_on_with_stays(settings: Settings) -> None:
    for job in ("train-noted", "train-ended", "train-search-t02", "train-search-t02-0a1b"):
        write(settings.home / "checkpoints" / job / "epoch-3.ckpt")
        aged(settings.home / "checkpoints" / job)
    write(settings.home / "trainings" / "0123456789abcdef").write_text("train-noted")
    write(settings.home / "trainings" / "fedcba9876543210").write_text('train-search\n{"trial": 1}\n')
    write(settings.home / "checkpoints" / "train-at-work" / "epoch-1.ckpt")
    os.utime(settings.home / "checkpoints" / "train-at-work" / "epoch-1.ckpt")

    goes_on = "the same `sortline train` goes on with it"
    assert found(settings) == {
        **dict.fromkeys(("train-noted", "train-search-t02", "train-search-t02-0a1b"), goes_on),
        "train-ended": "",
    }


@pytest.mark.parametrize(
    "name",
    ["logs/123-abc-redis.log", "thumbnails.db", f"features/{'0f' * 32}/rows.bin", "store/pets/staging/0a1b/x.onnx"],
)
def test_old_logs_thumbnails_features_and_stagings_go(name: str, settings: Settings) -> None:
    path = write(settings.home / name)
    top = aged(path if path.parent.name in ("logs", settings.home.name) else path.parent)
    (old,) = unneeded(settings, MONTH_S)
    assert old.path == top

    assert remove(settings, old)
    assert not list(unneeded(settings, MONTH_S))
    os.utime(write(path))
    os.utime(top)
    assert not list(unneeded(settings, MONTH_S))


def test_features_that_a_training_uses_stay(settings: Settings) -> None:
    import fcntl

    from base.files import locked

    write(settings.home / "features" / ("0f" * 32) / "rows.bin")
    aged(settings.home / "features" / ("0f" * 32))
    (old,) = unneeded(settings, MONTH_S)
    with locked(settings.home / "features" / f"{'0f' * 32}.used", fcntl.LOCK_SH):
        assert not remove(settings, old)
    assert remove(settings, old)


@pytest.mark.parametrize("dry", [True, False])
def test_the_command_says_what_goes_and_a_dry_run_removes_nothing(
    dry: bool, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    path, kept = make_run(settings.home, "finished", 4), make_run(settings.home, "unfinished", 1)

    assert run(["clean", *(["--dry-run"] if dry else ["--older", "30d"])]) == 0

    said = capsys.readouterr().out.splitlines()
    verb = "would remove" if dry else "removed"
    assert [line.split(":")[0].split()[0] for line in said[:2]] == [verb.split()[0], "kept"]
    assert said[0].endswith(f"{path}: a finished run")
    assert said[1].endswith(f"{kept}: not finished: 3 images have no row")
    assert said[2].startswith(f"1 {'would be removed' if dry else 'removed'}, 0.")
    assert (path.exists(), kept.exists()) == (dry, True)


def test_an_age_is_hours_days_or_weeks(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert [seconds_of(text) for text in ("12h", "30d", "8w")] == [43_200, 2_592_000, 4_838_400]
    assert run(["clean", "--older", "soon"]) == 2
    assert "--older: 'soon' is no age: write 12h, 30d or 8w" in capsys.readouterr().err


def test_a_killed_process_leaves_a_folder_that_is_known_to_be_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp/sl-t" if len(str(tmp_path)) > 40 else str(tmp_path))
    folder = Path(os.environ["TMPDIR"])
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", None)
    code = (  # it sleeps until the test kills it
        "import tempfile, time\nfrom base.temporary import own_temporary_folder\n"
        "with own_temporary_folder():\n tempfile.mkdtemp(prefix='pymp-')\n print('there', flush=True)\n time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        (made,) = folder.glob("sortline-tmp-*")
        assert list(made.glob("pymp-*"))
        assert not list(folder.glob("pymp-*"))
        assert abandoned_folders() == []
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]

    assert abandoned_folders() == [made]
    from shutil import rmtree

    rmtree(made)


def test_a_process_that_ends_leaves_nothing_and_says_nothing() -> None:
    code = (
        "import tempfile, multiprocessing.util\nfrom base.temporary import own_temporary_folder\n"
        "with own_temporary_folder():\n print(multiprocessing.util.get_temp_dir())"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "sortline-tmp-" in done.stdout
    assert not Path(done.stdout.strip()).parent.exists()
    assert done.stderr == ""


def test_a_log_is_begun_anew_when_it_is_long_and_its_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("base.supervisor.LOG_BYTES", 1000)
    monkeypatch.setattr("base.supervisor.ROTATE_EVERY_S", 0.0)
    processes, log = Supervisor(tmp_path, print, persistent=True), tmp_path / "logs" / "x.log"
    # A pause between lines, so that a log that is put aside takes some and the next one others.
    code = "import time\nfor number in range(10**6): print('line', number, flush=True); time.sleep(0.001)"
    processes.start("x", [sys.executable, "-c", code], {}, log)
    try:
        wait_until(lambda: log.stat().st_size > 3000, 20, "lines")
        processes.check()
        assert log.with_name("x.log.1").read_text().startswith("line 0\n")
        assert log.with_name("x.log.1").stat().st_mode & 0o777 == 0o600
        wait_until(lambda: log.stat().st_size > 0, 20, "more lines")
        assert "\0" not in log.read_text()
    finally:
        processes.kill()


def test_the_doctor_knows_what_takes_the_disk(settings: Settings) -> None:
    write(settings.home / "logs" / "x.log", 100_000)
    write(settings.home / "store" / "pets" / "x.bin", 300_000)

    assert list(sizes(settings)) == ["store", "logs"]
    assert sizes(settings)["store"] >= 300_000


def test_pruning_spares_what_an_unfinished_run_needs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    from model_store.manifest import ClassEntry, ManifestDraft
    from model_store.store import ModelStore

    store = ModelStore(settings.store_root)
    for _ in range(5):
        store.publish(
            "pets",
            lambda _: ManifestDraft(
                kind="classifier",
                graph={"height_px": 8, "width_px": 8, "outputs": 2},
                preprocessing={},
                classes=[ClassEntry(label=name, folder=name) for name in ("cat", "dog")],
            ),
        )
    make_run(settings.home, "unfinished", 1)  # of pets:3

    assert run(["models", "prune", "pets", "--keep", "1", "--yes"]) == 0

    assert store.versions("pets") == [3, 5]
    assert "kept pets:3: run inbox-20260301-1a2b3c is not finished" in capsys.readouterr().out
