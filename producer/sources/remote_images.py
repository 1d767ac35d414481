"""A URL, or a list of URLs -> paths below a root, as a folder of this machine gives them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import takewhile
from typing import TextIO

from base.errors import ImageError, UnavailableError
from base.image_files import has_image_suffix
from base.paths import path_to_text
from base.urls import checked_url, decoded
from producer.errors import UsageError
from producer.sources.images import Source
from storage import ExtraMissing, Folder, TransientError, open_folder, with_retries


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

    lines: Callable[[], Iterable[str]]

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

    def paths(self, standard_input: TextIO | None = None) -> Iterator[str]:
        """Yield each URL, decoded."""
        for url in self._checked():
            yield decoded(url)

    def _checked(self) -> Iterator[str]:
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield checked_url(line)
            except ValueError as error:
                raise UsageError(f"{self.name}, path {number}: {error}") from error


def open_url(argument: str) -> Source:
    """Return the source of a URL: an image if it ends in such a suffix, else a folder."""
    try:
        url = checked_url(argument)
    except ValueError as error:
        raise UsageError(f"SOURCE: {error}") from error
    _opened(url)  # a missing package shows before anything starts
    name = path_to_text(decoded(url).rsplit("/", 1)[1]) or "root"
    if argument.endswith("/") or not has_image_suffix(name):
        return RemoteSource(name, url, None, "folder")
    return url_list(os.path.splitext(name)[0], lambda: [url])  # noqa: PTH122


def url_list(name: str, lines: Callable[[], Iterable[str]]) -> UrlList:
    """Return the source of a list whose lines are URLs; ``lines`` may be asked again and again."""
    found = UrlList(name, "", None, "urls")
    found.lines = lines
    return found


def _opened(url: str) -> Folder:
    try:
        return open_folder(url)
    except ExtraMissing as error:
        raise UsageError(str(error)) from error
