"""Many trials as few programs: points, trials, lanes, and what each came to.

A trial is one point (a choice of values) under one seed. Trials that differ only in numbers and
seeds are lanes of one compiled program; other fields select programs.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax import training
from cnnjax.config import Hparams, SweepConfig, TrainConfig
from cnnjax.config import replace as replace_values
from cnnjax.data import Dataset
from cnnjax.training import Metrics, Progress, Run, Task, TrainState, can_share, make_task, measure_test, train

_LEAST_IMAGES = 32  # of a batch on a device, where devices share it
MOST_TRIALS = 100_000


class Trial(NamedTuple):
    """One point under one seed."""

    number: int
    point: int
    values: tuple[tuple[str, Any], ...]
    config: TrainConfig


@dataclass(frozen=True)
class Lanes:
    """How a function of one trial becomes a function of many: a `training.Lift`.

    Lanes are dealt out over `devices`, the last of them repeated where their number does not
    divide. On a device, `width` of them at a time run side by side under `vmap`, which fills an
    accelerator, and the groups one after the other inside the program, which is fastest on CPU;
    width 0 is all at once. A lane sees nothing of another. With `split`, each of the `devices` is
    that many, which share the batches of a lane (see `training.Task`).
    """

    width: int = 1
    devices: int = 1
    split: int = 1

    def __post_init__(self) -> None:
        if self.width < 0 or min(self.devices, self.split) < 1 or self.all_devices > jax.device_count():
            raise ValueError(
                f"lanes: {self}: give 0 or more lanes side by side, and 1 to {jax.device_count()} devices, as 1:1"
            )

    def __str__(self) -> str:
        return f"{self.width}:{self.devices}" + (f":{self.split}" if self.split != 1 else "")

    @property
    def all_devices(self) -> int:
        return self.devices * self.split

    @property
    def mesh(self) -> Mesh:
        shape, devices = (self.devices, self.split), jax.devices()[: self.all_devices]
        return jax.make_mesh(shape, ("lanes", training.AXIS), (AxisType.Auto,) * 2, devices=devices)

    def __call__(self, function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
        def mapped(lanes: Any, shared: Any) -> Any:
            if self.width == 0:
                return jax.vmap(lambda *lane: function(*lane, *shared))(*lanes)
            together = self.width if self.width > 1 else None
            return lax.map(lambda lane: function(*lane, *shared), lanes, batch_size=together)

        if self.all_devices == 1:
            return lambda *lanes: mapped(lanes, shared)

        spec = PartitionSpec("lanes")
        sharded = jax.shard_map(
            mapped, mesh=self.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
        )

        def dealt(*lanes: Any) -> Any:
            count = jax.tree.leaves(lanes)[0].shape[0]
            if count % self.devices == 0:
                return sharded(lanes, shared)
            rows = jnp.minimum(jnp.arange(-(-count // self.devices) * self.devices), count - 1)
            repeated = jax.tree.map(lambda array: array[rows], lanes)
            return jax.tree.map(lambda array: array[:count], sharded(repeated, shared))

        return dealt

    def place(self, data: Dataset) -> Dataset:
        """The data whose training and validation splits lie on every device that lanes run on."""
        if self.all_devices == 1:
            train, valid = jax.device_put((data.train, data.valid))
        else:
            train, valid = jax.device_put((data.train, data.valid), NamedSharding(self.mesh, PartitionSpec()))
        return data._replace(train=train, valid=valid)


class Program(NamedTuple):
    """One compiled shape and the trials that are its lanes."""

    trials: tuple[Trial, ...]
    lanes: Lanes
    micro_batch: int = 0
    """See `training.Task`."""

    @property
    def config(self) -> TrainConfig:
        """What the trials share; numbers and seed are those of the first."""
        return self.trials[0].config


def trials(sweep: SweepConfig) -> tuple[Trial, ...]:
    """Every point under every seed, seeds varying fastest.

    Seeds count up from the base run's, and are the same under every point.

    Raises:
      ValueError: an axis is no option of the run, or a value is out of range.
    """
    names = [name for name, _ in sweep.axes]
    count = math.prod(len(values) for _, values in sweep.axes) * sweep.seeds
    if count > MOST_TRIALS:
        raise ValueError(f"seeds: {sweep.seeds}: {count} trials in all; at most {MOST_TRIALS} are planned at once")
    found: list[Trial] = []
    for point, values in enumerate(itertools.product(*(values for _, values in sweep.axes))):
        chosen = tuple(zip(names, values, strict=True))
        config = replace_values(sweep.base, dict(chosen))
        for seed in range(config.seed, config.seed + sweep.seeds):
            found.append(Trial(len(found), point, chosen, replace(config, seed=seed)))
    return tuple(found)


def shape_of(trial: Trial) -> TrainConfig:
    """What trials must share to be lanes of one program: all but numbers and seed."""
    return replace(trial.config, hparams=Hparams(), seed=0)


def shares(config: TrainConfig, devices: int) -> int:
    """By how many of so many CPU devices a batch is worth sharing: by 1 unless each has enough images of its own."""
    most = min(devices, config.batch_size // _LEAST_IMAGES)
    return max([1, *(n for n in range(2, most + 1) if can_share(config, n))])


def default_lanes(config: TrainConfig, count: int) -> Lanes:
    """One lane after the other on CPU, all side by side elsewhere, over all devices.

    Where there are more CPU devices than lanes, those that are left share batches.
    """
    devices = min(jax.device_count(), count)
    if jax.default_backend() != "cpu":
        return Lanes(0, devices)
    return Lanes(1, devices, shares(config, jax.device_count() // devices))


def plan(trials: Sequence[Trial], lanes: Lanes | None = None) -> tuple[Program, ...]:
    """Groups trials into programs: one for all that differ only in numbers and seed."""
    shapes: dict[TrainConfig, list[Trial]] = {}
    for trial in trials:
        shapes.setdefault(shape_of(trial), []).append(trial)
    return tuple(
        Program(tuple(group), lanes or default_lanes(group[0].config, len(group))) for group in shapes.values()
    )


def _task(program: Program, data: Dataset) -> Task:
    return make_task(program.config, data, program.micro_batch, program.lanes.split)


def _points(program: Program) -> tuple[Array, Hparams]:
    """The keys and numbers of a program's trials, lanes first."""
    keys = jnp.stack([jax.random.key(trial.config.seed) for trial in program.trials])
    numbers = [trial.config.hparams for trial in program.trials]
    return keys, jax.tree.map(lambda *values: np.array(values, np.float32), *numbers)


