"""A run, compiled: where its arrays lie, its programs, and the loop over its epochs."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.tree_util import PyTreeDef
from jaxtyping import Key, PyTree

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
"""lift(function, *shared): a function of many runs from function(*run, *shared), a function of one."""


def single(function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
    """The lift of one run: none."""
    return lambda *run: function(*run, *shared)


class Progress(NamedTuple):
    """Where a run is after an epoch; under a lift, every array has an axis of runs in front."""

    epoch: int
    steps: int
    """Steps so far of a run that has not diverged."""
    state: TrainState
    valid: Metrics

    @property
    def train(self) -> Metrics:
        """Of the epoch's batches, each under the parameters of its time."""
        return self.state.seen


# Below, tasks, keys, steps and states are those of one run, or under a lift those of many, lanes first.
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
        task: Task, key: Array, steps: Array, state: TrainState, order: Array | None, split: Split, n: Array
    ) -> TrainState:
        return advance(task, key, steps, state, split, n, order)

    return lift(one, split, n)(task, key, steps, state, order)


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


def _compiled(function: Any, lift: Lift, *arrays: PyTree) -> jax.stages.Compiled:
    """The program for arguments like these, compiled once."""

    def shape(array: Array) -> jax.ShapeDtypeStruct:
        known = getattr(array, "committed", isinstance(array, jax.ShapeDtypeStruct))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding if known else None)

    leaves, structure = jax.tree.flatten(arrays)
    return _executable(function, lift, structure, tuple(map(shape, leaves)), jax.config.jax_enable_x64)  # type: ignore[attr-defined]


class Run(NamedTuple):
    """A run that is ready to train: its first state on the device, and its programs, compiled."""

    state: TrainState
    epochs: int
    steps: int
    """Of an epoch."""
    advance: Callable[[TrainState, int], TrainState]
    """advance(state, n): at most n steps, up to the end of the epoch. The state is donated, and gone after the call."""
    evaluate: Callable[[TrainState], Metrics]
    """The metrics of the validation split."""
    place: Callable[[TrainState], TrainState]
    """Puts a state from elsewhere, as a checkpoint, where `advance` takes it."""
    memory: int
    """Bytes that training takes on the busiest device, by the compiler's own account."""


def begin(task: Task, key: Key[Array, "*runs"], lift: Lift = single) -> TrainState:
    """The first state of a run. The arguments are those of `fit`."""
    # Micro-batches change nothing here, and so compile nothing anew.
    task = jax.device_put(as_arrays(dataclasses.replace(task, micro_batch=0)))
    return _compiled(_init, lift, task, key)(task, key)


def _bytes(program: jax.stages.Compiled) -> int:
    """What a program takes on a device, by the compiler's account; 0 where there is none."""
    usage = program.memory_analysis()
    if usage is None:
        return 0
    taken = usage.argument_size_in_bytes + usage.output_size_in_bytes + usage.temp_size_in_bytes
    return int(taken - usage.alias_size_in_bytes)  # a state that is donated is not there twice


def compile_run(
    task: Task,
    key: Key[Array, "*runs"],
    data: Dataset,
    epochs: int,
    lift: Lift = single,
    state: TrainState | None = None,
) -> Run:
    """Initializes a run and compiles what it needs.

    Args:
      task, key, data, epochs, lift: as of `fit`.
      state: the first state; or only its shapes and types, where `Run.place` brings the state later.

    Raises:
      ValueError: as of `validate`.
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

    @lru_cache(maxsize=1)  # once an epoch, since sorting many keys takes as long as some steps
    def order(epoch: int) -> Array:
        return _order(lift, task.batch_size, len(train.labels), key, np.full_like(steps, epoch * length))

    n = np.int32(length)
    advance = _compiled(_advance, lift, task, key, steps, state, train, n, order(0))
    evaluate = _compiled(_evaluate, lift, task, state, valid)
    memory = max(_bytes(advance), _bytes(evaluate))

    def advanced(state: TrainState, n: int) -> TrainState:
        epoch = int(np.max(np.asarray(state.step))) // length
        return place(advance(task, key, steps, state, train, np.int32(n), order(epoch)))

    return Run(state, epochs, length, advanced, lambda state: evaluate(task, state, valid), place, memory)


def parts(run: Run, state: TrainState, step: int = 0, seconds: float = 1.0) -> Iterator[tuple[int, TrainState]]:
    """Trains on from a state; yields the number of steps and the state about every second and after each epoch.

    A state that was yielded is donated when the next is asked for.

    A run that stops at one of these, and continues from the state some other time, comes to the same
    numbers to the bit.
    """
    most = 1  # steps at once; grows to what takes so many seconds
    while step < run.epochs * run.steps:
        n = agreed(min(most, run.steps - step % run.steps))
        began = time.perf_counter()
        state = jax.block_until_ready(run.advance(state, n))
        if n == most:
            most = max(1, min(8 * most, int(n * seconds / (time.perf_counter() - began))))
        step += n
        yield step, state


def train(run: Run, state: TrainState | None = None, step: int = 0) -> Iterator[Progress]:
    """Trains a run, by default from its first state, and yields after each epoch, with states of their own."""
    for step, state in parts(run, run.state if state is None else state, step):  # noqa: B020
        if step % run.steps == 0:
            progress = measured(run, step, state)
            yield progress._replace(state=jax.tree.map(np.array, state))


def measured(run: Run, step: int, state: TrainState) -> Progress:
    """Where a run is at the end of an epoch."""
    return Progress(step // run.steps, step, state, run.evaluate(state))


def fit_task(
    task: Task, key: Key[Array, "*runs"], data: Dataset, epochs: int, lift: Lift = single
) -> Iterator[Progress]:
    """Trains from the start, and yields after each epoch.

    >>> task = make_task(TrainConfig(MLPConfig(), SGD(learning_rate=0.1)), data.spec)
    >>> for progress in fit_task(task, jax.random.key(0), data, epochs=10):
    ...     print(progress.epoch, progress.valid.metric)

    Args:
      task: what is trained; with a lift its leaves have an axis of runs in front.
      key: the run's key, or with a lift a batch of keys.
      data: examples; `test` is not touched.
      epochs: passes over the training split, which the schedule spans.
      lift: turns a function of one run into one of many; see `cnnjax.sweeps.Lanes`.

    Raises:
      ValueError: as of `validate`, where the task is that of one run.
    """
    if lift is single:
        validate(task, data)
    yield from train(compile_run(task, key, data, epochs, lift))


def measure_test(task: Task, state: TrainState, data: Dataset, lift: Lift = single) -> Metrics:
    """The metrics of the test split; read it once, after every choice is made."""
    task, test = jax.device_put((as_arrays(task), data.test))
    return _compiled(_evaluate, lift, task, state, test)(task, state, test)
