"""Reuse of trials that other runs have trained: of finished sweeps, or of the shards of a sweep."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.options import text
from cnnjax.planning import programs_in, read_plan
from cnnjax.runs.begin import orders
from cnnjax.runs.environment import changes
from cnnjax.runs.records import Counts, Row, data_differences, differences, ended, read_metrics, read_record, result_of
from cnnjax.runs.resume import configuration_of, last_state, length_of
from cnnjax.runs.store import Store, checkpoints_of
from cnnjax.sweeps import Program, Trial, assembled, compare, plan, rank, search, states_of
from cnnjax.training import Lanes, TrainState


def extendable(source: Path, sweep: SweepConfig, classes: Iterable[Any] = ()) -> SweepConfig:
    """Returns the sweep of a run folder, after checking that another sweep can reuse its trials.

    Args:
      source: the run folder.
      sweep: the sweep that is to reuse the trials.
      classes: user-defined classes that the configuration may name.

    Raises:
      ValueError: if one of the two is not a sweep with `search` set to `all`.
      OSError, RecordError: if the folder has no valid `config.json`.
    """
    other = configuration_of(source, classes)
    if not isinstance(other, SweepConfig) or {other.search, sweep.search} != {"all"}:
        raise ValueError(
            f"extend: {source}: its trials cannot be reused: both runs must be sweeps with --search all, which trains "
            "every point for all epochs"
        )
    if other.folds != sweep.folds:
        raise ValueError(
            f"extend: {source}: its trials cannot be reused: it has folds {text(other.folds)}, this sweep has "
            f"{text(sweep.folds)}: use the same --folds"
        )
    return other


def check_shards(sources: Sequence[Path], sweep: SweepConfig, classes: Iterable[Any] = ()) -> None:
    """Checks that runs are all shards of a sweep and have finished.

    Args:
      sources: the run folders of the shards.
      sweep: the whole sweep.
      classes: user-defined classes that the configurations may name.

    Raises:
      ValueError: if a run occurs twice, is of another sweep, or has not finished; or if trials are missing.
      OSError, RecordError: if a record is missing or damaged.
    """
    missing = {trial.number: trial for trial in next(search(sweep)).trials}
    described = describe(sweep)
    for source in sources:
        if [other.resolve() for other in sources].count(source.resolve()) > 1:
            raise ValueError(f"merge: {source} is given twice")
        other = extendable(source, sweep, classes)
        there = describe(replace(other, shard=None))
        changed = [*differences(there, described), *orders(there, described)]
        if changed:
            raise ValueError(f"merge: {source} is of another sweep: {'; '.join(changed)}")
        last = {row["trial"]: row for row in read_metrics(source / "metrics.jsonl")}
        trials = next(search(other)).trials
        if not all(ended(last.get(trial.number), trial) for trial in trials):
            raise ValueError(f"merge: {source} has not finished: run its command again with --resume")
        for trial in trials:
            missing.pop(trial.number, None)
    if missing:
        first = next(iter(missing.values()))
        values = ", ".join(f"{name} {text(value)}" for name, value in [*first.values, *first.repeat.items()])
        raise ValueError(
            f"merge: {len(missing)} trials are in none of these runs, such as {values}: "
            "also train and merge their shards"
        )


def with_more_seeds(source: Path, sweep: SweepConfig, count: int, classes: Iterable[Any] = ()) -> SweepConfig:
    """Returns a sweep that extends a finished one with more seeds for the best point and the undecided points.

    Args:
      source: the run folder of the finished sweep.
      sweep: its configuration; only `equal_within` may differ.
      count: the number of additional seeds.
      classes: user-defined classes that the configuration may name.

    Raises:
      ValueError: if the run is of another sweep, is a single run, a shard or a search, or has not finished; or if no
        point is undecided.
      OSError, RecordError: if a record is missing or damaged.
    """
    if count < 1:
        raise ValueError(f"add_seeds: {count}: must be at least 1")
    if not (source / "config.json").is_file():
        raise ValueError(f"add_seeds: {source}: must be the run folder of a sweep")
    other = configuration_of(source, classes)
    if not isinstance(other, SweepConfig):
        raise ValueError(f"add_seeds: {source}: must be a sweep, not a single run")
    if other.shard or other.search != "all":
        how = f"shard {other.shard}: merge the shards first" if other.shard else f"a sweep by {other.search}"
        raise ValueError(f"add_seeds: {source}: must be a whole sweep with --search all, not {how}")
    there, here = describe(replace(other, equal_within=sweep.equal_within)), describe(sweep)
    if changed := [*differences(there, here), *orders(there, here)]:
        raise ValueError(f"add_seeds: {source} is of another sweep: {'; '.join(changed)}")
    last = {row["trial"]: row for row in read_metrics(source / "metrics.jsonl")}
    trials = next(search(other)).trials
    if not all(ended(last.get(trial.number), trial) for trial in trials):
        raise ValueError(f"add_seeds: {source} has not finished: continue it with --resume")
    counts = Counts.recorded(read_record(source / "data.json"))
    points = rank([result_of(trial, last[trial.number], counts) for trial in trials], sweep.base.metric)
    found = {
        each.point.results[0].trial.point: each.verdict
        for each in compare(points, sweep.base.metric, margin=sweep.equal_within)
    }
    if "undecided" not in found.values():
        raise ValueError(f"add_seeds: {source}: no point is undecided")
    more = dict(sweep.more_seeds)
    more |= {point: more.get(point, 0) + count for point in found if found[point] in ("best", "undecided")}
    return replace(sweep, more_seeds=tuple(sorted(more.items())))


class _Taken(NamedTuple):
    """States and records that another run has of the trials, with the numbers of this run."""

    states: dict[int, TrainState]
    rows: list[Row]


def extend(
    store: Store,
    sweep: SweepConfig,
    data: Dataset,
    sources: Sequence[Path],
    classes: Iterable[Any] = (),
    *,
    allow_changes: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[list[Program], list[Trial]]:
    """Copies the records and states of finished trials from other run folders.

    Args:
      store: the store of the new run, which already has its configuration, environment and data.
      sweep: the sweep of the new run.
      data: its data.
      sources: the other run folders; if several have a trial, the first is used.
      classes: user-defined classes that their configurations may name.
      allow_changes: whether their environment may differ.
      report: called with a message for each damaged checkpoint.

    Returns:
      The programs of the reused trials, and the trials that remain to be trained.

    Raises:
      ValueError: if another run cannot be reused, or has none of the trials.
      RecordError, CheckpointError: if one of its files is damaged.
    """
    trials = next(search(sweep)).trials
    states: dict[int, TrainState] = {}
    rows: list[Row] = []
    for source in sources:
        _refuse_changes(source, store, allow_changes)
        wanted = {trial.config: trial for trial in trials}
        found = _taken(source, extendable(source, sweep, classes), wanted, data, report)
        if not found.states:
            raise ValueError(f"extend: {source}: has finished none of the {len(wanted)} trials of this run")
        rows += [row for row in found.rows if row["trial"] not in states]
        states = {**found.states, **states}
    rows.sort(key=lambda row: (row["epoch"], row["trial"]))
    programs = plan([trial for trial in trials if trial.number in states], Lanes())
    store.cut_metrics(0)
    store.drop_states(0, -1)  # from an attempt that was killed
    for number, program in enumerate(programs):
        ours = {trial.number for trial in program.trials}
        store.append_metrics(row for row in rows if row["trial"] in ours)
        save_end(store, number, program, assembled(program, states, data.spec), data)
    return list(programs), [trial for trial in trials if trial.number not in states]


def _taken(
    source: Path,
    other: SweepConfig,
    wanted: dict[Any, Trial],
    data: Dataset,
    report: Callable[[str], None],
) -> _Taken:
    lines = read_metrics(source / "metrics.jsonl")
    last = {row["trial"]: row for row in lines}
    config, described = (read_record(source / f"{name}.json") for name in ("config", "data"))
    states: dict[int, TrainState] = {}
    numbers: dict[int, int] = {}  # theirs to ours
    programs = programs_in(read_plan(source / "plan.json"), next(search(other)), data.spec)
    for number, program in enumerate(programs):
        trials = [trial.number for trial in program.trials]
        store = checkpoints_of(source, number, trials, config, described, report=report)
        members = {t.number: t for t in program.trials if t.config in wanted and ended(last.get(t.number), t)}
        state = last_state(store, program, data, last) if members else None
        if state is None:
            continue
        for theirs, alone in states_of(program, state, list(members.values()), data.spec).items():
            numbers[theirs] = wanted[members[theirs].config].number
            states[numbers[theirs]] = alone
    rows = [{**row, "trial": numbers[row["trial"]]} for row in lines if row["trial"] in numbers]
    return _Taken(states, rows)


def _refuse_changes(source: Path, store: Store, allow_changes: bool) -> None:
    data = list(data_differences(read_record(source / "data.json"), store.read_json("data.json")))
    changed = data.copy()
    if not allow_changes:
        changed += changes(read_record(source / "env.json"), store.read_json("env.json"))
    if changed:
        allow = "" if data else ": use --allow-changes (allow_changes=True) to reuse its trials"
        raise ValueError(f"extend: {source} was trained differently: {'; '.join(changed)}{allow}")


def save_end(store: Store, number: int, program: Program, state: TrainState, data: Dataset) -> None:
    """Saves the last state of a program that another run has trained.

    It is the state of its last epoch, or of the epoch in which the last of its trials stopped early.
    """
    step = int(np.max(state.step))
    if np.any(state.diverged):
        step = program.config.epochs * length_of(program, data)
    with closing(store.states(number, [trial.number for trial in program.trials])) as states:
        states.save(step, state)
