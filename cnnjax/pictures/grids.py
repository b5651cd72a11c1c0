"""Heat maps of the metric over two swept fields, one for each value of a third."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnjax.metrics import Accuracy, Metric
from cnnjax.pictures.drawing import headline, paper, remark, spread
from cnnjax.pictures.scale import Quantity, Scale
from cnnjax.pictures.values import LINE, distinct, fields, is_rate, key, name_of, short, wrapped
from cnnjax.sweeps import Compared, Ranked, compare, effects

_VALUES = 40  # maximum number of values of an axis
_PANELS = 6
_CHARACTER = 0.62  # width of a character over its height, including space

Cells = dict[tuple[int, int], list[Compared]]
"""The points of each cell, best first, by row and column."""


def grid(points: Sequence[Ranked], metric: Metric = Accuracy(), title: str = "") -> Figure | None:  # noqa: B008
    """Plots heat maps of the metric over two fields, one for each value of a third.

    The figure shows the varying fields with the largest main effects, with a learning rate on the horizontal axis.
    Fields form a grid if at least half of their combinations were trained; values drawn at random from ranges
    usually do not. Each cell shows the best of the points that differ only in other fields. Labels mark diverged,
    stopped and unstable points. A field that a point lacks is `-`.

    Args:
      points: the points, best first, as returned by `rank`.
      metric: the metric that ranks them.
      title: the title of the figure.

    Returns:
      The figure; None if no two fields form a grid.
    """
    columns = fields(points)
    shown = _chosen(points, columns)
    if not shown:
        return None
    across, down, *over = (distinct(columns[name]) for name in shown)
    panels = over[0] if over else [None]
    cells: list[Cells] = [{} for _ in panels]
    for i, each in enumerate(compare(points, metric)):
        column, row, *panel = (
            list(map(key, values)).index(key(columns[name][i]))
            for name, values in zip(shown, (across, down, *over), strict=True)
        )
        cells[sum(panel)].setdefault((row, column), []).append(each)
    quantity = Quantity.of(metric)
    scale = Scale(quantity, [quantity.summary(group[0].point).mean for part in cells for group in part.values()])
    beside = min(len(panels), 3 if len(across) < 6 else 2)
    noted = any(_notes(group) for part in cells for group in part.values())
    width, height = max(3.2, 0.78 * len(across)), max(2.4, (0.68 if noted else 0.5) * len(down))
    figure, axes = paper(beside, math.ceil(len(panels) / beside), width, height, sharex=True, sharey=True)
    used = list(axes.flat)[: len(panels)]
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    font = _font(cells, quantity, min(72 * width / len(across), 60))
    for axis, part, panel in zip(used, cells, panels, strict=True):
        _map(axis, part, scale, points[0], font)
        if over:
            axis.set_title(f"{name_of(shown[2])} {short(panel)}", fontsize="medium")
    _label(axes, across, down, int(72 * width / len(across) / 6))
    figure.supxlabel(name_of(shown[0]), fontsize="medium")
    figure.supylabel(name_of(shown[1]), fontsize="medium")
    scale.bar(used)
    figure.set_size_inches(figure.get_figwidth() + 1.8, figure.get_figheight() + 0.8)
    rest = [name_of(name) for name in columns if name not in shown]
    best = f"Each cell shows the best over {', '.join(rest)}." if rest else ""
    headline(figure, title, spread(points, f"validation {quantity.label}", "±"), best)
    return figure


def _chosen(points: Sequence[Ranked], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the fields of the columns, the rows and, if any, the panels; empty if no two fields form a grid."""
    means = {name: [mean.mean for mean in by.values() if mean.n] for name, by in effects(points).items()}
    counts = {name: len(distinct(column)) for name, column in columns.items()}
    usable = sorted(
        (name for name in columns if counts[name] <= _VALUES),
        key=lambda name: -float(np.ptp(means[name])) if means[name] else 0.0,
    )

    def form_a_grid(names: Sequence[str]) -> bool:
        there = set(zip(*(map(key, columns[name]) for name in names), strict=True))
        return 2 * len(there) >= math.prod(counts[name] for name in names)

    pair = next((pair for pair in combinations(usable, 2) if form_a_grid(pair)), ())
    thirds = [name for name in usable if name not in pair and counts[name] <= _PANELS and form_a_grid((*pair, name))]
    return sorted(pair, key=lambda name: (not is_rate(name), [*columns].index(name))) + (thirds[:1] if pair else [])


def _value(point: Ranked, quantity: Quantity) -> str:
    """Formats a mean, with its standard deviation on a second line."""
    mean, std, _ = quantity.summary(point)
    if math.isnan(mean):
        return "diverged"
    return quantity.write(mean) + ("" if math.isnan(std) else f"\n± {quantity.write(std, 2 if std < 100 else 4)}")


def _notes(group: Sequence[Compared]) -> str:
    """Returns the remarks on a cell, such as `unstable` or `best of 3`."""
    point, verdict = group[0].point, group[0].verdict
    said = "unstable" if verdict == "unstable" else remark(point) if math.isfinite(point.valid_metric.mean) else ""
    return "\n".join(filter(None, [wrapped(said, 12), f"best of {len(group)}" if len(group) > 1 else ""]))


def _font(cells: Sequence[Cells], quantity: Quantity, width: float) -> float:
    """Returns the font size in points at which every line fits a width in points."""
    words = [_value(group[0].point, quantity) for part in cells for group in part.values()]
    return max(4.5, min(9, width / max(len(line) for word in words for line in word.splitlines()) / _CHARACTER))


def _map(axis: Axes, cells: Cells, scale: Scale, best: Ranked, font: float) -> None:
    """Draws a colored cell for each group; a cell is gray if all trials diverged, and blank without points."""
    shades, quantity = scale.shades(), scale.quantity
    for (row, column), group in cells.items():
        point, notes = group[0].point, _notes(group)
        mean = quantity.summary(point).mean
        color = (0.85, 0.85, 0.85, 1.0) if math.isnan(mean) else shades.to_rgba(np.array(mean))
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="w", linewidth=0.5))
        ink = "w" if np.dot(color[:3], (0.3, 0.6, 0.1)) < 0.5 else "k"
        weight = "bold" if point is best and not math.isnan(mean) else "normal"
        middle: dict[str, Any] = {"ha": "center", "color": ink}
        if notes:
            axis.text(column, row + 0.08, notes, va="top", fontsize=min(6.0, font), **middle)
        place, anchor = (row + 0.02, "bottom") if notes else (row, "center")
        axis.text(column, place, _value(point, quantity), va=anchor, fontsize=font, weight=weight, **middle)


def _label(axes: Any, across: Sequence[Any], down: Sequence[Any], longest: int) -> None:
    """Sets the ticks of both fields, with labels that fit the cells."""
    words = [wrapped(short(value, LINE), max(4, longest)) for value in across]
    lines = [wrapped(short(value, LINE), 16) for value in down]
    for axis in axes.flat:
        axis.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(down) - 0.5, -0.5))
        axis.set_xticks(range(len(across)), words, fontsize="small")
        axis.set_yticks(range(len(down)), lines, fontsize="small")
        axis.tick_params(length=0)
