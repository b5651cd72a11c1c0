"""Searches: which trials of a sweep are trained, and for how many epochs.

A search is a generator of stages: it receives the results of a stage and yields the next one. It
depends on nothing else, so a resumed run that sends the same results gets the same stages.
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib import util
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import SAMPLERS, Range, SweepConfig
from cnnjax.data import Spec
from cnnjax.logs import quiet
from cnnjax.options import text
from cnnjax.sweeps.programs import Program, plan, proceed
from cnnjax.sweeps.ranking import rank
from cnnjax.sweeps.trials import MOST_TRIALS, Result, Trial, columns, point_of, trials, trials_of
from cnnjax.training import Lanes


class Stage(NamedTuple):
    """Trials that train for the same epochs."""

    trials: tuple[Trial, ...]
    after: int
    """The number of epochs that they have already trained."""
    until: int
    """The epoch after which the stage ends; 0 for the last epoch of each trial."""
    capacity: int = 0
    """The number of lanes of its programs, if later stages use the same programs; see `sweeps.plan`."""


Search = Generator[Stage, Sequence[Result], None]


def search(sweep: SweepConfig) -> Search:
    """Returns the search of a sweep, as its `search` field selects it.

    Raises:
      ValueError: if a value is out of range, there are too many trials, or Optuna is not installed.
    """
    if sweep.search in SAMPLERS:
        return proposed(sweep)
    return halving(sweep) if sweep.search == "halving" else everything(sweep)


def stages(sweep: SweepConfig, result: Callable[[Trial], Result]) -> Iterator[Stage]:
    """Yields the stages of a sweep; before the next stage, calls `result` for each trial of the last one."""
    searching = search(sweep)
    stage = next(searching)
    while True:
        yield stage
        try:
            stage = searching.send([result(trial) for trial in stage.trials])
        except StopIteration:
            return


def programs_of(
    stage: Stage,
    trained: Sequence[Program],
    lanes: Lanes | None = None,
    pack: str = "shapes",
    *,
    spec: Spec | None = None,
    strict: bool = True,
) -> tuple[Program, ...]:
    """Returns the programs of a stage: new ones by `sweeps.plan`, or the earlier programs of its trials, compacted.

    Args:
      stage: the stage.
      trained: the programs of earlier stages.
      lanes, pack, spec, strict: as in `sweeps.plan`.
    """
    if stage.after:
        return proceed(stage.trials, trained, stage.after, stage.until)
    programs = plan(stage.trials, lanes, pack, spec=spec, strict=strict, capacity=stage.capacity)
    return tuple(program._replace(until=stage.until) for program in programs)


def everything(sweep: SweepConfig) -> Search:
    """Trains every trial for all epochs, in one stage."""
    yield Stage(trials(sweep), 0, 0)


def rungs(points: int, epochs: int, factor: int) -> list[int]:
    """Returns the epochs after which halving stops points: epochs / factor, / factor^2, ... until one is left."""
    found: list[int] = []
    while points > 1 and epochs > 1:
        points, epochs = -(-points // factor), max(1, round(epochs / factor))
        found.append(epochs)
    return sorted(set(found))


def halving(sweep: SweepConfig) -> Search:
    """Successive halving (Jamieson and Talwalkar 2016): after each rung, the best 1/factor of the points continue.

    Points are compared after the same number of epochs by `ranking.rank`: by the mean validation metric
    over their seeds, with unstable points and points that have a diverged seed last. Schedules span all
    epochs, even for points that are stopped early. A rung therefore favors points that learn fast at
    first: low learning rates and long warm-ups, which may be best in the end, tend to be stopped early.
    A smaller factor reduces this bias, at the cost of more training.
    """
    alive, after = trials(sweep), 0
    for until in rungs(len(alive) // sweep.repeats, sweep.base.epochs, sweep.factor):
        results = yield Stage(alive, after, until)
        best = [
            point for point in rank(results, sweep.base.metric) if any(r.status != "diverged" for r in point.results)
        ]
        best = best[: -(-len(alive) // sweep.repeats // sweep.factor)]
        kept = {result.trial.number for point in best for result in point.results}
        alive, after = tuple(trial for trial in alive if trial.number in kept), until
        if not alive:
            return
    yield Stage(alive, after, 0)


def work(sweep: SweepConfig) -> int:
    """Returns the total number of epochs over all trials, if none diverges or stops early."""
    if sweep.search in SAMPLERS:
        return sweep.points * sweep.repeats * sweep.base.epochs
    planned = trials(sweep)
    if sweep.search != "halving":
        return sum(trial.config.epochs for trial in planned)
    total, alive, after = 0, len(planned) // sweep.repeats, 0
    for until in [*rungs(alive, sweep.base.epochs, sweep.factor), sweep.base.epochs]:
        total += alive * (until - after) * sweep.repeats
        alive, after = -(-alive // sweep.factor), until
    return total


_SAMPLERS: Mapping[str, Callable[[Any, int], Any]] = {
    "tpe": lambda samplers, seed: samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "gp": lambda samplers, seed: samplers.GPSampler(seed=seed),
    "cmaes": lambda samplers, seed: samplers.CmaEsSampler(seed=seed),
    "qmc": lambda samplers, seed: samplers.QMCSampler(seed=seed),
}
_NEEDS = {"cmaes": ("cmaes",), "gp": ("torch", "scipy"), "qmc": ("scipy",)}


def proposed(sweep: SweepConfig) -> Search:
    """Trains batches of points proposed by an Optuna sampler, which receives their mean validation metrics.

    The sampler of batch b is seeded with (the seed of the base run, b), and its study holds all earlier
    points in order. Nothing else affects the proposals, so a resumed run gets the same points. A point
    with a diverged seed counts as failed. An axis with a list of values is categorical; an axis with a
    range is continuous, or integer for integer fields.

    Raises:
      ValueError: if Optuna or a package of the sampler is missing, or there are too many trials.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ModuleNotFoundError:
        raise ValueError(f"search: {sweep.search} needs Optuna: pip install -e '.[optuna]'") from None
    for package in _NEEDS.get(sweep.search, ()):
        if util.find_spec(package) is None:
            raise ValueError(f"search: {sweep.search} needs {package}: pip install {package}")
    if sweep.points * sweep.repeats > MOST_TRIALS:
        raise ValueError(
            f"points: {sweep.points}: {sweep.points * sweep.repeats} trials in all: must be at most {MOST_TRIALS}"
        )
    return _batches(sweep, optuna)


