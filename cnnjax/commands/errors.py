"""A user's mistakes, each reported in one line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax

from cnnjax.commands.terminal import piped
from cnnjax.data import DataError
from cnnjax.runs import CheckpointError, RecordError


def fail(message: object, code: int) -> NoReturn:
    """Ends the process with one line on standard error: code 2 for usage, 1 for the rest."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def usage(debug: bool = False) -> Iterator[None]:
    """Where a ValueError is the caller's mistake."""
    try:
        yield
    except ValueError as error:
        if debug:
            raise
        fail(error, 2)


@contextlib.contextmanager
def reported(debug: bool = False) -> Iterator[None]:
    """Where what cannot be read, written or computed ends the process with one line."""
    try:
        with piped():
            yield
    except (DataError, RecordError, CheckpointError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            fail(f"{error.filename}: {error.strerror}", 1)
        fail(str(error).strip().split("\n")[0] or "out of memory", 1)
