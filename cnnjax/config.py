"""What a run is, as values: frozen dataclasses that know no arrays.

Two kinds of choice, two types: a field of `Hparams` is only a number, and trials that differ in
it share a compiled program; every other field fixes a shape or a function, and selects a program.
"""

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import jax

T = TypeVar("T")


def option(default: T, help: str, *, least: float | None = None, below: float | None = None) -> T:
    """A field that scripts offer on the command line, with the range of its values."""
    return field(default=default, metadata={"help": help, "least": least, "below": below})


def choose(name: str, value: str, choices: Mapping[str, T]) -> T:
    """The entry that a word stands for; ValueError with the words there are."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r}: use one of {', '.join(choices)}")
    return choices[value]


def from_json(content: bytes) -> Any:
    """The value that JSON stands for; ValueError with the reason where it stands for none."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def text(value: Any) -> str:
    """A value as it is written on the command line: `8,16` for a tuple, `none` for an empty one."""
    if isinstance(value, tuple):
        return ",".join(map(text, value)) or "none"
    return str(value)


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'digits'? ` for a word that is close to a known one, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hparams:
    """The numbers of a point: leaves of a pytree, which may be tracers.

    A `clip_norm` of 0 is no clipping, and selects a program of its own.
    """

    learning_rate: float = option(0.1, "peak rate of gradient descent", least=0)
    momentum: float = option(0.9, "share of the last update that is kept", least=0, below=1)
    weight_decay: float = option(0.0, "coupled L2 on kernels (arrays of two or more dimensions)", least=0)
    label_smoothing: float = option(0.0, "share of the target spread over all classes", least=0, below=1)
    warmup: float = option(0.0, "share of all steps in which the rate rises from zero", least=0, below=1)
    clip_norm: float = option(0.0, "global norm above which a gradient is scaled down to it; 0 for none", least=0)
    steps: int = 0  # that the schedule spans, set by `fit`; with 0 the rate stays at its peak
    dropout_rate: float | None = None  # of the network's `Dropout` layers, set by sweeps; None leaves them as they are


@dataclass(frozen=True)
class NetworkConfig:
    """The arguments of a module, as a value: subclasses add them as fields and name the module."""

    module: ClassVar[Any]
    examples_apart: ClassVar[bool] = False
    """Whether, dropout aside, an output depends on its own input alone, and on others by `nnx.BatchNorm` only."""
    widths: ClassVar[tuple[str, ...]] = ()
    """The fields that count channels or units, layer by layer: networks that differ in these only are a
    family, whose narrow ones are parts of the wide ones (`cnnjax.embedding`)."""

    def __str__(self) -> str:
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        return self.kind() + "".join(f" {field.name}={text(getattr(self, field.name))}" for field in changed)

    @classmethod
    def kind(cls) -> str:
        """The network's name on the command line, as `cnn` or `lenet5`."""
        return cls.__name__.removesuffix("Config").lower()

    @property
    def per_example(self) -> bool:
        """Whether devices may share a batch."""
        return self.examples_apart and not getattr(self, "dropout", 0)

    def build(self, rngs: Any, example: jax.Array, classes: int) -> Any:
        """The Flax NNX module for inputs like `example` [batch, *shape]."""
        arguments = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return self.module(example.shape[1:], classes, **arguments, rngs=rngs)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Raises:
      ValueError: a value is out of range; the message names the field, the value and the range.
    """

    network: NetworkConfig
    hparams: Hparams = Hparams()
    data: str = option("digits", "digits, or a TensorFlow Datasets name, as mnist or mnist:3.0.1")
    loss: str = option("cross_entropy", "cross_entropy or squared_error")
    schedule: str = option("cosine", "constant, cosine or step")
    nesterov: bool = option(False, "Nesterov's form of momentum")
    batch_size: int = option(64, "images a step", least=1)
    epochs: int = option(10, "passes over the training split", least=1)
    seed: int = option(0, "fixes initialisation, batch order and noise", least=0, below=2**32)

    def __post_init__(self) -> None:
        for option, value in flat(self):
            _check(option.name, value, option.default, option.metadata["least"], option.metadata["below"])


_TYPES: Mapping[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str, int),
    tuple: (tuple,),
}
_LARGEST = {int: 2**31 - 1, float: 3.4e38}  # of the types that hold numbers on a device


def _check(name: str, value: Any, default: Any, least: float | None, below: float | None) -> None:
    kind = type(default)
    if not isinstance(value, _TYPES.get(kind, (object,))) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}: {value!r}: must be of type {kind.__name__}, as {text(default)}")
    number: Any = value
    if kind is tuple and {type(entry) for entry in default} <= {int} < {type(entry) for entry in number} | {int}:
        raise ValueError(f"{name}: {value!r}: must be a tuple of integers")
    if kind not in _LARGEST:
        return
    finite = isinstance(number, int) or math.isfinite(number)
    rules = {} if finite else {"finite": False}
    if least is not None:
        rules[f"at least {least}"] = number >= least
    if below is not None:
        rules[f"below {below}"] = number < below
    elif finite and abs(number) > _LARGEST[kind]:
        rules[f"at most {_LARGEST[kind]}"] = False
    if not all(rules.values()):
        raise ValueError(f"{name}: {number}: must be {' and '.join(rules)}")


def flat(config: TrainConfig) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Every option of a run with its value, those of its network and numbers included."""
    for part in (config.hparams, config.network, config):
        for option in dataclasses.fields(part):
            if "help" in option.metadata:
                yield option, getattr(part, option.name)


def _check_names(config: TrainConfig, names: Iterable[str]) -> None:
    known = {option.name for option, _ in flat(config)}
    if unknown := sorted(set(names) - known):
        hint = suggest(unknown[0], known)
        raise ValueError(f"{', '.join(unknown)}: no such option; {hint}there are {', '.join(sorted(known))}")


def replace(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The run with other values, by the flat names of `flat`, and `network` for another `NetworkConfig`.

    Raises:
      ValueError: the run has no such option, or a value is out of range.
    """
    values = dict(values)
    if "network" in values:
        config = dataclasses.replace(config, network=values.pop("network"))
    _check_names(config, values)

    def update(part: Any) -> Any:
        names = {option.name for option in dataclasses.fields(part)}
        return dataclasses.replace(part, **{k: v for k, v in values.items() if k in names})

    parts = {"network": update(config.network), "hparams": update(config.hparams)}
    return dataclasses.replace(update(config), **parts)


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


NOT_SWEPT = ("data", "seed")
SAMPLERS = ("tpe", "gp", "cmaes", "qmc")
SEARCHES = ("all", "halving", *SAMPLERS)


@dataclass(frozen=True)
class SweepConfig:
    """Points, each under the same seeds, and how the best of them is looked for.

    A point is a combination of the axes' values. There is one for every combination, or with `points`
    so many are drawn at random. The axes of a `zipped` group vary together, the first value of one
    with the first of the others.

    `search` says what is trained. `all`: every point to its end. `halving`: after 1/factor, 1/factor^2, ...
    of the epochs only the best 1/factor of the points go on (`cnnjax.search`). `tpe`, `gp`, `cmaes`,
    `qmc`: Optuna proposes `points` of them, `batch_points` at a time.

    Raises:
      ValueError: an axis is empty, stands twice, names a value twice, is no option of the run or
        cannot be an axis (`data`, `seed`); a range is upside down or leaves the option's; axes that
        are zipped differ in length; there is no seed, or no number of points where one is needed.
    """

    base: TrainConfig
    axes: tuple[tuple[str, tuple[Any, ...] | Range], ...]  # (option, values), the last varies fastest
    seeds: int = 3
    zipped: tuple[tuple[str, ...], ...] = ()
    points: int = 0
    search: str = "all"
    batch_points: int = 16
    factor: int = 3

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("points", 0), ("batch_points", 1), ("factor", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)}: must be at least {least}")
        choose("search", self.search, dict.fromkeys(SEARCHES))
        names = [name for name, _ in self.axes]
        values = dict(self.axes)
        networks = values.get("network", (self.base.network,))
        for name, choices in self.axes:
            if name in NOT_SWEPT:
                raise ValueError(f"{name}: cannot be swept: every point has the same data and seeds")
            if names.count(name) > 1:
                raise ValueError(f"{name}: stands twice among the axes")
            if isinstance(choices, Range):
                self._check_range(name, choices)
                continue
            if not choices:
                raise ValueError(f"{name}: give at least one value")
            if len(set(map(text, choices))) < len(choices) and not any(name in group for group in self.zipped):
                raise ValueError(f"{name}: {' '.join(map(text, choices))}: a value stands twice")
        for network in networks if isinstance(networks, tuple) else ():
            if not isinstance(network, NetworkConfig):
                raise ValueError(f"network: {network!r}: must be a NetworkConfig, as CNNConfig()")
            _check_names(dataclasses.replace(self.base, network=network), set(names) - {"network"})
        grouped = [name for group in self.zipped for name in group]
        for group in self.zipped:
            for name in group:
                if name not in values or isinstance(values[name], Range):
                    hint = suggest(name, [option.name for option, _ in flat(self.base)])
                    raise ValueError(f"zip: {name}: {hint}must be an axis with a list of values")
                if grouped.count(name) > 1:
                    raise ValueError(f"zip: {name}: stands twice")
            lengths = [f"{name} {len(values[name])}" for name in group]  # type: ignore[arg-type]
            if len({length.split()[-1] for length in lengths}) > 1:
                raise ValueError(f"zip: {text(group)}: must have equally many values, not {', '.join(lengths)}")
        if self.search == "halving" and "epochs" in names:
            raise ValueError("epochs: cannot be swept by halving, which compares after equally many")
        if not self.points and self.search in SAMPLERS:
            raise ValueError(f"points: say how many points {self.search} may try, as 64")

    def _check_range(self, name: str, range: Range) -> None:
        options = {option.name: option for option, _ in flat(self.base)}
        option = options.get(name)
        if option is None:
            _check_names(self.base, [name])
        if option is None or type(option.default) not in _LARGEST:
            raise ValueError(f"{name}: {range}: only a number has a range; list the values")
        if type(option.default) is int and not (float(range.low).is_integer() and float(range.high).is_integer()):
            raise ValueError(f"{name}: {range}: the ends must be whole numbers")
        for end in (range.low, range.high):
            _check(name, float(end), 0.0, option.metadata["least"], option.metadata["below"])
        if range.low >= range.high:
            raise ValueError(f"{name}: {range}: upside down: the lower end comes first")
        if range.log and range.low <= 0:
            raise ValueError(f"{name}: {range}: a logarithm needs a lower end above 0")
        if not self.points:
            raise ValueError(f"{name}: {range}: points: say how many are drawn from the range, as 16")
