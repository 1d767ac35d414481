"""A producer with Redis on one host and a worker on another: network namespaces with addresses of their own.

The folder of photos and the model store are shared, as by NFS; all that goes over the link is Redis.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from producer.local.stack import find_redis_server
from tests.canaries import secret
from tests.conftest import SORTLINE, environment, wait_until, write_images
from tests.e2e.test_label import rows_done

pytestmark = pytest.mark.long

DISTINCT, IMAGES = 500, 8000  # the rest are links: a run of some seconds, with files made in one
CUT_S = 6.0  # longer than the visibility timeout: what the worker holds counts as lost
PORT = 6379
# What Redis does by itself after tcp-keepalive (300 s) with a peer that is gone.
HANG_UP = """
import redis, sys
client = redis.Redis.from_url(sys.argv[1])
for other in client.client_list():
    if other["addr"].startswith(sys.argv[2] + ":"):
        client.client_kill(other["addr"])
        print(other["addr"])
"""


def ip(*arguments: str, check: bool = True) -> bool:
    """Run iproute2's ``ip``; say whether it did what it should."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.returncode == 0


@dataclass(frozen=True)
class Host:
    """A network namespace at one end of a link."""

    name: str
    device: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command that runs ``words`` on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    def set_link(self, state: str) -> None:
        """Plug the cable in ("up") or pull it ("down")."""
        ip("-n", self.name, "link", "set", self.device, state)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a link between them; they go with the test, whatever became of it."""
    mark = os.getpid()
    pair = Host(f"sl{mark}a", f"sl{mark}a", "10.231.77.1"), Host(f"sl{mark}b", f"sl{mark}b", "10.231.77.2")
    here, there = pair
    link = ["link", "add", here.device, "netns", here.name, "type", "veth"]
    link += ["peer", "name", there.device, "netns", there.name]
    try:
        if shutil.which("ip") is None or not all(
            ip(*made, check=False) for made in (["netns", "add", here.name], ["netns", "add", there.name], link)
        ):
            message = "network namespaces are not allowed here, or there is no iproute2"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
        for host in pair:
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.device)
            ip("-n", host.name, "link", "set", "lo", "up")
            host.set_link("up")
        yield pair
    finally:
        for host in pair if shutil.which("ip") else ():
            ip("netns", "del", host.name, check=False)  # the link goes with it


@contextmanager
def running(host: Host, *words: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process on ``host``; killed at the end of the block if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            host.command(*words), env=env, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


def test_a_link_cut_in_the_middle_of_a_run_changes_no_byte_of_the_report(
    hosts: tuple[Host, Host], home: Path, tmp_path: Path, model_store: Path
) -> None:
    here, there = hosts
    photos = tmp_path / "photos"
    files = write_images(photos, DISTINCT)
    for number in range(DISTINCT, IMAGES):
        (photos / f"{number:05d}.png").hardlink_to(files[number % DISTINCT])
    env = environment(
        home,
        {
            "SORTLINE_BROKER": f"redis://:{secret('two-hosts')}@{here.address}:{PORT}/0",
            "SORTLINE_STORE": str(model_store),
            "SORTLINE_DATA_ROOT": str(tmp_path),
            "SORTLINE_CHUNK_IMAGES": "32",
            "SORTLINE_VISIBILITY_TIMEOUT_S": "4",
            "SORTLINE_STALE_S": "8",
        },
    )
    server = [str(find_redis_server()), "--bind", here.address, "--port", str(PORT), "--save", ""]
    server += ["--requirepass", secret("two-hosts"), "--dir", str(tmp_path)]
    worker = [sys.executable, "-m", "worker", "--queues", "label", "--name", "there"]
    calm, cut = home / "calm.csv", home / "cut.csv"
    with (
        running(here, *server, env=env, log=home / "redis.log"),
        running(there, *worker, env=env, log=home / "worker.log"),
    ):
        first = home / "first"
        with running(here, SORTLINE, "label", str(photos), "-o", str(calm), env={**env, "SORTLINE_HOME": str(first)},
                     log=home / "calm.log") as producer:  # fmt: skip
            assert producer.wait(120) == 0
        second = home / "second"
        with running(here, SORTLINE, "label", str(photos), "-o", str(cut), env={**env, "SORTLINE_HOME": str(second)},
                     log=home / "cut.log") as producer:  # fmt: skip
            wait_until(lambda: rows_done(second) > 300, 60, "some rows")
            there.set_link("down")
            time.sleep(1)  # what was on its way has arrived
            before = rows_done(second)
            time.sleep(CUT_S)  # how long the cable is out
            during = rows_done(second)
            hung_up = subprocess.run(
                here.command(sys.executable, "-c", HANG_UP, env["SORTLINE_BROKER"], there.address),
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            there.set_link("up")
            assert producer.wait(120) == 0

    assert 300 < before < IMAGES, "the cut was not in the middle"
    assert during == before, "rows came over a link that was down"
    assert hung_up.stdout.count(there.address) >= 2, "the queue's connection and that of the results"
    assert cut.read_bytes() == calm.read_bytes()
    assert calm.read_text(encoding="utf-8").count(",ok,") == IMAGES
