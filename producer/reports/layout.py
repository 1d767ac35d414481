"""What all formats of a report share: its columns, what classes are called in it, and the row of each image."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from base.decisions import DEFAULT_TARGET, Decision, decide, target_name
from base.text_files import read_table
from producer.errors import UsageError
from producer.reports import CsvDialect
from producer.reports.bursts import Bursts
from producer.runfile import Plan, StoredRow

CONFIDENCE_DIGITS = 4  # more would show the noise between engines

DEGREE_DIGITS = 6  # a tenth of a metre


class Degrees(float):
    """A latitude or longitude."""


Value: TypeAlias = str | float | int | None  # of a cell; floats are confidences, unless they are Degrees

ClassMap = Mapping[str, tuple[str, str | None]]  # label of the model -> name and group in reports
_NO_MAP: ClassMap = {}


class Answer(NamedTuple):
    """One image as every format shows it.

    ``ranked`` holds (name, confidence), the most probable first; ``probabilities`` one value a column of them,
    ``more`` one a column of `Layout.more`.
    """

    path: str
    status: str  # "ok", "error" or "missing"
    ranked: list[tuple[str, float]]
    group: str | None
    decision: Decision | None
    outlier: float | None
    probabilities: list[float]
    error: str | None
    detail: str
    width: int
    height: int
    model: str
    more: list[Value]


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a run's reports.

    Attributes:
        names, groups: by class index, after the class map. Several classes may have one name.
        ranks: how many labels a row shows.
        probability_names: the names with a column of their own; empty without ``--prob-columns``.
        duplicates: whether there is a column ``duplicate_of``.
        pages: whether there is a column ``page``.
        file_info, exif: whether there are the columns of `FILE_COLUMNS` and of `EXIF_COLUMNS`.
        bursts: with them there are the columns of `BURST_COLUMNS`.
        min_confidence, target_precision: what ``thresholds`` come from.
        thresholds: by class index, see `base.decisions`; without them there is no column ``decision``.
        outliers: whether there is a column ``outlier``.
        chosen: the columns to show, in this order; all when empty.
        csv_dialect: a name of `producer/reports/csv.py: DIALECTS`.
    """

    names: list[str]
    groups: list[str | None]
    ranks: int
    model: str
    probability_names: list[str]
    duplicates: bool = False
    pages: bool = False
    file_info: bool = False
    exif: bool = False
    bursts: Bursts | None = None
    min_confidence: float | None = None
    target_precision: float | None = None
    thresholds: Sequence[float | None] = ()
    outliers: bool = False
    chosen: Sequence[str] = ()
    csv_dialect: CsvDialect | None = None
    places: Sequence[int] = ()  # of the chosen columns among all

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        ranks: int | None = None,
        class_map: ClassMap = _NO_MAP,
        probabilities: bool = False,
        min_confidence: float | None = None,
        target_precision: float | None = None,
        **shown: Any,
    ) -> Layout:
        """Return the layout of ``plan``; UsageError when its rows can't fill the columns, or the map has other labels.

        Args:
            ranks: labels a row; as many as the run kept by default.
            min_confidence: for all classes, in place of the thresholds of the version.
            target_precision: which of those; `DEFAULT_TARGET` by default, where it has any.
            shown: ``bursts``, ``chosen`` and ``csv_dialect``.
        """
        classes = len(plan.labels)
        kept = min(plan.top_k, classes)
        if probabilities and kept < classes:
            raise UsageError(
                f"run {plan.run} kept {kept} of {classes} labels an image, so not every class's probability is known; "
                "label again with --prob-columns"
            )
        forms = {unicodedata.normalize("NFC", label): label for label in plan.labels}
        class_map = {forms.get(unicodedata.normalize("NFC", label), label): new for label, new in class_map.items()}
        for label in class_map.keys() - set(plan.labels):
            near = difflib.get_close_matches(label, plan.labels, 1)
            meant = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(plan.labels[:30])}"
            raise UsageError(f"the class map names {label!r}, which is no label of {plan.model}{meant}")
        mapped = [class_map.get(label, (label, None)) for label in plan.labels]
        names = [name for name, _ in mapped]
        target = _target(plan, target_precision) if min_confidence is None else None
        found = cls(
            names=names,
            groups=[new or old for (_, new), old in zip(mapped, plan.groups, strict=False)],
            ranks=min(ranks or kept, kept),
            model=str(plan.model),
            probability_names=list(dict.fromkeys(names)) if probabilities else [],
            duplicates=plan.duplicates,
            pages=plan.pages,
            file_info=plan.file_info,
            exif=plan.exif,
            min_confidence=min_confidence,
            target_precision=target,
            thresholds=_thresholds(plan, min_confidence, target),
            outliers=plan.outliers,
            **shown,
        )
        if unknown := [name for name in found.chosen if name not in found.all_columns]:
            raise UsageError(f"--columns: no column {unknown[0]!r}; there are {', '.join(found.all_columns)}")
        if twice := [name for name, count in Counter(found.chosen).items() if count > 1]:
            raise UsageError(f"--columns: {twice[0]} is named twice")
        return replace(found, places=[found.all_columns.index(name) for name in found.chosen])

    @property
    def all_columns(self) -> list[str]:
        """The columns of a table, in order."""
        more = [name for rank in range(2, self.ranks + 1) for name in (f"label_{rank}", f"confidence_{rank}")]
        return [
            "path",
            "status",
            "label",
            "confidence",
            "group",
            *(["decision"] if self.thresholds else []),
            *(["outlier"] if self.outliers else []),
            *more,
            "error",
            "error_detail",
            "width",
            "height",
            "model",
            *self.more,
            *(f"p:{name}" for name in self.probability_names),
        ]

    @property
    def more(self) -> list[str]:
        """The columns that options added to those of all tables."""
        return [
            *(["page"] if self.pages else []),
            *(["duplicate_of"] if self.duplicates else []),
            *(FILE_COLUMNS if self.file_info else []),
            *(EXIF_COLUMNS if self.exif else []),
            *(BURST_COLUMNS if self.bursts is not None else []),
        ]

    @property
    def columns(self) -> list[str]:
        """The columns that are shown."""
        return list(self.chosen) or self.all_columns

    def decision(self, row: StoredRow) -> Decision | None:
        """Return what becomes of a row's answer; None where it has none, or nothing is decided."""
        if not row.top or not self.thresholds:
            return None
        best, confidence = row.top[0]
        return decide(confidence, self.thresholds[best], row.outlier)

    def values(self, answer: Answer) -> list[Value]:
        """Return the cells of a row, one a column; None where there is nothing."""
        ranked: list[Value] = [part for pair in answer.ranked for part in pair]
        ranked += [None] * (2 * self.ranks - len(ranked))
        cells: list[Value] = [
            answer.path,
            answer.status,
            *ranked[:2],
            answer.group,
            *([answer.decision] if self.thresholds else []),
            *([answer.outlier] if self.outliers else []),
            *ranked[2:],
            answer.error,
            answer.detail or None,
            answer.width or None,
            answer.height or None,
            answer.model or None,
            *answer.more,
            *(value if answer.ranked else None for value in answer.probabilities),
        ]
        return [cells[place] for place in self.places] if self.places else cells

    def answers(self, rows: Iterable[StoredRow]) -> Iterator[Answer]:
        places = {name: place for place, name in enumerate(self.probability_names)}
        if self.bursts is not None:
            self.bursts.find(self.names)
        more = [_MORE[name] for name in self.more if name in _MORE]
        for row in rows:
            probabilities = [0.0] * len(places)
            if places:
                for index, value in row.top:  # classes of one name share a column
                    probabilities[places[self.names[index]]] += value
            yield Answer(
                row.path,
                "ok" if row.top else "error" if row.error else "missing",
                [(self.names[index], value) for index, value in row.top[: self.ranks]],
                self.groups[row.top[0][0]] if row.top else None,
                self.decision(row),
                row.outlier,
                probabilities,
                row.error,
                row.detail,
                row.width,
                row.height,
                self.model if row.top or row.error else "",
                [
                    *(value(row) for value in more),
                    *(self.bursts.of(row.input_index) if self.bursts is not None else ()),
                ],
            )


