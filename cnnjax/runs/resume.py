"""The progress of a resumed run, from the records and checkpoints in its store."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import UnknownClassError, configuration
from cnnjax.runs.checkpoints import Checkpoint
from cnnjax.runs.records import RecordError, Row, has_waited, is_over, read_record
from cnnjax.runs.store import States
from cnnjax.sweeps import Program, state_of
from cnnjax.training import TrainState, steps_per_epoch


def length_of(program: Program, data: Dataset) -> int:
    """Returns the number of steps per epoch."""
    return steps_per_epoch(program.config.batch_size, data.train)


def last_state(
    states: States, program: Program, data: Dataset, last: Mapping[int, Mapping[str, Any]]
) -> TrainState | None:
    """Returns the final state of a program, or None if its most recent valid checkpoint is of an earlier step.

    Args:
      states: the stored states of the program.
      program: the program.
      data: the data set.
      last: the last line of each trial, by number.
    """
    checkpoint = states.restore(state_of(program, data.spec))
    if checkpoint is None:
        return None
    diverged, steps = (np.asarray(array)[program.rows] for array in (checkpoint.state.diverged, checkpoint.state.step))
    lines = [last.get(trial.number) for trial in program.trials]
    waited = [
        has_waited(line, trial) and line is not None and step == line["step"]
        for line, trial, step in zip(lines, program.trials, steps, strict=True)
    ]
    over = (diverged | waited).all()
    return checkpoint.state if checkpoint.step == program.end * length_of(program, data) or over else None


class Reached(NamedTuple):
    """The progress of the programs of a stage."""

    finished: int
    """The number of finished programs."""
    checkpoint: Checkpoint | None
    """The checkpoint of the next program."""
    epochs: dict[int, int]
    """The number of epochs that each trial has trained, by trial number."""


def reached(
    programs: Sequence[Program], lines: Sequence[Row], data: Dataset, states: Callable[[int], States]
) -> Reached:
    """Returns the progress of the programs of a stage.

    Args:
      programs: the programs of the stage.
      lines: the lines of `metrics.jsonl`.
      data: the data set.
      states: states(i) returns the stored states of program i.

    Raises:
      ValueError: if a program has already trained for more epochs than planned, or a trial that stopped early
        would have to continue.
      CheckpointError: if a program has checkpoints, but none is valid.
    """
    trials = {trial.number: trial for program in programs for trial in program.trials}
    over_at = {
        row["trial"]: row["epoch"] for row in lines if row["trial"] in trials and is_over(row, trials[row["trial"]])
    }
    epochs: dict[int, int] = {}
    for finished, program in enumerate(programs):
        checkpoint = states(finished).restore(state_of(program, data.spec))
        if checkpoint is None:
            return Reached(finished, None, epochs)
        length = length_of(program, data)
        epoch, within = divmod(checkpoint.step, length)
        if checkpoint.step > program.end * length:
            least = -(-checkpoint.step // length)
            raise ValueError(f"epochs: {program.end}: must be at least {least}: {checkpoint.path} is of epoch {least}")
        _check_patience(program, checkpoint, over_at)
        epochs.update((trial.number, min(epoch, over_at.get(trial.number, epoch))) for trial in program.trials)
        all_over = all(over_at.get(trial.number, math.inf) <= epoch for trial in program.trials)
        if within or not (epoch == program.end or all_over):
            return Reached(finished, checkpoint, epochs)
    return Reached(len(programs), None, epochs)


def _check_patience(program: Program, checkpoint: Checkpoint, over_at: Mapping[int, int]) -> None:
    """Raises ValueError if a trial stopped early, before the checkpoint, under another patience than it has now."""
    diverged, steps = (np.asarray(array)[program.rows] for array in (checkpoint.state.diverged, checkpoint.state.step))
    for trial, behind in zip(program.trials, (steps < checkpoint.step) & ~diverged, strict=True):
        if behind and trial.number not in over_at:
            raise ValueError(
                f"patience: {trial.config.patience}: trial {trial.number} has stopped early, while other trials of its "
                "program went on: use the patience that the run was started with"
            )


def lines_up_to(epochs: Mapping[int, int], lines: Iterable[Row], name: str) -> list[Row]:
    """Returns the lines up to the given epochs of the trials; raises RecordError if one is missing."""
    rows = list(takewhile(lambda row: row["epoch"] <= epochs.get(row["trial"], -1), lines))
    ends: dict[int, int] = {}
    for row in rows:
        ends[row["trial"]] = row["epoch"] if row["epoch"] == ends.get(row["trial"], 0) + 1 else -1
    wrong = [trial for trial in {**epochs, **ends} if ends.get(trial, 0) != epochs.get(trial)]
    if wrong:
        raise RecordError(
            f"{Path(name) / 'metrics.jsonl'}: lines of trial {wrong[0]} before its checkpoint are missing: "
            "remove the run folder and train again"
        )
    return rows


def as_sweep(config: TrainConfig | SweepConfig) -> SweepConfig:
    """Converts a single run to a sweep of one trial."""
    return config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)


def configuration_of(folder: Path, classes: Iterable[Any] = ()) -> TrainConfig | SweepConfig:
    """Reads the configuration of a run folder.

    Args:
      folder: the run folder.
      classes: user-defined classes, enumerations and functions that the configuration names.

    Raises:
      OSError: if `config.json` cannot be read.
      RecordError: if it is damaged, has another format version, or names a class that is not in
        `classes`.
    """
    path = folder / "config.json"
    described = read_record(path)
    try:
        return configuration(described, classes)
    except UnknownClassError as error:
        raise RecordError(f"{path}: {error}{_defined_in(folder)}") from None
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _defined_in(folder: Path) -> str:
    """Describes the preset that a run was started with, if it is recorded."""
    try:
        path = Path(str(read_record(folder / "env.json")["preset"]["path"]))
    except (OSError, RecordError, LookupError, TypeError):
        return ""
    return f"; it was defined in {path}" + ("" if path.is_file() else ", which no longer exists")
