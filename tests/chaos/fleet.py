"""Label workers as processes, started again when they end, as a supervisor does."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import NOTHING, environment, wait_until

Settings = Mapping[str, str]


def cluster(url: str, store: Path, root: Path, **more: object) -> dict[str, str]:
    """The environment of a cluster with short times, so that a test need not wait long for what was lost."""
    values: dict[str, object] = {
        "broker": url,
        "store": store,
        "data_root": root,
        "chunk_images": 16,
        "visibility_timeout_s": 4,
        "stale_s": 8,
        **more,
    }
    return {f"SORTLINE_{name.upper()}": str(value) for name, value in values.items()}


class Fleet:
    """``count`` label workers. ``ended`` holds the exit code of each process that ended by itself or was killed."""

    def __init__(
        self,
        count: int,
        home: Path,
        env: Settings,
        more: Settings = NOTHING,
        *,
        again: bool = True,
        name: str = "label",
    ) -> None:
        self._home = home
        self._name = name
        self._env = environment(home, {**env, **more})
        self._again = again
        self._closed = threading.Event()
        self.ended: list[int] = []
        self.workers = [self._start(number) for number in range(count)]
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @property
    def log(self) -> str:
        """What all workers have written."""
        return "".join(self.log_of(number) for number in range(len(self.workers)))

    def log_of(self, number: int) -> str:
        return (self._home / f"{self._name}-{number}.log").read_text(encoding="utf-8", errors="replace")

    def code_of(self, number: int, limit_s: float) -> int:
        """The exit code of a worker that is not started again, once it has ended.

        Not by ``psutil``'s ``wait``: it says None when the watching thread was the one that took the code.
        """
        wait_until(lambda: self.workers[number].poll() is not None, limit_s, f"the end of worker {number}")
        return int(self.workers[number].poll())

    def close(self) -> None:
        self._closed.set()
        self._watcher.join()
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()

    def _start(self, number: int) -> psutil.Popen:
        with (self._home / f"{self._name}-{number}.log").open("ab") as log:
            return psutil.Popen(
                [sys.executable, "-m", "worker", "--queues", "label", "--name", f"{self._name}-{number}"],
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._home,
            )

    def _watch(self) -> None:
        while not self._closed.wait(0.1):
            for number, worker in enumerate(self.workers):
                if (code := worker.poll()) is not None and self._again:
                    self.ended.append(code)
                    self.workers[number] = self._start(number)


@contextmanager
def fleet(
    count: int, home: Path, env: Settings, more: Settings = NOTHING, *, again: bool = True, name: str = "label"
) -> Iterator[Fleet]:
    """Workers inside the block. Their logs are printed when it is left: pytest shows them when the test fails."""
    made = Fleet(count, home, env, more, again=again, name=name)
    try:
        yield made
    finally:
        made.close()
        for number in range(count):
            print(f"--- worker {number}\n{made.log_of(number)[-3000:]}")
