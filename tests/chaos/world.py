"""``python -m tests.chaos.world``: a model of the system whose actors take random steps; then the promise is checked.

Two hosts (homes on small disks), workers with mounts and stores of their own, and a Redis. Two runs are labelled, one
of them detached, while seeded steps kill, stop, unmount, swap, fill, fail over, cancel and repeat. Then all is mended,
the runs are finished as a person would do it, and every input must have one row: that of an undisturbed run.

A history is a list of steps. One that breaks the promise is printed and made shorter, as long as it still does.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import redis

from tests.chaos.fleet import cluster
from tests.conftest import SORTLINE, RedisServer, environment, free_port, write_images

IMAGES = 360  # of a run
STEPS = 12  # of a history
WORKERS = 3
BEGIN_S = 10.0
FINISH_S = 150.0  # a command of a world that is well, and takes longer, stands
SETTINGS = {"chunk_images": 4, "visibility_timeout_s": 3, "window_chunks": 6, "decode_threads": 1}
# What a command may end with while the world is ill, or when another is at its run.
ILL_CODES = frozenset({0, 1, 2, 69, 130, -signal.SIGKILL})
REFUSALS = re.compile(r"was gathered by|no detached run|was cancelled after|is in use by")
# What may stay in Redis: the board, what workers have bound, how they stand.
KEPT_KEYS = re.compile(r"sortline:(job:.*|jobs|newest|refusals|_kombu\..*)|_kombu\..*|sortline:unacked_mutex")

IS_NO_REPLICA = ("REPLICAOF", "NO", "ONE")
NEEDS_NO_REPLICA = ("CONFIG", "SET", "min-replicas-to-write", "0")
HAS_ROOM = ("CONFIG", "SET", "maxmemory", "0")
REDIS_IS_WELL = (IS_NO_REPLICA, NEEDS_NO_REPLICA, HAS_ROOM)


class PromiseBroken(Exception):
    """What the promise excludes has happened."""


@dataclass
class Command:
    """A process of a host, with what it says."""

    words: tuple[str, ...]
    process: psutil.Popen
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None


@dataclass
class Run:
    """Inputs that a person on host a wants labelled."""

    inputs: list[str]
    words: tuple[str, ...]
    is_detached: bool
    commands: list[Command] = field(default_factory=list)

    @property
    def job(self) -> str:
        """The name that was printed when the run was detached; empty until then."""
        names = (re.search(r"^list\S*-\d{8}-[0-9a-f]{6}$", command.said, re.MULTILINE) for command in self.commands)
        return next((name.group() for name in names if name), "")


class Worker:
    """One label worker, started again when it ends; ``mount`` and ``store`` are what it sees of images and models."""

    def __init__(self, folder: Path, number: int, root: Path, store: Path, url: str) -> None:
        self.mount, self.store = folder / f"mount-{number}", folder / f"store-{number}"
        self._root, self._store, self._number, self._folder = root, store, number, folder
        self.process: psutil.Popen | None = None
        self._env = environment(folder / f"worker-{number}", cluster(url, self.store, self.mount, **SETTINGS))
        self._env["TEST_FAULT"] = "before publish=nap"  # so that the steps come in the midst of the work
        (folder / f"worker-{number}").mkdir()
        self.mend()

    def mend(self) -> None:
        link(self.mount, self._root)
        link(self.store, self._store)

    def keep(self) -> None:
        """Start it, if it has ended."""
        if self.process is None or self.process.poll() is not None:
            with (self._folder / f"worker-{self._number}.log").open("ab") as log:
                command = [sys.executable, "-m", "worker", "--queues", "label", "--name", f"label-{self._number}"]
                cwd = self._folder / f"worker-{self._number}"
                self.process = psutil.Popen(command, env=self._env, stdout=log, stderr=log, cwd=cwd)


class World:
    """All actors. `steps` names the methods that are steps; what one breaks, a later one or `mend` mends."""

    def __init__(self, folder: Path, store: Path, seed: int) -> None:
        self.folder, self._store = folder, store
        self._chance = random.Random(seed)  # noqa: S311 - a plan, no secret
        self._mending: list[tuple[int, Callable[[], object]]] = []
        self._step = self._histories = 0
        self._stack = ExitStack()
        self.done: Counter[str] = Counter()
        self._make_pictures()
        (folder / "redis").mkdir()
        self.server = RedisServer(folder / "redis", free_port(), persistent=True)
        self.server.arguments += ["--appendfsync", "always"]
        self.server.start()
        for name in ("a", "b", "calm"):
            (folder / name).mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder / name)]
            if subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode == 0:  # takes root
                self._stack.callback(unmount, folder / name)
        self.workers = [Worker(folder, number, folder / "root", store, self.server.url) for number in range(WORKERS)]
        self.runs: list[Run] = []
        self.expected = self._label_calmly()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.mend()
        for process in [*self._processes(), *(worker.process for worker in self.workers if worker.process)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()
        self.server.kill()
        self._stack.close()

    # A history

    def play(self, steps: Sequence[str] = (), count: int = STEPS) -> list[str]:
        """Play these steps, or ``count`` random ones; return them. PromiseBroken says what must not have happened."""
        played: list[str] = []
        self._histories += 1
        self._begin()
        try:
            for number in range(len(steps) or count):
                name = steps[number] if steps else self._chance.choice(NAMES)
                played.append(name)
                self._step += 1
                self._mend_what_is_due()
                getattr(self, name)()
                self.done[name] += 1
                for worker in self.workers:
                    worker.keep()
                time.sleep(self._chance.uniform(0.1, 1.2))
            self.mend()
            self._finish()
        except PromiseBroken as error:
            raise PromiseBroken(f"{error}\nsteps: {' '.join(played)}\n{self._logs()}") from error
        return played

    def mend(self) -> None:
        """Mend all that is broken."""
        self._step += 10**6
        self._mend_what_is_due()
        with self.server.client() as client:  # it may have stood still when it was asked to
            for words in REDIS_IS_WELL:
                client.execute_command(*words)
        for worker in self.workers:
            worker.mend()
            worker.keep()

    def _mend_what_is_due(self) -> None:
        due = [act for at, act in self._mending if at <= self._step]
        self._mending = [(at, act) for at, act in self._mending if at > self._step]
        for act in due:
            act()

    def _later(self, act: Callable[[], object]) -> None:
        self._mending.append((self._step + self._chance.randint(1, 3), act))

    # Steps: workers

    def kill_worker(self) -> None:
        process = self._chance.choice(self.workers).process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def stop_worker(self) -> None:
        """For longer than its lease, if the steps are slow."""
        self._stop(self._chance.choice(self.workers).process)

    def unmount_worker(self) -> None:
        worker = self._chance.choice(self.workers)
        link(worker.mount, self.folder / self._chance.choice(["gone", "nothing"]))
        self._later(worker.mend)

    def swap_worker_root(self) -> None:
        worker = self._chance.choice(self.workers)
        link(worker.mount, self.folder / "other")
        self._later(worker.mend)

    def restart_worker_without_store(self) -> None:
        worker = self._chance.choice(self.workers)
        link(worker.store, self.folder / "nothing")
        self._later(worker.mend)
        if worker.process is not None:
            worker.process.kill()
            worker.process.wait()

    # Steps: commands

    def kill_command(self) -> None:
        if (command := self._running()) is not None:
            command.process.kill()

    def interrupt_command(self) -> None:
        if (command := self._running()) is not None:
            command.process.send_signal(signal.SIGINT)

    def stop_command(self) -> None:
        if (command := self._running()) is not None:
            self._stop(command.process)

    def repeat_command(self) -> None:
        run = self._chance.choice(self.runs)
        self._start(run, "a", run.words)

    def gather_here(self) -> None:
        self._gather("a")

    def gather_elsewhere(self) -> None:
        self._gather("b")

    def cancel(self) -> None:
        if job := self.runs[1].job:
            self._start(self.runs[1], "b", ("jobs", "cancel", job))

    # Steps: Redis and disks

    def restart_redis(self) -> None:
        self._restart_redis(loses=False)

    def lose_redis(self) -> None:
        self._restart_redis(loses=True)

    def flush_redis(self) -> None:
        self._ask_redis("FLUSHALL")

    def stop_redis(self) -> None:
        if (server := self.server.process) is not None and server.poll() is None:
            self._stop(psutil.Process(server.pid))

    def fail_over(self) -> None:
        """Be a replica of what is not there: nothing can be written."""
        self._ask_redis("REPLICAOF", "127.0.0.1", "1")
        self._later(lambda: self._ask_redis(*IS_NO_REPLICA))

    def refuse_writes(self) -> None:
        self._ask_redis("CONFIG", "SET", "min-replicas-to-write", "3")
        self._later(lambda: self._ask_redis(*NEEDS_NO_REPLICA))

    def fill_redis(self) -> None:
        self._ask_redis("CONFIG", "SET", "maxmemory", "1100000")
        self._later(lambda: self._ask_redis(*HAS_ROOM))

    def fill_disk(self) -> None:
        disk = self.folder / self._chance.choice("ab")
        if disk.is_mount():
            with suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
                for _ in range(10_000):
                    file.write(bytes(4096))
            self._later(lambda: (disk / "fill").unlink(missing_ok=True))

    # What steps are made of

    def _home(self, host: str) -> Path:
        home = self.folder / host / f"{self._histories}"
        with suppress(OSError):
            home.mkdir(exist_ok=True)
        return home

    def _begin(self) -> None:
        for old in (self.folder / "a").glob("[0-9]*"), (self.folder / "b").glob("[0-9]*"):
            for home in old:
                shutil.rmtree(home)
        self._ask_redis("FLUSHALL")
        self.runs = []
        pictures = sorted(self.expected)
        for number in range(2):
            inputs = sorted(self._chance.sample(pictures, IMAGES))
            listed = self.folder / f"list-{self._histories}-{number}.txt"
            listed.write_text("\n".join(inputs))
            words = ("label", str(listed), "-o", f"report-{number}.csv", "-q")
            self.runs.append(Run(inputs, words, is_detached=bool(number)))
        for run in self.runs:
            self._start(run, "a", run.words + (("--detach",) if run.is_detached else ()))
        deadline = time.monotonic() + BEGIN_S  # a command that finds no Redis ends, and there is nothing to disturb
        while not (self.runs[1].job and self._is_at_work()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)

    def _is_at_work(self) -> bool:
        with self.server.client() as client:
            return bool(client.exists("sortline:unacked"))

    def _start(self, run: Run, host: str, words: tuple[str, ...]) -> Command:
        home, number = self._home(host), sum(len(known.commands) for known in self.runs)
        log = self.folder / f"command-{self._histories}-{number}.log"
        env = environment(home, cluster(self.server.url, self._store, self.folder / "root", **SETTINGS))
        with log.open("wb") as output:
            process = psutil.Popen([SORTLINE, *words], env=env, stdout=output, stderr=output, cwd=self.folder / host)
        command = Command((host, *words), process, log)
        run.commands.append(command)
        return command

    def _gather(self, host: str) -> None:
        if job := self.runs[1].job:
            self._start(self.runs[1], host, ("jobs", "gather", job, "-o", "report-1.csv", "-q"))

    def _running(self) -> Command | None:
        running = [command for run in self.runs for command in run.commands if command.is_running]
        return self._chance.choice(running) if running else None

    def _processes(self) -> list[psutil.Popen]:
        return [command.process for run in self.runs for command in run.commands]

    def _stop(self, process: psutil.Process | None) -> None:
        if process is not None:
            send(process, signal.SIGSTOP)
            self._later(partial(send, process, signal.SIGCONT))

    def _ask_redis(self, *words: str) -> None:
        with (
            suppress(redis.RedisError),
            redis.Redis(port=self.server.port, password=self.server.password or None, socket_timeout=1) as client,
        ):
            client.execute_command(*words)

    def _restart_redis(self, *, loses: bool) -> None:
        if self.server.process is None or self.server.process.poll() is not None:
            return  # it is away already
        self.server.kill()
        if loses:
            shutil.rmtree(self.server.folder / "appendonlydir", ignore_errors=True)
        self._later(self.server.start)

    # The end

    def _finish(self) -> None:
        for run in self.runs:
            for command in run.commands:
                self._await(command)
                if command.process.returncode not in ILL_CODES:
                    raise PromiseBroken(f"{command.words} ended with {command.process.returncode}:\n{command.said}")
        for run in self.runs:
            hosts = ["a", "b"] if run.job else ["a"]
            self._chance.shuffle(hosts)
            for host in hosts:
                if host == "b":
                    self._finish_elsewhere(run)
                else:
                    last = self._start(run, "a", run.words)
                    self._await(last)
                    if last.process.returncode != 0:
                        raise PromiseBroken(f"{last.words} of a world that is well ended otherwise:\n{last.said}")
                    self._check(run, self.folder / "a" / run.words[3])
        self._check_redis()

    def _finish_elsewhere(self, run: Run) -> None:
        gathering = self._start(run, "b", ("jobs", "gather", run.job, "-o", "report-1.csv", "-q"))
        self._await(gathering)
        if gathering.process.returncode == 0:
            self._check(run, self.folder / "b" / "report-1.csv")
        elif not REFUSALS.search(gathering.said):
            raise PromiseBroken(f"{gathering.words} ended with no reason of its own:\n{gathering.said}")

    def _await(self, command: Command) -> None:
        deadline = time.monotonic() + FINISH_S
        while command.is_running:
            if time.monotonic() > deadline:
                raise PromiseBroken(f"{command.words} stands:\n{command.said}")
            for worker in self.workers:
                worker.keep()
            time.sleep(0.1)
        if "Traceback" in command.said:
            raise PromiseBroken(f"{command.words} shows a traceback:\n{command.said}")

    def _check(self, run: Run, report: Path) -> None:
        with report.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        wrong = [row for row, path in zip(rows, run.inputs, strict=False) if row != self.expected[path]]
        if len(rows) != len(run.inputs) or wrong:
            raise PromiseBroken(
                f"{report}: {len(rows)} rows of {len(run.inputs)}, of which {len(wrong)} wrong: {wrong[:3]}"
            )

    def _check_redis(self) -> None:
        """Nothing of the runs is left, once late copies of chunks are dropped."""
        deadline = time.monotonic() + 30
        with self.server.client() as client:
            while left := [key for key in client.keys("*") if not KEPT_KEYS.fullmatch(key)]:
                if time.monotonic() > deadline:
                    raise PromiseBroken(f"left in Redis: {left}")
                time.sleep(0.2)

    # The beginning

    def _make_pictures(self) -> None:
        root, other = self.folder / "root", self.folder / "other"
        pictures = write_images(root / "photos", 3 * IMAGES // 2)
        pictures[0].write_bytes(b"")
        pictures[1].write_bytes(pictures[5].read_bytes()[:60])
        pictures[2].write_bytes(b"no image")
        shutil.copytree(root, other)
        for number, path in enumerate(sorted((other / "photos").iterdir())):
            if number % 3 == 0:
                path.unlink()
            else:
                shutil.copy(pictures[number - 1], path)
        (self.folder / "nothing").mkdir()

    def _label_calmly(self) -> dict[str, dict[str, str]]:
        """Return the row of each picture, and of one that is missing."""
        paths = [str(path) for path in sorted((self.folder / "root" / "photos").iterdir())]
        listed = self.folder / "list.txt"
        listed.write_text("\n".join([*paths, str(self.folder / "root" / "photos" / "missing.png")]))
        for worker in self.workers:
            worker.keep()
        run = Run([], ("label", str(listed), "-o", "report.csv", "-q"), is_detached=False)
        command = self._start(run, "calm", run.words)
        self._await(command)
        with (self.folder / "calm" / "report.csv").open(encoding="utf-8", newline="") as file:
            return {row["path"]: row for row in csv.DictReader(file)}

    def _logs(self) -> str:
        logs = sorted(self.folder.glob(f"command-{self._histories}-*.log"))
        logs += [self.folder / f"worker-{number}.log" for number in range(WORKERS)]
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-2500:]}" for log in logs)


NAMES = [
    *("kill_worker", "stop_worker", "unmount_worker", "swap_worker_root", "restart_worker_without_store"),
    *("kill_command", "interrupt_command", "stop_command", "repeat_command", "repeat_command"),
    *("gather_here", "gather_elsewhere", "gather_elsewhere", "cancel"),
    *("restart_redis", "lose_redis", "flush_redis", "stop_redis", "fail_over", "refuse_writes", "fill_redis"),
    "fill_disk",
]


def send(process: psutil.Process, what: signal.Signals) -> None:
    """Send a signal to a process, if there still is one."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(what)


