"""How far a run has come that is resumed: what its store holds of a stage is taken, what is missing is trained."""

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
from cnnjax.runs.records import RecordError, Row, has_diverged, read_record
from cnnjax.runs.store import States
from cnnjax.sweeps import Program, state_of
from cnnjax.training import TrainState, steps_per_epoch


def length_of(program: Program, data: Dataset) -> int:
    """Steps of an epoch."""
    return steps_per_epoch(program.config.batch_size, data.train)


def last_state(states: States, program: Program, data: Dataset) -> TrainState | None:
    """A program's state at its end, from its most recent valid checkpoint; None if that is of an earlier step."""
    checkpoint = states.restore(state_of(program, data.spec))
    if checkpoint is None:
        return None
    over = np.asarray(checkpoint.state.diverged)[program.rows].all()
    return checkpoint.state if checkpoint.step == program.end * length_of(program, data) or over else None


class Reached(NamedTuple):
    """How far the programs of a stage have come."""

    finished: int
    """Programs that are at their end."""
    checkpoint: Checkpoint | None
    """Of the program after them."""
    epochs: dict[int, int]
    """Epochs that each trial has behind it, by number."""


def reached(
    programs: Sequence[Program], lines: Sequence[Row], data: Dataset, states: Callable[[int], States]
) -> Reached:
    """How far the programs of a stage have come.

    Args:
      programs: of the stage.
      lines: of `metrics.jsonl`.
      data: on which they train.
      states: states(i): where the states of the i-th of them are.

    Raises:
      ValueError: one has trained longer than it is to.
      CheckpointError: none of the checkpoints of one is valid.
    """
    diverged_at = {row["trial"]: row["epoch"] for row in lines if has_diverged(row)}
    epochs: dict[int, int] = {}
    for finished, program in enumerate(programs):
        checkpoint = states(finished).restore(state_of(program, data.spec))
        if checkpoint is None:
            return Reached(finished, None, epochs)
        length = length_of(program, data)
        epoch, within = divmod(checkpoint.step, length)
        if checkpoint.step > program.end * length:
            raise ValueError(f"epochs: {program.end}: {checkpoint.path} has trained longer already")
        epochs.update((trial.number, min(epoch, diverged_at.get(trial.number, epoch))) for trial in program.trials)
        all_diverged = all(diverged_at.get(trial.number, math.inf) <= epoch for trial in program.trials)
        if within or not (epoch == program.end or all_diverged):
            return Reached(finished, checkpoint, epochs)
    return Reached(len(programs), None, epochs)


def lines_up_to(epochs: Mapping[int, int], lines: Iterable[Row], name: str) -> list[Row]:
    """The lines up to where trials have come, by their epochs; RecordError that names the file where one is missing."""
    rows = list(takewhile(lambda row: row["epoch"] <= epochs.get(row["trial"], -1), lines))
    ends: dict[int, int] = {}
    for row in rows:
        ends[row["trial"]] = row["epoch"] if row["epoch"] == ends.get(row["trial"], 0) + 1 else -1
    wrong = [trial for trial in {**epochs, **ends} if ends.get(trial, 0) != epochs.get(trial)]
    if wrong:
        raise RecordError(
            f"{Path(name) / 'metrics.jsonl'}: lines of trial {wrong[0]} are missing that come before its checkpoint: "
            "remove the run folder and train again"
        )
    return rows


def configuration_of(folder: Path, classes: Iterable[Any] = ()) -> TrainConfig | SweepConfig:
    """What a run folder was started with.

    Args:
      folder: of the run.
      classes: classes, enumerations and functions of your own that the configuration names.

    Raises:
      OSError: `config.json` is not there.
      RecordError: it is damaged, of another format, or names a class that is not among `classes`.
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
    """Which preset a run was started with, as far as it is recorded."""
    try:
        path = Path(str(read_record(folder / "env.json")["preset"]["path"]))
    except (OSError, RecordError, LookupError, TypeError):
        return ""
    return f"; it was defined in {path}" + ("" if path.is_file() else ", which is not there any more")
