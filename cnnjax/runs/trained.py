"""Trained networks, from `fit`, `sweep` or a run folder."""

import csv
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Num

from cnnjax.config import SAMPLERS, SweepConfig, TrainConfig
from cnnjax.data import Spec
from cnnjax.data.cache import read_spec
from cnnjax.data.texts import encode
from cnnjax.devices import jit
from cnnjax.networks import Variables
from cnnjax.planning import read_program
from cnnjax.runs.checkpoints import CheckpointError
from cnnjax.runs.printed import describe_inputs, printed
from cnnjax.runs.records import Counts, RecordError, Row, read_folds, read_metrics, read_record, replayed
from cnnjax.runs.resume import as_sweep, configuration_of
from cnnjax.runs.store import checkpoints_of
from cnnjax.sweeps import Program, Result, Trial, digits, state_of, states_of
from cnnjax.training import Task, TrainState, as_arrays, make_task


class Trained(NamedTuple):
    """A trained network with its configuration and records."""

    variables: Variables
    logits: Callable[[Num[Any, "batch *shape"]], Float[Array, "batch outputs"]]
    """A compiled function of inputs as the data set stores them; it standardizes the inputs."""
    spec: Spec
    config: TrainConfig
    rows: Sequence[Row] = ()
    """The lines of `metrics.jsonl`, one per epoch."""
    result: Result | None = None
    """The result of training, from `fit` or `sweep`."""
    test: tuple[float, float] | None = None
    """Metric and loss on the test split, from `fit` or `sweep`."""
    where: str = ""
    """The run folder, or `memory`."""
    vocabulary: tuple[str, ...] = ()
    """The words that tokens stand for; empty if the inputs are not text."""
    averaged: "Trained | None" = None
    """The same network with the moving averages of its parameters and statistics; None without `TrainConfig.ema`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the columns of `logits`; empty if the labels are not classes."""
        return self.spec.classes

    def probabilities(self, inputs: Num[Any, "batch *shape"]) -> Float[Array, "batch classes"]:
        """The softmax of `logits`; ValueError if the labels are not classes."""
        if not self.classes:
            raise ValueError("probabilities: the labels are not classes: use logits")
        return jax.nn.softmax(self.logits(inputs))

    def tokens(self, texts: Sequence[str]) -> Int[np.ndarray, "texts length"]:
        """Converts texts to inputs of `logits`; ValueError if the inputs are not text."""
        if not self.vocabulary:
            raise ValueError(f"tokens: the inputs of {self.config.data} are not text, or its vocabulary is not known")
        return encode(texts, self.vocabulary, *self.spec.shape)

    def __repr__(self) -> str:
        metric = self.config.metric
        facts = {
            "network": str(self.config.network),
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(self.variables.params)):,}",
            "data": describe_inputs(self.config.data, self.spec),
            metric.name: self._measured(),
            "averaged": self.averaged._measured() if self.averaged else "",
            "where": self.where,
        }
        return printed("Trained", facts)

    def _measured(self) -> str:
        """Formats the metric on the validation and the test split; empty if neither is known."""
        metric, last = self.config.metric, self.rows[-1] if self.rows else {}
        known = {"valid": last.get(f"valid_{metric.name}"), "test": self.test[0] if self.test else None}
        epochs = last.get("epoch", 0)
        unit = " %" if metric.percent else ""
        values = [f"{split} {digits(value, metric)}{unit}" for split, value in known.items() if value is not None]
        return ", ".join(values) + f" after {epochs} epoch{'s' if epochs != 1 else ''}" if values else ""


def trained(config: TrainConfig, spec: Spec, state: TrainState, rows: Sequence[Row] = ()) -> Trained:
    """Creates a trained network from its last state.

    Args:
      config: the configuration of the run.
      spec: the specification of the data.
      state: the last state of the run.
      rows: its lines of `metrics.jsonl`.
    """
    task = make_task(config, spec)
    variables = jax.device_put(Variables(state.params, state.stats))

    @jit
    def compute(task: Task, variables: Variables, images: Array) -> Array:
        inputs = task.spec.standardize(images)
        return task.functions.apply(variables, inputs, train=False, key=jax.random.key(0))[0]

    def logits(images: Num[Any, "batch *shape"]) -> Float[Array, "batch outputs"]:
        images = images if isinstance(images, Array) else np.asarray(images)
        if images.dtype != spec.dtype or images.shape[1:] != spec.shape or images.ndim == 0:
            raise ValueError(
                f"images: {images.dtype}{list(images.shape)}: must be as stored in the data set, "
                f"{spec.dtype}[batch, {', '.join(map(str, spec.shape))}]"
            )
        return compute(as_arrays(task), variables, images)

    found = Trained(variables, logits, spec, config, rows)
    if state.average is None:
        return found
    named = [{name.removeprefix("ema_"): row[name] for name in row if name.startswith("ema_")} for row in rows]
    of_average = [{**row, **values} for row, values in zip(rows, named, strict=True)]
    return found._replace(averaged=trained(config, spec, state.averaged._replace(average=None), of_average))


