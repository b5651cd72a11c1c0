"""What the scripts share: the main loop of a command, progress and clocks."""

import signal
import time

STARTED = time.perf_counter()  # before the imports that take most of a second
signal.signal(signal.SIGINT, signal.SIG_DFL)  # which would end in a traceback

import contextlib
import hashlib
import math
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from arguments import Parsed, parse
from errors import fail, usage
from tqdm import tqdm

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import DataError
from cnnjax.data.cache import default_directory
from cnnjax.metrics import Metric
from cnnjax.runs import CheckpointError, RecordError
from cnnjax.sweeps import Summary, batch_split, search, structure

PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def cpu_devices(config: TrainConfig | SweepConfig, cores: int) -> int:
    """How many devices the cores are worth being: one for each trial of a program, or for a share of its batches."""
    trials = next(search(config if isinstance(config, SweepConfig) else SweepConfig(config, (), 1))).trials

    alike = Counter(structure(trial.config) for trial in trials)
    first = {structure(trial.config): trial.config for trial in reversed(trials)}

    def used(config: TrainConfig, lanes: int) -> int:
        devices = min(cores, lanes)
        return devices * batch_split(config, cores // devices)

    return max(used(first[shape], lanes) for shape, lanes in alike.items())


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


def run(main: Callable[[Any, Any, Any], None], doc: str | None, *, several: bool = False) -> None:
    """Runs a script: `main(config, options, preset)`, with a user's mistakes reported in one line."""
    argv = sys.argv[1:]
    debug = "--debug" in argv
    signals.listen()
    try:
        parsed = parse(Path(sys.argv[0]).name, doc or "", argv, several)
        _start_jax(parsed)
        main(*parsed)
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


def _start_jax(parsed: Parsed) -> None:
    """Sets what must be set before JAX starts, and starts it."""
    config, options, _ = parsed
    if not {"JAX_NUM_CPU_DEVICES", "XLA_FLAGS"} & set(os.environ) and hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
        with usage(options.debug):
            chosen = options.lanes != "auto" or options.plan_from
            devices = cores if chosen else cpu_devices(config, cores)
        with contextlib.suppress(RuntimeError):  # a preset that made an array has started JAX
            jax.config.update("jax_num_cpu_devices", devices)
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


def shown(summary: Summary, metric: Metric) -> str:
    """A mean with its standard deviation over seeds, in percent if the metric is a share; `-` where there is none."""
    if math.isnan(summary.mean):
        return "-"
    spread = "" if math.isnan(summary.std) else " ± " + digits(summary.std, metric)
    return digits(summary.mean, metric) + spread + (" %" if metric.percent else "")


def digits(value: float, metric: Metric) -> str:
    """A value of a metric, without a unit."""
    return f"{100 * value:.2f}" if metric.percent else f"{value:.4g}"


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
