"""Parses the command line of a run or a sweep: first the choice of parts, then the fields of these parts."""

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from cnnjax.commands.errors import usage
from cnnjax.commands.options import Options
from cnnjax.commands.parser import parse_words
from cnnjax.config import NOT_SWEPT, SEARCHES, Range, SweepConfig, TrainConfig, alternatives
from cnnjax.data import existing
from cnnjax.descriptions import PARTS
from cnnjax.options import (
    AmbiguousError,
    Option,
    choose,
    flat_names,
    has,
    is_config,
    members,
    options,
    resolve,
    text,
    update,
)
from cnnjax.presets import Preset, load_preset, presets
from cnnjax.runs import with_more_seeds

Path_ = tuple[str, ...]
_SEARCH = {
    "seeds": "number of seeds per point, counting up from --seed",
    "folds": "number of folds of a cross-validation, in which every seed is trained",
    "zip": "groups of fields that vary together",
    "points": "number of random points (0: all combinations)",
    "search": "train all points to the end, or use halving or an Optuna sampler",
    "factor": "fraction 1/FACTOR of the points that continues after each rung of halving",
    "batch_points": "number of points that an Optuna sampler proposes at a time",
    "equal_within": "gap to the best within which a point counts as equal (default: 0.005 for a share, else 0)",
    "add_seeds": "number of further seeds for the best point and the undecided points of a finished run folder",
    "shard": "part of the points to train, such as 2/8 for the second of eight (`merge` joins the parts)",
}
_POINTS = ("axes", "zipped", "points", "seeds", "folds", "search", "shard")
_RESERVED = [(name,) for name in (*(field.name for field in dataclasses.fields(Options)), *_SEARCH)]


def _overview(script: str, doc: str) -> str:
    lines = [f"usage: {script} PRESET [--field value ...]", "", doc.strip(), "", "presets (each has --help):"]
    known = [f"  {name:12s} {load_preset(name).doc.strip().splitlines()[0]}" for name in presets()]
    return "\n".join([*lines, *known, "or the path to your own file that defines `train`, like the files in configs/"])


class Parsed(NamedTuple):
    """A parsed command line."""

    config: TrainConfig | SweepConfig
    options: Options
    preset: Preset


def parse(doc: str, argv: Sequence[str], several: bool) -> Parsed:
    """Parses a command line to a configuration, options and a preset.

    Args:
      doc: the description of the command for its help.
      argv: the words of the command line; the first one is a preset.
      several: whether fields take several values, for a sweep.
    """
    script = Path(sys.argv[0]).name
    if not argv or argv[0].startswith("-"):
        helped = bool({"-h", "--help"} & set(argv))
        print(_overview(script, doc), file=sys.stdout if helped else sys.stderr)
        raise SystemExit(0 if helped else 2)
    with usage("--debug" in argv):
        definitions = [Path(value) for name, values in _flags(argv) if name == "preset" for value in values[:1]]
        preset = load_preset(argv[0], *definitions)
        base = preset.sweep.base if several else preset.train
        chosen = _Parts.chosen(base, preset, argv[1:], several)
        form = _Form(chosen, preset.sweep if several else None)
        words = form.spelled(argv[1:])
    arguments: Any = parse_words(
        form.type, (preset.doc or "").strip().split("\n")[0], words, prog=f"{script} {argv[0]}"
    )
    run_options, folder = arguments.execution, Path(argv[0])
    more = arguments.search.add_seeds if several else None
    if run_options.resume and run_options.name is None and more is None and (folder / "config.json").is_file():
        if folder.name != folder.resolve().name:  # `.` or a symbolic link
            folder = folder.resolve()
        run_options = dataclasses.replace(run_options, runs_dir=folder.parent, name=folder.name)
    with usage(run_options.debug):
        run_options.check()
        given = form.values(arguments)
        config = _sweep(chosen, preset.sweep, given, form.search(arguments)) if several else _train(chosen, given)
        if isinstance(config, TrainConfig):
            SweepConfig(config, ())  # checks it
        elif more is not None:
            config = with_more_seeds(folder, config, more, preset.classes)
            run_options = dataclasses.replace(run_options, extend=(folder, *run_options.extend))
    return Parsed(_from_anywhere(config), run_options, preset)


