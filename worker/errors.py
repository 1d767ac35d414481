"""What can go wrong in a worker beyond one image."""


class WorkerError(Exception):
    """Base of this package's errors."""


class JobRefused(WorkerError):
    """This job can never be done: another try would end the same way."""


class KeepsAway(WorkerError):
    """This worker has failed at another chunk of the run just now."""


class JobCancelled(WorkerError):
    """Somebody cancelled the job."""
