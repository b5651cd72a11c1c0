"""Reports errors in one line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

import jax

from cnnjax.commands.terminal import piped
from cnnjax.data import DataError
from cnnjax.planning import VerificationError
from cnnjax.runs import CheckpointError, RecordError

_REPORTED = (
    DataError,
    RecordError,
    CheckpointError,
    VerificationError,
    OSError,
    MemoryError,
    jax.errors.JaxRuntimeError,
)


def fail(message: object, code: int) -> NoReturn:
    """Exits with one line on standard error; the code is 2 for usage errors, 1 for others."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def usage(debug: bool = False) -> Iterator[None]:
    """Reports a ValueError in the block as a usage error."""
    try:
        yield
    except ValueError as error:
        if debug:
            raise
        fail(error, 2)


@contextlib.contextmanager
def reported(debug: bool = False) -> Iterator[None]:
    """Reports errors of files, data, memory and devices in the block, with exit code 1."""
    try:
        with piped():
            yield
    except _REPORTED as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            fail(f"{error.filename}: {error.strerror}", 1)
        fail(str(error).strip().split("\n")[0] or "out of memory", 1)
