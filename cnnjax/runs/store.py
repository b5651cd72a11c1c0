"""Stores for the records and checkpoints of a run: in memory, or in a run folder."""

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
    """The stored states of one program, by step."""

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        """Saves a state; states with the highest metric are kept as the best."""

    def restore(self, like: PyTree) -> Checkpoint | None:
        """Returns the most recent valid state; None if there is none."""

    def close(self) -> None:
        """Waits until the last state is written."""


class Store(Protocol):
    """The interface of stores, which `run` uses."""

    @property
    def name(self) -> str:
        """The name of the store in messages."""

    def preload(self) -> None:
        """Imports the libraries that saving needs."""

    def read_json(self, name: str) -> Any:
        """Reads a record; None if it does not exist."""

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Writes a new record; with `again`, replaces an existing one."""

    def metrics(self) -> list[Row]:
        """Returns the lines of `metrics.jsonl`."""

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to `metrics.jsonl`."""

    def sync_metrics(self) -> None:
        """Waits until the lines are on disk, so that a state can be saved after them."""

    def cut_metrics(self, lines: int) -> None:
        """Keeps only the first `lines` lines."""

    def states(self, program: int, trials: Sequence[int], **options: Any) -> States:
        """Returns the stored states of a program, given its number in `plan.json` and the numbers of its trials."""

    def drop_states(self, program: int, step: int) -> None:
        """Drops the states of a program after a step, and all states of later programs."""


class InMemory:
    """A store in memory, from which a stopped run can be resumed in the same process."""

    name = "memory"
    """The name of the store in messages."""

    def __init__(self) -> None:
        self._records: dict[str, Any] = {}
        self._rows: list[Row] = []
        self._states: dict[int, _StatesInMemory] = {}

    def preload(self) -> None:
        """Does nothing."""

    def read_json(self, name: str) -> Any:
        """Returns a copy of a record, as JSON represents it; None if it does not exist."""
        return copy.deepcopy(self._records.get(name))

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Stores a record.

        Raises:
          FileExistsError: if the record exists and `again` is false.
        """
        if not again and name in self._records:
            raise FileExistsError(f"{self.name}: {name} exists")
        self._records[name] = json.loads(json.dumps(plain(value)))

    def metrics(self) -> list[Row]:
        """Returns a copy of the rows."""
        return [dict(row) for row in self._rows]

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows."""
        self._rows += [plain(row) for row in rows]

    def sync_metrics(self) -> None:
        """Does nothing."""

    def cut_metrics(self, lines: int) -> None:
        """Keeps only the first `lines` rows."""
        del self._rows[lines:]

    def states(self, program: int, trials: Sequence[int], **options: Any) -> States:
        """Returns the store for the last state of a program; `options` apply only to folders."""
        return self._states.setdefault(program, _StatesInMemory())

    def drop_states(self, program: int, step: int) -> None:
        """Drops the state of a program if it is after a step, and the states of all later programs."""
        for number in [number for number in self._states if number >= program]:
            last = self._states[number].last
            if number > program or (last and last.step > step):
                del self._states[number]


class _StatesInMemory:
    """The last state of a program, as NumPy arrays."""

    def __init__(self) -> None:
        self.last: Checkpoint | None = None

    def save(self, step: int, state: PyTree, metric: float | None = None) -> None:
        self.last = Checkpoint(step, jax.tree.map(np.array, state), metric, Path(InMemory.name))

    def restore(self, like: PyTree) -> Checkpoint | None:
        return alike(self.last, like) if self.last else None

    def close(self) -> None:
        pass


