"""What every side sorts its failures by, beside its own errors."""

from __future__ import annotations


class ImageError(Exception):
    """One image can't be had or read, and another try would not help: its row carries the message.

    Attributes:
        reason: short code for counting and sorting, such as "truncated".
        detail: one sentence for a person.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both as args: the error survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class UnavailableError(Exception):
    """Redis, a share or a disk is away for now. Trying again later may help."""
