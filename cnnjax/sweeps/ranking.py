"""The ranking of the points of a sweep, the ends of its axes, main effects and the analysis of variance."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from cnnjax.config import Range, SweepConfig
from cnnjax.metrics import Accuracy, Metric
from cnnjax.options import Option, options, text
from cnnjax.sweeps.blocks import fit_blocks
from cnnjax.sweeps.trials import Result

_GUESSING = 3  # standard errors above chance
_UNSTABLE, _USUAL = 5, 5  # multiple of the median spread, minimum number of points


class Summary(NamedTuple):
    """Mean and sample standard deviation (divisor n - 1); NaN if undefined."""

    mean: float
    std: float
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """Returns the mean and standard deviation of the finite values."""
    values = [value for value in values if math.isfinite(value)]
    mean = float(np.mean(values)) if values else math.nan
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(mean, std, len(values))


class Ranked(NamedTuple):
    """A point of a sweep with the results of its seeds."""

    values: Mapping[str, Any]
    results: tuple[Result, ...]
    valid_metric: Summary
    valid_loss: Summary
    unstable: bool = False
    """Whether a seed is no better than guessing, or the spread over seeds is far above that of other points."""

    @property
    def complete(self) -> bool:
        return all(result.status == "complete" for result in self.results)

    @property
    def repeated(self) -> str:
        """What the mean of the point is over: `seeds`, `folds`, or `trials`, which are several seeds in each fold."""
        if self.results[0].trial.fold is None:
            return "seeds"
        return "trials" if len({result.trial.config.seed for result in self.results}) > 1 else "folds"

    @property
    def name(self) -> str:
        """The values of the point: `learning_rate 0.1 filters 8,16`."""
        return " ".join(f"{name} {text(value)}" for name, value in self.values.items())


def rank(results: Sequence[Result], metric: Metric = Accuracy()) -> list[Ranked]:  # noqa: B008 - a frozen value
    """Ranks points, best first, by the mean validation metric; the mean validation loss breaks ties.

    Complete points come first, then stopped points, those trained longest first, then points with a
    diverged seed. Among points trained for the same number of epochs, unstable points come last, so an
    unstable point wins only if there is no stable one. If points have different seeds, the means are
    adjusted for seed effects (`fit_blocks`).

    A point is unstable if one of its seeds is at most three standard errors above chance
    (`Metric.above_chance`), provided that all seeds of some point are more than six standard errors
    above. A point is also unstable if its standard deviation over seeds exceeds five times the median
    of at least five points with three seeds or more.
    """
    tiers: dict[tuple[int, float], list[Ranked]] = {}
    for _, group in itertools.groupby(sorted(results, key=_order), lambda result: result.trial.point):
        seeds = tuple(group)
        score, loss = (summarize([getattr(r, name) for r in seeds]) for name in ("valid_metric", "valid_loss"))
        point = Ranked(dict(seeds[0].trial.values), seeds, score, loss)
        tiers.setdefault(_tier(point), []).append(point)
    return [point for tier in sorted(tiers) for point in _by_cost(tiers[tier], metric, healthy=tier[0] < 2)]


def _order(result: Result) -> tuple[int, int]:
    return result.trial.point, result.trial.number


def _tier(point: Ranked) -> tuple[int, float]:
    """Returns the sort key that precedes the metric: complete, stopped, with a diverged seed, all diverged."""
    if math.isnan(point.valid_metric.mean):
        return 3, 0
    if point.complete:
        return 0, 0
    if any(result.status == "diverged" for result in point.results):
        return 2, 0
    return 1, -float(np.mean([result.epochs for result in point.results]))


def _by_cost(points: Sequence[Ranked], metric: Metric, healthy: bool) -> list[Ranked]:
    """Sorts the points of one tier by cost; unstable points come last if no seed diverged."""
    costs = [metric.cost(point.valid_metric.mean) for point in points]
    if healthy:
        points = [p._replace(unstable=u) for p, u in zip(points, _unstable(points), strict=True)]
        stable = [place for place, point in enumerate(points) if not point.unstable]
        fitted = fit_blocks(cost_table([points[place] for place in stable], metric))
        for place, cost in zip(stable, fitted.costs.tolist(), strict=True):
            costs[place] = cost

    def badness(place: int) -> tuple[bool, float, float]:
        point = points[place]
        return point.unstable, round(costs[place], 9), point.valid_loss.mean  # rounding errors break no ties

    return [points[place] for place in sorted(range(len(points)), key=badness)]


def cost_table(points: Sequence[Ranked], metric: Metric) -> Float[np.ndarray, "points seeds"]:
    """Returns the cost of each seed, in each fold, of each point; NaN for seeds that a point lacks."""
    by_seed = [{tuple(r.trial.repeat.values()): metric.cost(r.valid_metric) for r in point.results} for point in points]
    seeds = sorted(set().union(*by_seed))
    return np.array([[costs.get(seed, math.nan) for seed in seeds] for costs in by_seed])


def _unstable(points: Sequence[Ranked]) -> list[bool]:
    """Returns which points are unstable, as defined in `rank`; the points must have no diverged seed."""
    least = [min(result.above_chance for result in point.results) for point in points]
    learned = any(above > 2 * _GUESSING for above in least)
    guessing = [learned and above <= _GUESSING for above in least]
    others = [point.valid_metric for point, guesses in zip(points, guessing, strict=True) if not guesses]
    usual = math.nan
    if len(others) >= _USUAL and all(summary.n > 2 for summary in others):
        usual = float(np.median([summary.std for summary in others])) or math.nan
    return [g or p.valid_metric.std > _UNSTABLE * usual for g, p in zip(guessing, points, strict=True)]


class Edge(NamedTuple):
    """An axis whose best value is at one of its ends, so a better value may lie beyond."""

    name: str
    value: Any
    side: Literal["lowest", "highest"]
    proposed: tuple[Any, ...] | Range
    """Values to try next, with the best value in the middle."""


class _Limits(NamedTuple):
    least: float | None
    most: float | None
    below: float | None
    whole: bool

    @classmethod
    def of(cls, option: Option, lowest: float) -> "_Limits":
        """Returns the limits of an option; an axis without negative numbers stays non-negative."""
        least, most, below = (option.metadata.get(name) for name in ("least", "most", "below"))
        if least is None and lowest >= 0:
            least = 0
        return cls(least, most, below, option.whole or (option.kind == "static" and type(lowest) is int))

    def nearer(self, value: float) -> float:
        """Returns the midpoint of a value and its exclusive upper bound."""
        if self.below is None:
            return math.inf
        half = _digits((self.below - value) / 2)
        return _trim(self.below - half, half)


def edges(sweep: SweepConfig, best: Ranked) -> list[Edge]:
    """Returns the axes whose best value is at an end, each with proposed values beyond it.

    The axes are those of numbers and of tuples of counts that grow together, such as `filters`. The
    proposed grid has as many values as the axis, but at least 3, and the spacing of the axis: a constant
    ratio if that fits better than a constant difference (for two values: if one is at least twice the
    other); tuples double or halve. Values stay within the range of the option, so the grid may be
    shorter; each step covers at most half the distance to an exclusive upper bound. The ends of a `Range`
    are its outer tenths, and the proposed range has about the same width. Zipped axes are skipped.
    """
    run, _ = sweep.run({**dict.fromkeys(sweep.paths), **best.values})
    own = {option.path: option for option in options(run)}
    zipped = {name for group in sweep.zipped for name in group}
    found: list[Edge] = []
    for name, values in sweep.axes if best.complete else ():
        if name in zipped or name not in best.values or sweep.paths[name] == ("ema",):  # ranks do not depend on it
            continue
        value, option = best.values[name], own[sweep.paths[name]]
        if isinstance(values, Range):
            next_range = _moved(values, value, _Limits.of(option, values.low))
            if next_range:
                found.append(Edge(name, value, "lowest" if next_range.low < values.low else "highest", next_range))
        elif (ordered := _ordered(values)) and value in (ordered[0], ordered[-1]):
            upward, count = value == ordered[-1], max(3, len(values))
            beyond = list(itertools.islice(_beyond(ordered, upward, option), count // 2))
            known = count - count // 2
            if beyond and upward:
                found.append(Edge(name, value, "highest", (*ordered[-known:], *beyond)))
            elif beyond:
                found.append(Edge(name, value, "lowest", (*beyond[::-1], *ordered[:known])))
    return found


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Returns the values of an axis in ascending order; empty if they have no order."""
    if len(values) < 2:
        return []
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sorted(values)
    if not all(isinstance(value, tuple) and len(value) == len(values[0]) for value in values):
        return []
    if not all(type(count) is int and count > 0 for value in values for count in value):
        return []
    ordered = sorted(values)
    grow = all(a <= b for pair in itertools.pairwise(ordered) for a, b in zip(*pair, strict=True))
    return ordered if grow else []


