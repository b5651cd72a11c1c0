"""Times alternatives to execute a program, by training steps from its initial state whose results are dropped."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.data import Dataset
from cnnjax.devices import agreed, threads
from cnnjax.planning.ways import alternatives, works
from cnnjax.sweeps import Program, compile_program
from cnnjax.training import Lanes, Run, can_share

_PAYS = 10  # alternatives are tried while the predicted training takes this many times all compilations so far
_TURNS, _MOST_TURNS = 3, 9
_SPREAD = 0.1
_BETTER = 0.95  # an alternative must be faster than this fraction of the default's time; the rest is noise


class Trialled(NamedTuple):
    """An alternative to execute a program, and its measured times."""

    lanes: Lanes
    micro_batch: int
    ms: float
    """Milliseconds per step and lane."""
    compile_s: float
    """Seconds of compilation."""


def step_seconds(runs: Sequence[Run], budget: float = 0.3) -> list[float]:
    """Returns the seconds per step of all lanes of each run: the median of several timings from the initial state.

    The runs are timed in turns, so that drifts in the speed of the machine affect them equally. There are
    three turns, and up to nine while the timings of the fastest run or of the first one spread widely.
    """

    def seconds(run: Run, n: int) -> float:
        state = jax.block_until_ready(jax.tree.map(jnp.copy, run.state))  # a copy, because `advance` donates it
        began = time.perf_counter()
        jax.block_until_ready(run.advance(state, n))
        return (time.perf_counter() - began) / n

    def enough(run: Run) -> int:
        seconds(run, 1)
        return max(1, min(run.steps, int(budget / seconds(run, 1))))

    counts = list(map(enough, runs))
    turns: list[list[float]] = []
    while len(turns) < _TURNS or (len(runs) > 1 and len(turns) < _MOST_TURNS and agreed(_unclear(turns))):
        turns.append([seconds(run, n) for run, n in zip(runs, counts, strict=True)])
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def _unclear(turns: Sequence[Sequence[float]]) -> bool:
    """Returns whether the timings of the fastest run, or of the first one, spread too widely to compare their medians.

    The spread is the distance between the quartiles, relative to the median.
    """
    of_runs = list(zip(*turns, strict=True))
    for times in (of_runs[0], min(of_runs, key=statistics.median)):
        low, middle, high = statistics.quantiles(times, method="inclusive")
        if high - low > _SPREAD * middle:
            return True
    return False


_compile_seconds: dict[Program, float] = {}  # the first time counts: compiled programs are cached


def _compiled(program: Program, data: Dataset) -> tuple[Run, float]:
    """Compiles a program; returns its run and the seconds of compilation."""
    began = time.perf_counter()
    run = compile_program(program, data)
    return run, _compile_seconds.setdefault(program, time.perf_counter() - began)


def largest_of(programs: Sequence[Program]) -> Program:
    """Returns the program with the most lanes, or the first one if there are several."""
    return max(programs, key=lambda program: len(program.trials))


def fastest(timed: Sequence[Trialled]) -> Trialled:
    """Returns the fastest alternative, or the first one if none is faster by more than noise."""
    best = min(range(len(timed)), key=lambda i: timed[i].ms)
    return timed[agreed(best if timed[best].ms < _BETTER * timed[0].ms else 0)]


def tune(
    programs: Sequence[Program],
    data: Dataset,
    compiling: Sequence[Future[Any]] = (),
    available: Callable[[int], int] = lambda devices: sys.maxsize,
    micro_batches: bool = True,
) -> tuple[tuple[Program, ...], list[Trialled]]:
    """Times alternatives to execute the largest program, and applies the fastest to all programs.

    Alternatives are timed only if the sweep is predicted to be long enough, and only those that fit in
    memory. If the largest program does not fit, nothing is timed.

    Args:
      programs: the programs of `sweeps.plan`.
      data: the data set.
      compiling: compilations in other threads, which are waited for before anything is timed.
      available: available(n) is the memory in bytes that a program on n devices may use on each.
      micro_batches: whether other micro-batches are among the alternatives.

    Returns:
      The programs to run, and the timings, the default first.
    """
    largest = largest_of(programs)
    ways, lanes = [largest], len(largest.trials)
    compiled = [_compiled(largest, data)]
    run = compiled[0][0]
    if run.memory > available(largest.lanes.all_devices):
        return tuple(programs), []
    wait(compiling)
    seconds = step_seconds([run])
    lane_steps = sum(len(program.trials) * program.config.epochs for program in programs) * run.steps
    for way in alternatives(largest, data, micro_batches):
        if not agreed(lane_steps / lanes * seconds[0] > _PAYS * sum(compile_s for _, compile_s in compiled)):
            break
        other = _compiled(way, data)
        if other[0].memory <= available(way.lanes.all_devices):
            ways.append(way)
            compiled.append(other)
    if len(ways) > 1:
        seconds = step_seconds([run for run, _ in compiled])
    timed = [
        Trialled(way.lanes, way.micro_batch, 1e3 * s / lanes, compile_s)
        for way, (_, compile_s), s in zip(ways, compiled, seconds, strict=True)
    ]
    best = fastest(timed)
    if best is timed[0]:
        return tuple(programs), timed

    def as_best(program: Program) -> Program:
        if len(program.trials) >= best.lanes.devices and can_share(program.config, best.lanes.split):
            program = program._replace(lanes=best.lanes)
        best_parts = program._replace(micro_batch=best.micro_batch)
        return best_parts if works(best_parts, data.spec) else program

    return tuple(map(as_best, programs)), timed


class Estimate(NamedTuple):
    """The predicted cost of a program."""

    memory: int
    """Bytes on all of its devices."""
    compile_s: float
    """Seconds of compilation."""
    train_s: float
    """Seconds of all its epochs, including validation."""


def estimate(programs: Sequence[Program], data: Dataset) -> list[Estimate]:
    """Predicts the cost of programs: compiles them in parallel, and times a few steps and a validation of each."""
    found = []
    with threads(os.cpu_count() or 1) as pool:
        compiled = list(pool.map(lambda program: _compiled(program, data), programs))
    for program, (run, compile_s) in zip(programs, compiled, strict=True):
        [seconds] = step_seconds([run])
        jax.block_until_ready(run.evaluate(run.state))
        began = time.perf_counter()
        jax.block_until_ready(run.evaluate(run.state))
        epoch = run.steps * seconds + time.perf_counter() - began
        memory = run.memory * program.lanes.all_devices
        found.append(Estimate(memory, compile_s, epoch * (program.end - program.after)))
    return found
