"""A user's mistakes, each reported in one line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn


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
