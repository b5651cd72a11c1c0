"""The report of a run: the answer, tables, charts, pictures, mistakes, configuration, environment and commands."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cnnjax.reports.page import Shown, render, save

Kind = Literal["text", "count", "number", "percent"]


class Column(NamedTuple):
    """A column of a table."""

    name: str
    label: str
    kind: Kind = "text"
    """How values are written: as they are, with thousands separators, with 4 digits, or with 2 decimals."""
    swept: bool = False
    """Whether it has the values of a swept field."""

    def write(self, value: Any) -> str:
        """Formats a value; `-` if it is missing."""
        if value is None:
            return "-"
        if isinstance(value, str) or self.kind == "text":
            return str(value)
        formats = {"count": ",d", "number": ".4g", "percent": ".2f"}
        return format(value, formats[self.kind])


class Table(NamedTuple):
    """A table; a missing value is None."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]


class Stat(NamedTuple):
    """A number at the top of a report."""

    label: str
    value: str
    note: str = ""


class Remark(NamedTuple):
    """A sentence, and the command that it suggests."""

    text: str
    command: str = ""
    warning: bool = False


class Curves(NamedTuple):
    """Quantities over epochs."""

    epochs: Sequence[int]
    values: Mapping[str, Sequence[Sequence[float | None]]]
    """By the name of a column of the table of trials: a list over `epochs` for each row; None for a missing value."""


class Mistakes(NamedTuple):
    """The classes that a network confuses, and its most confident mistakes."""

    text: str
    classes: Sequence[str]
    confusion: Sequence[Sequence[int]]
    """[classes, classes]: the number of examples by class and predicted class."""
    per_class: Table
    shown: Sequence[Shown]
    """Wrongly classified examples."""

    @property
    def pairs(self) -> list[tuple[int, str, str]]:
        """The most frequent confusions: count, class and predicted class."""
        cells = [
            (count, self.classes[i], self.classes[j])
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(cells, key=lambda cell: -cell[0])[:20]


class Report(NamedTuple):
    """What the report of a run shows."""

    title: str
    lead: str
    """The answer in a sentence."""
    stats: Sequence[Stat]
    remarks: Sequence[Remark]
    trials: Table
    """A row for each trial."""
    points: Table | None
    """A row for each point of a sweep, best first; None for a single run."""
    main: str
    """The column of the metric that ranks."""
    higher_is_better: bool
    curves: Curves
    pictures: Sequence[Shown]
    links: Sequence[tuple[str, str]]
    """Title and relative address of other files of the run."""
    mistakes: Mistakes | None
    omitted: str
    """Why there are no mistakes."""
    configuration: Table
    environment: Table
    commands: Sequence[Remark]
    unfinished: str = ""
    """What is missing of a run that has not finished."""


def write_run(path: Path, report: Report) -> Path:
    """Writes the report of a run as a single HTML file; returns its path."""
    return save(path, render("run.html", report=report, data=_data(report), most_classes=30))


def _data(report: Report) -> dict[str, Any]:
    """Returns what the charts of a page show."""
    curves = report.curves
    return {
        "columns": [column._asdict() for column in report.trials.columns],
        "rows": [_rounded(row) for row in report.trials.rows],
        "main": report.main,
        "higher": report.higher_is_better,
        "epochs": curves.epochs,
        "quantities": [*curves.values],
        "curves": {name: [_rounded(line) for line in lines] for name, lines in curves.values.items()},
        "single": report.points is None,
    }


def _rounded(values: Iterable[Any]) -> list[Any]:
    """Rounds numbers to 5 digits."""
    return [float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value for value in values]
