"""The workers of a broker, as they answer: what each is, holds and does, and how to let those of a host end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from base.text import printable
from producer.local.session import Session

ANSWER_S = 1.5
SHOWN = ("sortline", "engine", "device", "precision", "models", "rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """One worker. ``jobs``: how many it has at hand; ``shown``: what it says of itself, by the names of `SHOWN`."""

    name: str
    jobs: int
    shown: Mapping[str, str]

    @property
    def host(self) -> str:
        return self.name.rpartition("@")[2]


def workers_of(session: Session) -> list[WorkerState]:
    """Return the workers that answer, by host and name. An answer that no worker of ours wrote is left out."""
    inspect = session.app.control.inspect(timeout=ANSWER_S)
    stats, active = inspect.stats() or {}, inspect.active() or {}
    found = []
    for name, said in stats.items():
        if isinstance(said, dict) and isinstance(said.get("sortline"), str):  # else a worker of something else
            jobs = active.get(name)
            shown = {key: printable(str(said.get(key, "")))[:200] for key in SHOWN}
            found.append(
                WorkerState(name=printable(name), jobs=len(jobs) if isinstance(jobs, list) else 0, shown=shown)
            )
    return sorted(found, key=lambda worker: (worker.host, worker.name))


def drain(session: Session, host: str) -> list[str]:
    """Ask the workers of ``host``, or the one of this name, to finish what they have at hand and end; return them."""
    names = [worker.name for worker in workers_of(session) if host in (worker.host, worker.name)]
    if names:
        session.app.control.broadcast("drain", destination=names, reply=True, timeout=ANSWER_S)
    return names
