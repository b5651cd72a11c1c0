"""Carries out a sweep: plans it, opens its run folder, trains, records every epoch, tests the winner.

A single run is a sweep of one trial. What was started is continued from its checkpoints: records
and tables come out as if it had not stopped. `metrics.jsonl` is written before the checkpoint that
it leads to, so that no checkpoint is ahead of its records.
"""

import dataclasses
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from command_line import Display, Interrupted, shown, signals
from errors import usage
from execution import Options
from inherit import extend
from plans import check, packing, planned, swept
from presets import ROOT, Preset

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.devices import free_memory
from cnnjax.options import text
from cnnjax.planning import Packing, describe_plan, describe_timed, in_chunks, largest_of, tune
from cnnjax.runs import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    RecordError,
    RunFolder,
    checkpoints_of,
    compared,
    describe_data,
    differences,
    environment,
    epoch_rows,
    gone,
    last_state,
    plain,
    preload,
    result_of,
)
from cnnjax.sweeps import (
    Program,
    Ranked,
    Result,
    Stage,
    Trial,
    assembled,
    compile_program,
    homes,
    measure_test_of,
    rank,
    stages,
    state_of,
    states_of,
    work,
)
from cnnjax.training import Lanes, Run, TrainState, count_parameters, measured, parts, steps_per_epoch


class Outcome(NamedTuple):
    """What a sweep came to."""

    points: list[Ranked]
    """Best first."""
    tests: dict[int, tuple[float, float]]
    """Test metric and loss of the winner's trials, by number."""
    state: TrainState | None
    """The last of the winner's first seed that is complete, in the shapes of its network."""
    parameters: int
    """Trainable numbers of the winner's network."""
    rows: list[dict[str, Any]]
    """The lines of `metrics.jsonl`."""

    @property
    def winner(self) -> Ranked:
        return self.points[0]

    @property
    def results(self) -> list[Result]:
        """By trial."""
        return sorted((r for point in self.points for r in point.results), key=lambda r: r.trial.number)


@contextmanager
def opened(config: TrainConfig | SweepConfig, options: Options, preset: Preset) -> Iterator[tuple[Dataset, RunFolder]]:
    """The data and run folder of a sweep, after every check that needs no training."""
    sweep = swept(config)
    dataset = preset.dataset(sweep.base.data, options.data_dir)
    with usage(options.debug):
        check(sweep, dataset, options, preset)
        folder = RunFolder(options.runs_dir, options.name, preset.name, resume=options.resume)
    with folder:
        _begin(folder, config, dataset, options, preset)
        if options.extend and folder.read_json("plan.json") is None:
            with usage(options.debug):
                _extend(folder, sweep, dataset, options, options.extend, preset)
        yield dataset, folder


def _extend(
    folder: RunFolder, sweep: SweepConfig, dataset: Dataset, options: Options, source: Path, preset: Preset
) -> None:
    """Takes over what another run has trained, and plans the rest."""
    fixed = [name for name in _FIXED if name != "devices"]  # of which there are as many as trials need
    taken, missing = extend(folder, sweep, dataset, source, fixed, options.allow_changes, print, preset.classes)
    stage = Stage(tuple(missing), 0, 0)
    pack = packing(stage, dataset, options) if missing else Packing("shapes", {})
    rest = planned(sweep, stage, dataset, options, None, pack=pack.pack)
    plan = {**describe_plan([*taken, *rest]), "pack": pack._asdict()}
    del plan["timed"]  # as long as nothing was
    folder.write_json("plan.json", plan)


_FIXED = ("packages", "device", "devices", "source", "preset")  # of the environment, while a run lasts
_POINTS = {field.name for field in dataclasses.fields(SweepConfig)} - {"base"}


