"""The run folder: what a run leaves behind, as JSON, JSON lines and CSV. Nothing is overwritten."""

import contextlib
import csv
import enum
import hashlib
import io
import itertools
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.config import Range, SweepConfig
from cnnjax.data import Dataset
from cnnjax.data.cache import describe_spec, sha256
from cnnjax.metrics import Metric
from cnnjax.options import Config, from_json, text
from cnnjax.search import Stage, stages
from cnnjax.sweeps import Program, Result, Trial, results
from cnnjax.training import Progress

FORMAT = 2
_WRITTEN_BY = {1: "cnnjax 0.1"}

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")
PROPOSING = (
    "optuna",
    "scipy",
    "torch",
    "cmaes",
)  # where they are installed: on these an Optuna sampler's points depend


class RunFolder:
    """The folder `runs_dir/name`; its files are written once, `metrics.jsonl` line by line.

    Every JSON file bears the version of the folder's format.

    One process at a time has it: a lock goes with the process that holds it.

    Args:
      runs_dir: made if it does not exist.
      name: of the folder; it must be free.
      default: what an unnamed run's folder begins with; the time follows, and a number if need be.
      resume: a folder of that name is continued, if there is one.

    Raises:
      FileExistsError: the name is taken.
      BlockingIOError: another process has the folder.
      OSError: the folder cannot be made.
    """

    def __init__(self, runs_dir: Path, name: str | None, default: str = "run", *, resume: bool = False):
        runs_dir = runs_dir.expanduser()
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            self.path = self._named(runs_dir, name, resume) if name is not None else self._unnamed(runs_dir, default)
            self._lock = self._locked()
            self.figures = self.path / "figures"
            self.figures.mkdir(exist_ok=resume)
            self._metrics = self.path / "metrics.jsonl"
            self._metrics.open("ab" if resume else "xb").close()
        except OSError as error:
            if error.strerror is None:
                raise
            culprit = "" if Path(error.filename) == runs_dir else f"{error.filename}: "
            raise OSError(
                f"no run folder in {runs_dir}: {culprit}{error.strerror}: choose another --runs-dir or --name"
            ) from error

    @staticmethod
    def _named(runs_dir: Path, name: str, resume: bool) -> Path:
        if Path(name).name != name or not name or name.startswith("."):
            raise ValueError(f"name: {name!r}: give a plain folder name; --runs-dir says where it lies")
        path = runs_dir / name
        try:
            path.mkdir(exist_ok=resume)
        except FileExistsError:
            if path.is_dir():
                raise FileExistsError(
                    f"run folder {path} exists: choose another --name, continue it with --resume, or remove it"
                ) from None
            raise
        return path

    @staticmethod
    def _unnamed(runs_dir: Path, default: str) -> Path:
        stem = f"{default}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while True:
            path = runs_dir / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1

    def _locked(self) -> Any:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return contextlib.nullcontext()
        # Open for reading only, so that nothing keeps a disk from being unmounted but a write.
        file = open(os.open(self.path / ".lock", os.O_RDONLY | os.O_CREAT, 0o644))  # noqa: PTH123, SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BlockingIOError(f"run folder {self.path}: another process is at work in it") from None
        return file

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote; None if there is no such file."""
        try:
            return read_record(self.path / name)
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Writes a new file, or with `again` replaces it; numbers that are not finite become null."""
        self._write(name, json.dumps({"format": FORMAT, **plain(value)}, indent=2) + "\n", again)

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]], *, again: bool = False) -> None:
        """Writes a new file with a header; what does not exist is empty."""
        rows = [{key: "" if plain(value) is None else plain(value) for key, value in row.items()} for row in rows]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self._write(name, file.getvalue(), again)

    def _write(self, name: str, content: str, again: bool) -> None:
        path, unfinished = self.path / name, self.path / f".{name}"
        if not again and path.exists():
            raise FileExistsError(f"{path} exists")
        try:
            unfinished.write_text(content, newline="")
            unfinished.replace(path)  # whole or not there
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`."""
        lines = "".join(json.dumps(plain(row)) + "\n" for row in rows)
        try:
            # Opened anew, so that a folder that was removed is noticed.
            with open(self._metrics, "r+") as file:  # noqa: PTH123
                file.seek(0, os.SEEK_END)
                file.write(lines)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._metrics)) from None

    def metrics(self) -> list[dict[str, Any]]:
        """See `read_metrics`."""
        return read_metrics(self._metrics)

    def sync_metrics(self) -> None:
        """Waits until the lines of `metrics.jsonl` are on disk, before what is said to follow them."""
        with self._metrics.open("rb") as file:
            os.fsync(file.fileno())

    def cut_metrics(self, lines: int) -> None:
        """Cuts `metrics.jsonl` after so many lines."""
        with self._metrics.open("rb") as file:
            length = sum(len(line) for line in itertools.islice(file, lines))
        if length < self._metrics.stat().st_size:
            os.truncate(self._metrics, length)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)


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
        raise RecordError(f"{path}: damaged: no record, but {type(value).__name__}")
    found = value.pop("format", 1)
    if found != FORMAT:
        by = _WRITTEN_BY.get(found, "another version") if isinstance(found, int) else "another version"
        raise RecordError(
            f"{path}: format {found}, written by {by}: read it with that version; this one reads format {FORMAT}"
        )
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
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


def epoch_rows(program: Program, progress: Progress) -> list[dict[str, Any]]:
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


def result_of(trial: Trial, row: Mapping[str, Any], examples: int) -> Result:
    """A trial's result as its last line in `metrics.jsonl` has it, on so many training examples."""
    step, epochs = row["step"], row["epoch"]
    names = ("train_loss", "valid_loss", f"valid_{trial.config.metric.name}")
    numbers = (math.nan if row[name] is None else row[name] for name in names)
    if gone(row):
        status, epochs = "diverged", step // (examples // trial.config.batch_size)
    else:
        status = "complete" if epochs == trial.config.epochs else "stopped"
    return Result(trial, status, step, epochs, *numbers)


def gone(row: Mapping[str, Any] | None) -> bool:
    """Whether a trial has diverged, by its last line."""
    return row is not None and row["valid_loss"] is None


def replayed(sweep: SweepConfig, rows: Iterable[Mapping[str, Any]], examples: int) -> Iterator[Stage]:
    """The stages of a sweep as far as its lines in `metrics.jsonl` lead, the last of which may not be at its end."""
    rows, last = list(rows), dict[int, Mapping[str, Any]]()
    for stage in stages(sweep, lambda trial: result_of(trial, last[trial.number], examples)):
        yield stage
        last.update((row["trial"], row) for row in rows if row["epoch"] <= (stage.until or math.inf))
        if not all(ended(last.get(trial.number), trial, stage.until) for trial in stage.trials):
            return


def ended(row: Mapping[str, Any] | None, trial: Trial, until: int = 0) -> bool:
    """Whether a trial has diverged or come to an epoch, by default its last, by its last line."""
    return row is not None and (gone(row) or row["epoch"] == (until or trial.config.epochs))


def trial_rows(
    results: Sequence[Result], tests: Mapping[int, tuple[float, float]], metric: Metric, axes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The table of a sweep, a row for each trial: what it was, and what it came to.

    Args:
      results: of the trials.
      tests: test metric and loss of those that were tested, by number.
      metric: whose values they are.
      axes: names of the swept values; NaN where a trial has none, since its parts lack the field.
    """
    nothing = (math.nan, math.nan)
    return [
        {
            "trial": result.trial.number,
            "status": result.status,
            "seed": result.trial.config.seed,
            **dict.fromkeys(axes, math.nan),
            **{name: "none" if value is None else value for name, value in result.trial.values},
            "epochs": result.epochs,
            "steps": result.step,
            "train_loss": result.train_loss,
            "valid_loss": result.valid_loss,
            f"valid_{metric.name}": result.valid_metric,
            "test_loss": tests.get(result.trial.number, nothing)[1],
            f"test_{metric.name}": tests.get(result.trial.number, nothing)[0],
        }
        for result in results
    ]


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs between two plain values, as `optimizer.momentum 0.9 there, 0.8 here`."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif (
        isinstance(there, list)
        and isinstance(here, list)
        and len(there) == len(here)
        and any(isinstance(entry, dict) for entry in there)
    ):
        for i, pair in enumerate(zip(there, here, strict=True)):
            yield from differences(*pair, f"{name}.{i}")
    elif there != here:
        yield f"{name} {_short(there)} there, {_short(here)} here"


def _short(value: Any) -> str:
    words = text(tuple(value)) if isinstance(value, list) else str(value)
    return words if len(words) <= 40 else words[:12] + "..."


def environment(checkout: Path) -> dict[str, Any]:
    """Versions, device, and the checkout's git commit (None outside a checkout)."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in (*PACKAGES, *PROPOSING) if (version := _version(name))},
        "platform": platform.platform(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "source": _source(),
        "commit": _commit(checkout),
    }


def compared(facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The entries of an environment that must not change while a run lasts: of a preset its contents, not its path."""
    found = {name: facts.get(name) for name in names}
    return {
        name: fact["sha256"] if isinstance(fact, Mapping) and "sha256" in fact else fact for name, fact in found.items()
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """A digest of the package's source, which tells versions apart that have one number."""
    package, contents = Path(__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        contents.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return contents.hexdigest()


def _commit(checkout: Path) -> str | None:
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
