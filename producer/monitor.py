"""Flower, bound to this machine, behind a password, read-only."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from producer.stack import LocalStack

FIRST_PORT = 5555
PORTS_TRIED = 20
USER = "sortline"


def start_flower(stack: LocalStack) -> str:
    """Start Flower in ``stack``; return the line that tells a person how to reach it, or why it isn't there."""
    if find_spec("flower") is None:
        return 'Flower is not installed: pip install "sortline[monitor]"'
    port = _free_port()
    password = flower_password(stack.settings.home)
    # Secrets and the broker travel in the environment: command lines can be read by everybody on the machine.
    environment = {
        "FLOWER_BASIC_AUTH": f"{USER}:{password}",
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": str(port),
        "FLOWER_READ_ONLY": "true",
        "FLOWER_PERSISTENT": "true",
        "FLOWER_DB": str(stack.settings.home / "flower.db"),
    }
    stack.start("flower", [sys.executable, "-m", "celery", "-A", "jobs.monitored:app", "flower"], environment)
    return f"Flower at http://127.0.0.1:{port}, user {USER}, password in {password_file(stack.settings.home)}"


def password_file(home: Path) -> Path:
    """Where Flower's password is kept, readable by its owner only."""
    return home / "flower-password"


def flower_password(home: Path) -> str:
    """Return Flower's password; made at the first call."""
    path = password_file(home)
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        password = secrets.token_urlsafe(12)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(password + "\n")
        return password


def _free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError(f"no free port from {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1}")
