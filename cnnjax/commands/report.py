"""Writes the report of a run again, also of a run in progress or interrupted, with the pictures that it has now."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import usage
from cnnjax.commands.shell import Typed
from cnnjax.config import TrainConfig
from cnnjax.data import DataError, Dataset, folded
from cnnjax.presets import load_preset
from cnnjax.runs import (
    Calls,
    RecordError,
    configuration_of,
    describe_data,
    load_run,
    read_record,
    recorded,
    waiting,
    write_report,
)


@dataclass(frozen=True)
class Arguments:
    """The run."""

    run: Annotated[Path, tyro.conf.Positional]
    """a run folder"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    preset: Path | None = None
    """file that defines the user-defined parts of the run"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    debug: bool = False
    """show full tracebacks"""


def main(arguments: Arguments) -> None:
    """Writes the report, and prints its path."""
    folder = arguments.run
    with usage(arguments.debug):
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: is not a run folder")
        classes = load_preset(str(arguments.preset)).classes if arguments.preset else ()
    swept = recorded(folder, classes)
    data, missing = _data(arguments)
    if missing:
        print(f"warning: {missing}", file=sys.stderr)
    single = isinstance(configuration_of(folder, classes), TrainConfig)
    summary = read_record(folder / "summary.json") if (folder / "summary.json").is_file() else {}
    command = folder / "command"
    typed = command.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if command.is_file() else []
    print(
        write_report(
            folder,
            swept,
            single,
            Typed.recorded(typed[-1]) if typed else Calls(),
            partial(load_run, folder, classes=classes),
            data,
            summary.get("seconds"),
            missing,
        )
    )


def _data(arguments: Arguments) -> tuple[Dataset | None, str]:
    """Returns the data of the run, or why its mistakes cannot be shown."""
    left_out = "the report does not show mistakes on the validation split"
    try:
        preset = load_preset(str(arguments.run), arguments.preset)
        with waiting(f"loading {preset.train.data}"):
            data = folded(preset.dataset(data_dir=arguments.data_dir), preset.sweep.folds)
    except (DataError, RecordError) as error:
        return None, f"{left_out}: {error}"
    if describe_data(data)["sha256"] != read_record(arguments.run / "data.json")["sha256"]:
        return None, f"{left_out}: {data.name} is not the data that the run was trained on"
    return data, ""


def command() -> None:
    """Runs `cnnjax report`."""
    run_form(main, Arguments, __doc__)
