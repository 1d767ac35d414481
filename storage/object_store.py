"""Folders of an object store, through fsspec: ``s3://``, ``gs://``, ``az://``, and ``memory://`` of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.asyn import sync

from base.errors import ImageError, UnavailableError
from storage.protocol import (
    CONNECT_LIMIT_S,
    LIST_LIMIT_S,
    SILENCE_LIMIT_S,
    TRY_LIMIT_S,
    Entry,
    TooManyBytes,
    TransientError,
    check_path,
)

# Codes of S3 that say nothing of the other objects. S3 calls a missing object denied to those who may not list.
DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidObjectState", "403"}


class StoreFolder:
    """A bucket, or what is below a prefix of one. Credentials are found as the store's own tools find them."""

    def __init__(self, url: str, connections: int) -> None:
        self.url = url
        self.connections = connections
        scheme = url.partition("://")[0]
        self._fs: Any = fsspec.filesystem(scheme, use_listings_cache=False, **_options(scheme, connections))
        self._fs.retries = 1  # of s3fs; `storage.protocol.with_retries` tries again, once for all services
        self._root = self._fs._strip_protocol(url)

    def read(self, path: str, limit: int) -> bytes:
        """Return the object at ``path``; see ``Folder``. No more than ``limit`` bytes are asked for."""
        check_path(path)
        if "?versionId=" in path:  # s3fs would take it for one
            raise ImageError("not_found", f"{self.url}/{path} is not read: older versions of objects are not")
        with self._naming(path):
            data: bytes = self._call("cat_file", f"{self._root}/{path}", start=0, end=limit + 1)
        if len(data) > limit:
            raise TooManyBytes(f"{self.url}/{path} has more bytes than the limit of {limit:,}")
        return data

    def list(self, path: str) -> list[Entry]:
        """Return the objects and prefixes directly below ``path``."""
        folder = f"{self._root}/{path}".rstrip("/")
        with self._naming(path):
            found = self._call("ls", folder, detail=True, limit_s=LIST_LIMIT_S)
        entries = [Entry(entry["name"].removeprefix(f"{folder}/"), entry["type"] == "directory") for entry in found]
        # An object that only marks its folder has the folder's name; a name with a slash can't be asked for again.
        return [entry for entry in entries if entry.name and "/" not in entry.name]

    def check(self) -> None:
        """Raise UnavailableError when the bucket can't be reached, or not with these credentials."""
        try:
            with self._naming(""):
                if self.url.startswith("s3:"):  # whose `info` asks by HEAD, which is refused without a reason
                    self._call("lsdir", self._root, max_items=1)
                else:
                    self._call("info", self._root)
        except ImageError as error:
            if error.reason != "unreadable":  # who may read may not be allowed to list
                raise UnavailableError(f"the data root {self.url} is not there") from error
        except TransientError as error:
            raise UnavailableError(f"the data root {self.url} can't be read: {error}") from error

    def _call(self, name: str, *arguments: object, limit_s: float = TRY_LIMIT_S, **options: object) -> Any:
        if self._fs.async_impl:
            return sync(self._fs.loop, getattr(self._fs, f"_{name}"), *arguments, timeout=limit_s, **options)
        return getattr(self._fs, name)(*arguments, **options)

    @contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        """Turn a store's errors inside the block into ours; what is unknown may pass."""
        what = f"{self.url}/{path}"
        try:
            yield
        except Exception as error:
            response = getattr(error.__cause__, "response", None) or {}
            code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
            if code == "InvalidRange":
                raise ImageError("empty", f"{what} has no content") from error
            if code == "NoSuchBucket" or (isinstance(error, PermissionError) and code and code not in DENIED):
                raise UnavailableError(f"{self.url} can't be read: {code}: {error}") from error
            if isinstance(error, FileNotFoundError):
                raise ImageError("not_found", f"{what} does not exist") from error
            if isinstance(error, IsADirectoryError):
                raise ImageError("not_a_file", f"{what} is a folder") from error
            if isinstance(error, PermissionError):
                raise ImageError("unreadable", f"{what}: {error}") from error
            raise TransientError(f"{what}: {type(error).__name__}: {error}") from error


def _options(scheme: str, connections: int) -> dict[str, Any]:
    if scheme != "s3":
        return {}
    waits = {"connect_timeout": CONNECT_LIMIT_S, "read_timeout": SILENCE_LIMIT_S, "retries": {"max_attempts": 0}}
    return {"config_kwargs": {**waits, "max_pool_connections": connections}}
