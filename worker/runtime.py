"""What one worker process holds: settings, connections, and the classifiers it has loaded."""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import redis

from base.decisions import DEFAULT_TARGET, target_name
from base.process import resident_bytes
from configs import Settings
from jobs import (
    AWAY,
    LAST_AT,
    ChunkResult,
    JobBoard,
    JobEvent,
    Keys,
    LabelChunk,
    ModelPin,
    Waiting,
    connect,
    count_up,
    to_json,
)
from model_store import ChecksumError, ManifestError, ModelNotFound, ModelStore, ModelVersion
from storage import Folder, open_folder
from vision import VisionError
from vision.images import ImageLimits, Preprocessing
from vision.serving import Classifier, Engine, FirstStage, GraphSpec, ModelFiles, open_engine, replay
from worker.errors import JobRefused
from worker.logs import log_event
from worker.metrics import Metrics
from worker.models.files import FIRST, read_files, read_golden
from worker.models.precision import golden_tolerance
from worker.standing import Standing

log = logging.getLogger("sortline.worker")

LOADED_VERSIONS = 2  # a run on the old version may end while one on the new version starts
PUBLISH_PATIENCE_S = 60.0
ATTEMPTS = 3  # of a chunk or training job whose process dies
STREAM_KEPT_S = 7 * 24 * 3600  # rows that nobody gathers don't stay for ever
REFUSALS_KEPT_S = 3600  # a worker that keeps away says so every 16 s at least


