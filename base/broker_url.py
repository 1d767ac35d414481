"""The URL of a broker, read once for all who connect by it: redis-py, Celery and Flower read URLs in three other ways.

No error here quotes what may be a password.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

SOCKET_PATH_BYTES = 107  # sockaddr_un of Linux, without the null at its end
KINDS = "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// the same with TLS, or unix:///PATH[?db=DATABASE]"
QUOTING = "a password's / # ? @ are %2F %23 %3F %40"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """Where a Redis is and how to connect: over TCP to a host, or to the unix socket at ``path``."""

    is_tls: bool = False
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: dict[str, Any] = field(default_factory=dict)  # redis-py's arguments of these names
    tls_files: dict[str, str] = field(default_factory=dict)  # likewise


def unix_url(socket: Path) -> str:
    """Return the URL of the broker at a unix socket."""
    return f"unix://{quote(os.fsencode(socket))}"


def socket_path(quoted: str) -> str:
    """Return the path that stands in a URL."""
    return os.fsdecode(unquote_to_bytes(quoted))


def parse_broker_url(url: str) -> BrokerUrl:
    """Return what ``url`` says; ValueError, without any password, when Sortline can't connect by it."""
    scheme, marks, rest = url.partition("://")
    if "sentinel" in scheme or "cluster" in scheme:
        raise ValueError(
            "Redis Sentinel and Redis Cluster are not supported; give the URL of one primary: redis://HOST"
        )
    if scheme not in ("redis", "rediss", "unix") or not marks:
        raise ValueError(f"a broker is a redis://, rediss:// or unix:// URL: {KINDS}")
    if "#" in rest:
        raise ValueError(f"a # in it is written %23; {QUOTING}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 6379
    except ValueError:  # its words quote the URL
        host = ";"
    if re.search(r"[;,\s\\]", host):
        raise ValueError(f"it has no single host and port; {QUOTING}")
    if re.search(r"(^|&)[^=&]*%", parts.query):  # passw%6Frd: what looks for passwords would not find it
        raise ValueError(f"the URL of a broker has an option with % in its name; {QUOTING}")
    query: dict[str, str] = dict(
        reversed(parse_qsl(parts.query))
    )  # of two equal names the first one counts, as for redis-py
    common: dict[str, Any] = {
        "username": unquote(parts.username or "") or query.pop("username", None),
        "password": unquote(parts.password or "") or query.pop("password", None),
    }
    query = {name: value for name, value in query.items() if name not in common}
    db = query.pop("db", None if scheme == "unix" else parts.path.strip("/"))
    if not re.fullmatch("[0-9]{0,9}", db or ""):
        raise ValueError("the database of a broker is a number, as in redis://HOST:6379/0 or unix:///PATH?db=0")
    common |= {"db": int(db or 0), "options": _options(query, scheme), "tls_files": query}
    if scheme != "unix":
        return BrokerUrl(is_tls=scheme == "rediss", host=unquote(host) or "localhost", port=port, **common)
    path = socket_path(parts.path)
    if host not in ("", "localhost") or not path:
        raise ValueError(f"a unix:// broker has three slashes, as in unix:///run/redis.sock; {QUOTING}")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES or "\0" in path:
        raise ValueError(f"the path of a unix socket has at most {SOCKET_PATH_BYTES} bytes; this one is longer")
    return BrokerUrl(path=path, **common)


def masked_url(url: str) -> str:
    """Return ``url`` without its password, wherever redis-py would take one from."""
    url = re.sub(r"([?&]password=)[^&]*", r"\1***", url)  # first: it may hold an @ as well
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)  # to the last @: a password may hold one


def _options(query: dict[str, str], scheme: str) -> dict[str, Any]:
    """Take the options of a connection out of ``query``; what names files of TLS stays there."""
    options: dict[str, Any] = {}
    for name in list(query):
        if name in OPTIONS:
            try:
                options[name] = OPTIONS[name](query.pop(name))
            except ValueError as error:
                raise ValueError(f"a broker's {name} is {error}") from None
        elif name in TLS_CHECKS and scheme == "rediss":
            if query.pop(name).lower().removeprefix("cert_") not in TLS_CHECKS[name]:
                raise ValueError(f"a rediss:// broker is verified always: leave out {name}")
        elif name not in TLS_FILES or scheme != "rediss":
            known = (*OPTIONS, *TLS_FILES) if scheme == "rediss" else OPTIONS
            raise ValueError(f"the URL of a broker has an option that is not known here; known: {', '.join(known)}, db")
    return options


def _number(kind: Callable[[str], float], least: float, what: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not least <= number < 1e6:
            raise ValueError(what)
        return number

    return read


def _boolean(text: str) -> bool:
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError("true or false")
    return text.lower() in TRUE


def _name(text: str) -> str:
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("a word of ASCII characters")
    return text


TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
OPTIONS: dict[str, Callable[[str], Any]] = {
    "socket_timeout": _number(float, 0.1, "a number of seconds, 0.1 or more"),
    "socket_connect_timeout": _number(float, 0.1, "a number of seconds, 0.1 or more"),
    "socket_keepalive": _boolean,
    "health_check_interval": _number(int, 0, "a whole number of seconds"),
    "max_connections": _number(int, 10, "a number of connections, 10 or more"),
    "client_name": _name,
}
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_CHECKS = {"ssl_cert_reqs": ("required",), "ssl_check_hostname": TRUE}
