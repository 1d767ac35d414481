"""A second version that labels a part of a run's images too: to see how it does, at no risk for the run."""

from __future__ import annotations

from dataclasses import dataclass

from configs import Settings
from producer.reports.comparison import Comparison, compared
from producer.reports.request import Request
from producer.run import OnExisting
from producer.run.beside import Beside, other_version, second_run
from producer.run.connection import Connection
from producer.run.opening import RunRequest
from producer.runfile import RunFile


@dataclass(frozen=True, slots=True)
class Shadow:
    """Which version, as it was typed, and which part of the images it labels."""

    reference: str
    share: float

    def of(self, settings: Settings, request: RunRequest) -> Beside:
        """Return what labels beside ``request``; UsageError when it can't, before anything is started."""
        version = other_version(settings, request, self.reference)
        return Beside(version, self.reference, f"shadow {self.share:g}", self.share)


def ride_along(
    connection: Connection,
    request: RunRequest,
    first: RunFile,
    beside: Beside,
    reports: Request,
    on_existing: OnExisting,
) -> None:
    """Label a part of the images of ``first`` by another version, and keep its answers there; say what goes wrong.

    The run has all its rows and tables by now: whatever happens here must not keep it from its page.
    """
    view, version = connection.view, beside.version.manifest.reference
    try:
        view.say(f"beside it {version}, on {beside.share:.0%} of the images")
        with second_run(connection, request, first, beside, reports, on_existing) as second:
            found = Comparison(first.plan.model, second.plan.model)
            answers = (
                (pair.row.input_index, *pair.second)
                for pair in compared(first, second, found)
                if pair.second is not None
            )
            first.keep_shadow(answers, lambda: {"share": beside.share, "run": second.plan.run, **found.to_json()})
    except Exception as error:
        view.warn(f"{version} was given up: {error}\nThe reports are there; the same command tries it again.")