class Runtime:
    """One process's state. Created before the first job, never shared between processes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.keys = Keys(settings.key_prefix)
        self.limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
        self.store = ModelStore(settings.store_root)
        self.metrics = Metrics()
        self.standing = Standing()
        self._classifiers: OrderedDict[str, Classifier] = OrderedDict()

    @cached_property
    def client(self) -> redis.Redis:
        """The connection for results and leases; kombu has its own."""
        return connect(self.settings)

    @cached_property
    def waiting(self) -> Waiting:
        """The chunks that workers queue when there is room."""
        return Waiting(self.client, self.keys)

    @cached_property
    def board(self) -> JobBoard:
        """Where people look for the state of jobs."""
        return JobBoard(self.client, self.keys)

    @cached_property
    def data_root(self) -> Path | Folder:
        """Folder that every image path of a message is below."""
        root = self.settings.data_root
        return open_folder(root, self.settings.remote_connections) if isinstance(root, str) else root or Path("/")

    @contextmanager
    def attempt(self, chunk: LabelChunk) -> Iterator[int]:
        """Give the number of this attempt at ``chunk``. One that raises does not count; one that dies does.

        The count is in Redis, since another worker takes over. A Redis that loses it allows a few more attempts.
        """
        key = self.keys.attempts(chunk.run)
        number = count_up(self.client, key, str(chunk.first), STREAM_KEPT_S)
        try:
            yield number
        except Exception:
            with suppress(redis.RedisError):
                self.client.hincrby(key, str(chunk.first), -1)
            raise
        if number <= ATTEMPTS:  # else a late copy of the chunk would end three more processes before it is isolated
            with suppress(redis.RedisError):
                self.client.hdel(key, str(chunk.first))

    def forget_attempts(self, run: str) -> None:
        """Remove what a process that died on a late copy has counted since the run's end."""
        with suppress(redis.RedisError):
            self.client.delete(self.keys.attempts(run))

    def classifier(self, pin: ModelPin) -> Classifier:
        """Return the classifier of exactly this version, loaded and proven on its golden images.

        Raises:
            JobRefused: the version is not in the store, is not what the producer saw, or answers differently here.
        """
        if (found := self._classifiers.get(pin.digest)) is not None:
            self._classifiers.move_to_end(pin.digest)
            self.metrics.note_hit(pin)
            return found
        try:
            loaded = self._load(pin)
        except (ModelNotFound, ManifestError, ChecksumError, VisionError) as error:
            raise JobRefused(f"model {pin}: {error}") from error
        self._classifiers[pin.digest] = loaded
        if not gc.get_freeze_count():  # once, since what is frozen is never collected
            gc.freeze()  # all that was imported and made stays: a collection in it takes 60 ms, while all cores wait
        # Only now: a version that fails its checks must not cost a proven one its place.
        while len(self._classifiers) > LOADED_VERSIONS:
            self._classifiers.popitem(last=False)[1].close()
        self.metrics.note_loaded(pin, loaded.engine, self._classifiers)
        return loaded

    def unload(self) -> None:
        """Give back the device's memory; the next chunk loads its classifier anew."""
        while self._classifiers:
            self._classifiers.popitem(last=False)[1].close()

    def _load(self, pin: ModelPin) -> Classifier:
        started = time.perf_counter()
        version = self.store.resolve(str(pin))
        manifest = version.manifest
        if manifest.digest != pin.digest:
            raise ManifestError(
                f"{self.settings.store_root} holds another {pin} than the producer saw; use one store for both"
            )
        preprocessing = Preprocessing.from_json(manifest.preprocessing)
        engine = open_engine(
            read_files(self.store, version),
            engine=self.settings.engine,
            device=self.settings.device,
            precision=self.settings.precision,
            judged={name: proof.passed for name, proof in manifest.precisions.items()},
            threads=self.settings.cores,
        )
        if manifest.decisions is not None and manifest.decisions.thresholds:
            self.metrics.note_thresholds(pin, manifest.decisions.thresholds[target_name(DEFAULT_TARGET)])
        first = self._first_stage(version, engine)
        threads = self.settings.decode_threads or self.settings.cores
        classifier = Classifier(engine, preprocessing, limits=self.limits, decode_threads=threads, first=first)
        difference = 0.0
        if (golden := manifest.golden) is not None:
            tolerance = golden_tolerance(golden.tolerance, golden.agreement, engine)
            difference = replay(engine, *read_golden(self.store, version), tolerance)
            if first is not None and manifest.cascade is not None:
                tolerance = golden_tolerance(golden.tolerance, manifest.cascade.agreement, first.engine)
                replay(first.engine, *read_golden(self.store, version, FIRST), tolerance)
        if (expected := manifest.expected) is not None:
            self.metrics.expect(pin, expected)
        log_event(
            log, "model loaded", model=pin, engine=engine.describe(), cascade="off" if first is None else "on",
            golden_difference=f"{difference:.1e}", seconds=round(time.perf_counter() - started, 2),
        )  # fmt: skip
        return classifier

    def _first_stage(self, version: ModelVersion, engine: Engine) -> FirstStage | None:
        """Return the first stage of the version's cascade, if it has one and it is to be used beside ``engine``.

        On a GPU it is not: whether it gains anything there was never measured. MindSpore has no weights of it.
        """
        cascade = version.manifest.cascade
        if cascade is None or self.settings.cascade == "off" or engine.device != "cpu" or engine.name == "mindspore":
            return None
        data = self.store.open_file(version.name, version.version, FIRST)
        files = ModelFiles(onnx=data, graph=GraphSpec.from_json(cascade.graph))
        precision = "bf16" if "bf16" in engine.precision else "f32"
        own = open_engine(files, engine=engine.name, device="cpu", precision=precision, threads=self.settings.cores)
        return FirstStage(own, cascade.threshold)

    def end_if_large(self) -> None:
        """Ask this worker to end, as SIGTERM would, when it has grown above ``max_memory_bytes``."""
        limit = self.settings.max_memory_bytes
        if limit and (resident := resident_bytes()) > limit:
            log.warning(
                "resident memory %d above max_memory_bytes %d: this worker ends, to start anew", resident, limit
            )
            os.kill(os.getpid(), signal.SIGTERM)

    def put(self, job: str, message: ChunkResult | JobEvent) -> None:
        """Put a message on the job's stream."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.xadd(self.keys.results(job), {"json": to_json(message)})
        pipeline.expire(self.keys.results(job), STREAM_KEPT_S)
        if isinstance(message, ChunkResult) and message.rows:  # how far the run is, also while nobody gathers it
            seen = {str(message.first): len(message.rows), LAST_AT: round(time.time(), 3)}
            pipeline.hset(self.keys.labelled(job), mapping=seen)
            pipeline.expire(self.keys.labelled(job), STREAM_KEPT_S)
            pipeline.set(self.keys.newest, seen[LAST_AT], ex=STREAM_KEPT_S)
            pipeline.hdel(self.keys.refusals, message.worker)
        if isinstance(message, ChunkResult) and message.refused is not None:  # for whoever asks why no row comes
            pipeline.hset(self.keys.refusals, message.worker, message.refused)
            pipeline.expire(self.keys.refusals, REFUSALS_KEPT_S)
        pipeline.zscore(self.keys.waiting_runs, job)
        *_, level = pipeline.execute()
        if isinstance(message, ChunkResult) and message.rows and isinstance(level, float):
            with suppress(redis.RedisError):  # the result is there: another worker, or this one later, releases
                self.waiting.release(job, level)

    def publish(self, job: str, message: ChunkResult | JobEvent) -> None:
        """Put a message on the job's stream; wait up to a minute for a Redis that is away, then raise its error."""
        deadline, pause_s = time.monotonic() + PUBLISH_PATIENCE_S, 0.2
        while True:
            try:
                self.put(job, message)
                return
            except AWAY as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("results wait for Redis job=%s: %s", job, error)
                time.sleep(pause_s)
                pause_s = min(pause_s * 2, 5.0)
