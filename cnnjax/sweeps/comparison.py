"""How far a ranking can be trusted: every point of a sweep compared with the best."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from cnnjax.metrics import Accuracy, Metric
from cnnjax.sweeps.ranking import Ranked

MARGIN = 0.005
"""Half a percentage point: gaps that are certainly smaller count as none, for metrics that are shares."""
_UNSTABLE = 5
_USUAL = 5

_Verdict = Literal["best", "equal", "undecided", "worse", "unstable", "incomplete"]
_Judged = tuple[float, float, float, _Verdict]


class Compared(NamedTuple):
    """A point compared with the best of the others; in the metric's unit, larger is worse."""

    point: Ranked
    gap: float
    """What the point's mean is behind that of the best; NaN where it was not compared."""
    low: float
    high: float
    """Simultaneous interval of the gap; infinite or NaN where there are too few seeds."""
    verdict: _Verdict


def compare(
    points: Sequence[Ranked],
    metric: Metric = Accuracy(),  # noqa: B008 - a frozen value
    level: float = 0.05,
    margin: float | None = None,
) -> list[Compared]:
    """Compares each point with the best, by the seeds that all stable points have.

    A point is unstable where its standard deviation over seeds is above five times the median one, of at least
    five points with three seeds each. The others that are complete are compared with the best (Hsu 1984): the
    spread is pooled over points, after the effect of each seed, which all points share, is taken out (randomized
    blocks). With probability of at least 1 - `level` all intervals are right at once, under normal errors of
    equal spread, so that the true best is called worse with a probability of at most `level`. A point is `worse`
    where its interval begins at or above zero, `equal` where it ends within the margin, and `undecided` otherwise.

    Args:
      points: best first, as `rank` gives them.
      metric: by which they rank.
      level: of the family of comparisons.
      margin: by default half a percentage point for a metric that is a share, and none for others.

    Returns:
      One for each point, in the same order.
    """
    margin = (MARGIN if metric.percent else 0.0) if margin is None else margin
    complete = [point for point in points if point.complete]
    shaky = _unstable(complete)
    stable = [point for point, unstable in zip(complete, shaky, strict=True) if not unstable]
    common = sorted(set.intersection(*(set(_by_seed(point)) for point in stable))) if stable else []
    table = np.array([[metric.cost(_by_seed(point)[seed]) for seed in common] for point in stable])
    judged = iter(_judged(table, level, margin) if common else [_unknown("undecided")] * len(stable))
    of_complete = iter([_unknown("unstable") if unstable else next(judged) for unstable in shaky])
    return [Compared(point, *(next(of_complete) if point.complete else _unknown("incomplete"))) for point in points]


def _unknown(verdict: _Verdict) -> _Judged:
    return math.nan, math.nan, math.nan, verdict


def _by_seed(point: Ranked) -> dict[int, float]:
    return {result.trial.config.seed: result.valid_metric for result in point.results}


def _unstable(points: Sequence[Ranked]) -> list[bool]:
    """Which points have a spread far above the usual, which few points or two seeds do not show."""
    spreads = [point.valid_metric.std for point in points if point.valid_metric.n > 2]
    if len(spreads) < max(_USUAL, len(points)):
        return [False] * len(points)
    usual = float(np.median(spreads))
    return [spread > _UNSTABLE * usual > 0 for spread in spreads]


def _judged(table: np.ndarray, level: float, margin: float) -> list[_Judged]:
    """Gap, interval and verdict of each row of costs [points, seeds]."""
    count, seeds = table.shape
    means = table.mean(1).round(9)  # as in `rank`, so that equal counts are equal
    freedom = (count - 1) * (seeds - 1)
    half = math.inf
    if freedom:
        rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        spread = math.sqrt(float(np.sum(rest**2)) / freedom)
        half = round(critical(count - 1, freedom, level) * spread * math.sqrt(2 / seeds), 9)
    found: list[_Judged] = []
    best = int(np.argmin(means))
    for row in range(count):
        gap = float(means[row] - means[best])
        low, high = max(0.0, gap - half), gap + half
        verdict: _Verdict = "worse" if gap > 0 and gap >= half else "equal" if high <= margin else "undecided"
        found.append((gap, low, high, "best" if row == best else verdict))
    return found


@lru_cache(maxsize=256)
def critical(comparisons: int, freedom: int, level: float = 0.05) -> float:
    """The value that the largest of so many t statistics with one control exceeds with a probability of `level`.

    One-sided, of Dunnett (1955): the numerators have a correlation of 1/2. By numerical integration.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]
    from scipy.special import ndtr  # type: ignore[import-untyped]

    z = np.linspace(-8, 8, 401)
    density = np.exp(-(z**2) / 2)
    density /= density.sum()
    # The root of a chi-square variable over its degrees of freedom.
    s = np.linspace(1e-3, 1 + 8 / math.sqrt(2 * freedom) + 4 / freedom, 401)
    weights = np.exp((freedom - 1) * np.log(s) - freedom * (s**2 - 1) / 2)
    weights /= weights.sum()

    def exceeded(value: float) -> float:
        inside = ndtr(z[:, None] + math.sqrt(2) * value * s) ** comparisons
        return 1 - float(density @ inside @ weights) - level

    return float(brentq(exceeded, 0, 1e4))