def unmount(folder: Path) -> None:
    """Take a disk away, though something may still use it."""
    subprocess.run(["umount", "-l", folder], check=True)


def link(path: Path, target: Path) -> None:
    """Let ``path`` lead to ``target`` from now on, in one step."""
    draft = path.with_name(f"{path.name}.new")
    draft.symlink_to(target)
    draft.replace(path)


def explore(store: Path, *, seed: int, minutes: float, say: Callable[[str], None]) -> Counter[str]:
    """Play random histories for so long; return how often each step was taken. PromiseBroken ends it."""
    deadline = time.monotonic() + minutes * 60
    with tempfile.TemporaryDirectory(prefix="sl-") as name, World(Path(name), store, seed) as world:
        while time.monotonic() < deadline:
            started = time.monotonic()
            steps = world.play()
            world.done["histories"] += 1
            say(f"{time.monotonic() - started:5.1f} s: {' '.join(steps)}")
        return world.done


def replay(store: Path, steps: Sequence[str], *, seed: int, times: int) -> str:
    """Play these steps so many times, each in a new world; return how the promise was broken, or nothing."""
    for number in range(times):
        with tempfile.TemporaryDirectory(prefix="sl-") as name, World(Path(name), store, seed + number) as world:
            try:
                world.play(steps)
            except PromiseBroken as error:
                return str(error)
    return ""


