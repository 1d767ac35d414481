"""``--then`` and ``--webhook``: what they get, bounded tries, and no secret in what is said."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from producer.errors import UsageError
from producer.run import hook
from producer.run.hook import Hook
from tests.canaries import secret
from tests.conftest import free_port

HIDDEN = secret("hook")
FACTS = {"report": "/tmp/r.csv", "images": 3, "failed": 1, "labels": {"cat": 2}}


@pytest.fixture(autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "PAUSES_S", (0.01, 0.02))


class Receiver(HTTPServer):
    """A server that keeps what it gets, and answers what it is to answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", free_port()), _Handler)
        self.answers = [204]
        self.got: list[tuple[str, str, object]] = []

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}/hooks/{HIDDEN}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, self.headers.get("Authorization", ""), body))
        answers = self.server.answers
        self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
        self.send_header("Location", f"http://127.0.0.1:1/{HIDDEN}")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_command_gets_the_counts_in_its_environment_and_on_its_standard_input(tmp_path: Path) -> None:
    said: list[str] = []

    command = f"cat > {tmp_path}/in; echo $WATCH_REPORT $WATCH_IMAGES $WATCH_FAILED > {tmp_path}/env"
    Hook(command=command).call(FACTS, said.append)

    assert json.loads((tmp_path / "in").read_text()) == FACTS
    assert (tmp_path / "env").read_text() == "/tmp/r.csv 3 1\n"
    assert said == []


def test_a_command_that_fails_is_tried_again_a_few_times_and_is_never_shown(tmp_path: Path) -> None:
    said: list[str] = []

    Hook(command=f"echo x >> {tmp_path}/tries; exit 3 # {HIDDEN}").call(FACTS, said.append)

    assert (tmp_path / "tries").read_text() == "x\nx\nx\n"
    again = [f"--then: exit code 3; trying again in {pause} s" for pause in ("0.01", "0.02")]
    assert said == [*again, "--then: exit code 3; given up after 3 tries, until the next batch"]


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook, "COMMAND_LIMIT_S", 0.5)
    monkeypatch.setattr(hook, "PAUSES_S", ())
    said: list[str] = []
    os.mkfifo(tmp_path / "open")  # its reader meets the end when nobody who could write lives

    reader = os.open(tmp_path / "open", os.O_RDONLY | os.O_NONBLOCK)
    try:
        Hook(command=f"exec > {tmp_path}/open; echo started; sleep 100 & sleep 100").call(FACTS, said.append)

        assert os.read(reader, 100) == b"started\n"
        assert select.select([reader], [], [], 20)[0], "something of the command still runs"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert said == ["--then: not done after 0 s, ended; given up after 1 tries, until the next batch"]


def test_a_webhook_is_sent_the_counts_until_it_takes_them(receiver: Receiver) -> None:
    said: list[str] = []
    receiver.answers = [503, 302, 200]  # a redirect is not followed: who knows where to

    Hook(webhook=receiver.url("me:se%40cret@")).call(FACTS, said.append)

    assert [body for *_, body in receiver.got] == [FACTS] * 3
    assert receiver.got[-1][:2] == (f"/hooks/{HIDDEN}", "Basic bWU6c2VAY3JldA==")
    assert [line.partition(";")[0] for line in said] == [
        f"--webhook (127.0.0.1): the server answers {code}" for code in (503, 302)
    ]


def test_a_webhook_that_is_not_there_is_given_up_and_its_url_never_shown() -> None:
    said: list[str] = []

    Hook(webhook=f"http://me:{HIDDEN}@127.0.0.1:1/{HIDDEN}?token={HIDDEN}").call(FACTS, said.append)

    assert len(said) == 3
    assert (
        said[-1]
        == "--webhook (127.0.0.1): no answer (Connection refused); given up after 3 tries, until the next batch"
    )
    assert HIDDEN not in "".join(said)


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", "http://[::1", "http://host:x/", "file:///etc"])
def test_a_webhook_is_an_http_url(url: str) -> None:
    with pytest.raises(UsageError, match="http"):
        Hook(webhook=url)