def _begin(
    folder: RunFolder, config: TrainConfig | SweepConfig, dataset: Dataset, options: Options, preset: Preset
) -> None:
    """Writes down what the run is; of one that is continued, refuses what has changed since."""
    env = environment(ROOT)
    if code := preset.facts(config):
        env["preset"] = code
    facts = {"config": describe(config), "env": env, "data": describe_data(dataset)}
    changed: list[str] = []
    for name, here in facts.items():
        there = folder.read_json(f"{name}.json")
        if there is None:
            folder.write_json(f"{name}.json", here)
            continue
        here = json.loads(json.dumps(plain(here)))
        if name == "env":
            there, here = (compared(value, _FIXED) for value in (there, here))
        changed += differences(there, here)
    if isinstance(config, SweepConfig) and any(line.split(".")[0].split()[0] in _POINTS for line in changed):
        with usage(options.debug):
            raise ValueError(
                f"resume: {folder.path} has other trials: {'; '.join(changed)}: --extend {folder.path} and another "
                "--name take over those that both have"
            )
    if changed and not options.allow_changes:
        with usage(options.debug):
            raise ValueError(
                f"resume: {folder.path} was started with other settings: {'; '.join(changed)}: "
                "--allow-changes continues all the same"
            )
    if changed:
        if (summary := folder.path / "summary.json").exists():
            before = (folder.path / f"summary-before{number}.json" for number in ("", *range(2, 10**6)))
            summary.rename(next(path for path in before if not path.exists()))
        for name, here in facts.items():
            folder.write_json(f"{name}.json", here, again=True)
    elif folder.read_json("summary.json") is not None:
        print(f"{folder.path} is complete")
        raise SystemExit(0)


class _Begun(NamedTuple):
    """How far the programs of a stage have come."""

    finished: int
    """That are at their end."""
    checkpoint: Checkpoint | None
    """Of the program after them."""


Stores = Callable[[int, Program], Checkpoints]
"""stores(number, program): where the checkpoints of a program lie."""


def _begun(
    programs: Sequence[Program],
    before: int,
    lines: Sequence[Mapping[str, Any]],
    passed: dict[int, int],
    dataset: Dataset,
    stores: Stores,
) -> _Begun:
    """How far the programs of a stage have come; `passed` is told the epochs that each trial has behind it."""
    deaths = {row["trial"]: row["epoch"] for row in lines if gone(row)}
    for finished, program in enumerate(programs):
        checkpoint = stores(before + finished, program).restore(state_of(program, dataset.spec))
        if checkpoint is None:
            return _Begun(finished, None)
        length = _length(program, dataset)
        epoch, within = divmod(checkpoint.step, length)
        if checkpoint.step > program.end * length:
            raise ValueError(f"epochs: {program.end}: {checkpoint.path} has trained longer already")
        passed.update((trial.number, min(epoch, deaths.get(trial.number, epoch))) for trial in program.trials)
        all_gone = all(deaths.get(trial.number, math.inf) <= epoch for trial in program.trials)
        if within or not (epoch == program.end or all_gone):
            return _Begun(finished, checkpoint)
    return _Begun(len(programs), None)


def _lines_of(folder: RunFolder, lines: Sequence[dict[str, Any]], passed: Mapping[int, int]) -> list[dict[str, Any]]:
    """The lines up to where the trials have come; RecordError where one is missing."""
    rows = list(takewhile(lambda row: row["epoch"] <= passed.get(row["trial"], -1), lines))
    ends: dict[int, int] = {}
    for row in rows:
        ends[row["trial"]] = row["epoch"] if row["epoch"] == ends.get(row["trial"], 0) + 1 else -1
    wrong = [trial for trial in {**passed, **ends} if ends.get(trial, 0) != passed.get(trial)]
    if wrong:
        raise RecordError(
            f"{folder.path / 'metrics.jsonl'}: lines of trial {wrong[0]} are missing that come before its checkpoint: "
            "remove the run folder and train again"
        )
    return rows


def _length(program: Program, dataset: Dataset) -> int:
    return steps_per_epoch(program.config.batch_size, dataset.train)


