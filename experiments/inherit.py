"""What a run folder takes from another: trials that were trained already, and the winner of a sweep."""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.planning import describe_plan, read_plan
from cnnjax.runs import (
    RunFolder,
    checkpoints_of,
    compared,
    configuration_of,
    differences,
    ended,
    last_state,
    read_metrics,
    read_record,
)
from cnnjax.sweeps import Program, Trial, assembled, plan, search, states_of
from cnnjax.training import Lanes, TrainState, steps_per_epoch


def extendable(source: Path, sweep: SweepConfig, classes: Iterable[Any] = ()) -> SweepConfig:
    """The sweep of a run folder, if another can take over its trials; `classes` are your own that it may name.

    Raises:
      ValueError: one of them is no sweep that trains every point to its end.
      OSError, RecordError: the folder has no sound `config.json`.
    """
    other = configuration_of(source, classes)
    if not isinstance(other, SweepConfig) or {other.search, sweep.search} != {"all"}:
        raise ValueError(f"extend: {source}: it and this run must be sweeps that train every point to its end")
    return other


def extend(
    folder: RunFolder,
    sweep: SweepConfig,
    dataset: Dataset,
    source: Path,
    fixed: Sequence[str],
    allow_changes: bool,
    report: Callable[[str], None],
    classes: Iterable[Any] = (),
) -> tuple[list[Program], list[Trial]]:
    """Takes over the trials of a sweep that another run folder has trained to their end: records and checkpoints.

    Args:
      folder: of the new run, with its configuration, environment and data written down.
      sweep: what it is to train.
      dataset: on which.
      source: the other run folder.
      fixed: entries of `env.json` that must be the same.
      allow_changes: whether they may differ.
      report: called with a line for each checkpoint that is damaged.
      classes: your own that its configuration may name.

    Returns:
      The programs that the trials taken over make, and the trials that are left to train.

    Raises:
      ValueError: the other run is of another kind, or has none of these trials.
      RecordError, CheckpointError: one of its files is damaged.
    """
    other = extendable(source, sweep, classes)
    _refuse_changes(source, folder, fixed, allow_changes)
    trials = {trial.config: trial for trial in next(search(sweep)).trials}
    lines = read_metrics(source / "metrics.jsonl")
    last = {row["trial"]: row for row in lines}
    config, data = (read_record(source / f"{name}.json") for name in ("config", "data"))
    states: dict[int, TrainState] = {}
    numbers: dict[int, int] = {}  # theirs to ours
    for place, program in enumerate(read_plan(source / "plan.json", next(search(other)), dataset.spec)):
        store = checkpoints_of(source, place, [t.number for t in program.trials], config, data, report=report)
        members = {t.number: t for t in program.trials if t.config in trials and ended(last.get(t.number), t)}
        state = last_state(store, program, dataset) if members else None
        if state is None:
            continue
        for number, alone in states_of(program, state, list(members.values()), dataset.spec).items():
            numbers[number] = trials[members[number].config].number
            states[numbers[number]] = alone
    if not states:
        raise ValueError(f"extend: {source}: has trained none of these {len(trials)} trials to its end")
    rows = sorted(
        ({**row, "trial": numbers[row["trial"]]} for row in lines if row["trial"] in numbers),
        key=lambda row: (row["epoch"], row["trial"]),
    )
    programs = plan([trial for trial in trials.values() if trial.number in states], Lanes())
    folder.cut_metrics(0)
    for place, program in enumerate(programs):
        ours = {trial.number for trial in program.trials}
        folder.append_metrics(row for row in rows if row["trial"] in ours)
        save(folder, place, program, assembled(program, states, dataset.spec), dataset)
    return list(programs), [trial for trial in trials.values() if trial.number not in states]


def _refuse_changes(source: Path, folder: RunFolder, fixed: Sequence[str], allow_changes: bool) -> None:
    changed = list(differences(read_record(source / "data.json"), folder.read_json("data.json")))
    if not allow_changes:
        there = compared(read_record(source / "env.json"), fixed)
        changed += differences(there, compared(folder.read_json("env.json"), fixed))
    if changed:
        raise ValueError(f"extend: {source} was trained otherwise: {'; '.join(changed)}")


def save(folder: RunFolder, place: int, program: Program, state: TrainState, dataset: Dataset) -> None:
    """Writes the last checkpoint of a program into a run folder."""
    config, data = folder.read_json("config.json"), folder.read_json("data.json")
    numbers = [trial.number for trial in program.trials]
    with checkpoints_of(folder.path, place, numbers, config, data) as checkpoints:
        checkpoints.save(program.config.epochs * steps_per_epoch(program.config.batch_size, dataset.train), state)


def winner_folder(
    sweep: RunFolder, trial: Trial, state: TrainState, rows: Sequence[Mapping[str, Any]], dataset: Dataset
) -> Path:
    """A trial of a sweep as a run folder of its own, `winner`, which `train.py --resume` can continue.

    Args:
      sweep: the sweep's folder.
      trial: complete.
      state: its last, in the shapes of its own network.
      rows: the sweep's lines of `metrics.jsonl`.
      dataset: on which it was trained.

    Returns:
      The folder: `winner`, or where there is one from before, `winner-2` and so on.
    """
    alone = trial._replace(number=0, point=0)
    program = Program((alone,), Lanes())
    lines = [{**row, "trial": 0} for row in rows if row["trial"] == trial.number]
    names = ("winner", *(f"winner-{number}" for number in range(2, 10**6)))
    name = next(name for name in names if not _finished(sweep.path / name))
    shutil.rmtree(sweep.path / name, ignore_errors=True)  # of a process that was killed
    with RunFolder(sweep.path, name) as folder:
        folder.write_json("config.json", describe(trial.config))
        for fact in ("env", "data"):
            folder.write_json(f"{fact}.json", read_record(sweep.path / f"{fact}.json"))
        folder.append_metrics(lines)
        save(folder, 0, program, assembled(program, {0: state}, dataset.spec), dataset)
        folder.write_json("plan.json", describe_plan([program]))
    return folder.path


def _finished(winner: Path) -> bool:
    """Whether a folder was written to its end, so that it is its owner's."""
    return (winner / "plan.json").exists()
