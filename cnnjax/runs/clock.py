"""How long a run takes, and how much of it JAX compiles."""

import time
import weakref
from functools import cache

import jax

_clocks: "weakref.WeakSet[Clock]" = weakref.WeakSet()


@cache
def _listen() -> None:
    """Once a process, since JAX lets go of no listener."""
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):
        end = time.perf_counter()
        for clock in list(_clocks):
            clock.spans.append((end - duration_secs, end))


class Clock:
    """Seconds since it was made, and how many of them JAX traced, lowered and compiled.

    Args:
      started: `time.perf_counter()` from which `total` counts; by default now.
    """

    def __init__(self, started: float | None = None) -> None:
        self._start = time.perf_counter()
        self._started = self._start if started is None else started
        self.spans: list[tuple[float, float]] = []
        _listen()
        _clocks.add(self)

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *exception: object) -> None:
        _clocks.discard(self)

    def seconds(self) -> dict[str, float]:
        """`compile`, `train` (all else since the clock was made) and `total`."""
        compile_seconds, reached = 0.0, self._start
        for start, end in sorted(self.spans):  # spans nest: an inner function is traced within an outer one
            compile_seconds += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        now = time.perf_counter()
        return {
            "compile": round(compile_seconds, 2),
            "train": round(now - self._start - compile_seconds, 2),
            "total": round(now - self._started, 2),
        }
