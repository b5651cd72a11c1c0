"""The execution settings of a sweep, and the programs of a stage under these settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cnnjax.config import SAMPLERS, Range, SweepConfig, alternatives
from cnnjax.data import Dataset
from cnnjax.options import check_type, choose, has, update
from cnnjax.planning.packing import Packing, pack_of
from cnnjax.planning.plan_file import WrittenPlan, parse_lanes, programs_in
from cnnjax.planning.ways import in_cache, works
from cnnjax.sweeps import PACKS, Program, Stage, Trial, columns, programs_of, search, task_of
from cnnjax.training import Lanes, make_task, validate


@dataclass(frozen=True)
class Execution:
    """Execution settings; they change results only by rounding."""

    lanes: str = "auto"
    """auto, or parallel lanes (0: all), devices, and devices that share a batch, such as 1:2 or 1:1:2"""
    pack: Literal["shapes", "buckets", "one", "auto"] = "auto"
    """widths that share a program: equal (shapes), of one power of two (buckets), all (one), or the fastest packing"""
    plan_from: Path | None = None
    """plan.json of an earlier run, whose plan is repeated"""
    save_seconds: float = 30.0
    """seconds of training between checkpoints of a program (0: after each epoch)"""
    keep_latest: int = 2
    """number of most recent checkpoints kept for each program"""
    keep_best: int = 1
    """number of checkpoints with the best validation metric kept in addition"""
    memory: float | None = None
    """memory limit for training on all devices in GiB; by default most of the free memory"""
    micro_batch: int | None = None
    """examples per gradient computation, whose gradients are summed for a step (0: all); by default the fastest"""
    verify: bool = False
    """before a program trains, compare a step and an evaluation with float64 without compilation"""

    def __post_init__(self) -> None:
        if isinstance(self.plan_from, str):
            object.__setattr__(self, "plan_from", Path(self.plan_from))
        if not (self.plan_from is None or isinstance(self.plan_from, Path)):
            raise ValueError(f"plan_from: {self.plan_from!r}: must be the path to a plan.json")

    def check(self) -> None:
        """Raises ValueError if a value has the wrong type or is out of range."""
        check_type("lanes", self.lanes, str, ", such as 'auto' or '1:2'")
        check_type("pack", self.pack, str, ", such as 'one'")
        check_type("save_seconds", self.save_seconds, float)
        if not isinstance(self.verify, bool):
            raise ValueError(f"verify: {self.verify!r}: must be True or False")
        if self.memory is not None:
            check_type("memory", self.memory, float)
        for name in ("keep_latest", "keep_best"):
            check_type(name, getattr(self, name), int)
        if self.micro_batch is not None:
            check_type("micro_batch", self.micro_batch, int)
        choose("pack", self.pack, {**PACKS, "auto": None})
        if self.memory is not None and not 0 < self.memory * 2**30 < math.inf:
            raise ValueError(f"memory: {self.memory}: must be above 0 and finite")
        if not 0 <= self.save_seconds < math.inf:
            raise ValueError(f"save_seconds: {self.save_seconds}: must be at least 0 and finite")
        for name, least in (("keep_latest", 1), ("keep_best", 0), ("micro_batch", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name}: {value}: must be at least {least}")
        for name, given in (("lanes", self.lanes != "auto"), ("micro_batch", self.micro_batch is not None)):
            if self.plan_from and given:
                value = getattr(self, name)
                raise ValueError(f"{name}: {value}: conflicts with plan_from {self.plan_from}: give only one of them")


def choose_packing(stage: Stage, data: Dataset, execution: Execution) -> Packing:
    """Returns the packing of the settings, or for `auto` the one with the lowest predicted time."""
    if execution.pack != "auto":
        return Packing(execution.pack, {})
    return pack_of(stage.trials, data, None if execution.lanes == "auto" else parse_lanes(execution.lanes))


def planned(
    sweep: SweepConfig,
    stage: Stage,
    data: Dataset,
    execution: Execution,
    source: WrittenPlan | None = None,
    trained: Sequence[Program] = (),
    pack: str | None = None,
    devices: int | None = None,
) -> tuple[Program, ...]:
    """Returns the programs of a stage.

    Args:
      sweep: the sweep that the stage belongs to.
      stage: the trials and epochs.
      data: the data set.
      execution: the execution settings.
      source: a written plan to follow, if it contains these trials.
      trained: the programs of earlier stages.
      pack: the packing; by default that of `execution`, with `shapes` for `auto`.
      devices: the number of devices to which a plan for more is reduced; by default such a plan is an
        error.

    Raises:
      ValueError: if the plan has other trials or cannot be followed, or networks cannot be packed.
    """
    if source and (found := programs_in(source, stage, data.spec, sweep.search == "all")):
        if devices:
            found = tuple(program._replace(lanes=program.lanes.on(devices)) for program in found)
        for program in found:
            program.lanes.check()
            _check_micro_batch(program, data, f"plan: {source.name}: ")
        return found
    lanes = None if execution.lanes == "auto" else parse_lanes(execution.lanes)
    if lanes:
        lanes.check()
    pack = pack or ("shapes" if execution.pack == "auto" else execution.pack)
    programs = programs_of(stage, trained, lanes, pack, spec=data.spec, strict=execution.pack != "auto")
    if execution.micro_batch is not None and not stage.after:
        return tuple(_in_parts(program, data, execution.micro_batch, lanes is None) for program in programs)
    return programs if lanes or stage.after else tuple(in_cache(program, data.spec) for program in programs)


def _in_parts(program: Program, data: Dataset, micro_batch: int, any_lanes: bool) -> Program:
    """Returns a program with micro-batches; with `any_lanes`, no devices share a batch if that leaves parts of them."""
    program = program._replace(micro_batch=micro_batch)
    if any_lanes and not works(program, data.spec):
        program = program._replace(lanes=replace(program.lanes, split=1))
    _check_micro_batch(program, data)
    return program


def _check_micro_batch(program: Program, data: Dataset, where: str = "") -> None:
    if program.micro_batch and not works(program, data.spec):
        raise ValueError(
            f"{where}micro_batch: {program.micro_batch}: must divide the part of batch_size "
            f"{program.config.batch_size} on each device, and the network must have no batch_norm or dropout"
        )


def check_sweep(sweep: SweepConfig, data: Dataset, execution: Execution, source: WrittenPlan | None = None) -> None:
    """Raises ValueError if the first stage of a sweep cannot be trained; `source` as in `planned`."""
    execution.check()
    programs = planned(sweep, next(search(sweep)), data, execution, source)
    if sweep.search in SAMPLERS:  # the first stage may not contain every value
        _check_values(sweep, data, execution.micro_batch or 0)
    for program in programs:
        validate(task_of(program, data.spec), data)


def _check_values(sweep: SweepConfig, data: Dataset, micro_batch: int) -> None:
    for names, rows in columns(sweep):
        paths = [sweep.paths[name] for name in names]
        run = next(run for run in alternatives(sweep.base, sweep.axes) if all(has(run, path) for path in paths))
        for row in () if isinstance(rows, Range) else rows:
            trial = run
            for path, value in zip(paths, row, strict=True):
                trial = update(trial, path, value)
            validate(make_task(trial, data.spec), data)
            _check_micro_batch(Program((Trial(0, 0, (), trial),), Lanes(), micro_batch), data)