def _thresholds(plan: Plan, min_confidence: float | None, target: float | None) -> Sequence[float | None]:
    if target is not None:
        return plan.thresholds[target_name(target)]
    return [min_confidence] * len(plan.labels) if min_confidence is not None else []


def _target(plan: Plan, asked: float | None) -> float | None:
    """Return the target precision to take; None where none is asked for, and the version has no thresholds."""
    if asked is None and not plan.thresholds:
        return None
    target = DEFAULT_TARGET if asked is None else asked
    if not plan.thresholds:
        raise UsageError(
            f"--target-precision: {plan.model} has no thresholds, which trainings on RBF centers find, and imports "
            "with labelled photos (--calibrate); use --min-confidence"
        )
    if target_name(target) not in plan.thresholds:
        raise UsageError(
            f"--target-precision {target:g}: {plan.model} has thresholds for {', '.join(sorted(plan.thresholds))}"
        )
    return target


def rounded(value: Value) -> Value:
    """Return a cell as JSON has it: no more digits than the other formats show."""
    if not isinstance(value, float):
        return value
    return round(value, DEGREE_DIGITS if isinstance(value, Degrees) else CONFIDENCE_DIGITS)


def _degrees(value: float | None) -> Degrees | None:
    return None if value is None else Degrees(value)