def conduct(sweep: SweepConfig, dataset: Dataset, folder: RunFolder, options: Options) -> Outcome:
    """Trains every stage of a sweep; writes a line of `metrics.jsonl` for each trial and epoch.

    A diverged trial has one line with nulls, for the epoch in which it diverged, and none after.
    The test split is read once, for the winner.

    Raises:
      Interrupted: a signal came, and the state is saved.
    """
    per_epoch, metric_of = len(dataset.train.labels), sweep.base.metric
    display = Display(work(sweep) * per_epoch, options.quiet)
    config, data = folder.read_json("config.json"), folder.read_json("data.json")

    def stores(number: int, program: Program) -> Checkpoints:
        lanes = [trial.number for trial in program.trials]
        keep = {"latest": options.keep_latest, "best": options.keep_best}
        return checkpoints_of(
            folder.path, number, lanes, config, data, **keep, report=display.line, of_any=options.allow_changes
        )

    carried: list[Program] = []  # programs that are finished, by number
    last: dict[int, dict[str, Any]] = {}  # line of each trial
    before = folder.read_json("plan.json") or {}
    notes = {name: before[name] for name in ("pack", "timed") if name in before}  # of plan.json, besides the programs
    lines: list[dict[str, Any]] | None = None  # of a run that goes on, until it is where it was
    passed: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    plan_path = folder.path / "plan.json"
    if options.resume or options.extend:
        lines = folder.metrics()
    everyone: dict[int, Trial] = {}
    for stage in stages(sweep, lambda trial: result_of(trial, last[trial.number], per_epoch)):
        everyone |= {trial.number: trial for trial in stage.trials}
        source = plan_path if plan_path.exists() else options.plan_from
        with usage(options.debug):
            if not source and "pack" not in notes:
                notes["pack"] = packing(stage, dataset, options)._asdict()
            programs = planned(sweep, stage, dataset, options, source, carried, notes.get("pack", {}).get("pack"))
            begun = _Begun(0, None)
            if lines is not None:
                begun = _begun(programs, len(carried), lines, passed, dataset, stores)
                rows = _lines_of(folder, lines, passed)
                last.update((row["trial"], row) for row in rows)
                carried += programs[: begun.finished]
                if begun.finished < len(programs):
                    lines = None
                    folder.cut_metrics(len(rows))
                    _drop_later(folder, len(carried), begun.checkpoint.step if begun.checkpoint else -1)
                    if rows:
                        display.line(f"{folder.path}: continues after {len(rows)} lines of metrics.jsonl")
                        display.advance(len(rows) * per_epoch, str, spent=False)
        rest = programs[begun.finished :]
        for program, run in _prepared(
            rest, dataset, folder, options, display, carried, notes, begun.checkpoint is not None
        ):
            checkpoint, begun = begun.checkpoint, _Begun(0, None)
            with stores(len(carried), program) as checkpoints, signals.held():
                if checkpoint:
                    step, state = checkpoint.step, run.place(checkpoint.state)
                elif program.after:
                    step, state = (
                        program.after * run.steps,
                        run.place(assembled(program, _states(program.trials, carried, dataset, stores), dataset.spec)),
                    )
                else:
                    step, state = 0, run.state
                saved = time.monotonic()
                for step, state in parts(run, state, step):  # noqa: B020
                    metric, whole = None, step % run.steps == 0
                    if whole:
                        epoch = plain(epoch_rows(program, measured(run, step, state)))
                        new = [row for row in epoch if not gone(last.get(row["trial"]))]
                        folder.append_metrics(new)
                        rows += new
                        last.update((row["trial"], row) for row in new)
                        values = [-metric_of.cost(row[f"valid_{metric_of.name}"]) for row in new if not gone(row)]
                        metric = max(values, default=None)
                        standing = partial(_standing, stage, last, per_epoch)
                        display.advance(len(program.trials) * per_epoch, standing)
                        if len(everyone) == 1:
                            display.line(f"epoch {step // run.steps}/{program.config.epochs}: {standing()}")
                    stop = signals.pending
                    rests = all(gone(last.get(trial.number)) for trial in program.trials)
                    over = whole and (step == program.end * run.steps or rests)
                    due = time.monotonic() - saved >= options.save_seconds and (whole or options.save_seconds > 0)
                    if over or due or stop:
                        folder.sync_metrics()
                        checkpoints.save(step, state, metric)
                        saved = time.monotonic()
                    if over or stop:
                        break
            if stop:
                where = f"{folder.path}: saved at step {step}: the same command with --resume"
                raise Interrupted(signals.pending, where)
            carried.append(program)
            if len(everyone) > 1 and not options.quiet:
                display.line(f"{len(last)} trials so far; {standing()}")
    display.close()
    if lines is not None:  # all was trained before; at most its last line was not finished
        folder.cut_metrics(len(rows))
    points = rank([result_of(trial, last[number], per_epoch) for number, trial in everyone.items()], metric_of)
    best = points[0].results[0].trial
    complete = [result.trial for result in points[0].results if result.status == "complete"]
    states = _states(complete, carried, dataset, stores)
    tests = measure_test_of(complete, states, dataset)
    alone = count_parameters(state_of(Program((best,), Lanes()), dataset.spec))
    end = states[complete[0].number] if complete else None
    return Outcome(points, tests, end, alone, rows)


