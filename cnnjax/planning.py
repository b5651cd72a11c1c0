"""How trials are carried out, chosen by measurement: lanes, micro-batches, and what fits in memory.

Nothing here changes a result but by rounding. What is timed are steps of the real job from its
first state, whose outcome is dropped.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnnjax import embedding
from cnnjax.config import TrainConfig
from cnnjax.data import Dataset, Spec
from cnnjax.networks import NetworkConfig, functional
from cnnjax.options import from_json
from cnnjax.search import Stage
from cnnjax.sweeps import PACKS, Lanes, Program, Trial, plan, prepare, structure, task_of
from cnnjax.training import Run, can_share, make_task, separable

_PAYS = 30  # compilations of the default that a sweep must last before alternatives are tried
_BETTER = 0.95  # of the default's time: less is taken for noise
_MICRO_BATCHES = (32, 16)
_CACHE = 5 * 2**18  # bytes of activations above which a batch is worth computing in parts on CPU
_WIDTHS = {"cpu": (4,), "other": (1, 16, 64)}
_SHARE = 0.8  # of free memory that a program may take


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
        began = time.perf_counter()
        jax.block_until_ready(run.advance(run.state, n))
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
    run = prepare(program, data)
    return run, _compile_seconds.setdefault(program, time.perf_counter() - began)


def in_cache(program: Program, spec: Spec) -> Program:
    """The program in micro-batches, on CPU where a batch's activations outgrow the cache.

    Only where nothing but rounding changes: without noise and running statistics. And only where
    parameters are fewer than the activations of a micro-batch, since gradients are added up for each.
    """
    config, part, size = program.config, program.config.batch_size // program.lanes.split, min(_MICRO_BATCHES)
    if jax.default_backend() != "cpu" or not config.network.per_example or part % size:
        return program
    network = make_task(config, spec).functions

    def traced(key: Any, inputs: Any) -> Any:
        shapes = jax.eval_shape(network.init, key, inputs)
        variables = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return variables, network.apply(variables, inputs, train=True, key=key)

    inputs = jnp.zeros((1, *spec.shape))
    layers, (variables, _) = jax.make_jaxpr(traced, return_shape=True)(jax.random.key(0), inputs)
    values = [value.aval for layer in layers.eqns for value in layer.outvars]
    activations = sum(value.size * value.dtype.itemsize for value in values if value.ndim > 1 and value.shape[0] == 1)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables.params))
    if jax.tree.leaves(variables.stats) or part * activations <= _CACHE or size * activations <= parameters:
        return program
    return program._replace(micro_batch=size)


def alternatives(program: Program, data: Dataset) -> Iterator[Program]:
    """Other ways to carry out a program: micro-batches, fewer devices, lanes side by side."""
    count, size, lanes = len(program.trials), program.config.batch_size, program.lanes
    part = size // lanes.split
    micro = [m for m in (0, *_MICRO_BATCHES) if m < part and part % (m or part) == 0 and m != program.micro_batch]
    if micro and separable(task_of(program, data.spec)):
        yield from (program._replace(micro_batch=m) for m in micro)
    if lanes.devices > 1:
        yield program._replace(lanes=replace(lanes, devices=1))
    if lanes.split > 1:
        yield program._replace(lanes=replace(lanes, split=1))
    for width in _WIDTHS.get(jax.default_backend(), _WIDTHS["other"]):
        if width * lanes.devices < count and width != lanes.width:
            yield program._replace(lanes=replace(lanes, width=width))


def works(program: Program, spec: Spec) -> bool:
    """Whether a program's batches can be computed in its parts with the same outcome."""
    split, micro_batch = program.lanes.split, program.micro_batch
    if not can_share(program.config, split):
        return False
    if micro_batch == 0:
        return True
    divides = micro_batch > 0 and program.config.batch_size // split % micro_batch == 0
    return divides and separable(make_task(program.config, spec))


def largest_of(programs: Sequence[Program]) -> Program:
    """The one with the most lanes, the first of them."""
    return max(programs, key=lambda program: len(program.trials))


def fastest(timed: Sequence[Trialled]) -> Trialled:
    """The fastest, or the first where nothing is faster by more than noise."""
    best = min(timed, key=lambda trialled: trialled.ms)
    return best if best.ms < _BETTER * timed[0].ms else timed[0]


