"""What `make wheel` builds: all that the command needs, out of the way of other people's packages."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

from producer.__main__ import run

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("base", "configs", "jobs", "model_store", "pages", "producer", "storage", "vision", "worker")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    return next(folder.glob("sortline-*.whl"))


def test_a_wheel_has_every_file_of_our_packages_below_one_folder(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with ZipFile(wheel) as file:
        names = set(file.namelist())
        about = file.read(next(name for name in names if name.endswith("METADATA"))).decode()

    assert {f"sortline/{name}" for name in listed.splitlines()} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sortline"}
    assert "sortline/docs/guide/troubleshooting.md" in names  # from which a command says what to do
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in about


def test_an_installed_command_and_its_processes_find_our_packages_before_others_of_the_same_names(
    wheel: Path, tmp_path: Path
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    with ZipFile(wheel) as file:
        file.extractall(site)
    for foreign in (site, elsewhere):
        for name in ("base", "configs", "worker"):
            (foreign / name).mkdir(parents=True)
            (foreign / name / "__init__.py").write_text("raise SystemExit('not ours')\n")
    command = (
        "import subprocess, sys, sortline\n"
        "sys.argv = ['sortline', 'doctor']\n"  # asks `python -m worker.devices` about the engines
        "sortline.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:1] = [{str(site)!r}]\n{command}"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": "", "SORTLINE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "engine openvino: 20" in done.stdout, done.stdout + done.stderr
    assert "not ours" not in done.stdout + done.stderr


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"sortline {version('sortline')}\n"
