"""Loss and metric over the learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cnnjax.metrics import Accuracy, Metric
from cnnjax.pictures.drawing import (
    STYLES,
    crosses,
    diverged,
    headline,
    legend,
    paper,
    room,
    series,
    spread,
    stopped,
)
from cnnjax.pictures.scale import LOSS, Quantity, Scale
from cnnjax.pictures.values import fields, is_numeric, is_rate, key, labels, name_of, places
from cnnjax.sweeps import Ranked

COMBINATIONS = len(STYLES)
_BESIDE = 0.008  # horizontal shift between curves, so that their error bars do not overlap


def rate_curves(points: Sequence[Ranked], metric: Metric = Accuracy(), title: str = "") -> Figure | None:  # noqa: B008
    """Plots the validation loss and metric over the learning rate, for each combination of the other swept fields.

    If the learning rate does not vary, the horizontal axis is the first number that does. If most combinations have
    only one value, as with points drawn at random, the figure has separate dots, colored by the first of the other
    fields. Error bars are one standard deviation, and crosses at the edge mark diverged trials.

    Args:
      points: the points, best first, as returned by `rank`; the best `COMBINATIONS` combinations have curves.
      metric: the metric that ranks them.
      title: the title of the figure.

    Returns:
      The figure; None if no number varies.
    """
    columns = fields(points)
    numbers = [name for name, column in columns.items() if is_numeric(column)]
    if not numbers:
        return None
    rate = next(filter(is_rate, numbers), numbers[0])
    others = {name: column for name, column in columns.items() if name != rate}
    groups = _grouped(others, len(points))
    alone = 2 * sum(len(group) == 1 for group in groups) > len(groups)
    if alone:
        others = dict([*others.items()][:1])
        groups = _grouped(others, len(points))
    figure, axes = paper(2)
    across, ticks = places(columns[rate], 0.09, log=is_rate(rate) or None)
    if alone and all(map(is_numeric, others.values())):
        [(name, column)] = others.items()
        colors = _shades(axes[0], name, column)
    else:
        colors = _kinds(figure, points, others, groups)
    markers, shift = np.full(len(points), "o"), np.zeros(len(points))
    if not alone:
        groups = [sorted(group, key=lambda i: float(across[i])) for group in groups[:COMBINATIONS]]
        for number, group in enumerate(groups):
            shift[group] = _BESIDE * (number - (len(groups) - 1) / 2)
            markers[group] = STYLES[number][-1]
    shown = [i for group in groups for i in group]
    for axis, quantity in zip(axes[0], (LOSS, Quantity.of(metric)), strict=True):
        looks = colors[shown], markers[shown]
        _dots(axis, [points[i] for i in shown], quantity, across[shown], shift[shown], looks)
        for group, (color, line, _) in zip([] if alone else groups, STYLES, strict=False):
            means = [quantity.summary(points[i]).mean for i in group]
            axis.plot(across[group] + shift[group], means, color=color, linestyle=line, linewidth=1.2)
        axis.set_xticks(*zip(*ticks, strict=True))
        axis.set(xlabel=name_of(rate), ylabel=f"validation {quantity.label}", xlim=(-0.05, 1.05))
        axis.grid(alpha=0.3)
    early = "Hollow: stopped early." if any(map(stopped, points)) else ""
    gone = "× A trial diverged; the mean is over the others." if any(diverged(points[i]) for i in shown) else ""
    what = spread(points, f"loss and {Quantity.of(metric).words}", "and error bars of")
    headline(figure, title, what, gone, early)
    return figure


def _grouped(columns: Mapping[str, Sequence[Any]], count: int) -> list[list[int]]:
    """Groups the indices of points by the values of some fields; the group with the best point comes first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i in range(count):
        groups.setdefault(tuple(key(column[i]) for column in columns.values()), []).append(i)
    return [*groups.values()]


def _shades(axes: Any, name: str, values: Sequence[float]) -> Any:
    """Returns a color for each number, and adds a color bar."""
    figure = axes[0].figure
    figure.set_figwidth(figure.get_figwidth() + 0.8)
    shades = ScalarMappable(cmap="viridis")
    shades.set_clim(0, 1)
    heights, ticks = places(values, 0.05)
    at, words = zip(*ticks, strict=True)
    figure.colorbar(shades, ax=list(axes), label=name_of(name)).set_ticks(at, labels=words)
    return shades.to_rgba(heights)


def _kinds(
    figure: Figure, points: Sequence[Ranked], columns: Mapping[str, Sequence[Any]], groups: Sequence[Sequence[int]]
) -> Any:
    """Returns a color for each point by its group, gray after the first `COMBINATIONS`, and adds a legend."""
    colors = np.tile(to_rgba("0.8"), (len(points), 1))
    for group, (color, *_) in zip(groups, STYLES, strict=False):
        colors[group] = to_rgba(color)
    if columns:
        names, lines = labels(points, columns)
        first = groups[:COMBINATIONS]
        most = f"(best {COMBINATIONS} of {len(groups)})" if len(groups) > COMBINATIONS else ""
        handles = [series(i) for i in range(len(first))]
        legend(figure, handles, [lines[group[0]] for group in first], f"{names}\n{most}")
    return colors


def _dots(
    axis: Axes, points: Sequence[Ranked], quantity: Quantity, across: Any, shift: Any, looks: tuple[Any, Any]
) -> None:
    """Draws means as dots with error bars, hollow for stopped points, and crosses for diverged trials."""
    mean, std = np.array([quantity.summary(point)[:2] for point in points]).T
    scale, std = Scale(quantity, mean), np.nan_to_num(std)
    (colors, markers), there, beside = looks, np.isfinite(mean), across + shift
    low, high = scale.clip(mean - std), scale.clip(mean + std)
    axis.vlines(beside[there], low[there], high[there], colors=colors[there], linewidth=1, alpha=0.5)
    faces = np.where([[stopped(point)] for point in points], 1.0, colors)
    size = 16 if len(points) < 200 else 9
    for marker in dict.fromkeys(markers[::-1]):  # the best is drawn on top
        over = np.flatnonzero(there & (markers == marker))[::-1]
        axis.scatter(beside[over], mean[over], c=faces[over], edgecolors=colors[over], s=size, marker=marker, zorder=3)
    gone = [i for i, point in enumerate(points) if diverged(point)]
    scale.on(axis, [low[there], high[there]], room(across[gone]))
    crosses(axis, across[gone], colors[gone], top=not quantity.higher_is_better)
