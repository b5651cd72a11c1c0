"""The configurations of a run and of a sweep, composed of parts."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cnnjax.augmentation import Augmentation
from cnnjax.data import Loading
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
    check_type,
    choose,
    config,
    flat_names,
    has,
    number,
    options,
    part,
    part_of,
    resolve,
    static,
    suggest,
    text,
    update,
)


@config
class TrainConfig(Config):
    """The configuration of a training run.

    Values are checked when a run starts, not here; see `options.check`.

    >>> from cnnjax import Adam, CNNConfig
    >>> config = TrainConfig(CNNConfig(filters=(8, 16)), Adam(learning_rate=0.01), epochs=5)
    >>> config.optimizer.learning_rate, config.loss
    (0.01, CrossEntropy(label_smoothing=0.0, class_weight=None))
    """

    network: NetworkConfig = part(help="network to train")
    optimizer: Optimizer = part(SGD(), "optimizer of the parameters")
    loss: Loss = part(CrossEntropy(), "loss to minimize")
    metric: Metric = part(Accuracy(), "metric that ranks points")
    augment: tuple[Augmentation, ...] = part((), "augmentations of training batches, applied in order")
    data: str = static(
        "digits",
        "digits, a folder of images, an .npz, .tsv or .ts file, or a TensorFlow Datasets name such as mnist",
    )
    loading: Loading = part(Loading(), "how data are read and split")
    batch_size: int = static(64, "examples per step", least=1)
    epochs: int = static(10, "passes over the training split", least=1)
    seed: int = static(0, "seed of initialization, batch order and noise", least=0, below=2**32)
    patience: int | None = static(None, "epochs without a better validation metric after which training stops", least=1)
    ema: float | None = number(None, "decay of a moving average of the parameters, also evaluated", least=0, below=1)


@dataclass(frozen=True)
class Range:
    """A range to draw numbers from: uniformly, or with `log` uniformly on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def __str__(self) -> str:
        return f"{'log' if self.log else 'uniform'}:{self.low:g}:{self.high:g}"

    def at(self, share: float, whole: bool) -> float:
        """Returns the number at a fraction `share` of the way from low to high, rounded as by `near`."""
        low, high = (self.low, self.high) if not self.log else (math.log(self.low), math.log(self.high))
        value = low + (high - low) * share
        return self.near(math.exp(value) if self.log else value, whole)

    def near(self, value: float, whole: bool) -> float:
        """Rounds a number to four digits, or to an integer if `whole`, and clips it to the range."""
        if whole:
            return min(max(round(value), int(self.low)), int(self.high))
        return min(max(float(f"{value:.4g}"), self.low), self.high)


NOT_SWEPT = ("data", "loading", "seed", "metric")
SAMPLERS = ("tpe", "gp", "cmaes", "qmc")
SEARCHES = ("all", "halving", *SAMPLERS)

Values = tuple[Any, ...] | Range


