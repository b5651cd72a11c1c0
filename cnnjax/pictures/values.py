"""The values of swept fields: which fields vary, and the positions and labels of values on an axis."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from cnnjax.options import Config, text
from cnnjax.sweeps import Ranked

LINE = 40
"""Maximum number of characters in a line of a legend."""
_FEW = 8  # maximum number of numeric values that all have a label


class _Lacking:
    """A placeholder for a value that a point lacks."""

    def __str__(self) -> str:
        return "-"


_LACKING = _Lacking()


def fields(points: Sequence[Ranked]) -> dict[str, list[Any]]:
    """Returns the swept fields that vary, with a value for each point.

    Fields have the same order as in the points. A point may lack the fields of parts that it does not have. A field
    with only one value is left out, even if some points lack it, because it varies only with its part.
    """
    names: list[str] = []
    for point in points:
        place = 0
        for name in point.values:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    columns = {name: _kinds([point.values.get(name, _LACKING) for point in points]) for name in names}
    return {name: column for name, column in columns.items() if len(distinct(present(column))) > 1}


def _kinds(column: list[Any]) -> list[Any]:
    """Replaces parts by their kind if kinds are distinct, such as `sgd momentum=0.5` by `sgd`."""
    parts = [value for value in column if isinstance(value, Config)]
    if not parts or len({part.kind() for part in parts}) < len(distinct(parts)):
        return column
    return [value.kind() if isinstance(value, Config) else value for value in column]


def labels(points: Sequence[Ranked], columns: Mapping[str, Sequence[Any]]) -> tuple[str, list[str]]:
    """Returns the names of fields, and a line for each point with its values, each shortened."""
    names = " / ".join(name_of(field).replace(" ", "\N{NO-BREAK SPACE}") for field in columns)
    longest = max(16, LINE // max(1, len(columns)))
    lines = [" / ".join(short(column[i], longest) for column in columns.values()) for i in range(len(points))]
    return names, lines


def places(values: Sequence[Any], gap: float, log: bool | None = None) -> tuple[Any, list[tuple[float, str]]]:
    """Returns the positions of values between 0 and 1, and tick labels that are at least `gap` apart.

    Values that are not numbers are evenly spaced in their order. Non-negative numbers are placed at
    their logarithm, with zero below the others, if `log` is true, or if it is None and they span more
    than a decade and crowd at the lower end. None and missing values are placed below the numbers.
    """
    below = [value for value in distinct(values) if not isinstance(value, Real)] if is_numeric(values) else []
    if not below:
        return _spread(values, gap, log)
    step = min(0.15, 0.5 / len(below))
    start = step * len(below)  # position of the least number
    here = {key(value): step * i for i, value in enumerate(below)}
    ticks = [(step * i, short(value)) for i, value in enumerate(below)]
    inner, marks = _spread([value for value in values if key(value) not in here], gap / (1 - start), log)
    if len(marks) == 1:
        inner, marks = np.ones(len(inner)), [(1.0, marks[0][1])]
    above = iter(start + (1 - start) * inner)
    found = [here[key(value)] if key(value) in here else next(above) for value in values]
    return np.array(found), ticks + [(start + (1 - start) * at, label) for at, label in marks]


def _spread(values: Sequence[Any], gap: float, log: bool | None) -> tuple[Any, list[tuple[float, str]]]:
    """Returns the positions and ticks of values that are all numbers, or all to be placed by their order."""
    different = distinct(values)
    if not different:
        return np.zeros(0), []
    if numeric := is_numeric(values):
        numbers = np.array([*values], float)
        marks = [(float(value), short(value)) for value in different]
    else:
        ranks = {key(value): rank for rank, value in enumerate(different)}
        numbers = np.array([ranks[key(value)] for value in values], float)
        marks = [(rank, short(value)) for rank, value in enumerate(different)]
    low, high = numbers.min(), numbers.max()
    least = numbers[numbers > 0].min(initial=math.inf)
    if log is None:
        log = numeric and high > 10 * least and np.median(numbers) < high / 2.5
    log = log and 0 <= low < high and least < high
    if numeric and len(marks) > _FEW:
        marks = [(mark, f"{mark:g}") for mark in round_numbers(least if log else low, high, log)]
        if log and low == 0:
            marks.insert(0, (0.0, "0"))

    def place(number: Any) -> Any:
        if not log:
            return (number - low) / (high - low) if high > low else 0 * number + 0.5
        bottom = low or least * (least / high) ** 0.2
        return np.log(np.maximum(number, bottom) / bottom) / np.log(high / bottom)

    ticks: list[tuple[float, str]] = []
    for mark, label in marks:
        at = float(place(mark))
        if ticks and at - ticks[-1][0] < gap:
            if mark != marks[-1][0] or len(ticks) == 1:
                continue
            ticks.pop()  # the last value always has a label
        ticks.append((at, label))
    return place(numbers), ticks


def round_numbers(low: float, high: float, logarithmic: bool) -> list[float]:
    """Returns the round numbers in a range."""
    if logarithmic:
        digits = (1, 2, 5) if high < 100 * low else (1, 3) if high < 1e4 * low else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [digit * 10.0**decade for decade in decades for digit in digits]
    else:
        marks = list(MaxNLocator(5).tick_values(low, high))
    return [float(mark) for mark in marks if low <= mark <= high]


def is_numeric(values: Iterable[Any]) -> bool:
    """Returns whether all values are finite numbers, apart from None and missing values."""
    rest = [value for value in values if value is not None and value is not _LACKING]
    finite = (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in rest)
    return bool(rest) and all(finite)


def present(values: Iterable[Any]) -> list[Any]:
    """Returns the values that are not missing."""
    return [value for value in values if value is not _LACKING]


def name_of(field: str) -> str:
    """Returns the label of a field."""
    return field.replace("_", " ")


def short(value: Any, longest: int = 16) -> str:
    """Formats a value in a few characters, and escapes those that Matplotlib interprets as math."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.4g}"
    word = " ".join(text(value).split())
    if len(word) > longest:
        word = f"{word[: longest - 6]}…{word[-5:]}"
    return word.replace("$", r"\$")


def key(value: Any) -> str:
    """Returns a string that identifies a value of a field."""
    return "" if value is _LACKING else text(value)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Returns the distinct values in order: missing values, None, numbers, tuples, then all others as text."""

    def order(value: Any) -> tuple[int, Any]:
        if value is None or value is _LACKING:
            return -1, value is None
        if isinstance(value, Real):
            return 0, value
        return (1, [order(entry) for entry in value]) if isinstance(value, tuple) else (2, text(value))

    return sorted({key(value): value for value in values}.values(), key=order)


def wrapped(words: str, width: int) -> str:
    """Wraps text into lines of at most `width` characters; longer words are broken."""
    return "\n".join(textwrap.wrap(words, width))


def is_rate(field: str) -> bool:
    """Returns whether a field is the learning rate of a part."""
    return field.split(".")[-1] == "learning_rate"
