"""Which URL is read by what."""

from __future__ import annotations

from base.install import pip_install
from base.urls import SCHEMES
from storage.protocol import ExtraMissing, Folder


def open_folder(url: str, connections: int = 32) -> Folder:
    """Return the folder at ``url`` (checked), to be read over up to ``connections`` connections.

    Raises:
        ExtraMissing: it says what to install.
    """
    scheme = url.partition("://")[0]
    try:
        if scheme in ("http", "https"):
            from storage.http import HttpFolder

            return HttpFolder(url, connections)
        from storage.object_store import StoreFolder

        return StoreFolder(url, connections)
    except ImportError as error:
        raise ExtraMissing(f"reading {scheme}:// needs another package: {pip_install(SCHEMES[scheme])}") from error
