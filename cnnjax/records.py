"""The run folder: what a run leaves behind, as JSON, JSON lines and CSV. Nothing is overwritten."""

import csv
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cnnjax.config import SweepConfig, TrainConfig, text

PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")


class RunFolder:
    """A new folder `runs_dir/name`; its files are written once, `metrics.jsonl` line by line.

    Args:
      runs_dir: made if it does not exist.
      name: of the folder; it must be free.
      default: what an unnamed run's folder begins with; the time follows, and a number if need be.

    Raises:
      FileExistsError: the name is taken.
      OSError: the folder cannot be made.
    """

    def __init__(self, runs_dir: Path, name: str | None, default: str = "run"):
        runs_dir = runs_dir.expanduser()
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            self.path = self._named(runs_dir, name) if name is not None else self._unnamed(runs_dir, default)
        except OSError as error:
            if error.strerror is None:
                raise
            raise OSError(
                f"no run folder in {runs_dir}: {error.strerror}: choose another --runs-dir or --name"
            ) from error
        self.figures = self.path / "figures"
        self.figures.mkdir()
        self._metrics = (self.path / "metrics.jsonl").open("x", buffering=1)

    @staticmethod
    def _named(runs_dir: Path, name: str) -> Path:
        if Path(name).name != name or not name or name.startswith("."):
            raise ValueError(f"name: {name!r}: give a plain folder name; --runs-dir says where it lies")
        path = runs_dir / name
        try:
            path.mkdir()
        except FileExistsError:
            raise FileExistsError(f"run folder {path} exists: choose another --name, or remove it") from None
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

    def write_json(self, name: str, value: Any, *, again: bool = False) -> None:
        """Writes a new file, or with `again` replaces it; numbers that are not finite become null."""
        with (self.path / name).open("w" if again else "x") as file:
            json.dump(plain(value), file, indent=2)
            file.write("\n")

    def write_csv(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes a new file with a header; what does not exist is empty."""
        rows = [{key: "" if plain(value) is None else plain(value) for key, value in row.items()} for row in rows]
        with (self.path / name).open("x", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        self._metrics.write(json.dumps(plain(row)) + "\n")

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples of numbers as `8,16`, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        return text(value)
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def describe(config: TrainConfig | SweepConfig) -> dict[str, Any]:
    """A configuration as plain values, enough to run it again."""
    if isinstance(config, SweepConfig):
        axes = {name: list(values) for name, values in config.axes}
        return {"base": describe(config.base), "axes": axes, "seeds": config.seeds}
    hparams = asdict(config.hparams)
    del hparams["steps"]
    network = {"kind": type(config.network).__name__, **asdict(config.network)}
    return {**asdict(config), "network": network, "hparams": hparams}


def environment(checkout: Path) -> dict[str, Any]:
    """Versions, device, and the checkout's git commit (None outside a checkout)."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": f"{device.platform}: {device.device_kind}",
        "devices": jax.device_count(),
        "commit": _commit(checkout),
    }


def _commit(checkout: Path) -> str | None:
    try:
        command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
