"""What Prometheus can scrape from one worker process. Names and meanings: docs/guide/monitor.md.

Counting costs nothing worth switching off; only the port has a setting. Each Metrics has a registry of its own, so that
two workers in one process (every test) don't share counts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import start_http_server

from base.decisions import decide
from base.drift import (
    CONFIDENCE_BINS,
    LEAST_IMAGES,
    Expected,
    Shift,
    confidence_bin,
    confidence_shift,
    label_shift,
    mean_of,
    outlier_place,
    outlier_shift,
)
from jobs import ChunkResult, LabelChunk, ModelPin
from vision.serving import Engine
from worker.device_use import DeviceUse
from worker.logs import log_event

log = logging.getLogger("sortline.worker")

CHUNK_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
RATE_WINDOW_S = 60.0
DRIFTING = ("confidences", "labels", "distances")  # what is compared of the answers
DRIFT_IMAGES = 1000  # the newest of a version, whose answers are compared
WAIT_BUCKETS_S = (0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class NewestAnswers:
    """The answers about the newest images of one version, beside those that were expected."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._newest: deque[tuple[int, int, int | None]] = deque()
        self._confidences = [0] * CONFIDENCE_BINS
        self._labels = [0] * len(expected.labels)
        self._outliers: Tally[int] = Tally()

    def add(self, best: int, confidence: float, outlier: float | None) -> None:
        """Count an answer, and no longer the oldest one."""
        quantiles = self._expected.outliers
        place = outlier_place(quantiles, outlier) if quantiles and outlier is not None else None
        self._newest.append((confidence_bin(confidence), best, place))
        self._count(*self._newest[-1], by=1)
        if len(self._newest) > DRIFT_IMAGES:
            self._count(*self._newest.popleft(), by=-1)

    def _count(self, confidence: int, best: int, outlier: int | None, *, by: int) -> None:
        self._confidences[confidence] += by
        self._labels[best] += by
        if outlier is not None:
            self._outliers[outlier] += by

    def shifts(self) -> dict[str, Shift]:
        """Return how far each figure has moved, by its name; none while the images are few."""
        expected, found = self._expected, {}
        if len(self._newest) >= LEAST_IMAGES:
            found["confidences"] = confidence_shift(expected.confidences, self._confidences)
            found["labels"] = label_shift(expected.labels, self._labels)
        if self._outliers.total() >= LEAST_IMAGES:
            found["distances"] = outlier_shift(expected.outliers, expected.images, self._outliers)
        return found

    def change(self) -> float:
        """Return how much higher the mean of the confidences is."""
        return mean_of(self._confidences) - mean_of(self._expected.confidences)


