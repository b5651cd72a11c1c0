"""What a run and a sweep are, as values that know no arrays: the parts of a run, composed."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cnnjax.augmentation import Augmentation
from cnnjax.losses import CrossEntropy, Loss
from cnnjax.metrics import Accuracy, Metric
from cnnjax.networks.base import NetworkConfig
from cnnjax.optimizers import SGD, Optimizer
from cnnjax.options import (
    Config,
    Option,
    as_tuples,
    check,
    check_range,
    choose,
    config,
    flat_names,
    has,
    options,
    part,
    resolve,
    static,
    suggest,
    text,
    update,
)


@config
class TrainConfig(Config):
    """One training run. It is checked where it enters: see `options.check`."""

    network: NetworkConfig = part(help="what is trained")
    optimizer: Optimizer = part(SGD(), "how parameters are updated")
    loss: Loss = part(CrossEntropy(), "what training minimizes")
    metric: Metric = part(Accuracy(), "what points are ranked by")
    augment: tuple[Augmentation, ...] = part((), "random changes of a batch in training, one after the other")
    data: str = static("digits", "digits, or a TensorFlow Datasets name, as mnist or mnist:3.0.1")
    batch_size: int = static(64, "examples a step", least=1)
    epochs: int = static(10, "passes over the training split", least=1)
    seed: int = static(0, "fixes initialization, batch order and noise", least=0, below=2**32)


@dataclass(frozen=True)
class Range:
    """Numbers to draw from: uniformly, or with `log` uniformly in the logarithm."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{'log' if self.log else 'uniform'}:{self.low:g}:{self.high:g}"

    def at(self, share: float, whole: bool) -> float:
        """The number at a share of the way from low to high, as `near`."""
        low, high = (self.low, self.high) if not self.log else (math.log(self.low), math.log(self.high))
        value = low + (high - low) * share
        return self.near(math.exp(value) if self.log else value, whole)

    def near(self, value: float, whole: bool) -> float:
        """A number to four digits, as it is printed, or to a `whole` one, inside of the range."""
        if whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.4g}"), self.low), self.high)


NOT_SWEPT = ("data", "seed", "metric")
SAMPLERS = ("tpe", "gp", "cmaes", "qmc")
SEARCHES = ("all", "halving", *SAMPLERS)

Values = tuple[Any, ...] | Range