def _from_anywhere(config: TrainConfig | SweepConfig) -> TrainConfig | SweepConfig:
    """Makes the path of data absolute, so that the run folder names it from any directory."""
    base = config if isinstance(config, TrainConfig) else config.base
    if (path := existing(base.data)) is None:
        return config
    base = dataclasses.replace(base, data=str(path.resolve()))
    return base if isinstance(config, TrainConfig) else dataclasses.replace(config, base=base)


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields the options of a command line with their values."""
    name, values = "", list[str]()
    for word in [*argv, "--"]:
        if word.startswith("--"):
            if name:
                yield name, values
            name, _, value = word[2:].partition("=")
            values = [value] if value else []
        else:
            values.append(word)


# ------------------------------------------------------------------------- parts


def _resolved(name: str, known: Sequence[Path_]) -> Path_ | None:
    """Returns the path of an option, or None if it does not exist; raises ValueError if it is ambiguous."""
    try:
        return resolve(name, [*known, *_RESERVED])
    except AmbiguousError as error:
        raise AmbiguousError(error.name, [f"--{path.replace('_', '-')}" for path in error.choices]) from None
    except ValueError:
        return None


class _Parts(NamedTuple):
    """The base run with the parts that a command line selects."""

    base: TrainConfig
    axes: dict[str, tuple[Any, ...]]
    """The swept parts, by name."""
    classes: tuple[Any, ...]

    @classmethod
    def chosen(cls, base: TrainConfig, preset: Preset, argv: Sequence[str], several: bool) -> "_Parts":
        given = [(name, values) for name, values in _flags(argv)]
        swept: dict[str, Any] = dict(preset.sweep.axes) if several else {}
        parts, seen = cls(base, {}, preset.classes), set[Path_]()
        while new := [option for option in parts.known if option.holds_parts and option.path not in seen]:
            option = min(new, key=lambda option: len(option.path))
            seen.add(option.path)
            paths = [option.path for option in parts.known]
            words = [word for name, values in given if _resolved(name, paths) == option.path for word in values]
            named = [name for name in swept if _resolved(name, paths) == option.path]
            before = swept[named[0]] if named else (option.value,)
            values = tuple(parts.instance(option, word, before) for word in words) if words else before
            if words or named:
                parts = parts.with_part(option, values, named[0] if named else option.name)
        return parts

    @property
    def known(self) -> list[Option]:
        """The options of the run, including those of all swept parts."""
        found: dict[Path_, Option] = {}
        for run in alternatives(self.base, self.axes.items()):
            found |= {option.path: option for option in options(run) if option.path not in found}
        return list(found.values())

    def with_part(self, option: Option, values: tuple[Any, ...], name: str) -> "_Parts":
        if len(values) == 1 and has(self.base, option.path):
            return self._replace(base=update(self.base, option.path, values[0]))
        return self._replace(axes={**self.axes, name: values})

    def instance(self, option: Option, word: str, known: Sequence[Any]) -> Any:
        """Returns the part with a name: as defined in the preset, or with its defaults."""
        if option.kind == "parts":
            there = [entry for value in known for entry in value]
            if word == "none":
                return ()
            return tuple(self._instance(option, one, there) for one in word.split(","))
        return self._instance(option, word, known)

    def _instance(self, option: Option, word: str, known: Sequence[Any]) -> Any:
        cls = choose(option.name, word.replace("_", "-"), self.words(option))
        if cls is None:
            return None
        for value in known:
            if type(value) is cls:
                return value
        try:
            return cls()
        except TypeError as error:
            raise ValueError(
                f"{option.name}: {word}: has fields without a default: set it in a preset: {error}"
            ) from None

    def words(self, option: Option) -> dict[str, Any]:
        """Returns the classes that a part can have, by their names on the command line."""
        hint = typing.get_args(option.hint)[0] if option.kind == "parts" else option.hint
        bases = tuple(entry for entry in members(hint) if is_config(entry))
        every = [*PARTS.values(), *(cls for cls in self.classes if is_config(cls))]
        found = {cls.kind(): cls for cls in every if issubclass(cls, bases) and cls not in bases}
        return {**found, "none": None} if type(None) in members(hint) else found


# ------------------------------------------------------------------------- the form


def _primitive(read: Callable[[str], Any], metavar: str) -> Any:
    def value(words: list[str]) -> Any:
        try:
            return read(words[0])
        except (ValueError, KeyError):
            raise ValueError(repr(words[0])) from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=value,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [text(value)],
    )


def _optional(read: Callable[[str], Any], optional: bool) -> Callable[[str], Any]:
    return lambda word: None if optional and word.lower() == "none" else read(word)


def _ranged(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Reads a value, or a range of numbers such as `log:1e-3:1`."""

    def value(word: str) -> Any:
        scale, *ends = word.split(":")
        if not ends:
            return read(word)
        try:
            low, high = map(float, ends)
            return Range(low, high, {"log": True, "uniform": False}[scale])
        except (ValueError, KeyError):
            return word  # reported by `_sweep`, because tyro would drop the message

    return value


