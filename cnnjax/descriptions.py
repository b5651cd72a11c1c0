"""Converts configurations to the plain values of `config.json`, and back.

Reading a description imports no code: parts of cnnjax are looked up by name, and the classes of all
other parts must be passed as arguments.
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cnnjax import augmentation, data, losses, metrics, networks, optimizers, schedules
from cnnjax.config import Range, SweepConfig, TrainConfig
from cnnjax.options import Config, check, function_name, kinds

_ROOMS = (networks, optimizers, schedules, losses, metrics, augmentation, data)
PARTS: Mapping[str, type[Config]] = {
    name: value
    for room in _ROOMS
    for name, value in vars(room).items()
    if isinstance(value, type) and issubclass(value, Config) and value is not Config
}
"""The parts of cnnjax, by class name."""


class UnknownClassError(ValueError):
    """Raised for a description that names an unknown class, function or field."""


def given_by(config: TrainConfig | SweepConfig) -> list[Any]:
    """Returns the classes, enumerations and functions in a configuration."""
    if isinstance(config, TrainConfig):
        return list(dict.fromkeys(_within(config)))
    axes = [value for _, values in config.axes if not isinstance(values, Range) for value in values]
    return list(dict.fromkeys(found for value in (config.base, *axes) for found in _within(value)))


def _within(value: Any) -> Iterator[Any]:
    if isinstance(value, Config):
        yield type(value)
        for name in kinds(type(value)):
            yield from _within(getattr(value, name))
    elif isinstance(value, tuple):
        for entry in value:
            yield from _within(entry)
    elif isinstance(value, enum.Enum):
        yield type(value)
    elif callable(value):
        yield value


def describe(config: TrainConfig | SweepConfig) -> dict[str, Any]:
    """Converts a configuration to plain values, from which it can be run again."""
    if isinstance(config, TrainConfig):
        return _plain(config)
    axes = {
        name: dataclasses.asdict(values) if isinstance(values, Range) else [_plain(value) for value in values]
        for name, values in config.axes
    }
    rest = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)[2:]}
    zipped, more = ([list(entry) for entry in pairs] for pairs in (config.zipped, config.more_seeds))
    return {"base": _plain(config.base), "axes": axes, **rest, "zipped": zipped, "more_seeds": more or None}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return {"class": _name(type(value)), **{name: _plain(getattr(value, name)) for name in kinds(type(value))}}
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return {"enum": _name(type(value)), "name": value.name}
    return {"function": function_name(value)} if callable(value) else value


def _name(cls: type) -> str:
    """Returns `cnnjax.CNNConfig` for a part of cnnjax, `module.Class` for any other class."""
    return f"cnnjax.{cls.__qualname__}" if _own(cls) else f"{cls.__module__}.{cls.__qualname__}"


def _own(cls: Any) -> bool:
    return cls is TrainConfig or PARTS.get(getattr(cls, "__qualname__", "")) is cls


def foreign(config: TrainConfig | SweepConfig) -> list[Any]:
    """Returns the user-defined classes and functions in a configuration, which are needed to read it back."""
    return [value for value in given_by(config) if not _own(value)]


def configuration(described: Any, classes: Iterable[Any] = ()) -> TrainConfig | SweepConfig:
    """Creates a configuration from the output of `describe`.

    Args:
      described: the contents of `config.json`.
      classes: user-defined classes, enumerations and functions that it may name.

    Raises:
      UnknownClassError: if it names a class that is neither part of cnnjax nor in `classes`.
      ValueError: if it is not a description of a configuration, or a value is out of range.
    """
    classes = list(classes)
    given = {value.__qualname__.rpartition(".")[2]: value for value in classes}
    given |= {f"{value.__module__}.{value.__qualname__}": value for value in classes}
    try:
        if "axes" not in described:
            return _checked(_value(described, given))
        axes = {
            name: Range(**values) if isinstance(values, Mapping) else tuple(_value(value, given) for value in values)
            for name, values in described["axes"].items()
        }
        zipped = tuple(map(tuple, described["zipped"]))
        rest = {name: value for name, value in described.items() if name not in ("base", "axes", "zipped")}
        return SweepConfig(_checked(_value(described["base"], given)), tuple(axes.items()), zipped=zipped, **rest)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a configuration: {type(error).__name__}: {error}") from None


def completed(described: Any) -> Any:
    """Adds the fields that parts of cnnjax have had since a description was written, with their defaults."""
    if isinstance(described, list):
        return [completed(entry) for entry in described]
    if not isinstance(described, Mapping):
        return described
    values = {name: completed(value) for name, value in described.items()}
    cls = {**PARTS, "TrainConfig": TrainConfig}.get(str(values.get("class", "")).removeprefix("cnnjax."))
    later = [field for field in dataclasses.fields(cls) if field.name not in values] if cls else []
    return values | {field.name: _plain(field.default) for field in later if field.default is not dataclasses.MISSING}


def _checked(config: Any) -> TrainConfig:
    if not isinstance(config, TrainConfig):
        raise ValueError(f"not a configuration: {type(config).__name__}")
    check(config)
    return config


def _value(described: Any, given: Mapping[str, Any]) -> Any:
    if isinstance(described, list):
        return tuple(_value(entry, given) for entry in described)
    if not isinstance(described, Mapping):
        return described
    values = dict(described)
    if "enum" in values:
        return _found(values["enum"], given)[values["name"]]
    if "function" in values:
        return _found(values["function"], given)
    cls = _found(values.pop("class"), given)
    if not (isinstance(cls, type) and issubclass(cls, Config)):
        raise ValueError(f"not a configuration: {cls!r} is not a part")
    unknown = [name for name in values if name not in kinds(cls)]
    if unknown and PARTS.get(cls.__name__) is not cls:
        raise UnknownClassError(
            f"{cls.__name__} has no field {unknown[0]!r}: give the class that the run was started with"
        )
    return cls(**{name: _value(value, given) for name, value in values.items()})


def _found(name: Any, given: Mapping[str, Any]) -> Any:
    module, _, last = str(name).rpartition(".")
    known: Mapping[str, Any] = {**PARTS, "TrainConfig": TrainConfig} if module == "cnnjax" else given
    found = next((known[key] for key in (str(name), last) if key in known), None)
    if found is None:
        raise UnknownClassError(
            f"{name}: not a part of cnnjax{' or one of the given classes' if given else ''}: give the preset that "
            f"defines it with --preset FILE, or in Python classes=[{last}]"
        )
    return found