@dataclass(frozen=True)
class SweepConfig:
    """The configuration of a sweep: points, which are all trained with the same seeds, and a search.

    A point is a combination of values of the axes: by default, each combination is a point. Axes of a
    `zipped` group vary together, value by value. An axis is a field of the run, given by name
    (`learning_rate` or `optimizer.learning_rate`), or a part of the run (`network`, `optimizer`), whose
    values are configurations. If only some of the swept parts have a field, its axis applies only to
    those.

    >>> from cnnjax import CNNConfig
    >>> axes = (("learning_rate", (0.01, 0.1)), ("filters", ((4, 8), (8, 16), (16, 32))))
    >>> sweep = SweepConfig(TrainConfig(CNNConfig()), axes, seeds=5)  # 6 points, 30 trials

    Args:
      base: the run that the axes vary.
      axes: (name, values) pairs, the last varying fastest; the values are a sequence or a `Range`.
      seeds: the number of seeds per point, counting up from the seed of `base`.
      folds: the number of folds of a cross-validation, in which every point is trained with every seed
        (`cnnjax.data.folds`); None for the splits of the data.
      zipped: groups of axes that vary together.
      points: the number of random points; 0 for all combinations.
      search: `all` trains all points to the end. `halving` continues only with the best 1/`factor` of the
        points after each rung (`cnnjax.sweeps.search.halving`). `tpe`, `gp`, `cmaes` and `qmc` are samplers
        of Optuna, which propose `points` points.
      batch_points: the number of points that Optuna proposes at a time.
      factor: the reduction factor of halving.
      shard: the part of the points to train, such as `2/8` for the second of eight; `extend` joins the parts.
      equal_within: the gap to the best within which a point counts as equal, in the unit of the metric; by
        default 0.005 for a metric that is a share, else 0 (`cnnjax.sweeps.compare`).
      more_seeds: (point, count) pairs: points, counted from 0, that are trained with `count` further seeds.

    Raises:
      ValueError: if a value of the run is out of range; an axis is empty, occurs twice, has a duplicate
        value, is not an option of the run or cannot be swept (`data`, `seed`, `metric`); a range is
        reversed or exceeds that of its option; zipped axes differ in length; or a required number of
        seeds or points is missing.
    """

    base: TrainConfig
    axes: tuple[tuple[str, Values], ...]
    seeds: int = 3
    zipped: tuple[tuple[str, ...], ...] = ()
    points: int = 0
    search: str = "all"
    batch_points: int = 16
    factor: int = 3
    shard: str | None = None
    equal_within: float | None = None
    more_seeds: tuple[tuple[int, int], ...] = ()
    folds: int | None = None

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
                raise ValueError(f"{name}: duplicate axis")
            self._check_axis(name, values, self.known[path])
        zipped = (tuple(map(self._axis_of, group)) for group in self.zipped)
        object.__setattr__(self, "zipped", tuple(zipped))
        self._check_zipped()
        if self.search == "halving" and ("epochs",) in paths:
            raise ValueError("epochs: cannot be swept with halving: use --search all")
        if self.search == "halving" and (self.base.patience is not None or ("patience",) in paths):
            raise ValueError("patience: cannot be combined with halving, which stops points itself: use --search all")
        if not self.points and self.search in SAMPLERS:
            raise ValueError(f"points: {self.points}: give the number of points that {self.search} may try, such as 64")
        if self.shard is not None and self.search != "all":
            raise ValueError(f"shard: {self.shard}: {self.search} needs all points: use --search all")
        _ = self.part  # raises ValueError if it is invalid
        self._check_judging()
        self._check_folds()

    def _check_types(self) -> None:
        pairs = 'must be pairs of a name and its values, such as (("learning_rate", (0.01, 0.1)),)'
        if not isinstance(self.axes, list | tuple):
            raise ValueError(f"axes: {self.axes!r}: {pairs}")
        for axis in self.axes:
            named = isinstance(axis, list | tuple) and len(axis) == 2 and isinstance(axis[0], str)
            if not named or isinstance(axis[1], str) or not isinstance(axis[1], Iterable | Range):
                raise ValueError(f"axes: {axis!r}: {pairs}")
        for name in ("seeds", "points", "batch_points", "factor"):
            check_type(name, getattr(self, name), int)
        check_type("search", self.search, str, ", such as 'all'")
        if not (self.shard is None or isinstance(self.shard, str)):
            raise ValueError(f"shard: {self.shard!r}: give a part and the number of parts, such as '2/8'")
        groups = self.zipped if isinstance(self.zipped, list | tuple) else [None]
        if not all(
            isinstance(group, list | tuple) and all(isinstance(name, str) for name in group) for group in groups
        ):
            raise ValueError(
                f"zipped: {self.zipped!r}: must be groups of axis names, such as (('learning_rate', 'momentum'),)"
            )

    def _check_judging(self) -> None:
        margin = self.equal_within
        numeric = margin is None or (isinstance(margin, int | float) and not isinstance(margin, bool))
        if not numeric or not 0 <= (margin or 0) < math.inf:
            raise ValueError(f"equal_within: {margin!r}: must be a number of at least 0, such as 0.005, or None")
        pairs = self.more_seeds
        whole = isinstance(pairs, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and {*map(type, pair)} == {int} for pair in pairs
        )
        if not whole or any(point < 0 or count < 1 for point, count in pairs) or len(dict(pairs)) < len(pairs):
            raise ValueError(
                f"more_seeds: {pairs!r}: must be pairs of a point and a number of seeds, such as ((0, 5), (3, 5))"
            )
        if pairs and (self.search != "all" or self.shard is not None):
            raise ValueError("more_seeds: only a whole sweep that trains every point to its end has some: search='all'")

    def _check_folds(self) -> None:
        if self.folds is None:
            return
        check_type("folds", self.folds, int)
        if self.folds < 3:
            raise ValueError(f"folds: {self.folds}: must be at least 3, to train, validate and test in each")
        for name in ("valid_share", "test_share", "fold"):
            if (value := getattr(self.base.loading, name)) is not None:
                raise ValueError(f"{name}: {text(value)}: cannot be combined with folds, which split the data: omit it")

    @property
    def part(self) -> tuple[int, int]:
        """The index of the shard, starting at 0, and the number of shards; (0, 1) for all points."""
        return (0, 1) if self.shard is None else part_of("shard", self.shard)

    @property
    def repeats(self) -> int:
        """The number of trials per point, without those of `more_seeds`: seeds, in each fold."""
        return self.seeds * (self.folds or 1)

    @cached_property
    def known(self) -> dict[tuple[str, ...], Option]:
        """The options of the run by path, including those of all swept parts."""
        found: dict[tuple[str, ...], Option] = {}
        for run in alternatives(self.base, self.axes):
            found |= {option.path: option for option in options(run) if option.path not in found}
        return found

    @cached_property
    def paths(self) -> dict[str, tuple[str, ...]]:
        """The paths of the axes by name, in the order of their application: parts before their fields."""
        found = {name: resolve(name, self.known) for name, _ in self.axes}
        return dict(sorted(found.items(), key=lambda item: (not self.known[item[1]].holds_parts, len(item[1]))))

    def option(self, name: str) -> Option:
        """Returns the field that an axis varies."""
        return self.known[self.paths[name]]

    def run(self, chosen: Mapping[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
        """Applies values of the axes to the base run; returns the run, and the values of fields that it has."""
        run, had = self.base, {}
        for name, path in self.paths.items():
            if has(run, path):
                run, had[name] = update(run, path, chosen[name]), chosen[name]
        check(run)
        return run, {name: had[name] for name in chosen if name in had}

    def _check_axis(self, name: str, values: Values, option: Option) -> None:
        if option.path[0] in NOT_SWEPT:
            raise ValueError(f"{name}: cannot be swept: all points have the same data, seeds and metric")
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

    def _axis_of(self, name: str) -> str:
        """Returns the name of the axis of a field that is named in another way, such as by its path."""
        try:
            path = resolve(name, self.known)
        except ValueError:
            return name
        return next((axis for axis, _ in self.axes if resolve(axis, self.known) == path), name)

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
                    raise ValueError(f"zip: {name}: duplicate value")
            lengths = [f"{name} {len(values[name])}" for name in group]  # type: ignore[arg-type]
            if len({length.split()[-1] for length in lengths}) > 1:
                raise ValueError(f"zip: {text(group)}: must have the same number of values, not {', '.join(lengths)}")

    def _check_range(self, name: str, range: Range, option: Option) -> None:
        if not option.numeric:
            raise ValueError(f"{name}: {range}: only numbers can have a range: list the values")
        if option.whole and not (float(range.low).is_integer() and float(range.high).is_integer()):
            raise ValueError(f"{name}: {range}: both ends must be integers")
        for end in (range.low, range.high):
            check_range(option, name, float(end))
        if range.low >= range.high:
            raise ValueError(f"{name}: {range}: the first end must be below the second")
        if range.log and range.low <= 0:
            raise ValueError(f"{name}: {range}: a logarithmic range must start above 0")
        if not self.points:
            raise ValueError(f"{name}: {range}: give the number of random points with points, such as 16")


def alternatives(base: TrainConfig, axes: Iterable[tuple[str, Values]]) -> Iterator[TrainConfig]:
    """Yields the base run with every combination of the parts that axes vary.

    Raises:
      ValueError: if a value of an axis is not a valid part.
    """
    runs = [base]
    for name, values in axes:
        runs = [other for run in runs for other in _with_each(run, name, values)]
    return iter(runs)


def _with_each(run: TrainConfig, name: str, values: Values) -> Iterator[TrainConfig]:
    """Yields the run with each value of an axis over parts; yields it unchanged for any other axis."""
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
