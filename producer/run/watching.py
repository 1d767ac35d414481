"""``sortline watch``: what arrives in a folder is labelled, batch by batch, into one run file that grows.

Each batch is an ordinary run with a run file of its own. Its rows are taken over once it has all of them, and then its
file is deleted; a kill at any line leaves one or the other, so no row is lost or doubled.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from base.errors import UnavailableError
from base.paths import path_to_text, text_to_path
from base.text import duration
from base.urls import is_url
from configs import Settings
from jobs import AWAY
from model_store import ModelStore
from producer.errors import INTERRUPTED, OK, BrokerUnreachable, ProducerError, RunCancelled, RunRefused, UsageError
from producer.local.session import Session, open_session
from producer.models import find_model, pin_of
from producer.reports.request import Request, write_reports
from producer.run import OnExisting
from producer.run.hook import Hook
from producer.run.labelling import kept_labels
from producer.run.opening import RunRequest, plan_of
from producer.run.witness import SourceAway
from producer.runfile import Batch, GrowingRun, Plan, RunFile, RunFileError
from producer.sources.argument import open_source
from producer.sources.arrivals import Arrivals
from producer.sources.folder_news import FolderNews
from producer.sources.images import Source
from producer.sources.since import FileState, InputFilter
from producer.terminal.progress import RunView

WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # before another try when Redis, workers or the folder are away
SAY_AGAIN_S = 300.0
BATCH_KEPT_S = 3600  # what Redis keeps of a batch that is done, for messages that come late


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """What one command watches, and what becomes of the rows.

    Attributes:
        settle_s: how long a file must stand still before it is labelled.
        poll_s: seconds between two looks at the folder; None as its file system asks for.
        once: end when all that is there has its row.
    """

    folder: str
    model: str | None
    reports: Request
    file_info: bool = False
    exif: bool = False
    on_existing: OnExisting = "resume"
    quiet: bool = False
    settle_s: float = 3.0
    poll_s: float | None = None
    hook: Hook = field(default_factory=Hook)
    once: bool = False


def watch_folder(settings: Settings, watching: Watching) -> int:
    """Label what is in a folder and what arrives there, until somebody ends it; return the exit code."""
    if settings.broker is None:  # workers of this machine read all of it
        settings = settings.model_copy(update={"data_root": Path("/")})
    request = _prepared(settings, watching)
    with RunView(quiet=watching.quiet) as view, closing(_opened(settings, request, watching, view)) as run:
        code = INTERRUPTED
        try:
            with _Watch(settings, watching, request.source, run, view) as watch:
                watch.go_on()
            code = OK
        except KeyboardInterrupt:
            pass
        finally:
            view.stop()
            failed = f", {run.failed} failed" if run.failed else ""
            go_on = "" if watching.once and code == OK else "; to go on: the same command"  # which may hold a secret
            view.say(f"{run.total:,} images of {run.plan.source} have their row{failed}{go_on}")
        return code


def _prepared(settings: Settings, watching: Watching) -> RunRequest:
    folder = os.path.abspath(watching.folder)  # noqa: PTH100 - links stay as the user wrote them
    source = Source(path_to_text(os.path.basename(folder)) or "root", folder)  # noqa: PTH119 - it may be away
    watching.reports.check_places()
    version = find_model(ModelStore(settings.store_root), watching.model)
    request = RunRequest(
        source=source,
        origin=watching.folder,
        reference=watching.model,
        version=version,
        top_k=kept_labels(watching.reports, len(version.manifest.classes)),
        report=watching.reports.main,
        file_info=watching.file_info,
        exif=watching.exif or watching.reports.bursts_s is not None,
        is_watched=True,
    )
    # After a restart its disk or share may be away.
    is_new = not request.path(settings).exists()
    if is_url(watching.folder) or (is_new and open_source(watching.folder).lines is not None):
        raise UsageError(f"{watching.folder} is no folder of this machine")
    return request


def _opened(settings: Settings, request: RunRequest, watching: Watching, view: RunView) -> GrowingRun:
    path = request.path(settings)
    if path.exists() and watching.on_existing == "error":
        raise UsageError(f"this folder was watched before ({path}); pass --on-existing resume or overwrite")
    if not path.exists() or watching.on_existing == "overwrite":
        _batch_path(path).unlink(missing_ok=True)
        return GrowingRun.begin(path, plan_of(path.stem, settings, request))
    run = GrowingRun(path)
    view.say(f"going on with {run.plan.run}: {run.total:,} images have their row, model {run.plan.model}")
    if run.plan.model.digest != request.version.manifest.digest:
        view.say(
            f"{pin_of(request.version)} is in production now; rows of one report come from one version: "
            "--on-existing overwrite begins anew with it"
        )
    return run


def _batch_path(path: Path) -> Path:
    return path.with_suffix(".batch")


class _Watch:
    """One command's work: look, label what is whole, tell who waits for it."""

    def __init__(self, settings: Settings, watching: Watching, source: Source, run: GrowingRun, view: RunView) -> None:
        self._settings = settings
        self._watching = watching
        self._folder = source.base
        self._run = run
        self._view = view
        self._news = FolderNews(self._folder, watching.poll_s, view.say)
        self._arrivals = Arrivals(source, run.state, watching.settle_s, trusts_clock=not self._news.polls)
        self._session: Session | None = None
        self._opening = ExitStack()
        self._identity: tuple[int, int] | None = None  # of the folder, where it is there: device and inode
        self._away_since = 0.0
        self._said: dict[str, float] = {}
        self._tries = 0
        self._started = time.monotonic()
        self._last = ""

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._news.close()
        self._disconnect()

    def go_on(self) -> None:
        """Label what arrives; return only in the mode that ends when all is labelled."""
        request, run = self._watching.reports, self._run
        request.check_rows(run)  # before anything is labelled
        for batch in run.unfinished():  # of a command that was killed
            self._conclude(batch)
        if not all(map(os.path.exists, request.outputs.values())):
            write_reports(run, request, max_pixels=self._settings.max_image_pixels)
        while True:
            if self._batch.exists() or (self._look() and self._begin_batch()):
                self._label()
            elif self._is_over():
                return
            else:
                self._idle()

    @property
    def _batch(self) -> Path:
        return _batch_path(self._run.path)

    def _look(self) -> bool:
        """Look at what has changed; return whether the folder is there."""
        try:
            found = os.stat(self._folder)  # noqa: PTH116
            identity = found.st_dev, found.st_ino
            is_other = identity != self._identity
            if is_other:  # another disk, or the share is back: who listened to the old one learns nothing
                if self._identity is not None and self._run.total and not os.listdir(self._folder):  # noqa: PTH208
                    return self._wait_for_folder("it is empty, and was another one before")
                self._news.listen()
            changed = set() if is_other else self._news.wait()
            if is_other or self._news.wants_scan or (self._arrivals.is_cut and not self._arrivals):
                started = time.monotonic()
                for sentence in self._arrivals.scan():
                    self._say_once(f"can't be listed: {sentence}")
                self._news.scanned(time.monotonic() - started)
            self._arrivals.look_at(changed)
        except (OSError, UsageError) as error:
            return self._wait_for_folder(str(getattr(error, "strerror", None) or error))
        if self._away_since:
            self._view.say(f"{self._folder} is there again")
            self._away_since = 0.0
        self._identity = identity
        return True

    def _wait_for_folder(self, why: str) -> bool:
        if self._watching.once:
            raise ProducerError(f"{self._folder} is away: {why}")
        self._arrivals.clear()
        self._news.close()
        self._identity = (0, 0)
        if not self._away_since:
            self._view.say(f"{self._folder} is away ({why}): waiting for its disk or share")
            self._away_since = time.monotonic()
        time.sleep(WAITS_S[0])
        return False

    def _begin_batch(self) -> bool:
        """Make the run file of the next batch; return whether there is one."""
        paths = self._arrivals.whole()
        if not paths:
            return False
        RunFile.create(self._batch, self._plan(), paths, InputFilter(self._folder)).close()
        return True

    def _plan(self) -> Plan:
        """Return the plan of the next batch: its own name keeps late answers to earlier ones out."""
        plan = self._run.plan
        name = f"{self._run.path.stem}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}"
        chunk_images = self._settings.chunk_images
        return replace(
            plan, run=name, total=0, skipped={}, data_root=str(self._settings.data_root), chunk_images=chunk_images
        )

    def _label(self) -> None:
        """Bring the batch to its end; what it needs may be away, then it is tried again."""
        from producer.run.execution import execute  # loads Celery, while a private stack starts

        batch = None
        try:
            session = self._connected()
            batch = self._opened_batch()
            if batch is None:
                return
            with closing(batch):
                if batch.done < batch.total:
                    title = f"{batch.plan.source} (watched), {batch.total} images"
                    model = str(batch.plan.model)
                    session.board.add(batch.plan.run, kind="label", title=title, model=model, total=batch.total)
                    execute(session, batch, self._view)
                held = self._run.take_over(batch, self._counts, self._arrivals.skipped)
            session.board.forget(batch.plan.run, BATCH_KEPT_S)
            self._drop_batch()
            self._tries = 0
            for found in self._run.unfinished():
                self._conclude(found)
            self._note_held(held)
        except RunCancelled:
            self._drop_batch()
            raise
        except (BrokerUnreachable, RunRefused, SourceAway, UnavailableError, *AWAY) as error:
            self._disconnect()
            if self._watching.once:
                raise
            pause_s = WAITS_S[min(self._tries, len(WAITS_S) - 1)]
            self._tries += 1
            self._say_once(f"waiting, and trying again: {error}")
            time.sleep(pause_s)

    def _opened_batch(self) -> RunFile | None:
        """Return the batch; None of one that can't be finished: its images are found again."""
        try:
            batch = RunFile(self._batch)
        except RunFileError as error:
            if "in use" in str(error):
                raise
            self._say_once(f"the batch that was begun is dropped, its images are labelled in the next: {error}")
            self._drop_batch()
            return None
        plan = batch.plan
        if (plan.model, plan.base, plan.data_root) == (
            self._run.plan.model,
            self._folder,
            str(self._settings.data_root),
        ):
            return batch
        batch.close()
        self._drop_batch()
        return None

    def _counts(self, path: str, state: FileState) -> bool:
        return self._arrivals.counts(text_to_path(path), state)

    def _note_held(self, held: list[str]) -> None:
        for path in held:
            if self._arrivals.has(text_to_path(path)):
                patience = duration(round(self._arrivals.patience_s))
                self._view.say(f"{path} can't be read yet: tried again when it has stood still for {patience}")
            else:
                self._view.say(f"{path} has changed or gone before it could be labelled")

    def _drop_batch(self) -> None:
        for end in ("-wal", "-shm", ".lock", ""):  # itself last: where it is, the others are made again
            self._batch.with_name(self._batch.name + end).unlink(missing_ok=True)

    def _conclude(self, batch: Batch) -> None:
        """Write the reports, call who waits for the batch, and say what became of it."""
        run, request = self._run, self._watching.reports
        write_reports(run, request, max_pixels=self._settings.max_image_pixels, say=self._view.say)
        failed = f", {batch.failed} failed" if batch.failed else ""
        moment = time.strftime("%H:%M:%S", time.localtime(batch.at))
        self._last = f"last batch {batch.images:,} at {moment}"
        self._view.say(f"{moment} {batch.images:,} images labelled{failed}, {run.total:,} in all: {request.main}")
        self._watching.hook.call(
            {
                "run": run.plan.run,
                "batch": batch.run,
                "folder": path_to_text(self._folder),
                "report": path_to_text(str(request.main)),
                "summary": path_to_text(request.outputs["summary"]),
                "errors": path_to_text(request.outputs["errors"]),
                "images": batch.images,
                "failed": batch.failed,
                "total_images": run.total,
                "total_failed": run.failed,
                "model": str(run.plan.model),
            },
            self._view.warn,
        )
        run.finish(batch)

    def _connected(self) -> Session:
        if self._session is None:
            session = self._opening.enter_context(open_session(self._settings, ["label"]))
            if session.stack is not None:
                session.stack.say = self._view.say
            self._session = session
        return self._session

    def _disconnect(self) -> None:
        self._session = None
        self._opening.close()

    def _idle(self) -> None:
        """Show what is waited for, and keep what stands ready alive."""
        waiting = f"{len(self._arrivals):,} not whole yet" if self._arrivals else ""
        self._view.idle(self._run.total, ", ".join(filter(None, [f"watching {self._folder}", waiting, self._last])))
        if self._session is not None:
            self._session.watch()

    def _is_over(self) -> bool:
        """Whether nothing is left to wait for, in the mode that ends then."""
        if not self._watching.once or self._away_since or self._arrivals.is_cut:
            return False
        if not self._arrivals:
            return True
        if time.monotonic() - self._started < self._watching.settle_s + 2 * self._arrivals.patience_s:
            return False
        self._view.say(f"{len(self._arrivals):,} files are still being written: left for the next call")
        return True

    def _say_once(self, text: str) -> None:
        """Say what may come again and again once in a while."""
        now = time.monotonic()
        if now - self._said.get(text, float("-inf")) > SAY_AGAIN_S:
            self._said = {line: at for line, at in self._said.items() if now - at <= SAY_AGAIN_S} | {text: now}
            self._view.say(text)
