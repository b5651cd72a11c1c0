"""Presets: Python files, or run folders, that define the configuration of a run or a sweep."""

import dataclasses
import enum
import hashlib
import importlib.machinery
import importlib.util
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax import data, runs
from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import DataError, Dataset, Loading
from cnnjax.descriptions import foreign
from cnnjax.options import Config, check, suggest, with_values
from cnnjax.runs import RecordError, configuration_of, read_record

PACKAGE = Path(__file__).resolve().parent
PRESETS = (PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent) / "configs"
"""The presets of cnnjax: inside of the package in a wheel, beside it in a checkout."""


class Preset(NamedTuple):
    """A configuration from a file or a run folder."""

    name: str
    train: TrainConfig
    sweep: SweepConfig
    doc: str
    classes: tuple[Any, ...] = ()
    """The user-defined classes, enumerations and functions that its configurations may name."""
    source: Path | None = None
    """The file that defines it."""
    data: Dataset | Callable[[], Dataset] | None = None
    """User-defined data, whose name is that of the preset."""

    def dataset(self, name: str | None = None, data_dir: Path | None = None, loading: Loading | None = None) -> Dataset:
        """Loads data by name, by default the data that `train` names.

        Args:
          name: the name of the preset for its own data, or a name as in `cnnjax.load`.
          data_dir: the directory of prepared TensorFlow Datasets data.
          loading: how the data are read and split; by default as `train` says.

        Raises:
          DataError: if the data is missing, damaged or invalid, or the preset's data function fails.
        """
        name, loading = self.train.data if name is None else name, loading or self.train.loading
        if self.data is None or name != self.data_name:
            return data.load(name, data_dir, loading=loading)
        if loading.fold is not None:
            whole = self.dataset(name, data_dir, dataclasses.replace(loading, fold=None))
            return data.one_fold(whole, loading.fold)
        loading.check_used(f"of {self.source}", ())
        try:
            found = self.data if isinstance(self.data, Dataset) else self.data()
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{self.source}: data(): {type(error).__name__}: {error}") from error
        if not isinstance(found, Dataset):
            raise DataError(f"{self.source}: data() returned {type(found).__name__}: it must return a cnnjax.Dataset")
        return found

    @property
    def data_name(self) -> str:
        """The name of the preset's own data in a configuration."""
        return self.source.stem if self.source else ""

    def facts(self, config: TrainConfig | SweepConfig) -> dict[str, Any] | None:
        """Returns path and SHA-256 of the user code that a configuration needs; None if it needs none."""
        base = config if isinstance(config, TrainConfig) else config.base
        if self.source is None or not (foreign(config) or (self.data is not None and base.data == self.data_name)):
            return None
        digests = {
            path.relative_to(self.source.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in _own_files(self.source)
        }
        return {"path": str(self.source), "sha256": digests}


def presets() -> dict[str, Path]:
    """Returns the files in `configs/`, by their names on the command line."""
    return {path.stem.replace("_", "-"): path for path in sorted(PRESETS.glob("*.py"))}


def load_preset(name: str | Path, definitions: Path | None = None) -> Preset:
    """Loads a preset by name, from a file, or from a run folder.

    A file must define `train`, a TrainConfig. It may define `sweep`, a SweepConfig; `data`, a Dataset or
    a function that returns one; and its own parts. A run folder has the configuration that it was
    started with.

    >>> load_preset("digits").train.epochs
    30

    Args:
      name: a name in `presets()`, or the path to a file or a run folder.
      definitions: the file that defines the user-defined parts of a run folder.

    Raises:
      ValueError: if the preset does not exist, or the file does not define `train`.
      RecordError: if the records of the run folder are damaged, or it needs `definitions`.
      TypeError: if `name` is neither a string nor a path.
    """
    if not isinstance(name, str | Path):
        raise TypeError(f"name: {name!r}: must be the name of a preset or a path, such as 'digits'")
    known = presets()
    path = known.get(str(name)) or Path(name).expanduser()
    if (path / "config.json").is_file():
        return _of_folder(path, definitions)
    if not path.exists() and (path.suffix == ".py" or len(path.parts) > 1):
        raise ValueError(f"{name}: no such {'file' if path.suffix == '.py' else 'run folder'}")
    if definitions:
        raise ValueError(f"preset: {definitions}: needs a run folder, and {name} is not one")
    if not path.is_file():
        raise ValueError(
            f"unknown preset '{name}': {suggest(str(name), known)}use one of {', '.join(known)}, or the path to a file"
        )
    module = _module(path)
    found = vars(module)
    if not isinstance(train := found.get("train"), TrainConfig):
        raise ValueError(f"{path}: `train` must be a cnnjax.TrainConfig: see configs/digits.py")
    sweep = found.get("sweep")
    if sweep is None or sweep is runs.sweep:  # `from cnnjax import *`
        sweep = SweepConfig(train, ())
    if not isinstance(sweep, SweepConfig):
        raise ValueError(f"{path}: `sweep` must be a cnnjax.SweepConfig: see configs/digits.py")
    preset = Preset(
        path.stem, train, sweep, module.__doc__ or "", _classes(module), path.resolve(), _data(module, path)
    )
    if preset.data is not None:
        named = {"data": preset.data_name}
        preset = preset._replace(train=with_values(train, named), sweep=sweep_on(sweep, preset.data_name))
    return preset


def sweep_on(sweep: SweepConfig, name: str) -> SweepConfig:
    """Returns a sweep with data of another name."""
    return dataclasses.replace(sweep, base=with_values(sweep.base, {"data": name}))


def _of_folder(path: Path, definitions: Path | None) -> Preset:
    source = load_preset(str(definitions)) if definitions else None
    config = configuration_of(path, source.classes if source else ())
    env = read_record(path / "env.json") if (path / "env.json").is_file() else {}
    recorded = env.get("preset")
    if recorded and source is None:
        where = recorded.get("path") if isinstance(recorded, dict) else recorded
        missing = "" if Path(str(where)).is_file() else ", which no longer exists"
        raise RecordError(f"{path}: was started with {where}{missing}: give the preset with --preset FILE")
    train = config if isinstance(config, TrainConfig) else config.base
    sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, ())
    if not (source and source.data) and (path / "data.json").is_file():
        name = str(read_record(path / "data.json").get("name"))
        if name != Path(train.data).name and re.split("[:/]", name)[0] != re.split("[:/]", train.data)[0]:
            raise RecordError(
                f"{path}: was trained on user-defined data {name}: give the preset that defines it with --preset FILE"
            )
    preset = Preset(path.stem, train, sweep, f"The configuration of {path}.")
    return preset._replace(classes=source.classes, source=source.source, data=source.data) if source else preset


