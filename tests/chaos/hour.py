"""``python -m tests.chaos.hour``: three hosts at work for an hour, while processes, Redis, links and shares fail.

The hosts are network namespaces with host names, homes and mounts of their own. Redis is on two of them and fails over
by Sentinels on all three. Runs of mixed size come at random moments, some detached and gathered on another host. At
the end every report must have the rows of an undisturbed run, every state must have been true, and little may be left.
Takes root and iproute2; shares stall where there is bindfs.
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
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import redis

from base.process import DRAINED
from configs import Settings
from jobs import JobBoard, JobState, Keys, connect
from tests.chaos.fleet import cluster
from tests.chaos.world import ILL_CODES, KEPT_KEYS, send, unmount
from tests.conftest import SORTLINE, environment, write_images
from tests.sentinels import Place, Watched, watched_redis

NETWORK = f"10.232.{os.getpid() % 250}"
DISTINCT = 200  # images; the rest are links
NAP_S = 0.5  # added to each chunk
SETTINGS = {
    "chunk_images": 16,
    "visibility_timeout_s": 6,
    "stale_s": 15,
    "stuck_s": 20,
    "cores": 1,
    "decode_threads": 1,
}
WORKERS = (1, 2, 2)  # of each host
TEN = 10
HAS_FUSE = shutil.which("bindfs") is not None and os.access("/dev/fuse", os.W_OK)
# Of an hour: how often each step is taken.
STEPS = {
    "kill_worker": 40,
    "kill_command": 12,
    "cut_link": 3,
    **({"stall_share": 3} if HAS_FUSE else {}),
    "fail_over": 3,
    "drain_host": 2,
    "flush": 1,
}
SLACK_S = 30.0  # after a step, in which waits are not counted as undisturbed
UNTRUE_S = 45.0  # a state may lag behind so long
LATE_S = 900.0  # after the last minute, when all must be done


@dataclass
class Host:
    """A network namespace behind the bridge, with a host name, a home and a mount of the share."""

    number: int
    folder: Path
    share: psutil.Popen | None = None

    @property
    def name(self) -> str:
        return f"host-{self.number}"

    @property
    def namespace(self) -> str:
        return f"sl{os.getpid()}h{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def root(self) -> Path:
        return self.folder / self.name / "root"

    @property
    def home(self) -> Path:
        return self.folder / self.name / "home"

    @property
    def wrap(self) -> tuple[str, ...]:
        """The words before a command that is to run here."""
        named = f'hostname {self.name}; exec "$@"'
        return ("ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", named, "sh")

    def set_link(self, state: str) -> None:
        """Plug the cable in ("up") or pull it ("down")."""
        ip("link", "set", f"{self.namespace}p", state)


@dataclass
class Run:
    """One run of a person: its size, its host, the commands so far."""

    number: int
    images: int
    at_s: float
    host: Host
    gather_on: Host | None
    job: str = ""
    phase: str = "label"  # or "gather", "again", "done"
    not_before: float = 0.0
    commands: int = 0
    process: psutil.Popen | None = None
    log: Path = Path()
    since: float = 0.0  # of the command at hand, or of its end
    began: float = 0.0
    ended: float = 0.0
    untrue_since: float = 0.0

    @property
    def name(self) -> str:
        return f"r{self.number:03d}"

    @property
    def report(self) -> Path:
        return self.host.folder / "reports" / f"{self.name}.csv"


def ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)


@contextmanager
def hosts(folder: Path) -> Iterator[list[Host]]:
    """Three hosts behind a bridge; this process is behind it as well."""
    found = [Host(number, folder) for number in (1, 2, 3)]
    bridge = f"sl{os.getpid()}"
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.254/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host in found:
            space = host.namespace
            ip("netns", "add", space)
            ip("link", "add", f"{space}p", "type", "veth", "peer", "name", space, "netns", space)
            ip("link", "set", f"{space}p", "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{host.address}/24", "dev", space)
            for device in ("lo", space):
                ip("-n", space, "link", "set", device, "up")
            host.root.mkdir(parents=True)
            host.home.mkdir()
            if HAS_FUSE:
                host.share = psutil.Popen(["bindfs", "-f", "-r", str(folder / "root"), str(host.root)])
            else:  # a share that can't stall
                subprocess.run(["mount", "--bind", str(folder / "root"), str(host.root)], check=True)
            wait(partial(is_mounted, host.root), 10)
        yield found
    finally:
        for host in found:
            if host.share is not None:
                send(host.share, signal.SIGCONT)
            if is_mounted(host.root):
                unmount(host.root)
            if host.share is not None:
                host.share.kill()
                host.share.wait()
            ip("netns", "del", host.namespace, check=False)
        ip("link", "del", bridge, check=False)


def is_mounted(folder: Path) -> bool:
    """Whether something is mounted there; of the same disk, too, which ``Path.is_mount`` does not see."""
    return f" {folder} " in Path("/proc/self/mounts").read_text(encoding="utf-8")


def wait(condition: Callable[[], object], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {limit_s} s: {condition}")
        time.sleep(0.1)  # between two looks


@dataclass
class Figures:
    """What was seen."""

    steps: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    looks: int = 0
    peak_bytes: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0


class Hour:
    """All of it. ``minutes`` is how long steps are taken and runs come."""

    def __init__(
        self,
        folder: Path,
        three: Sequence[Host],
        watched: Watched,
        store: Path,
        *,
        minutes: float,
        runs: int,
        seed: int,
    ) -> None:
        self._folder, self._hosts, self._watched = folder, three, watched
        self._chance = random.Random(seed)  # noqa: S311 - a plan, no secret
        self._length_s = minutes * 60
        self._started = time.monotonic()
        self._later: list[tuple[float, Callable[[], object]]] = []
        self._disturbed: list[float] = []
        self._away: set[str] = set()  # hosts that are drained, cut off or without their share
        self.figures = Figures()
        own = environment(folder, cluster(watched.url, store, folder / "root", **SETTINGS))
        self._env = {host.name: self._environment_of(host, own) for host in three}
        settings = Settings(home=folder / "home", broker=watched.url)
        self._client = connect(settings)
        self._board = JobBoard(self._client, Keys(settings.key_prefix))
        self._workers: dict[tuple[str, int], psutil.Popen | None] = {
            (host.name, number): None for host, count in zip(three, WORKERS, strict=True) for number in range(count)
        }
        self.runs = self._plan_runs(runs, minutes)
        self._steps = sorted(self._plan_steps(minutes))

    def _environment_of(self, host: Host, own: dict[str, str]) -> dict[str, str]:
        there = {"SORTLINE_HOME": str(host.home), "SORTLINE_DATA_ROOT": str(host.root)}
        return own | there | {"TEST_FAULT": "before publish=nap", "TEST_NAP_S": str(NAP_S), "OMP_NUM_THREADS": "1"}

    def _plan_runs(self, count: int, minutes: float) -> list[Run]:
        """Two giants, some of medium size, and mostly ten photos; a third of all are gathered on another host."""
        giant, large, medium = int(1500 * minutes), int(80 * minutes), int(8 * minutes)
        sizes = [giant] * 2 + [large] * (count // 16) + [medium] * (count // 5)
        sizes += [TEN] * (count - len(sizes))
        planned = []
        for number, images in enumerate(sizes):
            at_s = (0.02, 0.35)[number] if number < 2 else self._chance.uniform(0.03, 0.93)
            host, other = self._chance.sample(list(self._hosts), 2)
            gather_on = other if self._chance.random() < 0.35 else None
            planned.append(Run(number, images, at_s * self._length_s, host, gather_on))
        return planned

    def _plan_steps(self, minutes: float) -> Iterator[tuple[float, str]]:
        for name, of_an_hour in STEPS.items():
            for _ in range(max(1, round(of_an_hour * minutes / 60))):
                yield self._chance.uniform(0.05, 0.92) * self._length_s, name

    # The hour

    @property
    def _now(self) -> float:
        return time.monotonic() - self._started

    def play(self) -> None:
        """Play it to its end; what must not be is among the figures' faults."""
        expected = self._label_calmly()
        self._started = time.monotonic()
        looked = sampled = 0.0
        while (now := self._now) < self._length_s or any(run.phase != "done" for run in self.runs):
            if now > self._length_s + LATE_S:
                undone = {run.name: (run.phase, run.images) for run in self.runs if run.phase != "done"}
                self.figures.faults.append(f"not done in time: {undone}")
                break
            self._do_what_is_due(now)
            self._keep_workers()
            for run in self.runs:
                self._advance(run, now)
            if now > looked + 3:
                looked = now
                self._look_at_states(now)
            if now > sampled + 30:
                sampled = now
                self._sample()
            time.sleep(0.3)  # between two looks
        for _, act in self._later:
            act()
        self._later.clear()
        self._check(expected)

    def _do_what_is_due(self, now: float) -> None:
        for at, act in [each for each in self._later if each[0] <= now]:
            self._later.remove((at, act))
            act()
            self._disturbed.append(now)
        while self._steps and self._steps[0][0] <= now:
            _, name = self._steps.pop(0)
            if getattr(self, name)():
                self.figures.steps[name] += 1
                self._disturbed.append(now)
                self._say(name)
            else:
                self._steps.append((now + 5, name))  # something else is on
                self._steps.sort()
                break

    def _after(self, seconds: float, act: Callable[[], object]) -> None:
        self._later.append((self._now + seconds * min(1.0, self._length_s / 900), act))

    def _say(self, text: str) -> None:
        done = sum(run.phase == "done" for run in self.runs)
        print(f"{self._now / 60:5.1f} min, {done} of {len(self.runs)} runs done: {text}", flush=True)

    # Steps: each says whether it was taken

    def kill_worker(self) -> bool:
        alive = [process for process in self._workers.values() if process is not None and process.poll() is None]
        if alive:
            self._chance.choice(alive).kill()
        return bool(alive)

    def kill_command(self) -> bool:
        running = [run for run in self.runs if run.process is not None and self._now > run.since + 2]
        if running:
            process = self._chance.choice(running).process
            assert process is not None
            send(process, self._chance.choice([signal.SIGKILL, signal.SIGINT]))
        return bool(running)

    def fail_over(self) -> bool:
        if self._away:
            return False
        killed = self._watched.fail_over()
        self._after(40, killed.start)  # as what Sentinels make of it: a replica
        self._say(f"Redis of {killed.address} is killed")
        return True

    def cut_link(self) -> bool:
        return self._without(self._hosts[2], 20, lambda host: host.set_link("down"), lambda host: host.set_link("up"))

    def stall_share(self) -> bool:
        def stop(what: signal.Signals, host: Host) -> None:
            assert host.share is not None
            send(host.share, what)

        host = self._chance.choice(list(self._hosts)[1:])
        return self._without(host, 45, partial(stop, signal.SIGSTOP), partial(stop, signal.SIGCONT))

    def drain_host(self) -> bool:
        host = self._chance.choice(list(self._hosts)[1:])
        if host.name in self._away:
            return False
        words = [*self._hosts[0].wrap, SORTLINE, "workers", "drain", host.name]
        done = subprocess.run(words, env=self._env["host-1"], capture_output=True, text=True, check=False)
        if done.returncode:
            self._say(f"drain: {done.stderr}")
            return False
        return self._without(host, 120, lambda _: None, lambda _: None)

    def flush(self) -> bool:
        self._client.flushall()
        return True

    def _without(self, host: Host, seconds: float, spoil: Callable[[Host], None], mend: Callable[[Host], None]) -> bool:
        if self._away:
            return False
        self._away.add(host.name)
        spoil(host)

        def come_back() -> None:
            mend(host)
            self._away.discard(host.name)

        self._after(seconds, come_back)
        return True

    # Workers and commands

    def _start(self, host: Host, words: Sequence[str], log: Path) -> psutil.Popen:
        with log.open("ab") as output:
            return psutil.Popen(
                [*host.wrap, *words], env=self._env[host.name], stdout=output, stderr=output, cwd=host.home.parent
            )

    def _keep_workers(self) -> None:
        for (name, number), process in self._workers.items():
            code = process.poll() if process is not None else 0
            if code is None or (code == DRAINED and name in self._away):
                continue
            if process is not None:
                self.figures.codes[f"worker {code}"] += 1
            host = next(host for host in self._hosts if host.name == name)
            words = [sys.executable, "-m", "worker", "--queues", "label", "--name", f"label-{number}"]
            self._workers[name, number] = self._start(host, words, self._folder / f"{name}-{number}.log")

    def _advance(self, run: Run, now: float) -> None:
        if run.process is not None:
            if run.process.poll() is not None:
                self._ended(run, now, int(run.process.returncode))
            return
        if run.phase == "done" or now < max(run.at_s, run.not_before) or self._is_stalled(run.host):
            return
        run.began = run.began or now
        if not run.commands:
            self._make_folder(run)
        host = run.host
        words = [SORTLINE, "label", str(host.root / run.name), "-o", str(run.report), "-q"]
        if run.phase == "label" and run.gather_on is not None:
            words.append("--detach")
        elif run.phase == "gather" and run.gather_on is not None:
            host = run.gather_on
            words = [SORTLINE, "jobs", "gather", run.job, "-o", str(run.report), "-q"]
        run.commands += 1
        run.log = self._folder / "commands" / f"{run.name}-{run.commands}.log"
        run.process, run.since = self._start(host, words, run.log), now

    def _is_stalled(self, host: Host) -> bool:
        return host.share is not None and host.share.status() == psutil.STATUS_STOPPED

    def _make_folder(self, run: Run) -> None:
        folder = self._folder / "root" / run.name
        folder.mkdir()
        for number in range(run.images):
            os.link(self._folder / "root" / "calm" / f"{number % DISTINCT:05d}.png", folder / f"{number:06d}.png")

    def _ended(self, run: Run, now: float, code: int) -> None:
        said = run.log.read_text(encoding="utf-8", errors="replace")
        run.process, run.since = None, now
        self.figures.codes[f"command {code}"] += 1
        if "Traceback" in said or code not in ILL_CODES:
            self.figures.faults.append(f"{run.log.name}: code {code}: {said[-1500:]}")
        job = re.search(rf"\b{run.name}-\S*\d{{8}}-[0-9a-f]{{6}}\b", said)
        run.job = job.group() if job else run.job
        run.not_before = now + self._chance.uniform(1, 90) * min(1.0, self._length_s / 900)
        if code == 0 and run.phase == "label" and run.gather_on is not None:
            run.phase = "gather"
        elif code == 0:
            run.phase, run.ended = "done", now
        elif run.phase == "gather" and code not in (130, -signal.SIGKILL):
            run.phase = "again"  # Redis has lost it: the command that sent it does it again, and waits

    # What must be so

    def _look_at_states(self, now: float) -> None:
        with suppress(redis.RedisError):
            states = {state.job: state for state in self._board.jobs()}
            self.figures.looks += 1
            for run in self.runs:
                found = next((state for job, state in states.items() if job.startswith(f"{run.name}-")), None)
                run.job = found.job if found is not None else run.job
                if found is None or _is_true(run, found):
                    run.untrue_since = 0.0
                    continue
                run.untrue_since = run.untrue_since or now
                if now > run.untrue_since + UNTRUE_S:
                    run.untrue_since = now
                    fault = f"{run.name} ({run.phase}, command {'at work' if run.process else 'gone'}) is {found}"
                    self.figures.faults.append(fault)
                    self._say(fault)

    def _sample(self) -> None:
        for host in self._hosts:
            self._note(f"home of {host.name}", _size(host.home))
        self._note("Redis on disk", sum(_size(server.folder) for server in self._watched.servers))
        with suppress(redis.RedisError):
            self._note("Redis in memory", int(self._client.info("memory")["used_memory"]))
        logs = sum(log.stat().st_size for log in self._folder.glob("host-*.log"))
        self._note("logs of workers", logs)

    def _note(self, what: str, size: int) -> None:
        self.figures.peak_bytes[what] = max(self.figures.peak_bytes[what], size)

    def _label_calmly(self) -> list[dict[str, str]]:
        """Return the row of each distinct image."""
        write_images(self._folder / "root" / "calm", DISTINCT)
        for name in ("commands", "reports"):
            (self._folder / name).mkdir()
        report = self._folder / "calm.csv"
        log = self._folder / "commands" / "calm.log"
        process = self._start(
            self._hosts[0], [SORTLINE, "label", str(self._hosts[0].root / "calm"), "-o", str(report), "-q"], log
        )
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            self._keep_workers()
            time.sleep(0.3)  # between two looks
        if process.poll() != 0:
            process.kill()
            raise SystemExit(f"no calm run: {log.read_text()}")
        return _rows(report)

    def _check(self, expected: list[dict[str, str]]) -> None:
        """Look at reports, states, Redis and disks once all runs are done."""
        for run in (run for run in self.runs if run.phase == "done"):
            rows = _rows(run.report)
            names = [Path(row.pop("path")).name for row in rows]
            if names != [f"{number:06d}.png" for number in range(run.images)]:
                self.figures.faults.append(f"{run.report}: {len(names)} rows, not one of each of {run.images} images")
            of_calm = [{name: value for name, value in row.items() if name != "path"} for row in expected]
            wrong = [row for number, row in enumerate(rows) if row != of_calm[number % DISTINCT]]
            if wrong:
                self.figures.faults.append(f"{run.report}: {len(wrong)} other rows, such as {wrong[0]}")
        deadline = time.monotonic() + 60
        left = [""]
        while left and time.monotonic() < deadline:
            with suppress(redis.RedisError):
                left = [key for key in self._client.keys("*") if not KEPT_KEYS.fullmatch(key)]
            time.sleep(0.5)  # between two looks
        if left:
            self.figures.faults.append(f"left in Redis: {left}")
        untrue = [state for state in self._board.jobs() if state.state != "done"]
        if untrue:
            self.figures.faults.append(f"all is done, and the board says {untrue}")
        self._sample()
        for host in self._hosts:
            words = [*host.wrap, SORTLINE, "clean", "--older", "0h"]
            subprocess.run(words, env=self._env[host.name], check=True, stdout=subprocess.DEVNULL)
            self.figures.peak_bytes[f"home of {host.name} after clean"] = _size(host.home)

    def close(self) -> None:
        """End all processes, and count what they took."""
        for host in self._hosts:
            if host.share is not None:
                send(host.share, signal.SIGCONT)
        for process in [*self._workers.values(), *(run.process for run in self.runs)]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self._client.close()

    # Figures

    def waits(self) -> dict[str, list[float]]:
        """Return how long commands of ten photos took to their report, without and with a step in the midst of it."""
        found: dict[str, list[float]] = {"undisturbed": [], "disturbed": []}
        for run in self.runs:
            if run.images == TEN and run.phase == "done" and run.gather_on is None:
                spoiled = any(run.began - SLACK_S < at < run.ended for at in self._disturbed)
                found["disturbed" if spoiled else "undisturbed"].append(run.ended - run.began)
        return found