def prepare(program: Program, data: Dataset) -> Run:
    """Compiles a program and initialises its lanes."""
    keys, hparams = _points(program)
    data = program.lanes.place(data)
    return training.prepare(_task(program, data), keys, hparams, data, program.config.epochs, program.lanes)


def state_of(program: Program, data: Dataset) -> TrainState:
    """The shapes and types of a program's state, lanes first, without computing anything."""
    keys, hparams = _points(program)
    example = jnp.asarray(data.train.inputs[:1])
    lanes = jax.vmap(lambda key, hparams: training.init(_task(program, data), key, hparams, example))
    return jax.eval_shape(lanes, keys, hparams)


def run(program: Program, data: Dataset) -> Iterator[Progress]:
    """Trains the lanes of a program together; yields after each epoch, arrays [lanes, ...]."""
    yield from train(prepare(program, data))


class Result(NamedTuple):
    """What a trial came to. Numbers that do not exist are NaN."""

    trial: Trial
    status: str
    """`complete` or `diverged`."""
    step: int
    epochs: int
    """Whole epochs, before it diverged if it did."""
    train_loss: float
    valid_loss: float
    valid_accuracy: float


def results(program: Program, progress: Progress) -> list[Result]:
    """The results of a program's trials as they stand; a diverged trial has no numbers."""
    train, valid = jax.tree.map(lambda array: np.asarray(array, float), (progress.train, progress.valid))
    with np.errstate(invalid="ignore"):  # a diverged trial sees no examples
        numbers = np.stack([train.loss, valid.loss, valid.accuracy], 1)
    diverged = np.asarray(progress.state.diverged) | ~np.isfinite(numbers).all(1)
    numbers[diverged] = math.nan
    steps = np.asarray(progress.state.step)
    epochs = np.where(diverged, steps * progress.epoch // progress.steps, progress.epoch)
    status = np.where(diverged, "diverged", "complete")
    rows = zip(program.trials, status.tolist(), steps.tolist(), epochs.tolist(), numbers.tolist(), strict=True)
    return [Result(trial, status, step, epoch, *row) for trial, status, step, epoch, row in rows]


def measure_test_of(program: Program, state: TrainState, numbers: Collection[int], data: Dataset) -> Metrics:
    """The test metrics [trials] of those of a program's trials, by number, from its last state."""
    rows = np.array([row for row, trial in enumerate(program.trials) if trial.number in numbers], int)
    states = jax.tree.map(lambda array: np.asarray(array)[rows], state)
    task = make_task(program.config, data, split=program.lanes.split)
    return measure_test(task, states, data, program.lanes)
