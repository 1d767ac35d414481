"""What can go wrong for the person at the terminal, each with its exit code (docs/guide/labelling.md)."""

OK = 0
FAILURE = 1
USAGE = 2
STANDSTILL = 3
TOO_MANY_FAILURES = 4
TOO_MANY_TO_REVIEW = 5
UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT


class ProducerError(Exception):
    """Base of this package's errors: the message is for a person, the code for a script."""

    exit_code = FAILURE


class UsageError(ProducerError):
    """The command line asks for something that can't be."""

    exit_code = USAGE


class RunRefused(ProducerError):
    """A worker will never do this job; trying again would not help."""

    def __init__(self, message: str, worker: str = "") -> None:
        super().__init__(message)
        self.worker = worker


class RunCancelled(ProducerError):
    """Somebody cancelled the run; what was labelled stays in the run file."""


class RunHeld(ProducerError):
    """Another producer is at this run."""


class BrokerUnreachable(ProducerError):
    """Redis can't be reached or used."""

    exit_code = UNREACHABLE
