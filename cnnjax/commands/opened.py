"""A run that a command reads: its options, its trained network, and its data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax.data import Dataset
from cnnjax.presets import load_preset
from cnnjax.runs import Trained, load_run, waiting


@dataclass(frozen=True)
class RunArguments:
    """The run, and where its data and its parts are."""

    run: Annotated[Path, tyro.conf.Positional]
    """a run folder"""
    trial: int | None = None
    """number of a trial of a sweep; by default that of the winner"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    preset: Path | None = None
    """file that defines the user-defined parts of the run"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    debug: bool = False
    """show full tracebacks"""


def check_folder(run: Path) -> None:
    """Raises ValueError if a path is not a run folder."""
    if not run.is_dir():
        raise ValueError(f"run: {run}: no such run folder")
    if not (run / "config.json").is_file():
        raise ValueError(f"run: {run}: is not a run folder")


def open_run(arguments: RunArguments) -> tuple[Trained, Dataset]:
    """Returns the trained network of a run and its data.

    Raises:
      ValueError: if the path is not a run folder, the trial does not exist, or the sweep has no winner yet.
      RecordError: if a record is damaged, or the run needs `--preset`.
      CheckpointError: if there is no valid checkpoint.
      DataError: if the data cannot be read.
    """
    check_folder(arguments.run)
    preset = load_preset(str(arguments.run), arguments.preset)
    trained = load_run(arguments.run, arguments.trial, preset.classes)
    with waiting(f"loading {trained.config.data}"):
        return trained, preset.dataset(trained.config.data, arguments.data_dir, trained.config.loading)


def trial_of(arguments: RunArguments, trained: Trained) -> int:
    """Returns the number of the trial of a trained network."""
    return trained.rows[0]["trial"] if trained.rows else arguments.trial or 0
