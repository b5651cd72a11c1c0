"""What a run is, as values: frozen dataclasses that know no arrays.

Two kinds of choice, two types: a field of `Hparams` is only a number, and trials that differ in
it share a compiled program; every other field fixes a shape or a function, and selects a program.
"""

import dataclasses
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hparams:
    """The numbers of a point: leaves of a pytree, which may be tracers."""

    learning_rate: float = option(0.1, "peak rate of gradient descent", least=0)
    momentum: float = option(0.9, "share of the last update that is kept", least=0, below=1)
    weight_decay: float = option(0.0, "coupled L2 on kernels (arrays of two or more dimensions)", least=0)
    label_smoothing: float = option(0.0, "share of the target spread over all classes", least=0, below=1)
    warmup: float = option(0.0, "share of all steps in which the rate rises from zero", least=0, below=1)
    steps: int = 0  # that the schedule spans, set by `fit`; with 0 the rate stays at its peak


@dataclass(frozen=True)
class NetworkConfig:
    """The arguments of a module, as a value: subclasses add them as fields and name the module."""

    module: ClassVar[Any]
    examples_apart: ClassVar[bool] = False
    """Whether, dropout aside, an output depends on its own input alone, and on others by `nnx.BatchNorm` only."""

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
    if unknown := set(names) - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such option; there are {', '.join(sorted(known))}")


def replace(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The run with other values, by the flat names of `flat`.

    Raises:
      ValueError: the run has no such option, or a value is out of range.
    """
    _check_names(config, values)

    def update(part: Any) -> Any:
        names = {option.name for option in dataclasses.fields(part)}
        return dataclasses.replace(part, **{k: v for k, v in values.items() if k in names})

    parts = {"network": update(config.network), "hparams": update(config.hparams)}
    return dataclasses.replace(update(config), **parts)


NOT_SWEPT = ("data", "seed")


@dataclass(frozen=True)
class SweepConfig:
    """Every combination of the axes' values (a point), each under the same seeds.

    Raises:
      ValueError: an axis is empty, stands twice, names a value twice, is no option of the run or
        cannot be an axis (`data`, `seed`); there is no seed.
    """

    base: TrainConfig
    axes: tuple[tuple[str, tuple[Any, ...]], ...]  # (option, values), the last varies fastest
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds: {self.seeds}: must be at least 1")
        names = [name for name, _ in self.axes]
        _check_names(self.base, names)
        for name, values in self.axes:
            if name in NOT_SWEPT:
                raise ValueError(f"{name}: cannot be swept: every point has the same data and seeds")
            if names.count(name) > 1:
                raise ValueError(f"{name}: stands twice among the axes")
            if not values:
                raise ValueError(f"{name}: give at least one value")
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {' '.join(map(text, values))}: a value stands twice")
