"""The ``sortline`` command. Each command is a function in ``producer/commands``; this file only joins them."""

from __future__ import annotations

import _thread
import gc
import signal
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Annotated, Any

import typer

from producer.commands import jobs, models, workers
from producer.commands.audit import audit
from producer.commands.clean import clean
from producer.commands.compare import compare
from producer.commands.drift import drift
from producer.commands.eval import evaluate
from producer.commands.label import label
from producer.commands.monitor import monitor
from producer.commands.report import report
from producer.commands.review import review
from producer.commands.stack import doctor, up, worker
from producer.commands.tag import tag
from producer.commands.train import TrainCommand, train
from producer.commands.watch import watch
from producer.errors import FAILURE, OK, UNREACHABLE, USAGE, ProducerError

AGAIN_S = 0.02
GARBAGE_EVERY = 200_000  # new objects; Python's 700 suit a small program

app = typer.Typer(
    name="sortline",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Label folders of images with your own trained network, on the machines you have.

    sortline train photos/ --name kitchen      # queue a training job; publishes a model version

    sortline label inbox/ -o report.csv        # one CSV row an image

    sortline review report.csv                 # correct the doubtful answers in a browser

    sortline eval photos/test                  # how right the model is, as a page to look at

    sortline up                                # keep Redis, workers and Flower running here

    Exit codes: 0 ok, 1 failure, 2 usage, 3 labelling stands still, 4 more failed images than --max-failures,
    69 broker unreachable, 130 interrupted.
    """,
)


def show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"sortline {version('sortline')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


for command in (label, watch, report, review, compare, drift, tag, audit, train, worker, up, doctor, clean):
    app.command(cls=TrainCommand if command is train else None)(command)
# Options that it doesn't know are Flower's.
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(monitor)
app.command("eval")(evaluate)
app.add_typer(jobs.app, name="jobs")
app.add_typer(workers.app, name="workers")
app.add_typer(models.app, name="models")


def put_off(module: str, name: str, load: Callable[[], type]) -> None:
    """Have others import ``name`` from ``module`` without loading it, until ``load`` has to give that class.

    Typer's help imports classes that ours never needs, and with them a parser of Markdown and all languages that
    Pygments colours: a fifth of its time.
    """

    def __new__(_: type, *values: Any, **named: Any) -> Any:  # noqa: N807 - of the class below
        if sys.modules.get(module) is stand_in:
            del sys.modules[module]
        return load()(*values, **named)

    if module not in sys.modules:
        stand_in = ModuleType(module)
        setattr(stand_in, name, type(name, (), {"__new__": __new__}))
        sys.modules[module] = stand_in


def _markdown() -> type:
    from rich.markdown import Markdown

    return Markdown


def _traceback() -> type:
    from rich.traceback import Traceback

    return Traceback


def interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Have a Ctrl-C come again that met a weak reference's callback, where Python would print it and forget it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN_S, _thread.interrupt_main).start()  # here it would meet the callback once more
    else:
        sys.__unraisablehook__(unraisable)


def main() -> None:
    """Run the command line and exit with its code."""
    put_off("rich.markdown", "Markdown", _markdown)
    put_off("rich.traceback", "Traceback", _traceback)
    # Imports make a hundred thousand objects that stay, and looking through them for rubbish again and again is a sixth
    # of a command's start. Nor is there any use in taking them apart at the end: that took longer than 0.05 s.
    gc.set_threshold(GARBAGE_EVERY)
    sys.unraisablehook = interrupt_again
    code = run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late: all is done, and an interpreter that ends would die of it
    gc.freeze()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; return its exit code. What went wrong is one message on stderr, not a traceback."""
    try:
        app(arguments, prog_name="sortline")
        return OK
    except SystemExit as ended:  # Typer's word for every end: 2 after a usage error that it has shown, 130 after Ctrl-C
        return int(ended.code or OK)
    except Exception as error:
        explained = _explained(error)
        if explained is None:
            raise
        from base.text import printable
        from producer.terminal.troubleshooting import advice_on

        code, text = explained
        advice = advice_on(text)
        text = "\n".join(map(printable, text.splitlines()))  # some of it may be a stranger's
        print(f"sortline: {text}" + (f"\nmore: {advice}" if advice else ""), file=sys.stderr)
        return code


def _explained(error: Exception) -> tuple[int, str] | None:
    """Return exit code and sentence of an error that is ours to explain, else None."""
    if isinstance(error, ProducerError):
        return error.exit_code, str(error)
    from base.errors import UnavailableError
    from base.text_files import TextError
    from configs import SettingsError
    from jobs import BrokerError, MessageError, redis_fault
    from model_store import StoreError

    if isinstance(error, SettingsError | TextError):
        return USAGE, str(error)
    if isinstance(error, BrokerError):
        return UNREACHABLE, str(error)
    if (fault := redis_fault(error)) is not None:
        return FAILURE if "WRONGTYPE" in fault else UNREACHABLE, fault
    if isinstance(error, StoreError | MessageError | UnavailableError | OSError):
        return FAILURE, str(error)
    return None


if __name__ == "__main__":
    main()