def shrunk(store: Path, steps: Sequence[str], *, seed: int, times: int) -> list[str]:
    """Return fewer of ``steps`` that break the promise as well, in one of so many plays."""
    left = list(steps)
    for place in reversed(range(len(steps))):
        shorter = left[:place] + left[place + 1 :]
        if shorter and replay(store, shorter, seed=seed, times=times):
            left = shorter
    return left


def main() -> int:
    """Explore, or replay; return 1 when the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    parser.add_argument("--steps", nargs="+", default=[], choices=NAMES, help="play these instead of random ones")
    parser.add_argument("--times", type=int, default=3, help="of a replay, and of each try to shorten a history")
    parser.add_argument("--shrink", action="store_true", help="make --steps shorter")
    options = parser.parse_args()
    os.environ["PYTEST_CURRENT_TEST"] = "world"  # else no process would look at its faults
    with tempfile.TemporaryDirectory(prefix="sl-store-") as name:
        store = Path(name) / "store"
        subprocess.run([sys.executable, "-m", "tests.seeded_model", str(store)], check=True)
        if options.steps:
            if options.shrink:
                print("shorter:", *shrunk(store, options.steps, seed=options.seed, times=options.times))
                return 0
            broken = replay(store, options.steps, seed=options.seed, times=options.times)
            print(broken or "the promise was kept")
            return int(bool(broken))
        print(f"seed {options.seed}", flush=True)
        try:
            done = explore(store, seed=options.seed, minutes=options.minutes, say=lambda line: print(line, flush=True))
        except PromiseBroken as error:
            print(error)
            return 1
        print(json.dumps(dict(done.most_common())))
        return 0


if __name__ == "__main__":
    sys.exit(main())
