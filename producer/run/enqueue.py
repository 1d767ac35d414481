"""Send the chunks of a run to the label queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError

from base.errors import UnavailableError
from base.names import Priority
from base.paths import below_root, path_to_text, text_to_path
from base.urls import is_url
from jobs import FIRST, PARKED, QUEUED_AT, BrokerFull, LabelChunk, SampledInput, level_of, to_json
from producer.runfile import Plan

FOLDERS_KNOWN = 1024
NOT_SENT = (OperationalError, redis.RedisError, OSError)  # what Celery raises when Redis takes nothing now


class ChunkSender:
    """Turns stretches of inputs into queue messages."""

    def __init__(
        self,
        app: Celery,
        plan: Plan,
        pages: Callable[[int, int], list[int]] = lambda first, count: [],
        priority: Priority = "normal",
    ) -> None:
        """``pages`` gives what `RunFile.pages` does."""
        self._plan, self._pages = plan, pages
        self.level = level_of(priority, plan.total)
        self._app = app
        self._producer = app.amqp.producer_pool.acquire(block=True)
        self._below_root = BelowRoot(plan)

    def send(self, first: int, paths: list[str], sample: tuple[SampledInput, ...] = (), *, waits: bool = False) -> None:
        """Enqueue the images from index ``first`` on; UnavailableError when Redis takes nothing now.

        Args:
            waits: for its turn, until a worker moves it to the queue.
        """
        plan = self._plan
        chunk = LabelChunk(
            run=plan.run,
            first=first,
            paths=tuple(self._below_root.text(path) for path in paths),
            pages=tuple(self._pages(first, len(paths))),
            model=plan.model,
            top_k=plan.top_k,
            file_info=plan.file_info,
            exif=plan.exif,
            sample=sample,
        )
        if plan.chunk_images:
            which = f"chunk {first // plan.chunk_images + 1}/{-(-plan.total // plan.chunk_images)}, {len(paths)} images"
        else:
            which = f"images {first + 1}-{first + len(paths)} of {plan.total}"
        try:
            self._app.send_task(
                LabelChunk.task,
                args=[to_json(chunk)],
                queue=LabelChunk.queue,
                producer=self._producer,
                # What Flower shows. The arguments themselves would repeat every path in clear.
                argsrepr=f"{plan.source} {which}",
                kwargsrepr=plan.run,
                parent_id=plan.run,  # Flower links to the run
                root_id=plan.run,
                priority=self.level,
                headers={QUEUED_AT: time.time(), FIRST: first} | ({PARKED: plan.run} if waits else {}),
                retry=False,  # the caller waits, and says why
            )
        except OperationalError as error:
            is_full = isinstance(error.__cause__, OutOfMemoryError)
            raise (BrokerFull if is_full else UnavailableError)(f"Redis takes no messages: {error}") from error

    def close(self) -> None:
        """Give the connection back."""
        self._producer.release()


class BelowRoot:
    """Turns the input paths of a run, as text, into what messages carry: paths below the data root, as text."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        base = path_to_text(self._path("")) if plan.walked else ""
        self._base = "" if base in (".", "") else base + "/"
        # A million relative paths take five seconds to compute, and lists name many images of one folder.
        self._folder = lru_cache(FOLDERS_KNOWN)(self._folder_below_root)

    def text(self, path: str) -> str:
        """Return the path of one input."""
        if self._plan.walked:  # found below base: no "..", nothing absolute
            return self._base + path
        folder, slash, name = path.rpartition("/")
        if name in ("", ".", "..") or (below := self._folder(folder + slash)) is None:
            return path_to_text(self._path(text_to_path(path)))
        return below + name

    def _folder_below_root(self, folder: str) -> str | None:
        """Return what stands before the names in ``folder``; None where each path must be computed for itself."""
        if is_url(self._plan.data_root):
            return None
        below = path_to_text(self._path(text_to_path(folder)))
        if below == ".":
            return ""
        return None if below.startswith("..") else below + "/"  # outside, a name may be a folder that holds the root

    def _path(self, path: str) -> str:
        return below_root(path, self._plan.base, self._plan.data_root)
