"""Every container of deploy/kubernetes as a process of this machine: a Job labels a folder while KEDA counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.canaries import secret
from tests.cluster.kustomize import Manifest, build
from tests.cluster.pods import as_compose, read_secret
from tests.cluster.test_kubernetes import EXAMPLE, FOLDER
from tests.compose.services import Services
from tests.conftest import wait_until

# What KEDA's scaler of Redis lists runs for each key (pkg/scalers/redis_scaler.go).
KEDA_SCRIPT = """
local cmd = {zset = 'zcard', set = 'scard', list = 'llen', hash = 'hlen', none = 'llen'}
return redis.call(cmd[redis.call('type', KEYS[1]).ok], KEYS[1])
"""


def counts(services: Services, objects: list[Manifest], password: str) -> dict[str, int]:
    """What KEDA finds, with its own user and script."""
    (scaled,) = (found for found in objects if found["kind"] == "ScaledObject")
    client = redis.Redis(port=services.redis_port, username="keda", password=password)
    names = [trigger["metadata"]["listName"] for trigger in scaled["spec"]["triggers"]]
    return {name: int(client.eval(KEDA_SCRIPT, 1, name)) for name in names}


@pytest.mark.slow
def test_kedas_user_may_count_two_keys_and_nothing_else(tmp_path: Path) -> None:
    given = {name: secret(name.lower().replace("_", "-")) for name in ("REDIS_PASSWORD", "KEDA_REDIS_PASSWORD")}
    objects = build(FOLDER / "overlays" / "cpu")
    services = Services(as_compose(objects, read_secret(EXAMPLE, given), tmp_path), tmp_path)

    with services.start("redis"):
        wait_until(lambda: services.is_healthy("redis"), 10, "redis")
        owner = redis.Redis(port=services.redis_port, username="sortline", password=given["REDIS_PASSWORD"])
        owner.lpush("sortline:label", "a", "b")
        owner.hset("sortline:unacked", "tag", "message")
        assert counts(services, objects, given["KEDA_REDIS_PASSWORD"]) == {"sortline:label": 2, "sortline:unacked": 1}
        keda = redis.Redis(port=services.redis_port, username="keda", password=given["KEDA_REDIS_PASSWORD"])
        for command in (
            ("DEL", "sortline:label"), ("LRANGE", "sortline:label", 0, -1), ("HLEN", "sortline:jobs"), ("FLUSHALL",),
            ("EVAL", "return redis.call('del', KEYS[1])", 1, "sortline:label"),
            ("EVAL", "return redis.call('hlen', 'sortline:jobs')", 0),
        ):  # fmt: skip
            with pytest.raises(redis.ResponseError, match=r"[Nn]o permissions"):
                keda.execute_command(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            owner.eval(KEDA_SCRIPT, 1, "sortline:label")  # our own user runs no scripts
