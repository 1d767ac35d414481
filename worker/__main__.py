"""``python -m worker --queues label|train``: builds settings, runtime and app, and consumes until stopped.

SIGTERM finishes the work at hand and leaves the rest to others. Exit codes: 0 stopped, 1 failed, 2 usage,
69 the broker can't be used.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from base.process import shut_out_strangers
from base.temporary import own_temporary_folder
from configs import Settings, SettingsError, load_settings
from jobs import BrokerAway, BrokerError, JobBoard, Keys, check_broker, connect
from storage import ExtraMissing
from worker.errors import WorkerError
from worker.handler import Handler
from worker.kinds import BY_QUEUE

log = logging.getLogger("sortline.worker")

# A spawned child imports its modules before it can answer; Celery's 4 s would kill it again and again.
CHILD_START_LIMIT_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker", description="A Sortline worker.")
    parser.add_argument("--queues", choices=list(BY_QUEUE), required=True, help="what it works on")
    parser.add_argument("--config", type=Path, help="TOML file with settings")
    parser.add_argument("--name", help="shown in Flower; the default is label or train and the process number")
    options = parser.parse_args(arguments)
    shut_out_strangers()
    kind = BY_QUEUE[options.queues]
    try:
        settings = load_settings(options.config)
        if settings.data_root is None:
            raise SettingsError(
                "a worker needs SORTLINE_DATA_ROOT: the folder or URL that all images are below; "
                "it reads nothing outside it"
            )
        kind.check_host(settings)
        client = connect(settings)
        try:
            check_broker(client, settings)  # a wrong password would be retried for ever by Celery
            kind.tidy(settings, JobBoard(client, Keys(settings.key_prefix)))
        except BrokerAway as error:
            print(f"sortline worker: {error}; waiting for it", file=sys.stderr)
        client.close()
    except SettingsError as error:
        return _fail(str(error), 2)
    except (ExtraMissing, WorkerError) as error:
        return _fail(str(error), 1)
    except BrokerError as error:
        return _fail(str(error), 69)
    name = options.name or f"{options.queues}-{os.getpid()}"
    if kind.in_processes:
        from worker.logs import log_event, set_up_logging
        from worker.processes import Host, plan_processes

        set_up_logging(settings)
        plan = plan_processes(settings, Host.here(settings))
        log_event(log, "processes of this worker", processes=len(plan.parts), reason=plan.reason)
        if len(plan.parts) > 1:
            from worker.parent import run_processes

            return run_processes(options.queues, name, plan.parts)
    return run(settings, kind, name)


def run(settings: Settings, kind: type[Handler[Any, Any]], name: str) -> int:
    """Do jobs of one kind until stopped by a signal; return the exit code."""
    from worker.logs import set_up_logging
    from worker.tasks import worker_app

    set_up_logging(settings)
    app = worker_app(settings)
    app.conf.worker_proc_alive_timeout = CHILD_START_LIMIT_S
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        queues=[kind.message.queue],
        loglevel=settings.log_level.upper(),
        without_mingle=True,  # a second of waiting at each start, for revoked lists that we don't use
        without_gossip=True,
        quiet=True,
        **kind.pool,
    )
    # A child that is killed leaves folders of multiprocessing: below this one, they go with the worker.
    with own_temporary_folder() if kind.is_in_child else nullcontext():
        worker.start()
    return int(worker.exitcode or 0)


def _fail(message: str, code: int) -> int:
    print(f"sortline worker: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
