"""Temporarily reduces the log output of other libraries."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.RLock()  # otherwise a second thread would save and restore the level set by the first


@contextmanager
def quiet(logging: Any, level: int) -> Iterator[None]:
    """Sets the log level of a library within the block, and restores it afterwards.

    Args:
      logging: a module with `get_verbosity` and `set_verbosity`, such as `absl.logging`.
      level: the log level, as defined by the library.
    """
    with _LOCK:
        before = logging.get_verbosity()
        logging.set_verbosity(level)
        try:
            yield
        finally:
            logging.set_verbosity(before)
