"""SOURCE on the command line -> what names its images, and the data root that fits it."""

from __future__ import annotations

import os
from pathlib import Path

from base.paths import path_to_text
from base.urls import is_url
from configs import Settings
from producer.errors import UsageError
from producer.sources.images import Source
from producer.sources.remote_images import RemoteSource, UrlList, open_url, url_list


def open_source(argument: str) -> Source:
    """Return the source of ``argument``: a folder, an image, a URL, a ``.txt`` list, or ``-`` for a list on stdin."""
    if is_url(argument):
        return open_url(argument)
    if argument == "-":
        return Source("stdin", os.getcwd(), None, "stdin")  # noqa: PTH109
    path = Path(os.path.abspath(argument))  # noqa: PTH100 - links stay as the user wrote them
    if path.is_dir():
        return Source(path_to_text(path.name) or "root", str(path), path, "folder")
    if path.suffix.lower() == ".txt" and path.is_file():
        return of_lines(Source(path_to_text(path.stem), os.getcwd(), path, "list"))  # noqa: PTH109
    if path.exists():
        return Source(path_to_text(path.stem), str(path.parent), path, "file")
    raise UsageError(
        f"no such folder or file: {argument}. SOURCE is a folder, an image, a .txt list of paths, or -; or a URL"
    )


def of_lines(source: Source, listed: list[str] | None = None) -> Source:
    """Return the source of a list: itself, or that of its URLs if it begins with one. ``listed`` are its lines."""
    lines = source.paths if listed is None else lambda: listed
    return url_list(source.name, lines) if is_url(next(iter(lines()), "")) else source


def rooted(settings: Settings, source: Source) -> Settings:
    """Return the settings with the data root that fits ``source``.

    A stack of this command alone gets the source's own root. Workers of others read only below theirs, which must be
    known here to make paths below it.

    Raises:
        UsageError: the source is not below the data root.
    """
    root = settings.data_root
    if not isinstance(source, RemoteSource | UrlList):
        if not isinstance(root, str):
            return settings
        if settings.broker is not None:
            raise UsageError(f"SOURCE is on this machine, and the workers' data root is {root}: they can't read it")
        return settings.model_copy(update={"data_root": None})
    if not isinstance(root, str):
        if settings.broker is not None:
            raise UsageError(
                "SOURCE is a URL: with a broker of your own, pass --data-root URL, the one below which your workers "
                "read (their SORTLINE_DATA_ROOT)"
            )
        return settings.model_copy(update={"data_root": source.root})
    if not f"{source.root}/".startswith(f"{root}/"):
        raise UsageError(f"{source.root} is not below the data root {root}, so no worker could read it")
    return settings
