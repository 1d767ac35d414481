"""Who may ask the review server what. Plain functions of a request; each one refuses with a sentence.

The server is there for one person on one machine. Other pages in the same browser, other users of the host and whoever
got hold of the link are kept out:

- the link's token opens the page once; then the browser has a cookie, which no other port or path is sent;
- the ``Host`` must be this server (a foreign name that points to 127.0.0.1 is not);
- a request of another site is refused, and whatever changes something needs the page's own origin and token;
- a connection of another user of this host is refused, whatever it knows.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from pathlib import Path

ADDRESS = "127.0.0.1"
COOKIE = "sortline-review"
SOCKETS = Path("/proc/net/tcp")
JSON = "application/json"
MOST_BODY_BYTES = 4 * 1024 * 1024
_ROOT_UID = 0  # forwards ports of containers; it could read everything anyway


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclass
class Guard:
    """The secrets of one server.

    Attributes:
        link: opens the page, once.
        path: the folder that all addresses lie in; cookies are sent to no other.
        token: of the page, which each change has to name.
    """

    port: int
    link: str = field(default_factory=_secret)
    path: str = field(default_factory=lambda: secrets.token_hex(8))
    session: str = field(default_factory=_secret)
    token: str = field(default_factory=_secret)

    @property
    def address(self) -> str:
        """What a person opens."""
        return f"http://{ADDRESS}:{self.port}/?token={self.link}"

    @property
    def cookie(self) -> str:
        """The header that gives a browser its session."""
        return f"{COOKIE}={self.session}; Path=/{self.path}/; HttpOnly; SameSite=Strict"

    def take_link(self, token: str) -> bool:
        """Return whether this is the token of the link, which is worth nothing after that."""
        if not self.link or not compare_digest(token.encode(), self.link.encode()):
            return False
        self.link = ""
        return True

    def refusal(self, method: str, headers: Mapping[str, str], cookie: str, peer: tuple[str, int] | None) -> str:
        """Return why a request is not answered; "" if it is.

        Args:
            headers: with names in lower case.
            cookie: the value of `COOKIE`, "" without one.
        """
        return self.stranger(headers, peer) or self._unknown(cookie) or self._foreign(method, headers)

    def stranger(self, headers: Mapping[str, str], peer: tuple[str, int] | None) -> str:
        """Return why whoever is connected may not even show a link."""
        if headers.get("host") not in (f"{ADDRESS}:{self.port}", f"localhost:{self.port}"):
            return "this server answers to its own address alone"
        if (user := _user_of(peer, self.port)) is not None and user not in (_ROOT_UID, os.getuid()):
            return "this page belongs to another user of this host"
        return ""

    def _unknown(self, cookie: str) -> str:
        if compare_digest(cookie.encode(), self.session.encode()):
            return ""
        return "open the link that `sortline review` has printed; it works once, in one browser"

    def _foreign(self, method: str, headers: Mapping[str, str]) -> str:
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "another site asked for this"
        if method in ("GET", "HEAD"):
            return ""
        if method != "POST" or headers.get("content-type", "").partition(";")[0] != JSON:
            return "changes are sent as JSON, by POST"
        if headers.get("origin") != f"http://{headers['host']}":
            return "another site sent this"
        if not compare_digest(headers.get("x-sortline-token", "").encode(), self.token.encode()):
            return "the page's token is missing or of another server: load the page again"
        if not headers.get("content-length", "").isdecimal() or int(headers["content-length"]) > MOST_BODY_BYTES:
            return f"a change has at most {MOST_BODY_BYTES} bytes"
        return ""


def _user_of(peer: tuple[str, int] | None, port: int) -> int | None:
    """Return the id of the user at the other end of a connection on this host; None where the system doesn't say."""
    try:
        return user_in(SOCKETS.read_text("ascii"), peer[1], port) if peer else None
    except OSError:
        return None


def user_in(table: str, theirs: int, ours: int) -> int | None:
    """Return who holds the end at port ``theirs`` of a connection to port ``ours``, by a table as /proc/net/tcp."""
    ends = f"0100007F:{theirs:04X} 0100007F:{ours:04X} "
    for line in table.splitlines()[1:]:
        if ends in line:
            return int(line.split()[7])
    return None
