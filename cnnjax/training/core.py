"""Training as a value: init, step, advance and evaluate are pure functions of arrays.

A run is a fold of `step` over batches that its key alone decides, so each of these functions
under `jax.vmap` or `jax.lax.map` trains many runs at once (`cnnjax.sweeps`).
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, PyTree

from cnnjax.augmentation import Augmentation
from cnnjax.config import TrainConfig
from cnnjax.data import Spec, Split
from cnnjax.losses import Loss
from cnnjax.metrics import Metric
from cnnjax.networks import Network, NetworkConfig, Variables, functional
from cnnjax.optimizers import Optimizer
from cnnjax.options import check

AXIS = "batch"
"""The mapped axis over which a batch is sharded, where `Task.split` is above 1."""
DIVERGED_LOSS = 1e6
"""A training loss above this, or one that is not finite, marks a run as diverged for good."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["network", "optimizer", "loss", "metric", "augment", "spec"],
    meta_fields=["batch_size", "micro_batch", "split"],
)
@dataclass(frozen=True)
class Task:
    """What is trained and how: the parts of a run and what its data is, a pytree.

    Its leaves are numbers, which may be tracers; its structure selects a compiled program.
    """

    network: NetworkConfig
    optimizer: Optimizer
    loss: Loss
    metric: Metric
    augment: tuple[Augmentation, ...]
    spec: Spec
    batch_size: int
    micro_batch: int = 0
    """Examples whose gradient is computed at once, where a batch is a sum over parts; 0 is all of them.

    It changes no number but by rounding: see `separable`.
    """
    split: int = 1
    """Devices that share a batch: with more than 1, `step` and `evaluate` run under the mapped `AXIS` of that size.

    It changes no number but by rounding, where the network is `per_example`.
    """

    @property
    def functions(self) -> Network:
        """The network as a pair of pure functions."""
        return functional(
            lambda rngs, example: self.network.build(rngs, example, self.spec.outputs),
            AXIS if self.split > 1 else None,
        )


def as_arrays(tree: PyTree) -> PyTree:
    """A tree whose numbers are strongly typed float32, as every compiled program takes them."""
    return jax.tree.map(lambda number: np.asarray(number, np.float32), tree)


class Metrics(NamedTuple):
    """Sums over examples, so that metrics of parts add up; `loss` and `metric` are the means."""

    loss_sum: Float[Array, ""]
    metric_sum: Float[Array, ""]
    examples: Int[Array, ""]

    @property
    def loss(self) -> Array:
        return self.loss_sum / self.examples

    @property
    def metric(self) -> Array:
        return self.metric_sum / self.examples


class TrainState(NamedTuple):
    """All that a step changes. Once `diverged`, nothing of it changes any more."""

    step: Int[Array, ""]
    params: PyTree
    stats: PyTree
    optimizer: optax.OptState
    seen: Metrics
    """Of the epoch so far: running sums over its batches, each under the parameters of its time."""
    diverged: Bool[Array, ""]


def _measure(task: Task, losses: Array, logits: Array, labels: Array, mask: Array | None = None) -> Metrics:
    mask = jnp.ones(len(losses), bool) if mask is None else mask
    values = task.metric(logits, labels).astype(jnp.float32)
    return Metrics(jnp.where(mask, losses, 0).sum(), jnp.where(mask, values, 0).sum(), mask.sum())


def _nothing() -> Metrics:
    return Metrics(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), int))


def _share(task: Task, batch: PyTree) -> PyTree:
    """The part of a batch that is this device's."""
    if task.split == 1:
        return batch
    size = task.batch_size // task.split
    start = lax.axis_index(AXIS) * size
    return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size), batch)


def _total(task: Task, parts: PyTree) -> PyTree:
    """The sum over the devices that share a batch, with one exchange for each type of number."""
    if task.split == 1:
        return parts
    leaves, structure = jax.tree.flatten(parts)
    summed: dict[int, Array] = {}
    for kind in dict.fromkeys(leaf.dtype for leaf in leaves):
        alike = [i for i, leaf in enumerate(leaves) if leaf.dtype == kind]
        flat = lax.psum(jnp.concatenate([leaves[i].ravel() for i in alike]), AXIS)
        ends = np.cumsum([leaves[i].size for i in alike])[:-1]
        for i, piece in zip(alike, jnp.split(flat, ends), strict=True):
            summed[i] = piece.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, [summed[i] for i in range(len(leaves))])


