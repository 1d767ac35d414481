"""Whoever waits for a batch: a command that is run, or a URL that is sent its counts.

Neither the command nor the URL is ever shown: both may hold a secret.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from producer.errors import UsageError

PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between five tries
COMMAND_LIMIT_S = 600.0
WEBHOOK_LIMIT_S = 10.0
PREFIX = "WATCH_"  # not SORTLINE_, where each variable is a setting: the command may be one of ours


@dataclass(frozen=True, slots=True)
class Hook:
    """What is called after each batch; either may be missing."""

    command: str | None = None
    webhook: str | None = None

    def __post_init__(self) -> None:
        if self.webhook is not None:
            try:
                parts = urlsplit(self.webhook)
                is_fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:
                is_fit = False
            if not is_fit:
                raise UsageError("--webhook: an http:// or https:// URL")

    def call(self, facts: Mapping[str, object], say: Callable[[str], None]) -> None:
        """Give ``facts`` to both, each five times at most; say what fails."""
        if self.command is not None:
            _try(lambda: _run(self.command or "", facts), "--then", say)
        if self.webhook is not None:
            _try(lambda: _post(self.webhook or "", facts), f"--webhook ({urlsplit(self.webhook).hostname})", say)


def _try(call: Callable[[], str], name: str, say: Callable[[str], None]) -> None:
    """Call until ``call`` returns no fault, with growing pauses."""
    for pause_s in PAUSES_S:
        if not (fault := call()):
            return
        say(f"{name}: {fault}; trying again in {pause_s:g} s")
        time.sleep(pause_s)
    if fault := call():
        say(f"{name}: {fault}; given up after {len(PAUSES_S) + 1} tries, until the next batch")


def _run(command: str, facts: Mapping[str, object]) -> str:
    """Run a shell command with the facts as JSON on its standard input, and in its environment; return what failed."""
    variables = {PREFIX + name.upper(): str(value) for name, value in facts.items() if not isinstance(value, dict)}
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        env={**os.environ, **variables},
        start_new_session=True,  # so that all of it can be ended
    ) as process:
        try:
            process.communicate(json.dumps(facts).encode(), timeout=COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"not done after {COMMAND_LIMIT_S:.0f} s, ended"
        except BaseException:  # Ctrl-C, which a session of its own does not get
            os.killpg(process.pid, signal.SIGTERM)
            raise
        return f"exit code {process.returncode}" if process.returncode else ""


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is an answer like any other that is not 2xx: what is sent must not go to strangers."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(url: str, facts: Mapping[str, object]) -> str:
    """Send the facts as JSON; return what failed, in words that name nothing of the URL."""
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "sortline"}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    request = Request(plain, json.dumps(facts).encode(), headers, method="POST")  # noqa: S310 - http or https, see Hook
    try:
        with build_opener(_NoRedirect).open(request, timeout=WEBHOOK_LIMIT_S):
            return ""
    except HTTPError as error:
        with error:
            return f"the server answers {error.code}"
    except (URLError, OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        return f"no answer ({getattr(cause, 'strerror', None) or type(cause).__name__})"
