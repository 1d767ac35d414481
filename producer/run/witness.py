"""What the command itself sees of its inputs: no worker's word alone makes an image ``not_found`` that it saw.

A worker's data root may be another folder, or SOURCE itself may be away: a disk pulled out, a share unmounted. Only
what the command could look at when the run began is looked at again; behind a URL, and for files of other machines,
the workers' word is all there is.
"""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from base.errors import ImageError
from base.files import read_file
from base.paths import text_to_path
from jobs import MAX_SAMPLED_BYTES, ChunkResult, SampledInput
from producer.errors import ProducerError
from producer.run.enqueue import BelowRoot
from producer.run.refusals import Refusals
from producer.runfile import RunFile
from producer.sources.since import FileState, state_of

LOOK_S = 2.0  # between two looks at the sample
SPREAD = 9  # inputs that are looked at, over the whole run
SENT = 3  # of them go to the workers
LOOK_LIMIT_S = 2.0  # a share that stands still must not hold the command as well
FOLDER_AWAY_S = 30.0  # an image whose folder is gone is waited for; then it counts as deleted
AGAIN_AFTER_S = 1.0  # an image that is waited for is sent again


_UNSURE = {"not_found", "unreadable"}


class SourceAway(ProducerError):
    """None of the run's images is there any more."""


class _File(NamedTuple):
    path: str
    name: str  # below the data root, as messages carry it


class Witness:
    """Looks at the files of one run. What a worker misses again and again is noted among ``refusals``."""

    def __init__(self, run: RunFile, refusals: Refusals) -> None:
        self._run = run
        self._refusals = refusals
        below_root = BelowRoot(run.plan)
        self._spread = [_File(self._whole(path), below_root.text(path)) for path in run.spread_files(SPREAD)]
        self._sample: tuple[SampledInput, ...] = ()
        self._looked = self._unsure_at = float("-inf")
        self._looking = threading.Thread()
        self._away_since: float | None = None
        self._digests: dict[tuple[str, FileState], str] = {}
        self._gone: dict[int, float] = {}  # input -> when its folder was first seen to be gone
        self._missed: set[int] = set()
        self._misses: dict[str, str] = {}  # worker -> the first file that it missed again

    def sample(self) -> tuple[SampledInput, ...]:
        """Return inputs as they are now, for workers to compare; SourceAway when there is none of them any more."""
        if self._away_since is not None or time.monotonic() - self._looked > LOOK_S:
            self.look()
        return self._sample

    def look(self) -> None:
        """Take a new sample; SourceAway when none of the inputs is there any more."""
        if not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look, daemon=True)
            self._looking.start()
            self._looking.join(LOOK_LIMIT_S)
        if self._away_since is not None:
            raise SourceAway(
                f"none of the images of {self._run.plan.source} is there any more ({self._spread[0].path}, for one): "
                "is its disk or share there?"
            )

    @property
    def away_s(self) -> float:
        """How long SOURCE has been away."""
        return time.monotonic() - self._away_since if self._away_since is not None else 0.0

    def unsure(self, result: ChunkResult) -> set[int]:
        """Return the inputs that ``result`` says can't be had, and that may be: their rows must not be taken."""
        reasons = dict(enumerate((row.error for row in result.rows), start=result.first))
        if _UNSURE.isdisjoint(reasons.values()):
            return set()
        is_away = self._is_away()
        unsure = set()
        for idx, path in self._run.files(result.first, len(result.rows)):
            whole = self._whole(path)
            if reasons[idx] not in _UNSURE:
                continue
            if state_of(whole) is None:
                if is_away or self._folder_is_away(idx, whole):
                    unsure.add(idx)
            elif reasons[idx] == "not_found":
                if idx in self._missed:  # the first time it may have been in the middle of being replaced
                    missed = self._misses.setdefault(result.worker, whole)
                    why = (
                        f"it does not find {missed}: is the share mounted, and is it the same folder as the command's?"
                    )
                    self._refusals.note(result.worker, why, may_pass=True)
                unsure.add(idx)
            elif idx not in self._missed:  # a share may fail for a moment; what no worker may read stays so
                unsure.add(idx)
            self._missed.add(idx)
        if unsure:
            self._unsure_at = time.monotonic()
        return unsure

    def pause_s(self) -> float:
        """Return how long to wait before what was not sure is sent again."""
        return max(0.0, self._unsure_at + AGAIN_AFTER_S - time.monotonic())

    def _is_away(self) -> bool:
        try:
            self.look()
        except SourceAway:
            return True
        return False

    def _look(self) -> None:
        states = [(file, state) for file in self._spread if (state := state_of(file.path)) is not None]
        # One or two may have been deleted: then their folder is still there.
        if self._spread and not states and (len(self._spread) >= SENT or not any(map(_has_folder, self._spread))):
            self._away_since = self._away_since or time.monotonic()
            return
        sampled = (self._sampled(file, state) for file, state in states)
        self._sample = tuple(islice(filter(None, sampled), SENT))
        self._looked, self._away_since = time.monotonic(), None

    def _sampled(self, file: _File, state: FileState) -> SampledInput | None:
        if not 0 < state.size <= MAX_SAMPLED_BYTES or file.name.startswith("../"):
            return None
        if (file.path, state) not in self._digests:
            try:
                self._digests[file.path, state] = sha256(read_file(Path(file.path), state.size)).hexdigest()
            except ImageError:  # what this command may not read, workers may not either
                return None
        return SampledInput(path=file.name, size=state.size, sha256=self._digests[file.path, state])

    def _folder_is_away(self, idx: int, path: str) -> bool:
        if _has_folder(_File(path, "")):
            return False
        return time.monotonic() - self._gone.setdefault(idx, time.monotonic()) < FOLDER_AWAY_S

    def _whole(self, path: str) -> str:
        return os.path.join(self._run.plan.base, text_to_path(path))  # noqa: PTH118


def _has_folder(file: _File) -> bool:
    """Whether the folder of a file is there, and not empty as an unmounted share leaves it."""
    try:
        with os.scandir(os.path.dirname(file.path)) as entries:  # noqa: PTH120
            return next(entries, None) is not None
    except OSError:
        return False
