"""How far a ranking can be trusted: every point of a sweep compared with the best."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from cnnjax.metrics import Accuracy, Metric
from cnnjax.sweeps.blocks import Blocks, fit_blocks
from cnnjax.sweeps.ranking import Ranked, cost_table

MARGIN = 0.005
"""Half a percentage point: gaps that are certainly smaller count as none, for metrics that are shares."""

_Verdict = Literal["best", "equal", "undecided", "worse", "unstable", "incomplete"]
_Judged = tuple[float, float, float, _Verdict]


class Compared(NamedTuple):
    """A point compared with the best of the others; in the metric's unit, larger is worse."""

    point: Ranked
    gap: float
    """What the point is behind the best, each seed's effect taken out; NaN where it was not compared."""
    low: float
    high: float
    """Simultaneous interval of the gap; infinite or NaN where there are too few seeds."""
    verdict: _Verdict


def margin_of(metric: Metric, margin: float | None = None) -> float:
    """The margin within which points count as equal: half a percentage point of a share, unless told otherwise."""
    return (MARGIN if metric.percent else 0.0) if margin is None else margin


def compare(
    points: Sequence[Ranked],
    metric: Metric = Accuracy(),  # noqa: B008 - a frozen value
    level: float = 0.05,
    margin: float | None = None,
) -> list[Compared]:
    """Compares each point that is complete and not unstable with the best (Hsu 1984).

    Each seed's effect, which all points share, is taken out, and the spread of what is left is pooled over
    points. With probability of at least 1 - `level` all intervals are right at once, under normal errors of equal
    spread, so that the true best is called worse with a probability of at most `level`. A point is `worse` where
    its interval begins at or above zero, `equal` where it ends within the margin, and `undecided` otherwise.

    Args:
      points: best first, as `rank` gives them.
      metric: by which they rank.
      level: of the family of comparisons.
      margin: by default half a percentage point for a metric that is a share, and none for others.

    Returns:
      One for each point, in the same order.
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
    """Gap, interval and verdict of each point."""
    costs = blocks.costs.round(9)  # as in `rank`, so that equal counts are equal
    best = int(np.argmin(costs))
    gaps, half = costs - costs[best], _halves(blocks, level)[blocks.kinds]  # [points, kinds]
    low = gaps - half[:, blocks.kinds[best]]
    worse = (gaps > 0) & (low >= 0)
    # Any point that is not worse may be the best. The interval reaches to the end of the widest of those to one of
    # them; among points of a kind that is the first.
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
    """How far the estimated difference of two points may be from the true one, [kinds, kinds]."""
    if not blocks.freedom:
        return np.full_like(blocks.variances, math.inf)
    value = critical(len(blocks.costs) - 1, blocks.freedom, level, least_correlation(blocks.variances))
    with np.errstate(invalid="ignore"):
        half = (value * blocks.spread * np.sqrt(blocks.variances)).round(9)
    return np.where(np.isfinite(blocks.variances), half, math.inf)


def least_correlation(variances: np.ndarray) -> float:
    """The least correlation between the differences of two points to a third; 1/2 where all have the same seeds."""
    with np.errstate(invalid="ignore"):
        one, other = variances[:, :, None], variances[:, None, :]
        found = (one + other - variances) / (2 * np.sqrt(one * other))
    return math.floor(100 * float(np.nanmin(found)) + 1e-6) / 100


@lru_cache(maxsize=256)
def critical(comparisons: int, freedom: int, level: float = 0.05, correlation: float = 0.5) -> float:
    """The value that the largest of so many t statistics with one control exceeds with a probability of `level`.

    One-sided, of Dunnett (1955), by numerical integration. Where the statistics are correlated to unequal degrees,
    the least correlation gives a value that is exceeded at most as often (Slepian 1962); where that is negative,
    the value is Bonferroni's.
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
    # The root of a chi-square variable over its degrees of freedom.
    s = np.linspace(1e-3, 1 + 8 / math.sqrt(2 * freedom) + 4 / freedom, 401)
    weights = np.exp((freedom - 1) * np.log(s) - freedom * (s**2 - 1) / 2)
    weights /= weights.sum()

    def exceeded(value: float) -> float:
        inside = ndtr((shared * z[:, None] + value * s) / own) ** comparisons
        return 1 - float(density @ inside @ weights) - level

    return float(brentq(exceeded, 0, 1e4))
