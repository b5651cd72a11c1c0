"""Presets: files that define what is trained, and run folders, which say what they were started with."""

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
from cnnjax.data import DataError, Dataset
from cnnjax.descriptions import foreign
from cnnjax.options import Config, check, suggest, with_values
from cnnjax.runs import RecordError, configuration_of, read_record

PACKAGE = Path(__file__).resolve().parent
PRESETS = (PACKAGE if (PACKAGE / "configs").is_dir() else PACKAGE.parent) / "configs"
"""The presets that come with cnnjax: a wheel carries them, a checkout has them beside the package."""


class Preset(NamedTuple):
    """What a file or a run folder defines."""

    name: str
    train: TrainConfig
    sweep: SweepConfig
    doc: str
    classes: tuple[Any, ...] = ()
    """Configurations, enumerations and functions that a configuration of it may name."""
    source: Path | None = None
    """The file that was run."""
    data: Dataset | Callable[[], Dataset] | None = None
    """Its own data, which a run has under the preset's name."""

    def dataset(self, name: str | None = None, data_dir: Path | None = None) -> Dataset:
        """The data of a run, by name; by default what `train` names.

        Raises:
          DataError: it is missing, damaged or unfit, or the preset's own function fails.
        """
        name = self.train.data if name is None else name
        if self.data is None or name != self.data_name:
            return data.load(name, data_dir)
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
        """What a configuration calls the preset's own data."""
        return self.source.stem if self.source else ""

    def facts(self, config: TrainConfig | SweepConfig) -> dict[str, Any] | None:
        """Path and SHA-256 of the code that a configuration needs besides cnnjax; None where it needs none."""
        base = config if isinstance(config, TrainConfig) else config.base
        if self.source is None or not (foreign(config) or (self.data is not None and base.data == self.data_name)):
            return None
        digests = {
            path.relative_to(self.source.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in _own_files(self.source)
        }
        return {"path": str(self.source), "sha256": digests}


def presets() -> dict[str, Path]:
    """The files in `configs/`, by the name that the command line takes."""
    return {path.stem.replace("_", "-"): path for path in sorted(PRESETS.glob("*.py"))}


def load_preset(name: str, definitions: Path | None = None) -> Preset:
    """A preset by name, or the path to a file of one's own, or to a run folder.

    A file defines `train`, a TrainConfig, and may define `sweep`, a SweepConfig; `data`, a Dataset or
    a function that returns one; and parts of its own. A run folder is a preset as well: what it was
    started with.

    Args:
      name: a name in `presets`, or a path.
      definitions: the file that defines what a run folder's configuration names besides cnnjax's own.

    Raises:
      ValueError: there is no such preset, or the file defines no `train`.
      RecordError: the run folder's records are damaged, or need `definitions`.
    """
    known = presets()
    path = known.get(name, Path(name))
    if (path / "config.json").is_file():
        return _of_folder(path, definitions)
    if not path.exists() and (path.suffix == ".py" or len(path.parts) > 1):
        raise ValueError(f"{name}: no such {'file' if path.suffix == '.py' else 'run folder'}")
    if definitions:
        raise ValueError(f"preset: {definitions}: goes with a run folder only, and {name} is none")
    if not path.is_file():
        raise ValueError(
            f"unknown preset {name!r}: {suggest(name, known)}there are {', '.join(known)}, or give the path to a file"
        )
    module = _module(path)
    found = vars(module)
    if not isinstance(train := found.get("train"), TrainConfig):
        raise ValueError(f"{path}: a preset defines `train`, a cnnjax.TrainConfig; see configs/digits.py")
    sweep = found.get("sweep")
    if sweep is None or sweep is runs.sweep:  # `from cnnjax import *`
        sweep = SweepConfig(train, ())
    if not isinstance(sweep, SweepConfig):
        raise ValueError(f"{path}: `sweep` is no cnnjax.SweepConfig; see configs/digits.py")
    preset = Preset(
        path.stem, train, sweep, module.__doc__ or "", _classes(module), path.resolve(), _data(module, path)
    )
    if preset.data is not None:
        named = {"data": preset.data_name}
        preset = preset._replace(train=with_values(train, named), sweep=sweep_on(sweep, preset.data_name))
    return preset


def sweep_on(sweep: SweepConfig, name: str) -> SweepConfig:
    """A sweep on data of another name."""
    return dataclasses.replace(sweep, base=with_values(sweep.base, {"data": name}))


def _of_folder(path: Path, definitions: Path | None) -> Preset:
    source = load_preset(str(definitions)) if definitions else None
    config = configuration_of(path, source.classes if source else ())
    env = read_record(path / "env.json") if (path / "env.json").is_file() else {}
    recorded = env.get("preset")
    if recorded and source is None:
        where = recorded.get("path") if isinstance(recorded, dict) else recorded
        gone = "" if Path(str(where)).is_file() else ", which is not there any more"
        raise RecordError(f"{path}: was started with {where}{gone}: name the preset with --preset FILE")
    train = config if isinstance(config, TrainConfig) else config.base
    sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, ())
    if not (source and source.data) and (path / "data.json").is_file():
        name = str(read_record(path / "data.json").get("name"))
        if re.split("[:/]", name)[0] != re.split("[:/]", train.data)[0]:
            raise RecordError(
                f"{path}: was trained on {name}, data of its own: name a preset that has it with --preset FILE"
            )
    preset = Preset(path.stem, train, sweep, f"What {path} was started with.")
    return preset._replace(classes=source.classes, source=source.source, data=source.data) if source else preset


_modules: dict[tuple[Path, str], types.ModuleType] = {}


def _module(path: Path) -> types.ModuleType:
    """A file as a module, run once in a process unless it changes; what lies beside it can be imported from it."""
    where = path.resolve()
    contents = hashlib.sha256(where.read_bytes()).hexdigest()
    if (where, contents) in _modules:
        return _modules[where, contents]
    name = f"preset.{where.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(where))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and annotations look
    sys.path.insert(0, str(where.parent))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # leaves nothing beside the preset
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
    """What a configuration of a preset may name: its public parts and enumerations, and all that it uses."""
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
        raise ValueError(f"{path}: `data` is {type(value).__name__}: a cnnjax.Dataset, or a function that returns one")
    return value


def _own_files(source: Path) -> list[Path]:
    """A preset, and the modules that it imports from its own directory."""
    found = {source}
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "/")
        inside = file.is_relative_to(source.parent) and file.suffix == ".py" and "site-packages" not in file.parts
        if inside and not file.is_relative_to(PACKAGE) and not file.is_relative_to(PACKAGE.parent / "experiments"):
            found.add(file)
    return sorted(found)
