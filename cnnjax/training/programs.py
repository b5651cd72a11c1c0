"""The compiled programs of a run, the placement of its arrays, and the loop over its epochs."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.tree_util import PyTreeDef
from jaxtyping import Bool, Int, Key, PyTree

from cnnjax import devices
from cnnjax.data import Dataset, Split
from cnnjax.devices import agreed
from cnnjax.training.core import (
    Metrics,
    Task,
    TrainState,
    advance,
    as_arrays,
    evaluate,
    init,
    order_of,
    steps_per_epoch,
)
from cnnjax.training.validation import validate

Lift = Callable[..., Callable[..., Any]]
"""lift(function, *shared) turns function(*run, *shared), a function of one run, into a function of many runs."""


def single(function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
    """The lift of a single run: calls the function unchanged."""
    return lambda *run: function(*run, *shared)


class Progress(NamedTuple):
    """The state of a run after an epoch; under a lift, every array has a leading axis of runs."""

    epoch: int
    steps: int
    """The steps so far of a run that has not diverged."""
    state: TrainState
    valid: Metrics
    average: Metrics | None = None
    """The validation metrics of the moving average; None if there is none."""

    @property
    def train(self) -> Metrics:
        """The metrics of the epoch's batches, each evaluated with the parameters before its step."""
        return self.state.epoch_metrics


# Below, tasks, keys, steps and states belong to one run; under a lift, they have a leading axis of lanes.
@partial(jax.jit, static_argnums=0)
def _init(lift: Lift, task: Task, key: Array) -> TrainState:
    return lift(init)(task, key)


@partial(jax.jit, static_argnums=0, donate_argnames="state")
def _advance(
    lift: Lift,
    task: Task,
    key: Array,
    steps: Array,
    state: TrainState,
    split: Split,
    n: Array,
    order: Array | None = None,
) -> TrainState:
    def one(
        task: Task, key: Array, steps: Array, state: TrainState, n: Array, order: Array | None, split: Split
    ) -> TrainState:
        return advance(task, key, steps, state, split, n, order)

    return lift(one, split)(task, key, steps, state, n, order)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _order(lift: Lift, batch_size: int, examples: int, key: Array, step: Array) -> Array:
    return lift(partial(order_of, batch_size, examples))(key, step)


@partial(jax.jit, static_argnums=0)
def _evaluate(lift: Lift, task: Task, state: TrainState, split: Split) -> Metrics:
    return lift(evaluate, split)(task, state)


@lru_cache(maxsize=64)
def _executable(
    function: Any, lift: Lift, structure: PyTreeDef, shapes: tuple[jax.ShapeDtypeStruct, ...], x64: bool
) -> jax.stages.Compiled:
    lowered = function.lower(lift, *jax.tree.unflatten(structure, shapes))
    options = devices.compiler_options(once=function is _init, devices=getattr(lift, "all_devices", 1))
    return devices.compiled(lowered, options)


_compiling: dict[int, threading.Lock] = {}  # threads that need the same program compile it once


def _compiled(function: Any, lift: Lift, *arrays: PyTree) -> jax.stages.Compiled:
    """Returns the compiled program for arguments of these shapes and dtypes, from a cache."""

    def shape(array: Array) -> jax.ShapeDtypeStruct:
        known = getattr(array, "committed", isinstance(array, jax.ShapeDtypeStruct))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding if known else None)

    leaves, structure = jax.tree.flatten(arrays)
    key = function, lift, structure, tuple(map(shape, leaves)), jax.config.jax_enable_x64  # type: ignore[attr-defined]
    with _compiling.setdefault(hash(key), threading.Lock()):
        return _executable(*key)


class Run(NamedTuple):
    """A run that is ready to train: its initial state on the device, and its compiled programs."""

    state: TrainState
    epochs: int
    steps: int
    """The number of steps per epoch."""
    advance: Callable[[TrainState, Int[np.ndarray, "*runs"] | int], TrainState]
    """advance(state, n) takes at most n steps, up to the end of the epoch; it donates `state`.

    Under a lift, each run may have its own n. A run with n = 0 does not change.
    """
    evaluate: Callable[[TrainState], Metrics]
    """Evaluates a state on the validation split."""
    place: Callable[[TrainState], TrainState]
    """Moves a state, such as that of a checkpoint, to the devices of `advance`."""
    memory: int
    """The memory that training needs on the busiest device, in bytes, as reported by the compiler."""


def begin(task: Task, key: Key[Array, "*runs"], lift: Lift = single) -> TrainState:
    """Returns the initial state of a run; the arguments are those of `fit_task`."""
    # Initialization does not depend on micro-batches: without them, one compiled program serves all.
    task = jax.device_put(as_arrays(dataclasses.replace(task, micro_batch=0)))
    return _compiled(_init, lift, task, key)(task, key)


def _bytes(program: jax.stages.Compiled) -> int:
    """Returns the memory of a program on a device in bytes, as reported by the compiler; 0 if unknown."""
    usage = program.memory_analysis()
    if usage is None:
        return 0
    taken = usage.argument_size_in_bytes + usage.output_size_in_bytes + usage.temp_size_in_bytes
    return int(taken - usage.alias_size_in_bytes)  # a donated state occupies memory only once


