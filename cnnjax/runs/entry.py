"""Where runs begin: `sweep` and `fit` for code and notebooks, `events` for whoever shows them as they happen."""

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset, load
from cnnjax.descriptions import given_by
from cnnjax.options import suggest
from cnnjax.planning import Execution, Packing, check_sweep, choose_packing, describe_plan, planned, read_plan
from cnnjax.runs.begin import accept, begin
from cnnjax.runs.clock import Clock
from cnnjax.runs.events import Event, Finished, Noted, Opened
from cnnjax.runs.extend import check_shards, extendable, with_more_seeds
from cnnjax.runs.extend import extend as extended
from cnnjax.runs.progress import Progress, waiting
from cnnjax.runs.runner import Stop, run
from cnnjax.runs.store import InMemory, RunFolder, Store
from cnnjax.runs.summary import summarize_run, write_tensorboard
from cnnjax.runs.swept import Swept
from cnnjax.runs.trained import Trained
from cnnjax.sweeps import Stage

Config = TrainConfig | SweepConfig
Show = Callable[[Event], None]
_Execution = TypeVar("_Execution", bound=Execution)


def as_sweep(config: Config) -> SweepConfig:
    """A single run as a sweep of one trial."""
    return config if isinstance(config, SweepConfig) else SweepConfig(config, axes=(), seeds=1)


def as_resumed(execution: _Execution, store: Store | Path) -> _Execution:
    """An execution without what the plan of a run that is resumed decides, in its store or in the folder at a path."""
    plan = (store / "plan.json").is_file() if isinstance(store, Path) else store.read_json("plan.json")
    return replace(execution, plan_from=None, lanes="auto") if plan else execution


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
) -> Generator[Event, None, None]:
    """Carries a run out from its checks to its summary; see `run` for what is yielded.

    Args:
      config: what is trained: one run, or a sweep.
      data: on which.
      open_store: called after the checks that need no training, and left in the end.
      execution: how.
      extend: run folders of which trials are taken over, when the run begins.
      only_extend: whether they must be the shards of the sweep, and all of them.
      allow_changes: whether a run that is resumed, or extended, may have begun with other settings.
      classes: your own that the configurations of these folders may name.
      code: facts of the code that defines them, for `env.json`.
      tensorboard: whether a run folder ends with a TensorBoard run for each trial.
      stop: see `run`.
      started: `time.perf_counter()` when the process began, for the times in `summary.json`.

    Raises:
      ValueError: the configuration cannot be carried out, or is not that of the run that is resumed.
      DataError: the data is not sound.
      OSError, RecordError, CheckpointError: a file cannot be read or written, or is damaged.
    """
    execution, sweep = execution or Execution(), as_sweep(config)
    check(sweep, data, execution, extend, classes)
    if only_extend:
        check_shards(extend, sweep, classes)
    with Clock(started) as clock, open_store() as store:
        begun = begin(store, config, data, code, allow_changes=allow_changes)
        yield Opened(store, begun.complete)
        if extend and store.read_json("plan.json") is None:
            yield from map(Noted, _extend(store, sweep, data, execution, extend, classes, allow_changes))
        for event in run(sweep, data, store, execution, stop=stop, of_any=allow_changes):
            if begun.replaced and not isinstance(event, Noted):  # what the store has was found to fit
                accept(store, begun)
                begun = begun._replace(replaced={})
            if isinstance(event, Finished) and isinstance(store, RunFolder) and not begun.complete:
                if tensorboard:
                    write_tensorboard(store, event.swept)
                summarize_run(store, config, event.swept, data, clock.seconds())
            yield event


