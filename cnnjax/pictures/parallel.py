"""Parallel coordinates: every point as a line through its values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from cnnjax.metrics import Accuracy, Metric
from cnnjax.pictures.drawing import headline, paper, seeds_of
from cnnjax.pictures.scale import Quantity, Scale
from cnnjax.pictures.values import fields, name_of, places, wrapped
from cnnjax.sweeps import Ranked

_LOST = -0.1  # where the lines of diverged points end
_WIDTH = 1.2  # inches between axes

Column = tuple[np.ndarray, list[tuple[float, str]]]


def parallel_coordinates(
    points: Sequence[Ranked],
    metric: Metric = Accuracy(),  # noqa: B008 - a frozen value
    title: str = "",
) -> Figure | None:
    """Plots points in parallel coordinates, with an axis for each varying field and one for the metric.

    The line of the best point is thick. Lines of points whose trials all diverged are gray and dashed.

    Args:
      points: the points, best first, as returned by `rank`.
      metric: the metric that ranks them.
      title: the title of the figure.

    Returns:
      The figure; None if fewer than two fields vary.
    """
    columns = fields(points)
    if len(columns) < 2:
        return None
    quantity = Quantity.of(metric)
    means = np.array([quantity.summary(point).mean for point in points])
    there = np.isfinite(means)
    order = np.flatnonzero(there)[::-1]  # the best is drawn last
    scale = Scale(quantity, means)
    axes = [*(places(column, 0.05) for column in columns.values()), _last(scale, means)]
    figure, [[axis]] = paper(1, 1, max(4.6, _WIDTH * len(axes) + 1), 4)
    shades = scale.shades()
    colors = shades.to_rgba(means)
    lines = np.stack([[(place, height) for height in heights] for place, (heights, _) in enumerate(axes)], 1)
    width, alpha = (1.5, 1.0) if len(order) < 100 else (0.9, 0.6)
    axis.add_collection(LineCollection([*lines[~there]], colors="0.6", linestyles="dashed", linewidths=0.7))
    axis.add_collection(LineCollection([*lines[order]], colors=colors[order], linewidths=width, alpha=alpha))
    for i in order[-1:]:
        outline = [withStroke(linewidth=4.5, foreground="k")]
        axis.plot(*lines[i].T, color=colors[i], linewidth=3, solid_capstyle="round", path_effects=outline)
    _rulers(axis, [*map(name_of, columns), f"validation {quantity.label}"], axes)
    axis.set_axis_off()
    axis.set(xlim=(-0.1, len(columns) + 0.1), ylim=(-0.05 if there.all() else -0.15, 1.05))
    scale.bar([axis])
    best = "The thick line is the best point." if there.any() else ""
    headline(figure, title, f"A line for each point, {seeds_of(points)} each.", best)
    return figure


def _last(scale: Scale, means: np.ndarray) -> Column:
    """Returns the heights of the means on the last axis, and its labels, of which one is the best mean."""
    heights = np.full(len(means), _LOST)
    there = np.isfinite(means)
    if not there.any():
        return heights, [(_LOST, "diverged")]
    costs = scale.cost(means)
    worst, best = costs[there].max(), costs[there].min()
    span = worst - best or 1.0
    heights[there] = 1 - (costs[there] - best) / span
    top = float(means[there][costs[there].argmin()])
    marks = [(float(1 - (scale.cost(mark) - best) / span), f"{mark:g}") for mark in scale.marks(*scale.values[[0, -1]])]
    ticks = [(1.0, scale.quantity.write(top)), *(mark for mark in marks if mark[0] < 0.95)]
    return heights, ticks if there.all() else [*ticks, (_LOST, "diverged")]


def _rulers(axis: Axes, names: Sequence[str], columns: Sequence[Column]) -> None:
    """Draws a vertical axis for each column, with its name and labels."""
    box: dict[str, Any] = {"facecolor": "w", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
    small: dict[str, Any] = {"va": "center", "fontsize": "x-small", "bbox": box, "zorder": 5}
    for place, (name, (_, ticks)) in enumerate(zip(names, columns, strict=True)):
        axis.vlines(place, 0, 1, color="k", linewidth=0.8, zorder=4)
        axis.text(place, 1.06, wrapped(name, 13), ha="center", va="bottom", fontsize="small")
        for height, word in ticks:
            axis.plot(place, height, "_k", markersize=5, zorder=4)
            axis.annotate(word, (place, height), (4, 0), textcoords="offset points", **small)