# A seed fixes initialisation, batch order and noise, each from a key of its own.
_INIT, _ORDER, _NOISE = range(3)


def init(task: Task, key: Key[Array, ""]) -> TrainState:
    """The state before the first step.

    Args:
      task: what is trained.
      key: the run's key, `jax.random.key(seed)`.
    """
    example = task.spec.standardize(task.spec.example)
    params, stats = task.functions.init(jax.random.fold_in(key, _INIT), example)
    optimizer = task.optimizer(0).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer, _nothing(), jnp.zeros((), bool))


def augmented(task: Task, key: Key[Array, ""], batch: Split) -> Split:
    """A batch as training sees it: standardized, then through each augmentation under a key of its own."""
    batch = batch._replace(inputs=task.spec.standardize(batch.inputs))
    for i, augment in enumerate(task.augment):
        batch = augment(jax.random.fold_in(key, i), batch)
    return batch


def step(
    task: Task, key: Key[Array, ""], steps: Int[Array, ""] | int, state: TrainState, batch: Split
) -> tuple[TrainState, Metrics]:
    """One step of gradient descent on the mean loss of a batch.

    Args:
      task: what is trained.
      key: the run's key; noise comes from it and the number of the step.
      steps: all steps of the run, which its schedule spans; with 0 the rate stays at its peak.
      state: the state before.
      batch: the examples of this step, as they are stored.

    Returns:
      The state after, and the metrics of the batch under the parameters before. Where the loss is
      not finite or above `DIVERGED_LOSS`, the state is the one before, marked as diverged.
    """
    noise = jax.random.fold_in(jax.random.fold_in(key, _NOISE), state.step)
    augment_key, network_key = jax.random.split(noise)
    whole = _share(task, augmented(task, augment_key, batch))
    loss, gradients, losses, logits, stats = _gradients(task, network_key, state, whole)
    metrics = _measure(task, losses, logits, whole.labels)
    loss, gradients, metrics = _total(task, (loss, gradients, metrics))
    updates, optimizer = task.optimizer(steps).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    diverged = state.diverged | ~(loss <= DIVERGED_LOSS)  # true for NaN as well
    seen = jax.tree.map(jnp.add, state.seen, metrics)
    after = TrainState(state.step + 1, params, stats, optimizer, seen, diverged)
    after = jax.tree.map(partial(jnp.where, diverged), state._replace(diverged=diverged), after)
    return after, metrics


def _gradients(task: Task, key: Key[Array, ""], state: TrainState, batch: Split) -> tuple[PyTree, ...]:
    """The mean loss of a batch, its gradients, losses and logits of the examples, and new running statistics."""
    network = task.functions

    def loss_sum(params: PyTree, part: Split) -> tuple[Array, tuple[Array, Array, PyTree]]:
        variables = Variables(params, state.stats)
        logits, stats = network.apply(variables, part.inputs, train=True, key=key)
        losses = task.loss(logits, part.labels)
        return losses.sum() / task.batch_size, (losses, logits, stats)

    gradient = jax.value_and_grad(loss_sum, has_aux=True)
    if not task.micro_batch:
        (loss, (losses, logits, stats)), gradients = gradient(state.params, batch)
        return loss, gradients, losses, logits, stats
    size = task.batch_size // task.split
    if size % task.micro_batch or jax.tree.leaves(state.stats):
        raise ValueError(
            f"micro_batch: {task.micro_batch}: must divide batch_size {task.batch_size}"
            + (f" over {task.split} devices" if task.split > 1 else "")
            + ", and no network with running statistics can have one"
        )
    parts = jax.tree.map(lambda a: a.reshape(-1, task.micro_batch, *a.shape[1:]), batch)

    def add(total: PyTree, part: Split) -> PyTree:
        (loss, (losses, logits, _)), gradients = gradient(state.params, part)
        return jax.tree.map(jnp.add, total, (loss, gradients)), (losses, logits)

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
    (loss, gradients), (losses, logits) = lax.scan(add, zeros, parts)
    return loss, gradients, losses.reshape(-1), logits.reshape(size, *logits.shape[2:]), state.stats


