"""Every container of deploy/kubernetes as a process of this machine: a Job labels a folder while KEDA counts."""

from __future__ import annotations

import csv
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.canaries import secret
from tests.cluster.kustomize import Manifest, build
from tests.cluster.pods import as_compose, read_secret
from tests.cluster.test_kubernetes import EXAMPLE, FOLDER
from tests.compose.services import Services
from tests.conftest import wait_until, write_images

# What KEDA's scaler of Redis lists runs for each key (pkg/scalers/redis_scaler.go).
KEDA_SCRIPT = """
local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(cmd[redis.call('type', KEYS[1]).ok], KEYS[1])
"""


# Of a pod: a root that nobody can write but for the volumes, and no rights beyond those of a user.
READ_ONLY = """
mount --make-rprivate / && for folder in {folders}; do mount --bind $folder $folder || exit; done
mount -o remount,bind,ro / && exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
"""


class Pods(Services):
    """Services whose processes see the disks as pods do, where this user may make a mount namespace."""

    is_read_only = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0

    def _entrypoint(self, name: str) -> list[str]:
        if not self.is_read_only:
            return super()._entrypoint(name)
        service = self._services[name]
        targets = [volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")]
        folders = " ".join(str(self.folder_of(name, target)) for target in (*targets, *service["tmpfs"]))
        return ["unshare", "--mount", "sh", "-c", READ_ONLY.format(folders=folders), "sh", *super()._entrypoint(name)]

    def _environment(self, name: str) -> dict[str, str]:
        scratch = {"TMPDIR": str(self.folder_of(name, "/tmp"))} if "/tmp" in self._services[name]["tmpfs"] else {}
        return super()._environment(name) | scratch


def counts(services: Services, objects: list[Manifest], password: str) -> dict[str, int]:
    """What KEDA finds, with its own user and script."""
    (scaled,) = (found for found in objects if found["kind"] == "ScaledObject")
    client = redis.Redis(port=services.redis_port, username="keda", password=password)
    names = [trigger["metadata"]["listName"] for trigger in scaled["spec"]["triggers"]]
    return {name: int(client.eval(KEDA_SCRIPT, 1, name)) for name in names}


@pytest.mark.slow
def test_kedas_user_may_count_the_queue_and_nothing_else(tmp_path: Path) -> None:
    given = {name: secret(name.lower().replace("_", "-")) for name in ("REDIS_PASSWORD", "KEDA_REDIS_PASSWORD")}
    objects = build(FOLDER / "overlays" / "cpu")
    services = Services(as_compose(objects, read_secret(EXAMPLE, given), tmp_path), tmp_path)

    with services.start("redis"):
        wait_until(lambda: services.is_healthy("redis"), 10, "redis")
        owner = redis.Redis(port=services.redis_port, username="sortline", password=given["REDIS_PASSWORD"])
        owner.lpush("sortline:label", "a", "b")
        owner.hset("sortline:unacked", "tag", "message")
        owner.lpush("sortline:label:2", "c")
        found = counts(services, objects, given["KEDA_REDIS_PASSWORD"])
        assert {name: count for name, count in found.items() if count} == {
            "sortline:label": 2, "sortline:label:2": 1, "sortline:unacked": 1
        }  # fmt: skip
        keda = redis.Redis(port=services.redis_port, username="keda", password=given["KEDA_REDIS_PASSWORD"])
        assert keda.ping()  # which KEDA sends first
        for command in (
            ("DEL", "sortline:label"), ("LRANGE", "sortline:label", 0, -1), ("HLEN", "sortline:jobs"), ("FLUSHALL",),
            ("HLEN", "sortline:labelled:x"),
            ("EVAL", "return redis.call('del', KEYS[1])", 1, "sortline:label"),
            ("EVAL", "return redis.call('hlen', 'sortline:jobs')", 0),
        ):  # fmt: skip
            with pytest.raises(redis.ResponseError, match=r"[Nn]o permissions"):
                keda.execute_command(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            owner.eval(KEDA_SCRIPT, 1, "sortline:label")  # our own user runs no scripts


@pytest.mark.slow
def test_pods_label_a_folder_while_keda_counts_and_a_worker_is_ended_in_mid_chunk(
    tmp_path: Path, model_store: Path
) -> None:
    given = {name: secret(name.lower().replace("_", "-")) for name in ("REDIS_PASSWORD", "KEDA_REDIS_PASSWORD")}
    broker = f"redis://sortline:{given['REDIS_PASSWORD']}@redis:6379/0"
    flower = f"sortline:{secret('flower')}"
    secrets = read_secret(EXAMPLE, {**given, "SORTLINE_BROKER": broker, "FLOWER_BASIC_AUTH": flower})
    objects = [*build(FOLDER / "overlays" / "cpu"), *build(FOLDER / "runs")]
    compose = as_compose(objects, secrets, tmp_path)
    worker: dict[str, Any] = compose["services"]["label-worker"]
    services = Pods(compose, tmp_path)
    write_images(services.folder_of("label-inbox", "/photos") / "inbox", 60)
    shutil.copytree(model_store, services.folder_of("trainer", "/models"), dirs_exist_ok=True)
    job, cron = (compose["services"][name]["command"] for name in ("label-inbox", "label-nightly"))
    compose["services"]["label-inbox"]["environment"]["SORTLINE_CHUNK_IMAGES"] = "10"

    with ExitStack() as stack:
        stack.enter_context(services.start("redis"))
        wait_until(lambda: services.is_healthy("redis"), 10, "redis")
        idle = counts(services, objects, given["KEDA_REDIS_PASSWORD"])
        for name in ("trainer", "flower"):
            stack.enter_context(services.start(name))
        labelling = stack.enter_context(services.start("label-inbox"))
        wait_until(lambda: sum(counts(services, objects, given["KEDA_REDIS_PASSWORD"]).values()) == 6, 60, "chunks")
        # Slow enough to be in the middle of a chunk when SIGTERM comes.
        worker["environment"] |= {"TEST_FAULT": "before publish=nap", "PYTEST_CURRENT_TEST": "this"}
        with services.start("label-worker"):
            wait_until(lambda: "chunk labelled" in services.log("label-worker").read_text(), 60, "the first chunk")
        log = services.log("label-worker").read_text()
        left = counts(services, objects, given["KEDA_REDIS_PASSWORD"])
        stack.enter_context(services.start("label-worker"))
        wait_until(lambda: labelling.poll() is not None, 60, "the job")
        nightly = services.run("label-nightly", *cron)
        for name in ("label-worker", "trainer", "flower"):
            wait_until(lambda name=name: services.is_healthy(name), 60, name)  # type: ignore[misc]
        done = counts(services, objects, given["KEDA_REDIS_PASSWORD"])

    assert labelling.returncode == 0
    assert nightly.returncode == 0, nightly.stderr
    for name in ("label-inbox", "label-nightly"):
        report = services.folder_of(name, "/reports") / name / "report.csv"
        with report.open(encoding="utf-8", newline="") as file:
            assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 60
    assert job[:2] == ["label", "/photos/inbox"]
    assert not any(idle.values())
    assert not any(done.values())
    finished = log.count('"chunk labelled"')
    assert sum(left.values()) == left["sortline:label"] == 6 - finished, log  # the chunk at hand was finished
    assert 0 < finished < 6
