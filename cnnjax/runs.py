"""Whole runs, for use in other code: a sweep in memory, a trained network out of a run folder."""

import csv
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from cnnjax.checkpoints import Checkpoints
from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset, Spec, load
from cnnjax.data.cache import read_spec
from cnnjax.descriptions import UnknownClassError, configuration
from cnnjax.judgement import Ranked, rank
from cnnjax.metrics import Metric
from cnnjax.networks import Variables
from cnnjax.options import choose
from cnnjax.planning import read_program
from cnnjax.records import (
    RecordError,
    digest,
    epoch_rows,
    read_metrics,
    read_record,
    replayed,
    trial_rows,
)
from cnnjax.search import programs_of, stages
from cnnjax.sweeps import (
    PACKS,
    Program,
    Result,
    Trial,
    assembled,
    measure_test_of,
    prepare,
    results,
    state_of,
    states_of,
    task_of,
)
from cnnjax.training import Task, TrainState, as_arrays, make_task, steps_per_epoch, train, validate


def last_state(store: Checkpoints, program: Program, data: Dataset) -> TrainState | None:
    """A program's state at its end, from its most recent valid checkpoint; None if that is of an earlier step."""
    checkpoint = store.restore(state_of(program, data.spec))
    if checkpoint is None:
        return None
    steps = program.end * steps_per_epoch(program.config.batch_size, data.train)
    over = np.asarray(checkpoint.state.diverged)[program.rows].all()
    return checkpoint.state if checkpoint.step == steps or over else None


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
            run = prepare(program, data)
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


class Trained(NamedTuple):
    """A network as training left it, and what it takes to use it."""

    variables: Variables
    logits: Callable[[Num[Any, "batch *shape"]], Float[Array, "batch outputs"]]
    """Compiled; takes inputs as the data set stores them, and standardizes them itself."""
    spec: Spec
    config: TrainConfig

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of `logits`, where they are classes."""
        return self.spec.classes


def checkpoints_of(
    folder: Path, number: int, trials: Sequence[int], config: Any, data: Any, **options: Any
) -> Checkpoints:
    """Where a run folder keeps the checkpoints of a program.

    Args:
      folder: of the run.
      number: of the program in `plan.json`.
      trials: numbers of the trials that are its lanes.
      config: as in `config.json`.
      data: as in `data.json`.
      options: see `Checkpoints`.
    """
    identity = digest({"config": config, "data": data, "trials": list(trials)})
    return Checkpoints(folder / "checkpoints" / str(number), identity, **options)


def configuration_of(folder: Path, classes: Iterable[Any] = ()) -> TrainConfig | SweepConfig:
    """What a run folder was started with.

    Args:
      folder: of the run.
      classes: classes, enumerations and functions of your own that the configuration names.

    Raises:
      OSError: `config.json` is not there.
      RecordError: it is damaged, of another format, or names a class that is not among `classes`.
    """
    path = folder / "config.json"
    described = read_record(path)
    try:
        return configuration(described, classes)
    except UnknownClassError as error:
        raise RecordError(f"{path}: {error}{_defined_in(folder)}") from None
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _defined_in(folder: Path) -> str:
    """Which preset a run was started with, as far as it is recorded."""
    try:
        path = Path(str(read_record(folder / "env.json")["preset"]["path"]))
    except (OSError, RecordError, LookupError, TypeError):
        return ""
    return f"; it was defined in {path}" + ("" if path.is_file() else ", which is not there any more")


def load_run(folder: str | Path, trial: int | None = None, classes: Iterable[Any] = ()) -> Trained:
    """The network of a run, from its most recent valid checkpoint.

    >>> trained = cnnjax.load_run("runs/mnist-20260101-120000")
    >>> trained.classes[int(trained.logits(images).argmax(-1)[0])]

    Args:
      folder: as `train.py` or `sweep.py` left it.
      trial: number of a trial of a sweep; by default the winner's with the lowest seed.
      classes: classes, enumerations and functions of your own that the run's configuration names.

    Raises:
      OSError: the folder or one of its files is not there.
      RecordError: a record is damaged, of another format, or names a class that is not among `classes`.
      CheckpointError: no checkpoint is valid.
      ValueError: there is no such trial, or none has won so far.
    """
    folder = Path(folder)
    described, data, plan = (read_record(folder / f"{name}.json") for name in ("config", "data", "plan"))
    config = configuration_of(folder, classes)
    planned = _valid(folder / "config.json", lambda: _planned(config, folder, data))
    spec = _valid(folder / "data.json", lambda: read_spec(data))
    if trial is None:
        winner = folder / "trials.csv"
        trial = _valid(winner, lambda: _winner(winner)) if isinstance(config, SweepConfig) else 0
    if trial is None:
        raise ValueError(f"trial: say which: {folder} has no winner, since it has not ended or all diverged")
    if trial not in planned:
        raise ValueError(f"trial: {trial}: {folder} has trials {min(planned)} to {max(planned)}")
    checkpoint = None
    for place, program in reversed(_valid(folder / "plan.json", lambda: _places(plan, planned, trial))):
        like = _valid(folder / "data.json", partial(state_of, program, spec))
        numbers = [lane.number for lane in program.trials]
        store = checkpoints_of(folder, place, numbers, described, data, report=warnings.warn)
        if checkpoint := store.restore(like):
            break
    if checkpoint is None:
        raise ValueError(f"trial: {trial}: has no checkpoint in {store.folder}: has it been trained?")
    task = make_task(planned[trial].config, spec)
    state = states_of(program, checkpoint.state, [planned[trial]], spec)[trial]
    variables = jax.device_put(Variables(state.params, state.stats))

    @jax.jit
    def compute(task: Task, variables: Variables, images: Array) -> Array:
        inputs = task.spec.standardize(images)
        return task.functions.apply(variables, inputs, train=False, key=jax.random.key(0))[0]

    def logits(images: Num[Any, "batch *shape"]) -> Float[Array, "batch outputs"]:
        if images.dtype != spec.dtype or images.ndim != 1 + len(spec.shape):
            raise ValueError(
                f"images: {images.dtype}{list(images.shape)}: this network takes inputs as its data set stores them, "
                f"{spec.dtype}[batch, {', '.join(map(str, spec.shape))}]"
            )
        return compute(as_arrays(task), variables, images)

    return Trained(variables, logits, spec, planned[trial].config)


def _valid(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, csv.Error) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _planned(config: TrainConfig | SweepConfig, folder: Path, data: Any) -> dict[int, Trial]:
    """The trials of a run by number, as far as its records lead."""
    sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)
    single = sweep.search == "all"
    stages = replayed(sweep, [] if single else read_metrics(folder / "metrics.jsonl"), data["examples"]["train"])
    return {trial.number: trial for stage in stages for trial in stage.trials}


def _places(plan: Any, planned: Mapping[int, Trial], trial: int) -> list[tuple[int, Program]]:
    """The programs that a trial is a lane of, with their numbers, in order."""
    found = [
        (place, read_program({**entry, "lanes": "1:1"}, planned))
        for place, entry in enumerate(plan["programs"])
        if trial in entry["trials"]
    ]
    if not found:
        raise ValueError(f"no program has trial {trial}")
    return found


def _winner(path: Path) -> int | None:
    """The first of the trials that were tested; None if there are none."""
    try:
        with path.open(newline="") as file:
            return min((int(row["trial"]) for row in csv.DictReader(file) if row["test_loss"]), default=None)
    except FileNotFoundError:
        return None
