"""Plots drawn by another process: the same bytes as here, whatever becomes of it, and nothing of it is left."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import wait_until
from worker.train import drawing
from worker.train.drawing import PLOTS, Drawing
from worker.train.plots import draw

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def plotted() -> dict[str, Any]:
    """Two epochs, of which one diverged, and two classes; a label is no valid Unicode, most bins are empty."""
    epoch = {"epoch": 1.0, "train_loss": 1.25, "val_loss": float("inf"), "val_top1": 1 / 3, "val_top5": 1.0, "lr": 1e-5}
    bins = {"confidence": [float("nan"), 0.7], "accuracy": [float("nan"), 0.75], "images": [0, 4]}
    return {
        "history": [epoch, epoch | {"epoch": 2.0, "val_loss": 0.1}],
        "kept": 2,
        "classes": [{"folder": "00", "label": "塑料瓶"}, {"folder": "\udcff", "label": "\udcff"}],
        "matrix": [[3, 0], [1, 0]],
        "before": bins,
        "after": bins,
        "temperature": 1.5,
    }


@pytest.fixture(scope="module")
def expected(plotted: dict[str, Any]) -> dict[str, bytes]:
    return draw(plotted)


def test_another_process_draws_the_same_bytes(
    tmp_path: Path, plotted: dict[str, Any], expected: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with Drawing(plotted, tmp_path) as elsewhere:
        assert elsewhere.plots() == expected

    assert sorted(expected) == sorted(PLOTS)
    assert caplog.messages == []  # else they were drawn here


def test_plots_of_a_process_that_was_killed_are_drawn_here_and_the_log_says_so(
    tmp_path: Path, plotted: dict[str, Any], expected: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Drawing(plotted, tmp_path) as killed:
        killed._child.kill()

        assert killed.plots() == expected

    assert caplog.messages == ["the process that draws the report's plots ended with SIGKILL; drawing them in this one"]


def test_plots_of_a_process_that_hangs_are_drawn_here(
    tmp_path: Path,
    plotted: dict[str, Any],
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(drawing, "LIMIT_S", 0.1)
    with hanging(plotted, tmp_path) as stuck:
        assert stuck.plots() == expected

    assert "took longer than 0.1 s" in caplog.text
    assert not psutil.pid_exists(stuck._child.pid)


def test_what_can_not_be_drawn_is_an_error_with_the_reason(tmp_path: Path, plotted: dict[str, Any]) -> None:
    with Drawing({**plotted, "matrix": "none"}, tmp_path) as failing, pytest.raises(ValueError, match="none"):
        failing.plots()


def test_a_publication_that_fails_leaves_no_process_behind(tmp_path: Path, plotted: dict[str, Any]) -> None:
    started = hanging(plotted, tmp_path)
    with pytest.raises(OSError, match="full"), started:
        raise OSError("full")

    assert not psutil.pid_exists(started._child.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_process_that_draws_dies_with_its_parent(tmp_path: Path, plotted: dict[str, Any]) -> None:
    program = (  # it sleeps until the test kills it
        "import json, pathlib, sys, time; from worker.train.drawing import Drawing\n"
        "started = Drawing(json.load(sys.stdin), pathlib.Path(sys.argv[1]))\n"
        "print(started._child.pid, flush=True); time.sleep(600)"
    )
    os.mkfifo(tmp_path / "loss.png")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(json.dumps(plotted).encode())
        parent.stdin.close()
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    try:
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 60, "the child's end")
    finally:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def hanging(plotted: dict[str, Any], folder: Path) -> Drawing:
    """A process that never ends by itself: it waits for a reader of the first file."""
    os.mkfifo(folder / "loss.png")
    return Drawing(plotted, folder)