_modules: dict[tuple[Path, str], types.ModuleType] = {}


def _module(path: Path) -> types.ModuleType:
    """Runs a file as a module, once per process and version of the file; it can import modules beside it."""
    where = path.resolve()
    contents = hashlib.sha256(where.read_bytes()).hexdigest()
    if (where, contents) in _modules:
        return _modules[where, contents]
    name = f"preset.{where.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(where))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # required by dataclasses and annotations
    sys.path.insert(0, str(where.parent))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # writes nothing beside the preset
    try:
        loader.exec_module(module)
        for value in vars(module).values():
            if isinstance(value, TrainConfig):
                check(value)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        sys.dont_write_bytecode = written
    return _modules.setdefault((where, contents), module)


def _classes(module: types.ModuleType) -> tuple[Any, ...]:
    """Returns what the configurations of a preset may name: its public parts, enumerations and functions."""
    named: list[Any] = [
        value
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type) and issubclass(value, Config | enum.Enum)
    ]
    named += [value for value in vars(module).values() if isinstance(value, types.FunctionType)]
    used = [
        found
        for value in vars(module).values()
        if isinstance(value, TrainConfig | SweepConfig)
        for found in foreign(value)
    ]
    return tuple(dict.fromkeys([*named, *used]))


def _data(module: types.ModuleType, path: Path) -> Any:
    value = getattr(module, "data", None)
    if not hasattr(module, "data") or isinstance(value, types.ModuleType):  # `from cnnjax import data`
        return None
    if not isinstance(value, Dataset) and not callable(value):
        raise ValueError(
            f"{path}: `data` is {type(value).__name__}: must be a cnnjax.Dataset, or a function that returns one"
        )
    return value


def _own_files(source: Path) -> list[Path]:
    """Returns the file of a preset, and the modules that it imports from its own directory."""
    found = {source}
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "/")
        inside = file.is_relative_to(source.parent) and file.suffix == ".py" and "site-packages" not in file.parts
        if inside and not file.is_relative_to(PACKAGE) and not file.is_relative_to(PACKAGE.parent / "experiments"):
            found.add(file)
    return sorted(found)
