"""Where a run keeps its records and checkpoints: in memory, or in a run folder, whose files are not overwritten."""

import contextlib
import copy
import csv
import io
import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import PyTree

from cnnjax.runs.checkpoints import Checkpoint, Checkpoints, alike, preload
from cnnjax.runs.records import FORMAT, Row, digest, plain, read_metrics, read_record, readable


class States(Protocol):
    """Where the states of one program lie, by step."""

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        """Keeps a state, and as the best those with the highest metric."""

    def restore(self, like: PyTree) -> Checkpoint | None:
        """The most recent state that is valid; None if there is none."""

    def close(self) -> None:
        """Waits for what is being written."""


class Store(Protocol):
    """What `run` asks of the place where records and checkpoints are kept."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def preload(self) -> None:
        """Imports what saving takes."""

    def read_json(self, name: str) -> Any:
        """A record; None if there is no such."""

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Keeps a new record, or with `again` replaces it."""

    def metrics(self) -> list[Row]:
        """The lines of `metrics.jsonl`."""

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds lines to `metrics.jsonl`."""

    def sync_metrics(self) -> None:
        """Waits until the lines are safe, before what is said to follow them."""

    def cut_metrics(self, lines: int) -> None:
        """Drops all but so many lines."""

    def states(self, program: int, trials: Sequence[int], **options: Any) -> States:
        """Where the states of a program are kept, by its number in `plan.json` and its trials' numbers."""

    def drop_states(self, program: int, step: int) -> None:
        """Drops what a program kept after a step, and all of the programs after it."""


class InMemory:
    """A store for as long as the process lives: what was stopped can be resumed from it."""

    name = "memory"
    """What messages call it."""

    def __init__(self) -> None:
        self._records: dict[str, Any] = {}
        self._rows: list[Row] = []
        self._states: dict[int, _StatesInMemory] = {}

    def preload(self) -> None:
        """Nothing is needed."""

    def read_json(self, name: str) -> Any:
        """A copy of what `write_json` was given, as JSON would hold it; None if there is no such."""
        return copy.deepcopy(self._records.get(name))

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Keeps a record.

        Raises:
          FileExistsError: there is one of that name, and not `again`.
        """
        if not again and name in self._records:
            raise FileExistsError(f"{self.name}: {name} exists")
        self._records[name] = json.loads(json.dumps(plain(value)))

    def metrics(self) -> list[Row]:
        """The rows so far."""
        return [dict(row) for row in self._rows]

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows."""
        self._rows += [plain(row) for row in rows]

    def sync_metrics(self) -> None:
        """Nothing is to be waited for."""

    def cut_metrics(self, lines: int) -> None:
        """Drops all but so many rows."""
        del self._rows[lines:]

    def states(self, program: int, trials: Sequence[int], **options: Any) -> States:
        """The last state of a program; `options` are those of a folder, and mean nothing here."""
        return self._states.setdefault(program, _StatesInMemory())

    def drop_states(self, program: int, step: int) -> None:
        """Drops what a program kept after a step, and all of the programs after it."""
        for number in [number for number in self._states if number >= program]:
            last = self._states[number].last
            if number > program or (last and last.step > step):
                del self._states[number]


