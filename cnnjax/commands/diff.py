"""Compares two runs: configuration, environment, data and results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax.commands import terminal
from cnnjax.commands.errors import reported
from cnnjax.commands.parser import parse_words
from cnnjax.runs import diff


@dataclass(frozen=True)
class Arguments:
    """The runs to compare."""

    first: Annotated[Path, tyro.conf.Positional]
    """a run folder"""
    second: Annotated[Path, tyro.conf.Positional]
    """another run folder"""
    debug: bool = False
    """show full tracebacks"""


def main(arguments: Arguments) -> None:
    """Prints the differences."""
    with reported(arguments.debug):
        for title, lines in diff(arguments.first, arguments.second).items():
            print(f"{title}: {'the same' if not lines else ''}".rstrip())
            for line in lines:
                print(f"  {line}")


def command() -> None:
    """Runs `cnnjax diff`."""
    terminal.use()
    with terminal.piped():
        main(parse_words(Arguments, __doc__ or ""))
