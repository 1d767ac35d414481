"""Label a chunk that has ended its worker again and again: image by image, in a process of its own.

The process loads the classifier once and answers until it ends. The image that it was at is then tried in new processes
that have done nothing else: only if it ends them again and again does it get the error row ``worker_lost``. What else
may have ended them is not the image's fault: a signal from outside (memory pressure kills this process first), the end
of a process that still loads, a file system that stands still while the image is read.

Those that can be labelled are then labelled together once more, in the batches that an undisturbed worker makes: the
same chunk gives the same bytes whether its workers were killed or not.

Parent and child talk in lines through a pipe: settings and model, then one chunk after another. The child says when
each image has been read, and answers with the result.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from base.errors import ImageError, UnavailableError
from base.process import die_with, ended_itself, how_it_ended
from configs import Settings
from jobs import ChunkResult, LabelChunk, ModelPin, Row, from_json, to_json
from worker.errors import WorkerError
from worker.label.chunk import label_chunk
from worker.logs import set_up_logging

OWN_ENDS = 2  # of processes that had nothing but this image, by their own doing: it is the image's
OUTER_ENDS = 4  # the same, by a signal from outside, while a process that does nothing lives on
LOADS = 5  # processes in a row that end before they have loaded the model: this worker can't do it now
PAUSE_S = 0.5  # after an end from outside, doubled each time: what kills others may pass
CONTROL, LONGEST_IDLE_S = 3.0, 30.0  # so many times as long, a process that does nothing has to live
LOAD_LIMIT_S = 180.0
END_LIMIT_S = 5.0  # a killed process that waits for a file system is left behind
READY, READ = b"ready", b"read"


class ProcessLost(WorkerError):
    """The process ended, or was ended, before it answered; the message says how.

    Attributes:
        by_itself: whether by its own doing; not by a signal from outside.
    """

    def __init__(self, how: str, *, by_itself: bool) -> None:
        super().__init__(how)
        self.by_itself = by_itself


class TookTooLong(ProcessLost):
    """The process was ended because it did not answer in time."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"did not answer within {limit_s:g} s", by_itself=True)


def label_isolated(chunk: LabelChunk, settings: Settings, worker: str = "") -> ChunkResult:
    """Return one row for each path of ``chunk``, whatever single images do to the process that reads them.

    Raises:
        WorkerError: it is not an image that ends the process: the model can't be loaded, or the data root is away.
        UnavailableError: an image can't be read, since its file system stands still.
    """
    started = time.perf_counter()
    with _Process(settings, chunk.model) as process:
        rows = [_row(process, chunk.only([place], chunk.first + place)) for place in range(len(chunk.paths))]
        places = [place for place, row in enumerate(rows) if row.error != "worker_lost"]
        if places:
            labelled, _ = _tried(process, chunk.only(places))
            for place, row in zip(places, labelled, strict=False):  # if it ended each: the single images' rows stand
                rows[place] = row
    seconds = {"chunk_s": round(time.perf_counter() - started, 4)}
    return ChunkResult(run=chunk.run, first=chunk.first, rows=tuple(rows), worker=worker, seconds=seconds)


def _row(process: _Process, alone: LabelChunk) -> Row:
    rows, why = _tried(process, alone)
    if rows:
        return rows[0]
    lost = ImageError("worker_lost", f"the process that labelled it {why}")
    return Row(error=lost.reason, detail=lost.detail)


def _tried(process: _Process, chunk: LabelChunk) -> tuple[tuple[Row, ...], str]:
    """Return the rows of ``chunk``, or none and how it ended the processes that had nothing else to do.

    Raises:
        WorkerError: a process that has nothing to do at all is ended, too.
    """
    own = outer = 0
    longest_s = 0.0
    while True:
        is_new = not process.is_running
        try:
            return process.label(chunk), ""
        except ProcessLost as error:
            if is_new:  # else it may have been an earlier image that harmed it
                own, outer = own + error.by_itself, outer + (not error.by_itself)
            longest_s = max(longest_s, process.busy_s)
            if own >= OWN_ENDS:
                return (), str(error)
            if outer >= OUTER_ENDS:
                process.idle(min(longest_s * CONTROL, LONGEST_IDLE_S))
                return (), str(error)
            if not error.by_itself:
                time.sleep(PAUSE_S * 2**outer)


