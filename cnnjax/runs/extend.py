"""What a run takes from others: trials that were trained already, of sweeps or of shards of one."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.options import text
from cnnjax.planning import programs_in, read_plan
from cnnjax.runs.begin import orders
from cnnjax.runs.environment import changes
from cnnjax.runs.records import Counts, Row, differences, ended, read_metrics, read_record, result_of
from cnnjax.runs.resume import configuration_of, last_state, length_of
from cnnjax.runs.store import Store, checkpoints_of
from cnnjax.sweeps import Program, Trial, assembled, compare, plan, rank, search, states_of
from cnnjax.training import Lanes, TrainState


def extendable(source: Path, sweep: SweepConfig, classes: Iterable[Any] = ()) -> SweepConfig:
    """The sweep of a run folder, if another can take over its trials; `classes` are your own that it may name.

    Raises:
      ValueError: one of them is no sweep that trains every point to its end.
      OSError, RecordError: the folder has no valid `config.json`.
    """
    other = configuration_of(source, classes)
    if not isinstance(other, SweepConfig) or {other.search, sweep.search} != {"all"}:
        raise ValueError(
            f"extend: {source}: cannot be taken over: it and this run must be sweeps with --search all, which train "
            "every point to its end"
        )
    return other


def check_shards(sources: Sequence[Path], sweep: SweepConfig, classes: Iterable[Any] = ()) -> None:
    """Checks that runs are the shards of a sweep and are trained to their end, before anything is written.

    Raises:
      ValueError: one occurs twice, is of another sweep, or has not ended; or trials are missing.
      OSError, RecordError: a record is not there, or damaged.
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
            raise ValueError(f"merge: {source} has not ended: run its command again with --resume")
        for trial in trials:
            missing.pop(trial.number, None)
    if missing:
        first = next(iter(missing.values()))
        values = ", ".join(f"{name} {text(value)}" for name, value in first.values)
        raise ValueError(
            f"merge: {len(missing)} trials are in none of these runs, as {values}, seed {first.config.seed}: train the "
            "shards that have them"
        )


def with_more_seeds(source: Path, sweep: SweepConfig, count: int, classes: Iterable[Any] = ()) -> SweepConfig:
    """A sweep with more seeds for its best point and for those that are undecided, which is to extend its run.

    Args:
      source: the run folder of the sweep, which has ended.
      sweep: the sweep; of what the run has only `equal_within` may be changed.
      count: how many more seeds.
      classes: your own that its configuration may name.

    Raises:
      ValueError: the run is no sweep that trained every point to its end, or another one; no point is undecided.
      OSError, RecordError: a record is not there, or damaged.
    """
    if count < 1:
        raise ValueError(f"add_seeds: {count}: must be at least 1")
    if not (source / "config.json").is_file():
        raise ValueError(f"add_seeds: {source}: must be the run folder of a sweep")
    other = configuration_of(source, classes)
    if not isinstance(other, SweepConfig):
        raise ValueError(f"add_seeds: {source}: is a single run, not a sweep")
    if other.shard or other.search != "all":
        how = f"shard {other.shard}: merge the shards first" if other.shard else f"a sweep by {other.search}"
        raise ValueError(f"add_seeds: {source}: must be a whole sweep with --search all, not {how}")
    there, here = describe(replace(other, equal_within=sweep.equal_within)), describe(sweep)
    if changed := [*differences(there, here), *orders(there, here)]:
        raise ValueError(f"add_seeds: {source} is of another sweep: {'; '.join(changed)}")
    last = {row["trial"]: row for row in read_metrics(source / "metrics.jsonl")}
    trials = next(search(other)).trials
    if not all(ended(last.get(trial.number), trial) for trial in trials):
        raise ValueError(f"add_seeds: {source} has not ended: continue it with --resume")
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
    """What another run has of these trials, by their numbers here."""

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
    """Takes over the trials of sweeps that other run folders have trained to their end: records and states.

    Args:
      store: of the new run, with its configuration, environment and data written down.
      sweep: what it is to train.
      data: on which.
      sources: the other run folders; of what several have, the first counts.
      classes: your own that their configurations may name.
      allow_changes: whether their environment may differ.
      report: called with a line for each checkpoint that is damaged.

    Returns:
      The programs that the trials taken over make, and the trials that are left to train.

    Raises:
      ValueError: another run is of another kind, or has none of these trials.
      RecordError, CheckpointError: one of its files is damaged.
    """
    trials = next(search(sweep)).trials
    states: dict[int, TrainState] = {}
    rows: list[Row] = []
    for source in sources:
        _refuse_changes(source, store, allow_changes)
        wanted = {trial.config: trial for trial in trials}
        found = _taken(source, extendable(source, sweep, classes), wanted, data, report)
        if not found.states:
            raise ValueError(f"extend: {source}: has trained none of these {len(wanted)} trials to its end")
        rows += [row for row in found.rows if row["trial"] not in states]
        states = {**found.states, **states}
    rows.sort(key=lambda row: (row["epoch"], row["trial"]))
    programs = plan([trial for trial in trials if trial.number in states], Lanes())
    store.cut_metrics(0)
    store.drop_states(0, -1)  # of an attempt that was killed
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
        state = last_state(store, program, data) if members else None
        if state is None:
            continue
        for theirs, alone in states_of(program, state, list(members.values()), data.spec).items():
            numbers[theirs] = wanted[members[theirs].config].number
            states[numbers[theirs]] = alone
    rows = [{**row, "trial": numbers[row["trial"]]} for row in lines if row["trial"] in numbers]
    return _Taken(states, rows)


def _refuse_changes(source: Path, store: Store, allow_changes: bool) -> None:
    data = list(differences(read_record(source / "data.json"), store.read_json("data.json")))
    changed = data.copy()
    if not allow_changes:
        changed += changes(read_record(source / "env.json"), store.read_json("env.json"))
    if changed:
        allow = "" if data else ": --allow-changes (allow_changes=True) takes them all the same"
        raise ValueError(f"extend: {source} was trained otherwise: {'; '.join(changed)}{allow}")


def save_end(store: Store, number: int, program: Program, state: TrainState, data: Dataset) -> None:
    """Keeps the last state of a program, which another run trained."""
    with closing(store.states(number, [trial.number for trial in program.trials])) as states:
        states.save(program.config.epochs * length_of(program, data), state)
