"""The entry points of runs: `fit` and `sweep` for code and notebooks, `events` for front ends."""

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset, folded, load
from cnnjax.descriptions import given_by
from cnnjax.options import suggest
from cnnjax.planning import Execution, Packing, check_sweep, choose_packing, describe_plan, planned, read_plan
from cnnjax.runs.begin import accept, begin
from cnnjax.runs.clock import Clock
from cnnjax.runs.events import Event, Finished, Noted, Opened
from cnnjax.runs.extend import check_shards, extendable, with_more_seeds
from cnnjax.runs.extend import extend as extended
from cnnjax.runs.findings import Calls, Commands
from cnnjax.runs.progress import Progress, waiting
from cnnjax.runs.resume import as_sweep
from cnnjax.runs.runner import Stop, run
from cnnjax.runs.store import InMemory, RunFolder, Store
from cnnjax.runs.summary import summarize_run, write_tensorboard
from cnnjax.runs.swept import Swept
from cnnjax.runs.trained import Trained
from cnnjax.sweeps import Stage

Config = TrainConfig | SweepConfig
Show = Callable[[Event], None]
_Execution = TypeVar("_Execution", bound=Execution)


def as_resumed(execution: _Execution, store: Store | Path) -> _Execution:
    """Removes the settings that the plan of a resumed run determines; `store` may be the path of its folder."""
    plan = (store / "plan.json").is_file() if isinstance(store, Path) else store.read_json("plan.json")
    return replace(execution, plan_from=None, lanes="auto", micro_batch=None) if plan else execution


def events(
    config: Config,
    data: Dataset,
    open_store: Callable[[], AbstractContextManager[Store]],
    execution: Execution | None = None,
    *,
    extend: Sequence[Path] = (),
    only_extend: bool = False,
    allow_changes: bool = False,
    classes: Iterable[Any] = (),
    code: Mapping[str, Any] | None = None,
    tensorboard: bool = False,
    stop: Stop = lambda: False,
    started: float | None = None,
    commands: Commands = Calls(),  # noqa: B008 - without state
) -> Generator[Event, None, None]:
    """Runs a configuration, from the first checks to the summary, and yields the events of `run`.

    Args:
      config: the configuration of a single run or a sweep.
      data: the data set.
      open_store: returns a context manager for the store; called after the checks.
      execution: the execution settings.
      extend: run folders whose trials are reused when the run starts.
      only_extend: whether `extend` must be exactly the shards of the sweep.
      allow_changes: whether a resumed or reused run may have other settings.
      classes: user-defined classes that the configurations of `extend` may name.
      code: path and SHA-256 of the code that defines them, for `env.json`.
      tensorboard: whether to write a TensorBoard run for each trial to the run folder.
      stop: see `run`.
      started: the value of `time.perf_counter()` at the start of the process, for `summary.json`.
      commands: the commands that follow the run, for its report.

    Raises:
      ValueError: if the configuration cannot be run, or a resumed run differs from its records.
      DataError: if the data is invalid.
      OSError, RecordError, CheckpointError: if a file cannot be read or written, or is damaged.
      VerificationError: if `execution.verify` finds that a compiled program is wrong.
    """
    execution, sweep = execution or Execution(), as_sweep(config)
    data = folded(data, sweep.folds)
    check(sweep, data, execution, extend, classes)
    if only_extend:
        check_shards(extend, sweep, classes)
    with Clock(started) as clock, open_store() as store:
        start = begin(store, config, data, code, allow_changes=allow_changes)
        yield Opened(store, start.complete)
        if extend and store.read_json("plan.json") is None:
            yield from map(Noted, _extend(store, sweep, data, execution, extend, classes, allow_changes))
        for event in run(sweep, data, store, execution, stop=stop, any_config=allow_changes):
            if start.replaced and not isinstance(event, Noted):  # the states in the store fit
                accept(store, start)
                start = start._replace(replaced={})
            if isinstance(event, Finished) and isinstance(store, RunFolder) and not start.complete:
                if tensorboard:
                    write_tensorboard(store, event.swept)
                notes = summarize_run(store, config, event.swept, data, clock.seconds(), commands)
                yield from map(Noted, notes)
            yield event


def check(
    sweep: SweepConfig, data: Dataset, execution: Execution, extend: Sequence[Path] = (), classes: Iterable[Any] = ()
) -> None:
    """Checks a sweep before training; raises ValueError or DataError if it cannot be run or extended."""
    data.check()
    if execution.plan_from and extend:
        raise ValueError(f"extend: {extend[0]}: cannot be combined with --plan-from: give only one of them")
    for source in extend:
        extendable(source, sweep, classes)
    check_sweep(sweep, data, execution, read_plan(execution.plan_from) if execution.plan_from else None)


