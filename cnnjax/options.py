"""Configurations and their fields: numbers, parts and static values.

A configuration is a frozen dataclass and a pytree. Its numbers are leaves, so configurations that differ
only in numbers are lanes of one compiled program. Everything else is part of the tree structure, which
selects the program. A number that is switched off is `None`, which JAX treats as structure.
"""

import dataclasses
import difflib
import enum
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")

Kind = Literal["number", "part", "parts", "static"]

_LARGEST = {int: 2**31 - 1, float: 3.4e38}  # largest int32 and float32, the types on a device
_MISSING: Any = dataclasses.MISSING
_FIELDS = (
    "a field must be a number (annotated as float) or static: a bool, int, float, str, tuple, enum, None or "
    "module-level function"
)


# ------------------------------------------------------------------------- text


def choose(name: str, value: str, choices: Mapping[str, T]) -> T:
    """Returns the entry with a name; raises ValueError that lists the names if there is none."""
    if value not in choices:
        raise ValueError(f"{name}: {value!r}: {suggest(str(value), choices)}use one of {', '.join(choices)}")
    return choices[value]


def from_json(content: bytes) -> Any:
    """Parses JSON; raises ValueError with the reason if it is invalid."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(error: BaseException) -> str:
    """Returns the first line of an error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def text(value: Any) -> str:
    """Formats a value as on the command line: `8,16` for a tuple, `none` for an empty tuple and None."""
    if isinstance(value, tuple):
        return ",".join(map(text, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, enum.Enum):
        return value.name
    return value.__name__ if isinstance(value, types.FunctionType) else str(value)


def part_of(name: str, words: str) -> tuple[int, int]:
    """Parses a part, such as `2/8` for the second of eight: its index, starting at 0, and the number of parts.

    Raises:
      ValueError: if `words` has another form, or there is no such part; it starts with `name`.
    """
    first, slash, count = words.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ValueError(f"{name}: {words!r}: give a part and the number of parts, such as 2/8")
    return int(first) - 1, int(count)


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns `did you mean 'digits'? ` for a word that is close to a known one, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


# ------------------------------------------------------------------------- fields


def number(
    default: Any = _MISSING,
    help: str = "",
    *,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:  # the type of a field specifier is that of its field
    """Defines a number field, a leaf of the pytree: trials that differ in it share a compiled program.

    >>> @config
    ... class Momentum(Config):
    ...     decay: float = number(0.9, "decay rate", least=0, below=1)
    >>> check(Momentum(decay=1.5))
    Traceback (most recent call last):
    ValueError: decay: 1.5: must be at least 0 and below 1

    Args:
      default: the default value; with the annotation `float | None`, None switches the number off.
      help: a short description for `--help`.
      least: the smallest valid value.
      most: the largest valid value.
      below: an exclusive upper bound.
    """
    limits = {"least": least, "most": most, "below": below}
    return dataclasses.field(default=default, metadata={"kind": "number", "help": help, **limits})


def static(default: Any = _MISSING, help: str = "", *, least: float | None = None, below: float | None = None) -> Any:
    """Defines a static field, a part of the tree structure: trials that differ in it need different programs.

    Its value is a bool, int, float, str, tuple, enum, None or module-level function.

    >>> @config
    ... class Window(Config):
    ...     size: int = static(3, "window size", least=1)
    >>> jax.tree.structure(Window(3)) == jax.tree.structure(Window(5))
    False

    Args:
      default: the default value.
      help: a short description for `--help`.
      least: the smallest valid number.
      below: an exclusive upper bound.
    """
    limits = {"least": least, "below": below}
    return dataclasses.field(default=default, metadata={"kind": "static", "help": help, **limits})


def part(default: Any = _MISSING, help: str = "") -> Any:
    """Defines a part: a field whose value is a configuration, or a tuple of configurations.

    >>> from cnnjax import SGD, Optimizer
    >>> @config
    ... class Run(Config):
    ...     optimizer: Optimizer = part(SGD(), "optimizer of the parameters")
    >>> [option.name for option in options(Run())][:2]
    ['optimizer', 'optimizer.learning_rate']

    Args:
      default: the default value.
      help: a short description for `--help`.
    """
    return dataclasses.field(default=default, metadata={"kind": "part", "help": help})


class Config:
    """The base class of configurations; decorate subclasses with `config`."""

    word: ClassVar[str] = ""
    """The name of the class on the command line; by default derived from the class name, such as `random-shift`."""

    def __post_init__(self) -> None:
        # No comparisons here: JAX calls the constructor with tracers.
        if "__kinds__" not in type(self).__dict__:
            raise TypeError(f"{type(self).__name__}: decorate the class with @cnnjax.config")
        for name, kind in kinds(type(self)).items():
            value = getattr(self, name)
            coerced = as_tuples(value) if kind != "number" else _as_number(value)
            if coerced is not value:
                object.__setattr__(self, name, coerced)

    def __str__(self) -> str:
        changed = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return self.kind() + "".join(f" {field.name}={text(getattr(self, field.name))}" for field in changed)

    @classmethod
    def kind(cls) -> str:
        """Returns the name of the class on the command line, such as `cnn` or `cross-entropy`."""
        if own := cls.__dict__.get("word"):
            return str(own)
        name = cls.__name__.removesuffix("Config")
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


@dataclass_transform(frozen_default=True)  # without field specifiers, which need keyword defaults
def config(cls: type[T]) -> type[T]:
    """Makes a class a configuration: a frozen dataclass, and a pytree whose leaves are its numbers.

    The annotation of a field determines its kind: `float` and `float | None` are numbers, a configuration
    or a tuple of configurations is a part, everything else is static. `number`, `static` and `part` add a
    help text and a range, and can override the kind.

    >>> @config
    ... class Noise(Config):
    ...     scale: float = number(0.1, "standard deviation", least=0)
    ...     per_channel: bool = False
    >>> jax.tree.leaves(Noise(scale=0.3))
    [0.3]
    >>> jax.tree.structure(Noise(0.3)) == jax.tree.structure(Noise(0.5))
    True

    Raises:
      TypeError: if the class is not a subclass of `Config`, a number is not annotated as float, or a
        default is a list or an array.
    """
    if not issubclass(cls, Config):
        raise TypeError(f"{cls.__name__}: must be a subclass of cnnjax.options.Config, such as Loss or Optimizer")
    for name in inspect.get_annotations(cls):
        default = cls.__dict__.get(name)
        default = default.default if isinstance(default, dataclasses.Field) else default
        if default is not None and default is not _MISSING and type(default).__hash__ is None:
            raise TypeError(f"{cls.__name__}.{name}: {default!r}: {_FIELDS}")
    frozen: Any = dataclasses.dataclass(frozen=True)(cls)
    hints = typing.get_type_hints(cls)
    frozen.__kinds__ = {field.name: _kind(cls, field, hints[field.name]) for field in dataclasses.fields(frozen)}
    frozen.__hints__ = hints
    _register(frozen)
    return frozen


def _register(cls: Any) -> None:
    """Registers a configuration as a pytree node.

    `jax.tree_util.register_dataclass` is not used, because the structures of two classes with the same
    static values compare equal (jaxlib 0.10 and 0.12), and one could get the compiled program of the other.
    """
    meta = tuple(name for name, kind in cls.__kinds__.items() if kind == "static")
    data = tuple(name for name in cls.__kinds__ if name not in meta)
    keys = tuple(map(jax.tree_util.GetAttrKey, data))

    def flatten(part: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(part, name) for name in data), tuple(getattr(part, name) for name in meta)

    def flatten_with_keys(part: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children, values = flatten(part)
        return tuple(zip(keys, children, strict=True)), values

    def unflatten(values: tuple[Any, ...], children: Iterable[Any]) -> Any:
        return cls(**dict(zip(meta, values, strict=True)), **dict(zip(data, children, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def _kind(cls: type, field: dataclasses.Field[Any], hint: Any) -> Kind:
    inner = {entry for entry in members(hint) if entry is not type(None)}
    if is_config(*inner):
        found: Kind = "part"
    elif typing.get_origin(hint) is tuple and is_config(*(e for e in typing.get_args(hint) if e is not ...)):
        found = "parts"
    else:
        found = "number" if inner in ({float}, {int, float}) else "static"
    stated = field.metadata.get("kind", found)
    if stated == "number" and found != "number":
        raise TypeError(f"{cls.__name__}.{field.name}: a number must be annotated as float or float | None")
    return found if stated == "part" and found == "parts" else stated


def members(hint: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the type itself."""
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def is_config(*classes: Any) -> bool:
    """Returns whether all classes, of which there must be at least one, are configurations."""
    return bool(classes) and all(isinstance(cls, type) and issubclass(cls, Config) for cls in classes)


def kinds(cls: type) -> Mapping[str, Kind]:
    """Returns the kind of each field of a configuration class, by name."""
    return cls.__kinds__  # type: ignore[attr-defined]


def _as_number(value: Any) -> Any:
    if type(value) is int:
        return float(value) if abs(value) < 1e308 else value
    return value.item() if isinstance(value, np.floating) else value


def as_tuples(value: Any) -> Any:
    """Converts nested lists to tuples."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        entries = tuple(map(as_tuples, value))
        changed = isinstance(value, list) or any(a is not b for a, b in zip(entries, value, strict=True))
        return entries if changed else value
    return value


# ------------------------------------------------------------------------- checks


def check(value: Config, name: str = "") -> None:
    """Checks all fields of a configuration, whose numbers must not be tracers.

    Raises:
      ValueError: if a value has the wrong type or is out of range; the message names the field, the
        value and the range.
    """
    for option in _own(value, ()):
        where = f"{name}.{option.path[-1]}" if name else option.path[-1]
        if option.kind == "number":
            _check_number(option, option.path[-1])
        elif option.kind == "static":
            _check_static(option, option.path[-1])
        elif option.kind == "part":
            if option.value is not None or type(None) not in members(option.hint):
                _check_part(option.value, option.hint, where)
        else:
            _check_parts(option, where)


def _check_parts(option: "Option", where: str) -> None:
    hint = typing.get_args(option.hint)[0]
    if not isinstance(option.value, tuple):
        raise ValueError(f"{where}: {option.value!r}: must be a tuple of parts, such as ({_example(hint)},)")
    for entry in option.value:
        _check_part(entry, hint, where)
    words = [entry.kind() for entry in option.value]
    if twice := [word for word in words if words.count(word) > 1]:
        raise ValueError(f"{where}: {text(tuple(words))}: duplicate value {twice[0]}")


def _check_part(value: Any, hint: Any, where: str) -> None:
    classes = tuple(entry for entry in members(hint) if entry is not type(None))
    if not isinstance(value, classes):
        given = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        names = " or ".join(cls.__name__ for cls in classes)
        article = "an" if names[0] in "AEIOU" else "a"
        raise ValueError(f"{where}: {given}: must be {article} {names}, such as {_example(classes[0])}")
    check(value, where)


def _example(cls: Any) -> str:
    """Returns an example of a part: a call of a subclass."""
    return f"{next((sub.__name__ for sub in cls.__subclasses__()), cls.__name__)}()"


def _check_number(option: "Option", name: str) -> None:
    value: Any = option.value
    if value is None and type(None) in members(option.hint):
        return
    check_type(name, value, float, " or None" if type(None) in members(option.hint) else "")
    _check_range(name, value, option.metadata, float)


_KINDS: Mapping[type, str] = MappingProxyType({int: "an integer", float: "a number", str: "a string"})


def check_type(name: str, value: Any, kind: type, rest: str = "") -> None:
    """Raises ValueError if a value is not an integer, a number or a string; a bool is none of them."""
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(f"{name}: {value!r}: must be {_KINDS[kind]}{rest}")


def _check_range(name: str, value: Any, metadata: Mapping[str, Any], kind: type) -> None:
    least, most, below = (metadata.get(name) for name in ("least", "most", "below"))
    finite = isinstance(value, int) or math.isfinite(value)
    rules = {} if finite else {"finite": False}
    if least is not None:
        rules[f"at least {least}"] = value >= least
    if most is not None:
        rules[f"at most {most}"] = value <= most
    if below is not None:
        rules[f"below {below}"] = value < below
    elif finite and abs(value) > _LARGEST[kind]:
        rules[f"at most {_LARGEST[kind]}"] = False
    if not all(rules.values()):
        raise ValueError(f"{name}: {value}: must be {' and '.join(rules)}")


def check_range(option: "Option", name: str, value: float) -> None:
    """Raises ValueError if a number is outside of the range of an option."""
    _check_range(name, value, option.metadata, float)


def _check_static(option: "Option", name: str) -> None:
    value, hint = option.value, option.hint
    if problem := _not_static(value):
        raise ValueError(f"{name}: {problem}: {_FIELDS}")
    if not _fits(value, hint):
        if typing.get_origin(hint) is Literal:
            choose(name, value, dict.fromkeys(map(str, typing.get_args(hint))))
        if typing.get_args(hint) and set(typing.get_args(hint)) <= {int, ...}:
            raise ValueError(f"{name}: {value!r}: must be a tuple of integers, such as {text(option.default)}")
        words = getattr(hint, "__name__", None) if not typing.get_args(hint) else str(hint)
        default = "" if option.default in (_MISSING, None) else f", such as {text(option.default)}"
        raise ValueError(f"{name}: {value!r}: must be of type {words}{default}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(name, value, option.metadata, int if isinstance(value, int) else float)


def _not_static(value: Any) -> str:
    """Returns why a value cannot be static; empty if it can."""
    if isinstance(value, tuple):
        return next((problem for entry in value if (problem := _not_static(entry))), "")
    if value is None or isinstance(value, bool | int | float | str | enum.Enum):
        return ""
    if callable(value) and not isinstance(value, type | Config):
        return "" if function_name(value) else f"{_short(value)}: not a module-level function"
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array {value.dtype}{list(value.shape)}"
    words = repr(value)
    return words if len(words) < 60 else f"{words[:57]}..."


def function_name(value: Any) -> str:
    """Returns `module.name` of a module-level function; empty for any other function, such as a lambda."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for step in name.split("."):
        found = getattr(found, step, None)
    return f"{module}.{name}" if found is value and value is not None else ""


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a static value matches its annotation; unknown kinds of annotations always match."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return any(_fits(value, entry) for entry in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and isinstance(value, tuple):
        if len(inner) == 2 and inner[1] is ...:
            return all(_fits(entry, inner[0]) for entry in value)
        return len(inner) == len(value) and all(map(_fits, value, inner))
    if origin is tuple or hint is tuple or origin is list or hint is list:
        return isinstance(value, tuple)
    if hint in (bool, int, float, str):
        allowed = {float: (int, float)}.get(hint, (hint,))
        return isinstance(value, allowed) and (isinstance(value, bool) is (hint is bool))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return isinstance(value, hint)
    return value is None if hint is type(None) else True


# ------------------------------------------------------------------------- options by name


class Option(NamedTuple):
    """A field of a configuration, or of one of its parts."""

    path: tuple[str, ...]
    """The path as in `("optimizer", "schedule", "warmup")`; a part in a tuple has the name of its class."""
    kind: Kind
    hint: Any
    value: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The path, joined by dots."""
        return ".".join(self.path)

    @property
    def whole(self) -> bool:
        """Whether the field is an integer."""
        return self.kind == "static" and self.hint in (int, int | tuple[int, ...])

    @property
    def holds_parts(self) -> bool:
        """Whether the value of the field is a configuration or a tuple of configurations."""
        return self.kind in ("part", "parts")

    @property
    def numeric(self) -> bool:
        """Whether the field is a number or an integer."""
        return self.kind == "number" or self.whole


def _own(config: Any, path: tuple[str, ...]) -> Iterator[Option]:
    for field in dataclasses.fields(config):
        yield Option(
            (*path, field.name),
            kinds(type(config))[field.name],
            type(config).__hints__[field.name],
            getattr(config, field.name),
            field.default,
            field.metadata,
        )


def options(config: Config, path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yields all fields of a configuration and of its parts; each part precedes its own fields."""
    for option in _own(config, path):
        yield option
        if option.kind == "part" and option.value is not None:
            yield from options(option.value, option.path)
        elif option.kind == "parts":
            for entry in option.value:
                yield from options(entry, (*option.path, entry.kind()))


def flat_names(paths: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Returns paths by their short names: the last word if it is unique, else the whole path."""
    found = list(dict.fromkeys(paths))
    last = [path[-1] for path in found]
    return {path[-1] if last.count(path[-1]) == 1 else ".".join(path): path for path in found}


class AmbiguousError(ValueError):
    """Raised for a name that several parts have; `choices` are the full paths."""

    def __init__(self, name: str, choices: Sequence[str]):
        super().__init__(f"{name}: ambiguous: use {' or '.join(choices)}")
        self.name, self.choices = name, choices


def resolve(name: str, paths: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Returns the path of a name, which is the whole path or a unique end of it.

    Raises:
      AmbiguousError: if several paths end in the name.
      ValueError: if no path does; the message lists the names.
    """
    known = list(dict.fromkeys(paths))
    words = tuple(name.replace("-", "_").split("."))
    kebab = {tuple(word.replace("-", "_") for word in path): path for path in known}
    if words in kebab:
        return kebab[words]
    found = [path for spelled, path in kebab.items() if spelled[-len(words) :] == words]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousError(name, [".".join(path) for path in found])
    names = sorted(flat_names(known))
    raise ValueError(f"{name}: no such option: {suggest(name.replace('-', '_'), names)}use one of {', '.join(names)}")


def has(config: Any, path: Sequence[str]) -> bool:
    """Returns whether a configuration has a field at a path."""
    if not isinstance(config, Config) or path[0] not in kinds(type(config)):
        return False
    inner, rest = getattr(config, path[0]), path[1:]
    if not rest:
        return True
    if isinstance(inner, tuple):
        return any(has(entry, rest[1:]) for entry in inner if isinstance(entry, Config) and entry.kind() == rest[0])
    return has(inner, rest)


def update(config: Any, path: Sequence[str], value: Any) -> Any:
    """Returns a configuration with another value at a path."""
    name, rest = path[0], path[1:]
    if rest:
        inner = getattr(config, name)
        if isinstance(inner, tuple):
            value = tuple(update(e, rest[1:], value) if e.kind() == rest[0] else e for e in inner)
        else:
            value = update(inner, rest, value)
    return dataclasses.replace(config, **{name: value})


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """Returns a configuration with other values, given by name; parts are replaced before their fields.

    Raises:
      ValueError: if an option does not exist, or a value is out of range.
    """
    left = dict(values)
    while left:
        found = list(options(config))  # type: ignore[arg-type]
        by_path = {option.path: option for option in found}
        paths = {}
        for name in left:
            try:
                paths[name] = resolve(name, by_path)
            except ValueError:
                if not any(_is_part(by_path, other) for other in left if other != name):
                    raise
        first = min(paths, key=lambda name: (not by_path[paths[name]].holds_parts, len(paths[name])))
        config = update(config, paths[first], left.pop(first))
    check(config)  # type: ignore[arg-type]
    return config


def _is_part(by_path: Mapping[tuple[str, ...], Option], name: str) -> bool:
    try:
        return by_path[resolve(name, by_path)].holds_parts
    except ValueError:
        return False


def functions(config: Config) -> Iterator[Callable[..., Any]]:
    """Yields the functions in the static values of a configuration."""
    for option in options(config):
        if option.kind == "static":
            entries = option.value if isinstance(option.value, tuple) else (option.value,)
            yield from (entry for entry in entries if callable(entry) and not isinstance(entry, type))
