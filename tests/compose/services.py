"""docker-compose.yml read as Compose reads it, and its services started as processes of this machine.

What a container would have of its own is translated, and nothing else: host names and ports become free ports here,
volumes and tmpfs become folders of the test, the programs of the images come from this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from producer.local.stack import find_redis_server
from tests.conftest import end, free_port

ROOT = Path(__file__).resolve().parents[2]
REDIS_PORT, FLOWER_PORT, METRICS_PORT = "6379", "5555", "9808"
# Stands in for the program of the Redis image: no wheel brings it.
REDIS_CLI = f"""#!{sys.executable}
import os, sys, redis
words = sys.argv[1:]
port, user = (words.pop(words.index(flag) + 1) for flag in ("-p", "--user"))
words = [word for word in words if word not in ("-p", "--user")]
answer = redis.Redis(port=int(port), username=user, password=os.environ["REDISCLI_AUTH"]).execute_command(*words)
print("PONG" if answer is True else answer)
"""
_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::([?-])([^}]*))?\})")


class MissingVariable(Exception):
    """The file asks for a variable that must be set."""


def read_compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return docker-compose.yml with its variables filled in."""
    raw = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    filled: dict[str, Any] = _fill(raw, environment)
    return filled


def _fill(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        dollar, name, kind, text = match.groups()
        if dollar:
            return "$"
        if found := environment.get(name):
            return found
        if kind == "?":
            raise MissingVariable(f"{name}: {text}")
        return text or ""

    return _VARIABLE.sub(look_up, value)


def dockerfile() -> dict[str, list[tuple[str, str]]]:
    """Instructions of the Dockerfile by stage, continued lines joined."""
    stages: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = [("FROM", base), *stages.get(base, [])]
        else:
            stages[name].append((word, rest.strip()))
    return stages


class Services:
    """The services of one docker-compose.yml, below one folder."""

    def __init__(self, compose: dict[str, Any], folder: Path) -> None:
        self._services: dict[str, Any] = compose["services"]
        self._folder = folder
        self._ports = {REDIS_PORT: free_port(), FLOWER_PORT: free_port()}
        programs = folder / "bin"
        programs.mkdir()
        (programs / "redis-server").symlink_to(find_redis_server())
        (programs / "redis-cli").write_text(REDIS_CLI)
        (programs / "redis-cli").chmod(0o755)
        self._path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    @property
    def redis_port(self) -> int:
        return self._ports[REDIS_PORT]

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    @contextmanager
    def start(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service's command with its environment until left; it must end well on SIGTERM."""
        with self.log(name).open("wb") as output:
            process = subprocess.Popen(
                self._command(name),
                env=self._environment(name),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._cwd(name),
            )
        try:
            yield process
        finally:
            try:
                end(process, 60)
            finally:
                print(f"--- {name}\n{self.log(name).read_text(encoding='utf-8', errors='replace')[-3000:]}")

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm NAME ARGUMENTS`."""
        return subprocess.run(
            [*self._entrypoint(name), *(self._local(name, argument) for argument in arguments)],
            env=self._environment(name), capture_output=True, text=True, timeout=240, check=False, cwd=self._cwd(name),
        )  # fmt: skip

    def is_healthy(self, name: str) -> bool:
        """Run the service's health check once."""
        kind, *words = self._services[name]["healthcheck"]["test"]
        words = [self._local(name, word) for word in words]
        command = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
        done = subprocess.run(
            command,
            env=self._environment(name),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self._cwd(name),
        )
        if done.returncode:
            print(f"{name} is not healthy: {done.stdout}{done.stderr}")
        return done.returncode == 0

    def folder_of(self, name: str, target: str) -> Path:
        """The folder here that stands for ``target`` in the container of ``name``."""
        return Path(self._local(name, target))

    def _command(self, name: str) -> list[str]:
        return [*self._entrypoint(name), *(self._local(name, word) for word in self._services[name]["command"])]

    def _entrypoint(self, name: str) -> list[str]:
        if "image" in self._services[name]:
            return []
        stage = dockerfile()[self._services[name]["build"]["target"]]
        (words,) = [rest for word, rest in stage if word == "ENTRYPOINT"]
        return list(yaml.safe_load(words))

    def _environment(self, name: str) -> dict[str, str]:
        found = {"PATH": self._path, "HOME": str(self._folder)}
        if "build" in self._services[name]:
            for word, rest in dockerfile()[self._services[name]["build"]["target"]]:
                if word == "ENV":
                    pairs = dict(pair.split("=", 1) for pair in rest.split())
                    found |= {key: self._local(name, value) for key, value in pairs.items() if key != "PATH"}
        given = self._services[name].get("environment", {})
        return found | {key: self._local(name, str(value)) for key, value in given.items()}

    def _cwd(self, name: str) -> Path:
        if "build" not in self._services[name]:
            return self._folder
        workdirs = [rest for word, rest in dockerfile()[self._services[name]["build"]["target"]] if word == "WORKDIR"]
        return Path(self._local(name, self._services[name].get("working_dir", workdirs[-1])))

    def _local(self, name: str, text: str) -> str:
        folders = self._folders(name)
        targets = "|".join(re.escape(target) for target in sorted(folders, key=len, reverse=True))
        text = re.sub(rf"(?<![\w/.])({targets})(?![\w.-])", lambda match: str(folders[match.group(1)]), text)
        text = text.replace(f"@redis:{REDIS_PORT}", f"@127.0.0.1:{self._ports[REDIS_PORT]}")
        text = text.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - of a container; here it stays on this machine
        for port in (REDIS_PORT, FLOWER_PORT):
            text = re.sub(rf"\b{port}\b", str(self._ports[port]), text)
        if text == METRICS_PORT:
            text = str(self._ports.setdefault(f"{METRICS_PORT} of {name}", free_port()))
        return text

    def _folders(self, name: str) -> dict[str, Path]:
        folders = {}
        for volume in self._services[name].get("volumes", []):
            source, target, *_ = volume.split(":")
            is_path = source.startswith(("/", "."))
            folders[target] = (ROOT / source).resolve() if is_path else self._folder / "volumes" / source
        for mount in self._services[name].get("tmpfs", []):
            target = mount.partition(":")[0]
            folders[target] = self._folder / "tmpfs" / name / target.strip("/")
        for folder in folders.values():
            if not folder.is_file():
                folder.mkdir(parents=True, exist_ok=True)
        return folders
