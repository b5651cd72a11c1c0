"""The shared code of the commands: start, run, signals, and errors."""

import contextlib
import hashlib
import os
import platform
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from cnnjax.commands import shell, terminal
from cnnjax.commands.arguments import Parsed
from cnnjax.commands.errors import reported, usage
from cnnjax.commands.options import Options
from cnnjax.commands.parser import parse_words
from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import folded
from cnnjax.data.cache import default_directory
from cnnjax.presets import Preset
from cnnjax.runs import (
    Compiled,
    Event,
    Finished,
    Noted,
    Opened,
    Progress,
    RunFolder,
    Saved,
    Swept,
    Verified,
    Verifying,
    as_resumed,
    as_sweep,
    events,
    waiting,
)
from cnnjax.sweeps import batch_split, search, structure

STARTED = time.perf_counter() - time.process_time()  # start of the process, before its imports
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def cpu_devices(config: TrainConfig | SweepConfig, cores: int) -> int:
    """Returns how many CPU devices to create: one per core that can train a trial or share its batches."""
    trials = next(search(as_sweep(config))).trials
    alike = Counter(structure(trial.config) for trial in trials)
    first = {structure(trial.config): trial.config for trial in reversed(trials)}

    def used(config: TrainConfig, lanes: int) -> int:
        devices = min(cores, lanes)
        return devices * batch_split(config, cores // devices)

    return max(used(first[shape], lanes) for shape, lanes in alike.items())


def use_cores(devices: Callable[[int], int] = lambda cores: cores) -> None:
    """Makes JAX use `devices(cores)` CPU devices, unless the environment sets their number."""
    if {"JAX_NUM_CPU_DEVICES", "XLA_FLAGS"} & set(os.environ) or not hasattr(os, "sched_getaffinity"):
        return
    count = devices(len(os.sched_getaffinity(0)))
    with contextlib.suppress(RuntimeError):  # a preset that creates an array starts JAX
        jax.config.update("jax_num_cpu_devices", count)


def use_compilation_cache() -> None:
    """Sets a compilation cache for this jaxlib version and processor, unless the user has set one."""
    # A damaged entry or a full disk only costs a compilation.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
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


def run_form(main: Callable[[Any], None], form: type[Any], help: str | None, cores: bool = False) -> None:
    """Runs a command whose options are a dataclass: `main(form)`; errors take one line.

    Args:
      main: the command.
      form: the dataclass of its options, with `debug`, and maybe `compilation_cache`.
      help: its docstring.
      cores: whether every core is a device.
    """
    terminal.use()
    given: Any = parse_words(form, help or "")
    if cores:
        use_cores()
    if getattr(given, "compilation_cache", False):
        use_compilation_cache()
    with reported(given.debug):
        main(given)


def run_command(main: Callable[[Any, Any, Any], None], read: Callable[[list[str]], Parsed]) -> None:
    """Runs a command: `main(config, options, preset)` on the result of `read(argv)`; errors take one line."""
    argv = sys.argv[1:]
    signals.listen()
    terminal.use()
    log(f"$ {shell.line()}")
    with log.copying():
        _run(main, read, argv)


def _run(main: Callable[[Any, Any, Any], None], read: Callable[[list[str]], Parsed], argv: list[str]) -> None:
    try:
        with reported("--debug" in argv):
            parsed = read(argv)
            _start_jax(parsed)
            main(*parsed)
            signals.listen(signal.SIG_DFL)
    except Interrupted as interrupted:
        signals.listen(signal.SIG_IGN)
        print(interrupted, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(interrupted.code)  # sys.exit would wait for threads that compile


def _start_jax(parsed: Parsed) -> None:
    """Sets devices and flags, which must precede the start of JAX, and starts JAX."""
    config, options, _ = parsed
    with usage(options.debug):
        chosen = options.lanes != "auto" or options.plan_from
        use_cores((lambda cores: cores) if chosen else partial(cpu_devices, config))
    if options.compilation_cache:
        use_compilation_cache()
    if options.deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    if options.device:
        jax.config.update("jax_platforms", PLATFORMS[options.device])
    with usage(options.debug):
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:  # jax asserts if no plugin is installed
            wanted = options.device or os.environ.get("JAX_PLATFORMS")
            raise ValueError(f"device: {wanted}: JAX finds no such device: use another --device") from error


# ------------------------------------------------------------------------- signals


class Interrupted(BaseException):
    """Raised on SIGINT or SIGTERM; during training, after the state is saved."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(f"interrupted{where and ': ' + where}")
        self.number, self.where, self.code = number, where, 128 + number


class Signals:
    """Raises `Interrupted` on SIGINT or SIGTERM; while `held` is true, it only sets `pending`."""

    def __init__(self) -> None:
        self.pending = 0
        self.held = False

    def listen(self, handler: Any = None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler or self._arrived)

    def _arrived(self, number: int, frame: object) -> None:
        self.pending = number
        if not self.held:
            raise Interrupted(number)


signals = Signals()
log = terminal.Log()


# ------------------------------------------------------------------------- a run


def carried_out(
    config: TrainConfig | SweepConfig, options: Options, preset: Preset, *, only_extend: bool = False
) -> tuple[Swept, RunFolder]:
    """Runs a configuration and shows its progress; returns the results and the run folder.

    Args:
      config: the configuration of a single run or a sweep.
      options: the execution options.
      preset: the preset, which provides data and user-defined parts.
      only_extend: whether the runs to extend must be exactly the shards of the sweep.

    Raises:
      Interrupted: on SIGINT or SIGTERM; during training, after the state is saved.
    """
    sweep = as_sweep(config)
    with waiting(f"loading {sweep.base.data}", visible=not options.quiet):
        data = folded(preset.dataset(sweep.base.data, options.data_dir, sweep.base.loading), sweep.folds)
    runs_dir = options.runs_dir.expanduser()
    if options.resume:
        options = as_resumed(options, runs_dir / (options.name or ""))
    happening = events(
        config,
        data,
        lambda: RunFolder.within(runs_dir, options.name, preset.name, resume=options.resume),
        options,
        extend=options.extend,
        only_extend=only_extend,
        allow_changes=options.allow_changes,
        classes=preset.classes,
        code=preset.facts(config),
        tensorboard=options.tensorboard,
        stop=lambda: bool(signals.pending),
        started=STARTED,
        commands=shell.Typed.now(),
    )
    showing = Progress(sweep, data, visible=not options.quiet, log=log)
    with usage(options.debug), contextlib.closing(happening), contextlib.closing(showing) as progress:
        opened = next(happening)
        assert isinstance(opened, Opened)
        assert isinstance(opened.store, RunFolder)
        folder = opened.store
        if opened.complete:
            print(f"{folder.path} is complete")
            exit_if_all_diverged(folder)
            raise SystemExit(0)
        progress(opened)
        try:
            return _followed(happening, progress, folder), folder
        except Interrupted as interrupted:
            continued = shell.Typed.now().continued(folder.path, isinstance(config, SweepConfig))
            where = f"{folder.path}: {interrupted.where}continue with: {continued}"
            raise Interrupted(interrupted.number, where) from None
        finally:
            signals.held = False


def _followed(happening: Iterator[Event], progress: Progress, folder: RunFolder) -> Swept:
    step, accepted = 0, False
    for event in happening:
        if not (accepted or isinstance(event, Noted)):  # a refused run must not change
            folder.append("command", shell.line())
            log.follow(folder.path / "log.txt")
            accepted = True
        idle = isinstance(event, Verifying) or (isinstance(event, Saved) and event.ended)
        signals.held = isinstance(event, Compiled | Verified) or (signals.held and not idle)
        progress(event)
        if isinstance(event, Saved):
            step = event.step
        if isinstance(event, Finished):
            return event.swept
    raise Interrupted(signals.pending, f"saved at step {step}: ")


def exit_if_all_diverged(folder: RunFolder) -> None:
    """Exits with code 1 if all trials of a run have diverged, according to its summary."""
    summary = folder.read_json("summary.json")
    counts = summary["trials"] if "trials" in summary else {summary["status"]: 1}
    if not any(count for status, count in counts.items() if status != "diverged"):
        raise SystemExit(1)


def times(folder: RunFolder) -> str:
    """Formats the times in the summary of a run."""
    return ", ".join(f"{name} {value:.1f} s" for name, value in folder.read_json("summary.json")["seconds"].items())
