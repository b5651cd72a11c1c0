"""Results of a sweep."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from cnnjax.config import SweepConfig
from cnnjax.data import Spec
from cnnjax.metrics import Metric
from cnnjax.runs.printed import describe_inputs, printed
from cnnjax.runs.records import Row, counted, trial_rows
from cnnjax.runs.trained import Trained, trained
from cnnjax.sweeps import Compared, Program, Ranked, Result, compare, homes, shown, state_of, states_of, summarize
from cnnjax.training import Lanes, TrainState, count_parameters


class LastStates(Mapping[int, TrainState]):
    """The last state of each trial, by number, in the shapes of its own network; states are read on access.

    Args:
      programs: the trained programs, by number.
      read: a function from the number of a program to its last state.
      spec: the specification of the data.
    """

    def __init__(self, programs: Sequence[Program], read: Callable[[int], TrainState], spec: Spec):
        self._programs, self._spec = programs, spec
        self._read = lru_cache(maxsize=1)(read)
        self._trials = sorted({trial.number for program in programs for trial in program.trials})

    def of(self, trials: Iterable[int]) -> dict[int, TrainState]:
        """Returns the last states of some trials; reads the state of each program once."""
        found: dict[int, TrainState] = {}
        for place, members in homes(list(trials), self._programs).items():
            found |= states_of(self._programs[place], self._read(place), members, self._spec)
        return found

    def __getitem__(self, trial: int) -> TrainState:
        if trial not in self._trials:
            raise KeyError(f"trial {trial}: this sweep has trials {', '.join(map(str, self))}")
        return self.of([trial])[trial]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)


class Swept(NamedTuple):
    """The results of a sweep."""

    points: list[Ranked]
    """The points, best first, as returned by `cnnjax.sweeps.rank`."""
    rows: list[Row]
    """The lines of `metrics.jsonl`, one for each trial and epoch."""
    states: LastStates
    """The last state of each trial, by number, in the shapes of its own network."""
    tests: dict[int, tuple[float, float]]
    """The test metric and loss of the winner's trials, by number."""
    parameters: int
    """The number of trainable parameters of the winner."""
    config: SweepConfig
    spec: Spec
    where: str = ""
    """The run folder, or `memory`."""
    ema_tests: Mapping[int, tuple[float, float]] = MappingProxyType({})
    """As `tests`, with the moving averages of parameters; empty if the winner has none."""
    folds: Mapping[str, Spec] = MappingProxyType({})
    """The specification of each fold by name; empty without cross-validation."""
    vocabulary: tuple[str, ...] = ()
    """The words that tokens stand for; empty if the inputs are not text."""

    @property
    def metric(self) -> Metric:
        """The metric that ranks points."""
        return self.config.base.metric

    @property
    def winner(self) -> Ranked:
        """The best point."""
        return self.points[0]

    @property
    def compared(self) -> list[Compared]:
        """The comparison of each point with the best, in the order of `points`."""
        return compare(self.points, self.metric, margin=self.config.equal_within)

    @property
    def results(self) -> list[Result]:
        """The results of all trials, by number."""
        return sorted((r for point in self.points for r in point.results), key=lambda r: r.trial.number)

    @property
    def axes(self) -> list[str]:
        """The names of the swept values."""
        return [name for name, _ in self.config.axes]

    def table(self) -> list[dict[str, Any]]:
        """Returns a row for each trial, for `pandas.DataFrame`: values, status, parameters, losses and metrics."""
        sizes: dict[Any, int] = {}
        parameters = {}
        for trial in (result.trial for result in self.results):
            network = jax.tree.structure(trial.config.network)
            if network not in sizes:
                sizes[network] = count_parameters(state_of(Program((trial,), Lanes()), self.spec))
            parameters[trial.number] = sizes[network]
        return trial_rows(self.results, self.tests, self.metric, self.axes, self.rows, parameters, self.ema_tests)

    def __repr__(self) -> str:
        best, tested = self.winner, summarize([score for score, _ in self.tests.values()])
        points = f"{len(self.points)} points" + (f" of {', '.join(self.axes)}" if self.axes else "")
        seeds = " to ".join(map(str, sorted({self.config.repeats, max(len(point.results) for point in self.points)})))
        facts = {
            "trials": f"{points}, {seeds} {self.winner.repeated}: {counted(result.status for result in self.results)}",
            "data": describe_inputs(self.config.base.data, self.spec),
            "best": best.name or str(best.results[0].trial.config.network),
            "parameters": f"{self.parameters:,}",
            self.metric.name: f"valid {shown(best.valid_metric, self.metric)}, test {shown(tested, self.metric)}",
            "where": self.where,
        }
        return printed("Swept", facts)

    def curves(self, quantity: str = "valid_loss") -> Float[np.ndarray, "trials epochs"]:
        """Returns a quantity of `rows` over epochs, for trials as in `results`; NaN where a trial has none.

        Raises:
          KeyError: if `rows` do not have the quantity.
        """
        known = dict.fromkeys(name for row in self.rows for name in row if name != "trial")
        if quantity not in known:
            raise KeyError(f"{quantity}: use one of {', '.join(known)}")
        places = {result.trial.number: place for place, result in enumerate(self.results)}
        values = np.full((len(places), max(row["epoch"] for row in self.rows)), np.nan)
        for row in self.rows:
            values[places[row["trial"]], row["epoch"] - 1] = row.get(quantity, np.nan)
        return values

    def trained(self, trial: int | None = None) -> Trained:
        """Returns the trained network of a trial, by default of the winner's first trial that did not diverge.

        Raises:
          ValueError: if the trial does not exist.
        """
        by_number = {result.trial.number: result for result in self.results}
        if trial is None:
            best = self.winner.results
            trial = next((r.trial.number for r in best if r.status != "diverged"), best[0].trial.number)
        if trial not in by_number:
            raise ValueError(f"trial: {trial}: must be a trial of this sweep, {min(by_number)} to {max(by_number)}")
        found = by_number[trial]
        rows = [row for row in self.rows if row["trial"] == trial]
        spec = self.folds.get(found.trial.fold or "", self.spec)
        network = trained(found.trial.config, spec, self.states[trial], rows)._replace(
            result=found, test=self.tests.get(trial), where=self.where, vocabulary=self.vocabulary
        )
        if network.averaged is None:
            return network
        averaged = network.averaged._replace(test=self.ema_tests.get(trial), where=self.where)
        return network._replace(averaged=averaged)
