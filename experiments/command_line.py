"""What the scripts share: arguments, errors as one line, progress and clocks."""

import signal
import time

STARTED = time.perf_counter()  # before the imports that take most of a second
signal.signal(signal.SIGINT, signal.SIG_DFL)  # which would end in a traceback

import contextlib
import dataclasses
import hashlib
import math
import os
import platform
import runpy
import sys
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import jax
import tyro
from tqdm import tqdm

from cnnjax.checkpoints import CheckpointError
from cnnjax.config import NOT_SWEPT, SEARCHES, Range, SweepConfig, TrainConfig, flat, replace, suggest, text
from cnnjax.data import DataError
from cnnjax.data.cache import default_directory
from cnnjax.judgement import Summary
from cnnjax.records import RecordError
from cnnjax.runs import NETWORKS, configuration_of
from cnnjax.search import search
from cnnjax.sweeps import shape_of, shares

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ROOT / "configs"
KINDS = {network.kind(): network for network in NETWORKS.values()}
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


# ------------------------------------------------------------------------- errors


def fail(message: object, code: int) -> NoReturn:
    """Ends the process with one line on standard error: code 2 for usage, 1 for the rest."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def usage(debug: bool = False) -> Iterator[None]:
    """Where a ValueError is the caller's mistake."""
    try:
        yield
    except ValueError as error:
        if debug:
            raise
        fail(error, 2)


