"""Carries out a sweep: plans it, opens its run folder, trains, records every epoch, tests the winner.

A single run is a sweep of one trial.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from command_line import ROOT, Display, Options, percent, usage

from cnnjax import data
from cnnjax.config import SweepConfig, text
from cnnjax.data import Dataset
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
from cnnjax.records import RunFolder, environment
from cnnjax.sweeps import Program, Ranked, Result, measure_test_of, plan, prepare, rank, results, trials
from cnnjax.training import Progress, Run, make_task, parameters, train


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
    config: SweepConfig, options: Options, preset: str
) -> Iterator[tuple[tuple[Program, ...], Dataset, RunFolder]]:
    """The programs, data and new run folder of a sweep, after every check that needs no training."""
    dataset = data.load(config.base.data, options.data_dir)
    with usage(options.debug):
        planned = trials(config)
        if options.plan_from:
            if options.lanes != "auto":
                raise ValueError(f"lanes: {options.lanes}: the plan {options.plan_from} says how: give one of both")
            programs = read_plan(options.plan_from, planned)
        else:
            programs = plan(planned, None if options.lanes == "auto" else parse_lanes(options.lanes))
            if options.lanes == "auto":
                programs = tuple(in_cache(program, dataset) for program in programs)
        for program in programs:
            make_task(program.config, dataset, split=program.lanes.split)
            if options.plan_from and not works(program, dataset):
                raise ValueError(
                    f"plan: {options.plan_from}: micro_batch: {program.micro_batch}: must divide a device's part of "
                    f"batch_size {program.config.batch_size}, and the network can have neither batch_norm nor dropout"
                )
        folder = RunFolder(options.runs_dir, options.name, preset)
    with folder:
        folder.write_json("env.json", environment(ROOT))
        yield programs, dataset, folder


def conduct(programs: tuple[Program, ...], dataset: Dataset, folder: RunFolder, options: Options) -> Outcome:
    """Trains every program; writes a line of `metrics.jsonl` for each trial and epoch.

    A diverged trial has one line with nulls, for the epoch in which it diverged, and none after.
    The test split is read once, for the winner.
    """
    per_epoch = len(dataset.train.labels)
    display = Display(sum(len(p.trials) * p.config.epochs for p in programs) * per_epoch, options.quiet)
    seeds = Counter(trial.point for program in programs for trial in program.trials)
    several = seeds.total() > 1
    kept: list[tuple[Program, Progress]] = []  # where the best point so far, and those with seeds to come, have lanes
    finished: list[Result] = []
    rows: list[dict[str, Any]] = []
    for program, run in _prepared(programs, dataset, folder, options, display):
        gone: set[int] = set()
        for progress in train(run):
            now = results(program, progress)
            for row in _rows(progress, now):
                if row["trial"] not in gone:
                    folder.append_metrics(row)
                    rows.append(row)
            gone = {result.trial.number for result in now if result.status == "diverged"}
            best = rank([*finished, *now])[0]
            note = f"valid {percent(best.valid_accuracy)} {point_name(best)}".strip()
            display.advance(len(now) * per_epoch, note)
            if not several:
                display.line(
                    f"epoch {progress.epoch}/{program.config.epochs}: train loss {now[0].train_loss:.4f}, {note}"
                )
            if len(gone) == len(now):
                break
        finished += now
        points = rank(finished)
        parted = {_number(point) for point in points if len(point.results) < seeds[_number(point)]}
        wanted = parted.union([number for number in map(_number, points) if number not in parted][:1])
        kept = [end for end in (*kept, (program, progress)) if any(trial.point in wanted for trial in end[0].trials)]
        if several:
            display.line(f"{len(finished)} trials trained; best so far: {note}")
    display.close()
    winner = points[0]
    tests: dict[int, tuple[float, float]] = {}
    complete = {result.trial.number for result in winner.results if result.status == "complete"}
    for program, progress in kept:
        tested = measure_test_of(program, progress, winner, dataset)
        numbers = [trial.number for trial in program.trials if trial.number in complete]
        tests.update(zip(numbers, zip(tested.accuracy.tolist(), tested.loss.tolist(), strict=True), strict=True))
    return Outcome(points, tests, parameters(progress.state) // len(program.trials), rows)


def _number(point: Ranked) -> int:
    return point.results[0].trial.point


def _prepared(
    programs: Sequence[Program], dataset: Dataset, folder: RunFolder, options: Options, display: Display
) -> Iterator[tuple[Program, Run]]:
    """Each program with its compiled run; the next ones compile while one trains.

    How they are carried out is written to `plan.json` before the first trains, and again where a
    program turns out to need more memory than there is.
    """
    with ThreadPoolExecutor(ahead := os.cpu_count() or 1) as pool:

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
        if options.lanes == "auto" and not options.plan_from:
            largest = largest_of(programs)
            started = {program: start(program) for program in programs[:ahead] if program is not largest}
            programs, timed = choose(programs, dataset, tuple(started.values()), available)
        folder.write_json("plan.json", describe_plan(programs, timed))
        waiting: deque[tuple[Program, Future[Run] | None]] = deque(
            (program, started.pop(program, None)) for program in programs
        )
        started.clear()
        taken: list[Program] = []
        try:
            while waiting:
                for i in range(min(ahead, len(waiting))):
                    program, future = waiting[i]
                    waiting[i] = program, future or start(program)
                program, future = waiting.popleft()
                assert future is not None
                run, devices = future.result(), program.lanes.all_devices
                with usage(options.debug):
                    chunks = in_chunks(program, run.memory, available(devices))
                if len(chunks) == 1:
                    taken.append(program)
                    yield program, run
                    continue
                waiting.extendleft((chunk, None) for chunk in reversed(chunks))
                display.line(
                    f"memory: {len(program.trials)} trials at once take {devices * run.memory / 2**30:.3g} GiB: "
                    f"{len(chunks)} programs of at most {len(chunks[0].trials)}"
                )
                folder.write_json(
                    "plan.json", describe_plan([*taken, *(entry for entry, _ in waiting)], timed), again=True
                )
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