def _extend(
    store: Store,
    sweep: SweepConfig,
    data: Dataset,
    execution: Execution,
    sources: Sequence[Path],
    classes: Iterable[Any],
    allow_changes: bool,
) -> list[str]:
    """Reuses the trials of other runs, and plans the remaining ones; returns messages to show."""
    notes: list[str] = []
    taken, missing = extended(store, sweep, data, sources, classes, allow_changes=allow_changes, report=notes.append)
    stage = Stage(tuple(missing), 0, 0)
    pack = choose_packing(stage, data, execution) if missing else Packing("shapes", {})
    rest = planned(sweep, stage, data, execution, pack=pack.pack)
    plan = {**describe_plan([*taken, *rest]), "pack": pack._asdict()}
    del plan["timed"]  # nothing has been timed so far
    store.write_json("plan.json", plan)
    return notes


# ------------------------------------------------------------------------- for code and notebooks


def sweep(
    config: SweepConfig,
    data: Dataset | None = None,
    *,
    store: Store | str | Path | None = None,
    resume: bool = False,
    extend: str | Path | Sequence[str | Path] = (),
    add_seeds: int | None = None,
    allow_changes: bool = False,
    progress: bool | Show = False,
    stop: Stop = lambda: False,
    **execution: Any,
) -> Swept:
    """Trains the trials of a sweep, ranks its points, and tests the winner.

    >>> from cnnjax import SGD, MLPConfig, SweepConfig, TrainConfig, sweep
    >>> train = TrainConfig(MLPConfig(hidden=(8,)), SGD(), data="digits", epochs=1)
    >>> swept = sweep(SweepConfig(train, axes=(("learning_rate", (0.01, 0.1)),), seeds=2))
    >>> len(swept.points), len(swept.table())  # the points, best first, and a row for each trial
    (2, 4)

    Args:
      config: the configuration of the sweep; its `search` selects the trials.
      data: the data set; by default the one that `config` names.
      store: where to keep records and states: the path of a run folder, which then contains all that
        `sweep.py` writes, an open `RunFolder`, or an `InMemory()`. By default they are kept in memory
        until the call returns. States are saved every `save_seconds` of training.
      resume: whether to continue the run in the store, if there is one.
      extend: run folders of finished sweeps, whose trials are reused.
      add_seeds: the number of further seeds for the best point and the undecided points of the finished run
        of `config`, whose run folder is `extend`.
      allow_changes: whether a resumed or reused run may have other settings.
      progress: whether to show a progress bar, or a function that is called with each event.
      stop: a function that is called between dispatches; once it returns true, the state is saved and
        the run stops.
      **execution: fields of `Execution`, such as `pack="one"`.

    Returns:
      The ranked points, the records of all epochs, the states of the trials, and the test metrics.

    Raises:
      ValueError, TypeError: if the sweep cannot be run, or a resumed run differs from its records.
      FileExistsError: if the store contains a run and `resume` is false.
      BlockingIOError: if another process uses the run folder.
      RecordError, CheckpointError, DataError: if a file is damaged or missing.
      VerificationError: with `verify=True`, if a compiled program is wrong.
      KeyboardInterrupt: if `stop` returned true, after the state was saved, or on an interrupt.
    """
    _check_config(config, SweepConfig, ": cnnjax.fit takes a TrainConfig")
    if add_seeds is not None:
        if isinstance(add_seeds, bool) or not isinstance(add_seeds, int):
            raise TypeError(f"add_seeds: {add_seeds!r}: must be an integer, such as 5")
        if not isinstance(extend, str | Path):
            raise ValueError("add_seeds: give the run folder of the sweep as `extend`")
        config = with_more_seeds(Path(extend).expanduser(), config, add_seeds, given_by(config))
    return _execute(config, data, store, resume, extend, allow_changes, progress, stop, execution)


def fit(
    config: TrainConfig,
    data: Dataset | None = None,
    *,
    store: Store | str | Path | None = None,
    resume: bool = False,
    allow_changes: bool = False,
    progress: bool | Show = False,
    stop: Stop = lambda: False,
    **execution: Any,
) -> Trained:
    """Trains one network and tests it.

    >>> from cnnjax import SGD, MLPConfig, TrainConfig, fit, load
    >>> trained = fit(TrainConfig(MLPConfig(hidden=(8,)), SGD(learning_rate=0.1), data="digits", epochs=1))
    >>> images = load("digits").test.inputs
    >>> trained.logits(images[:4]).shape
    (4, 10)

    Arguments and errors are those of `sweep`.

    Returns:
      The trained network with its records and test metrics. If training diverged, the parameters are
      those before it diverged.
    """
    _check_config(config, TrainConfig, ": cnnjax.sweep takes a SweepConfig")
    return _execute(config, data, store, resume, (), allow_changes, progress, stop, execution).trained(0)


