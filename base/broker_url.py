"""The URL of a broker, read once for all who connect by it: redis-py, Celery and Flower read URLs in three other ways.

No error here quotes what may be a password.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

SOCKET_PATH_BYTES = 107  # sockaddr_un of Linux, without the null at its end
KINDS = (
    "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// the same with TLS, unix:///PATH[?db=DATABASE], or "
    "sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT][/DATABASE]?master_name=NAME"
)
SENTINELS = {"sentinel": "redis", "redis+sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_OPTIONS = ("master_name", "sentinel_username", "sentinel_password")
SENTINEL_PORT = 26379
QUOTING = "a password's / # ? @ are %2F %23 %3F %40"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """Where a Redis is and how to connect: over TCP to a host, or to the unix socket at ``path``.

    With ``sentinels`` (host, port) the host is the one that they call ``master_name``, whichever that is just now.
    """

    is_tls: bool = False
    host: str = "localhost"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: dict[str, Any] = field(default_factory=dict)  # redis-py's arguments of these names
    tls_files: dict[str, str] = field(default_factory=dict)  # likewise
    sentinels: tuple[tuple[str, int], ...] = ()
    master_name: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)


def unix_url(socket: Path) -> str:
    """Return the URL of the broker at a unix socket."""
    return f"unix://{quote(os.fsencode(socket))}"


def socket_path(quoted: str) -> str:
    """Return the path that stands in a URL."""
    return os.fsdecode(unquote_to_bytes(quoted))


def parse_broker_url(url: str) -> BrokerUrl:
    """Return what ``url`` says; ValueError, without any password, when Sortline can't connect by it."""
    scheme, marks, rest = url.partition("://")
    if "cluster" in scheme:
        raise ValueError("Redis Cluster is not supported; give the URL of one primary: redis://HOST")
    if scheme == "redis+socket" and rest.startswith("/"):  # Celery's name of a unix socket
        scheme, rest = "unix", re.sub(r"([?&])virtual_host=", r"\1db=", rest)
    if scheme not in ("redis", "rediss", "unix", *SENTINELS) or not marks:
        raise ValueError(f"a broker is a redis://, rediss:// or unix:// URL, or one of Sentinels: {KINDS}")
    if "#" in rest:
        raise ValueError(f"a # in it is written %23; {QUOTING}")
    if scheme in SENTINELS:
        return _parse_sentinels(scheme, rest)
    return _parse(scheme, rest)


def _parse_sentinels(scheme: str, rest: str) -> BrokerUrl:
    """Read ``HOST,HOST/DATABASE?master_name=NAME``, or kombu's form in which each host has a URL of its own."""
    head, mark, query = rest.partition("?")
    accesses, hosts, paths = set(), list[str](), set()
    for part in head.split(f";{scheme}://"):
        access, _, place = part.rpartition("@")
        names, _, path = place.partition("/")
        accesses |= {access} - {""}
        hosts += re.split("[,;]", names)
        paths |= {path.strip("/")} - {""}
        if "://" in part:
            raise ValueError(f"each of its Sentinels is HOST:PORT or {scheme}://HOST:PORT")
    if len(accesses) > 1 or len(paths) > 1:
        raise ValueError("its Sentinels lead to one Redis: give one user, one password and one database")
    if not all(hosts):
        raise ValueError(f"one of its Sentinels has no host; {QUOTING}")
    access, path = "".join(access + "@" for access in accesses), "".join(f"/{path}" for path in paths)
    found = [
        _parse(SENTINELS[scheme], f"{access}{host}{path}{mark}{query}", SENTINEL_OPTIONS, SENTINEL_PORT)
        for host in hosts
    ]
    if not found[0].master_name:
        raise ValueError("it does not say what the Sentinels call their primary: put ?master_name=NAME at its end")
    return replace(found[0], host="", port=0, sentinels=tuple((each.host, each.port) for each in found))


def _parse(scheme: str, rest: str, more_options: Sequence[str] = (), default_port: int = 6379) -> BrokerUrl:
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "", parts.port or default_port
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
        **{name: query.pop(name) for name in more_options if name in query},
    }
    query = {name: value for name, value in query.items() if name not in common}
    db = query.pop("db", None if scheme == "unix" else parts.path.strip("/"))
    if not re.fullmatch("[0-9]{0,9}", db or ""):
        raise ValueError("the database of a broker is a number, as in redis://HOST:6379/0 or unix:///PATH?db=0")
    common |= {"db": int(db or 0), "options": _options(query, scheme, more_options), "tls_files": query}
    if scheme != "unix":
        return BrokerUrl(is_tls=scheme == "rediss", host=unquote(host) or "localhost", port=port, **common)
    path = socket_path(parts.path)
    if host not in ("", "localhost") or not path:
        raise ValueError(f"a unix:// broker has three slashes, as in unix:///run/redis.sock; {QUOTING}")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES or "\0" in path:
        raise ValueError(f"the path of a unix socket has at most {SOCKET_PATH_BYTES} bytes; this one is longer")
    return BrokerUrl(path=path, **common)


def masked_url(url: str) -> str:
    """Return ``url`` without its passwords, wherever redis-py or kombu would take one from."""
    url = re.sub(r"([?&](?:sentinel_)?password=)[^&]*", r"\1***", url)  # first: it may hold an @ as well
    # To the last @ of each URL in it: a password may hold one.
    return ";".join(re.sub(r"(://[^:/@]*:).*@", r"\1***@", part) for part in _urls(url))


def written_passwords(url: str) -> list[str]:
    """Return the passwords in ``url``, quoted as they are there."""
    in_query = re.findall(r"[?&](?:sentinel_)?password=([^&]*)", url)
    in_user = [match[1] for part in _urls(url) if (match := re.search(r"://[^:/@]*:(.*)@", part))]
    return in_user + in_query


def _urls(url: str) -> list[str]:
    return re.split(r";(?=[a-z+]+://)", url)


def _options(query: dict[str, str], scheme: str, more_options: Sequence[str]) -> dict[str, Any]:
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
            known = ", ".join((*OPTIONS, *(TLS_FILES if scheme == "rediss" else ()), *more_options))
            raise ValueError(f"the URL of a broker has an option that is not known here; known: {known}, db")
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
    "retry_on_timeout": _boolean,
    "health_check_interval": _number(int, 0, "a whole number of seconds"),
    "max_connections": _number(int, 10, "a number of connections, 10 or more"),
    "client_name": _name,
}
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_CHECKS = {"ssl_cert_reqs": ("required",), "ssl_check_hostname": TRUE}
