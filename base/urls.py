"""The URLs that may stand where a folder does: which there are, and what none of them may carry."""

from __future__ import annotations

import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

# Scheme -> what to install. Others are refused: `file` would lead around the data root, and fsspec knows thirty more.
SCHEMES = {
    "s3": "sortline[remote]",
    "http": "sortline[remote]",
    "https": "sortline[remote]",
    "memory": "sortline[remote]",
    "gs": "gcsfs",
    "az": "adlfs",
}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def is_url(text: str) -> bool:
    """Whether ``text`` means a URL and no path of this machine."""
    return _URL.match(text) is not None


def checked_url(text: str) -> str:
    """Return ``text`` normalised, so that URLs can be compared: scheme and host in lower case, no slash at its end.

    Raises:
        ValueError: it has a scheme that we don't read, or carries what doesn't belong into logs, queues and reports.
    """
    found = _URL.match(text)
    if found is None:
        raise ValueError("not a URL")
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    if "::" in text:
        raise ValueError("chained URLs (with ::) are not read")
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme}:// is not read; it may be {', '.join(f'{known}://' for known in SCHEMES)}")
    is_http = scheme in ("http", "https")
    host, slash, path = rest.partition("/")
    # None of these is quoted: a signature or a password is what they mostly hold.
    if "@" in host:
        raise ValueError(f"{scheme}:// with a user or password in it; keep those where the service's own tools look")
    if "?" in rest or (is_http and "#" in rest):
        raise ValueError(f"{scheme}:// with a ? in it: a signed URL's secret would stand in the queue and in reports")
    if _CONTROL.search(rest):
        raise ValueError(f"{scheme}:// with control characters in it")
    if is_http:
        if "%2f" in path.lower():
            raise ValueError(f"{scheme}:// with %2F in it, a slash that parts no folders")
        host, path = host.lower(), quote_from_bytes(unquote_to_bytes(path))
        if _HOST.fullmatch(host) is None or not _is_port(host):
            raise ValueError(f"{scheme}:// without a proper host")
    if not host:
        raise ValueError(f"{scheme}:// without a host or bucket")
    if {".", ".."} & set(path.split("/")):
        raise ValueError(f"{scheme}:// with . or .. in its path")
    return f"{scheme}://{host}{slash}{path}"


def decoded(url: str) -> str:
    """Return a checked URL with the names that its path stands for: of http, what each ``%XX`` means."""
    return os.fsdecode(unquote_to_bytes(url)) if url.startswith("http") else url


def _is_port(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").port != 0
    except ValueError:
        return False
