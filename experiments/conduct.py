"""Carries out a sweep: plans it, opens its run folder, trains, records every epoch, tests the winner.

A single run is a sweep of one trial. What was begun is gone on with from its checkpoints: records
and tables come out as if it had not stopped. `metrics.jsonl` is written before the checkpoint that
it leads to, so that no checkpoint is ahead of its records.
"""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple

from command_line import ROOT, Display, Interrupted, Options, percent, signals, usage

from cnnjax import data
from cnnjax.checkpoints import Checkpoint, CheckpointError, Checkpoints, preload
from cnnjax.config import SweepConfig, TrainConfig, text
from cnnjax.data import Dataset
from cnnjax.judgement import Ranked, rank
from cnnjax.planning import (
    Trialled,
    choose,
    describe_plan,
    free_memory,
    in_cache,
    in_chunks,
    largest_of,
    parse_lanes,
    read_plan,
    works,
)
from cnnjax.records import (
    RecordError,
    RunFolder,
    describe,
    describe_data,
    differences,
    environment,
    plain,
)
from cnnjax.runs import checkpoints_of
from cnnjax.sweeps import (
    Program,
    Result,
    Trial,
    measure_test_of,
    plan,
    prepare,
    results,
    state_of,
    trials,
)
from cnnjax.training import Progress, Run, make_task, measured, parameters, parts


class Outcome(NamedTuple):
    """What a sweep came to."""

    points: list[Ranked]
    """Best first."""
    tests: dict[int, tuple[float, float]]
    """Test accuracy and loss of the winner's trials, by number."""
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
def opened(
    config: TrainConfig | SweepConfig, options: Options, preset: str
) -> Iterator[tuple[tuple[Program, ...], Dataset, RunFolder]]:
    """The programs, data and run folder of a sweep, after every check that needs no training."""
    sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)
    dataset = data.load(sweep.base.data, options.data_dir)
    with usage(options.debug):
        planned = trials(sweep)
        begun = options.runs_dir.expanduser() / (options.name or "") / "plan.json"
        source = begun if options.resume and begun.is_file() else options.plan_from
        if source:
            if options.lanes != "auto" and source is options.plan_from:
                raise ValueError(f"lanes: {options.lanes}: the plan {source} says how: give one of both")
            programs = read_plan(source, planned)
        else:
            programs = plan(planned, None if options.lanes == "auto" else parse_lanes(options.lanes))
            if options.lanes == "auto":
                programs = tuple(in_cache(program, dataset) for program in programs)
        for program in programs:
            make_task(program.config, dataset, split=program.lanes.split)
            if source and program.micro_batch and not works(program, dataset):
                raise ValueError(
                    f"plan: {source}: micro_batch: {program.micro_batch}: must divide a device's part of "
                    f"batch_size {program.config.batch_size}, and the network can have neither batch_norm nor dropout"
                )
        folder = RunFolder(options.runs_dir, options.name, preset, resume=options.resume)
    with folder:
        _begin(folder, config, dataset, options)
        yield programs, dataset, folder


_FIXED = ("packages", "device", "devices", "source")  # of the environment, while a run goes on


def _begin(folder: RunFolder, config: TrainConfig | SweepConfig, dataset: Dataset, options: Options) -> None:
    """Writes down what the run is; of one that goes on, refuses what has changed since."""
    facts = {"config": describe(config), "env": environment(ROOT), "data": describe_data(dataset)}
    changed: list[str] = []
    for name, here in facts.items():
        there = folder.read_json(f"{name}.json")
        if there is None:
            folder.write_json(f"{name}.json", here)
            continue
        here = json.loads(json.dumps(plain(here)))
        if name == "env" and isinstance(there, dict):
            there, here = ({key: value.get(key) for key in _FIXED} for value in (there, here))
        changed += differences(there, here)
    if changed and not options.allow_changes:
        with usage(options.debug):
            raise ValueError(
                f"resume: {folder.path} began otherwise: {'; '.join(changed)}: --allow-changes goes on all the same"
            )
    if changed:
        if (summary := folder.path / "summary.json").exists():
            summary.rename(folder.path / "summary-before.json")
        for name, here in facts.items():
            folder.write_json(f"{name}.json", here, again=True)
    elif folder.read_json("summary.json") is not None:
        print(f"{folder.path} is complete")
        raise SystemExit(0)


class _Begun(NamedTuple):
    """How far a run folder has come."""

    programs: int
    """That are finished."""
    checkpoint: Checkpoint | None
    """Of the program after them."""
    rows: list[dict[str, Any]]
    """The lines of `metrics.jsonl` up to there; what came after is cut."""