def _tuple(entry: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda word: () if word in ("", "none") else tuple(map(entry, word.split(",")))


def _int_or_word(word: str) -> int | str:
    try:
        return int(word)
    except ValueError:
        return word


def _kind_of(option: Option, several: bool) -> Any:
    """Returns the type of an option for tyro; None if it cannot be given on a command line."""
    plain = [entry for entry in members(option.hint) if entry is not type(None)]
    optional = len(plain) < len(members(option.hint))
    if bool in plain:
        return bool
    if option.kind == "number" or plain in ([int], [float]):
        read = int if int in plain and option.kind != "number" else float
        value = _optional(read, optional)
        metavar = read.__name__.upper() + ("|none" if optional else "")
        return Annotated[object, _primitive(_ranged(value) if several else value, metavar)]
    words = [word for entry in plain if typing.get_origin(entry) is Literal for word in typing.get_args(entry)]
    if words and typing.get_origin(plain[0]) is tuple:
        several_of = _tuple(typing.get_args(plain[0])[0])
        read_any = _optional(lambda word: word if word in words else several_of(word), optional)
        return Annotated[
            object, _primitive(read_any, f"{'|'.join(words)}|{typing.get_args(plain[0])[0].__name__.upper()},...")
        ]
    if set(plain) == {int, tuple[int, ...]}:
        several_or_one = _optional(lambda word: (_tuple(int) if "," in word else int)(word), optional)
        return Annotated[object, _primitive(several_or_one, "INT|INT,...")]
    if len(plain) == 1 and typing.get_origin(plain[0]) is tuple:
        entry = typing.get_args(plain[0])[0]
        if entry not in (int, float, str):
            return None
        return Annotated[object, _primitive(_optional(_tuple(entry), optional), f"{entry.__name__.upper()},...")]
    if len(plain) == 1 and isinstance(plain[0], type) and issubclass(plain[0], enum.Enum):
        return Annotated[object, _primitive(_optional(plain[0].__getitem__, optional), "|".join(plain[0].__members__))]
    if typing.get_origin(plain[0]) is Literal:
        return plain[0]
    if str in plain:
        read_word = _int_or_word if int in plain else str
        return Annotated[object, _primitive(_optional(read_word, optional), "INT|STR" if int in plain else "STR")]
    return None


def _names(word: str) -> tuple[str, ...]:
    return tuple(name.strip().replace("-", "_") for name in word.split(","))


_GROUPS = {
    "network": "network",
    "optimizer": "optimizer",
    "ema": "optimizer",
    "loss": "loss",
    "metric": "loss",
}  # else data


def _group(path: Path_) -> str:
    return _GROUPS.get(path[0], "data")


class _Form:
    """Builds the dataclass for tyro, with a field for each option."""

    def __init__(self, parts: _Parts, sweep: SweepConfig | None):
        self.parts, self.known = parts, {option.path: option for option in parts.known}
        self.names = {path: name for name, path in flat_names([*self.known, *_RESERVED]).items()}
        self.sweep = sweep
        self.axes = (
            {path: values for name, values in sweep.axes if (path := _resolved(name, list(self.known)))}
            if sweep
            else {}
        )
        self.shown: dict[Path_, Any] = {}
        groups: dict[str, list[tuple[str, Any, Any]]] = {
            name: [] for name in ("network", "optimizer", "loss", "data", "search")
        }
        for option in self.known.values():
            if field := self._field(option):
                groups[_group(option.path)].append(field)
        groups["search"] = self._search_fields() if sweep else []
        made = {name: dataclasses.make_dataclass(name, fields, frozen=True) for name, fields in groups.items()}
        members = [(name, cls, dataclasses.field(default=cls())) for name, cls in made.items()]
        execution = ("execution", Options, Options())
        self.type = dataclasses.make_dataclass("arguments", [*members, execution], frozen=True)

    def _field(self, option: Option) -> tuple[str, Any, Any] | None:
        several = self.sweep is not None and option.path[0] not in NOT_SWEPT
        if option.holds_parts and not self.parts.words(option):  # only its fields are options
            return None
        if option.holds_parts:
            kind, default = self._part_kind(option, several)
        else:
            kind, default = _kind_of(option, several), option.value
            if kind is None:
                return None
            values = self.axes.get(option.path, (default,))
            default = (values,) if isinstance(values, Range) else values
            default, kind = (default, types.GenericAlias(tuple, (kind, ...))) if several else (option.value, kind)
            self.shown[option.path] = default
        help = option.metadata.get("help") or ""
        if option.metadata.get("kind") is None and not help:
            help = f"field of {option.path[-2]}" if len(option.path) > 1 else ""
        shown = tyro.conf.arg(name=self.names[option.path], help=help)
        return "__".join(option.path).replace("-", "_"), Annotated[kind, shown], dataclasses.field(default=default)

    def _part_kind(self, option: Option, several: bool) -> tuple[Any, Any]:
        words = tuple(self.parts.words(option))
        swept = [values for name, values in self.parts.axes.items() if self._path(name) == option.path]
        now = tuple(_word(value) for value in (swept[0] if swept else (option.value,)))
        kind: Any = Literal[words]
        if option.kind == "parts":
            kind = Annotated[object, _primitive(str, f"{{{','.join(words)}}},...")]
        return (types.GenericAlias(tuple, (kind, ...)), now) if several else (kind, now[0])

    def _path(self, name: str) -> Path_ | None:
        return _resolved(name, list(self.known))

    def _search_fields(self) -> list[tuple[str, Any, Any]]:
        kinds = {
            "zip": types.GenericAlias(tuple, (Annotated[object, _primitive(_names, "FIELD,FIELD,...")], ...)),
            "search": Literal[SEARCHES],
            "shard": str | None,
            "folds": int | None,
            "equal_within": float | None,
            "add_seeds": int | None,
        }
        return [
            (
                name,
                Annotated[kinds.get(name, int), tyro.conf.arg(help=help)],
                dataclasses.field(default=getattr(self.sweep, "zipped" if name == "zip" else name, None)),
            )
            for name, help in _SEARCH.items()
        ]

    def spelled(self, argv: Sequence[str]) -> list[str]:
        """Converts a command line to the option names of tyro; raises ValueError for an ambiguous option."""
        words, part = [], False
        for word in argv:
            if not word.startswith("--"):
                words.append(word.replace("_", "-") if part else word)
                continue
            name, equals, value = word[2:].partition("=")
            no = ""
            if (path := self._path(name)) is None and name.startswith("no-"):
                no, path = "no-", self._path(name[3:])
            part = path in self.known and self.known[path].holds_parts
            value = value.replace("_", "-") if part else value
            words.append(word if path is None else f"--{no}{self.names[path].replace('_', '-')}{equals}{value}")
        return words

    def values(self, arguments: Any) -> dict[Path_, Any]:
        """Returns the parsed values that differ from the defaults, by path."""
        found = {}
        for path, shown in self.shown.items():
            value = getattr(getattr(arguments, _group(path)), "__".join(path).replace("-", "_"))
            if value != shown:
                found[path] = value
        return found

    def search(self, arguments: Any) -> dict[str, Any]:
        """Returns the fields of a SweepConfig other than base and axes."""
        names = [name for name in _SEARCH if name != "add_seeds"]
        return {"zipped" if name == "zip" else name: getattr(arguments.search, name) for name in names}


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_word, value)) or "none"
    return "none" if value is None else value.kind()


