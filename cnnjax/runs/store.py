"""Where a run keeps its records: a run folder. Nothing is overwritten."""

import contextlib
import csv
import io
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cnnjax.runs.records import FORMAT, plain, read_metrics, read_record


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