def _moment(modified_ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(modified_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError):  # a clock that was never set
        return None


# Of an answer's row, as `Layout.more` names them; None where there is nothing.
_MORE: dict[str, Callable[[StoredRow], Value]] = {
    "page": lambda row: row.page or None,
    "duplicate_of": lambda row: (row.duplicate_of or None) if row.top else None,
    "bytes": lambda row: row.bytes or None,
    "modified": lambda row: _moment(row.modified_ns) if row.modified_ns else None,
    "sha256": lambda row: row.sha256 or None,
    "taken": lambda row: row.taken or None,
    "camera_make": lambda row: row.camera_make or None,
    "camera_model": lambda row: row.camera_model or None,
    "latitude": lambda row: _degrees(row.latitude),
    "longitude": lambda row: _degrees(row.longitude),
}
FILE_COLUMNS = ["bytes", "modified", "sha256"]
EXIF_COLUMNS = ["taken", "camera_make", "camera_model", "latitude", "longitude"]
BURST_COLUMNS = ["burst", "burst_label", "burst_share"]


def read_class_map(path: Path) -> dict[str, tuple[str, str | None]]:
    """Return the class map in a TOML file (label = "name" or {name, group}), or in a CSV of label, name, group."""
    if path.suffix.lower() == ".toml":
        from configs import read_toml

        found = {label: _entry(path, label, value) for label, value in read_toml(path).items()}
    else:
        header, rows = read_table(path)
        if not {"label", "name"} <= set(header):
            raise UsageError(f"{path} has no columns label and name; a class map is a CSV with them, or a .toml file")
        found = {(label := row.get("label", "")): _entry(path, label, row) for _, row in rows}
    if not found:
        raise UsageError(f"{path} maps no label")
    return found


def _entry(path: Path, label: str, value: object) -> tuple[str, str | None]:
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not fields.keys() <= {"label", "name", "group"}:
        raise UsageError(f'{path}: {label!r} must be a name, or a table such as {{name = "paper", group = "dry"}}')
    name, group = fields.get("name") or label, fields.get("group") or None
    if not isinstance(name, str) or not (group is None or isinstance(group, str)):
        raise UsageError(f"{path}: name and group of {label!r} must be text")
    return name, group