# ------------------------------------------------------------------------- the configuration


def _train(parts: _Parts, given: Mapping[Path_, Any]) -> TrainConfig:
    run = parts.base
    for path, value in given.items():
        run = update(run, path, value)
    return run


def _sweep(parts: _Parts, preset: SweepConfig, given: Mapping[Path_, Any], how: Mapping[str, Any]) -> SweepConfig:
    """Creates the sweep; a field with one value is an axis only if it is an axis of the preset."""
    known = [option.path for option in parts.known]
    before = {path: (name, values) for name, values in preset.axes if (path := _resolved(name, known))}
    names = {path: name for name, path in flat_names([*known, *_RESERVED]).items()}
    names |= {path: name for path, (name, _) in before.items()}
    swept = {resolve(name, known): values for name, values in parts.axes.items()}
    base, axes = parts.base, {path: values for path, (name, values) in before.items() if name not in parts.axes}
    axes = {path: values for path, values in axes.items() if not _holds(parts, path)}
    for path, many in given.items():
        if path[0] in NOT_SWEPT:
            base = update(base, path, many)
            continue
        values = _axis(names[path], many)
        alone = not isinstance(values, Range) and len(values) == 1 and path not in before
        if alone and has(base, path) and not any(path[: len(part)] == part for part in swept):
            base = update(base, path, values[0])
        else:
            axes[path] = values
    every = {**axes, **swept}
    ordered = dict.fromkeys([path for path in before if path in every] + list(every))
    sweep = SweepConfig(base, tuple((names[path], every[path]) for path in ordered), **how)
    same = all(getattr(sweep, name) == getattr(preset, name) for name in _POINTS)
    return dataclasses.replace(sweep, more_seeds=preset.more_seeds) if same else sweep


def _holds(parts: _Parts, path: Path_) -> bool:
    return any(option.path == path and option.holds_parts for option in parts.known)


def _axis(name: str, many: tuple[Any, ...]) -> Any:
    ranges = [value for value in many if isinstance(value, Range)]
    for value in many:
        if isinstance(value, str) and value.split(":")[0] in ("log", "uniform", "linear") and ":" in value:
            raise ValueError(f"{name}: {value!r}: give a range as log:LOW:HIGH or uniform:LOW:HIGH")
    if ranges and len(many) > 1:
        raise ValueError(f"{name}: {' '.join(map(text, many))}: give either one range or a list of values")
    return ranges[0] if ranges else many
