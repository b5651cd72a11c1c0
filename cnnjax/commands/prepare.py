"""Prepares a TensorFlow Datasets data set as array_record, which the other commands read without TensorFlow.

Needs a network and the extra `prepare` (TensorFlow).
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
    """What is prepared."""

    name: Annotated[str, tyro.conf.Positional]
    """of the data set, with its configuration and version if wanted: mnist, emnist/letters, mnist:3.0.1"""
    data_dir: Path = field(default_factory=default_directory)
    """where to put it"""
    debug: bool = False
    """full tracebacks"""


def main(arguments: Arguments) -> None:
    """Prepares it."""
    if importlib.util.find_spec("tensorflow") is None:
        fail('preparing needs TensorFlow: pip install -e ".[prepare]"', 1)
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
    """`cnnjax prepare`."""
    terminal.use()
    with terminal.piped():
        main(parse_words(Arguments, __doc__ or ""))
