"""Folders of a web server.

Not through fsspec, whose HTTP follows redirects to anywhere and reads answers of any length. An address is made by
quoting a path below the root, so it has no query, and a redirect is followed only to what is below the root as well.
"""

from __future__ import annotations

import netrc
import os
import time
from contextlib import suppress
from html.parser import HTMLParser
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from base.errors import ImageError, UnavailableError
from storage.protocol import (
    CONNECT_LIMIT_S,
    SILENCE_LIMIT_S,
    TRY_LIMIT_S,
    Entry,
    TooManyBytes,
    TransientError,
    check_path,
)

REDIRECTS = 5
MOVED = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429)  # and everything from 500 on
PIECE_BYTES = 1 << 18
MOST_INDEX_BYTES = 64 * 1024 * 1024


class HttpFolder:
    """A folder of a web server; listed by its index page. A user and password for the host come from ``~/.netrc``."""

    def __init__(self, url: str, connections: int) -> None:
        self.url = url
        self.connections = connections
        limits = urllib3.Timeout(connect=CONNECT_LIMIT_S, read=SILENCE_LIMIT_S)
        headers = {"User-Agent": "sortline", "Accept-Encoding": "identity", **_credentials(url)}
        proxy = _proxy(url)
        self._pool = (
            urllib3.ProxyManager(proxy, maxsize=connections, timeout=limits, headers=headers)
            if proxy
            else urllib3.PoolManager(maxsize=connections, timeout=limits, headers=headers)
        )

    def read(self, path: str, limit: int) -> bytes:
        """Return the file at ``path``; see ``storage.protocol.Folder``."""
        check_path(path)
        return self._get(f"{self.url}/{quote(os.fsencode(path))}", limit)

    def list(self, path: str) -> list[Entry]:
        """Return what the index page of ``path`` links to that lies directly in it."""
        folder = f"{self.url}/{quote(os.fsencode(path))}".rstrip("/") + "/"
        links = _Links()
        links.feed(self._get(folder, MOST_INDEX_BYTES).decode("utf-8", "replace"))
        found = {}
        for link in links.targets:
            with suppress(ValueError):  # no URL at all
                below = urljoin(folder, link)
                name, slash, more = below.removeprefix(folder).partition("/")
                # Columns of an index page sort by links with a query.
                if below.startswith(folder) and name and not more and not {"?", "#"} & set(name):
                    decoded = os.fsdecode(unquote_to_bytes(name))
                    if decoded not in (".", "..") and "/" not in decoded and "\0" not in decoded:
                        found[decoded] = Entry(decoded, bool(slash))
        return [*found.values()]

    def check(self) -> None:
        """Raise UnavailableError when the server can't be reached, or fails for the root as well."""
        try:
            self._get(f"{self.url}/", 0)
        except ImageError:
            return  # it answers; that there is no index, or that it has bytes, says nothing about its files
        except TransientError as error:
            raise UnavailableError(f"the data root {self.url} can't be read: {error}") from error

    def _get(self, address: str, limit: int) -> bytes:
        until = time.monotonic() + TRY_LIMIT_S
        for _ in range(1 + REDIRECTS):
            try:
                answer = self._pool.request(
                    "GET", address, redirect=False, retries=False, preload_content=False, decode_content=False
                )
                try:
                    if answer.status in MOVED and (target := answer.headers.get("Location")):
                        address = self._redirected(address, target)
                        continue
                    self._check_status(answer.status, address)
                    return _body(answer, limit, until, address)
                finally:
                    answer.close()  # gives a connection back whose answer was read to its end, and ends others
            except urllib3.exceptions.HTTPError as error:
                raise TransientError(f"{address}: {type(error).__name__}: {error}") from error
        raise ImageError("unreadable", f"{address} is redirected more than {REDIRECTS} times")

    def _redirected(self, address: str, target: str) -> str:
        try:
            found = urljoin(address, target)
            parts = unquote_to_bytes(urlsplit(found).path).split(b"/")
        except ValueError:
            found, parts = "", []
        if not found.startswith(f"{self.url}/") or {"?", "#"} & set(found) or {b".", b".."} & set(parts):
            raise ImageError("unreadable", f"{address} is redirected to what is not below the data root")
        return found

    def _check_status(self, status: int, address: str) -> None:
        if status == 401:
            raise UnavailableError(f"{self.url} asks for a user and a password: put them into ~/.netrc")
        if status in (404, 410):
            raise ImageError("not_found", f"{address} does not exist")
        if status in BUSY or status >= 500:
            raise TransientError(f"{address}: status {status}")
        if status != 200:
            raise ImageError("unreadable", f"{address}: status {status}")


def _body(answer: urllib3.BaseHTTPResponse, limit: int, until: float, address: str) -> bytes:
    declared = answer.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooManyBytes(f"{address} has {int(declared):,} bytes, the limit is {limit:,}")
    parts, size = [], 0
    while part := answer.read1(PIECE_BYTES, decode_content=False):
        size += len(part)
        if size > limit:  # the length was a lie, or was not given
            raise TooManyBytes(f"{address} has more bytes than the limit of {limit:,}")
        if time.monotonic() > until:
            raise TransientError(f"{address} was not read within {TRY_LIMIT_S:.0f} s")
        parts.append(part)
    return b"".join(parts)


def _credentials(url: str) -> dict[str, str]:
    try:
        found = netrc.netrc().authenticators(urlsplit(url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        return {}
    return dict(urllib3.make_headers(basic_auth=f"{found[0]}:{found[2]}")) if found else {}


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


class _Links(HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attributes if name == "href" and value]
