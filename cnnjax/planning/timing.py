"""Times ways to carry out a program, with steps of the real job from its first state, whose outcome is dropped."""

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

_PAYS = 30  # compilations of the default that a sweep must last before alternatives are tried
_BETTER = 0.95  # of the default's time: less is taken for noise


class Trialled(NamedTuple):
    """A way of carrying out a program, and what it came to."""

    lanes: Lanes
    micro_batch: int
    ms: float
    """Milliseconds a step of one lane takes: those of a joint step over the number of lanes."""
    compile_s: float


def step_seconds(runs: Sequence[Run], budget: float = 0.3) -> list[float]:
    """Seconds of a joint step of all lanes of each run: medians of three timings of some steps from the first state.

    Runs take turns, so that they compare where the machine's speed drifts.
    """

    def seconds(run: Run, n: int) -> float:
        state = jax.block_until_ready(jax.tree.map(jnp.copy, run.state))  # which is donated
        began = time.perf_counter()
        jax.block_until_ready(run.advance(state, n))
        return (time.perf_counter() - began) / n

    def enough(run: Run) -> int:
        seconds(run, 1)
        return max(1, min(run.steps, int(budget / seconds(run, 1))))

    counts = list(map(enough, runs))
    turns = [[seconds(run, n) for run, n in zip(runs, counts, strict=True)] for _ in range(3)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


_compile_seconds: dict[Program, float] = {}  # of what was compiled, since that it is compiled again costs nothing


def _compiled(program: Program, data: Dataset) -> tuple[Run, float]:
    """A program's run, and the seconds that compiling it took."""
    began = time.perf_counter()
    run = compile_program(program, data)
    return run, _compile_seconds.setdefault(program, time.perf_counter() - began)


def largest_of(programs: Sequence[Program]) -> Program:
    """The one with the most lanes, the first of them."""
    return max(programs, key=lambda program: len(program.trials))


def fastest(timed: Sequence[Trialled]) -> Trialled:
    """The fastest, or the first where nothing is faster by more than noise."""
    best = min(range(len(timed)), key=lambda i: timed[i].ms)
    return timed[agreed(best if timed[best].ms < _BETTER * timed[0].ms else 0)]


def tune(
    programs: Sequence[Program],
    data: Dataset,
    compiling: Sequence[Future[Any]] = (),
    available: Callable[[int], int] = lambda devices: sys.maxsize,
) -> tuple[tuple[Program, ...], list[Trialled]]:
    """Times the largest program, and where the sweep is long enough its alternatives; the fastest serves all.

    What needs more memory than there is does not run; if the largest program does, nothing is timed.

    Args:
      programs: as `sweeps.plan` made them.
      data: what they train on.
      compiling: work in other threads, which ends before anything is timed.
      available: bytes that a program on so many devices may take on each.

    Returns:
      The programs as they are to be carried out, and what was timed, the default first.
    """
    largest = largest_of(programs)
    ways, lanes = [largest], len(largest.trials)
    compiled = [_compiled(largest, data)]
    [(run, compile_s)] = compiled
    if run.memory > available(largest.lanes.all_devices):
        return tuple(programs), []
    wait(compiling)
    seconds = step_seconds([run])
    lane_steps = sum(len(program.trials) * program.config.epochs for program in programs) * run.steps
    if agreed(lane_steps / lanes * seconds[0] > _PAYS * compile_s):
        for way in alternatives(largest, data):
            other = _compiled(way, data)
            if other[0].memory <= available(way.lanes.all_devices):
                ways.append(way)
                compiled.append(other)
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
    """What a program takes."""

    memory: int
    """Bytes, on all of its devices."""
    compile_s: float
    train_s: float
    """Of all its epochs, validation included."""


def estimate(programs: Sequence[Program], data: Dataset) -> list[Estimate]:
    """Compiles programs, side by side, and times steps and validation of each; what they come to is dropped."""
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