class Metrics:
    """The counts of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, open files: process_*
        PlatformCollector(registry=registry)
        registry.register(DeviceUse())
        self._images = Counter(
            "sortline_images", "Images that got their row", ["status", "model"], registry=registry
        )  # fmt: skip
        self._failed = Counter(
            "sortline_failed_images", "Error rows by their reason code", ["reason"], registry=registry
        )
        self._decisions = Counter(
            "sortline_decided_images",
            "Labelled images by what the version's thresholds decide: accept, review or unknown",
            ["decision", "model"],
            registry=registry,
        )
        self._early = Counter(
            "sortline_early_images", "Images that the first stage of a cascade answered", ["model"], registry=registry
        )
        self._stages = Counter(
            "sortline_stage_seconds", "Time by stage of a chunk; stages overlap", ["stage"], registry=registry
        )
        self._chunk = Histogram(
            "sortline_chunk_seconds", "Time to label a chunk", buckets=CHUNK_BUCKETS_S, registry=registry
        )
        self._wait = Histogram(
            "sortline_queue_wait_seconds",
            "From the sending of a chunk to the start of work on it",
            buckets=WAIT_BUCKETS_S,
            registry=registry,
        )
        self._batch = Gauge("sortline_batch_images", "Images in one forward pass", ["model"], registry=registry)
        self._loads = Counter("sortline_model_loads", "Model versions loaded", ["model"], registry=registry)
        self._hits = Counter(
            "sortline_model_hits", "Chunks whose model version was held ready", ["model"], registry=registry
        )
        self._loaded = Gauge(
            "sortline_model_loaded",
            "1 for each model version that is held ready",
            ["model", "engine", "device", "precision"],
            registry=registry,
        )
        self._drift = Gauge(
            "sortline_drift_index",
            "How far the newest images are from images held out: in confidences, labels or distances",
            ["model", "of"],
            registry=registry,
        )
        self._drift_limit = Gauge(
            "sortline_drift_limit", "Above it the index is more than chance makes", ["model", "of"], registry=registry
        )
        self._confidence_change = Gauge(
            "sortline_confidence_change",
            "Mean of the newest confidences less that on images held out",
            ["model"],
            registry=registry,
        )
        self._answers: dict[str, NewestAnswers] = {}
        self._worker = Gauge(
            "sortline_worker_info", "1, labelled with what this process is", ["queue", "version"], registry=registry
        )
        self._newest: deque[tuple[float, int]] = deque()  # chunks: when, and how many images
        self._held: dict[str, tuple[ModelPin, Engine]] = {}
        self._thresholds: dict[str, Sequence[float | None]] = {}  # of versions that have some, by digest

    @property
    def held(self) -> list[tuple[ModelPin, Engine]]:
        return list(self._held.values())

    @property
    def rate(self) -> str:
        """Images a second over the last minute, in words."""
        now = time.monotonic()
        while self._newest and now - self._newest[0][0] > RATE_WINDOW_S:
            self._newest.popleft()
        return f"{sum(images for _, images in self._newest) / RATE_WINDOW_S:.1f} img/s"

    def note_wait(self, queued_at: object) -> None:
        """Count how long a chunk waited; ``queued_at`` (seconds since 1970) comes from its message, by its clock."""
        if isinstance(queued_at, float):  # an integer of a stranger's may be too large to subtract
            self._wait.observe(max(0.0, time.time() - queued_at))

    def note_chunk(self, chunk: LabelChunk, result: ChunkResult) -> None:
        """Count the rows of a chunk and what they took, and log them."""
        model = str(chunk.model)
        self._newest.append((time.monotonic(), len(result.rows)))
        statuses = Tally("ok" if row.error is None else "error" for row in result.rows)
        for status, count in statuses.items():
            self._images.labels(status, model).inc(count)
        for reason, count in Tally(row.error for row in result.rows if row.error is not None).items():
            self._failed.labels(reason).inc(count)
        if (thresholds := self._thresholds.get(chunk.model.digest)) is not None:
            tops = ((*row.top[0], row.outlier) for row in result.rows if row.top)
            decided = Tally(decide(confidence, thresholds[best], outlier) for best, confidence, outlier in tops)
            for decision, count in decided.items():
                self._decisions.labels(decision, model).inc(count)
        self._early.labels(model).inc(result.early)
        for stage, seconds in result.seconds.items():
            self._stages.labels(stage.removesuffix("_s")).inc(seconds)
        self._note_answers(chunk.model, result)
        seconds = result.seconds.get("chunk_s", 0.0)
        self._chunk.observe(seconds)
        log_event(
            log, "chunk labelled", run=chunk.run, chunk=chunk.first, model=model, images=len(result.rows),
            failed=statuses["error"], early=result.early, seconds=round(seconds, 4),
        )  # fmt: skip

    def expect(self, pin: ModelPin, expected: Expected) -> None:
        """Compare the answers of a version from now on with those about images held out from its training."""
        self._answers[pin.digest] = NewestAnswers(expected)

    def _note_answers(self, pin: ModelPin, result: ChunkResult) -> None:
        if (answers := self._answers.get(pin.digest)) is None:
            return
        for row in result.rows:
            if row.top:
                answers.add(*row.top[0], row.outlier)
        for name, shift in (shifts := answers.shifts()).items():
            self._drift.labels(str(pin), name).set(shift.index)
            self._drift_limit.labels(str(pin), name).set(shift.limit)
        if shifts:
            self._confidence_change.labels(str(pin)).set(answers.change())

    def note_hit(self, pin: ModelPin) -> None:
        self._hits.labels(str(pin)).inc()

    def note_thresholds(self, pin: ModelPin, thresholds: Sequence[float | None]) -> None:
        """Count from now on what these decide about the rows of a version."""
        self._thresholds[pin.digest] = thresholds

    def note_loaded(self, pin: ModelPin, engine: Engine, kept: Collection[str]) -> None:
        """Count a version that was loaded; of those before, only the digests in ``kept`` are still held."""
        self._loads.labels(str(pin)).inc()
        self._batch.labels(str(pin)).set(engine.micro_batch)
        self._held[pin.digest] = (pin, engine)
        for digest in self._held.keys() - set(kept):
            old, was = self._held.pop(digest)
            self._loaded.remove(*_labels(old, was))
            self._batch.remove(str(old))
            if self._answers.pop(digest, None) is not None:
                for gauge, figure in product((self._drift, self._drift_limit), DRIFTING):
                    with suppress(KeyError):  # of too few images, or a version without scores
                        gauge.remove(str(old), figure)
                with suppress(KeyError):
                    self._confidence_change.remove(str(old))
            self._thresholds.pop(digest, None)
        self._loaded.labels(*_labels(pin, engine)).set(1)

    def note_worker(self, queue: str, version: str) -> None:
        self._worker.labels(queue, version).set(1)

    def serve(self, address: str, port: int) -> None:
        """Answer scrapes from now on; a port that can't be had is an error in the log, and no reason not to work."""
        try:
            start_http_server(port, address, self.registry)
        except OSError as error:
            log_event(
                log, "metrics can't be served; give each worker a SORTLINE_METRICS_PORT of its own", logging.ERROR,
                address=address, port=port, error=error,
            )  # fmt: skip
            return
        log_event(log, "metrics served", url=f"http://{address}:{port}/metrics")


def _labels(pin: ModelPin, engine: Engine) -> tuple[str, str, str, str]:
    return str(pin), engine.name, engine.device, engine.precision
