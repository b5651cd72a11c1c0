"""Prepares a TensorFlow Datasets data set as array_record files, which the other commands read without TensorFlow.

It needs network access and the extra `prepare` (TensorFlow).
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax.commands import terminal
from cnnjax.commands.errors import fail
from cnnjax.commands.parser import parse_words
from cnnjax.data.tfds import default_directory


@dataclass(frozen=True)
class Arguments:
    """The data set to prepare."""

    name: Annotated[str, tyro.conf.Positional]
    """name of the data set, with optional configuration and version: mnist, emnist/letters, mnist:3.0.1"""
    data_dir: Path = field(default_factory=default_directory)
    """directory of prepared TensorFlow Datasets data"""
    debug: bool = False
    """show full tracebacks"""


def main(arguments: Arguments) -> None:
    """Prepares the data set, and prints its path."""
    if importlib.util.find_spec("tensorflow") is None:
        fail('prepare: needs TensorFlow: pip install -e ".[prepare]"', 1)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(arguments.name, data_dir=arguments.data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:
        if arguments.debug:
            raise
        fail(f"{arguments.name}: not prepared in {arguments.data_dir}: {type(error).__name__}: {str(error)[:300]}", 1)
    print(builder.data_path)


def command() -> None:
    """Runs `cnnjax prepare`."""
    terminal.use()
    with terminal.piped():
        main(parse_words(Arguments, __doc__ or ""))
