"""Training as a value: init, step, advance and evaluate are pure functions of arrays.

A run is a fold of `step` over batches that its key alone decides, so each of these functions
under `jax.vmap` or `jax.lax.map` trains many runs at once (`cnnjax.sweeps`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, Num

from cnnjax.config import Hparams, TrainConfig, choose
from cnnjax.data import Dataset, Split
from cnnjax.losses import LOSSES
from cnnjax.networks import Network, Variables, functional
from cnnjax.optimizers import SCHEDULES, SGD

DIVERGED_LOSS = 1e6
"""A training loss above this, or one that is not finite, marks a run as diverged for good."""


class Task(NamedTuple):
    """What is trained and how: static, hashable, equal by value, so it selects a compiled program."""

    network: Network
    prepare: Callable[..., Array]
    """prepare(key, inputs, hparams, *, train): stored inputs -> what the network takes."""
    loss: Callable[..., Array]
    """loss(logits, labels, hparams) -> one loss an example."""
    optimizer: Callable[[Hparams], optax.GradientTransformation]
    """optimizer(hparams), whose numbers may be tracers."""
    batch_size: int


class TrainState(NamedTuple):
    """All that a step changes. Once `diverged`, nothing of it changes any more."""

    step: Int[Array, ""]
    params: Any
    stats: Any
    optimizer: optax.OptState
    diverged: Bool[Array, ""]


class Metrics(NamedTuple):
    """Sums over examples, so that metrics of parts add up; `loss` and `accuracy` are the means."""

    loss_sum: Float[Array, ""]
    correct: Int[Array, ""]
    examples: Int[Array, ""]

    @property
    def loss(self) -> Array:
        return self.loss_sum / self.examples

    @property
    def accuracy(self) -> Array:
        return self.correct / self.examples


def _measure(losses: Array, logits: Array, labels: Array, mask: Array | None = None) -> Metrics:
    mask = jnp.ones_like(labels, bool) if mask is None else mask
    hits = (logits.argmax(-1) == labels) & mask
    return Metrics(jnp.where(mask, losses, 0).sum(), hits.sum(), mask.sum())


# A seed fixes initialisation, batch order and noise, each from a key of its own.
_INIT, _ORDER, _NOISE = range(3)


def init(task: Task, key: Key[Array, ""], hparams: Hparams, example: Num[Array, "batch *shape"]) -> TrainState:
    """The state before the first step.

    Args:
      task: what is trained.
      key: the run's key, `jax.random.key(seed)`.
      hparams: the run's numbers.
      example: inputs as they are stored; only their shape and type matter.
    """
    prepared = task.prepare(key, example, hparams, train=False)
    params, stats = task.network.init(jax.random.fold_in(key, _INIT), prepared)
    optimizer = task.optimizer(hparams).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer, jnp.zeros((), bool))


def step(
    task: Task, key: Key[Array, ""], state: TrainState, batch: Split, hparams: Hparams
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on the mean loss of a batch.

    Args:
      task: what is trained.
      key: the run's key; noise comes from it and the number of the step.
      state: the state before.
      batch: the examples of this step.
      hparams: the run's numbers.

    Returns:
      The state after, and the metrics of the batch under the parameters before. Where the loss is
      not finite or above `DIVERGED_LOSS`, the state is the one before, marked as diverged.
    """
    noise = jax.random.fold_in(jax.random.fold_in(key, _NOISE), state.step)
    prepare_key, network_key = jax.random.split(noise)
    inputs = task.prepare(prepare_key, batch.inputs, hparams, train=True)

    def mean_loss(params: Any) -> tuple[Array, tuple[Array, Array, Any]]:
        variables = Variables(params, state.stats)
        logits, stats = task.network.apply(variables, inputs, train=True, key=network_key)
        losses = task.loss(logits, batch.labels, hparams)
        return losses.mean(), (losses, logits, stats)

    (loss, (losses, logits, stats)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
    updates, optimizer = task.optimizer(hparams).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    diverged = state.diverged | ~(loss <= DIVERGED_LOSS)  # true for NaN as well
    after = TrainState(state.step + 1, params, stats, optimizer, diverged)
    after = jax.tree.map(partial(jnp.where, diverged), state._replace(diverged=diverged), after)
    return after, _measure(losses, logits, batch.labels)


def steps_per_epoch(task: Task, split: Split) -> int:
    """Whole batches in a split: training drops the tail of a permutation."""
    return len(split.labels) // task.batch_size


def _pick(split: Split, rows: Array) -> Split:
    return Split(*(jnp.asarray(array)[rows] for array in split))


def advance(
    task: Task, key: Key[Array, ""], state: TrainState, split: Split, hparams: Hparams, n: Int[Array, ""] | int
) -> tuple[TrainState, Metrics]:
    """At most `n` steps, and not past the end of the epoch; none once the run has diverged.

    Each epoch is a permutation of the split, drawn from the key and the number of the epoch, so a
    run that stops between two steps goes on with the batches it would have seen.

    Args:
      task: what is trained.
      key: the run's key.
      state: the state before.
      split: the training examples.
      hparams: the run's numbers.
      n: number of steps; may be a tracer, so that one program serves every number.

    Returns:
      The state after and the metrics of the examples seen.
    """
    length = steps_per_epoch(task, split)
    epoch, start = state.step // length, state.step % length
    order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
    order = jax.random.permutation(order_key, len(split.labels))

    n = jnp.minimum(n, length - start)

    def unfinished(carry: tuple[Array, TrainState, Metrics]) -> Array:
        i, state, _ = carry
        return (i < n) & ~state.diverged

    def body(carry: tuple[Array, TrainState, Metrics]) -> tuple[Array, TrainState, Metrics]:
        i, state, total = carry
        rows = lax.dynamic_slice_in_dim(order, (start + i) * task.batch_size, task.batch_size)
        state, metrics = step(task, key, state, _pick(split, rows), hparams)
        return i + 1, state, jax.tree.map(jnp.add, total, metrics)

    zero = Metrics(jnp.zeros(()), jnp.zeros((), int), jnp.zeros((), int))
    _, state, total = lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state, zero))
    return state, total


