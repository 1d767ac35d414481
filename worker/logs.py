"""Log lines of a worker: one line an event, for people (``text``) or for a collector (``json``).

A line can't be forged: control characters of file names and messages are written as escapes, tracebacks are set off by
a margin. The broker's password never stands in one, whoever wrote it.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone

from base.text import printable
from configs import Settings
from jobs import passwords

FIELDS = "sortline_fields"  # attribute of a record
MARGIN = "    | "


def set_up_logging(settings: Settings) -> None:
    """Write one line an event to stderr, in the settings' format."""
    handler = logging.StreamHandler(sys.stderr)
    kind = JsonLines if settings.log_format == "json" else TextLines
    handler.setFormatter(kind(passwords(settings)))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # Celery repeats every message and result at level info, and kombu every reconnect attempt.
    for name in ("celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("amqp").setLevel(logging.WARNING)


def log_event(log: logging.Logger, event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log ``event`` with fields that a collector can search by; times end in ``_s`` or are called seconds."""
    log.log(level, event, extra={FIELDS: fields})


_at_hand: dict[str, object] = {}  # of this process, which does one job at a time: decoding threads write lines as well


@contextmanager
def at_hand(ids: Mapping[str, object]) -> Iterator[None]:
    """Let each line that is written inside the block, by whichever thread, name the job by ``ids``."""
    _at_hand.update(ids)
    try:
        yield
    finally:
        _at_hand.clear()


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    return {**_at_hand.copy(), **getattr(record, FIELDS, {})}


class _Lines(logging.Formatter):
    """What both formats share: safe text without passwords."""

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        super().__init__()
        # The longest first: one may be part of another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class TextLines(_Lines):
    """``2026-03-01 12:00:00.000 INFO sortline.worker chunk labelled run=inbox-1 chunk=0``."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        line = f"{at:%Y-%m-%d %H:%M:%S}.{int(record.msecs):03} {record.levelname} {record.name} {record.getMessage()}"
        for name, value in _fields_of(record).items():
            text = str(value)
            line += f" {name}={text!r}" if re.search(r"[\s'\"=]", text) else f" {name}={text}"
        lines = [printable(line)]
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            lines += [MARGIN + printable(part) for part in trace.splitlines()]
        return self.hide("\n".join(lines))


class JsonLines(_Lines):
    """One JSON object a line: at, level, logger, event, the event's fields, and traceback after an error."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, tz=timezone.utc)
        entry = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields_of(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        hidden = {name: self.hide(value) if isinstance(value, str) else value for name, value in entry.items()}
        return json.dumps(hidden, default=lambda value: self.hide(str(value)))  # ASCII only: every control is escaped