def _is_true(run: Run, found: JobState) -> bool:
    if found.done > found.total:
        return False
    if run.phase == "done":
        return found.state == "done"
    if run.process is not None:  # what it gathers it holds; a detached one is sent and left
        return found.state in ("queued", "running", "labelled", "done")
    if run.gather_on is not None and run.phase == "gather":
        return found.state in ("queued", "running", "labelled")
    return found.state in ("interrupted", "labelled", "running" if run.gather_on else "interrupted")


def _rows(report: Path) -> list[dict[str, str]]:
    with report.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size
    return total


def main() -> int:
    """Play it and print its figures; return 1 when something was that must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sl-store-") as name:
        store = Path(name) / "store"
        subprocess.run([sys.executable, "-m", "tests.seeded_model", str(store)], check=True)
        return int(bool(soak(store, **vars(options)).faults))


def soak(store: Path, *, minutes: float, runs: int, seed: int) -> Figures:
    """Play ``minutes`` of it, print the figures, and return them."""
    os.environ["PYTEST_CURRENT_TEST"] = "hour"  # else no process would look at its faults
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sl-hour-")))
        (folder / "root").mkdir()
        three = stack.enter_context(hosts(folder))
        places = [Place(host.address, host.wrap) for host in three]
        watched = stack.enter_context(watched_redis(places, "--appendonly", "yes"))
        hour = Hour(folder, three, watched, store, minutes=minutes, runs=runs, seed=seed)
        began = os.times()
        try:
            hour.play()
        finally:
            hour.close()
            if hour.figures.faults:
                kept = Path(tempfile.mkdtemp(prefix="sl-hour-logs-"))
                for log in [*folder.glob("*.log"), *(folder / "commands").glob("*.log")]:
                    shutil.copy(log, kept)
                print(f"logs: {kept}")
        ended = os.times()
        hour.figures.cpu_s = ended.children_user + ended.children_system - began.children_user - began.children_system
        _tell(hour)
        return hour.figures


def _tell(hour: Hour) -> None:
    figures = hour.figures
    sizes = Counter(run.images for run in hour.runs)
    print(f"runs by images {dict(sizes)}, {sum(run.images for run in hour.runs)} images, {hour._now / 60:.1f} minutes")
    print(f"gathered on another host: {sum(run.gather_on is not None for run in hour.runs)}")
    print(f"commands: {sum(run.commands for run in hour.runs)}; ended with {dict(figures.codes.most_common())}")
    print(f"steps {json.dumps(dict(figures.steps))}; CPU {figures.cpu_s:.0f} s")
    for what, waits in hour.waits().items():
        if waits:
            middle, longest = statistics.median(waits), max(waits)
            print(f"ten photos, {what}: {len(waits)} runs, median {middle:.1f} s, longest {longest:.1f} s")
    print(f"states looked at {figures.looks} times")
    for what, size in figures.peak_bytes.items():
        print(f"{what}: at most {size / 1e6:.1f} MB")
    print("\n".join(figures.faults) or "every report whole, every state true")


if __name__ == "__main__":
    sys.exit(main())