def _execute(
    config: Config,
    data: Dataset | None,
    store: Store | str | Path | None,
    resume: bool,
    extend: str | Path | Sequence[str | Path],
    allow_changes: bool,
    progress: bool | Show,
    stop: Stop,
    execution: Mapping[str, Any],
) -> Swept:
    sources = [extend] if isinstance(extend, str | Path) else extend
    _check_arguments(data, store, {"resume": resume, "allow_changes": allow_changes}, progress, stop)
    _check_execution(execution)
    if not (isinstance(sources, Sequence) and all(isinstance(source, str | Path) for source in sources)):
        raise TypeError(f"extend: {extend!r}: must be the path of a run folder, or a list of paths")
    store = Path(store).expanduser() if isinstance(store, str) else store
    base = config.base if isinstance(config, SweepConfig) else config
    if data is None:
        with waiting(f"loading {base.data}", visible=progress is True):
            data = _loaded(base)
    data = folded(data, as_sweep(config).folds)
    how = Execution(**execution)
    if resume and store is not None:
        how = as_resumed(how, store)
    happening = events(
        config,
        data,
        lambda: _opened(store, resume),
        how,
        extend=[Path(source).expanduser() for source in sources],
        allow_changes=allow_changes,
        classes=given_by(config),
        stop=stop,
    )
    bar = Progress(as_sweep(config), data) if progress is True else None
    show = bar or (progress if callable(progress) else lambda event: None)
    with closing(bar) if bar else nullcontext(), closing(happening):
        for event in happening:
            show(event)
            if isinstance(event, Finished):
                return event.swept
    raise KeyboardInterrupt("stopped, and the state is saved: continue with resume=True")


def _check_config(config: Any, kind: type, other: str) -> None:
    if not isinstance(config, kind):
        hint = f": give its .{'sweep' if kind is SweepConfig else 'train'}" if hasattr(config, "train") else other
        raise TypeError(f"config: {type(config).__name__}: must be a {kind.__name__}{hint}")


def _check_arguments(data: Any, store: Any, switches: Mapping[str, Any], progress: Any, stop: Any) -> None:
    """Raises TypeError or ValueError for an invalid argument, before anything is written."""
    if not (data is None or isinstance(data, Dataset)):
        raise TypeError(f"data: {type(data).__name__}: must be a Dataset, as returned by cnnjax.load")
    kept = isinstance(store, str | Path) or (hasattr(store, "read_json") and not isinstance(store, type))
    if not (store is None or kept) or store == "":
        raise TypeError(f"store: {store!r}: must be the path of a run folder, a RunFolder, or InMemory()")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: {value!r}: must be True or False")
    if switches["resume"] and store is None:
        raise ValueError("resume: True: needs a store")
    if not (isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress: {progress!r}: must be True, False, or a function that takes an event")
    if not callable(stop):
        raise TypeError(f"stop: {stop!r}: must be a function without arguments that returns True to stop")


def _check_execution(execution: Mapping[str, Any]) -> None:
    """Raises TypeError for a keyword that is not a field of `Execution`."""
    known = [field.name for field in fields(Execution)]
    for name in execution:
        if name not in known:
            raise TypeError(f"{name}: no such argument: {suggest(name, known)}use one of {', '.join(known)}")


def _loaded(base: TrainConfig) -> Dataset:
    """Loads the data of a run by name; raises ValueError for data that a preset defines."""
    name = base.data
    own = getattr(sys.modules.get(f"preset.{name}"), "data", None)  # as `load_preset` names the module
    if isinstance(own, Dataset) or (callable(own) and not isinstance(own, type)):
        raise ValueError(f"data: {name!r} is defined by a preset: give preset.dataset() as `data`")
    return load(name, loading=base.loading)


def _opened(store: Store | Path | None, resume: bool) -> AbstractContextManager[Store]:
    if isinstance(store, Path):
        return RunFolder(store, resume=resume)
    store = store if store is not None else InMemory()
    if not resume and store.read_json("config.json") is not None:
        raise FileExistsError(f"{store.name}: already contains a run: continue it with resume=True")
    return nullcontext(store)
