"""What the records of a run say: JSON, JSON lines and CSV, as plain values."""

import enum
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import Range, SweepConfig
from cnnjax.data import Dataset
from cnnjax.data.cache import describe_spec, sha256
from cnnjax.metrics import Metric
from cnnjax.options import Config, from_json, text
from cnnjax.sweeps import Program, Result, Stage, Trial, results, stages
from cnnjax.training import Progress

Row = dict[str, Any]
"""A line of `metrics.jsonl`: a trial after an epoch. Nulls where it has diverged."""

FORMAT = 2
_WRITTEN_BY = {1: "cnnjax 0.1"}


class RecordError(Exception):
    """A record that is damaged; the message names the file and the line."""


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file of a run folder holds.

    Raises:
      OSError: it is not there.
      RecordError: it is damaged, or of another format.
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
            f"{path}: format {found}, written by {by}: read it with that version; this one reads format {FORMAT}"
        )
    return value


def read_metrics(path: Path) -> list[Row]:
    """The lines of a `metrics.jsonl`, up to one that was not finished.

    Raises:
      RecordError: a line before the last is damaged, or any has not the fields of an epoch.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            if not isinstance(row, dict) or not line.endswith(b"\n"):
                raise ValueError("no whole line")
        except ValueError as error:
            if number == len(lines):
                break
            raise RecordError(f"{path}: line {number} is damaged: {error}") from None
        if not _whole(row):
            raise RecordError(f"{path}: line {number} is damaged: not the fields of an epoch")
        rows.append(row)
    return rows


def _whole(row: Mapping[str, Any]) -> bool:
    """Whether a line has the fields of one."""
    counts = [row.get(name, "") for name in ("trial", "epoch", "step")]
    losses = [row.get(name, "") for name in ("train_loss", "valid_loss")]
    rest = [value for name, value in row.items() if name.startswith(("train_", "valid_"))]
    return (
        all(type(count) is int for count in counts)
        and len(rest) == 4
        and all(mean is None or type(mean) in (int, float) for mean in losses + rest)
    )


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples of numbers as `8,16`, what is not finite as null."""
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
    """A plain value as JSON with a line for each entry, but one line for what holds plain values only."""
    entries = list(value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ())
    if not any(isinstance(entry, Mapping | list) for entry in entries) and (indent or not entries):
        return json.dumps(value)
    deeper = indent + "  "
    names = [f"{json.dumps(name)}: " for name in value] if isinstance(value, Mapping) else [""] * len(entries)
    lines = [f"{deeper}{name}{readable(entry, deeper)}" for name, entry in zip(names, entries, strict=True)]
    start, end = "{}" if isinstance(value, Mapping) else "[]"
    return "\n".join([start, ",\n".join(lines), indent + end])


def describe_data(data: Dataset) -> dict[str, Any]:
    """What a network needs to know of its data, and a digest of all of it."""
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    return {
        "name": data.name,
        **{
            name: list(value) if isinstance(value, tuple) else value for name, value in describe_spec(data.spec).items()
        },
        "examples": {name: len(split.labels) for name, split in splits.items()},
        "sha256": digest([sha256(array) for split in splits.values() for array in split]),
    }


def digest(value: Any) -> str:
    """SHA-256 of a plain value, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def epoch_rows(program: Program, progress: Progress) -> list[Row]:
    """What `metrics.jsonl` says of an epoch, a line for each trial of a program; nulls of one that has diverged."""
    train = np.asarray(progress.train.metric)[program.rows].tolist()
    name = program.config.metric.name
    return [
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


class Counts(NamedTuple):
    """How many examples and classes data have."""

    train: int
    valid: int
    classes: int

    @classmethod
    def of(cls, data: Dataset) -> "Counts":
        """Those of a data set."""
        return cls(len(data.train.labels), len(data.valid.labels), len(data.spec.classes))

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> "Counts":
        """Those of `data.json`."""
        return cls(data["examples"]["train"], data["examples"]["valid"], len(data["classes"]))


def result_of(trial: Trial, row: Mapping[str, Any], counts: Counts) -> Result:
    """A trial's result as its last line in `metrics.jsonl` has it, on data of these counts."""
    step, epochs, metric = row["step"], row["epoch"], trial.config.metric
    names = ("train_loss", "valid_loss", f"valid_{metric.name}")
    train_loss, valid_loss, score = (math.nan if row[name] is None else row[name] for name in names)
    if has_diverged(row):
        status, epochs = "diverged", step // (counts.train // trial.config.batch_size)
    else:
        status = "complete" if epochs == trial.config.epochs else "stopped"
    above = metric.above_chance(score, counts.classes, counts.valid)
    return Result(trial, status, step, epochs, train_loss, valid_loss, score, above)


def counted(statuses: Iterable[str]) -> str:
    """How many trials have each status, as `8 complete, 4 diverged`."""
    found = list(statuses)
    counts = {status: found.count(status) for status in ("complete", "stopped", "diverged")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def has_diverged(row: Mapping[str, Any] | None) -> bool:
    """Whether a trial has diverged, by its last line."""
    return row is not None and row["valid_loss"] is None


def replayed(sweep: SweepConfig, rows: Iterable[Mapping[str, Any]], counts: Counts) -> Iterator[Stage]:
    """The stages of a sweep as far as its lines in `metrics.jsonl` lead, the last of which may not be at its end."""
    rows, last = list(rows), dict[int, Mapping[str, Any]]()
    for stage in stages(sweep, lambda trial: result_of(trial, last[trial.number], counts)):
        yield stage
        last.update((row["trial"], row) for row in rows if row["epoch"] <= (stage.until or math.inf))
        if not all(ended(last.get(trial.number), trial, stage.until) for trial in stage.trials):
            return


def ended(row: Mapping[str, Any] | None, trial: Trial, until: int = 0) -> bool:
    """Whether a trial has diverged or come to an epoch, by default its last, by its last line."""
    return row is not None and (has_diverged(row) or row["epoch"] == (until or trial.config.epochs))


def trial_rows(
    results: Sequence[Result],
    tests: Mapping[int, tuple[float, float]],
    metric: Metric,
    axes: Sequence[str] = (),
    rows: Iterable[Mapping[str, Any]] = (),
    parameters: Mapping[int, int] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """The table of a sweep, a row for each trial: what it was, and what it came to.

    Args:
      results: of the trials.
      tests: test metric and loss of those that were tested, by number.
      metric: whose values they are.
      axes: names of the swept values; NaN where a trial has none, since its parts lack the field.
      rows: lines of `metrics.jsonl`, of which a trial's last has its metric in training: the mean over
        the batches of the epoch, each under the parameters of its time.
      parameters: trainable numbers of the trials' networks, by number.
    """
    nothing = (math.nan, math.nan)
    last = {row["trial"]: row for row in rows}
    return [
        {
            "trial": result.trial.number,
            "status": result.status,
            "seed": result.trial.config.seed,
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
        }
        for result in results
    ]


def differences(there: Any, here: Any, name: str = "", sides: tuple[str, str] = ("there", "here")) -> Iterator[str]:
    """What differs between two plain values, as `optimizer.momentum 0.9 there, 0.8 here`."""
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


def _short(value: Any) -> str:
    words = text(tuple(value)) if isinstance(value, list) else str(value) or "''"
    return words if len(words) <= 40 else words[:12] + "..."
