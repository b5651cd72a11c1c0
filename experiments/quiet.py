"""Timing on a machine that other processes use as well: a turn during which they did is dropped."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_FOREIGN = 0.05  # the share of the machine that other processes may use during a turn
_DROPPED = 0.2  # the largest share of dropped turns


class Turn(NamedTuple):
    """A timed turn of several steps."""

    steps: int
    seconds: float
    """Of all steps."""
    foreign: float
    """The processor seconds that other processes used."""

    @property
    def clean(self) -> bool:
        """Whether other processes used next to nothing: 5 % of the machine, and the two ticks of the clock."""
        return self.foreign <= _FOREIGN * self.seconds * (os.cpu_count() or 1) + 2 * _TICK


def _busy() -> float:
    """Returns the processor seconds of all processes since the machine started, and those that its host took."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * _TICK


def timed(function: Callable[[], object], calls: int, steps: int) -> Turn:
    """Calls a function of so many steps, which keeps to this process and waits for its result."""
    busy, own, began = _busy(), time.process_time(), time.perf_counter()
    for _ in range(calls):
        function()
    seconds = time.perf_counter() - began
    return Turn(calls * steps, seconds, _busy() - busy - (time.process_time() - own))


class Summary(NamedTuple):
    """The clean turns of a case."""

    seconds: float
    """The median of a step."""
    dropped: int
    turns: int

    @property
    def void(self) -> bool:
        """Whether more than a fifth of the turns was dropped."""
        return self.dropped > _DROPPED * self.turns


def summarize(turns: Sequence[Turn]) -> Summary:
    """Returns the median of the clean turns; of all turns if none is clean."""
    clean = [turn for turn in turns if turn.clean]
    seconds = statistics.median(turn.seconds / turn.steps for turn in clean or turns)
    return Summary(seconds, len(turns) - len(clean), len(turns))