def _standing(stage: Stage, last: Mapping[int, Mapping[str, Any]], examples: int) -> str:
    """The trials of a sweep by status, and the best point so far."""
    results = [result_of(trial, last[trial.number], examples) for trial in stage.trials if trial.number in last]
    metric = stage.trials[0].config.metric
    best = rank(results, metric)[0]
    valid = f"valid {metric.kind()} {shown(best.valid_metric, metric)} {point_name(best)}".strip()
    if len(stage.trials) == 1:
        return f"train loss {results[0].train_loss:.4f}, {valid}"
    diverged = sum(map(gone, last.values()))
    alive = len(stage.trials) - sum(result.status == "diverged" for result in results)
    others = len(last.keys() - {trial.number for trial in stage.trials})
    stopped = others - diverged + len(stage.trials) - alive if stage.after else 0
    return f"{alive} alive, {stopped} stopped, {diverged} diverged; best {valid}"


def _drop_later(folder: RunFolder, number: int, step: int) -> None:
    """Removes what was saved after a step of a program, from which training goes on."""
    for path in (folder.path / "checkpoints").glob("*"):
        if path.name.isdecimal() and int(path.name) >= number:
            Checkpoints(path, "").drop_after(step if int(path.name) == number else -1)


def _end(number: int, program: Program, dataset: Dataset, stores: Stores) -> TrainState:
    """The last state of a program."""
    store = stores(number, program)
    state = last_state(store, program, dataset)
    if state is None:
        raise CheckpointError(f"{store.folder}: its last is damaged: --resume trains from the one before")
    return state


def _states(
    trials: Sequence[Trial], carried: Sequence[Program], dataset: Dataset, stores: Stores
) -> dict[int, TrainState]:
    """The last states of trials, by number, from the checkpoints of the programs in which they trained last."""
    states: dict[int, TrainState] = {}
    for place, members in homes([trial.number for trial in trials], carried).items():
        states |= states_of(carried[place], _end(place, carried[place], dataset, stores), members, dataset.spec)
    return states


def _prepared(
    programs: Sequence[Program],
    dataset: Dataset,
    folder: RunFolder,
    options: Options,
    display: Display,
    carried: Sequence[Program],
    notes: dict[str, Any],
    begun: bool,
) -> Iterator[tuple[Program, Run]]:
    """Each program with its compiled run; the next ones compile while one trains.

    With `begun` the first has a checkpoint of all of its lanes, and is not cut into chunks.

    How they are carried out is written to `plan.json` before the first trains, and again where a
    program turns out to need more memory than there is.
    """
    with ThreadPoolExecutor(ahead := os.cpu_count() or 1) as pool:
        pool.submit(preload)

        def start(program: Program) -> Future[Run]:
            return pool.submit(compile_program, program, dataset, begun and program is programs[0])

        free = {n: free_memory(n) for n in {1, *(program.lanes.all_devices for program in programs)}}

        def available(devices: int) -> int:
            return (
                free.get(devices, free[1] // devices)
                if options.memory is None
                else int(options.memory * 2**30 / devices)
            )

        started: dict[Program, Future[Run]] = {}
        if options.lanes == "auto" and not options.plan_from and "timed" not in notes:
            largest = largest_of(programs)
            started = {program: start(program) for program in programs[:ahead] if program is not largest}
            programs, timed = tune(programs, dataset, tuple(started.values()), available)
            notes["timed"] = describe_timed(timed)

        def write(programs: Iterable[Program]) -> None:
            folder.write_json("plan.json", {**describe_plan([*carried, *programs]), **notes}, again=True)

        write(programs)
        waiting: deque[tuple[Program, Future[Run] | None]] = deque(
            (program, started.pop(program, None)) for program in programs
        )
        started.clear()
        try:
            while waiting:
                for i in range(min(ahead, len(waiting))):
                    program, future = waiting[i]
                    waiting[i] = program, future or start(program)
                program, future = waiting.popleft()
                assert future is not None
                run, devices = future.result(), program.lanes.all_devices
                with usage(options.debug):
                    chunks = (program,) if begun else in_chunks(program, run.memory, available(devices))
                begun = False
                if chunks == (program,):
                    yield program, run
                    continue
                waiting.extendleft((chunk, None) for chunk in reversed(chunks))
                display.line(
                    f"memory: {len(program.trials)} trials at once take {devices * run.memory / 2**30:.3g} GiB: "
                    f"{len(chunks)} programs of at most {len(chunks[0].trials)}"
                )
                write(entry for entry, _ in waiting)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def point_name(point: Ranked) -> str:
    """A point as it would be asked for: `learning_rate 0.1 filters 8,16`."""
    return " ".join(f"{name} {text(value)}" for name, value in point.values.items())