# ------------------------------------------------------------------------- arguments


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes a result but by rounding."""

    name: str | None = None
    """name of the run folder; by default the preset and the time"""
    runs_dir: Path = Path("runs")
    """where run folders lie"""
    data_dir: Path | None = None
    """where TensorFlow Datasets keeps prepared data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """by default the best there is"""
    lanes: str = "auto"
    """how trials share a program: auto (measured where it pays), or lanes side by side (0: all) and devices, as 1:2,
    and devices that share a batch, as 1:1:2"""
    pack: Literal["shapes", "buckets", "one", "auto"] = "auto"
    """which widths share a program, narrow networks embedded in wide ones by zeros: none (shapes), those with the same
    powers of two above them (buckets), all (one), or what promises to take the least time"""
    plan_from: Path | None = None
    """carry the trials out as this plan.json of an earlier run says"""
    resume: bool = False
    """go on with the run --name where it stopped, or start it if there is none"""
    allow_changes: bool = False
    """go on also where configuration, versions, source or data are not those it began with"""
    save_seconds: float = 30.0
    """seconds of training between two checkpoints of a program; 0 for one after each epoch"""
    keep_latest: int = 2
    """how many of the last checkpoints of a program are kept"""
    keep_best: int = 1
    """and how many of those with the highest validation accuracy"""
    deterministic: bool = False
    """on a GPU, only operations whose results never vary, at some cost in speed"""
    memory: float | None = None
    """GiB that training may take in all; by default most of what is free"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    extend: Path | None = None
    """take over what this finished run of the same kind has trained already, and train what is missing"""
    tensorboard: bool = False
    """of a sweep: a TensorBoard run for each trial, with its HParams page"""
    plan: bool = False
    """only say what would be trained: trials, programs, lanes, memory, and the time that it would take"""
    debug: bool = False
    """full tracebacks"""
    quiet: bool = False
    """print the result only"""


def presets() -> dict[str, Path]:
    """The files in `configs/`, by the name that the command line takes."""
    return {path.stem.replace("_", "-"): path for path in sorted(PRESETS.glob("*.py"))}


def load_preset(name: str) -> dict[str, Any]:
    """A preset by name, or the path to a file of one's own: the names that the file defines.

    `train` is a TrainConfig; `sweep` a SweepConfig over it, which only a sweep needs. A run folder
    is a preset as well: what it was begun with.

    Raises:
      ValueError: there is no such preset, or the file defines no `train`.
    """
    known = presets()
    path = known.get(name, Path(name))
    if (path / "config.json").is_file():
        config = configuration_of(path)
        train = config if isinstance(config, TrainConfig) else config.base
        sweep = config if isinstance(config, SweepConfig) else SweepConfig(config, ())
        return {"train": train, "sweep": sweep, "__doc__": f"What {path} was begun with."}
    if not path.is_file():
        raise ValueError(
            f"unknown preset {name!r}: {suggest(name, known)}there are {', '.join(known)}, or give the path to a file"
        )
    try:
        names = runpy.run_path(str(path))
    except Exception as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    if not isinstance(names.get("train"), TrainConfig):
        raise ValueError(f"{path}: a preset defines `train`, a cnnjax.TrainConfig; see configs/digits.py")
    if not isinstance(sweep := names.get("sweep", SweepConfig(names["train"], ())), SweepConfig):
        raise ValueError(f"{path}: `sweep` is no cnnjax.SweepConfig; see configs/digits.py")
    return {**names, "sweep": sweep}


def _counts(words: list[str]) -> tuple[int, ...]:
    return () if words[0] in ("", "none") else tuple(int(word) for word in words[0].split(","))


COUNTS = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT,INT,...",
    instance_from_str=_counts,
    is_instance=lambda value: isinstance(value, tuple) and all(isinstance(entry, int) for entry in value),
    str_from_instance=lambda value: [text(value)],
)


def _values(kind: type) -> Any:
    """A number or a range of numbers, as `log:1e-3:1`."""

    def read(words: list[str]) -> Any:
        scale, *ends = words[0].split(":")
        if not ends:
            return kind(words[0])
        try:
            low, high = map(float, ends)
            return Range(low, high, {"log": True, "uniform": False}[scale])
        except (ValueError, KeyError):
            return words[0]  # to be told by `_sweep`, since tyro would not pass a message on

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind | int | Range | str),
        str_from_instance=lambda value: [text(value)],
    )


def _names(words: list[str]) -> tuple[str, ...]:
    return tuple(word.strip().replace("-", "_") for word in words[0].split(","))


NAMES = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="FIELD,FIELD,...",
    instance_from_str=_names,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [text(value)],
)


def _form(train: TrainConfig, sweep: SweepConfig | None) -> Any:
    """A flat dataclass for tyro: the options of a run, then `Options`; of a sweep, several values each."""
    axes: dict[str, Any] = dict(sweep.axes) if sweep else {}
    fields: list[tuple[str, Any, Any]] = []

    def add(name: str, kind: Any, default: Any, help: str) -> None:
        fields.append((name, Annotated[kind, tyro.conf.arg(help=help)], dataclasses.field(default=default)))

    hints = [typing.get_type_hints(type(part)) for part in (train.hparams, train.network, train)]
    kinds: dict[str, Any] = {name: kind for part in hints for name, kind in part.items()}
    for option, value in flat(train):
        kind, help = kinds[option.name], option.metadata["help"]
        if kind == tuple[int, ...]:
            kind = Annotated[kind, COUNTS]
        if sweep is None or option.name in NOT_SWEPT:
            add(option.name, kind, value, help)
        else:
            if kind in (int, float):
                kind = Annotated[kind | Range, _values(kind)]
            values = axes.get(option.name, (value,))
            add(option.name, _several(kind), (values,) if isinstance(values, Range) else values, help)
    if sweep is not None:
        words = Literal[tuple(KINDS)]  # type: ignore[valid-type]
        chosen = tuple(network.kind() for network in axes.get("network", (train.network,)))
        add("network", _several(words), chosen, f"{train.network.kind()} with the fields given, others as they come")
        add("seeds", int, sweep.seeds, "number of seeds under each point, counted up from --seed")
        add("zip", _several(Annotated[tuple[str, ...], NAMES]), sweep.zipped, "fields that vary together")
        add("points", int, sweep.points, "number of points drawn at random; 0 for every combination")
        add("search", Literal[SEARCHES], sweep.search, "all points to their end, halving, or an Optuna sampler")
        add("factor", int, sweep.factor, "halving: the best 1/factor go on after each rung")
        add("batch_points", int, sweep.batch_points, "Optuna: points that are proposed at a time")
    form = dataclasses.make_dataclass("form", fields, frozen=True)
    parts = [("run", form, form()), ("options", Options, Options())]
    return dataclasses.make_dataclass("arguments", parts, frozen=True)


def _several(kind: Any) -> Any:
    return types.GenericAlias(tuple, (kind, ...))


def _overview(script: str, doc: str) -> str:
    lines = [f"usage: {script} PRESET [--field value ...]", "", doc.strip(), "", "presets (each has --help):"]
    for name, path in presets().items():
        lines.append(f"  {name:12s} {runpy.run_path(str(path))['__doc__'].strip().splitlines()[0]}")
    return "\n".join([*lines, "or the path to a file of your own that defines `train`, as those in configs/ do"])


def parse(script: str, doc: str, argv: Sequence[str], several: bool) -> tuple[TrainConfig | SweepConfig, Options, str]:
    """The configuration, the options and the name of the preset that a command line gives."""
    if not argv or argv[0].startswith("-"):
        helped = bool({"-h", "--help"} & set(argv))
        print(_overview(script, doc), file=sys.stdout if helped else sys.stderr)
        raise SystemExit(0 if helped else 2)
    with usage():
        preset = load_preset(argv[0])
    sweep: SweepConfig = preset["sweep"]
    base = sweep.base if several else preset["train"]
    arguments = tyro.cli(
        _form(base, sweep if several else None),
        prog=f"{script} {argv[0]}",
        description=(preset["__doc__"] or "").strip().split("\n")[0],
        args=list(argv[1:]),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = {field.name: getattr(arguments.run, field.name) for field in dataclasses.fields(arguments.run)}
    options, folder = arguments.options, Path(argv[0])
    if options.resume and options.name is None and (folder / "config.json").is_file():
        options = dataclasses.replace(options, runs_dir=folder.parent, name=folder.resolve().name)
    with usage(options.debug):
        _check(options)
        config: TrainConfig | SweepConfig
        config = _sweep(sweep, values) if several else replace(base, values)
    return config, options, Path(argv[0]).stem


def _fields(base: TrainConfig, kind: str) -> set[str]:
    """The options of a run with a network of a kind."""
    return {option.name for option, _ in flat(dataclasses.replace(base, network=KINDS[kind]()))}


def _sweep(preset: SweepConfig, values: dict[str, Any]) -> SweepConfig:
    """The sweep that parsed values stand for: a field with one value is an axis only if it is the preset's."""
    how = {name: values.pop(name) for name in ("seeds", "points", "search", "factor", "batch_points")}
    zipped, networks = values.pop("zip"), values.pop("network")
    axes = dict(preset.axes)
    single = {name: values.pop(name) for name in NOT_SWEPT}
    several = len(networks) != 1 or networks[0] != preset.base.network.kind()
    swept: dict[str, Any] = {}
    known = [_fields(preset.base, kind) for kind in networks]
    for name, many in values.items():
        ranges = [value for value in many if isinstance(value, Range)]
        for value in many:
            if isinstance(value, str) and ":" in value:
                raise ValueError(f"{name}: {value!r}: a range is log:LOW:HIGH or uniform:LOW:HIGH")
        if ranges and len(many) > 1:
            raise ValueError(f"{name}: {' '.join(map(text, many))}: a range stands alone")
        if several and many == axes.get(name) and not all(name in fields for fields in known):
            continue  # the preset's, which a network does not have
        if ranges or len(many) != 1 or (name in axes and not several):
            swept[name] = ranges[0] if ranges else many
        else:
            single[name] = many[0]
    base = replace(preset.base, single)
    if several:
        own = {base.network.kind(): base.network}
        swept["network"] = tuple(own.get(kind) or KINDS[kind]() for kind in networks)
    ordered = {name: swept[name] for name in [*(name for name in axes if name in swept), *swept]}
    return SweepConfig(base, tuple(ordered.items()), zipped=zipped, **how)


