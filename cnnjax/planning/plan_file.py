"""Writes and reads `plan.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cnnjax.data import Spec
from cnnjax.options import from_json
from cnnjax.planning.timing import Trialled
from cnnjax.sweeps import Program, Stage, Trial, embedding, plan, structure
from cnnjax.training import Lanes


def describe_timed(timed: Sequence[Trialled]) -> list[dict[str, Any]]:
    """Converts the timings to plain values."""
    return [{**trialled._asdict(), "lanes": str(trialled.lanes)} for trialled in timed]


def describe_plan(programs: Sequence[Program], timed: Sequence[Trialled] = ()) -> dict[str, Any]:
    """Converts a plan to plain values: the programs with their lanes and trials, and the timings."""
    return {
        "device": jax.default_backend(),
        "timed": describe_timed(timed),
        "programs": list(map(_described, programs)),
    }


_STRETCH = ("after", "until", "spare")


def _described(program: Program) -> dict[str, Any]:
    wide = program.wide
    return {
        "network": str(wide or program.config.network),
        "lanes": str(program.lanes),
        "micro_batch": program.micro_batch,
        "trials": [trial.number for trial in program.trials],
        "values": {str(trial.number): _values(trial) for trial in program.trials},
        **({"widths": {name: list(getattr(wide, name)) for name in wide.widths}} if wide else {}),
        **{name: value for name in _STRETCH if (value := getattr(program, name))},
    }


def _values(trial: Trial) -> dict[str, Any]:
    """Returns the swept values of a trial, for human readers only: a plan refers to trials by number."""
    return {**dict(trial.values), **trial.repeat}


def parse_lanes(words: str) -> Lanes:
    """Parses lanes: `width:devices:split`, `width:devices`, or `width` on all devices.

    Raises:
      ValueError: if `words` has another form.
    """
    numbers = words.split(":")
    if len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"lanes: {words!r}: give auto, or parallel lanes and devices, such as 1:2")
    width, *devices = map(int, numbers)
    return Lanes(width, *(devices or [jax.device_count()]))


class WrittenPlan(NamedTuple):
    """The contents of a `plan.json`."""

    name: str
    """Its name in messages."""
    record: Any


def read_plan(path: Path) -> WrittenPlan:
    """Reads a `plan.json`.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is not JSON.
    """
    try:
        return WrittenPlan(str(path), from_json(path.read_bytes()))
    except OSError as error:
        raise type(error)(f"plan: {path}: {error.strerror}: give the plan.json of an earlier run") from None
    except ValueError as error:
        raise ValueError(f"plan: {path}: not a plan: {error}: give the plan.json of an earlier run") from None


def programs_in(written: WrittenPlan, stage: Stage, spec: Spec, alone: bool = True) -> tuple[Program, ...]:
    """Returns the programs of a written plan for the trials of a stage.

    Args:
      written: the plan.
      stage: the stage to train.
      spec: the specification of the data.
      alone: whether the plan must contain exactly these trials. Otherwise other trials in it are
        ignored, and the result is empty if it contains none of these.

    Raises:
      ValueError: if it is not a plan, or its programs do not fit the trials.
    """
    name, trials = written.name, {trial.number: trial for trial in stage.trials}
    try:
        entries: Sequence[Mapping[str, Any]] = written.record["programs"]
        if not alone:
            entries = [
                entry
                for entry in entries
                if (entry.get("after", 0), entry.get("until", 0)) == (stage.after, stage.until)
                and not trials.keys().isdisjoint(entry["trials"])
            ]
        programs = tuple(read_program(entry, trials) for entry in entries)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"plan: {name}: not a plan of these {len(trials)} trials: {error!r}") from None
    if not programs and not alone:
        return ()
    if any(not _fits(program, spec) for program in programs):
        raise ValueError(f"plan: {name}: puts trials of different shapes into one program")
    if sorted(trial.number for program in programs for trial in program.trials) != sorted(trials):
        raise ValueError(f"plan: {name}: does not contain exactly the {len(trials)} trials of this run")
    return programs


def read_program(entry: Mapping[str, Any], trials: Mapping[int, Trial]) -> Program:
    """Reads a program of a plan; `trials` maps numbers to trials."""
    members = tuple(trials[n] for n in entry["trials"])
    network, widths = members[0].config.network, entry.get("widths")
    wide = replace(network, **{name: tuple(map(int, widths[name])) for name in network.widths}) if widths else None
    stretch = {name: int(entry.get(name, 0)) for name in _STRETCH}
    return Program(members, parse_lanes(str(entry["lanes"])), int(entry["micro_batch"]), wide, **stretch)


def _fits(program: Program, spec: Spec) -> bool:
    """Returns whether the trials of a program can be its lanes."""
    if program.wide is None:
        return len({structure(trial.config) for trial in program.trials}) == 1
    networks = [trial.config.network for trial in program.trials]
    one = plan(program.trials, pack="one", spec=spec, strict=False)
    return len(one) == 1 and embedding.widest([*networks, program.wide]) == program.wide
