"""The run folder: what a run leaves behind, as JSON, JSON lines and CSV. Nothing is overwritten."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import platform
import subprocess
import time
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.config import Hparams, NetworkConfig, Range, SweepConfig, TrainConfig, from_json, text
from cnnjax.data import Dataset
from cnnjax.data.cache import sha256
from cnnjax.search import Stage, stages
from cnnjax.sweeps import Program, Result, Trial, results
from cnnjax.training import Progress

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")
PROPOSING = (
    "optuna",
    "scipy",
    "torch",
    "cmaes",
)  # where they are installed: on these an Optuna sampler's points depend


class RunFolder:
    """The folder `runs_dir/name`; its files are written once, `metrics.jsonl` line by line.

    One process at a time has it: a lock goes with the process that holds it.

    Args:
      runs_dir: made if it does not exist.
      name: of the folder; it must be free.
      default: what an unnamed run's folder begins with; the time follows, and a number if need be.
      resume: a folder of that name is gone on with, if there is one.

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
                    f"run folder {path} exists: choose another --name, go on with --resume, or remove it"
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

    def write_json(self, name: str, value: Any, *, again: bool = False) -> None:
        """Writes a new file, or with `again` replaces it; numbers that are not finite become null."""
        self._write(name, json.dumps(plain(value), indent=2) + "\n", again)

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


def read_record(path: Path) -> Any:
    """What a JSON file of a run folder holds; RecordError where it is damaged."""
    try:
        value = from_json(path.read_bytes())
    except ValueError as error:
        raise RecordError(f"{path}: damaged: {error}") from None
    if value is None:
        raise RecordError(f"{path}: damaged: null")
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
    counts = [row.get(name) for name in ("trial", "epoch", "step")]
    means = [row.get(name, "") for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")]
    return all(type(count) is int for count in counts) and all(
        mean is None or type(mean) in (int, float) for mean in means
    )


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples of numbers as `8,16`, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return text(value)
    if isinstance(value, NetworkConfig | Range):
        return str(value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def describe(config: TrainConfig | SweepConfig) -> dict[str, Any]:
    """A configuration as plain values, enough to run it again."""
    if isinstance(config, SweepConfig):
        axes = {
            name: asdict(values) if isinstance(values, Range) else [_described(value) for value in values]
            for name, values in config.axes
        }
        rest = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)[2:]}
        zipped = [list(group) for group in config.zipped]
        return {"base": describe(config.base), "axes": axes, **rest, "zipped": zipped}
    hparams = asdict(config.hparams)
    del hparams["steps"], hparams["dropout_rate"]  # set where they are used
    return {**asdict(config), "network": _described(config.network), "hparams": hparams}


def _described(value: Any) -> Any:
    return {"kind": type(value).__name__, **asdict(value)} if isinstance(value, NetworkConfig) else value


def configuration(described: Any, networks: Mapping[str, type[NetworkConfig]]) -> TrainConfig | SweepConfig:
    """The configuration that `describe` wrote.

    Args:
      described: as read from `config.json`.
      networks: the classes that may be named, by name.

    Raises:
      ValueError: it is no such description, or a value is out of range.
    """
    try:
        if "axes" in described:
            base = configuration(described["base"], networks)
            assert isinstance(base, TrainConfig)
            kinds = {name: kind for part in (base.hparams, base.network, base) for name, kind in _kinds(part).items()}
            axes = {
                name: Range(**values)
                if isinstance(values, Mapping)
                else tuple(
                    _network(value, networks) if name == "network" else _value(kinds[name], value) for value in values
                )
                for name, values in described["axes"].items()
            }
            rest = {name: value for name, value in described.items() if name not in ("base", "axes", "zipped")}
            return SweepConfig(base, tuple(axes.items()), zipped=tuple(map(tuple, described["zipped"])), **rest)
        rest = dict(described)
        parts = {
            "network": _network(rest.pop("network"), networks),
            "hparams": _built(Hparams, rest.pop("hparams")),
        }
        return _built(TrainConfig, rest, **parts)
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"no configuration: {type(error).__name__}: {error}") from None


