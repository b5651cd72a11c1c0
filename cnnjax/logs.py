"""The logs of other libraries, turned down while they are called and no longer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOCK = threading.RLock()  # of two threads at once, the second would take the first one's level for the user's


@contextmanager
def quiet(logging: Any, level: int) -> Iterator[None]:
    """Lets a library log what is at least of a level; afterwards it logs as before.

    Args:
      logging: the library's module with `get_verbosity` and `set_verbosity`, as `absl.logging`.
      level: in its own numbers.
    """
    with _LOCK:
        before = logging.get_verbosity()
        logging.set_verbosity(level)
        try:
            yield
        finally:
            logging.set_verbosity(before)