@dataclass(frozen=True)
class SweepConfig:
    """Points, each under the same seeds, and how the best of them is looked for.

    A point is a combination of the axes' values. There is one for every combination, or with `points`
    so many are drawn at random. The axes of a `zipped` group vary together, the first value of one
    with the first of the others. An axis is a field of the run by its name (`learning_rate`, or
    `optimizer.learning_rate`), or one of its parts (`network`, `optimizer`), whose values are
    configurations. An axis that only some of the swept parts have varies under those alone.

    `search` says what is trained. `all`: every point to its end. `halving`: after 1/factor, 1/factor^2, ...
    of the epochs only the best 1/factor of the points continue (`cnnjax.sweeps.search`). `tpe`, `gp`, `cmaes`,
    `qmc`: Optuna proposes `points` of them, `batch_points` at a time. With a `shard`, as 2/8, only that part
    of the points is trained; `extend` joins the parts. Points of which `more_seeds` has the number, as they are
    counted from 0, are trained under so many seeds more. Gaps to the best that are certainly within `equal_within`
    count as none (`cnnjax.sweeps.compare`).

    Raises:
      ValueError: a value of the run is out of range; an axis is empty, occurs twice, names a value
        twice, is no option of the run or cannot be an axis (`data`, `seed`, `metric`); a range is upside
        down or leaves the option's; axes that are zipped differ in length; there is no seed, or no
        number of points where one is needed.
    """

    base: TrainConfig
    axes: tuple[tuple[str, Values], ...]  # (option, values), the last varies fastest
    seeds: int = 3
    zipped: tuple[tuple[str, ...], ...] = ()
    points: int = 0
    search: str = "all"
    batch_points: int = 16
    factor: int = 3
    shard: str | None = None  # "2/8": the second of eight parts of the points
    equal_within: float | None = None  # in the metric's unit; by default 0.005 of a metric that is a share
    more_seeds: tuple[tuple[int, int], ...] = ()  # (point, seeds besides those that all points have)

    def __post_init__(self) -> None:
        if not isinstance(self.base, TrainConfig):
            raise ValueError(f"base: {self.base!r}: must be a TrainConfig")
        self._check_types()
        axes = ((name, values if isinstance(values, Range) else as_tuples(tuple(values))) for name, values in self.axes)
        object.__setattr__(self, "axes", tuple(axes))
        object.__setattr__(self, "zipped", as_tuples(self.zipped))
        object.__setattr__(self, "more_seeds", as_tuples(self.more_seeds or ()))
        check(self.base)
        for name, least in (("seeds", 1), ("points", 0), ("batch_points", 1), ("factor", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}: must be at least {least}")
        choose("search", self.search, dict.fromkeys(SEARCHES))
        paths = [resolve(name, self.known) for name, _ in self.axes]
        for (name, values), path in zip(self.axes, paths, strict=True):
            if paths.count(path) > 1:
                raise ValueError(f"{name}: occurs twice among the axes")
            self._check_axis(name, values, self.known[path])
        self._check_zipped()
        if self.search == "halving" and ("epochs",) in paths:
            raise ValueError("epochs: cannot be swept by halving, which compares after equally many")
        if not self.points and self.search in SAMPLERS:
            raise ValueError(f"points: say how many points {self.search} may try, as 64")
        if self.shard is not None and self.search != "all":
            raise ValueError(f"shard: {self.shard}: {self.search} compares points with each other: use --search all")
        _ = self.part  # checks it
        self._check_judging()

    def _check_types(self) -> None:
        pairs = 'must be pairs of a name and its values, as (("learning_rate", (0.01, 0.1)),)'
        if not isinstance(self.axes, list | tuple):
            raise ValueError(f"axes: {self.axes!r}: {pairs}")
        for axis in self.axes:
            named = isinstance(axis, list | tuple) and len(axis) == 2 and isinstance(axis[0], str)
            if not named or isinstance(axis[1], str) or not isinstance(axis[1], Iterable | Range):
                raise ValueError(f"axes: {axis!r}: {pairs}")
        for name in ("seeds", "points", "batch_points", "factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name}: {value!r}: must be an integer")
        if not isinstance(self.search, str):
            raise ValueError(f"search: {self.search!r}: must be a string, as 'all'")
        if not (self.shard is None or isinstance(self.shard, str)):
            raise ValueError(f"shard: {self.shard!r}: give a part and how many there are, as '2/8'")
        groups = self.zipped if isinstance(self.zipped, list | tuple) else [None]
        if not all(
            isinstance(group, list | tuple) and all(isinstance(name, str) for name in group) for group in groups
        ):
            raise ValueError(
                f"zipped: {self.zipped!r}: must be groups of names of axes, as (('learning_rate', 'momentum'),)"
            )

    def _check_judging(self) -> None:
        margin = self.equal_within
        numeric = margin is None or (isinstance(margin, int | float) and not isinstance(margin, bool))
        if not numeric or not 0 <= (margin or 0) < math.inf:
            raise ValueError(f"equal_within: {margin!r}: must be a number of at least 0, as 0.005, or None")
        pairs = self.more_seeds
        whole = isinstance(pairs, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and {*map(type, pair)} == {int} for pair in pairs
        )
        if not whole or any(point < 0 or count < 1 for point, count in pairs) or len(dict(pairs)) < len(pairs):
            raise ValueError(
                f"more_seeds: {pairs!r}: must be pairs of a point and a number of seeds, as ((0, 5), (3, 5))"
            )
        if pairs and (self.search != "all" or self.shard is not None):
            raise ValueError("more_seeds: only a whole sweep that trains every point to its end has some: search='all'")

    @property
    def part(self) -> tuple[int, int]:
        """Which part of how many its points are: (0, 1) for all of them."""
        first, slash, count = ("1/1" if self.shard is None else self.shard).partition("/")
        if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
            raise ValueError(f"shard: {self.shard!r}: give a part and how many there are, as 2/8")
        return int(first) - 1, int(count)

    @cached_property
    def known(self) -> dict[tuple[str, ...], Option]:
        """The options of the run by path, those of every part that is swept included."""
        found: dict[tuple[str, ...], Option] = {}
        for run in alternatives(self.base, self.axes):
            found |= {option.path: option for option in options(run) if option.path not in found}
        return found

    @cached_property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """The paths of the axes by name, in the order in which they are applied: parts before their fields."""
        found = {name: resolve(name, self.known) for name, _ in self.axes}
        return dict(sorted(found.items(), key=lambda item: (not self.known[item[1]].holds_parts, len(item[1]))))

    def option(self, name: str) -> Option:
        """The field that an axis varies."""
        return self.known[self.paths[name]]

    def run(self, chosen: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
        """The run with values of the axes, and those of them that it has: no fields of parts that were not chosen."""
        run, had = self.base, {}
        for name, path in self.paths.items():
            if has(run, path):
                run, had[name] = update(run, path, chosen[name]), chosen[name]
        check(run)
        return run, {name: had[name] for name in chosen if name in had}

    def _check_axis(self, name: str, values: Values, option: Option) -> None:
        if option.path[0] in NOT_SWEPT:
            raise ValueError(f"{name}: cannot be swept: every point has the same data, seeds and metric")
        if isinstance(values, Range):
            self._check_range(name, values, option)
            return
        if not values:
            raise ValueError(f"{name}: give at least one value")
        run = next(run for run in alternatives(self.base, self.axes) if has(run, option.path))
        for value in values:
            check(update(run, option.path, value))
        different = min(len(set(map(text, values))), len(set(values)))
        if different < len(values) and not any(name in group for group in self.zipped):
            raise ValueError(f"{name}: {' '.join(map(text, values))}: duplicate value")

    def _check_zipped(self) -> None:
        values = dict(self.axes)
        grouped = [name for group in self.zipped for name in group]
        for group in self.zipped:
            for name in group:
                if name not in values or isinstance(values[name], Range):
                    names = flat_names(self.known)
                    hint = "" if name in names else suggest(name, names)
                    raise ValueError(f"zip: {name}: {hint}must be an axis with a list of values")
                if grouped.count(name) > 1:
                    raise ValueError(f"zip: {name}: occurs twice")
            lengths = [f"{name} {len(values[name])}" for name in group]  # type: ignore[arg-type]
            if len({length.split()[-1] for length in lengths}) > 1:
                raise ValueError(f"zip: {text(group)}: must have equally many values, not {', '.join(lengths)}")

    def _check_range(self, name: str, range: Range, option: Option) -> None:
        if not option.numeric:
            raise ValueError(f"{name}: {range}: only a number has a range; list the values")
        if option.whole and not (float(range.low).is_integer() and float(range.high).is_integer()):
            raise ValueError(f"{name}: {range}: the ends must be whole numbers")
        for end in (range.low, range.high):
            check_range(option, name, float(end))
        if range.low >= range.high:
            raise ValueError(f"{name}: {range}: upside down: the lower end comes first")
        if range.log and range.low <= 0:
            raise ValueError(f"{name}: {range}: a logarithm needs a lower end above 0")
        if not self.points:
            raise ValueError(f"{name}: {range}: points: say how many are drawn from the range, as 16")


def alternatives(base: TrainConfig, axes: Iterable[tuple[str, Values]]) -> Iterator[TrainConfig]:
    """The run with each of the parts that axes offer, one at a time; those of a part of a part with each of the whole.

    Raises:
      ValueError: an axis offers what is no such part.
    """
    runs = [base]
    for name, values in axes:
        runs = [other for run in runs for other in _with_each(run, name, values)]
    return iter(runs)


def _with_each(run: TrainConfig, name: str, values: Values) -> Iterator[TrainConfig]:
    """The run with each value of an axis that offers parts; as it is where it has none of that name."""
    found = {option.path: option for option in options(run)}
    try:
        option = found[resolve(name, found)]
    except ValueError:
        option = None
    if option is None or not option.holds_parts or isinstance(values, Range) or not values:
        yield run
        return
    for value in values:
        other = update(run, option.path, value)
        check(other)
        yield other