def _check(options: Options) -> None:
    if options.memory is not None and not 0 < options.memory * 2**30 < math.inf:
        raise ValueError(f"memory: {options.memory}: must be above 0 and finite")
    if not 0 <= options.save_seconds < math.inf:
        raise ValueError(f"save_seconds: {options.save_seconds}: must be at least 0 and finite")
    if options.keep_latest < 1:
        raise ValueError(f"keep_latest: {options.keep_latest}: must be at least 1")
    if options.keep_best < 0:
        raise ValueError(f"keep_best: {options.keep_best}: must be at least 0")
    if options.resume and options.name is None:
        raise ValueError("resume: give --name, the run to go on with")


def cpu_devices(config: TrainConfig | SweepConfig, cores: int) -> int:
    """How many devices the cores are worth being: one for each trial of a program, or for a share of its batches."""
    trials = next(search(config if isinstance(config, SweepConfig) else SweepConfig(config, (), 1))).trials

    def used(shape: TrainConfig, lanes: int) -> int:
        devices = min(cores, lanes)
        return devices * shares(shape, cores // devices)

    return max(used(shape, lanes) for shape, lanes in Counter(map(shape_of, trials)).items())


def use_compilation_cache() -> None:
    """Keeps compiled programs, apart by version of jaxlib and by what the processor can do."""
    try:
        facts = Path("/proc/cpuinfo").read_text()
        flags = next((line for line in facts.splitlines() if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = platform.processor()
    processor = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
    folder = default_directory() / f"xla-{metadata.version('jaxlib')}-{processor}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # An entry that is damaged, or a disk that is full, costs a compilation and no more.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def run(main: Callable[[Any, Options, str], None], doc: str | None, *, several: bool = False) -> None:
    """Runs a script: `main(config, options, preset)`, with a user's mistakes told in one line."""
    argv = sys.argv[1:]
    debug = "--debug" in argv
    signals.listen()
    try:
        config, options, preset = parse(Path(sys.argv[0]).name, doc or "", argv, several)
        # To be said before JAX starts.
        if not {"JAX_NUM_CPU_DEVICES", "XLA_FLAGS"} & set(os.environ) and hasattr(os, "sched_getaffinity"):
            cores = len(os.sched_getaffinity(0))
            with usage(options.debug):
                chosen = options.lanes != "auto" or options.plan_from
                jax.config.update("jax_num_cpu_devices", cores if chosen else cpu_devices(config, cores))
        if options.compilation_cache:
            use_compilation_cache()
        if options.deterministic:
            os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
        if options.device:
            jax.config.update("jax_platforms", PLATFORMS[options.device])
        with usage(options.debug):
            try:
                jax.devices()
            except (RuntimeError, AssertionError) as error:  # jax asserts where no plugin is installed
                wanted = options.device or os.environ.get("JAX_PLATFORMS")
                raise ValueError(f"device: {wanted}: JAX finds none here") from error
        main(config, options, preset)
        signals.listen(signal.SIG_DFL)
    except BrokenPipeError:  # the reader of standard output left, as `head` does
        sys.stderr.close()
        raise SystemExit(1) from None
    except (DataError, RecordError, CheckpointError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            fail(f"{error.filename}: {error.strerror}", 1)
        fail(str(error).strip().split("\n")[0] or "out of memory", 1)
    except Interrupted as interrupted:
        signals.listen(signal.SIG_IGN)
        print(interrupted, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(interrupted.code)  # threads that compile would be waited for


# ------------------------------------------------------------------------- signals


class Interrupted(BaseException):
    """SIGINT or SIGTERM came; what was in hand is saved."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(f"interrupted{where and ': ' + where}")
        self.code = 128 + number


class Signals:
    """Raises `Interrupted` when SIGINT or SIGTERM comes; where held, only `pending` says so."""

    def __init__(self) -> None:
        self.pending = 0
        self._held = False

    def listen(self, handler: Any = None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler or self._arrived)

    def _arrived(self, number: int, frame: object) -> None:
        self.pending = number
        if not self._held:
            raise Interrupted(number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False


signals = Signals()


# ------------------------------------------------------------------------- progress and clocks


def percent(summary: Summary) -> str:
    """A mean with its standard deviation over seeds, in percent; `-` where there is none."""
    if math.isnan(summary.mean):
        return "-"
    return f"{100 * summary.mean:.2f}" + ("" if math.isnan(summary.std) else f" ± {100 * summary.std:.2f}") + " %"


LINE_SECONDS, BAR_SECONDS = 10.0, 0.5


class Display:
    """A progress bar on a terminal, plain lines elsewhere, nothing with `quiet`."""

    def __init__(self, examples: int, quiet: bool):
        self._lines = not quiet and not sys.stderr.isatty()
        self._total, self._done, self._before = examples, 0, 0
        self._start = self._last = time.perf_counter()
        self._bar = tqdm(
            total=examples,
            unit=" examples",
            unit_scale=True,
            disable=quiet or self._lines,
            dynamic_ncols=True,
            leave=False,
        )

    def advance(self, examples: int, note: Callable[[], str], *, spent: bool = True) -> None:
        """Counts examples; without `spent` they were trained on before. `note` is asked for when it is shown."""
        now = time.perf_counter()
        self._done += examples
        if not spent or self._done == examples:  # before the first, programs were compiled
            self._start, self._before = now, self._done
        if not self._bar.disable and now - self._last > BAR_SECONDS:
            self._bar.set_postfix_str(note(), refresh=False)
            self._last = now
        self._bar.update(examples)
        if self._lines and now - self._last > LINE_SECONDS and self._done > self._before:
            speed = (self._done - self._before) / (now - self._start)
            left = (self._total - self._done) / speed
            share = self._done / self._total
            print(f"{share:.0%} done, {left:.0f} s left, {speed:,.0f} examples/s; {note()}", flush=True)
            self._last = now

    def line(self, message: str) -> None:
        """A line for where there is no bar."""
        if self._lines:
            print(message, flush=True)

    def close(self) -> None:
        self._bar.close()


class Clock:
    """Seconds since it was made, and how many of them JAX traced, lowered and compiled."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._spans: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            self._spans.append((end - duration_secs, end))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds().items())

    def seconds(self) -> dict[str, float]:
        """`compile`, `train` (all else since the clock was made) and `total` (since the script began)."""
        compile_seconds, reached = 0.0, self._start
        for start, end in sorted(self._spans):  # spans nest: an inner function is traced within an outer one
            compile_seconds += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        elapsed = time.perf_counter() - self._start
        return {
            "compile": round(compile_seconds, 2),
            "train": round(elapsed - compile_seconds, 2),
            "total": round(time.perf_counter() - STARTED, 2),
        }
