"""Review a run: open its images, its corrections and the page, and answer until the person has enough."""

from __future__ import annotations

import getpass
import os
import webbrowser
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from base.decisions import Decision
from base.errors import UnavailableError
from base.install import pip_install
from base.text import printable
from configs import Settings
from producer.errors import UsageError
from producer.review import Order
from producer.review.corrections import Corrections
from producer.review.guard import Guard
from producer.review.images import open_collection
from producer.review.pictures import Pictures
from producer.review.retraining import Retraining
from producer.review.session import Session

NOT_INSTALLED = f"the review page needs Starlette and uvicorn: {pip_install('sortline[review]')}"


def review(
    settings: Settings,
    run: str,
    output: Path | None,
    data_root: Path | None,
    who: str | None,
    order: Order,
    only: Decision | None = None,
    *,
    embeddings: Path | None = None,
    browse: bool,
) -> None:
    """Serve the page of a run until it is interrupted.

    Raises:
        UsageError: there is nothing to review, or the extra is not installed.
        CorrectionsError: the corrections can't be read or written.
    """
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UsageError(NOT_INSTALLED)
    from producer.review.server import listen, make_server

    load = partial(open_collection, settings, run, data_root, embeddings)
    collection = load()
    if order == "disagreement" and not collection.other:
        raise UsageError(
            f"--order disagreement: {run} has the answers of one version; `sortline compare` makes a table of two"
        )
    if order == "outlier" and not collection.has_outliers:
        raise UsageError(
            f"--order outlier: {run} has no outlier scores; versions with RBF centers give them, those imported with "
            "--calibrate, and `sortline audit`"
        )
    if only is not None and not collection.has_decisions:
        raise UsageError(
            f"--decision {only}: {run} does not say which answers are accepted; a version with thresholds does, or "
            "`sortline report --min-confidence`"
        )
    path = Path(os.path.abspath(output or collection.corrections))  # noqa: PTH100 - links stay links
    try:
        pictures = Pictures(collection, settings.home, settings.max_image_pixels)
    except UnavailableError as error:
        raise UsageError(f"{error}; say where the images are with --data-root") from error
    with closing(pictures), closing(Corrections(path, who or _user())) as corrections, listen() as listening:
        if corrections.repaired:
            print(printable(corrections.repaired))
        decided = sum(decision.verdict != "open" for decision in corrections.decisions().values())
        print(f"{len(collection.images):,} images, {decided:,} decided; each decision is saved in {path}")
        if collection.pages:
            print(f"{collection.pages:,} further pages are left out: a correction is of a file, by its first page")
        guard = Guard(listening.getsockname()[1])
        retraining = Retraining(settings, collection.version, path)
        session = Session(collection, corrections, pictures, load, order, retraining, only)
        print(f"open this link; it works once: {guard.address}\nCtrl-C ends; nothing gets lost", flush=True)
        pictures.make_all()
        if browse:
            webbrowser.open(guard.address)
        with suppress(KeyboardInterrupt):
            make_server(session, guard).run(sockets=[listening])
        labels = sum(bool(decision.label) for decision in corrections.decisions().values())
        print(f"{labels:,} images with a label in {path}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
