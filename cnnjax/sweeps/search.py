"""Which trials of a sweep are trained, and for how long: all, the best of each rung, or what Optuna proposes.

A search is a generator of stages: it is sent the results of one and yields the next, and depends
on nothing else. Sent the same results again, as a run that is resumed does, it yields the same stages.
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
    """Trials that are trained over the same epochs."""

    trials: tuple[Trial, ...]
    after: int
    """Epochs that they have behind them."""
    until: int
    """Epoch after which the stage ends; 0 is the last of each trial."""
    capacity: int = 0
    """Lanes of its programs, where other trials are to follow in the same; see `sweeps.plan`."""


Search = Generator[Stage, Sequence[Result], None]


def search(sweep: SweepConfig) -> Search:
    """The stages of a sweep, by its `search`.

    Raises:
      ValueError: a value is out of range, there are too many trials, or Optuna is not installed.
    """
    if sweep.search in SAMPLERS:
        return proposed(sweep)
    return halving(sweep) if sweep.search == "halving" else everything(sweep)


def stages(sweep: SweepConfig, result: Callable[[Trial], Result]) -> Iterator[Stage]:
    """The stages of a sweep, one after the other; `result` is asked for those of a stage when the next is wanted."""
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
    """The programs of a stage: those in which its trials trained before, compacted, or as `sweeps.plan` makes them."""
    if stage.after:
        return proceed(stage.trials, trained, stage.after, stage.until)
    programs = plan(stage.trials, lanes, pack, spec=spec, strict=strict, capacity=stage.capacity)
    return tuple(program._replace(until=stage.until) for program in programs)


def everything(sweep: SweepConfig) -> Search:
    """One stage: every trial, all epochs."""
    yield Stage(trials(sweep), 0, 0)


def rungs(points: int, epochs: int, factor: int) -> list[int]:
    """The epochs after which points are cut: epochs / factor, / factor^2, ..., until one point would be left."""
    found: list[int] = []
    while points > 1 and epochs > 1:
        points, epochs = -(-points // factor), max(1, round(epochs / factor))
        found.append(epochs)
    return sorted(set(found))


def halving(sweep: SweepConfig) -> Search:
    """Successive halving (Jamieson and Talwalkar 2016): after each rung the best 1/factor of the points continue.

    Points are compared after equally many epochs, by `ranking.rank`: the mean validation metric
    over their seeds, the unstable and those with a diverged seed below the others. Schedules span all epochs, also of
    points that are cut. So the comparison at a rung favours what learns fast at first: small rates
    and long warm-ups, which may win in the end, tend to be cut early. More epochs before the first
    cut (a smaller factor) lessen that and cost time.
    """
    alive, after = trials(sweep), 0
    for until in rungs(len(alive) // sweep.seeds, sweep.base.epochs, sweep.factor):
        results = yield Stage(alive, after, until)
        best = [
            point for point in rank(results, sweep.base.metric) if any(r.status != "diverged" for r in point.results)
        ]
        best = best[: -(-len(alive) // sweep.seeds // sweep.factor)]
        kept = {result.trial.number for point in best for result in point.results}
        alive, after = tuple(trial for trial in alive if trial.number in kept), until
        if not alive:
            return
    yield Stage(alive, after, 0)


def work(sweep: SweepConfig) -> int:
    """Epochs of training, counted for each trial, if none diverges and Optuna does not choose them."""
    if sweep.search in SAMPLERS:
        return sweep.points * sweep.seeds * sweep.base.epochs
    planned = trials(sweep)
    if sweep.search != "halving":
        return sum(trial.config.epochs for trial in planned)
    total, alive, after = 0, len(planned) // sweep.seeds, 0
    for until in [*rungs(alive, sweep.base.epochs, sweep.factor), sweep.base.epochs]:
        total += alive * (until - after) * sweep.seeds
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
    """Batches of points that an Optuna sampler asks for, each told the mean validation metric over its seeds.

    Batch b is drawn by a sampler seeded with (the base run's seed, b) from a study that holds the
    points before, in their order: nothing else decides, and a run that is resumed sees the same. A
    point with a diverged seed has failed. An axis with a list of values is categorical, one with a
    range continuous.
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
    if sweep.points * sweep.seeds > MOST_TRIALS:
        raise ValueError(f"points: {sweep.points}: at most {MOST_TRIALS} trials are planned at once")
    return _batches(sweep, optuna)


def _batches(sweep: SweepConfig, optuna: Any) -> Search:
    space = {text(names): _distribution(sweep, names, rows, optuna) for names, rows in columns(sweep)}
    with quiet(optuna.logging, optuna.logging.ERROR):
        study = optuna.create_study(direction="minimize")
    for batch, before in enumerate(range(0, sweep.points, sweep.batch_points)):
        with warnings.catch_warnings(), quiet(optuna.logging, optuna.logging.ERROR):
            warnings.simplefilter("ignore")  # of experimental samplers
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
    """The rows of `sweeps.columns` that Optuna's parameters stand for."""
    for names, rows in columns(sweep):
        value = params[text(names)]
        yield (rows.near(value, sweep.option(names[0]).whole),) if isinstance(rows, Range) else rows[value]