class _StatesInMemory:
    """The last state of a program, as arrays of the host."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        self.last = Checkpoint(step, jax.tree.map(np.array, state), metric, Path(InMemory.name))

    def restore(self, like: PyTree) -> Checkpoint | None:
        return alike(self.last, like) if self.last else None

    def close(self) -> None:
        pass


class RunFolder:
    """A folder of records and checkpoints; its files are written once, `metrics.jsonl` line by line.

    Every JSON file bears the version of the folder's format. One process at a time has it: a lock
    goes with the process that holds it.

    Args:
      path: of the folder; what is above it is made if it does not exist.
      resume: the folder is continued, if there is one; else it must be free.

    Raises:
      FileExistsError: the name is taken.
      BlockingIOError: another process has the folder.
      OSError: the folder cannot be made.
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        self.path = Path(path).expanduser()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._new = not self.path.exists()
            try:
                self.path.mkdir(exist_ok=resume)
            except FileExistsError:
                if self.path.is_dir():
                    raise FileExistsError(
                        f"run folder {self.path} exists: choose another --name, continue it with --resume "
                        "(resume=True), or remove it"
                    ) from None
                raise
            self._lock = self._locked()
            self.figures = self.path / "figures"
            self.figures.mkdir(exist_ok=resume)
            self._metrics = self.path / "metrics.jsonl"
            self._metrics.open("ab" if resume else "xb").close()
        except OSError as error:
            if error.strerror is None:
                raise
            culprit = "" if Path(error.filename) == self.path.parent else f"{error.filename}: "
            raise OSError(
                f"no run folder in {self.path.parent}: {culprit}{error.strerror}: choose another --runs-dir or --name"
            ) from error

    @classmethod
    def within(cls, runs_dir: Path, name: str | None, default: str = "run", *, resume: bool = False) -> "RunFolder":
        """The folder `runs_dir/name`; unnamed, one that begins with `default`, with the time and a number if need be.

        Raises:
          ValueError: the name is a path.
          OSError: as of `RunFolder`.
        """
        if name is not None:
            if Path(name).name != name or not name or name.startswith("."):
                raise ValueError(f"name: {name!r}: give a plain folder name; --runs-dir says where it lies")
            return cls(runs_dir / name, resume=resume)
        stem = f"{default}-{time.strftime('%Y%m%d-%H%M%S')}"
        number = 1
        while True:
            try:
                return cls(runs_dir / (stem if number == 1 else f"{stem}-{number}"))
            except FileExistsError:
                number += 1

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def _locked(self) -> Any:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks
            return contextlib.nullcontext()
        # Open for reading only, which the lock of filelock is not: a disk can be remounted or unmounted under a run.
        file = open(os.open(self.path / ".lock", os.O_RDONLY | os.O_CREAT, 0o644))  # noqa: PTH123, SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BlockingIOError(f"run folder {self.path}: another process is at work in it") from None
        except OSError as error:  # as on Lustre and some network drives
            warnings.warn(
                f"run folder {self.path}: its file system has no locks ({error.strerror}): "
                "nothing keeps a second process out",
                stacklevel=2,
            )
        return file

    def preload(self) -> None:
        """Imports Orbax."""
        preload()

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote; None if there is no such file."""
        try:
            return read_record(self.path / name)
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Writes a new file, or with `again` replaces it; numbers that are not finite become null."""
        self._write(name, readable({"format": FORMAT, **plain(value)}) + "\n", again)

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

    def append(self, name: str, line: str) -> None:
        """Adds a line to a file of plain text."""
        with (self.path / name).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")

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

    def metrics(self) -> list[Row]:
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

    def states(self, program: int, trials: Sequence[int], **options: Any) -> Checkpoints:
        """The checkpoints of a program; `options` as of `Checkpoints`."""
        return checkpoints_of(
            self.path, program, trials, self.read_json("config.json"), self.read_json("data.json"), **options
        )

    def drop_states(self, program: int, step: int) -> None:
        """Removes the checkpoints of a program after a step, and all of the programs after it."""
        for path in (self.path / "checkpoints").glob("*"):
            if path.name.isdecimal() and int(path.name) >= program:
                Checkpoints(path, "").drop_after(step if int(path.name) == program else -1)

    def close(self) -> None:
        """Leaves the folder to other processes."""
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._new and isinstance(error, ValueError) and not self._metrics.stat().st_size:
            shutil.rmtree(self.path)  # refused before anything was trained: the name stays free
        self.close()


def checkpoints_of(
    folder: Path, program: int, trials: Sequence[int], config: Any, data: Any, **options: Any
) -> Checkpoints:
    """Where a run folder keeps the checkpoints of a program.

    Args:
      folder: of the run.
      program: its number in `plan.json`.
      trials: numbers of the trials that are its lanes.
      config: as in `config.json`.
      data: as in `data.json`.
      options: see `Checkpoints`.
    """
    identity = digest({"config": config, "data": data, "trials": list(trials)})
    return Checkpoints(folder / "checkpoints" / str(program), identity, **options)
