"""Model versions on a disk or share, and the aliases that say which of them is used."""

from typing import TYPE_CHECKING

from base.doors import lazy

if TYPE_CHECKING:
    from model_store.errors import ChecksumError, ManifestError, ModelNotFound, StoreError, StoreUnavailable
    from model_store.manifest import (
        Cascade,
        ClassEntry,
        Decisions,
        Golden,
        HeldOut,
        Manifest,
        ManifestDraft,
        PrecisionProof,
    )
    from model_store.store import ModelStore, ModelVersion
else:
    __getattr__ = lazy(__name__)
