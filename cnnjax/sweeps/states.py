"""The states of the lanes of a program: initialization, conversion from and to trials, evaluation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cnnjax.data import Dataset, Spec
from cnnjax.sweeps import embedding
from cnnjax.sweeps.programs import Program, plan
from cnnjax.sweeps.trials import Result, Trial
from cnnjax.training import (
    Lanes,
    Progress,
    Run,
    Task,
    TrainState,
    as_arrays,
    begin,
    compile_run,
    init,
    make_task,
    measure_test,
)


def task_of(program: Program, spec: Spec, trial: Trial | None = None) -> Task:
    """Returns the task of a program with the numbers of one of its trials, by default the first."""
    config = program.config_of(trial) if trial else program.config
    return make_task(config, spec, program.micro_batch, program.lanes.split)


def stacked(program: Program, spec: Spec) -> tuple[Task, Array]:
    """Stacks the tasks and keys of a program along a leading axis of lanes; inactive lanes repeat the first trial."""
    lanes = [program.trials[0]] * (len(program.trials) + program.spare)
    for row, trial in zip(program.rows, program.trials, strict=True):
        lanes[row] = trial
    keys = jnp.stack([jax.random.key(trial.config.seed) for trial in lanes])
    tasks = {trial.number: task_of(program, spec, trial) for trial in program.trials}
    every = (tasks[trial.number] for trial in lanes)
    return jax.tree.map(lambda *numbers: np.stack(numbers), *map(as_arrays, every)), keys


def compile_program(program: Program, data: Dataset, started: bool = False) -> Run:
    """Compiles a program and initializes its lanes.

    Networks of several widths are initialized in their own shapes, as in a single run.

    Args:
      program: the program to compile.
      data: the data set; if it has folds, that of the trials is taken.
      started: whether the state of the lanes is provided later, so that only its shapes are needed.
    """
    data = data.at(program.trials[0].fold)
    task, keys = stacked(program, data.spec)
    placed, epochs = program.lanes.place(data), program.config.epochs
    state: TrainState | None = None
    if started or program.after:
        state = state_of(program, data.spec)
    elif program.wide or program.spare:
        alone: dict[int, TrainState] = {}
        capacity = len(program.trials) + program.spare if program.spare else 0
        for group in plan(program.trials, program.lanes, capacity=capacity):
            first = begin(*stacked(group, data.spec), group.lanes)
            alone |= states_of(group, first, group.trials, data.spec)
        state = assembled(program, alone, data.spec)
    return compile_run(task, keys, placed, epochs, program.lanes, state)


def state_of(program: Program, spec: Spec) -> TrainState:
    """Returns the shapes and dtypes of a program's state with a leading axis of lanes, without computing it."""
    return jax.eval_shape(jax.vmap(init), *stacked(program, spec))


def states_of(program: Program, state: TrainState, trials: Iterable[Trial], spec: Spec) -> dict[int, TrainState]:
    """Returns the states of some trials of a program, by number, in the shapes of their own networks."""
    state = jax.tree.map(np.asarray, state)
    wanted = {trial.number for trial in trials}
    shapes: dict[Any, TrainState] = {}
    found: dict[int, TrainState] = {}
    for row, trial in zip(program.rows, program.trials, strict=True):
        if trial.number not in wanted:
            continue
        lane = jax.tree.map(lambda array, row=row: array[row], state)
        if program.wide:
            widths = embedding.widths(trial.config.network)
            if widths not in shapes:
                shapes[widths] = _first(state_of(Program((trial,), Lanes()), spec))
            lane = embedding.extract(lane, shapes[widths])
        found[trial.number] = lane
    return found


def _first(state: TrainState) -> TrainState:
    """Returns the shapes of one lane."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), state)


def assembled(program: Program, states: Mapping[int, TrainState], spec: Spec) -> TrainState:
    """Assembles the state of a program from those of its trials, by number; marks inactive lanes as diverged."""
    like = state_of(program, spec)
    lanes = [embedding.embed(states[trial.number], _first(like)) for trial in program.trials]
    rows = [lanes[0]._replace(diverged=np.ones((), bool))] * (len(lanes) + program.spare)
    for row, lane in zip(program.rows, lanes, strict=True):
        rows[row] = lane
    return jax.tree.map(lambda array, *rows: np.stack(rows).astype(array.dtype), like, *rows)


def results(program: Program, progress: Progress) -> list[Result]:
    """Returns the current results of a program's trials; those of a diverged trial are NaN."""
    lanes = (progress.train, progress.valid, progress.state.diverged, progress.state.step)
    train, valid, diverged, steps = jax.tree.map(lambda array: np.asarray(array)[program.rows], lanes)
    with np.errstate(invalid="ignore"):  # a diverged trial has no examples
        train, valid = jax.tree.map(lambda array: array.astype(float), (train, valid))
        numbers = np.stack([train.loss, valid.loss, valid.metric], 1)
    diverged = diverged | ~np.isfinite(numbers).all(1)
    numbers[diverged] = math.nan
    epochs = np.where(diverged, steps * progress.epoch // progress.steps, progress.epoch)
    ended = "complete" if progress.epoch == program.config.epochs else "stopped"
    status = np.where(diverged, "diverged", ended)
    rows = zip(program.trials, status.tolist(), steps.tolist(), epochs.tolist(), numbers.tolist(), strict=True)
    return [Result(trial, status, step, epoch, *row) for trial, status, step, epoch, row in rows]


def measure_test_of(
    trials: Sequence[Trial], states: Mapping[int, TrainState], data: Dataset
) -> dict[int, tuple[float, float]]:
    """Evaluates the last states of trials on the test split, of their fold if there are folds.

    Returns:
      Metric and loss by trial number.
    """
    found: dict[int, tuple[float, float]] = {}
    for program in plan(trials):
        own = data.at(program.trials[0].fold)
        state = assembled(program, states, own.spec)
        metrics = measure_test(stacked(program, own.spec)[0], state, own, program.lanes)
        for trial, metric, loss in zip(program.trials, metrics.metric.tolist(), metrics.loss.tolist(), strict=True):
            found[trial.number] = metric, loss
    return found