def steps_per_epoch(batch_size: int, split: Split) -> int:
    """Whole batches in a split: training drops the tail of a permutation."""
    return len(split.labels) // batch_size


def _pick(split: Split, rows: Array) -> Split:
    return Split(*(jnp.asarray(array)[rows] for array in split))


def order_of(batch_size: int, examples: int, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, " examples"]:
    """The order in which a run's examples come in the epoch that a step belongs to."""
    epoch = step // (examples // batch_size)
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch), examples)


def advance(
    task: Task,
    key: Key[Array, ""],
    steps: Int[Array, ""] | int,
    state: TrainState,
    split: Split,
    n: Int[Array, ""] | int,
    order: Int[Array, " examples"] | None = None,
) -> TrainState:
    """At most `n` steps, and not past the end of the epoch; none once the run has diverged.

    Each epoch is a permutation of the split, drawn from the key and the number of the epoch, so a
    run that stops between two steps continues with the batches it would have seen, and comes to the
    same state to the bit.

    Args:
      task: what is trained.
      key: the run's key.
      steps: all steps of the run, which its schedule spans.
      state: the state before.
      split: the training examples.
      n: number of steps; may be a tracer, so that one program serves every number.
      order: `order_of` the epoch, where it is known.

    Returns:
      The state after, whose `seen` counts from the beginning of the epoch.
    """
    length = steps_per_epoch(task.batch_size, split)
    start = state.step % length
    if order is None:
        order = order_of(task.batch_size, len(split.labels), key, state.step)
    begins = (start == 0) & ~state.diverged
    state = state._replace(seen=jax.tree.map(partial(jnp.where, begins), _nothing(), state.seen))

    n = jnp.minimum(n, length - start)

    def unfinished(carry: tuple[Array, TrainState]) -> Array:
        i, state = carry
        return (i < n) & ~state.diverged

    def body(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, state = carry
        rows = lax.dynamic_slice_in_dim(order, (start + i) * task.batch_size, task.batch_size)
        state, _ = step(task, key, steps, state, _pick(split, rows))
        return i + 1, state

    _, state = lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state))
    return state


def evaluate(task: Task, state: TrainState, split: Split) -> Metrics:
    """The metrics of a split, every example counted once, without augmentation, by the loss `for_evaluation`.

    Nothing is computed for a run that has diverged, and counted for it.
    """
    network, loss, size = task.functions, task.loss.for_evaluation(), task.batch_size
    key, examples = jax.random.key(0), len(split.labels)
    batches = jnp.where(state.diverged, 0, -(-examples // size))

    def batch(i: Array) -> Metrics:
        rows = i * size + _share(task, jnp.arange(size))
        inputs, labels = _pick(split, jnp.minimum(rows, examples - 1))
        variables = Variables(state.params, state.stats)
        logits, _ = network.apply(variables, task.spec.standardize(inputs), train=False, key=key)
        return _measure(task, loss(logits, labels), logits, labels, rows < examples)

    return _total(
        task, lax.fori_loop(0, batches, lambda i, so_far: jax.tree.map(jnp.add, so_far, batch(i)), _nothing())
    )


def make_task(config: TrainConfig, spec: Spec, micro_batch: int = 0, split: int = 1) -> Task:
    """The task that a configuration describes on data of a kind. It builds nothing.

    Raises:
      ValueError: a value is out of range, or a batch cannot be shared by so many devices.
    """
    check(config)
    if not can_share(config, split):
        raise ValueError(
            f"lanes: {split} devices share a batch: they must divide batch_size {config.batch_size}, and the network "
            "must be `per_example`: without dropout, whose noise is drawn for a whole batch"
        )
    parts = config.network, config.optimizer, config.loss, config.metric, config.augment
    return Task(*parts, spec, config.batch_size, micro_batch, split)


def can_share(config: TrainConfig, devices: int) -> bool:
    """Whether so many devices can share its batches: equal parts, of a network that allows it."""
    return devices == 1 or (config.batch_size % devices == 0 and config.network.per_example)


def separable(task: Task) -> bool:
    """Whether a batch can be computed in parts: the network is `per_example` and has no running statistics."""
    return task.network.per_example and not jax.tree.leaves(jax.eval_shape(init, task, jax.random.key(0)).stats)


def count_parameters(state: TrainState) -> int:
    """Number of trainable numbers of one run."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
