"""How many images the next queue message takes.

Between two chunks a worker's cores idle for some milliseconds, so chunks should be long; what a killed worker had in
hand is done again, and workers should end together, so they should be short. Two seconds of work are both. Towards the
end they get shorter, but not below a tenth of a second, of which such pauses would be the greater part.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

AIM_S = 2.0
FIRST = 32  # before anything is known; 8 s of work on a machine that does 4 images a second
FIRST_WINDOW = 4  # of these: each worker that answers makes room for more, of the right size
SMALLEST, LARGEST = 8, 1024
SHORTEST_S = 0.1
REMEMBERED = 5  # chunks of each worker
MOST_FIXED = 16  # chunks in flight where their size is fixed
AHEAD = 3  # chunks in flight for each worker: one in work, one that it takes next, one for a worker that joins


@dataclass(slots=True)
class ChunkSize:
    """The size of a run's chunks: ``fixed``, or with 0 by what its workers were seen to do."""

    fixed: int = 0
    _rates: dict[str, deque[float]] = field(default_factory=dict)  # images a second of each worker's newest chunks

    def note(self, worker: str, images: int, seconds: float) -> None:
        """Learn from a chunk that came back."""
        if images and seconds > 0:
            self._rates.setdefault(worker, deque(maxlen=REMEMBERED)).append(images / seconds)

    def next(self, left: int) -> int:
        """Return the images of the next chunk, of ``left`` that no chunk has yet."""
        if self.fixed:
            return self.fixed
        if not self._rates:
            return FIRST
        rate = statistics.median(statistics.median(rates) for rates in self._rates.values())
        size = int(rate * AIM_S)
        if len(self._rates) > 1:  # towards the end shorter ones, so that no worker is left with a long one
            size = min(size, max(left // (2 * len(self._rates)), int(rate * SHORTEST_S)))
        return max(SMALLEST, min(size, LARGEST))

    def window(self, most: int) -> int:
        """Return how many chunks may be in flight, ``most`` at most where that is not 0."""
        if self.fixed:
            return most or MOST_FIXED
        wanted = AHEAD * len(self._rates) or FIRST_WINDOW
        return min(most, wanted) if most else wanted