class _Process:
    """A child that labels chunks; started when there is none, so also after one was lost."""

    def __init__(self, settings: Settings, model: ModelPin) -> None:
        self._settings = settings
        self._model = model
        self._running: subprocess.Popen[bytes] | None = None
        self._pipes = (-1, -1)  # to write requests into, to read answers from
        self._read = b""
        self._asked = 0.0

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def is_running(self) -> bool:
        """Whether there is a child, which may have labelled something before."""
        return self._running is not None

    @property
    def busy_s(self) -> float:
        """How long ago the last chunk was given to a child."""
        return time.monotonic() - self._asked

    def idle(self, seconds: float) -> None:
        """Let a new child live for so long with nothing to do; WorkerError when it is ended as well."""
        self._end()
        self._start()
        try:
            self._line(seconds)
        except TookTooLong:
            return
        except ProcessLost as error:
            raise WorkerError(f"a process that had nothing to do {error}") from error

    def label(self, chunk: LabelChunk) -> tuple[Row, ...]:
        """Return the rows of ``chunk``; ProcessLost when the child ended over it."""
        if self._running is None:
            self._start()
        limit_s, self._asked = self._settings.stuck_s, time.monotonic()
        self._write(to_json(chunk).encode())
        for path in chunk.paths:
            try:
                line = self._line(limit_s)
            except TookTooLong as error:
                if len(chunk.paths) > 1:  # others may be at work
                    raise
                why = f"{path} could not be read within {limit_s:g} s: its file system stands still"
                raise UnavailableError(why) from error
            if line != READ:
                break
        else:
            line = self._line(limit_s)
        answer = from_json(ChunkResult, line)
        if answer.refused is not None:
            raise WorkerError(answer.refused)
        return answer.rows

    def _start(self) -> None:
        loads = 0
        while self._running is None:
            try:
                self._load()
            except ProcessLost as error:
                loads += 1
                if loads == LOADS or isinstance(error, TookTooLong):
                    raise WorkerError(f"a process that only loaded {self._model} {error}") from error
                time.sleep(PAUSE_S * 2**loads)

    def _load(self) -> None:
        requests, own_requests = os.pipe()
        own_answers, answers = os.pipe()
        self._pipes, self._read = (own_requests, own_answers), b""
        self._running = subprocess.Popen(
            [sys.executable, "-m", "worker.label.isolated"],
            stdin=requests,
            stdout=answers,
            cwd=Path(__file__).parents[2],  # `python -m` looks here first
        )
        os.close(requests)
        os.close(answers)
        # Through the pipe: a broker's password must not stand on a command line.
        hello = {
            "parent": os.getpid(),
            "settings": self._settings.model_dump(mode="json"),
            "model": self._model.model_dump(),
        }
        self._write(json.dumps(hello).encode())
        if (line := self._line(LOAD_LIMIT_S)) != READY:
            raise WorkerError(from_json(ChunkResult, line).refused or "the model can't be loaded")

    def _write(self, line: bytes) -> None:
        with suppress(BrokenPipeError):  # reading tells how it ended
            view = memoryview(line + b"\n")
            while view:
                view = view[os.write(self._pipes[0], view) :]

    def _line(self, limit_s: float) -> bytes:
        answers, deadline = self._pipes[1], time.monotonic() + limit_s
        while b"\n" not in self._read:
            ready, _, _ = select.select([answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._end()
                raise TookTooLong(limit_s)
            part = os.read(answers, 1 << 16)
            if not part:
                code = self._end(kill=False)
                raise ProcessLost(f"ended with {how_it_ended(code)}", by_itself=ended_itself(code))
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _end(self, *, kill: bool = True) -> int:
        running, self._running = self._running, None
        if running is None:
            return 0
        if kill:
            running.kill()
        for pipe in self._pipes:
            os.close(pipe)
        with suppress(subprocess.TimeoutExpired):
            return running.wait(END_LIMIT_S)
        return 0


def main() -> None:
    """Be the child: answer chunks from standard input on standard output until it closes."""
    with suppress(OSError):  # where memory runs out, the kernel should end this process and not the worker
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    hello = json.loads(sys.stdin.readline())
    die_with(hello["parent"])
    settings = Settings.model_validate(hello["settings"])
    model = ModelPin.model_validate(hello["model"])
    set_up_logging(settings)
    from worker.runtime import Runtime

    say_read = partial(os.write, answers.fileno(), READ + b"\n")  # at once, as several threads read
    runtime = Runtime(settings)
    refusal = ChunkResult(run="load", first=0)
    try:
        classifier = runtime.classifier(model)
        print(READY.decode(), file=answers)
        for line in sys.stdin:
            chunk = from_json(LabelChunk, line)
            refusal = ChunkResult(run=chunk.run, first=chunk.first)
            result = label_chunk(chunk, classifier, runtime.data_root, runtime.limits, on_read=say_read)
            print(to_json(result), file=answers)
    except Exception as error:  # the parent decides what becomes of the job
        why = f"{type(error).__name__}: {error}"
        print(to_json(refusal.model_copy(update={"refused": why})), file=answers)
        raise


if __name__ == "__main__":
    main()