def _begun(
    programs: Sequence[Program],
    dataset: Dataset,
    folder: RunFolder,
    store: Callable[[int, Program], Checkpoints],
    of_any: bool,
) -> _Begun:
    lines = folder.metrics()
    for number, row in enumerate(lines, 1):
        if not _whole(row):
            raise RecordError(f"{folder.path / 'metrics.jsonl'}: line {number} is damaged: not the fields of an epoch")
    gone = {row["trial"]: row["epoch"] for row in lines if _diverged(row)}
    passed: dict[int, int] = {}  # epochs that a trial has behind it
    checkpoint, finished = None, 0
    for program in programs:
        checkpoint = store(finished, program).restore(state_of(program, dataset), of_any=of_any)
        if checkpoint is None:
            break
        length = _length(program, dataset)
        epoch, within = divmod(checkpoint.step, length)
        if checkpoint.step > program.config.epochs * length:
            raise ValueError(f"epochs: {program.config.epochs}: {checkpoint.path} has trained longer already")
        passed.update((trial.number, min(epoch, gone.get(trial.number, epoch))) for trial in program.trials)
        all_gone = all(gone.get(trial.number, math.inf) <= epoch for trial in program.trials)
        if within or not (epoch == program.config.epochs or all_gone):
            break
        checkpoint, finished = None, finished + 1
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
    folder.cut_metrics(len(rows))
    for number, program in enumerate(programs[finished:], finished):  # what was saved after one that is damaged
        store(number, program).drop_after(checkpoint.step if checkpoint and number == finished else -1)
    return _Begun(finished, checkpoint, rows)


