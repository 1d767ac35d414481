"""What can be wrong with a job, sorted by who must act."""

from base.errors import UnavailableError


class JobError(Exception):
    """Base of this package's errors."""


class MessageError(JobError):
    """A message is not one of ours, or breaks the contract. Trying again would not help."""


class SchemaMismatch(MessageError):
    """A message of ours of another schema version: one side must be updated. Names what it is about, for an answer.

    Attributes:
        job: the run or training job.
        first: of the chunk, by the index of its first image.
        worker: that sent it, if one did.
    """

    def __init__(self, message: str, job: str, first: int, worker: str = "") -> None:
        super().__init__(message)
        self.job = job
        self.first = first
        self.worker = worker


class BrokerError(JobError):
    """Redis can't be used as configured. The message says what to change."""


class BrokerAway(BrokerError):
    """Redis does not answer now; it may be starting."""


class BrokerFull(UnavailableError):
    """Redis is at its ``maxmemory`` and takes no more until something is taken out."""
