"""What all formats of a report share: its columns, what classes are called in it, and the row of each image."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from base.text_files import read_table
from producer.errors import UsageError
from producer.runfile import Plan, StoredRow

CONFIDENCE_DIGITS = 4  # more would show the noise between engines

ClassMap = Mapping[str, tuple[str, str | None]]  # label of the model -> name and group in reports
_NO_MAP: ClassMap = {}


class Answer(NamedTuple):
    """One image as every format shows it.

    ``ranked`` holds (name, confidence), the most probable first; ``probabilities`` one value a column of them.
    """

    path: str
    status: str  # "ok", "error" or "missing"
    ranked: list[tuple[str, float]]
    group: str | None
    probabilities: list[float]
    error: str | None
    detail: str
    width: int
    height: int
    model: str
    duplicate_of: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a run's reports.

    Attributes:
        names, groups: by class index, after the class map. Several classes may have one name.
        ranks: how many labels a row shows.
        probability_names: the names with a column of their own; empty without ``--prob-columns``.
        duplicates: whether there is a column ``duplicate_of``.
    """

    names: list[str]
    groups: list[str | None]
    ranks: int
    model: str
    probability_names: list[str]
    duplicates: bool = False

    @classmethod
    def of(
        cls, plan: Plan, *, ranks: int | None = None, class_map: ClassMap = _NO_MAP, probabilities: bool = False
    ) -> Layout:
        """Return the layout of ``plan``; UsageError when its rows can't fill the columns, or the map has other labels.

        Args:
            ranks: labels a row; as many as the run kept by default.
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
        return cls(
            names=names,
            groups=[new or old for (_, new), old in zip(mapped, plan.groups, strict=False)],
            ranks=min(ranks or kept, kept),
            model=str(plan.model),
            probability_names=list(dict.fromkeys(names)) if probabilities else [],
            duplicates=plan.duplicates,
        )

    def answers(self, rows: Iterable[StoredRow]) -> Iterator[Answer]:
        places = {name: place for place, name in enumerate(self.probability_names)}
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
                probabilities,
                row.error,
                row.detail,
                row.width,
                row.height,
                self.model if row.top or row.error else "",
                row.duplicate_of if row.top else "",
            )


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
