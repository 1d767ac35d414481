"""A host that only labels installs `sortline` without extras: nothing it imports may come with an extra."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LABELLING = (
    "producer.__main__, producer.run.gather, producer.run.opening, producer.local.stack, producer.run.detached, "
    "producer.training.jobs, producer.local.doctor, producer.reports.request, producer.reports.page, jinja2, "
    "worker.__main__, worker.tasks, vision.serving.engines.openvino, "
    "kombu.transport.redis, celery.apps.worker, celery.concurrency.thread, celery.worker.consumer, celery.worker.loops"
)
# Imported by a library where it happens to be there, and not needed.
OPTIONAL = {"_distutils_hack", "cffi", "cryptography", "greenlet", "psutil", "yaml"}


def installed_with(name: str, known: set[str] | None = None) -> set[str]:
    """Names of the distributions that ``pip install NAME`` brings here, without extras."""
    known = set() if known is None else known
    if canonicalize_name(name) in known:
        return known
    known.add(canonicalize_name(name))
    try:
        needed = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # for another platform
        return known
    for requirement in needed:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            installed_with(requirement.name, known)
    return known


def test_labelling_imports_nothing_that_only_an_extra_brings() -> None:
    script = (
        f"import sys, json, {LABELLING}\n"
        "from vision.serving.engines.openvino import import_openvino; import_openvino()\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    owners = packages_distributions()
    brought = installed_with("sortline")

    foreign = {
        module: sorted(owners[module])
        for module in loaded & owners.keys()
        if not {canonicalize_name(owner) for owner in owners[module]} & brought and module not in OPTIONAL
    }

    assert {"celery", "openvino", "cv2", "redis"} <= loaded
    assert foreign == {}
