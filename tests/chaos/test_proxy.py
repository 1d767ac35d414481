"""A network that delays, cuts and swallows what Redis and the others say: the run ends with every row."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.fleet import cluster, fleet
from tests.conftest import RedisServer, mostly_long, wait_until, write_images
from tests.e2e.test_label import producer, rows_done, rows_of

pytestmark = pytest.mark.slow


class Proxy:
    """Forwards TCP connections to ``port``, as well as ``mode`` lets it: pass, delay, swallow, refuse."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._dead: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.mode = "pass"
        self.port = int(self._server.getsockname()[1])
        self._start(self._accept)

    def cut(self) -> None:
        """Close every connection."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def forget(self) -> None:
        """Let every connection be half-open from now on: each end takes it for alive, and nothing comes through."""
        self._dead.update(self._open)

    def close(self) -> None:
        self.mode = "refuse"
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                if self.mode == "refuse":
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for one, other in ((near, far), (far, near)):
                    self._start(self._pump, one, other)

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                while self.mode == "swallow":
                    time.sleep(0.05)  # a black hole: nothing comes through, nothing is refused
                if one in self._dead:
                    continue
                if self.mode == "delay":
                    time.sleep(0.05)  # the delay of a far network
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)  # its own pump then ends, and closes it
        one.close()


@contextmanager
def proxied(server: RedisServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.mark.parametrize("fault", mostly_long(["delay", "swallow", "refuse", "cut", "half-open"], "cut"))
def test_a_bad_network_costs_time_and_no_row(
    home: Path, tmp_path: Path, model_store: Path, redis_server: RedisServer, fault: str
) -> None:
    write_images(tmp_path / "photos", 320)
    with proxied(redis_server) as proxy:
        url = redis_server.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        env = cluster(url, model_store, tmp_path)
        with (
            fleet(2, home, env, {"TEST_FAULT": "before publish=nap"}),
            producer("label", str(tmp_path / "photos"), "-o", str(home / "report.csv"), home=home, env=env) as running,
        ):
            wait_until(lambda: rows_done(home) >= 48, 60, "some rows")
            if fault == "cut":
                for _ in range(3):
                    proxy.cut()
                    time.sleep(0.5)  # between two cuts
            elif fault == "half-open":
                proxy.forget()  # until each end's timeout, of one connection after the other: about 50 s
            else:
                proxy.mode = fault
                if fault == "refuse":
                    proxy.cut()
                time.sleep(5)  # longer than a lease
                proxy.mode = "pass"
            assert running.wait(120) == 0

    rows = rows_of(home / "report.csv")
    assert len(rows) == 320
    assert {row["status"] for row in rows} == {"ok"}
