"""The terminal: the closing bars and the live display, at 80 columns, in a pipe, without colour."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from base.text import printable
from jobs.label import ChunkResult
from jobs.state import JobState
from producer.reports.request import request_of
from producer.reports.tally import Tally
from producer.reports.truth import Evaluation
from producer.terminal.job_list import aligned, job_lines
from producer.terminal.progress import MOST_WORKERS, worker_rates, workers_table
from producer.terminal.report import accuracy, class_bars, report_line
from tests.unit.reported import ok, run_of

ROOT = Path(__file__).resolve().parents[2]


def tally_of(**labels: int) -> Tally:
    return Tally(images=sum(labels.values()), ok=sum(labels.values()), labels=Counter(labels))


def test_bars_are_as_long_as_their_counts() -> None:
    lines = class_bars(tally_of(glass=40, paper=20, tin=1), unicode=True)

    assert [line.count("█") for line in lines] == [32, 16, 1]
    assert [line.split()[-2:] for line in lines] == [["65.6", "%"], ["32.8", "%"], ["1.6", "%"]]


@pytest.mark.parametrize("name", ["a", "x" * 300, "日本語の長いラベル" * 5, "é" * 30])
def test_bars_stay_within_80_columns_and_in_line(name: str) -> None:
    lines = class_bars(Tally(images=1_234_567, ok=1_234_567, labels=Counter({name: 1_234_566, "b": 1})), unicode=True)

    assert {cell_len(line) for line in lines} == {cell_len(lines[0])}
    assert cell_len(lines[0]) <= 80


def test_many_labels_end_in_one_line() -> None:
    lines = class_bars(tally_of(**{f"c{number}": number + 1 for number in range(100)}), unicode=False)

    assert len(lines) == 13
    assert lines[-1] == "  and 88 more labels: 3,916 images"
    assert "█" not in "".join(lines)


def test_no_label_commands_the_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[31mred\r\n\u202egpj.exe"
    lines = class_bars(Tally(images=1, ok=1, labels=Counter({hostile: 1})), unicode=True)
    evaluation = Evaluation(pairs=Counter({(hostile, "b"): 1}), other_folders=Counter({hostile: 1}))

    for line in [*lines, *accuracy(evaluation), printable("\udce9")]:
        assert line.isprintable()
    assert printable("Glas ü 日本") == "Glas ü 日本"


def test_accuracy_is_told_with_its_interval_and_what_does_not_count() -> None:
    pairs = Counter({("glass", "glass"): 9, ("paper", "glass"): 1})
    lines = accuracy(Evaluation(pairs=pairs, in_five=10, unreadable=2, other_folders=Counter(misc=3)))

    assert lines == [
        "accuracy against the folders' names: 90.0 % (9 of 10; 95 % interval 59.6 to 98.2 %)",
        "most often confused: paper taken for glass (1)",
        "not counted, could not be labelled: 2",
        "not counted, in folders that are no label: 3 (misc 3)",
    ]
    assert "nothing to compare" in accuracy(Evaluation())[0]


def test_the_report_line_names_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert report_line(request_of(Path("r.csv"), "csv,html")) == (
        "report: r.csv, beside it r.html, r.errors.csv, r.summary.json"
    )


def test_the_table_of_workers_fits_80_columns_and_counts_the_rest() -> None:
    rates = [(f"label-{number}@{'host' * 20}", "openvino cpu bf16", 100.0 - number) for number in range(20)]
    shown = io.StringIO()
    Console(file=shown, width=80).print(workers_table(rates))
    lines = shown.getvalue().splitlines()

    assert max(map(cell_len, lines)) <= 80
    assert len(lines) == 1 + MOST_WORKERS + 1
    assert lines[-1].split() == ["and", "8", "more", "676"]


def test_the_rate_of_a_worker_is_what_came_from_it_lately(tmp_path: Path) -> None:
    hostile = "label-1@host\x1b[31m"
    with run_of(tmp_path, [f"{number}.jpg" for number in range(40)], [ok(0)] * 30, worker=hostile) as run:
        run.record(ChunkResult(run="inbox-1", first=30, rows=(ok(0),) * 10, worker="label-2@host", engine="a/cpu/f32"))
        found = worker_rates(run, 10.0)

    assert found == [("label-1@host\\x1b[31m", "openvino cpu bf16", 3.0), ("label-2@host", "a cpu f32", 1.0)]


LIVE = """
import sys, time
from collections import Counter
from pathlib import Path
from producer.runfile import Progress
from producer.terminal.progress import RunView
from producer.reports.request import request_of
from producer.reports.tally import Tally

class Run:
    def chunks(self, since):
        from producer.runfile.file import StoredChunk
        return [StoredChunk(100, f"label-1@host{n}", "openvino/cpu/bf16", {}, 0, 0.0) for n in (1, 2)]