def compile_run(
    task: Task,
    key: Key[Array, "*runs"],
    data: Dataset,
    epochs: int,
    lift: Lift = single,
    state: TrainState | None = None,
) -> Run:
    """Initializes a run and compiles its programs.

    Args:
      task, key, data, epochs, lift: as in `fit_task`.
      state: the initial state, or only its shapes and dtypes if `Run.place` provides the state later.
    """
    train, valid = jax.device_put((data.train, data.valid))
    length = steps_per_epoch(task.batch_size, train)
    steps = np.full(key.shape, epochs * length, np.int32)
    if state is None:
        state = begin(task, key, lift)
    sharding = lift.sharding(len(key)) if hasattr(lift, "sharding") else None
    task, key = jax.device_put((as_arrays(task), key), sharding)

    def place(state: TrainState) -> TrainState:
        return jax.device_put(state, sharding)

    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state)):
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    else:
        state = place(state)

    @lru_cache(maxsize=1)  # once per epoch: for many lanes, sorting takes as long as several steps
    def order(epoch: int) -> Array:
        return _order(lift, task.batch_size, len(train.labels), key, np.full_like(steps, epoch * length))

    n = np.full(key.shape, length, np.int32)
    advance = _compiled(_advance, lift, task, key, steps, state, train, n, order(0))
    evaluate = _compiled(_evaluate, lift, task, state, valid)
    memory = max(_bytes(advance), _bytes(evaluate))

    def advanced(state: TrainState, n: np.ndarray | int) -> TrainState:
        epoch = int(np.max(np.asarray(state.step))) // length
        most = np.broadcast_to(np.int32(n), key.shape)
        return place(advance(task, key, steps, state, train, most, order(epoch)))

    return Run(state, epochs, length, advanced, lambda state: evaluate(task, state, valid), place, memory)


def pausing(run: Run, paused: Bool[np.ndarray, " runs"]) -> Run:
    """Returns a run under a lift in which the paused lanes take no steps and are not evaluated, as diverged ones.

    The caller may change `paused` between dispatches.
    """

    def evaluate(state: TrainState) -> Metrics:
        return run.evaluate(state._replace(diverged=np.asarray(state.diverged) | paused))

    return run._replace(advance=lambda state, n: run.advance(state, np.where(paused, 0, n)), evaluate=evaluate)


def parts(run: Run, state: TrainState, step: int = 0, seconds: float = 1.0) -> Iterator[tuple[int, TrainState]]:
    """Continues training from a state; yields the step and the state about every `seconds` and after each epoch.

    The next iteration donates the state that was yielded. A run can stop at any of these states and
    continue from it later, with the same results bit for bit.

    Args:
      run: the compiled run.
      state: the state to continue from; it is donated.
      step: the step of this state.
      seconds: the target duration between two states.
    """
    most = 1  # steps per dispatch; grows until a dispatch takes about `seconds`
    while step < run.epochs * run.steps:
        n = agreed(min(most, run.steps - step % run.steps))
        began = time.perf_counter()
        state = jax.block_until_ready(run.advance(state, n))
        if n == most:
            most = max(1, min(8 * most, int(n * seconds / (time.perf_counter() - began))))
        step += n
        yield step, state


def train(run: Run, state: TrainState | None = None, step: int = 0) -> Iterator[Progress]:
    """Trains a run, by default from its initial state; yields progress after each epoch, with a copy of the state."""
    for step, state in parts(run, run.state if state is None else state, step):  # noqa: B020
        if step % run.steps == 0:
            progress = measured(run, step, state)
            yield progress._replace(state=jax.tree.map(np.array, state))


def measured(run: Run, step: int, state: TrainState) -> Progress:
    """Evaluates a run at the end of an epoch, and returns its progress."""
    average = None if state.average is None else run.evaluate(state.averaged)
    return Progress(step // run.steps, step, state, run.evaluate(state), average)


def fit_task(
    task: Task, key: Key[Array, "*runs"], data: Dataset, epochs: int, lift: Lift = single
) -> Iterator[Progress]:
    """Trains a task from its initial state; yields its progress after each epoch.

    >>> from cnnjax import MLPConfig, TrainConfig, load, make_task
    >>> data = load("digits")
    >>> task = make_task(TrainConfig(MLPConfig(hidden=(8,))), data.spec)
    >>> [progress.epoch for progress in fit_task(task, jax.random.key(0), data, epochs=2)]
    [1, 2]

    Args:
      task: the task to train; under a lift, its leaves have a leading axis of runs.
      key: the key of the run, or under a lift an array of keys.
      data: the data set; the test split is not used.
      epochs: the number of passes over the training split, which the schedule spans.
      lift: turns a function of one run into a function of many; see `training.Lanes`.

    Raises:
      ValueError: as in `validate`, for a single run.
    """
    if lift is single:
        validate(task, data)
    yield from train(compile_run(task, key, data, epochs, lift))


def measure_test(task: Task, state: TrainState, data: Dataset, lift: Lift = single) -> Metrics:
    """Evaluates a state on the test split; call it once, after all choices are made."""
    task, test = jax.device_put((as_arrays(task), data.test))
    return _compiled(_evaluate, lift, task, state, test)(task, state, test)
