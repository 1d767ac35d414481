"""Which model version a command means, and the process that imports and exports versions."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO

from base.networks import PRETRAINED
from base.process import how_it_ended
from configs import Settings, environment_of
from jobs import ModelPin
from model_store import ModelNotFound, ModelStore, ModelVersion
from producer.errors import ProducerError


def find_model(store: ModelStore, reference: str | None) -> ModelVersion:
    """Return the version that ``reference`` means; without one, the only model that is in production."""
    if reference is not None:
        return store.resolve(reference)
    found = [store.resolve(name) for name in store.names() if "production" in store.aliases(name)]
    classifiers = [version for version in found if version.manifest.kind == "classifier"]
    if len(classifiers) == 1:
        return classifiers[0]
    newest = max(classifiers, key=lambda version: version.manifest.created, default=None)
    known = ", ".join(str(pin_of(version)) for version in classifiers) or "none"
    if newest is not None:
        known += f"; the newest is {pin_of(newest)}"
    raise ModelNotFound(
        f"say which model labels: pass --model NAME (in production in {store.root}: {known}); "
        "`sortline models list` shows all, `sortline train` makes one"
    )


def pin_of(version: ModelVersion) -> ModelPin:
    """Return what messages carry of a model version."""
    manifest = version.manifest
    return ModelPin(name=manifest.name, version=manifest.version, digest=manifest.digest)


def run_models(arguments: list[str], settings: Settings, output: IO[str] | None = None) -> int:
    """Run ``python -m worker.models`` with these settings to its end; return its exit code.

    A process of its own: this one imports no deep-learning library. It starts in our folder, since ``python -m`` would
    import from whatever folder the user stands in. What it prints goes to ``output``, or where ours goes.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = {**os.environ, **environment_of(settings)}
    command = [sys.executable, "-m", "worker.models", *arguments]
    code = subprocess.run(command, cwd=settings.home, env=environment, stdout=output, check=False).returncode
    if code < 0:
        raise ProducerError(f"the process for this ended with {how_it_ended(code)}; nothing was published or written")
    return code


def bring_pretrained(settings: Settings, name: str) -> None:
    """Import the weights ``name`` if a package ships them and the store has no model of that name.

    Raises:
        ProducerError: they can't be imported; the reason is printed.
    """
    store = ModelStore(settings.store_root)
    is_new = settings.store is None and not store.root.exists()  # a store that was named and is away is to be mounted
    if name not in PRETRAINED or (not is_new and name in store.names()):
        return
    print(f"importing the weights {name} into the store, once", file=sys.stderr)
    if run_models(["import", name, "--name", name], settings, output=sys.stderr):
        raise ProducerError(f"nothing can be trained on {name}, which could not be imported")
