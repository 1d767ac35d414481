"""Options that several commands share, and the settings they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from base.broker_url import masked_url
from base.decisions import DEFAULT_TARGET, TARGETS, target_name
from base.names import Priority
from producer.errors import UsageError
from producer.reports import EMBED_MB, By, CsvDialect
from producer.run import OnExisting

if TYPE_CHECKING:  # pydantic is slow to import, and --help needs none of it
    from configs import Settings
    from producer.reports.request import Request

_where = partial(typer.Option, rich_help_panel="Where")
_reports = partial(typer.Option, rich_help_panel="Reports")

Home = Annotated[
    Path | None, _where("--home", help="Where Sortline keeps its state: store, runs, logs. Also SORTLINE_HOME.")
]
Broker = Annotated[
    str | None,
    _where(
        "--broker",
        metavar="URL",
        help="Redis that the workers consume from; none uses `sortline up`, or a private Redis. "
        "A URL with a password belongs into SORTLINE_BROKER.",
    ),
]
Store = Annotated[Path | None, _where("--store", help="Model store; the default is HOME/store. Also SORTLINE_STORE.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with settings, or the name of one that ships."),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Try images again that failed for a reason that may be mended: not_found, unreadable, changed, "
        "unreachable, worker_lost.",
    ),
]
FileInfo = Annotated[
    bool, typer.Option("--file-info", help="Columns with the file's length, time of the last change and sha256.")
]
Exif = Annotated[
    bool,
    typer.Option("--exif", help="Columns with when, with what camera and where each photo was taken, by its EXIF."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

Formats = Annotated[
    str | None,
    _reports(
        "--format",
        metavar="LIST",
        help="csv, parquet, jsonl, xlsx, megadetector, html; several with commas. The default is the suffix of -o.",
    ),
]


MaxReview = Annotated[
    int | None,
    typer.Option(
        "--max-review",
        min=0,
        help="Exit with 5 if more images than this are not accepted: those of decision review and unknown.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HowOptions:
    """How images are labelled, by whichever version."""

    on_existing: Annotated[
        OnExisting, typer.Option(help="When this command has run before: finish what is missing, start over, or stop.")
    ] = "resume"
    retry_failed: RetryFailed = False
    priority: Annotated[
        Priority | None,
        typer.Option(
            "--priority", help="Beside other runs: high goes before them with small runs, low after all others."
        ),
    ] = None
    quiet: Quiet = False
    config: Config = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(HowOptions):
    """How images are labelled, and by what."""

    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME[@ALIAS|:VERSION]", help="The default is the one model in production."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """Which reports, and what a page shows."""

    formats: Formats = None
    class_map: Annotated[
        Path | None,
        _reports(
            "--class-map",
            metavar="FILE",
            help="Other names and groups for labels in the reports: a TOML file, or a CSV of label, name, group.",
        ),
    ] = None
    embed_mb: Annotated[
        float, _reports(min=0, max=1000, help="Size of the thumbnails inside report.html, MB; more are linked.")
    ] = EMBED_MB

    def request(self, output: Path, **more: Any) -> Request:
        """Return the reports that are asked for; ``more`` as `producer/reports/request.py: request_of` takes it."""
        from producer.reports.request import request_of

        return request_of(output, self.formats, class_map=self.class_map, embed_mb=self.embed_mb, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions(PageOptions):
    """Which reports, with which columns, and where the images go."""

    prob_columns: Annotated[bool, _reports("--prob-columns", help="A column with the probability of every class.")] = (
        False
    )
    columns: Annotated[
        str | None,
        _reports("--columns", metavar="LIST", help="Only these columns, in this order, as in path,label,confidence."),
    ] = None
    bursts: Annotated[
        str | None,
        _reports(
            "--bursts",
            metavar="GAP",
            help="Columns with the burst that a photo is of, and its vote: photos of one camera in one folder, each "
            "taken at most this long after the one before, as in 60s. Implies --exif.",
        ),
    ] = None
    min_confidence: Annotated[
        float | None,
        _reports(
            min=0,
            max=1,
            help="A column decision: accept from this confidence on, else review; in place of the thresholds that the "
            "training has found.",
        ),
    ] = None
    target_precision: Annotated[
        float | None,
        _reports(
            min=0,
            max=1,
            help="Accept with the thresholds that are to make this part of the accepted answers right: "
            f"{', '.join(map(target_name, TARGETS))}; by default {DEFAULT_TARGET}, where the training has found them.",
        ),
    ] = None
    csv_dialect: Annotated[
        CsvDialect | None,
        _reports(help="CSV that Excel opens: with a byte order mark; semicolons where the comma is the decimal sign."),
    ] = None
    sort_into: Annotated[
        Path | None,
        _reports(
            "--sort-into",
            metavar="DIR",
            help="Put each labelled image into DIR/LABEL/, too; or into DIR/review/ or DIR/unknown/, by its decision.",
        ),
    ] = None
    by: Annotated[By, _reports("--by", help="How: a link to the image, a copy, or the image itself.")] = "link"

    def request(self, output: Path, **more: Any) -> Request:
        """Return the reports that are asked for."""
        from producer.reports.bursts import gap_of

        if self.min_confidence is not None and self.target_precision is not None:
            raise UsageError("--min-confidence and --target-precision: one of them, please")
        return PageOptions.request(
            self,
            output,
            probabilities=self.prob_columns,
            columns=[name.strip() for name in (self.columns or "").split(",") if name.strip()],
            bursts_s=gap_of(self.bursts) if self.bursts is not None else None,
            min_confidence=self.min_confidence,
            target_precision=self.target_precision,
            csv_dialect=self.csv_dialect,
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceOptions:
    """Where a command finds its broker, images and models."""

    broker: Broker = None
    data_root: Annotated[
        str | None,
        _where(
            "--data-root",
            metavar="DIR_OR_URL",
            help="Folder shared with the workers, or URL, that all images are below. Also SORTLINE_DATA_ROOT.",
        ),
    ] = None
    store: Store = None
    home: Home = None

    def settings(
        self, config: Path | None = None, training: dict[str, Any] | None = None, *, priority: Priority | None = None
    ) -> Settings:
        """Return the settings of a command."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return settings_of(config, training=training, priority=priority, **given)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return ``command`` as Typer takes it: a parameter that is a record above becomes one option a field."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            kinds = get_type_hints(groups[parameter.name], include_extras=True)
            found = [(field.name, field.default, kinds[field.name]) for field in fields(groups[parameter.name])]
        else:
            found = [(parameter.name, parameter.default, hints[parameter.name])]
        for name, default, kind in found:
            parameters.append(inspect.Parameter(name, parameter.KEYWORD_ONLY, default=default, annotation=kind))

    @wraps(command)
    def expanded(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        command(**values)

    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def settings_of(config: Path | None = None, **flags: Any) -> Settings:
    """Return the settings of a command; ``flags`` are its options, None where one was not given."""
    from configs import load_settings

    if (broker := flags.get("broker")) and masked_url(broker) != broker:
        # Every user of this machine can read command lines.
        raise UsageError(
            "a password on the command line can be read by everybody here; put the URL into SORTLINE_BROKER, or as "
            "`broker` into the file of --config"
        )
    return load_settings(config, {key: value for key, value in flags.items() if value is not None})
