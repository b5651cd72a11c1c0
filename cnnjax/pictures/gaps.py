"""Every seed of the best points, and the gap between each point and the best."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cnnjax.metrics import Accuracy, Metric
from cnnjax.pictures.drawing import STYLES, described, diverged, headline, legend, paper
from cnnjax.pictures.scale import Quantity, Scale
from cnnjax.pictures.values import wrapped
from cnnjax.sweeps import Compared, Ranked, compare

SHOWN = 20
_LINE = 64  # maximum number of characters in a line of a name
_LOOKS = {
    verdict: STYLES[place]
    for verdict, place in {"best": 0, "equal": 2, "undecided": 1, "worse": 3, "unstable": 5, "incomplete": 7}.items()
}


def gaps_to_best(points: Sequence[Ranked], metric: Metric = Accuracy(), title: str = "") -> Figure | None:  # noqa: B008
    """Plots every seed of the best points, and the gap of each point to the best with its simultaneous interval.

    Gaps, intervals and verdicts are those of `cnnjax.sweeps.compare`. An arrow marks a gap that exceeds the axis.

    Args:
      points: the points, best first, as returned by `rank`; the first `SHOWN` are shown.
      metric: the metric that ranks them.
      title: the title of the figure.

    Returns:
      The figure; None if there is only one point.
    """
    if len(points) < 2:
        return None
    compared = compare(points, metric)[:SHOWN]
    names, lines = described(points)
    rows = [wrapped(line, _LINE) for line in lines[:SHOWN]]
    longest = max(len(line) for row in rows for line in row.splitlines())
    head = wrapped(names, max(longest, *(len(name) + 2 for name in names.split(" / "))))
    height = 0.28 * sum(1 + 0.6 * row.count("\n") for row in rows) + 0.16 * (1 + head.count("\n"))
    figure, [[seeds, gaps]] = paper(2, 1, 3 + 0.035 * longest, 1 + height, sharey=True, width_ratios=(1.4, 1))
    _seeds(seeds, compared, Quantity.of(metric))
    known = _gaps(gaps, compared, Quantity.of(metric))
    seeds.set_ylim(len(rows) - 0.4, -0.6)
    seeds.set_yticks(range(len(rows)), rows, fontsize="small")
    seeds.annotate(head, (0, 1), (-7, 2), "axes fraction", "offset points", ha="right", va="bottom", fontsize="small")
    verdicts = [verdict for verdict in _LOOKS if verdict in {each.verdict for each in compared}]
    handles = [Line2D([], [], color=_LOOKS[v][0], linestyle="", marker=_LOOKS[v][2], markersize=5) for v in verdicts]
    legend(figure, handles, verdicts)
    most = f"The best {SHOWN} of {len(points)} points." if len(points) > SHOWN else ""
    one = "One seed: no intervals."
    several = (
        f"A dot for each {points[0].repeated[:-1]}; the vertical line is the mean."
        if len(points[0].results) > 1
        else one
    )
    gone = "× A trial diverged." if any(diverged(each.point) for each in compared) else ""
    interval = "Lines are simultaneous 95 % intervals." if known else ""
    headline(figure, title, most, several, gone, interval)
    return figure


def _seeds(axis: Axes, compared: Sequence[Compared], quantity: Quantity) -> None:
    """Draws a dot for each seed, from top to bottom in the order of the seeds, and the mean."""
    values = [[quantity.factor * result.valid_metric for result in each.point.results] for each in compared]
    scale = Scale(quantity, [value for seeds in values for value in seeds])
    gone = []
    for row, (each, seeds) in enumerate(zip(compared, values, strict=True)):
        color, *_ = _LOOKS[each.verdict]
        heights = row + (np.linspace(-0.25, 0.25, len(seeds)) if len(seeds) > 1 else np.zeros(1))
        axis.plot(seeds, heights, ".", color=color, markersize=5, alpha=0.8)
        mean = quantity.summary(each.point).mean
        axis.plot([mean, mean], [row - 0.35, row + 0.35], color=color, linewidth=1.5)
        gone += [(height, color) for height, value in zip(heights, seeds, strict=True) if math.isnan(value)]
    scale.on(axis, room=0.05 if gone else 0.0, along="x")
    edge = 0.02 if quantity.higher_is_better else 0.98
    style: dict[str, Any] = {"marker": "x", "s": 14, "transform": axis.get_yaxis_transform()}
    if gone:
        axis.scatter([edge] * len(gone), [height for height, _ in gone], c=[color for _, color in gone], **style)
    axis.grid(alpha=0.3, axis="x")
    axis.set_xlabel(f"validation {quantity.label}")


def _gaps(axis: Axes, compared: Sequence[Compared], quantity: Quantity) -> bool:
    """Draws gaps with their intervals, or arrows beyond the axis; returns whether there are intervals."""
    known = [each for each in compared if math.isfinite(each.gap)]
    ends = [each.high for each in known if math.isfinite(each.high) and each.verdict != "worse"]
    gaps = [each.gap for each in known]
    if not known:
        axis.set(xticks=[])
    limit = max([2 * float(np.median(gaps)), *ends]) or max(gaps) or 1 / quantity.factor if known else 1.0
    highest = max((each.high for each in known if math.isfinite(each.high)), default=0.0)
    limit = highest if limit < highest < 2 * limit else limit
    for row, each in enumerate(compared):
        if not math.isfinite(each.gap):
            continue
        color, _, marker = _LOOKS[each.verdict]
        beyond = each.gap > limit
        place = 1.03 * limit if beyond else each.gap
        axis.plot(quantity.factor * place, row, ">" if beyond else marker, color=color, markersize=5)
        if math.isfinite(each.high) and not beyond:
            axis.hlines(row, quantity.factor * each.low, quantity.factor * each.high, color=color, linewidth=1.2)
    axis.set(xlim=(-0.05 * quantity.factor * limit, 1.08 * quantity.factor * limit))
    axis.set_xlabel("gap to the best" + ("\n(percentage points)" if quantity.percent else ""))
    axis.grid(alpha=0.3, axis="x")
    return any(math.isfinite(each.high) for each in known)
