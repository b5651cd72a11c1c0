"""Comparison of every point of a sweep with the best."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from cnnjax.metrics import Accuracy, Metric
from cnnjax.sweeps.blocks import Blocks, fit_blocks
from cnnjax.sweeps.ranking import Ranked, cost_table

MARGIN = 0.005
"""Default margin of metrics that are fractions: half a percentage point."""

_Verdict = Literal["best", "equal", "undecided", "worse", "unstable", "incomplete"]
_Judged = tuple[float, float, float, _Verdict]


class Compared(NamedTuple):
    """The result of comparing a point with the best; gaps are in the unit of the metric, and larger is worse."""

    point: Ranked
    gap: float
    """Distance to the best, adjusted for seed effects; NaN if the point was not compared."""
    low: float
    high: float
    """`low` and `high` are the simultaneous interval of the gap; infinite or NaN if there are too few seeds."""
    verdict: _Verdict


def margin_of(metric: Metric, margin: float | None = None) -> float:
    """Returns the margin within which points count as equal; by default `MARGIN` for fractions, else zero."""
    return (MARGIN if metric.percent else 0.0) if margin is None else margin


def compare(
    points: Sequence[Ranked],
    metric: Metric = Accuracy(),  # noqa: B008 - a frozen value
    level: float = 0.05,
    margin: float | None = None,
) -> list[Compared]:
    """Compares every complete and stable point with the best (Hsu 1984).

    The comparison removes the effect of each seed, which all points share, and pools the residual variance over
    points. If errors are normal with equal variance, all intervals contain the true gaps with a probability of at
    least 1 - `level`, so the true best is judged worse with a probability of at most `level`. A point is `worse`
    if its interval starts at or above zero, `equal` if the interval ends within the margin, else `undecided`.

    Args:
      points: the points, best first, as returned by `rank`.
      metric: the metric that ranks them.
      level: the error probability of all comparisons together.
      margin: the largest gap that counts as equal; see `margin_of` for the default.

    Returns:
      A comparison for each point, in the same order.
    """
    stable = [point for point in points if point.complete and not point.unstable]
    blocks = fit_blocks(cost_table(stable, metric)) if stable else None
    judged = iter(_judged(blocks, level, margin_of(metric, margin)) if blocks else [])

    def found(point: Ranked) -> _Judged:
        if point.complete and not point.unstable:
            return next(judged)
        return math.nan, math.nan, math.nan, "unstable" if point.complete else "incomplete"

    return [Compared(point, *found(point)) for point in points]


def _judged(blocks: Blocks, level: float, margin: float) -> list[_Judged]:
    """Returns the gap, interval and verdict of each point."""
    costs = blocks.costs.round(9)  # as in `rank`: rounding errors break no ties
    best = int(np.argmin(costs))
    gaps, half = costs - costs[best], _halves(blocks, level)[blocks.kinds]  # [points, kinds]
    low = gaps - half[:, blocks.kinds[best]]
    worse = (gaps > 0) & (low >= 0)
    # Any point that is not worse may be the best, so the upper end is the maximum over all of these. Among points of
    # a kind, the first one attains it.
    kinds = np.unique(blocks.kinds[~worse])
    leads = np.array([gaps[~worse & (blocks.kinds == kind)].min() for kind in kinds])
    high = np.max(gaps[:, None] - leads + half[:, kinds], axis=1)
    found: list[_Judged] = []
    for point, gap in enumerate(gaps.tolist()):
        verdict: _Verdict = "worse" if worse[point] else "equal" if high[point] <= margin else "undecided"
        interval = max(0.0, float(low[point])), float(high[point])
        found.append((gap, *interval, "best" if point == best else verdict))
    return found


def _halves(blocks: Blocks, level: float) -> np.ndarray:
    """Returns the half-widths of the intervals of differences between points, [kinds, kinds]."""
    if not blocks.freedom:
        return np.full_like(blocks.variances, math.inf)
    value = critical(len(blocks.costs) - 1, blocks.freedom, level, least_correlation(blocks.variances))
    with np.errstate(invalid="ignore"):
        half = (value * blocks.spread * np.sqrt(blocks.variances)).round(9)
    return np.where(np.isfinite(blocks.variances), half, math.inf)


def least_correlation(variances: np.ndarray) -> float:
    """Returns the minimum correlation between differences of two points to a third; 1/2 if all have the same seeds."""
    with np.errstate(invalid="ignore"):
        one, other = variances[:, :, None], variances[:, None, :]
        found = (one + other - variances) / (2 * np.sqrt(one * other))
    return math.floor(100 * float(np.nanmin(found)) + 1e-6) / 100


@lru_cache(maxsize=256)
def critical(comparisons: int, freedom: int, level: float = 0.05, correlation: float = 0.5) -> float:
    """Returns the one-sided critical value of Dunnett's test (1955), by numerical integration.

    The maximum of the t statistics exceeds the value with a probability of `level`. If correlations are unequal, the
    minimum correlation gives a conservative value (Slepian 1962). If it is negative, Bonferroni's value is returned.

    Args:
      comparisons: the number of t statistics, which share one control.
      freedom: the degrees of freedom.
      level: the error probability.
      correlation: the correlation between the statistics.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]
    from scipy.special import ndtr  # type: ignore[import-untyped]

    if correlation < 0:
        return critical(1, freedom, level / comparisons)
    correlation = min(correlation, 0.99)
    shared, own = math.sqrt(correlation), math.sqrt(1 - correlation)
    z = np.linspace(-8, 8, 401)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    # s is the square root of a chi-square variable divided by its degrees of freedom.
    s = np.linspace(1e-3, 1 + 8 / math.sqrt(2 * freedom) + 4 / freedom, 401)
    weights = np.exp((freedom - 1) * np.log(s) - freedom * (s**2 - 1) / 2)
    weights /= weights.sum()

    def exceeded(value: float) -> float:
        inside = ndtr((shared * z[:, None] + value * s) / own) ** comparisons
        return 1 - float(density @ inside @ weights) - level

    return float(brentq(exceeded, 0, 1e4))