def _batches(sweep: SweepConfig, optuna: Any) -> Search:
    space = {text(names): _distribution(sweep, names, rows, optuna) for names, rows in columns(sweep)}
    with quiet(optuna.logging, optuna.logging.ERROR):
        study = optuna.create_study(direction="minimize")
    for batch, before in enumerate(range(0, sweep.points, sweep.batch_points)):
        with warnings.catch_warnings(), quiet(optuna.logging, optuna.logging.ERROR):
            warnings.simplefilter("ignore")  # some samplers warn that they are experimental
            study.sampler = _SAMPLERS[sweep.search](optuna.samplers, _seed(sweep.base.seed, batch))
            asked = [study.ask(space) for _ in range(min(sweep.batch_points, sweep.points - before))]
        points = [point_of(sweep, _rows(sweep, trial.params)) for trial in asked]
        found = yield Stage(trials_of(sweep, points, before), 0, 0, sweep.batch_points * sweep.seeds)
        ranked = {point.results[0].trial.point: point for point in rank(found, sweep.base.metric)}
        with quiet(optuna.logging, optuna.logging.ERROR):
            for i, trial in enumerate(asked, before):
                if ranked[i].complete:
                    study.tell(trial, sweep.base.metric.cost(ranked[i].valid_metric.mean))
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _seed(seed: int, batch: int) -> int:
    return int(np.random.SeedSequence([seed, batch]).generate_state(1)[0])


def _distribution(sweep: SweepConfig, names: tuple[str, ...], rows: Any, optuna: Any) -> Any:
    if not isinstance(rows, Range):
        return optuna.distributions.CategoricalDistribution(range(len(rows)))
    if sweep.option(names[0]).whole:
        return optuna.distributions.IntDistribution(int(rows.low), int(rows.high), log=rows.log)
    return optuna.distributions.FloatDistribution(rows.low, rows.high, log=rows.log)


def _rows(sweep: SweepConfig, params: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Converts the parameters of Optuna to rows of `sweeps.columns`."""
    for names, rows in columns(sweep):
        value = params[text(names)]
        yield (rows.near(value, sweep.option(names[0]).whole),) if isinstance(rows, Range) else rows[value]
