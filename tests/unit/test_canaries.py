"""The search for secrets finds them: in what a test says, in a home, in files, however they are written."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.canaries import BLOCK, MARK, leak, leaks_below, secret

ROOT = Path(__file__).resolve().parents[2]
TREACHEROUS = """
import logging, subprocess, sys
from tests.canaries import secret

def test_prints(): print("fine"); print(secret("x"))
def test_logs(): logging.getLogger("x").warning("%s", secret("x"))
SAYING = [sys.executable, "-c", "from tests.canaries import secret; print(secret('x'))"]
def test_a_process_says_it_into_a_pipe(): subprocess.run(SAYING, capture_output=True)
def test_a_process_says_it(): subprocess.run(SAYING)
def test_a_home_holds_it(home): (home / "a.log").write_text(secret("x"))
def test_a_file_holds_it(tmp_path): (tmp_path / "b.log").write_text("one\\ntwo " + secret("x"))
def test_is_silent(tmp_path): (tmp_path / "c.log").write_text("nothing")
"""


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that this session does not search."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("user", ["", "a", "me", "sortline"])
def test_a_secret_is_found_however_it_is_written(user: str) -> None:
    login = f"{user}:{MARK}/7@x"

    for text in (login, login.replace("/", "%2F"), b64encode(login.encode()).decode(), repr(login.encode())):
        assert leak("log", f"first\nsecond {text} third") == leak("log", f"first\nsecond {text} third".encode())
        assert str(leak("log", f"first\nsecond {text} third")).startswith("log:2: second ")
        assert MARK not in str(leak("log", text))
    assert leak("log", "first\nsecond") is None


def test_files_are_searched_to_their_end_across_holes_and_without_following_links(elsewhere: Path) -> None:
    with (elsewhere / "long.log").open("wb") as file:
        file.write(b"x\n" * (BLOCK // 2 - 3) + secret("x").encode())  # on the edge of two reads
    with (elsewhere / "sparse.bin").open("wb") as file:
        file.seek(1 << 40)
        file.write(secret("x").encode())
    (elsewhere / "link.log").symlink_to(elsewhere / "long.log")
    (elsewhere / secret("x")).touch()

    found = leaks_below(elsewhere)

    assert [line.partition(": ")[0].removeprefix(f"{elsewhere}/") for line in found] == [
        "*-of-x", f"long.log:{BLOCK // 2 - 2}", "sparse.bin:1",
    ]  # fmt: skip
    assert MARK not in "".join(found)


def test_a_file_for_secrets_may_hold_them_if_only_its_owner_can_read_it(elsewhere: Path) -> None:
    (elsewhere / "users.acl").write_text(secret("x"))
    (elsewhere / "users.acl").chmod(0o600)
    (elsewhere / "other.acl").write_text("none")
    assert leaks_below(elsewhere) == []

    (elsewhere / "users.acl").chmod(0o640)
    assert leaks_below(elsewhere) == [f"{elsewhere}/users.acl:1: *-of-x"]


@pytest.mark.slow
def test_a_session_that_shows_a_secret_fails_and_names_where(elsewhere: Path) -> None:
    (elsewhere / "test_treacherous.py").write_text(TREACHEROUS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", f"--rootdir={elsewhere}",
         f"--basetemp={elsewhere / 'files'}", str(elsewhere)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip

    assert done.returncode == 1
    assert re.findall(r"^FAILED .*::test_(\w+)", done.stdout, re.MULTILINE) == [
        "prints", "logs", "a_process_says_it_into_a_pipe", "a_process_says_it",
    ]  # fmt: skip
    for where in (
        "Captured stdout call:2: *", "Captured log call:1: ", "a process:1: *", "Captured stdout call:1: *",
        "/a.log:1: *", "/b.log:2: two *",
    ):  # fmt: skip
        assert where in done.stdout
    assert MARK not in done.stdout
