"""Flower with safe defaults: bound to this machine, behind a password, changing nothing.

All of Flower's options travel in its environment as ``FLOWER_*``: command lines can be read by all users.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from base.install import pip_install
from producer.errors import UsageError
from producer.local.stack import LocalStack

ADDRESS = "127.0.0.1"
FIRST_PORT = 5555
PORTS_TRIED = 20
USER = "sortline"
COMMAND = (sys.executable, "-m", "celery", "-A", "jobs.monitored:app", "flower")
NOT_INSTALLED = f"Flower is not installed: {pip_install('sortline[monitor]')}"
ON = frozenset({"1", "true", "yes", "on", "t", "y"})
# A command line is no place for a secret.
SECRET = frozenset({"basic_auth", "oauth2_secret", "cookie_secret"})
OWN_LOGINS = "flower.views.auth."  # classes for logins at GitHub, GitLab, Google and others
# What these name has options and settings of ours.
OURS = {"address": "--address", "port": "--port", "read_only": "--read-only or --allow-changes", "db": "--home"}


@dataclass(frozen=True, slots=True)
class Flower:
    """How Flower is to run: its environment, and the line that says how to reach it."""

    environment: Mapping[str, str]
    message: str


def plan_flower(
    home: Path,
    *,
    address: str = "",
    port: int = 0,
    read_only: bool = True,
    auth: bool = True,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Flower:
    """Return how Flower runs with these options; Flower's own variables in the environment count as well.

    Args:
        home: where the password and the database are kept.
        address, port: to bind to; the defaults are 127.0.0.1 and the first free port from 5555 on.
        auth: ask for a password, made here at the first call, or for what ``FLOWER_BASIC_AUTH`` or ``FLOWER_AUTH`` say.
        options: of Flower itself, as ``--name=value``.

    Raises:
        UsageError: an option that Flower doesn't have or that isn't passed on, or others could come in unasked.
    """
    given = {
        name.removeprefix("FLOWER_").lower(): value
        for name, value in (os.environ if environment is None else environment).items()
        if name.startswith("FLOWER_") and value
    }
    chosen = {**given, **_parse(options)}
    if "conf" in chosen or not chosen.get("auth_provider", OWN_LOGINS).startswith(OWN_LOGINS):
        raise UsageError(
            "Flower's conf, and an auth_provider that is not Flower's, are not passed on: they run code that could "
            "undo the password"
        )
    chosen["address"] = address or given.get("address", ADDRESS)
    chosen["port"] = str(port or given.get("port") or free_port(chosen["address"]))
    chosen["read_only"] = "true" if read_only and given.get("read_only", "true").lower() in ON else "false"
    defaults = {
        "persistent": "true",
        "db": str(home / "flower.db"),
        "state_save_interval": "60000",  # milliseconds: else only a clean stop saves
        "purge_offline_workers": "600",  # seconds: each start of a worker has a name of its own
    }
    message = f"Flower at http://{_host(chosen['address'])}:{chosen['port']}"
    if not auth:
        chosen.pop("basic_auth", None)
        chosen.pop("auth", None)
    elif "auth" in chosen:
        message += ", with a login by OAuth"
    elif "basic_auth" in chosen:
        message += ", user and password as in FLOWER_BASIC_AUTH"
    else:
        password, is_new = flower_password(home)
        chosen["basic_auth"] = f"{USER}:{password}"
        kept = password_file(home)
        message += f", user {USER}, password {f'{password} (shown once, kept in {kept})' if is_new else f'in {kept}'}"
    _require_login(chosen)
    message += "; read-only" if chosen["read_only"] == "true" else "; it may revoke tasks and stop workers"
    return Flower({f"FLOWER_{name.upper()}": value for name, value in (defaults | chosen).items()}, message)


def start_flower(stack: LocalStack) -> str:
    """Start Flower in ``stack``; return the line that says how to reach it, or why it isn't there."""
    if find_spec("flower") is None:
        return NOT_INSTALLED
    flower = plan_flower(stack.settings.home)
    stack.start("flower", list(COMMAND), flower.environment)
    return flower.message


def password_file(home: Path) -> Path:
    """Where Flower's password is kept, readable by its owner only."""
    return home / "flower-password"


def flower_password(home: Path) -> tuple[str, bool]:
    """Return Flower's password, and whether it was made just now."""
    path = password_file(home)
    with suppress(FileNotFoundError):
        if (password := path.read_text(encoding="utf-8").strip()) and password.isprintable():
            return password, False
        path.unlink()  # a power cut left nothing in it, or zeros: no password for anybody to guess
    password = secrets.token_urlsafe(12)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(password + "\n")
    return password, True


def free_port(address: str = ADDRESS) -> int:
    """Return the first port from 5555 on that can be bound to."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {FIRST_PORT} to {FIRST_PORT + PORTS_TRIED - 1} at {address}")


def _parse(options: Sequence[str]) -> dict[str, str]:
    from flower.options import default_options

    known = {name.replace("-", "_") for name in default_options} - {"help"}
    found = {}
    for option in options:
        dashed, equals, value = option.partition("=")
        name = dashed.lstrip("-").replace("-", "_")
        if not dashed.startswith("--") or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean --{near[0]}=...?" if near else ""
            raise UsageError(f"Flower has no option {dashed}{hint}. Its options are written --name=value")
        if name in SECRET:
            raise UsageError(
                f"--{name} on the command line can be read by everybody here; set FLOWER_{name.upper()} instead"
            )
        if name in OURS:
            raise UsageError(f"--{name} of Flower: use {OURS[name]}")
        found[name] = value if equals else "true"
    return found


def _require_login(chosen: Mapping[str, str]) -> None:
    """Raise where somebody could reach Flower without a password."""
    if chosen.get("basic_auth") or chosen.get("auth"):
        return
    if chosen.get("unix_socket"):
        raise UsageError("Flower's unix socket is open to every user of this machine: not without a password")
    if not is_loopback(chosen["address"]):
        raise UsageError(
            f"Flower at {chosen['address']} without a password would let everybody in; leave out --no-auth, "
            "or bind it to 127.0.0.1"
        )


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach ``address``. A name other than localhost may mean anything."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