def choose(
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
    if lane_steps / lanes * seconds[0] > _PAYS * compile_s:
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

    def carried(program: Program) -> Program:
        if len(program.trials) >= best.lanes.devices and can_share(program.config, best.lanes.split):
            program = program._replace(lanes=best.lanes)
        best_parts = program._replace(micro_batch=best.micro_batch)
        return best_parts if works(best_parts, data.spec) else program

    return tuple(map(carried, programs)), timed


# ------------------------------------------------------------------------- packing


class Packing(NamedTuple):
    """Which widths share a program, and what that is expected to take."""

    pack: str
    seconds: Mapping[str, float]
    """Seconds still to come under each packing, when they were weighed; empty where there was no choice."""


def pack_of(trials: Sequence[Trial], data: Dataset, lanes: Lanes | None = None) -> Packing:
    """Weighs the time that more programs take to compile against the work that padding adds.

    The programs of the widest networks are compiled, one on each core, and the widest is timed. Of
    the others each is expected to take as long to compile, and for a step a share of the time: that
    of its forward pass's floating-point operations. What was compiled serves if widths are not packed.
    """
    planned = {pack: plan(trials, lanes, pack, spec=data.spec, strict=False) for pack in PACKS}
    if len(planned["one"]) == len(planned["shapes"]):
        return Packing("shapes", {})
    ways = {pack: [in_cache(program, data.spec) for program in programs] for pack, programs in planned.items()}
    of = {p: _operations(p.config, data.spec) for programs in ways.values() for p in programs}
    ready = sorted(ways["shapes"], key=lambda program: -of[program])[: os.cpu_count() or 1]
    with ThreadPoolExecutor(len(ready)) as pool:
        compiled = list(pool.map(lambda program: _compiled(program, data), ready))
    run, compile_s = compiled[0]
    [seconds] = step_seconds([run])
    per_epoch = seconds * run.steps / len(ready[0].trials) / of[ready[0]]

    def expected(programs: Sequence[Program]) -> float:
        compilations = len(set(programs) - set(ready))
        work = sum(len(p.trials) * p.config.epochs * of[p] for p in programs)
        return work * per_epoch + compile_s * compilations / max(1, min(compilations, os.cpu_count() or 1))

    found = {pack: round(expected(programs), 2) for pack, programs in ways.items()}
    return Packing(min(found, key=lambda pack: found[pack]), found)


def _operations(config: TrainConfig, spec: Spec) -> float:
    """Floating-point operations of a forward pass."""
    numbers, kind = jax.tree.flatten(config.network)
    return _counted(kind, tuple(numbers), spec.shape, spec.outputs)


@lru_cache(maxsize=256)
def _counted(kind: Any, numbers: tuple[float, ...], shape: tuple[int, ...], outputs: int) -> float:
    network: NetworkConfig = jax.tree.unflatten(kind, numbers)
    pure, key = functional(lambda rngs, example: network.build(rngs, example, outputs)), jax.random.key(0)
    inputs = jax.ShapeDtypeStruct((1, *shape), "float32")
    variables = jax.eval_shape(pure.init, key, inputs)
    costs = jax.jit(partial(pure.apply, train=True, key=key)).lower(variables, inputs).cost_analysis()
    assert costs
    return float(costs["flops"])


# ------------------------------------------------------------------------- what a sweep will take


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
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
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


# ------------------------------------------------------------------------- memory


def free_memory(devices: int) -> int:
    """Bytes that a program on so many devices may take on each: a share of what is free now."""
    statistics_of = jax.devices()[0].memory_stats()
    if statistics_of and "bytes_limit" in statistics_of:
        return int(_SHARE * (statistics_of["bytes_limit"] - statistics_of["bytes_in_use"]))
    return int(_SHARE * _host_memory() / devices)


def _host_memory() -> int:
    """Bytes that processes can still have, files that the system only keeps at hand not counted as taken."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_chunks(program: Program, needed: int, available: int) -> tuple[Program, ...]:
    """A program that needs more memory than there is, as several with as many lanes as fit.

    Raises:
      ValueError: not even one lane a device does.
    """
    if needed <= available:
        return (program,)
    trials, devices = len(program.trials), program.lanes.devices
    count = -(-(trials + program.spare) // devices) * devices  # the last is repeated
    most = count * available // needed // devices * devices
    if most < devices:
        size, scale = program.config.batch_size, program.lanes.all_devices / 2**20
        raise ValueError(
            f"batch_size: {size}: {devices} trials at once take {scale * needed * devices / count:.3g} MiB and "
            f"{scale * available:.3g} MiB may be used: use a batch of "
            f"{max(1, size * count * available // (needed * devices) // 2)}, or more --memory"
        )
    parts = (program.trials[i : i + most] for i in range(0, trials, most))
    return tuple(program._replace(trials=part, spare=0) for part in parts)


# ------------------------------------------------------------------------- a plan on paper


def describe_timed(timed: Sequence[Trialled]) -> list[dict[str, Any]]:
    """What was timed, as plain values."""
    return [{**trialled._asdict(), "lanes": str(trialled.lanes)} for trialled in timed]


def describe_plan(programs: Sequence[Program], timed: Sequence[Trialled] = ()) -> dict[str, Any]:
    """A plan as plain values: how trials are lifted, which are lanes of which program, what was timed."""
    return {
        "device": jax.default_backend(),
        "timed": describe_timed(timed),
        "programs": list(map(_described, programs)),
    }


_STRETCH = ("after", "until", "spare")


def _described(program: Program) -> dict[str, Any]:
    wide = program.wide
    return {
        "lanes": str(program.lanes),
        "micro_batch": program.micro_batch,
        "trials": [trial.number for trial in program.trials],
        **({"widths": {name: list(getattr(wide, name)) for name in wide.widths}} if wide else {}),
        **{name: value for name in _STRETCH if (value := getattr(program, name))},
    }


def parse_lanes(words: str) -> Lanes:
    """Lanes as they are written: `width:devices:split`, `width:devices`, or `width` over all devices."""
    numbers = words.split(":")
    if len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"lanes: {words!r}: give auto, or lanes side by side and devices, as 1:2")
    width, *devices = map(int, numbers)
    return Lanes(width, *(devices or [jax.device_count()]))


def read_plan(path: Path, stage: Stage, spec: Spec, alone: bool = True) -> tuple[Program, ...]:
    """The programs of an earlier plan, for trials that group in the same way.

    Args:
      path: of `plan.json`.
      stage: what is to be trained.
      spec: what the data is.
      alone: whether the plan must be of no other trials; else what it says of others is passed over,
        and there are no programs where it says nothing of these.

    Raises:
      OSError: the file cannot be read.
      ValueError: the file is no plan, one for more devices than there are, or one of other groups.
    """
    trials = {trial.number: trial for trial in stage.trials}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise type(error)(f"plan: {path}: {error.strerror}: give the plan.json of an earlier run") from None
    try:
        entries: Sequence[Mapping[str, Any]] = from_json(content)["programs"]
        if not alone:
            entries = [
                entry
                for entry in entries
                if (entry.get("after", 0), entry.get("until", 0)) == (stage.after, stage.until)
                and not trials.keys().isdisjoint(entry["trials"])
            ]
        programs = tuple(read_program(entry, trials) for entry in entries)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"plan: {path}: no plan of these {len(trials)} trials: {error!r}") from None
    if not programs and not alone:
        return ()
    if any(not _fits(program, spec) for program in programs):
        raise ValueError(f"plan: {path}: puts trials of different shapes into one program")
    if sorted(trial.number for program in programs for trial in program.trials) != sorted(trials):
        raise ValueError(f"plan: {path}: plans other trials than the {len(trials)} of this run")
    return programs


def read_program(entry: Mapping[str, Any], trials: Mapping[int, Trial]) -> Program:
    """A program of a plan, its trials by number."""
    members = tuple(trials[n] for n in entry["trials"])
    network, widths = members[0].config.network, entry.get("widths")
    wide = replace(network, **{name: tuple(map(int, widths[name])) for name in network.widths}) if widths else None
    stretch = {name: int(entry.get(name, 0)) for name in _STRETCH}
    return Program(members, parse_lanes(str(entry["lanes"])), int(entry["micro_batch"]), wide, **stretch)


def _fits(program: Program, spec: Spec) -> bool:
    """Whether a program's trials are lanes of it."""
    if program.wide is None:
        return len({structure(trial.config) for trial in program.trials}) == 1
    networks = [trial.config.network for trial in program.trials]
    one = plan(program.trials, pack="one", spec=spec, strict=False)
    return len(one) == 1 and embedding.widest([*networks, program.wide]) == program.wide
