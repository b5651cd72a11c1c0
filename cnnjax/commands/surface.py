"""Draws the loss of a run on a plane of its parameters, and the path of gradient descent on it.

The plane contains the trained network. Its directions are two random ones, scaled filter by filter, or the two in
which the parameters changed most during training. A run keeps only its last parameters, so for the latter it is
trained again, with bit-identical results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import usage
from cnnjax.commands.opened import RunArguments, check_folder, open_run, trial_of
from cnnjax.config import TrainConfig
from cnnjax.data import Dataset, Split
from cnnjax.data.dataset import cut
from cnnjax.look import Plane, around, project, random_plane, spaced, surface, trajectory, trajectory_plane
from cnnjax.options import text, with_values
from cnnjax.pictures.surface import Descent, loss_surface
from cnnjax.planning import parse_lanes
from cnnjax.runs import Trained, read_record, waiting
from cnnjax.sweeps import Program, Trial, compile_program
from cnnjax.training import Lanes, make_task
from cnnjax.training.core import Metrics

POINTS = 64  # of a path, about


@dataclass(frozen=True)
class Arguments(RunArguments):
    """The run and the plane."""

    points: int = 51
    """number of points along each side of the grid"""
    examples: int = 2000
    """number of validation examples over which the loss is averaged"""
    directions: Literal["random", "trajectory"] = "random"
    """random (filter-normalized), or those in which the parameters changed most (trains again to record the path)"""
    radius: float = 1.0
    """half the side of the grid for random directions, in norms of the filters"""
    rates: tuple[float, ...] = ()
    """further learning rates to train with, whose paths are drawn in the plane of --directions trajectory"""
    seed: int = 0
    """seed of the random directions"""

    def check(self) -> None:
        """Raises ValueError if a value is out of range."""
        check_folder(self.run)
        if self.points < 3:
            raise ValueError(f"points: {self.points}: must be at least 3")
        if self.examples < 1:
            raise ValueError(f"examples: {self.examples}: must be at least 1")
        if not 0 < self.radius < np.inf:
            raise ValueError(f"radius: {self.radius}: must be above 0 and finite")
        if self.rates and self.directions == "random":
            raise ValueError("rates: needs --directions trajectory")


class Grid(NamedTuple):
    """The points at which the loss is computed, and the paths on them."""

    plane: Plane
    x: np.ndarray
    y: np.ndarray
    labels: tuple[str, str]
    note: str
    """A description of the plane."""
    paths: Sequence[Descent] = ()
    steps: Sequence[int] = ()
    """The steps of the points of each path."""


class Followed(NamedTuple):
    """The parameters of runs during training."""

    steps: list[int]
    """The step of each point."""
    epochs: list[int]
    """The indices of points at which epochs end."""
    params: PyTree
    """[points, runs, ...]"""
    diverged: list[bool]


def main(arguments: Arguments) -> None:
    """Draws the surface, and prints the measured losses."""
    with usage(arguments.debug):
        arguments.check()
        trained, data = open_run(arguments)
        program = _program(arguments, trained)
        grid = (_random if arguments.directions == "random" else _trajectory)(arguments, trained, program, data)
    examples, total = data.valid, len(data.valid.labels)
    if arguments.examples < total:
        examples, _ = cut(data.valid, arguments.examples, bool(data.classes))
    with waiting(f"computing the loss at {arguments.points} x {arguments.points} points"):
        every = Lanes(program.lanes.width, jax.device_count())  # faster than devices that share batches
        found = _measured(trained, every, grid.plane, grid.x, grid.y, examples)
        zero = np.zeros(1)
        center = _measured(trained, program.lanes, grid.plane, zero, zero, data.valid)
    count, here = len(examples.labels), float(center.loss[0, 0])
    recorded = trained.rows[-1]["valid_loss"] if trained.rows else None
    same = "as recorded" if here == recorded else f"recorded {recorded}"
    print(f"loss at the center {here:.6g} over the {total:,} validation examples, {same}")
    low, high = np.nanmin(found.loss), np.nanmax(found.loss)
    print(f"loss over {count:,} of them {low:.4g} to {high:.4g}, {grid.note}")
    title = f"{arguments.run.resolve().name}: loss over {count:,} validation examples of {data.name}, {grid.note}"
    print(_written(arguments, grid, found, title, trained.config.metric.name))


def _written(arguments: Arguments, grid: Grid, found: Metrics, title: str, metric: str) -> Path:
    """Writes the picture and its arrays; returns the path of the picture."""
    path = arguments.run / "figures" / f"surface-{arguments.directions}.png"
    path.parent.mkdir(exist_ok=True)
    loss = np.asarray(found.loss)
    loss_surface(grid.x, grid.y, loss, title, grid.labels, grid.paths).savefig(path)
    arrays = {"x": grid.x, "y": grid.y, "loss": loss, metric: np.asarray(found.metric)}
    if grid.paths:
        arrays |= {"steps": np.array(grid.steps), "paths": np.stack([path.places for path in grid.paths])}
    np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path


def _program(arguments: Arguments, trained: Trained) -> Program:
    """Returns the program of the trial alone, distributed over all devices of this machine."""
    trial = trial_of(arguments, trained)
    programs = read_record(arguments.run / "plan.json")["programs"]
    entry = [entry for entry in programs if trial in entry["trials"]][-1]
    lanes = parse_lanes(str(entry["lanes"])).on(jax.device_count())
    lanes = replace(lanes, devices=max(1, jax.device_count() // lanes.split))
    return Program((Trial(0, 0, (), trained.config),), lanes, int(entry["micro_batch"]))


def _measured(trained: Trained, lanes: Lanes, plane: Plane, x: np.ndarray, y: np.ndarray, split: Split) -> Metrics:
    task = make_task(trained.config, trained.spec, split=lanes.split)
    return surface(task, trained.variables.stats, plane, x, y, split, lanes)


def _random(arguments: Arguments, trained: Trained, program: Program, data: Dataset) -> Grid:
    """Returns the grid of two random directions."""
    plane = random_plane(jax.random.key(arguments.seed), trained.variables.params)
    axis = spaced(-arguments.radius, arguments.radius, arguments.points)
    labels = ("first direction (norms of the filters)", "second direction (norms of the filters)")
    return Grid(plane, axis, axis, labels, f"along two random directions, filter-normalized, seed {arguments.seed}")


def _trajectory(arguments: Arguments, trained: Trained, program: Program, data: Dataset) -> Grid:
    """Returns the grid of the two directions in which the parameters changed most."""
    configs = [trained.config, *(with_values(trained.config, {"learning_rate": rate}) for rate in arguments.rates)]
    found = _trained_again(program, configs, len(trained.rows), data)
    runs = [jax.tree.map(lambda array, run=run: array[:, run], found.params) for run in range(len(configs))]
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *runs)
    plane, shares = trajectory_plane(together, trained.variables.params)
    places = [project(plane, run) for run in runs]
    ends = zip(*map(jax.tree.leaves, (runs[0], trained.variables.params)), strict=True)
    if not all(np.array_equal(path[-1], array) for path, array in ends):
        print("the second training ended with other parameters than the checkpoint: the star is not at the center")
    rates = [getattr(config.optimizer, "learning_rate", None) for config in configs]
    names = ["" if rate is None else f"learning rate {text(rate)}" for rate in rates]
    names = [f"{name} diverged".strip() if over else name for name, over in zip(names, found.diverged, strict=True)]
    for name in (name for name, over in zip(names, found.diverged, strict=True) if over):
        print(name)
    return Grid(
        plane,
        *around(np.concatenate(places), arguments.points),
        (
            f"first principal direction ({shares[0]:.0%} of the variance)",
            f"second principal direction ({shares[1]:.0%})",
        ),
        f"in the plane in which parameters changed most: {shares.sum():.0%} of their variance",
        [Descent(name, place, found.epochs) for name, place in zip(names, places, strict=True)],
        found.steps,
    )


def _trained_again(program: Program, configs: Sequence[TrainConfig], epochs: int, data: Dataset) -> Followed:
    """Trains configurations that differ only in numbers, as lanes of one program."""
    trials = tuple(Trial(number, number, (), config) for number, config in enumerate(configs))
    lanes = replace(program.lanes, devices=min(program.lanes.devices, len(trials)))
    with waiting("compiling"):
        run = compile_program(program._replace(trials=trials, lanes=lanes), data)
    last = epochs * run.steps
    steps, params = [], []
    with waiting(f"training again to record the path: epochs {epochs}, runs {len(trials)}"):
        for step, state in trajectory(run, -(-last // POINTS), last):
            steps.append(step)
            params.append(state.params)
    ends = [i for i, step in enumerate(steps) if step and step % run.steps == 0]
    return Followed(steps, ends, jax.tree.map(lambda *arrays: np.stack(arrays), *params), state.diverged.tolist())


def command() -> None:
    """Runs `cnnjax surface`."""
    run_form(main, Arguments, __doc__, cores=True)
