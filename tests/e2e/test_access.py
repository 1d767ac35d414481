"""Redis as docs/guide/deploy.md sets it up: an ACL user that may do what Sortline needs, no more; hidden passwords."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import redis

from producer.local.stack import find_redis_server
from tests.canaries import MARK, secret
from tests.conftest import SORTLINE, end, environment, free_port, sortline, wait_until, write_images
from tests.e2e.test_train import LEARNS, QUICK, write_shades

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ACL = ROOT / "configs" / "redis-users.acl"
PASSWORD, ADMIN = secret("sortline"), secret("admin")


@contextmanager
def running(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        yield process
    finally:
        end(process, 60)
        print(f"--- {log.name}\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server with the ACL that ships, and an administrator to look at its log."""
    users = tmp_path / "users.acl"
    text = ACL.read_text().replace("PASSWORD_SHA256", sha256(PASSWORD.encode()).hexdigest())
    users.touch(0o600)
    users.write_text(f"{text}user admin on >{ADMIN} ~* &* +@all\n")
    number = free_port()
    command = [str(find_redis_server()), "--port", str(number), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "yes", "--dir", str(tmp_path), "--aclfile", str(users)]
    with running(command, {}, tmp_path / "redis.log"):
        wait_until(lambda: answers(number), 20, "Redis")
        yield number


def answers(port: int) -> bool:
    try:
        return bool(admin(port).ping())
    except redis.RedisError:
        return False


def admin(port: int) -> redis.Redis:
    return redis.Redis(port=port, username="admin", password=ADMIN, decode_responses=True)


@pytest.mark.long
def test_a_run_a_training_flower_and_the_doctor_are_never_denied_and_no_log_shows_a_password(
    port: int, home: Path, tmp_path: Path, model_store: Path
) -> None:
    write_images(tmp_path / "photos", 40)
    shades = write_shades(tmp_path / "shades")
    env = environment(
        home,
        {
            "SORTLINE_BROKER": f"redis://sortline:{PASSWORD}@127.0.0.1:{port}/0",
            "SORTLINE_DATA_ROOT": str(tmp_path),
            "SORTLINE_CHUNK_IMAGES": "4",
            "SORTLINE_LOG_LEVEL": "debug",
            "SORTLINE_VISIBILITY_TIMEOUT_S": "4",
            "FLOWER_LOGGING": "debug",
        },
    )
    said = []
    with ExitStack() as stack:
        for kind in ("label", "train"):
            command = [sys.executable, "-m", "worker", "--queues", kind]
            stack.enter_context(running(command, env, home / f"{kind}.log"))
        flower = home / "flower.log"
        stack.enter_context(running([SORTLINE, "monitor", "--port", str(free_port())], env, flower))
        for arguments in (
            ["train", str(shades), *QUICK, *LEARNS, "--name", "shades"],
            ["label", str(tmp_path / "photos"), "-o", "a.csv"],
            ["label", str(tmp_path / "photos"), "-o", "b.csv", "--detach"],
            ["jobs", "list"],
            ["doctor"],
        ):
            done = sortline(*arguments, home=home, env=env, limit_s=200)
            said.append(done.stdout + done.stderr)
        job = said[2].splitlines()[0]
        said.append(sortline("jobs", "gather", job, "-o", "b.csv", home=home, env=env).stderr)
        said.append(sortline("jobs", "cancel", job, home=home, env=env, code=2).stderr)
        wait_until(lambda: "Visit me at" in flower.read_text(), 60, "Flower")

    assert "eviction policy noeviction" in said[4]
    assert (home / "a.csv").read_bytes() == (home / "b.csv").read_bytes()
    assert admin(port).acl_log() == []
    logs = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in home.glob("*.log")}
    assert {"label.log", "train.log", "flower.log"} <= logs.keys()
    assert len(logs["label.log"]) > 1000
    shown = {name for name, text in logs.items() if MARK in text}
    assert shown == set()
    assert not any(MARK in text for text in said)


def test_the_acl_lets_nobody_do_anything_else(port: int) -> None:
    client = redis.Redis(port=port, username="sortline", password=PASSWORD)
    denied: list[tuple[str, ...]] = [
        ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "/"),
        ("ACL", "LIST"), ("SHUTDOWN",), ("REPLICAOF", "127.0.0.1", "1"), ("SAVE",),
        ("MODULE", "LIST"), ("MONITOR",), ("CLIENT", "KILL", "ID", "1"),
        ("EVAL", "return 1", "0"), ("EVAL_RO", "return 1", "0"), ("EVALSHA", "0" * 40, "0"), ("SCRIPT", "FLUSH"),
        ("SCRIPT", "LOAD", "return 1"), ("SCRIPT", "KILL"), ("FUNCTION", "LIST"), ("FCALL", "f", "0"),
        ("SELECT", "0"), ("SELECT", "1"), ("MOVE", "sortline:x", "1"), ("COPY", "sortline:x", "sortline:y", "DB", "1"),
        ("SPUBLISH", "other", "x"), ("PUBSUB", "CHANNELS"), ("PSUBSCRIBE", "*"), ("PSUBSCRIBE", "sortline:*"),
        ("PUBLISH", "sortline:/1.celery.pidbox", "x"), ("PSUBSCRIBE", "sortline:/1.celery.pidbox"),
        ("SORT", "sortline:x", "GET", "other"), ("OBJECT", "ENCODING", "other"), ("RENAME", "sortline:x", "other"),
        ("GET", "other"), ("SET", "other", "x"), ("DEL", "other"), ("LPUSH", "label", "x"), ("PUBLISH", "other", "x"),
        ("SUBSCRIBE", "other"), ("SCAN", "0"), ("SWAPDB", "0", "1"), ("MIGRATE", "h", "1", "k", "0", "1"),
    ]  # fmt: skip

    for command in denied:
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(*command)
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=port).ping()
    assert client.lpush("sortline:label", "x") == 1
