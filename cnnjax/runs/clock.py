"""Measures the duration of a run, and the part in which JAX compiles."""

import time
import weakref
from functools import cache

import jax

_clocks: "weakref.WeakSet[Clock]" = weakref.WeakSet()


@cache
def _listen() -> None:
    """Registers the listener once per process, because JAX never removes one."""
    jax.monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith("/jax/core/compile/"):
        end = time.perf_counter()
        for clock in list(_clocks):
            clock.spans.append((end - duration_secs, end))


class Clock:
    """Measures the seconds since its creation, and those in which JAX traced, lowered and compiled.

    Args:
      started: the value of `time.perf_counter()` at which `total` starts; by default now.
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
        """Returns the seconds of compilation, of everything else since the creation of the clock, and in total."""
        compile_seconds, reached = 0.0, self._start
        for start, end in sorted(self.spans):  # spans may be nested, as functions that are traced
            compile_seconds += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        now = time.perf_counter()
        return {
            "compile": round(compile_seconds, 2),
            "train": round(now - self._start - compile_seconds, 2),
            "total": round(now - self._started, 2),
        }
