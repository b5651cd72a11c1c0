"""A sweep in memory."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cnnjax.config import SweepConfig
from cnnjax.data import Dataset, load
from cnnjax.metrics import Metric
from cnnjax.options import choose
from cnnjax.runs.records import epoch_rows, trial_rows
from cnnjax.sweeps import (
    PACKS,
    Program,
    Ranked,
    Result,
    assembled,
    compile_program,
    measure_test_of,
    programs_of,
    rank,
    results,
    stages,
    states_of,
    task_of,
)
from cnnjax.training import TrainState, train, validate


class Swept(NamedTuple):
    """What a sweep came to."""

    points: list[Ranked]
    """Best first."""
    results: list[Result]
    """By trial."""
    rows: list[dict[str, Any]]
    """What `metrics.jsonl` of a run folder holds: one for each trial and epoch."""
    states: dict[int, TrainState]
    """The last of each trial, by number, in the shapes of its own network."""
    tests: dict[int, tuple[float, float]]
    """Test metric and loss of the winner's trials, by number."""
    config: SweepConfig

    @property
    def metric(self) -> Metric:
        """What points are ranked by."""
        return self.config.base.metric

    def table(self) -> list[dict[str, Any]]:
        """A row for each trial, for `pandas.DataFrame`: its values, status, losses and metrics."""
        return trial_rows(self.results, self.tests, self.metric, [name for name, _ in self.config.axes])

    def curves(self, quantity: str = "valid_loss") -> Float[np.ndarray, "trials epochs"]:
        """A quantity of `rows` over epochs, trials as in `results`; NaN where a trial had ended or diverged."""
        places = {result.trial.number: place for place, result in enumerate(self.results)}
        values = np.full((len(places), max(row["epoch"] for row in self.rows)), np.nan)
        for row in self.rows:
            values[places[row["trial"]], row["epoch"] - 1] = row[quantity]
        return values


def sweep(config: SweepConfig, data: Dataset | None = None, pack: str = "shapes") -> Swept:
    """Trains a sweep in memory, by its `search`, and tests the winner.

    >>> swept = cnnjax.sweep(SweepConfig(train, (("learning_rate", (0.01, 0.1)),), seeds=3))
    >>> pandas.DataFrame(swept.table())

    Args:
      config: what is trained.
      data: on which; by default what `config` names.
      pack: which widths share a program, see `sweeps.plan`.

    Raises:
      ValueError: as of `search.search`, `sweeps.plan` and `training.validate`.
    """
    choose("pack", pack, PACKS)
    data = load(config.base.data) if data is None else data
    states: dict[int, TrainState] = {}
    found: dict[int, Result] = {}
    rows: list[dict[str, Any]] = []
    carried: list[Program] = []
    for stage in stages(config, lambda trial: found[trial.number]):
        for program in programs_of(stage, carried, pack=pack, spec=data.spec):
            validate(task_of(program, data.spec), data)
            run = compile_program(program, data)
            state = run.place(assembled(program, states, data.spec)) if program.after else run.state
            dead = {number for number, result in found.items() if result.status == "diverged"}
            for progress in train(run, state, program.after * run.steps):
                now = results(program, progress)
                rows += [row for row in epoch_rows(program, progress) if row["trial"] not in dead]
                dead |= {result.trial.number for result in now if result.status == "diverged"}
                if progress.epoch == program.end:
                    break
            states |= states_of(program, progress.state, program.trials, data.spec)
            found.update((result.trial.number, result) for result in now)
            carried.append(program)
    points = rank(list(found.values()), config.base.metric)
    tests = measure_test_of([r.trial for r in points[0].results if r.status == "complete"], states, data)
    return Swept(points, [found[number] for number in sorted(found)], rows, states, tests, config)
