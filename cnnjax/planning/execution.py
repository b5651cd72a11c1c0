"""How a sweep is carried out: what one may ask for, and the programs of a stage that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnnjax.config import SAMPLERS, Range, SweepConfig, alternatives
from cnnjax.data import Dataset
from cnnjax.options import choose, has, update
from cnnjax.planning.packing import Packing, pack_of
from cnnjax.planning.plan_file import WrittenPlan, parse_lanes, programs_in
from cnnjax.planning.ways import in_cache, works
from cnnjax.sweeps import PACKS, Program, Stage, columns, programs_of, search, task_of
from cnnjax.training import make_task, validate


@dataclass(frozen=True)
class Execution:
    """How trials are carried out; nothing here changes a result but by rounding."""

    lanes: str = "auto"
    """auto, or lanes side by side (0: all), devices, and devices that share a batch, as 1:2 or 1:1:2"""
    pack: Literal["shapes", "buckets", "one", "auto"] = "auto"
    """which widths share a program, padded by zeros: none, those of one power of two, all, or what should be fastest"""
    plan_from: Path | None = None
    """run the trials as this plan.json of an earlier run says"""
    save_seconds: float = 30.0
    """seconds of training between two checkpoints of a program; 0 for one after each epoch"""
    keep_latest: int = 2
    """how many of the last checkpoints of a program are kept"""
    keep_best: int = 1
    """how many checkpoints with the best validation metric are kept as well"""
    memory: float | None = None
    """GiB that training may take in all; by default most of what is free"""

    def __post_init__(self) -> None:
        if isinstance(self.plan_from, str):
            object.__setattr__(self, "plan_from", Path(self.plan_from))
        if not (self.plan_from is None or isinstance(self.plan_from, Path)):
            raise ValueError(f"plan_from: {self.plan_from!r}: must be the path of a plan.json")

    def check(self) -> None:
        """ValueError where a value is of another type or out of range."""
        for name in ("save_seconds", "memory", "keep_latest", "keep_best"):
            value, whole = getattr(self, name), name.startswith("keep")
            if value is None and name == "memory":
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ValueError(f"{name}: {value!r}: must be a {'whole ' if whole else ''}number")
        if not isinstance(self.lanes, str):
            raise ValueError(f"lanes: {self.lanes!r}: must be a string, as 'auto' or '1:2'")
        if not isinstance(self.pack, str):
            raise ValueError(f"pack: {self.pack!r}: must be a string, as 'one'")
        choose("pack", self.pack, {**PACKS, "auto": None})
        if self.memory is not None and not 0 < self.memory * 2**30 < math.inf:
            raise ValueError(f"memory: {self.memory}: must be above 0 and finite")
        if not 0 <= self.save_seconds < math.inf:
            raise ValueError(f"save_seconds: {self.save_seconds}: must be at least 0 and finite")
        if self.keep_latest < 1:
            raise ValueError(f"keep_latest: {self.keep_latest}: must be at least 1")
        if self.keep_best < 0:
            raise ValueError(f"keep_best: {self.keep_best}: must be at least 0")
        if self.plan_from and self.lanes != "auto":
            raise ValueError(f"lanes: {self.lanes}: the plan {self.plan_from} says how: give one of both")


def choose_packing(stage: Stage, data: Dataset, execution: Execution) -> Packing:
    """The packing that is asked for, or the one that is predicted to take the least time."""
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
    """The programs of a stage.

    Args:
      sweep: of which it is a stage.
      stage: its trials and epochs.
      data: on which they train.
      execution: how.
      source: a plan that says which, as far as it knows these trials.
      trained: programs in which trials trained before.
      pack: the packing; by default as `execution` has it, with `shapes` for `auto`.
      devices: on how many at most a plan for more is carried out; by default it is refused.

    Raises:
      ValueError: the plan is of other trials or cannot be followed, or networks are to be packed that cannot be.
    """
    if source and (found := programs_in(source, stage, data.spec, sweep.search == "all")):
        if devices:
            found = tuple(program._replace(lanes=program.lanes.on(devices)) for program in found)
        for program in found:
            program.lanes.check()
            if program.micro_batch and not works(program, data.spec):
                raise ValueError(
                    f"plan: {source.name}: micro_batch: {program.micro_batch}: must divide a device's part of "
                    f"batch_size {program.config.batch_size}, and the network can have neither batch_norm nor dropout"
                )
        return found
    lanes = None if execution.lanes == "auto" else parse_lanes(execution.lanes)
    if lanes:
        lanes.check()
    pack = pack or ("shapes" if execution.pack == "auto" else execution.pack)
    programs = programs_of(stage, trained, lanes, pack, spec=data.spec, strict=execution.pack != "auto")
    return programs if lanes or stage.after else tuple(in_cache(program, data.spec) for program in programs)


def check_sweep(sweep: SweepConfig, data: Dataset, execution: Execution, source: WrittenPlan | None = None) -> None:
    """ValueError where a sweep cannot be carried out, as far as its first stage tells; `source` as of `planned`."""
    execution.check()
    programs = planned(sweep, next(search(sweep)), data, execution, source)
    if sweep.search in SAMPLERS:  # whose first stage need not have each value of a list
        _check_values(sweep, data)
    for program in programs:
        validate(task_of(program, data.spec), data)


def _check_values(sweep: SweepConfig, data: Dataset) -> None:
    for names, rows in columns(sweep):
        paths = [sweep.paths[name] for name in names]
        run = next(run for run in alternatives(sweep.base, sweep.axes) if all(has(run, path) for path in paths))
        for row in () if isinstance(rows, Range) else rows:
            trial = run
            for path, value in zip(paths, row, strict=True):
                trial = update(trial, path, value)
            validate(make_task(trial, data.spec), data)
