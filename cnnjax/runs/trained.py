"""A trained network, and what it takes to use it."""

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

from cnnjax.config import SAMPLERS, SweepConfig, TrainConfig
from cnnjax.data import Spec
from cnnjax.data.cache import read_spec
from cnnjax.networks import Variables
from cnnjax.planning import read_program
from cnnjax.runs.printed import describe_inputs, printed
from cnnjax.runs.records import Counts, RecordError, Row, read_metrics, read_record, replayed
from cnnjax.runs.resume import configuration_of
from cnnjax.runs.store import checkpoints_of
from cnnjax.sweeps import Program, Result, Trial, digits, state_of, states_of
from cnnjax.training import Task, TrainState, as_arrays, make_task


class Trained(NamedTuple):
    """A network as training left it, and what it takes to use it."""

    variables: Variables
    logits: Callable[[Num[Any, "batch *shape"]], Float[Array, "batch outputs"]]
    """Compiled; takes inputs as the data set stores them, and standardizes them itself."""
    spec: Spec
    config: TrainConfig
    rows: Sequence[Row] = ()
    """A line for each epoch, as in `metrics.jsonl`."""
    result: Result | None = None
    """What training came to, where this comes from `fit` or `sweep`."""
    test: tuple[float, float] | None = None
    """Metric and loss on the test split, where `fit` or `sweep` measured them."""
    where: str = ""
    """The run folder, or `memory`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the columns of `logits`, where they are classes."""
        return self.spec.classes

    def __repr__(self) -> str:
        metric, last = self.config.metric, self.rows[-1] if self.rows else {}
        known = {"valid": last.get(f"valid_{metric.name}"), "test": self.test[0] if self.test else None}
        epochs = last.get("epoch", 0)
        unit = " %" if metric.percent else ""
        values = [f"{split} {digits(value, metric)}{unit}" for split, value in known.items() if value is not None]
        facts = {
            "network": str(self.config.network),
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(self.variables.params)):,}",
            "data": describe_inputs(self.config.data, self.spec),
            metric.name: ", ".join(values) + f" after {epochs} epoch{'s' if epochs != 1 else ''}" if values else "",
            "where": self.where,
        }
        return printed("Trained", facts)


def trained(config: TrainConfig, spec: Spec, state: TrainState, rows: Sequence[Row] = ()) -> Trained:
    """A network from its last state.

    Args:
      config: what was trained.
      spec: what the data is.
      state: in the shapes of the network.
      rows: its lines of `metrics.jsonl`.
    """
    task = make_task(config, spec)
    variables = jax.device_put(Variables(state.params, state.stats))

    @jax.jit
    def compute(task: Task, variables: Variables, images: Array) -> Array:
        inputs = task.spec.standardize(images)
        return task.functions.apply(variables, inputs, train=False, key=jax.random.key(0))[0]

    def logits(images: Num[Any, "batch *shape"]) -> Float[Array, "batch outputs"]:
        images = images if isinstance(images, Array) else np.asarray(images)
        if images.dtype != spec.dtype or images.shape[1:] != spec.shape or images.ndim == 0:
            raise ValueError(
                f"images: {images.dtype}{list(images.shape)}: this network takes inputs as its data set stores them, "
                f"{spec.dtype}[batch, {', '.join(map(str, spec.shape))}]"
            )
        return compute(as_arrays(task), variables, images)

    return Trained(variables, logits, spec, config, rows)


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
      TypeError: an argument is of another kind.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder: {folder!r}: must be the path of a run folder")
    if not isinstance(classes, Iterable) or isinstance(classes, str):
        raise TypeError(f"classes: {classes!r}: must be a list, as classes=[Net]")
    classes = list(classes)
    if unnamed := [value for value in classes if not hasattr(value, "__qualname__")]:
        raise TypeError(f"classes: {unnamed[0]!r}: must be a class, an enumeration or a function")
    folder = Path(folder).expanduser()
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
        raise ValueError(f"trial: {trial!r}: {folder} has trials {min(planned)} to {max(planned)}")
    checkpoint = None
    for place, program in reversed(_valid(folder / "plan.json", lambda: _places(plan, planned, trial))):
        like = _valid(folder / "data.json", partial(state_of, program, spec))
        numbers = [lane.number for lane in program.trials]
        store = checkpoints_of(folder, place, numbers, described, data, report=warnings.warn)
        if checkpoint := store.restore(like):
            break
    if checkpoint is None:
        raise ValueError(f"trial: {trial}: has no checkpoint in {store.folder}: has it been trained?")
    state = states_of(program, checkpoint.state, [planned[trial]], spec)[trial]
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["trial"] == trial]
    return trained(planned[trial].config, spec, state, rows)._replace(where=str(folder))


def _valid(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, csv.Error) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _planned(config: TrainConfig | SweepConfig, folder: Path, data: Any) -> dict[int, Trial]:
    """The trials of a run by number, as far as its records lead."""
    sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)
    single = sweep.search not in SAMPLERS  # the first stage has them all
    stages = replayed(sweep, [] if single else read_metrics(folder / "metrics.jsonl"), Counts.recorded(data))
    return {trial.number: trial for stage in stages for trial in stage.trials}


def _places(plan: Any, planned: Mapping[int, Trial], trial: int) -> list[tuple[int, Program]]:
    """The programs that a trial is a lane of, with their numbers, in order."""
    found = [
        (place, read_program(entry, planned))
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