def _network(described: Mapping[str, Any], networks: Mapping[str, type[NetworkConfig]]) -> NetworkConfig:
    values = dict(described)
    return _built(networks[values.pop("kind")], values)


def _kinds(part: Any) -> dict[str, Any]:
    return typing.get_type_hints(part if isinstance(part, type) else type(part))


def _value(kind: Any, value: Any) -> Any:
    if kind == tuple[int, ...] and isinstance(value, str):
        return () if value == "none" else tuple(map(int, value.split(",")))
    return value


def _built(kind: Any, values: Mapping[str, Any], **more: Any) -> Any:
    kinds = _kinds(kind)
    return kind(**{name: _value(kinds[name], value) for name, value in values.items()}, **more)


def describe_data(data: Dataset) -> dict[str, Any]:
    """What a network needs to know of its data, and a digest of all of it."""
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    return {
        "name": data.name,
        "classes": list(data.classes),
        "shape": list(data.train.inputs.shape[1:]),
        "dtype": data.train.inputs.dtype.name,
        "examples": {name: len(split.labels) for name, split in splits.items()},
        "standardize": {name: list(values) for name, values in dataclasses.asdict(data.standardize).items()},
        "sha256": digest([sha256(array) for split in splits.values() for array in split]),
    }


def digest(value: Any) -> str:
    """SHA-256 of a plain value, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def epoch_rows(program: Program, progress: Progress) -> list[dict[str, Any]]:
    """What `metrics.jsonl` says of an epoch, a line for each trial of a program; nulls of one that has diverged."""
    accuracies = np.asarray(progress.train.accuracy)[program.rows].tolist()
    return [
        {
            "trial": result.trial.number,
            "epoch": progress.epoch,
            "step": result.step,
            "train_loss": result.train_loss,
            "train_accuracy": math.nan if result.status == "diverged" else accuracy,
            "valid_loss": result.valid_loss,
            "valid_accuracy": result.valid_accuracy,
        }
        for result, accuracy in zip(results(program, progress), accuracies, strict=True)
    ]


def result_of(trial: Trial, row: Mapping[str, Any], examples: int) -> Result:
    """A trial's result as its last line in `metrics.jsonl` has it, on so many training examples."""
    step, epochs = row["step"], row["epoch"]
    numbers = (math.nan if row[name] is None else row[name] for name in ("train_loss", "valid_loss", "valid_accuracy"))
    if gone(row):
        status, epochs = "diverged", step // (examples // trial.config.batch_size)
    else:
        status = "complete" if epochs == trial.config.epochs else "stopped"
    return Result(trial, status, step, epochs, *numbers)


def gone(row: Mapping[str, Any] | None) -> bool:
    """Whether a trial has diverged, by its last line."""
    return row is not None and row["train_accuracy"] is None


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


def trial_rows(results: Sequence[Result], tests: Mapping[int, tuple[float, float]]) -> list[dict[str, Any]]:
    """The table of a sweep, a row for each trial: what it was, and what it came to.

    Args:
      results: of the trials.
      tests: test accuracy and loss of those that were tested, by number.
    """
    nothing = (math.nan, math.nan)
    return [
        {
            "trial": result.trial.number,
            "status": result.status,
            "seed": result.trial.config.seed,
            **dict(result.trial.values),
            "epochs": result.epochs,
            "steps": result.step,
            "train_loss": result.train_loss,
            "valid_loss": result.valid_loss,
            "valid_accuracy": result.valid_accuracy,
            "test_loss": tests.get(result.trial.number, nothing)[1],
            "test_accuracy": tests.get(result.trial.number, nothing)[0],
        }
        for result in results
    ]


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """What differs between two plain values, as `hparams.momentum 0.9 there, 0.8 here`."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
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
