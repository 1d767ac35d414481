"""A session whose tests, or what comes after them, never end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.standstill import CODE

CONFTEST = """
from tests.standstill import Standstill, show_stacks_when_asked

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        show_stacks_when_asked(config)
    else:
        config.pluginmanager.register(Standstill(15), "standstill")
"""
TESTS = """
import time

def test_fails():
    assert "this" == "that"

def test_never_ends():
    never_comes_back()

def never_comes_back():
    time.sleep(1000)  # stands for whatever does not end; the session that it is in is ended after 15 s
"""


@pytest.mark.long
def test_a_session_that_stands_still_ends_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n1", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]

    done = subprocess.run(
        [*command, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == CODE, done.stdout + done.stderr
    assert "assert 'this' == 'that'" in done.stderr
    assert "for 15 s. The last reports:\n  gw0: test_it.py::test_never_ends, setup\n" in done.stderr
    assert "in never_comes_back\n" in done.stderr
