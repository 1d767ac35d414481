"""What can go wrong with the model store, sorted by who must act."""

from __future__ import annotations


class StoreError(Exception):
    """Base of every error of this package; itself raised for names and requests that could never be right."""


class ModelNotFound(StoreError):
    """No such model, version, alias or file; the message lists those there are. Trying again would not help."""


class ManifestError(StoreError):
    """A manifest, or what one is to be made of, is not as it must be."""


class ChecksumError(StoreError):
    """Bytes on disk are not those that were published; the message says which file."""


class StoreUnavailable(StoreError):
    """The disk or share with the store can't be read or written now; trying again may help."""
