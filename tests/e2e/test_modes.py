"""What lies below a home is for its owner, or for its group at most, whatever the user's umask."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import SORTLINE, environment, free_port, sortline, wait_until, write_images
from tests.e2e.test_train import LEARNS, QUICK, write_shades

pytestmark = pytest.mark.slow

ALLOWED = {0o600, 0o640, 0o400, 0o440}  # the last two: files of published versions


@pytest.fixture
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes_below(home: Path) -> dict[str, str]:
    """Return the files that are for others, with their modes."""
    found = {}
    for path in home.rglob("*"):
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISREG(status.st_mode) and mode not in ALLOWED:
            found[str(path.relative_to(home))] = oct(mode)
        if stat.S_ISSOCK(status.st_mode) and mode & 0o077:
            found[str(path.relative_to(home))] = oct(mode)
    return found


@pytest.mark.usefixtures("_usual_umask")
def test_after_every_command_no_file_below_the_home_is_for_others(home: Path, tmp_path: Path) -> None:
    home.chmod(0o755)  # as an administrator makes one
    write_images(tmp_path / "photos", 30)
    shades = write_shades(tmp_path / "shades")
    env = {"FLOWER_PORT": str(free_port()), "SORTLINE_HOME": str(home)}

    with (tmp_path / "up.log").open("wb") as output:
        up = subprocess.Popen([SORTLINE, "up"], env=environment(home, env), stdout=output, stderr=output)
    try:
        wait_until(lambda: "up: Redis" in (tmp_path / "up.log").read_text(), 60, "the stack")
        sortline("train", str(shades), *QUICK, *LEARNS, "--name", "shades", home=home, env=env, limit_s=200)
        label = ["label", str(tmp_path / "photos"), "--model", "shades", "-o"]
        sortline(*label, str(tmp_path / "a.csv"), home=home, env=env)
        job = sortline(*label, str(tmp_path / "b.csv"), "--detach", home=home, env=env).stdout.split()[0]
        sortline("jobs", "gather", job, "-o", str(tmp_path / "c.csv"), home=home, env=env)
        while_up = modes_below(home)
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
    sortline(*label, str(tmp_path / "d.csv"), home=home, env=env)  # by a stack of its own
    sortline("models", "export", "shades", "--format", "safetensors", "-o", str(tmp_path), home=home, env=env)
    sortline("models", "import", str(tmp_path / "shades-1.safetensors"), "--name", "again", home=home, env=env)
    sortline("models", "promote", "shades:1", home=home, env=env)

    assert while_up == {}
    assert modes_below(home) == {}
    kept = {path.name.split(".")[0] for path in home.rglob("*")}
    assert {"flower-password", "flower", "runs", "run", "logs", "store"} <= kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in home.glob("flower*"))
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o644  # what a user asked for is as the user's umask says
    assert (tmp_path / "shades-1.safetensors").stat().st_mode & 0o777 == 0o644