def check(
    sweep: SweepConfig, data: Dataset, execution: Execution, extend: Sequence[Path] = (), classes: Iterable[Any] = ()
) -> None:
    """ValueError or DataError where a sweep cannot be carried out or extended, as far as it can be told before."""
    data.check()
    if execution.plan_from and extend:
        raise ValueError(f"extend: {extend[0]}: goes without --plan-from, which is for all trials")
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
    """Takes over what other runs have trained, and plans the rest; returns what is to be noted."""
    notes: list[str] = []
    taken, missing = extended(store, sweep, data, sources, classes, allow_changes=allow_changes, report=notes.append)
    stage = Stage(tuple(missing), 0, 0)
    pack = choose_packing(stage, data, execution) if missing else Packing("shapes", {})
    rest = planned(sweep, stage, data, execution, pack=pack.pack)
    plan = {**describe_plan([*taken, *rest]), "pack": pack._asdict()}
    del plan["timed"]  # as long as nothing was
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
    """Trains a sweep, by its `search`, ranks its points, and tests the winner.

    >>> swept = cnnjax.sweep(SweepConfig(train, (("learning_rate", (0.01, 0.1)),), seeds=3))
    >>> pandas.DataFrame(swept.table())

    Args:
      config: what is trained.
      data: on which; by default what `config` names.
      store: where records and states are kept: the path of a run folder, which gets all that
        `sweep.py` leaves, a `RunFolder` that stays open, or an `InMemory()` that outlives the call; by
        default memory. States are saved every `save_seconds` of training (30 unless told).
      resume: whether a run that the store has is continued.
      extend: run folders of finished sweeps, of which trials are taken over.
      add_seeds: how many more seeds to train for the best point and those that are undecided in the run of
        `config` that `extend` names.
      allow_changes: whether a run that is resumed or extended may have begun with other settings.
      progress: whether a progress bar is shown, or what each event is given to.
      stop: asked between dispatches whether the run is to be saved and ended.
      **execution: fields of `Execution`, as `pack="one"`.

    Raises:
      ValueError, TypeError: it cannot be carried out, or is not the run that is resumed.
      FileExistsError: the store has a run, and is not to be resumed.
      BlockingIOError: another process has the run folder.
      RecordError, CheckpointError, DataError: what is read is damaged or missing.
      KeyboardInterrupt: `stop` was true, and the state is saved; or an interrupt came, and what was saved
        last is what `resume` continues from.
    """
    _check_config(config, SweepConfig, ": cnnjax.fit takes a TrainConfig")
    if add_seeds is not None:
        if isinstance(add_seeds, bool) or not isinstance(add_seeds, int):
            raise TypeError(f"add_seeds: {add_seeds!r}: must be an integer, as 5")
        if not isinstance(extend, str | Path):
            raise ValueError("add_seeds: give the run folder of the sweep as `extend`")
        config = with_more_seeds(Path(extend).expanduser(), config, add_seeds, given_by(config))
    return _carried_out(config, data, store, resume, extend, allow_changes, progress, stop, execution)


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

    >>> trained = cnnjax.fit(TrainConfig(MLPConfig(), SGD(learning_rate=0.1), data="digits", epochs=10))
    >>> trained.test, trained.rows[-1]["valid_accuracy"], trained.logits(images)

    Arguments and errors are those of `sweep`; where training diverged, the network is the last before it did.
    """
    _check_config(config, TrainConfig, ": cnnjax.sweep takes a SweepConfig")
    return _carried_out(config, data, store, resume, (), allow_changes, progress, stop, execution).trained(0)


def _carried_out(
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
        raise TypeError(f"extend: {extend!r}: must be the path of a run folder, or a list of them")
    store = Path(store).expanduser() if isinstance(store, str) else store
    base = config.base if isinstance(config, SweepConfig) else config
    if data is None:
        with waiting(f"loading {base.data}", visible=progress is True):
            data = _loaded(base.data)
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
    raise KeyboardInterrupt("stopped; what was trained is saved: resume=True continues")


def _check_config(config: Any, kind: type, other: str) -> None:
    if not isinstance(config, kind):
        hint = f": give its .{'sweep' if kind is SweepConfig else 'train'}" if hasattr(config, "train") else other
        raise TypeError(f"config: {type(config).__name__}: must be a {kind.__name__}{hint}")


def _check_arguments(data: Any, store: Any, switches: Mapping[str, Any], progress: Any, stop: Any) -> None:
    """TypeError or ValueError where an argument is of another kind, before anything is written."""
    if not (data is None or isinstance(data, Dataset)):
        raise TypeError(f"data: {type(data).__name__}: must be a Dataset, as cnnjax.load returns it")
    kept = isinstance(store, str | Path) or (hasattr(store, "read_json") and not isinstance(store, type))
    if not (store is None or kept) or store == "":
        raise TypeError(f"store: {store!r}: must be the path of a run folder, a RunFolder, or InMemory()")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name}: {value!r}: must be True or False")
    if switches["resume"] and store is None:
        raise ValueError("resume: there is nothing to resume without a store")
    if not (isinstance(progress, bool) or callable(progress)):
        raise TypeError(f"progress: {progress!r}: must be True, False, or a function of an event")
    if not callable(stop):
        raise TypeError(f"stop: {stop!r}: must be a function without arguments that returns whether to stop")


def _check_execution(execution: Mapping[str, Any]) -> None:
    """TypeError where a keyword is no field of `Execution`."""
    known = [field.name for field in fields(Execution)]
    for name in execution:
        if name not in known:
            raise TypeError(f"{name}: no such argument; {suggest(name, known)}there are {', '.join(known)}")


def _loaded(name: str) -> Dataset:
    """Data by its name; ValueError where it is a preset's own, which only the preset can give."""
    own = getattr(sys.modules.get(f"preset.{name}"), "data", None)  # as `load_preset` names the module
    if isinstance(own, Dataset) or (callable(own) and not isinstance(own, type)):
        raise ValueError(f"data: {name!r} is a preset's own: give preset.dataset() as `data`")
    return load(name)


def _opened(store: Store | Path | None, resume: bool) -> AbstractContextManager[Store]:
    if isinstance(store, Path):
        return RunFolder(store, resume=resume)
    store = store if store is not None else InMemory()
    if not resume and store.read_json("config.json") is not None:
        raise FileExistsError(f"{store.name}: has a run: resume=True continues it")
    return nullcontext(store)