class RunFolder:
    """A folder of records and checkpoints; files are not overwritten, and `metrics.jsonl` is appended to.

    Every JSON file contains the version of the folder's format. A file lock, which ends with its process,
    ensures that only one process at a time uses the folder.

    Args:
      path: the path of the folder; missing parent folders are created.
      resume: whether the folder may exist; otherwise it must be new.

    Raises:
      FileExistsError: if the folder exists and `resume` is false.
      BlockingIOError: if another process uses the folder.
      OSError: if the folder cannot be created.
      ValueError: from each method that writes, if the folder is closed.
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        self.path = Path(path).expanduser()
        self._closed = False
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
        """Opens the folder `runs_dir/name`; without a name, one named by `default` and the time.

        Raises:
          ValueError: if the name is not a plain folder name.
          OSError: as in `RunFolder`.
        """
        if name is not None:
            if Path(name).name != name or not name or name.startswith("."):
                raise ValueError(f"name: {name!r}: give a plain folder name; --runs-dir sets the parent folder")
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
        """The path of the folder."""
        return str(self.path)

    def _locked(self) -> Any:
        try:
            import fcntl
        except ImportError:  # Windows does not have these locks
            return contextlib.nullcontext()
        # Opened read-only, unlike the lock of filelock, so that the disk can be remounted during a run.
        file = open(os.open(self.path / ".lock", os.O_RDONLY | os.O_CREAT, 0o644))  # noqa: PTH123, SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise BlockingIOError(
                f"run folder {self.path}: used by another process: wait for it, or choose another --name"
            ) from None
        except OSError as error:  # for example on Lustre and some network drives
            warnings.warn(
                f"run folder {self.path}: its file system has no locks ({error.strerror}): "
                "do not start a second process in it",
                stacklevel=2,
            )
        return file

    def preload(self) -> None:
        """Imports Orbax."""
        preload()

    def read_json(self, name: str) -> Any:
        """Reads a JSON file; None if it does not exist."""
        try:
            return read_record(self.path / name)
        except FileNotFoundError:
            return None

    def write_json(self, name: str, value: Mapping[str, Any], *, again: bool = False) -> None:
        """Writes a new file; with `again`, replaces an existing one. Non-finite numbers become null."""
        self._write(name, readable({"format": FORMAT, **plain(value)}) + "\n", again)

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]], *, again: bool = False) -> None:
        """Writes a new CSV file with a header; None and non-finite numbers are left empty."""
        rows = [{key: "" if plain(value) is None else plain(value) for key, value in row.items()} for row in rows]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        self._write(name, file.getvalue(), again)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"run folder {self.path}: closed: open it with RunFolder(path, resume=True) to write")

    def _write(self, name: str, content: str, again: bool) -> None:
        self._check_open()
        path, unfinished = self.path / name, self.path / f".{name}"
        if not again and path.exists():
            raise FileExistsError(f"{path} exists")
        try:
            unfinished.write_text(content, newline="")
            unfinished.replace(path)  # atomic
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def append(self, name: str, line: str) -> None:
        """Appends a line to a text file."""
        self._check_open()
        with (self.path / name).open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")

    def append_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends lines to `metrics.jsonl`."""
        self._check_open()
        lines = "".join(json.dumps(plain(row)) + "\n" for row in rows)
        try:
            # Opened each time, so that a removed folder is noticed.
            with open(self._metrics, "r+") as file:  # noqa: PTH123
                file.seek(0, os.SEEK_END)
                file.write(lines)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._metrics)) from None

    def metrics(self) -> list[Row]:
        """Returns the lines of `metrics.jsonl`; see `read_metrics`."""
        return read_metrics(self._metrics)

    def sync_metrics(self) -> None:
        """Waits until the lines of `metrics.jsonl` are on disk, so that a state can be saved after them."""
        with self._metrics.open("rb") as file:
            os.fsync(file.fileno())

    def cut_metrics(self, lines: int) -> None:
        """Truncates `metrics.jsonl` after `lines` lines."""
        self._check_open()
        with self._metrics.open("rb") as file:
            length = sum(len(line) for line in itertools.islice(file, lines))
        if length < self._metrics.stat().st_size:
            os.truncate(self._metrics, length)

    def states(self, program: int, trials: Sequence[int], **options: Any) -> Checkpoints:
        """Returns the checkpoints of a program; `options` as in `Checkpoints`."""
        return checkpoints_of(
            self.path, program, trials, self.read_json("config.json"), self.read_json("data.json"), **options
        )

    def drop_states(self, program: int, step: int) -> None:
        """Removes the checkpoints of a program after a step, and all checkpoints of later programs."""
        self._check_open()
        for path in (self.path / "checkpoints").glob("*"):
            if path.name.isdecimal() and int(path.name) >= program:
                Checkpoints(path, "").drop_after(step if int(path.name) == program else -1)

    def close(self) -> None:
        """Releases the lock of the folder, which can no longer be written through this object."""
        self._closed = True
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._new and isinstance(error, ValueError) and not self._metrics.stat().st_size:
            shutil.rmtree(self.path)  # nothing was trained: the name can be used again
        self.close()


def checkpoints_of(
    folder: Path, program: int, trials: Sequence[int], config: Any, data: Any, **options: Any
) -> Checkpoints:
    """Returns the checkpoints of a program in a run folder.

    Args:
      folder: the run folder.
      program: the number of the program in `plan.json`.
      trials: the numbers of its trials.
      config: the contents of `config.json`.
      data: the contents of `data.json`.
      options: see `Checkpoints`.
    """
    identity = digest({"config": config, "data": data, "trials": list(trials)})
    return Checkpoints(folder / "checkpoints" / str(program), identity, **options)
