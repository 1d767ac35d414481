"""Lines of a worker's log: one an event, never forged by a file name, never with the broker's password."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from configs.settings import Settings
from jobs.broker import passwords
from tests.canaries import MARK, as_id
from worker.logs import FIELDS, JsonLines, TextLines

PASSWORD = f"{MARK}/7@x"
QUOTED = f"{MARK}%2F7%40x"
HOSTILE = (
    "cat.jpg\n2026-03-01 12:00:00.000 INFO sortline.worker chunk labelled run=mine\r\u2028\x1b[2J\x00\u202egnp.exe"
)


def record(event: str, error: Exception | None = None, **fields: object) -> logging.LogRecord:
    trace = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("sortline.worker", logging.INFO, "", 1, "%s", (event,), trace)
    setattr(made, FIELDS, fields)
    return made


def raised(text: str) -> Exception:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_an_event_is_one_line_with_its_fields() -> None:
    line = TextLines().format(record("chunk labelled", run="inbox-1", chunk=128, seconds=0.25, detail="two words"))

    at, _, rest = line.partition(" INFO ")
    assert datetime.fromisoformat(at)
    assert rest == "sortline.worker chunk labelled run=inbox-1 chunk=128 seconds=0.25 detail='two words'"


def test_json_lines_have_fields_to_search_by() -> None:
    line = JsonLines().format(record("chunk labelled", run="inbox-1", chunk=128, model="waste:3", seconds=0.25))

    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("at")).utcoffset() is not None
    assert entry == {
        "level": "info", "logger": "sortline.worker", "event": "chunk labelled",
        "run": "inbox-1", "chunk": 128, "model": "waste:3", "seconds": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("lines", [TextLines(), JsonLines()], ids=["text", "json"])
def test_a_file_name_with_line_ends_makes_no_second_line(lines: logging.Formatter) -> None:
    text = lines.format(record(f"unreadable {HOSTILE}", path=HOSTILE))

    assert len(text.splitlines()) == 1
    assert not any(ord(character) < 32 or 0x2028 <= ord(character) <= 0x202E for character in text)
    assert "cat.jpg" in text


def test_the_lines_of_a_traceback_can_not_be_taken_for_events() -> None:
    text = TextLines().format(record("failed", raised(HOSTILE)))

    first, *others = text.splitlines()
    assert "INFO sortline.worker failed" in first
    assert len(others) > 2
    assert all(line.startswith("    | ") for line in others)
    assert len(JsonLines().format(record("failed", raised(HOSTILE))).splitlines()) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{QUOTED}@queue:6379/0",
        f"rediss://worker:{QUOTED}@queue:6380/0",
        f"redis://queue:6379/0?password={QUOTED}",
    ],
    ids=as_id,
)
@pytest.mark.parametrize("kind", [TextLines, JsonLines])
def test_the_brokers_password_is_hidden_however_it_is_spelled(
    url: str, kind: type[TextLines] | type[JsonLines], home: Path
) -> None:
    lines = kind(passwords(Settings(home=home, broker=url)))

    error = raised(f"refused: {PASSWORD}")
    text = lines.format(record(f"connected to {url}", error, detail=PASSWORD, url=url))

    assert MARK not in text
    assert "***" in text


def test_a_broker_without_a_password_hides_nothing(home: Path) -> None:
    for url in (None, "redis://queue:6379/0", "redis://:abc@queue:6379/0", "unix:///run/redis.sock"):
        assert passwords(Settings(home=home, broker=url)) == frozenset()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_process_writes_what_the_setting_says(log_format: str, home: Path) -> None:
    program = (
        "import logging; from configs.settings import load_settings; from worker.logs import *;"
        "set_up_logging(load_settings()); log_event(logging.getLogger('x'), 'ready', run='r-1')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"SORTLINE_HOME": str(home), "SORTLINE_LOG_FORMAT": log_format},
        capture_output=True,
        text=True,
        check=True,
    )

    (line,) = done.stderr.splitlines()
    assert line.endswith("ready run=r-1") if log_format == "text" else json.loads(line)["run"] == "r-1"


@pytest.mark.parametrize("lines", [TextLines(), JsonLines()], ids=["text", "json"])
def test_each_line_names_the_job_at_hand_whoever_writes_it(lines: logging.Formatter) -> None:
    import threading

    from worker.logs import at_hand

    written: list[str] = []
    with at_hand({"run": "inbox-1", "chunk": 128}):
        thread = threading.Thread(target=lambda: written.append(lines.format(record("image too large"))))
        thread.start()
        thread.join()
    after = lines.format(record("idle"))

    names = ("run=inbox-1", "chunk=128") if isinstance(lines, TextLines) else ('"run": "inbox-1"', '"chunk": 128')
    assert [name in written[0] for name in names] == [True, True]
    assert "inbox-1" not in after
