"""Many trials as few programs: points, trials, lanes, and the ranking of what came out.

A trial is one point (a choice of values) under one seed. Trials that differ only in numbers and
seeds are lanes of one compiled program; other fields select programs.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from cnnjax.config import Hparams, SweepConfig, TrainConfig, choose
from cnnjax.config import replace as replace_values
from cnnjax.data import Dataset
from cnnjax.training import Metrics, Progress, fit, make_task, measure_test

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

    `map` runs the lanes of a device one after the other inside the program, which is fastest on
    CPU; `vmap` runs them side by side, which fills an accelerator. Lanes are dealt out over
    `devices`, the last of them repeated where their number does not divide. A lane sees nothing of
    another.
    """

    kind: str = "map"
    devices: int = 1

    def __post_init__(self) -> None:
        choose("lanes", self.kind, {"map": 0, "vmap": 0})

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(*lanes: Any) -> Any:
            return jax.vmap(function)(*lanes) if self.kind == "vmap" else lax.map(lambda lane: function(*lane), lanes)

        if self.devices == 1:
            return mapped

        devices = jax.devices()[: self.devices]
        mesh = jax.make_mesh((self.devices,), ("lanes",), (AxisType.Auto,), devices=devices)
        spec = PartitionSpec("lanes")
        sharded = jax.shard_map(mapped, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

        def dealt(*lanes: Any) -> Any:
            count = jax.tree.leaves(lanes)[0].shape[0]
            rows = jnp.minimum(jnp.arange(-(-count // self.devices) * self.devices), count - 1)
            return jax.tree.map(lambda array: array[:count], sharded(*jax.tree.map(lambda array: array[rows], lanes)))

        return dealt


class Program(NamedTuple):
    """One compiled shape and the trials that are its lanes."""

    trials: tuple[Trial, ...]
    lanes: Lanes

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


def plan(trials: Sequence[Trial], lanes: Lanes | None = None) -> tuple[Program, ...]:
    """Groups trials into programs: one for all that differ only in numbers and seed.

    `lanes` is by default `map` on CPU and `vmap` elsewhere, over as many devices as there are
    lanes for.
    """
    kind = "map" if jax.default_backend() == "cpu" else "vmap"
    shapes: dict[TrainConfig, list[Trial]] = {}
    for trial in trials:
        shapes.setdefault(replace(trial.config, hparams=Hparams(), seed=0), []).append(trial)
    return tuple(
        Program(tuple(group), lanes or Lanes(kind, min(jax.device_count(), len(group)))) for group in shapes.values()
    )


def describe_plan(programs: Sequence[Program]) -> dict[str, Any]:
    """A plan as plain values: how trials are lifted, and which are lanes of which program."""
    return {
        "device": jax.default_backend(),
        "programs": [
            {"lanes": asdict(program.lanes), "trials": [trial.number for trial in program.trials]}
            for program in programs
        ],
    }


def run(program: Program, data: Dataset) -> Iterator[Progress]:
    """Trains the lanes of a program together; yields after each epoch, arrays [lanes, ...]."""
    config = program.config
    keys = jnp.stack([jax.random.key(trial.config.seed) for trial in program.trials])
    numbers = [trial.config.hparams for trial in program.trials]
    hparams = jax.tree.map(lambda *values: jnp.asarray(values, jnp.float32), *numbers)
    yield from fit(make_task(config, data), keys, hparams, data, config.epochs, program.lanes)


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


class Summary(NamedTuple):
    """Mean and sample standard deviation (divisor n - 1); NaN where they do not exist."""

    mean: float
    std: float
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """The mean and spread of the values that are finite."""
    values = [value for value in values if math.isfinite(value)]
    mean = float(np.mean(values)) if values else math.nan
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(mean, std, len(values))


class Ranked(NamedTuple):
    """A point of a sweep with the results of its seeds."""

    values: Mapping[str, Any]
    results: tuple[Result, ...]
    valid_accuracy: Summary
    valid_loss: Summary

    @property
    def complete(self) -> bool:
        return all(result.status == "complete" for result in self.results)


def rank(results: Sequence[Result]) -> list[Ranked]:
    """Points, best first: by mean validation accuracy, ties by mean validation loss.

    A point with a diverged seed ranks below every point without.
    """
    ranked = []
    for _, group in itertools.groupby(sorted(results, key=lambda r: r.trial.number), lambda r: r.trial.point):
        seeds = tuple(group)
        accuracy, loss = (summarize([getattr(r, name) for r in seeds]) for name in ("valid_accuracy", "valid_loss"))
        ranked.append(Ranked(dict(seeds[0].trial.values), seeds, accuracy, loss))

    def badness(point: Ranked) -> tuple[bool, float, float]:
        accuracy, loss = point.valid_accuracy.mean, point.valid_loss.mean
        if math.isnan(accuracy):
            return True, math.inf, math.inf
        return not point.complete, -round(accuracy, 9), loss  # rounded, so that equal counts tie

    return sorted(ranked, key=badness)


def measure_test_of(program: Program, progress: Progress, point: Ranked, data: Dataset) -> Metrics:
    """The test metrics [seeds] of a point's complete trials, from the end of its program."""
    wanted = {result.trial.number for result in point.results if result.status == "complete"}
    rows = np.array([row for row, trial in enumerate(program.trials) if trial.number in wanted], int)
    states = jax.tree.map(lambda array: array[rows], progress.state)
    return measure_test(make_task(program.config, data), states, data, program.lanes)