def _beyond(ordered: Sequence[Any], upward: bool, option: Option) -> Iterator[Any]:
    """Yields the values beyond an end of an axis, within the range of the option."""
    end = value = ordered[-1 if upward else 0]
    if isinstance(end, tuple):
        while upward or max(value) > 1:
            value = tuple(2 * count if upward else max(1, count // 2) for count in value)
            yield value
        return
    limits = _Limits.of(option, ordered[0])
    for steps in itertools.count(1):
        new = _further(ordered, end, steps if upward else -steps, limits.whole)
        if not upward and limits.least is not None:
            new = max(new, limits.least)
        if upward and limits.most is not None:
            new = min(new, limits.most)
        if upward and limits.below is not None:
            new = min(new, limits.below - 1 if limits.whole else limits.nearer(value))
        new = round(new) if limits.whole else float(new)
        if new <= value if upward else new >= value:
            return
        yield new
        value = new


def _further(ordered: Sequence[float], end: float, steps: int, whole: bool) -> float:
    """Returns the number `steps` beyond an end of an axis, with the spacing and roundness of its values."""
    gaps = np.diff(ordered)
    positive = [value for value in ordered if value > 0]
    ratios = np.array(positive[1:]) / positive[:-1]
    uneven, uneven_logs = (max(by, default=1) / min(by, default=1) for by in (gaps, np.log(ratios)))
    if len(gaps) == 1:
        geometric = ratios.size and ratios[0] >= 2 and not (whole and gaps[0] <= 2)  # kernels 1 and 3
    else:  # a zero, such as in 0, 1e-4, 1e-3, is not part of the geometric series
        geometric = ratios.size and ordered[0] >= 0 < end and uneven_logs < uneven * (1 - 1e-9)
    if not geometric:
        gap = float(np.mean(gaps))
        gap = max(1, round(gap)) if whole else gap if uneven < 1 + 1e-6 else _digits(gap)
        return _trim(end + steps * gap, gap)
    ratio = float(np.exp(np.mean(np.log(ratios))))
    exact = end * ratio**steps
    if all(value in _series(value) for value in positive):  # 0.01, 0.03, 0.1: 0.3, not 0.32
        near = min(_series(exact), key=lambda value: abs(math.log(value / exact)))
        if max(near / exact, exact / near) <= 1.2:
            return near
    if whole and abs(ratio - round(ratio)) < 1e-6:
        return round(exact)
    return _digits(exact, ratio)


def _moved(range: Range, best: float, limits: _Limits) -> Range | None:
    """Returns a range centered on the best value; None if that is not at an end, or no value lies beyond."""
    low, high, width = range.low, range.high, range.high - range.low
    least, most, below, whole = limits
    place = math.log(best / low) / math.log(high / low) if range.log else (best - low) / width
    if 0.1 < place < 0.9:
        return None
    if range.log:
        factor = math.sqrt(high / low)
        low, high = _digits(best / factor, factor), _digits(best * factor, factor)
    else:
        decimals = 1 - math.floor(math.log10(width))
        low, high = round(best - width / 2, decimals), round(best + width / 2, decimals)
    if whole:
        low, high = math.floor(low), math.ceil(high)
        low = max(low, 1) if range.log else low
    if least is not None and low <= least:
        low = least
    if most is not None:
        high = min(high, most)
    if below is not None:
        high = min(high, below - 1 if whole else limits.nearer(range.high))
    beyond = low < range.low if place < 0.5 else high > range.high
    return Range(low, high, range.log) if beyond else None


def _digits(value: float, ratio: float = 2) -> float:
    """Rounds a value to two digits, or to as many as distinguish it from `ratio` times the value."""
    more = max(0, -math.floor(math.log10(5 * (ratio - 1))))
    return float(f"{value:.{1 + more}e}")


def _trim(value: float, scale: float) -> float:
    """Rounds off the errors of arithmetic with numbers of a scale."""
    return round(value, 9 - math.floor(math.log10(scale))) + 0.0  # no negative zero


def _series(value: float) -> list[float]:
    """Returns the numbers 1, 2, 3, 5, 10 times the power of ten below a value."""
    exponent = math.floor(math.log10(value))
    return [float(f"{digit}e{exponent}") for digit in (1, 2, 3, 5, 10)]


def effects(points: Sequence[Ranked]) -> dict[str, dict[str, Summary]]:
    """Returns a summary of the mean metrics of the complete points, for each value of each axis.

    The keys are the name of the axis and the `text` of the value, in the order of the sweep. The
    differences within an axis are its main effect. If combinations are missing or incomplete, the
    other axes contribute to these differences.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for point in sorted(points, key=lambda point: point.results[0].trial.number):
        for name, value in point.values.items():
            means = found.setdefault(name, {}).setdefault(text(value), [])
            if point.complete:
                means.append(point.valid_metric.mean)
    return {name: {value: summarize(means) for value, means in by.items()} for name, by in found.items()}


def variance_shares(points: Sequence[Ranked]) -> dict[str, float] | None:
    """Returns an analysis of variance of the validation metrics of all trials (Fisher 1925).

    The values are fractions of the total sum of squares and add up to 1: the main effect of each axis
    under its name, the interaction of each pair as `learning_rate x filters`, the main effect of the
    seeds as `seed`, that of the folds as `fold`, and the residual as `rest`. Returns None if a combination
    of values or a seed is missing or incomplete, or if all metrics are equal.
    """
    if not points or not all(point.complete for point in points):
        return None
    names = list(points[0].values)
    if any(list(point.values) != names for point in points):
        return None
    rows = [
        ((*point.values.values(), *result.trial.repeat.values()), result.valid_metric)
        for point in points
        for result in point.results
    ]
    table = dict(rows)
    levels = [list(dict.fromkeys(column)) for column in zip(*table, strict=True)]
    if not len(rows) == len(table) == math.prod(map(len, levels)):
        return None
    y = np.array([table[cell] for cell in itertools.product(*levels)]).reshape([len(level) for level in levels])
    if np.ptp(y) < 1e-9:
        return None
    y = y - y.mean()

    def mean(*axes: int) -> Any:
        """Averages over all other axes."""
        return y.mean(tuple(axis for axis in range(y.ndim) if axis not in axes), keepdims=True)

    axes = [axis for axis in range(len(names)) if y.shape[axis] > 1]
    parts = {names[i]: mean(i) for i in axes}
    parts |= {f"{names[i]} x {names[j]}": mean(i, j) - mean(i) - mean(j) for i, j in itertools.combinations(axes, 2)}
    repeat = points[0].results[0].trial.repeat
    parts |= {name: mean(axis) for axis, name in enumerate(repeat, len(names)) if y.shape[axis] > 1 or len(repeat) == 1}
    parts |= {"rest": y - sum(parts.values())}
    total = float(np.sum(y**2))
    return {name: float(np.sum(np.broadcast_to(part, y.shape) ** 2)) / total for name, part in parts.items()}


def shown(summary: Summary, metric: Metric) -> str:
    """Formats a mean and standard deviation over seeds, in percent for a fraction; `-` if the mean is NaN."""
    if math.isnan(summary.mean):
        return "-"
    spread = "" if math.isnan(summary.std) else " ± " + digits(summary.std, metric)
    return digits(summary.mean, metric) + spread + (" %" if metric.percent else "")


def digits(value: float, metric: Metric) -> str:
    """Formats a value of a metric without its unit."""
    return f"{100 * value:.2f}" if metric.percent else f"{value:.4g}"
