"""A plan on paper: `plan.json`, written and read."""

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
        "network": str(wide or program.config.network),
        "lanes": str(program.lanes),
        "micro_batch": program.micro_batch,
        "trials": [trial.number for trial in program.trials],
        "values": {str(trial.number): _values(trial) for trial in program.trials},
        **({"widths": {name: list(getattr(wide, name)) for name in wide.widths}} if wide else {}),
        **{name: value for name in _STRETCH if (value := getattr(program, name))},
    }


def _values(trial: Trial) -> dict[str, Any]:
    """What a trial's swept values are, for a reader: a plan that is followed goes by numbers."""
    return {**dict(trial.values), "seed": trial.config.seed}


def parse_lanes(words: str) -> Lanes:
    """Lanes as they are written: `width:devices:split`, `width:devices`, or `width` over all devices."""
    numbers = words.split(":")
    if len(numbers) > 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"lanes: {words!r}: give auto, or lanes side by side and devices, as 1:2")
    width, *devices = map(int, numbers)
    return Lanes(width, *(devices or [jax.device_count()]))


class WrittenPlan(NamedTuple):
    """What a `plan.json` holds."""

    name: str
    """What messages call it."""
    record: Any


def read_plan(path: Path) -> WrittenPlan:
    """A `plan.json`.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no JSON.
    """
    try:
        return WrittenPlan(str(path), from_json(path.read_bytes()))
    except OSError as error:
        raise type(error)(f"plan: {path}: {error.strerror}: give the plan.json of an earlier run") from None
    except ValueError as error:
        raise ValueError(f"plan: {path}: no plan: {error}") from None


def programs_in(written: WrittenPlan, stage: Stage, spec: Spec, alone: bool = True) -> tuple[Program, ...]:
    """The programs of an earlier plan, for trials that group in the same way.

    Args:
      written: the plan.
      stage: what is to be trained.
      spec: what the data is.
      alone: whether the plan must be of no other trials; else what it says of others is passed over,
        and there are no programs where it says nothing of these.

    Raises:
      ValueError: it is no plan, or one of other groups.
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
        raise ValueError(f"plan: {name}: no plan of these {len(trials)} trials: {error!r}") from None
    if not programs and not alone:
        return ()
    if any(not _fits(program, spec) for program in programs):
        raise ValueError(f"plan: {name}: puts trials of different shapes into one program")
    if sorted(trial.number for program in programs for trial in program.trials) != sorted(trials):
        raise ValueError(f"plan: {name}: plans other trials than the {len(trials)} of this run")
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