def load_run(folder: str | Path, trial: int | None = None, classes: Iterable[Any] = ()) -> Trained:
    """Loads the network of a run from its most recent valid checkpoint.

    >>> from cnnjax import SGD, MLPConfig, TrainConfig, fit, load, load_run
    >>> config = TrainConfig(MLPConfig(hidden=(8,)), SGD(learning_rate=0.1), data="digits", epochs=1)
    >>> fitted = fit(config, store="runs/example")
    >>> trained = load_run("runs/example")
    >>> logits = trained.logits(load("digits").test.inputs)
    >>> logits.shape, trained.classes[:3]
    ((360, 10), ('0', '1', '2'))

    Args:
      folder: a run folder, written by `train.py`, `sweep.py`, `fit` or `sweep`.
      trial: the number of a trial of a sweep; by default the trial of the winner with the lowest seed, in the
        first fold.
      classes: user-defined classes, enumerations and functions that the configuration names.

    Returns:
      The trained network with its configuration and records.

    Raises:
      OSError: if the folder or one of its files cannot be read.
      RecordError: if a record is damaged, has another format version, or names a class that is not in
        `classes`.
      CheckpointError: if the trial has no checkpoint, or no checkpoint is valid.
      ValueError: if the trial does not exist, or the sweep has no winner yet.
      TypeError: if an argument has the wrong type.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(f"folder: {folder!r}: must be the path of a run folder")
    if not isinstance(classes, Iterable) or isinstance(classes, str):
        raise TypeError(f"classes: {classes!r}: must be a list of classes, such as [Net]")
    classes = list(classes)
    if unnamed := [value for value in classes if not hasattr(value, "__qualname__")]:
        raise TypeError(f"classes: {unnamed[0]!r}: must be a class, an enumeration or a function")
    folder = Path(folder).expanduser()
    described, data, plan = (read_record(folder / f"{name}.json") for name in ("config", "data", "plan"))
    config = configuration_of(folder, classes)
    planned = valid(folder / "config.json", lambda: planned_trials(config, folder, data))
    spec = valid(folder / "data.json", lambda: read_spec(data))
    if trial is None:
        winner = folder / "trials.csv"
        trial = valid(winner, lambda: winner_of(winner)) if isinstance(config, SweepConfig) else 0
    if trial is None:
        raise ValueError(
            f"trial: None: give a number: {folder} has no winner: it has not finished, or all trials diverged"
        )
    if trial not in planned:
        trials = "only trial 0" if len(planned) == 1 and 0 in planned else f"{min(planned)} to {max(planned)}"
        raise ValueError(f"trial: {trial!r}: must be a trial of {folder}, which has {trials}")
    checkpoint = None
    for place, program in reversed(valid(folder / "plan.json", lambda: _places(plan, planned, trial))):
        like = valid(folder / "data.json", partial(state_of, program, spec))
        numbers = [lane.number for lane in program.trials]
        store = checkpoints_of(folder, place, numbers, described, data, report=warnings.warn)
        if checkpoint := store.restore(like):
            break
    if checkpoint is None:
        raise CheckpointError(f"trial {trial} has no checkpoint in {store.folder}: train it first")
    state = states_of(program, checkpoint.state, [planned[trial]], spec)[trial]
    spec = valid(folder / "data.json", lambda: read_folds(data)).get(planned[trial].fold, spec)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["trial"] == trial]
    words = tuple(map(str, data.get("vocabulary", ())))
    return trained(planned[trial].config, spec, state, rows)._replace(where=str(folder), vocabulary=words)


def valid(path: Path, read: Callable[[], Any]) -> Any:
    """Returns what `read` does; raises RecordError if it fails because of what the file contains."""
    try:
        return read()
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, csv.Error) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def planned_trials(config: TrainConfig | SweepConfig, folder: Path, data: Any) -> dict[int, Trial]:
    """Returns the trials of a run by number, as determined by its records."""
    sweep = as_sweep(config)
    single = sweep.search not in SAMPLERS  # the first stage has them all
    stages = replayed(sweep, [] if single else read_metrics(folder / "metrics.jsonl"), Counts.recorded(data))
    return {trial.number: trial for stage in stages for trial in stage.trials}


def _places(plan: Any, planned: Mapping[int, Trial], trial: int) -> list[tuple[int, Program]]:
    """Returns the programs that contain a trial, with their numbers, in order."""
    found = [
        (place, read_program(entry, planned))
        for place, entry in enumerate(plan["programs"])
        if trial in entry["trials"]
    ]
    if not found:
        raise ValueError(f"no program has trial {trial}")
    return found


def winner_of(path: Path) -> int | None:
    """Returns the first tested trial; None if there is none."""
    try:
        with path.open(newline="") as file:
            return min((int(row["trial"]) for row in csv.DictReader(file) if row["test_loss"]), default=None)
    except FileNotFoundError:
        return None
