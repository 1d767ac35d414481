"""Which model version a command means."""

from __future__ import annotations

from jobs import ModelPin
from model_store import ModelNotFound, ModelStore, ModelVersion


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


def pin_of(version: ModelVersion) -> ModelPin:
    """Return what messages carry of a model version."""
    manifest = version.manifest
    return ModelPin(name=manifest.name, version=manifest.version, digest=manifest.digest)
