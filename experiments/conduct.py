"""Carries out a sweep: plans it, opens its run folder, trains, records every epoch, tests the winner.

A single run is a sweep of one trial.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from command_line import ROOT, Display, Options, percent, usage

from cnnjax import data
from cnnjax.config import SweepConfig, text
from cnnjax.data import Dataset
from cnnjax.records import RunFolder, environment
from cnnjax.sweeps import Program, Ranked, Result, describe_plan, measure_test_of, plan, rank, results, run, trials
from cnnjax.training import Progress, make_task, parameters


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
        programs = plan(trials(config))
        for program in programs:
            make_task(program.config, dataset)
        folder = RunFolder(options.runs_dir, options.name, preset)
    with folder:
        folder.write_json("env.json", environment(ROOT))
        folder.write_json("plan.json", describe_plan(programs))
        yield programs, dataset, folder


def conduct(programs: tuple[Program, ...], dataset: Dataset, folder: RunFolder, options: Options) -> Outcome:
    """Trains every program; writes a line of `metrics.jsonl` for each trial and epoch.

    A diverged trial has one line with nulls, for the epoch in which it diverged, and none after.
    The test split is read once, for the winner.
    """
    per_epoch = len(dataset.train.labels)
    display = Display(sum(len(p.trials) * p.config.epochs for p in programs) * per_epoch, options.quiet)
    several = sum(len(program.trials) for program in programs) > 1
    kept: tuple[Program, Progress] | None = None  # where the best point so far has its lanes
    finished: list[Result] = []
    rows: list[dict[str, Any]] = []
    for number, program in enumerate(programs, 1):
        gone: set[int] = set()
        for progress in run(program, dataset):
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
        if kept is None or any(trial.point == best.results[0].trial.point for trial in program.trials):
            kept = program, progress
        if several:
            display.line(f"program {number}/{len(programs)}: {len(now)} trials trained; best so far: {note}")
    display.close()
    points = rank(finished)
    winner = points[0]
    assert kept is not None  # there is at least one program
    program, progress = kept
    tested = measure_test_of(program, progress, winner, dataset)
    complete = [result.trial.number for result in winner.results if result.status == "complete"]
    numbers = zip(tested.accuracy.tolist(), tested.loss.tolist(), strict=True)
    return Outcome(
        points, dict(zip(complete, numbers, strict=True)), parameters(progress.state) // len(program.trials), rows
    )


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