def evaluate(task: Task, state: TrainState, split: Split) -> Metrics:
    """The metrics of a split, every example counted once, under the default `Hparams`: no label smoothing."""
    hparams, key, size = Hparams(), jax.random.key(0), task.batch_size
    examples = len(split.labels)
    batches = -(-examples // size)

    def batch(i: Array) -> Metrics:
        rows = i * size + jnp.arange(size)
        inputs, labels = _pick(split, jnp.minimum(rows, examples - 1))
        inputs = task.prepare(key, inputs, hparams, train=False)
        variables = Variables(state.params, state.stats)
        logits, _ = task.network.apply(variables, inputs, train=False, key=key)
        return _measure(task.loss(logits, labels, hparams), logits, labels, rows < examples)

    return jax.tree.map(lambda parts: parts.sum(0), lax.map(batch, jnp.arange(batches)))


# ------------------------------------------------------------------------- a run

Lift = Callable[[Callable[..., Any]], Callable[..., Any]]


def single(function: Callable[..., Any]) -> Callable[..., Any]:
    """The lift of one run: none."""
    return function


class Progress(NamedTuple):
    """Where a run is after an epoch; under a lift, every array has an axis of runs in front."""

    epoch: int
    steps: int
    """Steps so far of a run that has not diverged."""
    state: TrainState
    train: Metrics
    """Running mean over the epoch's batches, each under the parameters of its time."""
    valid: Metrics


@partial(jax.jit, static_argnames=("task", "lift"))
def _init(task: Task, lift: Lift, key: Array, hparams: Hparams, example: Array) -> TrainState:
    return lift(lambda key, hparams: init(task, key, hparams, example))(key, hparams)


@partial(jax.jit, static_argnames=("task", "lift"))
def _advance(
    task: Task, lift: Lift, key: Array, state: TrainState, split: Split, hparams: Hparams, n: int
) -> tuple[TrainState, Metrics]:
    return lift(lambda key, state, hparams: advance(task, key, state, split, hparams, n))(key, state, hparams)


@partial(jax.jit, static_argnames=("task", "lift"))
def _evaluate(task: Task, lift: Lift, state: TrainState, split: Split) -> Metrics:
    return lift(lambda state: evaluate(task, state, split))(state)


def fit(
    task: Task, key: Key[Array, "*runs"], hparams: Hparams, data: Dataset, epochs: int, lift: Lift = single
) -> Iterator[Progress]:
    """Trains from the start, and yields after each epoch.

    >>> for progress in fit(task, jax.random.key(0), Hparams(learning_rate=0.1), data, epochs=10):
    ...     print(progress.epoch, progress.valid.accuracy)

    Args:
      task: what is trained.
      key: the run's key, or with a lift a batch of keys.
      hparams: the run's numbers, or with a lift arrays of them; `steps` is set here.
      data: examples; `test` is not touched.
      epochs: passes over the training split, which the schedule spans.
      lift: turns a function of one run into one of many; see `cnnjax.sweeps.Lanes`.
    """
    train, valid = jax.device_put((data.train, data.valid))
    length = steps_per_epoch(task, train)
    steps = jnp.full(jnp.shape(hparams.learning_rate), epochs * length, jnp.int32)
    hparams = replace(hparams, steps=steps)  # type: ignore[arg-type]
    state = _init(task, lift, key, hparams, train.inputs[:1])
    for epoch in range(1, epochs + 1):
        state, metrics = _advance(task, lift, key, state, train, hparams, length)
        yield Progress(epoch, epoch * length, state, metrics, _evaluate(task, lift, state, valid))


def measure_test(task: Task, state: TrainState, data: Dataset, lift: Lift = single) -> Metrics:
    """The metrics of the test split; read it once, after every choice is made."""
    return _evaluate(task, lift, state, jax.device_put(data.test))


# ------------------------------------------------------------------------- from a configuration


@dataclass(frozen=True)
class _Build:
    """Builds a configured module; a value, so that a rebuilt Task finds its compiled program."""

    config: Any
    classes: int

    def __call__(self, rngs: Any, example: Array) -> Any:
        return self.config.build(rngs, example, self.classes)


def make_task(config: TrainConfig, data: Dataset) -> Task:
    """The task that a configuration describes on a data set.

    Raises:
      ValueError: the network does not fit the images, the batch is larger than the training
        split, or a word (loss, schedule, activation, ...) is unknown.
    """
    if config.batch_size > len(data.train.labels):
        raise ValueError(
            f"batch_size: {config.batch_size}: the training split of {data.name} has {len(data.train.labels)} examples"
        )
    task = Task(
        functional(_Build(config.network, len(data.classes))),
        data.standardize,
        choose("loss", config.loss, LOSSES),
        SGD(choose("schedule", config.schedule, SCHEDULES), config.nesterov),
        config.batch_size,
    )
    jax.eval_shape(partial(init, task), jax.random.key(0), config.hparams, np.asarray(data.train.inputs[:1]))
    return task


def parameters(state: TrainState) -> int:
    """Number of trainable numbers of one run."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