with RunView(quiet=False) as view:
    view._looked -= 60
    for done in (0, 500, 1000):
        view.show(Progress(done, 3, 1000, "Redis is away, trying again" if done == 500 else ""), "", Run())
        time.sleep(0.05)  # for the screen to be drawn once more
    view.stop()
    view.say("1000 images: 997 labelled")
    counts = Tally(images=1000, ok=1000, labels=Counter(glass=700, paper=300))
    view.conclude(counts, request_of(Path("r.csv"), None))
"""


def in_a_terminal(columns: int, **environment: str) -> str:
    """What the program writes to a terminal of this width."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE],
        stderr=theirs,
        stdout=theirs,
        env={**clean, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
        cwd=ROOT,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode()


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_the_live_display_fits_80_columns_and_names_the_workers() -> None:
    shown = in_a_terminal(80)
    lines = [line.rstrip("\r") for line in re.split(r"[\r\n]+", ESCAPES.sub("", shown))]

    assert max(map(cell_len, lines)) <= 80
    assert any("labelling" in line and "1000/1000" in line for line in lines)
    assert any(line.startswith("label-1@host2") and "openvino cpu bf16" in line for line in lines)
    assert "Redis is away, trying again" in lines
    assert sum("█" in line for line in lines) == 2


def test_no_color_means_no_colour() -> None:
    coloured, plain = in_a_terminal(80), in_a_terminal(80, NO_COLOR="1")

    assert re.search(r"\x1b\[[0-9;]*3[0-9]", coloured)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-8]|4[0-8])[0-9;]*m", plain)


def test_in_a_pipe_there_are_plain_lines_and_no_escape() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIVE], capture_output=True, cwd=ROOT, check=True, env={**os.environ, "LANG": "C.UTF-8"}
    )

    text = done.stderr.decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert [line.split()[0] for line in text.splitlines() if "█" in line or "#" in line] == ["glass", "paper"]
    assert "report: r.csv" in text


NOW = 1_800_000_000.0
JOBS = [
    JobState(job="inbox-4d5e6f70-20260301-1a2b3c", kind="label", title="inbox, 2000 images", state="running",
             text="1000/2000 images, 210 img/s, eta 5 s", model="waste26:3", created=NOW - 100),
    JobState(job="a-long-name-of-a-folder-with-holiday-photo-4d5e6f70-20260301-1a2b3c", kind="label", model="digits:1",
             title="日本語の長いフォルダ名" * 9, state="done", text="7 rows, 0 failed", created=NOW - 86_400 * 3),
    JobState(job="train-digits-20260301-1a2b3c", kind="train", title="digits on \x1b[31m[red]", state="failed",
             text="only the class folder 'only' " * 9, created=NOW),
]  # fmt: skip


def test_jobs_are_a_table_where_it_fits() -> None:
    lines = job_lines(JOBS[:1], 200, NOW)

    assert [re.split(r" {2,}", line) for line in lines] == [
        ["job", "what", "state", "message", "model", "age"],
        [
            "inbox-4d5e6f70-20260301-1a2b3c",
            "inbox, 2000 images",
            "running",
            "1000/2000 images, 210 img/s, eta 5 s",
            "waste26:3",
            "1 min 40 s",
        ],
    ]
    assert lines[0].index("what") == lines[1].index("inbox, ")


@pytest.mark.parametrize("width", [80, 60])
def test_jobs_on_a_narrow_terminal_keep_their_names_whole_and_cut_only_what_is_told_of_them(width: int) -> None:
    lines = job_lines(JOBS, width, NOW)

    assert [line for line in lines if cell_len(line) > width and line not in {job.job for job in JOBS}] == []
    assert [job.job for job in JOBS] == [line.split()[0] for line in lines if not line.startswith(" ")]
    assert "  inbox, 2000 images; waste26:3" in lines
    assert sum(line.endswith("…") for line in lines) == 2
    assert "  done, 3 days old" in lines
    assert "\x1b" not in "".join(lines)


def test_columns_are_as_wide_as_their_widest_cell_and_no_line_is_broken() -> None:
    lines = aligned([("model", "kind", "aliases"), ("m" * 100 + ":1", "classifier", ""), ("日本:2", "", "production")])

    assert len(lines) == 3
    assert {line.index(word) for line, word in zip(lines, ("kind", "classifier"), strict=False)} == {104}
    assert cell_len(lines[2].removesuffix("production")) == lines[0].index("aliases")


def test_jobs_in_a_pipe_are_a_line_each_with_tabs() -> None:
    lines = job_lines(JOBS, None, NOW)

    assert [len(line.split("\t")) for line in lines] == [6] * 4
    assert lines[2].split("\t")[1] == JOBS[1].title  # nothing is cut for a program
