"""A web server of this machine that serves a folder and fails where a test says so."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[["Handler"], None]


class Web(ThreadingHTTPServer):
    """``faults`` are by address ("/a.png"); each fault is for one request, the last one for all that follow."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, wait_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.wait_s = wait_s  # before each answer, as a network has it
        self.faults: dict[str, list[Fault | None]] = {}
        self.asked: Counter[str] = Counter()
        self.under_way = self.most_under_way = self.connections = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault_of(self, path: str) -> Fault | None:
        with self.lock:
            self.asked[path] += 1
            faults = self.faults.get(path, [None])
            return faults.pop(0) if len(faults) > 1 else faults[0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what these tests are about."""


class Handler(SimpleHTTPRequestHandler):
    server: Web
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header and body are two writes, 40 ms apart without it

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        try:
            time.sleep(self.server.wait_s)  # the network that this stands for
            fault = self.server.fault_of(self.path)
            if fault is None:
                super().do_GET()
            else:
                fault(self)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def log_message(
        self,
        format: str,  # noqa: A002 - the name it has above
        *arguments: object,
    ) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)


def status(code: int, body: bytes = b"no", **headers: str) -> Fault:
    """An answer with this status."""
    return lambda handler: handler.answer(code, body, **headers)


def reset(handler: Handler) -> None:
    """The connection breaks without an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def promising(length: int, body: bytes) -> Fault:
    """The header promises ``length`` bytes, ``body`` comes, the connection ends."""

    def act(handler: Handler) -> None:
        handler.answer(200, body, Content_Length=str(length))
        handler.close_connection = True

    return act


def endless(handler: Handler) -> None:
    """An answer without a length that never ends."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    with suppress(OSError):
        while True:
            handler.wfile.write(b"x" * 65536)


def silent(handler: Handler) -> None:
    """An answer that never begins."""
    with suppress(OSError):
        handler.connection.recv(1)  # until the client gives up
    handler.close_connection = True


@contextmanager
def serving(folder: Path, wait_s: float = 0.0) -> Iterator[Web]:
    """A running server."""
    web = Web(folder, wait_s)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        thread.join()
        web.server_close()
