"""Label a chunk that has ended its worker again and again: image by image, in a process of its own.

The process loads the classifier once and answers until an image ends it. That image gets the error row ``worker_lost``,
and a new process goes on with the next. Those that can be labelled are then labelled together once more, in the batches
that an undisturbed worker makes: the same chunk gives the same bytes whether its workers were killed or not.

Parent and child talk in lines through a pipe: settings and model, then one chunk after another and its result.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from base.errors import ImageError
from base.process import die_with, how_it_ended
from configs import Settings
from jobs import ChunkResult, LabelChunk, ModelPin, Row, from_json, to_json
from worker.errors import WorkerError
from worker.label.chunk import label_chunk
from worker.logs import set_up_logging

CHANCES = 2  # of an image: the process may have been killed for a reason that is not the image
LOAD_LIMIT_S = 180.0
READY = b"ready"


class ProcessLost(WorkerError):
    """The process ended, or was ended, before it answered; the message says how."""


class TookTooLong(ProcessLost):
    """The process was ended because it did not answer in time."""


def label_isolated(chunk: LabelChunk, settings: Settings, worker: str = "") -> ChunkResult:
    """Return one row for each path of ``chunk``, whatever single images do to the process that reads them.

    Raises:
        WorkerError: it is not an image that ends the process: the model can't be loaded, or the data root is away.
    """
    started = time.perf_counter()
    with _Process(settings, chunk.model) as process:
        rows = [
            _row(process, chunk.model_copy(update={"first": chunk.first + place, "paths": (path,)}))
            for place, path in enumerate(chunk.paths)
        ]
        places = [place for place, row in enumerate(rows) if row.error != "worker_lost"]
        if places:
            together = chunk.model_copy(update={"paths": tuple(chunk.paths[place] for place in places)})
            with suppress(ProcessLost):  # then the rows of the single images stand
                for place, row in zip(places, process.label(together), strict=True):
                    rows[place] = row
    seconds = {"chunk_s": round(time.perf_counter() - started, 4)}
    return ChunkResult(run=chunk.run, first=chunk.first, rows=tuple(rows), worker=worker, seconds=seconds)


def _row(process: _Process, alone: LabelChunk) -> Row:
    why = ""
    for _ in range(CHANCES):
        try:
            return process.label(alone)[0]
        except TookTooLong as error:
            why = str(error)
            break
        except ProcessLost as error:
            why = str(error)
    lost = ImageError("worker_lost", f"the process that labelled it {why}")
    return Row(error=lost.reason, detail=lost.detail)


class _Process:
    """A child that labels chunks; started when there is none, so also after one was lost."""

    def __init__(self, settings: Settings, model: ModelPin) -> None:
        self._settings = settings
        self._model = model
        self._running: subprocess.Popen[bytes] | None = None
        self._pipes = (-1, -1)  # to write requests into, to read answers from
        self._read = b""

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def label(self, chunk: LabelChunk) -> tuple[Row, ...]:
        """Return the rows of ``chunk``; ProcessLost when the child ended over it."""
        if self._running is None:
            self._start()
        limit_s = self._settings.stuck_s
        self._write(to_json(chunk).encode())
        answer = from_json(ChunkResult, self._line(limit_s))
        if answer.refused is not None:
            raise WorkerError(answer.refused)
        return answer.rows

    def _start(self) -> None:
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
        try:
            self._write(json.dumps(hello).encode())
            if (line := self._line(LOAD_LIMIT_S)) != READY:
                raise WorkerError(from_json(ChunkResult, line).refused or "the model can't be loaded")
        except ProcessLost as error:
            raise WorkerError(f"a process that only loaded {self._model} {error}") from error

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
                raise TookTooLong(f"did not answer within {limit_s:g} s")
            part = os.read(answers, 1 << 16)
            if not part:
                raise ProcessLost(f"ended with {how_it_ended(self._end(kill=False))}")
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
        return running.wait()


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

    runtime = Runtime(settings)
    refusal = ChunkResult(run="load", first=0)
    try:
        classifier = runtime.classifier(model)
        print(READY.decode(), file=answers)
        for line in sys.stdin:
            chunk = from_json(LabelChunk, line)
            refusal = ChunkResult(run=chunk.run, first=chunk.first)
            print(to_json(label_chunk(chunk, classifier, runtime.data_root, runtime.limits)), file=answers)
    except Exception as error:  # the parent decides what becomes of the job
        why = f"{type(error).__name__}: {error}"
        print(to_json(refusal.model_copy(update={"refused": why})), file=answers)
        raise


if __name__ == "__main__":
    main()
