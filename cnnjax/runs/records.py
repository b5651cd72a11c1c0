"""The records of a run (JSON, JSON lines and CSV) as plain values."""

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.config import Range, SweepConfig
from cnnjax.data import Dataset, Spec
from cnnjax.data.cache import describe_spec, read_spec, sha256
from cnnjax.metrics import Metric
from cnnjax.options import Config, from_json, text
from cnnjax.sweeps import Program, Result, Stage, Trial, results, stages
from cnnjax.training import Progress

Row = dict[str, Any]
"""A line of `metrics.jsonl`: a trial after an epoch, with nulls if it has diverged."""

FORMAT = 2
_OF_FOLD = ("mean", "std", "counts")
_WRITTEN_BY = {1: "cnnjax 0.1"}


class RecordError(Exception):
    """Raised for a damaged record; the message names the file and the line."""


def read_record(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run folder.

    Raises:
      OSError: if the file cannot be read.
      RecordError: if it is damaged, or has another format version.
    """
    try:
        value = from_json(path.read_bytes())
    except ValueError as error:
        raise RecordError(f"{path}: damaged: {error}") from None
    if not isinstance(value, dict):
        raise RecordError(f"{path}: damaged: must be a JSON object, not {type(value).__name__}")
    found = value.pop("format", 1)
    if found != FORMAT:
        by = _WRITTEN_BY.get(found, "another version") if isinstance(found, int) else "another version"
        raise RecordError(
            f"{path}: format {found}, written by {by}: read it with that version; this version reads format {FORMAT}"
        )
    return value


def read_metrics(path: Path) -> list[Row]:
    """Reads a `metrics.jsonl`, without an unfinished last line.

    Raises:
      RecordError: if a line before the last one is damaged, or a line lacks a field.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            if not isinstance(row, dict) or not line.endswith(b"\n"):
                raise ValueError("incomplete line")
        except ValueError as error:
            if number == len(lines):
                break
            raise RecordError(f"{path}: line {number} is damaged: {error}") from None
        if not _whole(row):
            raise RecordError(f"{path}: line {number} is damaged: fields are missing or have the wrong type")
        rows.append(row)
    return rows


def _whole(row: Mapping[str, Any]) -> bool:
    """Returns whether a line has all fields, with the right types."""
    counts = [row.get(name, "") for name in ("trial", "epoch", "step")]
    losses = [row.get(name, "") for name in ("train_loss", "valid_loss")]
    rest = [value for name, value in row.items() if name.startswith(("train_", "valid_"))]
    averages = [value for name, value in row.items() if name.startswith("ema_valid_")]
    best = row.get("best_epoch")
    return (
        all(type(count) is int for count in counts)
        and (len(rest), len(averages)) in ((4, 0), (4, 2))
        and (best is None or type(best) is int)
        and all(mean is None or type(mean) in (int, float) for mean in losses + rest + averages)
    )


def plain(value: Any) -> Any:
    """Converts a value for JSON: tuples to text as `8,16`, numbers that are not finite to null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return text(value)
    if isinstance(value, Config | Range):
        return str(value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return text(value) if isinstance(value, enum.Enum) or callable(value) else value


def readable(value: Any, indent: str = "") -> str:
    """Formats a plain value as JSON, with one line per entry; an innermost list or object takes one line."""
    entries = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ())
    if not any(isinstance(entry, Mapping | list) for entry in entries) and (indent or not entries):
        return json.dumps(value)
    deeper = indent + "  "
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, Mapping) else [""] * len(entries)
    lines = [f"{deeper}{name}{readable(entry, deeper)}" for name, entry in zip(names, entries, strict=True)]
    start, end = "{}" if isinstance(value, Mapping) else "[]"
    return "\n".join([start, ",\n".join(lines), indent + end])


def describe_data(data: Dataset) -> dict[str, Any]:
    """Describes a data set: its specification, the sizes of its splits, and a digest of all arrays.

    If the data set has folds, the sizes are those of the first, and the statistics of each are described.
    """
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    every, folds = list(splits.values()), dict[str, Any]()
    if data.folds is not None:
        found = {name: (describe_spec(fold.spec), fold.test) for name, fold in data.folds.items()}
        every = [test for _, test in found.values()]
        folds = {"folds": {name: {key: spec[key] for key in _OF_FOLD} for name, (spec, _) in found.items()}}
    return {
        "name": data.name,
        **{
            name: list(value) if isinstance(value, tuple) else value for name, value in describe_spec(data.spec).items()
        },
        **({"vocabulary": list(data.vocabulary)} if data.vocabulary else {}),
        "examples": {name: len(split.labels) for name, split in splits.items()},
        "sha256": digest([sha256(array) for split in every for array in split]),
        **folds,
    }


def read_folds(data: Mapping[str, Any]) -> dict[str, Spec]:
    """Reads the specification of each fold from `data.json`; empty if there are no folds."""
    return {name: read_spec({**data, **of_fold}) for name, of_fold in data.get("folds", {}).items()}


def digest(value: Any) -> str:
    """Returns the SHA-256 of a plain value, which does not depend on the order of fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def epoch_rows(program: Program, progress: Progress) -> list[Row]:
    """Returns the lines of `metrics.jsonl` for an epoch, one per trial of a program; NaN if it has diverged."""
    train = np.asarray(progress.train.metric)[program.rows].tolist()
    name = program.config.metric.name
    rows = [
        {
            "trial": result.trial.number,
            "epoch": progress.epoch,
            "step": result.step,
            "train_loss": result.train_loss,
            f"train_{name}": math.nan if result.status == "diverged" else value,
            "valid_loss": result.valid_loss,
            f"valid_{name}": result.valid_metric,
        }
        for result, value in zip(results(program, progress), train, strict=True)
    ]
    if progress.average is None:
        return rows
    with np.errstate(invalid="ignore"):  # a diverged trial has no examples
        sums = jax.tree.map(lambda array: np.asarray(array)[program.rows].astype(float), progress.average)
        averages = zip(sums.loss.tolist(), sums.metric.tolist(), strict=True)
    names = "ema_valid_loss", f"ema_valid_{name}"
    return [{**row, **dict(zip(names, pair, strict=True))} for row, pair in zip(rows, averages, strict=True)]


class Counts(NamedTuple):
    """The numbers of examples and classes of a data set."""

    train: int
    valid: int
    classes: int

    @classmethod
    def of(cls, data: Dataset) -> "Counts":
        """Returns the counts of a data set."""
        return cls(len(data.train.labels), len(data.valid.labels), len(data.spec.classes))

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> "Counts":
        """Reads the counts from `data.json`."""
        return cls(data["examples"]["train"], data["examples"]["valid"], len(data["classes"]))


def result_of(trial: Trial, row: Mapping[str, Any], counts: Counts) -> Result:
    """Returns the result of a trial from its last line in `metrics.jsonl` and the counts of its data."""
    step, epochs, metric = row["step"], row["epoch"], trial.config.metric
    names = ("train_loss", "valid_loss", f"valid_{metric.name}")
    train_loss, valid_loss, score = (math.nan if row[name] is None else row[name] for name in names)
    if has_diverged(row):
        status, epochs = "diverged", step // (counts.train // trial.config.batch_size)
    else:
        status = "complete" if ended(row, trial) else "stopped"
    above = metric.above_chance(score, counts.classes, counts.valid)
    return Result(trial, status, step, epochs, train_loss, valid_loss, score, above)


def counted(statuses: Iterable[str]) -> str:
    """Formats the number of trials with each status, such as `8 complete, 4 diverged`."""
    found = list(statuses)
    counts = {status: found.count(status) for status in ("complete", "stopped", "diverged")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def has_diverged(row: Mapping[str, Any] | None) -> bool:
    """Returns whether a trial has diverged, from its last line."""
    return row is not None and row["valid_loss"] is None


def has_waited(row: Mapping[str, Any] | None, trial: Trial) -> bool:
    """Returns whether a trial has stopped early because it ran out of patience, from its last line."""
    patience, best = trial.config.patience, row.get("best_epoch") if row else None
    return row is not None and patience is not None and best is not None and row["epoch"] - best >= patience


def is_over(row: Mapping[str, Any] | None, trial: Trial) -> bool:
    """Returns whether the state of a trial changes no more before its last epoch: it has diverged or stopped early."""
    return has_diverged(row) or has_waited(row, trial)


def replayed(sweep: SweepConfig, rows: Iterable[Mapping[str, Any]], counts: Counts) -> Iterator[Stage]:
    """Yields the stages of a sweep that its lines in `metrics.jsonl` determine; the last may be unfinished."""
    rows, last = list(rows), dict[int, Mapping[str, Any]]()
    for stage in stages(sweep, lambda trial: result_of(trial, last[trial.number], counts)):
        yield stage
        last.update((row["trial"], row) for row in rows if row["epoch"] <= (stage.until or math.inf))
        if not all(ended(last.get(trial.number), trial, stage.until) for trial in stage.trials):
            return


def ended(row: Mapping[str, Any] | None, trial: Trial, until: int = 0) -> bool:
    """Returns whether a trial is over or has reached an epoch, by default its last one, from its last line."""
    return row is not None and (is_over(row, trial) or row["epoch"] == (until or trial.config.epochs))


def trial_rows(
    results: Sequence[Result],
    tests: Mapping[int, tuple[float, float]],
    metric: Metric,
    axes: Sequence[str] = (),
    rows: Iterable[Mapping[str, Any]] = (),
    parameters: Mapping[int, int] = MappingProxyType({}),
    ema_tests: Mapping[int, tuple[float, float]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Returns the table of a sweep, with one row per trial: its values, its status and its metrics.

    Args:
      results: the results of the trials.
      tests: test metric and loss by trial number, for tested trials.
      metric: the metric of the sweep.
      axes: the names of the swept fields; NaN if the parts of a trial lack the field.
      rows: lines of `metrics.jsonl`. The last line of a trial has its training metric: the mean over the
        batches of the epoch, each evaluated with the parameters before its step.
      parameters: the number of trainable parameters by trial number.
      ema_tests: as `tests`, for moving averages. They have columns if a trial has them.
    """
    nothing = (math.nan, math.nan)
    last = {row["trial"]: row for row in rows}
    averaged = any(result.trial.config.ema is not None for result in results)
    return [
        {
            "trial": result.trial.number,
            "status": result.status,
            **result.trial.repeat,
            **dict.fromkeys(axes, math.nan),
            **{name: "none" if value is None else value for name, value in result.trial.values},
            "epochs": result.epochs,
            "steps": result.step,
            "parameters": parameters.get(result.trial.number, math.nan),
            "train_loss": result.train_loss,
            f"train_{metric.name}": last.get(result.trial.number, {}).get(f"train_{metric.name}", math.nan),
            "valid_loss": result.valid_loss,
            f"valid_{metric.name}": result.valid_metric,
            "test_loss": tests.get(result.trial.number, nothing)[1],
            f"test_{metric.name}": tests.get(result.trial.number, nothing)[0],
            **(_of_average(last.get(result.trial.number, {}), ema_tests, metric) if averaged else {}),
        }
        for result in results
    ]


def _of_average(row: Mapping[str, Any], tests: Mapping[int, tuple[float, float]], metric: Metric) -> dict[str, Any]:
    """Returns the columns of the moving average of a trial, from its last line."""
    names = ("ema_valid_loss", f"ema_valid_{metric.name}")
    score, loss = tests.get(row.get("trial", -1), (math.nan, math.nan))
    return {
        **{name: row.get(name, math.nan) for name in names},
        "ema_test_loss": loss,
        f"ema_test_{metric.name}": score,
    }


def differences(there: Any, here: Any, name: str = "", sides: tuple[str, str] = ("there", "here")) -> Iterator[str]:
    """Yields the differences between two plain values, such as `optimizer.momentum 0.9 there, 0.8 here`."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key, sides)
    elif (
        isinstance(there, list)
        and isinstance(here, list)
        and len(there) == len(here)
        and any(isinstance(entry, dict) for entry in there)
    ):
        for i, pair in enumerate(zip(there, here, strict=True)):
            yield from differences(*pair, f"{name}.{i}", sides)
    elif there != here:
        yield f"{name} {_short(there)} {sides[0]}, {_short(here)} {sides[1]}"


def data_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    """Yields the differences between two `data.json`, without facts that the first, of an older version, lacks.

    All facts follow from the arrays, whose digest is compared.
    """
    return differences(there, {name: value for name, value in here.items() if name in there})


def _short(value: Any) -> str:
    words = text(tuple(value)) if isinstance(value, list) else str(value) or "''"
    return words if len(words) <= 40 else words[:12] + "..."
