"""The command line: exit codes, one message on stderr instead of a traceback, help that shows how, a quick start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import typer.main

import sortline
from configs import Settings, read_recipe
from model_store import ManifestDraft, ModelStore, ModelVersion
from producer.__main__ import app, run
from producer.errors import FAILURE, INTERRUPTED, OK, UNREACHABLE, USAGE
from producer.training.jobs import Training, loose_images
from tests.canaries import as_id, secret

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = secret("command")
MORE = "more: "
NOBODY = "redis://127.0.0.1:1/0"  # port 1 is tcpmux's: nobody listens, so the refusal comes at once


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each command in an empty folder, without the settings of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("SORTLINE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SORTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def plain(text: str) -> str:
    """Return what a person reads: without the frames and the line breaks that a narrow window needs."""
    return " ".join(text.replace("│", " ").split())


def commands(group: object = None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in (group or typer.main.get_command(app)).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name)


COMMANDS = sorted(commands())


def test_all_commands_are_found() -> None:
    assert {("label",), ("train",), ("worker",), ("up",), ("doctor",)} < set(COMMANDS)
    assert {("jobs", "gather"), ("models", "import")} < set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_each_command_shows_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == OK

    shown = capsys.readouterr()
    text = plain(shown.out)
    assert f"Usage: sortline {' '.join(command)} [OPTIONS]" in text
    _, _, example = text.partition("Example")
    assert f"sortline {' '.join(command)}" in example
    assert shown.err == ""


@pytest.mark.parametrize("group", [[], ["jobs"], ["models"]], ids=["sortline", "jobs", "models"])
def test_help_of_a_group_lists_its_commands(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*group, "--help"]) == OK

    text = capsys.readouterr().out
    assert all(f" {command[len(group)]} " in text for command in COMMANDS if list(command[: len(group)]) == group)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "No such option: --nope"),
        (["label", "photos", "--nope"], "No such option: --nope"),
        (["label", "photos", "--brokr", "x"], "--broker"),  # what was probably meant
        (["jobs", "list", "--nope"], "No such option: --nope"),
        (["lable"], "No such command 'lable'"),
        (["label"], "Missing argument 'SOURCE'"),
        (["train"], "say what to train on: DATASET, or --from MODEL"),
        (["train", "photos", "--config", "digits", "--nope"], "No such option: --nope"),
        (["train", "photos", "--config", "digits", "--epochs", "5"], "a key of the recipe: --set epochs=5"),
        (["train", "photos", "--lr-max=0.1", "--config", "digits"], "a key of the recipe: --set lr_max=0.1"),
        (
            ["train", "photos", "--config", "digits", "--flip-averaging"],
            "a key of the recipe: --set flip_averaging=...",
        ),
        (["train", "photos", "--augmentation.repeat", "4"], "a key of the recipe: --set augmentation.repeat=4"),
        (["train", "photos", "--features-at"], "Option '--features-at' requires an argument"),
        (["models", "delete", "pets"], "say which version, as in pets:1"),
        (["worker"], "Missing option '--queues'"),
        (["label", "photos", "--top-k", "0"], "Invalid value for '--top-k'"),
        (["label", "photos", "--top-k", "many"], "Invalid value for '--top-k'"),
        (["label", "photos", "--on-existing", "ask"], "Invalid value for '--on-existing'"),
        (["worker", "--queues", "both"], "Invalid value for '--queues'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_a_usage_error_in_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == USAGE

    shown = capsys.readouterr()
    assert message in plain(shown.err)
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["label", "nowhere"],
            "no such folder or file: nowhere. SOURCE is a folder, an image, a .txt list of paths, or -",
        ),
        (["train", "nowhere", "--config", "digits"], "no such folder: nowhere. DATASET holds one folder a class"),
        (
            ["train", "photos", "--config", "weekday"],
            "no configuration file weekday; pass a TOML file, or one of these:",
        ),
        (["train", "photos", "--config", "digits", "--set", "epochs"], "--set takes KEY=VALUE, not 'epochs'"),
        (
            ["train", "photos", "--config", "digits", "--set", "epocs=3"],
            "unknown setting training.epocs; did you mean training.epochs?",
        ),
        (["train", "photos", "--config", "digits", "--name", "Big Name"], "--name 'Big Name': a model's name is"),
        (
            ["label", "photos", "--broker", "amqp://host"],
            "setting broker: not a URL that Sortline can connect by",
        ),
        (["label", "photos", "--shadow", "k", "--detach"], "--shadow: not with --detach"),
        (["label", "photos", "--shadow", "k", "--pages", "all"], "--shadow: not with --pages all"),
        (["label", "photos", "--shadow", "k", "--shadow-share", "1.5"], "--shadow-share 1.5: a part of the images is"),
        (["label", "photos", "--shadow", "k", "--shadow-share", "nan"], "--shadow-share nan: a part of the images is"),
        (["drift", "-o", "drift.pdf"], "-o drift.pdf: the page is a file, such as drift.html"),
        (["jobs", "list"], "no broker: pass --broker, set SORTLINE_BROKER, or keep a local stack running"),
        (["worker", "--queues", "label"], "a worker needs a broker: --broker or SORTLINE_BROKER"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_can_not_be_done_is_a_usage_error_that_says_what_to_do(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == USAGE

    shown = capsys.readouterr()
    assert shown.err.startswith(f"sortline: {message}")
    assert [line for line in shown.err.splitlines()[1:] if not line.startswith(MORE)] == []
    assert shown.out == ""


def test_a_backbone_that_is_not_there_is_to_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "photos", "--config", "digits", "--set", "backbone=nobody"]) == USAGE
    assert "sortline models import FILE --name nobody" in capsys.readouterr().err


def test_a_model_is_named_after_its_recipe_unless_somebody_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr("producer.training.training.train", lambda settings, training: names.append(training.name))

    for more in ([], ["--config", "digits"], ["--config", "digits", "--name", "mine"]):
        assert run(["train", "photos", *more]) == OK

    assert names == ["photos", "digits", "mine"]


@pytest.mark.parametrize(
    ("backbone", "nodes", "expected"),
    [
        ("birds", ["/Gemm"], [("birds", "/Gemm")]),
        ("birds", ["birds=/Gemm"], [("birds", "/Gemm")]),
        ("birds", ["a=b"], [("birds", "a=b")]),
        ('{ name = "birds:3", features_at = "x", pooling = "max" }', ["/Gemm"], [("birds:3", "/Gemm")]),
        ('["a", "b:2", "c"]', ["c=/Gemm", "b:2=add=1"], [("a", ""), ("b:2", "add=1"), ("c", "/Gemm")]),
    ],
    ids=as_id,
)
def test_features_at_fills_the_key_of_the_backbone(
    backbone: str, nodes: list[str], expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Settings, Training]] = []
    monkeypatch.setattr("producer.training.training.train", lambda *given: seen.append(given))
    options = [word for node in nodes for word in ("--features-at", node)]

    assert run(["train", "photos", "--set", f"backbone={backbone}", *options]) == OK

    recipe, typed = seen[0][0].training, seen[0][1].typed
    assert [(one.name, one.features_at) for one in recipe.backbones] == expected
    assert isinstance(recipe.backbone, tuple) == (len(expected) > 1)
    assert recipe.backbones[0].pooling == ("max" if "max" in backbone else "mean")
    assert read_recipe(recipe.model_dump(mode="json")) == recipe  # as it travels
    assert typed[-len(options) :] == options  # a search repeats them


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (['backbone=["a", "b"]', "--features-at", "/Gemm"], "not '/Gemm'; backbones of the recipe: a, b"),
        (['backbone=["a", "b"]', "--features-at", "c=/Gemm"], "or NAME=NODE, not 'c=/Gemm'"),
        (['backbone=["a", "a"]', "--features-at", "a=/Gemm"], "backbones of the recipe: a, a"),
        (["backbone=a", "--features-at", ""], "takes the NODE of the recipe's only backbone"),
        (["backbone=a", "--features-at", "a="], "takes the NODE of the recipe's only backbone"),
        (["seed=1", "--config", "digits", "--features-at", "x"], "none; name one with --set backbone=NAME"),
        (["seed=1", "--features-at", "x", "--sweep", "backbone=a,b"], "can't be had with --sweep backbone=..."),
    ],
    ids=as_id,
)
def test_features_at_of_no_backbone_is_refused(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "photos", "--set", *more]) == USAGE
    assert message in capsys.readouterr().err


def test_an_unknown_variable_of_ours_stops_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SORTLINE_DEVISE", "cuda")

    assert run(["models", "list"]) == USAGE
    assert capsys.readouterr().err == (
        "sortline: unknown setting devise; did you mean device?\n"
        f"{MORE}A typo in a TOML file or a `SORTLINE_` variable: correct it.\n"
    )


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{HIDDEN}@host",
        f"redis://:{HIDDEN}@host:6379/0",
        f"rediss://user:{HIDDEN}@host",
        f"redis://host/0?password={HIDDEN}",
        f"amqp://user:{HIDDEN}@host",
    ],
    ids=as_id,
)
@pytest.mark.parametrize(
    "command",
    [
        ["label", "photos"],
        ["train", "photos", "--config", "digits"],
        ["worker", "--queues", "label"],
        ["doctor"],
        ["jobs", "list"],
        ["jobs", "gather", "inbox-1"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    command: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--broker", url]) == USAGE

    shown = capsys.readouterr()
    assert "a password on the command line can be read by everybody here; put the URL into SORTLINE_BROKER" in shown.err
    assert HIDDEN not in shown.err + shown.out


def test_a_broker_that_does_not_answer_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["jobs", "list", "--broker", NOBODY]) == UNREACHABLE

    shown = capsys.readouterr()
    assert shown.err.startswith(f"sortline: can't reach Redis at {NOBODY}: ")
    assert "Connection refused" in shown.err
    assert [line for line in shown.err.splitlines()[1:] if not line.startswith(MORE)] == []


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        (f"redis://user:{HIDDEN}@127.0.0.1:1/0", UNREACHABLE, "can't reach Redis at redis://user:***@127.0.0.1:1/0"),
        (f"redis://user:x@{HIDDEN}@127.0.0.1:1/0", UNREACHABLE, "can't reach Redis at redis://user:***@127.0.0.1:1/0"),
        (
            f"redis://127.0.0.1:1/0?password={HIDDEN}",
            UNREACHABLE,
            "can't reach Redis at redis://127.0.0.1:1/0?password=***",
        ),
        (
            f"redis://user:{HIDDEN}/x@127.0.0.1:1/0",
            USAGE,
            "setting broker: not a URL that Sortline can connect by: it has no single host and port; a password's",
        ),
        (f"rediss://user:{HIDDEN}@127.0.0.1:1/0", UNREACHABLE, "a rediss:// broker needs SORTLINE_BROKER_CA"),
    ],
    ids=as_id,
)
def test_a_password_of_the_environment_is_never_shown(
    url: str, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SORTLINE_BROKER", url)

    assert run(["jobs", "list"]) == code

    shown = capsys.readouterr()
    assert shown.err.startswith(f"sortline: {message}")
    assert HIDDEN not in shown.err + shown.out


def test_the_doctor_ends_with_the_brokers_code_and_looks_at_everything_else(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--broker", NOBODY]) == UNREACHABLE

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"bad  broker: can't reach Redis at {NOBODY}: ")
    assert any(line.startswith("ok   engine openvino: ") for line in lines)
    assert lines[-1].startswith(f"warn model store {home / 'store'} does not exist yet: sortline train")


def test_without_a_model_store_a_person_is_told_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["label", "photos"]) == FAILURE

    store = home / "store"
    assert capsys.readouterr().err == (
        f"sortline: the model store {store} does not exist; mount it, or train a model first\n"
        f"{MORE}There is no model store yet, or its share is not mounted. `sortline train` makes one. "
        "`--store` and `--home` say where it is.\n"
    )
    assert not home.exists()  # nothing was started for it


def test_a_report_that_could_not_be_written_is_refused_before_anything_else(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    assert run(["label", ".", "-o", str(tmp_path / "file" / "r.csv")]) == USAGE
    assert run(["label", ".", "--sort-into", "/proc/none"]) == USAGE

    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sortline: ")]
    assert f"{tmp_path}/file/r.csv can't be written: Not a directory" in first
    assert "/proc/none" in second
    assert not home.exists()  # nothing was started for it


def test_without_a_model_a_person_is_told_how_to_get_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "store").mkdir(parents=True)
    assert run(["label", "photos"]) == FAILURE

    shown = capsys.readouterr()
    assert shown.err == (
        f"sortline: say which model labels: pass --model NAME (in production in {home / 'store'}: none); "
        "`sortline models list` shows all, `sortline train` makes one\n"
        f"{MORE}No classifier is in production, or several are: pass `--model`, or `sortline models promote` one.\n"
    )
    assert [path.name for path in home.iterdir()] == ["store"]  # nothing was started for it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "photos", "--model", "pets"], "no model 'pets' in"),
        (["models", "show", "pets:3"], "no model 'pets' in"),
        (["models", "promote", "pets:3"], "no model 'pets' in"),
        (["models", "rollback", "pets"], "no model 'pets' in"),
        (["models", "show", "../../etc"], "'../../etc' is no model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_model_that_is_not_there_is_a_failure_in_words(
    arguments: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "store").mkdir(parents=True)
    assert run(arguments) == FAILURE

    shown = capsys.readouterr()
    assert shown.err.startswith(f"sortline: {message}")
    assert [line for line in shown.err.splitlines()[1:] if not line.startswith(MORE)] == []


def test_an_empty_store_is_no_failure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "store").mkdir(parents=True)
    assert run(["models", "list"]) == OK

    assert capsys.readouterr().out == f"no models in {home / 'store'} yet: sortline train DATASET --config NAME\n"


def test_of_several_models_in_production_the_message_names_the_newest(
    model_store: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_store, home / "store")
    store = ModelStore(home / "store")
    store.publish("pets", partial(copy_of, store.resolve("colours:1")))
    store.set_alias("pets", "production", 1, who="ada", why="new")

    assert run(["label", "photos"]) == FAILURE

    newest = max((store.resolve(name) for name in ("colours", "pets")), key=lambda found: found.manifest.created)
    assert f": colours:1, pets:1; the newest is {newest.manifest.reference})" in capsys.readouterr().err


def test_images_in_no_class_folder_are_named_before_a_training_is_queued(tmp_path: Path) -> None:
    (tmp_path / "inbox" / "2023").mkdir(parents=True)
    (tmp_path / "inbox" / ".cache").mkdir()
    assert loose_images(tmp_path / "inbox") is None
    assert loose_images(tmp_path / "nowhere") is None
    for name in ("a.jpg", "b.HEIC", "notes.txt"):
        (tmp_path / "inbox" / name).touch()

    assert loose_images(tmp_path / "inbox") == (
        f"warning: 2 images lie in {tmp_path}/inbox itself, in the folder of no class, and are left out; "
        "its folders (2023) are taken for classes"
    )


def test_a_version_is_shown_to_people_and_to_programs_and_old_ones_are_pruned(
    model_store: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_store, home / "store")
    store = ModelStore(home / "store")
    for why in ("better", "best"):
        store.publish("colours", partial(copy_of, store.resolve("colours:1")))
        store.set_alias("colours", "production", store.versions("colours")[-1], who="ada", why=why)

    assert run(["models", "show", "colours:3"]) == OK
    shown = capsys.readouterr().out
    assert "model     colours:3 (production)\nkind      classifier on lenet5\n" in shown
    assert "classes   4: " in shown
    assert f"files     {home}/store/colours/versions/0003, " in shown
    assert "production: 2 -> 3 by ada, best" in shown
    assert run(["models", "show", "colours:3", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["version"] == 3

    assert run(["models", "rollback", "colours"]) == OK
    assert capsys.readouterr().out == (
        "colours@production is 2 again; to take this back: sortline models promote colours:3\n"
    )
    assert run(["models", "delete", "colours:2"]) == FAILURE
    assert "colours:2 is colours@production" in capsys.readouterr().err
    assert run(["models", "prune", "colours", "--keep", "0"]) == OK
    assert "would delete colours:1\nwould delete colours:3\nto delete them: " in capsys.readouterr().out
    assert store.versions("colours") == [1, 2, 3]
    assert run(["models", "prune", "colours", "--keep", "1", "--yes"]) == OK
    assert run(["models", "prune", "colours", "--keep", "1", "--yes"]) == OK
    assert capsys.readouterr().out.startswith("deleted colours:1\nnothing to delete: ")
    assert run(["models", "delete", "colours:3"]) == OK
    assert store.versions("colours") == [2]


def copy_of(version: ModelVersion, folder: Path) -> ManifestDraft:
    for name in version.manifest.files:
        shutil.copyfile(version.folder / name, folder / name)
    return ManifestDraft(**{name: getattr(version.manifest, name) for name in ManifestDraft.model_fields})


def test_an_interrupt_has_the_code_that_shells_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("producer.commands.models._store", interrupted)

    assert run(["models", "list"]) == INTERRUPTED


def test_a_fault_of_ours_is_not_dressed_up_as_a_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("producer.commands.models._store", broken)

    with pytest.raises(ZeroDivisionError, match="ours"):
        run(["models", "list"])


def test_help_imports_neither_pydantic_nor_celery_nor_redis() -> None:
    program = (
        "import sys\nfrom producer.__main__ import run\ncode = run(['--help'])\n"
        "slow = {'pydantic', 'celery', 'kombu', 'redis', 'sqlite3', 'numpy'}\n"
        "print(code, *sorted(slow & {name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )

    assert "Label folders of images" in done.stdout
    assert done.stderr == "0\n"


def test_help_loads_no_markdown_and_whoever_needs_it_later_gets_it() -> None:
    program = (
        "import contextlib, sys; from producer import __main__ as command; sys.argv[1:] = ['--help']\n"
        "with contextlib.suppress(SystemExit): command.main()\n"
        "assert 'typer.rich_utils' in sys.modules and not {'markdown_it', 'pygments'} & sys.modules.keys()\n"
        "from rich.markdown import Markdown; shown = Markdown('# A title'); from rich.markdown import Heading\n"
        "assert type(shown).__module__ == 'rich.markdown' and shown.parsed[0].tag == 'h1'"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_import_whose_process_is_ended_by_a_signal_is_a_sentence(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    (tmp_path / "a.ckpt").touch()

    assert run(["models", "import", str(tmp_path / "a.ckpt"), "--name", "x", "--home", str(home)]) == 1

    assert "ended with SIGSEGV; nothing was published or written" in capsys.readouterr().err


def test_options_of_graphs_are_refused_where_weights_are_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import", "a.ckpt", "--calibrate", "photos", "--check", "a.csv"]) == 2
    assert (
        "a.ckpt holds weights; --check, --calibrate is for classifiers that come as graphs" in capsys.readouterr().err
    )


def test_ctrl_c_before_a_command_has_begun_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("producer.main", interrupted, raising=False)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))

    with pytest.raises(SystemExit) as ended:
        sortline.main()

    assert ended.value.code == INTERRUPTED


@pytest.mark.slow
def test_ctrl_c_after_a_command_is_done_changes_nothing() -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['sortline', '--version']\n"
        "import sortline\n"
        "sortline.main()\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout.startswith("sortline ")


@pytest.mark.slow
def test_ctrl_c_that_meets_a_callback_of_python_is_not_lost() -> None:
    code = (
        "import os, signal, sys, time, weakref\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import producer.__main__, sortline\n"
        "class Thing: pass\n"
        "def work(_):\n"
        "    thing = Thing()\n"
        "    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))\n"
        "    del thing\n"
        "    for _ in range(3000): time.sleep(0.01)  # until it is interrupted\n"
        "    return 0\n"
        "producer.__main__.run = work\n"
        "sortline.main()\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (INTERRUPTED, "")
