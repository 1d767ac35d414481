"""What every side sorts its failures by, beside its own errors."""

from __future__ import annotations


class UnavailableError(Exception):
    """Redis, a share or a disk is away for now. Trying again later may help."""
