"""The step of docs/guide/cluster.md with two machines, run as it stands on two network namespaces; the systemd unit."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from configs.settings import Settings
from producer.local.stack import STOP_LIMIT_S, find_redis_server
from tests.canaries import secret
from tests.compose.services import ROOT
from tests.conftest import environment, wait_until, write_images
from tests.e2e.test_two_hosts import Host, hosts, running
from tests.unit.test_docs import FENCE, parse

__all__ = ["hosts"]  # a fixture

UNITS = ROOT / "deploy" / "systemd"


@pytest.mark.long
def test_two_machines_and_a_share_as_the_page_says(
    hosts: tuple[Host, Host], home: Path, tmp_path: Path, model_store: Path
) -> None:
    queue, worker = hosts
    page = (ROOT / "docs" / "guide" / "cluster.md").read_text(encoding="utf-8")
    section = page.partition("\n## Two machines and a share\n")[2].partition("\n## ")[0]
    server, label_worker, command = [text for language, text in FENCE.findall(section) if language == "sh"]
    programs = tmp_path / "bin"
    for folder in (programs, tmp_path / "etc", tmp_path / "redis", tmp_path / "other"):
        folder.mkdir()
    (programs / "redis-server").symlink_to(find_redis_server())
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_images(tmp_path / "photos" / "inbox", 40)
    places = {
        "@queue:": f"@{queue.address}:", "/etc/redis": f"{tmp_path}/etc", "/var/lib/redis": f"{tmp_path}/redis",
        "/mnt/photos": f"{tmp_path}/photos", "/mnt/models": str(model_store),
    }  # fmt: skip

    def here(text: str) -> tuple[str, ...]:
        for word, place in places.items():
            assert word in page
            text = text.replace(word, place)
        return "bash", "-c", f"cd {tmp_path}; {text}"

    def env(folder: Path) -> dict[str, str]:
        found = environment(folder, {"REDIS_PASSWORD": secret("redis")})
        return found | {"PATH": f"{programs}:{Path(sys.executable).parent}:{found['PATH']}"}

    log = tmp_path / "other" / "worker.log"
    with ExitStack() as stack:
        stack.enter_context(running(queue, *here(server), env=env(home), log=home / "redis.log"))
        wait_until(lambda: "Ready to accept" in (home / "redis.log").read_text(), 20, "redis")
        stack.enter_context(running(worker, *here(label_worker), env=env(tmp_path / "other"), log=log))
        wait_until(lambda: "ready." in log.read_text(), 60, "the worker")
        done = subprocess.run(
            queue.command(*here(command)), env=env(home), capture_output=True, text=True, timeout=120, check=False
        )

    assert done.returncode == 0, done.stderr
    assert "ok   label workers: label-" in done.stdout
    with (tmp_path / "monday" / "report.csv").open(encoding="utf-8", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 40


@pytest.mark.parametrize(
    ("name", "stop_s", "usage"),
    [("sortline-label", Settings().stuck_s + 20, "2 3 69"), ("sortline-watch", STOP_LIMIT_S * 2, "2")],
)
def test_a_unit_runs_a_command_and_lets_it_finish(tmp_path: Path, name: str, stop_s: float, usage: str) -> None:
    text = (UNITS / f"{name}.service").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))

    program, *arguments = values["ExecStart"].split()
    assert program.endswith("/bin/sortline")
    parse(arguments)
    assert int(values["TimeoutStopSec"]) > stop_s
    assert values["RestartPreventExitStatus"] == usage
    if shutil.which("systemd-analyze") is not None:
        unit = tmp_path / f"{name}.service"
        unit.write_text(text.replace(program, sys.executable))
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if unit.name in line], done.stderr
