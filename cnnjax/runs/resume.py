"""What a run folder says of where its programs are."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import UnknownClassError, configuration
from cnnjax.runs.checkpoints import Checkpoints
from cnnjax.runs.records import RecordError, digest, read_record
from cnnjax.sweeps import Program, state_of
from cnnjax.training import TrainState, steps_per_epoch


def last_state(store: Checkpoints, program: Program, data: Dataset) -> TrainState | None:
    """A program's state at its end, from its most recent valid checkpoint; None if that is of an earlier step."""
    checkpoint = store.restore(state_of(program, data.spec))
    if checkpoint is None:
        return None
    steps = program.end * steps_per_epoch(program.config.batch_size, data.train)
    over = np.asarray(checkpoint.state.diverged)[program.rows].all()
    return checkpoint.state if checkpoint.step == steps or over else None


def checkpoints_of(
    folder: Path, number: int, trials: Sequence[int], config: Any, data: Any, **options: Any
) -> Checkpoints:
    """Where a run folder keeps the checkpoints of a program.

    Args:
      folder: of the run.
      number: of the program in `plan.json`.
      trials: numbers of the trials that are its lanes.
      config: as in `config.json`.
      data: as in `data.json`.
      options: see `Checkpoints`.
    """
    identity = digest({"config": config, "data": data, "trials": list(trials)})
    return Checkpoints(folder / "checkpoints" / str(number), identity, **options)


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
