"""SOURCE on the command line -> what names its images, and the data root that fits it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from base.errors import ImageError, UnavailableError
from base.image_files import has_image_suffix
from base.paths import path_to_text
from base.urls import checked_url, decoded, is_url
from configs import Settings
from producer.errors import UsageError
from producer.sources.images import Source, listed_paths
from producer.sources.table import TABLES, read_labelled_table
from storage import ExtraMissing, Folder, TransientError, open_folder, with_retries


def open_source(argument: str, standard_input: TextIO | None = None) -> Source:
    """Return the source of ``argument``: a folder, an image, a URL, a ``.txt`` list, or ``-`` for a list on stdin.

    Raises:
        UsageError: it is nothing of these.
        TextError: a list is no text, or in another encoding than UTF-8 and UTF-16 with a mark.
    """
    if is_url(argument):
        return _open_url(argument)
    here = os.getcwd()  # noqa: PTH109
    if argument == "-":
        listed = [*listed_paths(standard_input or sys.stdin, "the list from standard input", here)]
        return _of_list("stdin", here, lambda: listed)
    path = Path(os.path.abspath(argument))  # noqa: PTH100 - links stay as the user wrote them
    if path.is_dir():
        return Source(path_to_text(path.name) or "root", str(path))

    def lines() -> Iterator[str]:
        with path.open(encoding="utf-8") as file:
            yield from listed_paths(file, path_to_text(str(path)), here)

    if path.suffix.lower() == ".txt" and path.is_file():
        return _of_list(path_to_text(path.stem), here, lines)
    if path.exists():
        return Source(path_to_text(path.stem), str(path.parent), lambda: [path.name])
    raise UsageError(
        f"no such folder or file: {argument}. SOURCE is a folder, an image, a .txt list of paths, or -; or a URL"
    )


def open_labelled(argument: str) -> Source:
    """Return the source of ``argument`` for an evaluation: as `open_source`, or a table of labelled images."""
    path = Path(os.path.abspath(argument))  # noqa: PTH100 - links stay as the user wrote them
    if is_url(argument) or path.suffix.lower() not in TABLES or not path.is_file():
        return open_source(argument)
    table = read_labelled_table(path)
    return Source(path_to_text(path.stem), table.base, lambda: list(table.labels), truth_table=str(path))


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


class RemoteSource(Source):
    """A folder behind a URL, walked like a local one; ``base`` is its URL."""

    @property
    def root(self) -> str:
        """The URL that a worker of this machine alone gets as its data root."""
        return self.base

    @cached_property
    def _folder(self) -> Folder:
        return _opened(self.base)

    @cached_property
    def _above(self) -> dict[str, list[tuple[str, bool]]]:
        """What was listed in the folders that lead to the last one."""
        return {}

    def _listed(self, below: str) -> list[tuple[str, bool]] | None:
        try:
            found: list[tuple[str, bool]] = [*with_retries(lambda: self._folder.list(below.rstrip("/")))]
        except (ImageError, TransientError, UnavailableError) as error:
            reason = error.detail if isinstance(error, ImageError) else str(error)  # not the code of a row
            self.unreadable.append(reason)
            return None
        for path in [path for path in self._above if path == below or not below.startswith(path)]:
            del self._above[path]
        # A web server follows links: one that leads back gives the same files again, forty times over.
        if self.base.startswith("http") and found in self._above.values() and not all(is_dir for _, is_dir in found):
            self.unreadable.append(f"{self.base}/{path_to_text(below)} leads back into a folder that it lies in")
            return None
        self._above[below] = found
        return found


class UrlList(Source):
    """URLs that somebody wrote, below one root; rows hold them decoded."""

    @property
    def root(self) -> str:
        """The folder that all of them are below."""
        common: list[str] | None = None
        for url in self._checked():
            *folder, _ = url.split("/")
            same = zip(folder if common is None else common, folder, strict=False)
            common = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], same)]
        if common is None or len(common) < 3 or not common[2]:
            raise UsageError(f"{self.name}: URLs of several hosts or buckets; make a list, and a run, of each")
        return "/".join(common)

    def paths(self) -> Iterator[str]:
        """Yield each URL, decoded."""
        yield from map(decoded, self._checked())

    def _checked(self) -> Iterator[str]:
        for number, line in enumerate(super().paths(), start=1):
            try:
                yield checked_url(line)
            except ValueError as error:
                raise UsageError(f"{self.name}, path {number}: {error}") from error


def _of_list(name: str, base: str, lines: Callable[[], Iterable[str]]) -> Source:
    """Return the source of a list: its first line says whether it is one of URLs."""
    return UrlList(name, "", lines) if is_url(next(iter(lines()), "")) else Source(name, base, lines)


def _open_url(argument: str) -> Source:
    """Return the source of a URL: an image if it ends in such a suffix, else a folder."""
    try:
        url = checked_url(argument)
    except ValueError as error:
        raise UsageError(f"SOURCE: {error}") from error
    _opened(url)  # a missing package shows before anything starts
    name = path_to_text(decoded(url).rsplit("/", 1)[1]) or "root"
    if argument.endswith("/") or not has_image_suffix(name):
        return RemoteSource(name, url)
    return UrlList(os.path.splitext(name)[0], "", lambda: [url])  # noqa: PTH122


def _opened(url: str) -> Folder:
    try:
        return open_folder(url)
    except ExtraMissing as error:
        raise UsageError(str(error)) from error
