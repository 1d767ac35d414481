"""Start a run, or find the one that the same command left unfinished."""

from __future__ import annotations

import os
import re
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from configs import Settings
from jobs.messages import ModelPin
from model_store import ModelNotFound, ModelStore, ModelVersion
from producer.errors import UsageError
from producer.run.run_file import Plan, RunFile
from producer.sources.images import Source
from producer.sources.since import Earlier, Look

OnExisting = Literal["resume", "overwrite", "error"]


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """A run ready to go on, and what a person should know about it."""

    run: RunFile
    note: str


def find_model(store: ModelStore, reference: str | None) -> ModelVersion:
    """Return the version that ``reference`` means; without one, the only model that is in production."""
    if reference is not None:
        return store.resolve(reference)
    found = [store.resolve(name) for name in store.names() if "production" in store.aliases(name)]
    classifiers = [version for version in found if version.manifest.kind == "classifier"]
    if len(classifiers) == 1:
        return classifiers[0]
    names = [version.name for version in classifiers]
    known = ", ".join(names) or "none"
    raise ModelNotFound(
        f"say which model labels: pass --model NAME (in production in {store.root}: {known}); "
        "`sortline models list` shows all, `sortline train` makes one"
    )


def run_path(
    settings: Settings,
    source: Source,
    origin: str,
    model: str | None,
    top_k: int,
    report: Path,
    since: str | None = None,
    duplicates: bool = False,
) -> Path:
    """Return the run file that this very command has: same source, model, labels a row, report and earlier run."""
    parts = [source.base, origin, model or "", str(top_k), str(report)]
    parts += [f"since {since}"] if since is not None else []
    parts += ["duplicates"] if duplicates else []
    parts += [settings.data_root] if isinstance(settings.data_root, str) else []  # that the inputs' paths are below
    key = "\0".join(parts)
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name).strip("-")[:40] or "run"
    return settings.home / "runs" / f"{slug}-{sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}.run"


def find_run(settings: Settings, text: str) -> RunFile:
    """Return the run that ``text`` means: a run file, the name of a run, or a report that was made of one.

    Raises:
        UsageError: there is none.
    """
    from producer.reports.request import Request

    given = Path(os.path.abspath(text))  # noqa: PTH100 - links stay as the user wrote them
    if given.suffix == ".run" and given.is_file():
        return RunFile(given)
    found = []
    for path in (settings.home / "runs").glob("*.run"):
        peeked = RunFile.peek(path)
        if peeked is None:
            continue
        plan, requests = peeked
        outputs = {output for request in requests for output in Request.from_json(request).outputs.values()}
        if text in (plan.run, path.stem) or str(given) in outputs:
            found.append((path.stat().st_mtime, path))
    if not found:
        raise UsageError(
            f"no run {text}: pass a run file, the name of a run, or a report that one of the runs in "
            f"{settings.home / 'runs'} has made"
        )
    return RunFile(max(found)[1])


def open_run(
    path: Path,
    settings: Settings,
    source: Source,
    paths: list[str] | None,
    version: ModelVersion,
    *,
    top_k: int,
    on_existing: OnExisting,
    since: str | None = None,
    report: Path | None = None,
    duplicates: bool = False,
) -> OpenedRun:
    """Return the run of ``path``: the unfinished one goes on, with its images and its model version; else a new one.

    Args:
        paths: the inputs, when they can be read only once (standard input); else None and ``source`` is walked.
        since: an earlier run, as ``find_run`` knows it; a new run leaves out what is unchanged since.
        duplicates: label byte-identical images once.
        report: the main report of this run, which must be none of the earlier run's.

    Raises:
        UsageError: there is one already and ``on_existing`` is "error"; or there is nothing to label.
    """
    if path.exists() and on_existing == "error":
        raise UsageError(f"this command has run before ({path}); pass --on-existing resume or overwrite")
    if path.exists() and on_existing == "resume":
        found = RunFile(path)
        if found.done < found.total:
            model = found.plan.model
            note = f"resuming {found.plan.run}: {found.done} of {found.total} images have their row, model {model}"
            return OpenedRun(found, note)
        found.close()  # ``since`` may mean it
    look, told = Look(source.base), ""
    if since is not None:
        look, told = _look_since(settings, source, since, version, report)
    try:
        if path.exists() and on_existing == "resume":
            found = RunFile(path)
            same_model = found.plan.model.digest == version.manifest.digest
            if same_model and look.digest_of(paths if paths is not None else source.paths()) == (
                found.total,
                found.plan.inputs_digest,
            ):
                return OpenedRun(
                    found, f"nothing new: all {found.total} images have their row; --on-existing overwrite starts over"
                )
            found.close()
            source.skipped = 0  # the walk to come counts anew
            source.unreadable.clear()
        run = _new_run(path, settings, source, paths, version, top_k, look, duplicates)
    finally:
        if look.earlier is not None:
            look.earlier.close()
    if since is not None:
        told = f"{look.unchanged:,} unchanged since {since}, {run.total:,} to label{told}"
    if duplicates:
        told += f"{'; ' if told else ''}{run.copies:,} of {run.total:,} images are copies of another"
    return OpenedRun(run, told)


def _look_since(
    settings: Settings, source: Source, since: str, version: ModelVersion, report: Path | None
) -> tuple[Look, str]:
    """Return what leaves out the files that ``since`` knows, and what a person should know about it."""
    from producer.reports.request import Request

    run = find_run(settings, since)
    try:
        outputs = {output for text in run.requests() for output in Request.from_json(text).outputs.values()}
        if str(report) in outputs:
            raise UsageError(
                f"--since {since} has made {report}, which this run would replace by the rows of new and changed files "
                "alone; give -o another name"
            )
        if run.plan.model.digest != version.manifest.digest:
            pin = f"{version.manifest.name}:{version.manifest.version}"
            return Look(source.base, Earlier()), f": that run's labels are of {run.plan.model}, not of {pin}"
        return Look(source.base, Earlier(run)), ""
    finally:
        run.close()


def _new_run(
    path: Path,
    settings: Settings,
    source: Source,
    paths: list[str] | None,
    version: ModelVersion,
    top_k: int,
    look: Look,
    duplicates: bool,
) -> RunFile:
    if settings.data_root is None:
        raise UsageError(
            "with a broker of your own, say where the workers' images begin: --data-root or SORTLINE_DATA_ROOT, "
            "the folder that this machine and the workers share"
        )
    manifest = version.manifest
    if manifest.kind != "classifier":
        raise UsageError(f"{manifest.name} is a backbone, not a classifier: train a model on it with `sortline train`")
    plan = Plan(
        run=f"{path.stem}-{time.strftime('%Y%m%d')}-{secrets.token_hex(3)}",
        source=source.name,
        base=source.base,
        data_root=str(settings.data_root),
        walked=source.is_folder,
        model=ModelPin(name=manifest.name, version=manifest.version, digest=version.manifest.digest),
        labels=[entry.label for entry in manifest.classes],
        groups=[entry.group for entry in manifest.classes],
        folders=[entry.folder for entry in manifest.classes],
        top_k=min(top_k, len(manifest.classes)),
        chunk_images=settings.chunk_images,
        duplicates=duplicates,
    )
    run = RunFile.create(path, plan, paths if paths is not None else source.paths(), look)
    if run.total == 0 and not look.unchanged:
        run.close()
        path.unlink()
        raise UsageError(
            f"no images in {source.base}" + (f" ({source.skipped} other files skipped)" if source.skipped else "")
        )
    return run