def _whole(row: Mapping[str, Any]) -> bool:
    """Whether a line has the fields of one."""
    counts = [row.get(name) for name in ("trial", "epoch", "step")]
    means = [row.get(name, "") for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")]
    return all(type(count) is int for count in counts) and all(
        mean is None or type(mean) in (int, float) for mean in means
    )


def _length(program: Program, dataset: Dataset) -> int:
    return len(dataset.train.labels) // program.config.batch_size


def conduct(programs: tuple[Program, ...], dataset: Dataset, folder: RunFolder, options: Options) -> Outcome:
    """Trains every program; writes a line of `metrics.jsonl` for each trial and epoch.

    A diverged trial has one line with nulls, for the epoch in which it diverged, and none after.
    The test split is read once, for the winner.

    Raises:
      Interrupted: a signal came, and the state is saved.
    """
    per_epoch = len(dataset.train.labels)
    display = Display(sum(len(p.trials) * p.config.epochs for p in programs) * per_epoch, options.quiet)
    several = sum(len(program.trials) for program in programs) > 1
    config, data = folder.read_json("config.json"), folder.read_json("data.json")

    def store(number: int, program: Program) -> Checkpoints:
        lanes = [trial.number for trial in program.trials]
        keep = {"latest": options.keep_latest, "best": options.keep_best, "report": display.line}
        return checkpoints_of(folder.path, number, lanes, config, data, **keep)

    with usage(options.debug):
        begun = _begun(programs, dataset, folder, store, options.allow_changes)
    rows, checkpoint = begun.rows, begun.checkpoint
    trained = list(programs[: begun.programs])
    last = {row["trial"]: row for row in rows}
    finished = [_result(trial, last[trial.number], p, dataset) for p in trained for trial in p.trials]
    if rows:
        display.line(f"{folder.path}: goes on after {len(finished)} trials and {len(rows)} lines of metrics.jsonl")
        display.advance(len(rows) * per_epoch, "")
    rest = programs[begun.programs :]
    for program, run in _prepared(rest, dataset, folder, options, display, trained, whole=checkpoint is not None):
        with store(len(trained), program) as checkpoints, signals.held():
            step, state = (checkpoint.step, run.place(checkpoint.state)) if checkpoint else (0, run.state)
            checkpoint, saved, now = None, time.monotonic(), []
            for step, state in parts(run, state, step):  # noqa: B020
                metric, whole = None, step % run.steps == 0
                if whole:
                    progress = measured(run, step, state)
                    now = [
                        _result(result.trial, last[result.trial.number], program, dataset)
                        if _diverged(last.get(result.trial.number))
                        else result
                        for result in results(program, progress)
                    ]
                    new = [row for row in _rows(progress, now) if not _diverged(last.get(row["trial"]))]
                    folder.append_metrics(new)
                    rows += new
                    last.update((row["trial"], row) for row in new)
                    best = rank([*finished, *now])[0]
                    metric = max((r.valid_accuracy for r in now if r.status == "complete"), default=None)
                    note = f"valid {percent(best.valid_accuracy)} {point_name(best)}".strip()
                    display.advance(len(now) * per_epoch, note)
                    if not several:
                        loss = now[0].train_loss
                        display.line(f"epoch {progress.epoch}/{program.config.epochs}: train loss {loss:.4f}, {note}")
                stop = signals.pending
                over = whole and (step == run.epochs * run.steps or all(r.status == "diverged" for r in now))
                due = time.monotonic() - saved >= options.save_seconds and (whole or options.save_seconds > 0)
                if over or due or stop:
                    checkpoints.save(step, state, metric)
                    saved = time.monotonic()
                if over or stop:
                    break
        if signals.pending:
            raise Interrupted(signals.pending, f"{folder.path}: saved at step {step}: the same command with --resume")
        trained.append(program)
        finished += now
        if several:
            display.line(f"{len(finished)} trials trained; best so far: {note}")
    display.close()
    points = rank(finished)
    tests: dict[int, tuple[float, float]] = {}
    complete = {result.trial.number for result in points[0].results if result.status == "complete"}
    for number, program in enumerate(trained):
        numbers = [trial.number for trial in program.trials if trial.number in complete]
        if numbers:
            end = store(number, program).restore(state_of(program, dataset))
            if end is None or end.step != program.config.epochs * _length(program, dataset):
                raise CheckpointError(
                    f"{store(number, program).folder}: its last is damaged: --resume trains from the one before"
                )
            tested = measure_test_of(program, end.state, complete, dataset)
            tests.update(zip(numbers, zip(tested.accuracy.tolist(), tested.loss.tolist(), strict=True), strict=True))
    shape = next(p for p in trained if points[0].results[0].trial in p.trials)
    return Outcome(points, tests, parameters(state_of(shape, dataset)) // len(shape.trials), rows)


def _diverged(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["train_accuracy"] is None


def _result(trial: Trial, row: Mapping[str, Any], program: Program, dataset: Dataset) -> Result:
    """A trial's result, from its last line in `metrics.jsonl`."""
    step, gone = row["step"], _diverged(row)
    numbers = (math.nan if row[name] is None else row[name] for name in ("train_loss", "valid_loss", "valid_accuracy"))
    epochs = step // _length(program, dataset) if gone else row["epoch"]
    return Result(trial, "diverged" if gone else "complete", step, epochs, *numbers)


def _prepared(
    programs: Sequence[Program],
    dataset: Dataset,
    folder: RunFolder,
    options: Options,
    display: Display,
    trained: Sequence[Program],
    whole: bool,
) -> Iterator[tuple[Program, Run]]:
    """Each program with its compiled run; the next ones compile while one trains.

    With `whole` the first has a checkpoint of all of its lanes, and is not cut into chunks.

    How they are carried out is written to `plan.json` before the first trains, and again where a
    program turns out to need more memory than there is.
    """
    with ThreadPoolExecutor(ahead := os.cpu_count() or 1) as pool:
        pool.submit(preload)

        def start(program: Program) -> Future[Run]:
            return pool.submit(prepare, program, dataset)

        free = {n: free_memory(n) for n in {1, *(program.lanes.all_devices for program in programs)}}

        def available(devices: int) -> int:
            return (
                free.get(devices, free[1] // devices)
                if options.memory is None
                else int(options.memory * 2**30 / devices)
            )

        started: dict[Program, Future[Run]] = {}
        timed: list[Trialled] = []
        planned = folder.read_json("plan.json")
        if options.lanes == "auto" and not options.plan_from and planned is None:
            largest = largest_of(programs)
            started = {program: start(program) for program in programs[:ahead] if program is not largest}
            programs, timed = choose(programs, dataset, tuple(started.values()), available)
        if planned is None:
            folder.write_json("plan.json", describe_plan([*trained, *programs], timed))
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
                    chunks = (program,) if whole else in_chunks(program, run.memory, available(devices))
                whole = False
                if len(chunks) == 1:
                    yield program, run
                    continue
                waiting.extendleft((chunk, None) for chunk in reversed(chunks))
                display.line(
                    f"memory: {len(program.trials)} trials at once take {devices * run.memory / 2**30:.3g} GiB: "
                    f"{len(chunks)} programs of at most {len(chunks[0].trials)}"
                )
                described = describe_plan([*trained, *(entry for entry, _ in waiting)], timed)
                if planned:
                    described["timed"] = planned["timed"]
                folder.write_json("plan.json", described, again=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _rows(progress: Progress, now: list[Result]) -> Iterator[dict[str, Any]]:
    for result, accuracy in zip(now, progress.train.accuracy.tolist(), strict=True):
        complete = result.status == "complete"
        yield {
            "trial": result.trial.number,
            "epoch": progress.epoch,
            "step": result.step,
            "train_loss": result.train_loss,
            "train_accuracy": accuracy if complete else None,
            "valid_loss": result.valid_loss,
            "valid_accuracy": result.valid_accuracy,
        }


def point_name(point: Ranked) -> str:
    """A point as it would be asked for: `learning_rate 0.1 filters 8,16`."""
    return " ".join(f"{name} {text(value)}" for name, value in point.values.items())
