"""The chunks of a run that are in flight: queued, or with a worker; and which of them no worker will answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jobs import ChunkResult
from producer.run.backlog import Backlog
from producer.run.chunk_size import ChunkSize

SURE_LOST_S = 3.0  # a chunk that is neither queued nor unacknowledged is lost once it is this old


@dataclass(slots=True)
class _Chunk:
    images: int
    sent_at: float  # monotonic seconds
    resends: int = 0


class Window:
    """Chunks by the index of their first image.

    Args:
        chunk_images: of each chunk; with 0 as the workers' rates ask for.
        most: chunks in flight at most; 0 is as many as the workers ask for.
    """

    def __init__(self, chunk_images: int, most: int) -> None:
        self._size = ChunkSize(chunk_images)
        self._most = most
        self._chunks: dict[int, _Chunk] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in flight."""
        return not self._chunks

    @property
    def is_full(self) -> bool:
        """Whether no more chunks should be sent."""
        return len(self._chunks) >= self._size.window(self._most)

    def chunks(self) -> list[tuple[int, int]]:
        """Return (index of the first image, images) of each chunk."""
        return [(first, chunk.images) for first, chunk in self._chunks.items()]

    def next_size(self, left: int) -> int:
        """Return the images of the next chunk, of ``left`` that have no row."""
        return self._size.next(left - sum(chunk.images for chunk in self._chunks.values()))

    def add(self, first: int, images: int) -> None:
        """Note that a chunk was sent, or sent again."""
        earlier = self._chunks.get(first)
        resends = earlier.resends + 1 if earlier else 0
        self._chunks[first] = _Chunk(images, time.monotonic(), resends)

    def is_answered_by(self, result: ChunkResult) -> bool:
        """Whether ``result`` has as many rows as the chunk has images, if that chunk is in flight."""
        chunk = self._chunks.get(result.first)
        return chunk is None or chunk.images == len(result.rows)

    def remove(self, result: ChunkResult) -> None:
        """Take the answered chunk out, and learn the worker's rate."""
        self._size.note(result.worker, len(result.rows), result.seconds.get("chunk_s", 0.0))
        self._chunks.pop(result.first, None)

    def forget(self, first: int) -> None:
        """Take out a chunk that nobody will answer."""
        self._chunks.pop(first, None)

    def lost(self, backlog: Backlog) -> list[tuple[int, int]]:
        """Return (index of the first image, images) of the chunks to send again.

        A broker can lose a message for good: its worker dies between taking it and noting that it did, or Redis loses
        its memory. A chunk sent twice costs time, never a row.
        """
        now = time.monotonic()
        old = {
            first: chunk
            for first, chunk in self._chunks.items()
            if now - chunk.sent_at > SURE_LOST_S * 2**chunk.resends
        }
        return [(first, old[first].images) for first in sorted(backlog.missing(old))] if old else []
