"""Training as pure functions of arrays: `init`, `step`, `advance` and `evaluate`.

A run is a fold of `step` over batches that depend only on the key of the run. Under `jax.vmap` or
`jax.lax.map`, each of these functions therefore handles many runs at once (see `cnnjax.sweeps`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key, PyTree

from cnnjax.augmentation import Augmentation
from cnnjax.config import TrainConfig
from cnnjax.data import Batch, Spec, Split
from cnnjax.losses import Loss
from cnnjax.metrics import Metric
from cnnjax.networks import Network, NetworkConfig, Variables, functional
from cnnjax.optimizers import Optimizer
from cnnjax.options import check

AXIS = "batch"
"""The mapped axis over which a batch is sharded if `Task.split` is above 1."""
DIVERGED_LOSS = 1e6
"""A run with a training loss that is above this value, or not finite, is marked as diverged."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["network", "optimizer", "loss", "metric", "augment", "spec", "ema"],
    meta_fields=["batch_size", "micro_batch", "split"],
)
@dataclass(frozen=True)
class Task:
    """The parts of a run and the specification of its data, as a pytree.

    The leaves are numbers, which may be tracers. The tree structure selects the compiled program.
    """

    network: NetworkConfig
    optimizer: Optimizer
    loss: Loss
    metric: Metric
    augment: tuple[Augmentation, ...]
    spec: Spec
    batch_size: int
    micro_batch: int = 0
    """The number of examples per gradient computation, if gradients are summed over parts of a batch; 0 for all.

    It changes results only by rounding; see `separable`.
    """
    split: int = 1
    """The number of devices that share a batch. Above 1, `step` and `evaluate` run under the mapped `AXIS`.

    It changes results only by rounding if the network is `per_example`.
    """
    ema: Any = None
    """The decay of `TrainState.average`, a number; None for no average."""

    @property
    def functions(self) -> Network:
        """The network as a pair of pure functions."""
        return functional(
            lambda rngs, example: self.network.built(rngs, example, self.spec.outputs, self.spec.tokens),
            AXIS if self.split > 1 else None,
        )


def as_arrays(tree: PyTree) -> PyTree:
    """Converts the numbers of a tree to strongly typed float32, the type that compiled programs take."""
    return jax.tree.map(lambda number: np.asarray(number, np.float32), tree)


class Metrics(NamedTuple):
    """Sums over examples, which can be added; `loss` and `metric` are the means."""

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
    """The state that `step` updates. Once `diverged` is true, the state no longer changes."""

    step: Int[Array, ""]
    params: PyTree
    stats: PyTree
    optimizer: optax.OptState
    epoch_metrics: Metrics
    """Sums over the batches of the current epoch, each evaluated with the parameters before its step."""
    diverged: Bool[Array, ""]
    average: Variables | None = None
    """Moving averages of parameters and statistics, zeros before the first step; None without `Task.ema`."""

    @property
    def averaged(self) -> "TrainState":
        """The state with its averages in place of parameters and statistics; itself if it has none."""
        return self if self.average is None else self._replace(**self.average._asdict())


def _measure(task: Task, losses: Array, logits: Array, labels: Array, mask: Array | None = None) -> Metrics:
    mask = jnp.ones(len(losses), bool) if mask is None else mask
    values = task.metric(logits, labels).astype(jnp.float32)
    return Metrics(jnp.where(mask, losses, 0).sum(), jnp.where(mask, values, 0).sum(), mask.sum())


def _nothing() -> Metrics:
    return Metrics(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), int))


def _share(task: Task, batch: PyTree) -> PyTree:
    """Returns the part of a batch that belongs to this device."""
    if task.split == 1:
        return batch
    size = task.batch_size // task.split
    start = lax.axis_index(AXIS) * size
    return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size), batch)


def _total(task: Task, parts: PyTree) -> PyTree:
    """Sums over the devices that share a batch, with one all-reduce per dtype."""
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


# A seed determines initialization, batch order, noise and what belongs to an example, each with its own key.
_INIT, _ORDER, _NOISE, _EXAMPLES = range(4)


def init(task: Task, key: Key[Array, ""]) -> TrainState:
    """Returns the state before the first step.

    Args:
      task: the task to train.
      key: the key of the run, `jax.random.key(seed)`.
    """
    example = task.spec.standardize(task.spec.example)
    params, stats = task.functions.init(jax.random.fold_in(key, _INIT), example)
    optimizer = task.optimizer(0).init(params)
    average = None if task.ema is None else jax.tree.map(jnp.zeros_like, Variables(params, stats))
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer, _nothing(), jnp.zeros((), bool), average)


def augmented(task: Task, key: Key[Array, ""], batch: Batch) -> Split:
    """Standardizes a batch and applies the augmentations in order, each with its own keys."""
    batch = batch._replace(inputs=task.spec.standardize(batch.inputs))
    for i, augment in enumerate(task.augment):
        own = batch._replace(key=jax.random.fold_in(batch.key, i))
        inputs, labels = augment(jax.random.fold_in(key, i), own)[:2]
        batch = batch._replace(inputs=inputs, labels=labels)
    return Split(batch.inputs, batch.labels)


def as_batch(task: Task, key: Key[Array, ""], split: Split, rows: Array | None = None, epoch: Any = 0) -> Batch:
    """Returns examples with what augmentations may know besides.

    Args:
      task: the task to train.
      key: the key of the run.
      split: the examples, as stored.
      rows: their indices in the training split; by default from 0.
      epoch: the number of the epoch.
    """
    rows = jnp.arange(len(split.labels)) if rows is None else rows
    return Batch(*split, rows, jnp.asarray(epoch), jax.random.fold_in(key, _EXAMPLES), task.spec)


def step(
    task: Task, key: Key[Array, ""], steps: Int[Array, ""] | int, state: TrainState, batch: Batch | Split
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step on the mean loss of a batch.

    Args:
      task: the task to train.
      key: the key of the run; noise depends on it and on the number of the step.
      steps: the total number of steps, which the schedule spans; with 0, the rate stays at its peak.
      state: the state before the step.
      batch: the examples of this step, as stored; a `Split` is taken as the first rows of the first epoch.

    Returns:
      The state after the step, and the metrics of the batch with the parameters before it. If the loss
      is not finite or is above `DIVERGED_LOSS`, the state does not change, except that it is marked as
      diverged.
    """
    noise = jax.random.fold_in(jax.random.fold_in(key, _NOISE), state.step)
    augment_key, network_key = jax.random.split(noise)
    batch = batch if isinstance(batch, Batch) else as_batch(task, key, batch)
    whole = _share(task, augmented(task, augment_key, batch))
    loss, gradients, losses, logits, stats = _gradients(task, network_key, state, whole)
    metrics = _measure(task, losses, logits, whole.labels)
    loss, gradients, metrics = _total(task, (loss, gradients, metrics))
    updates, optimizer = task.optimizer(steps).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    diverged = state.diverged | ~(loss <= DIVERGED_LOSS)  # also true for NaN
    epoch_metrics = jax.tree.map(jnp.add, state.epoch_metrics, metrics)
    average = None if state.average is None else _averaged(task, state, Variables(params, stats))
    after = TrainState(state.step + 1, params, stats, optimizer, epoch_metrics, diverged, average)
    after = jax.tree.map(partial(jnp.where, diverged), state._replace(diverged=diverged), after)
    return after, metrics


def _averaged(task: Task, state: TrainState, new: Variables) -> Variables:
    """Returns the averages after a step: the mean of all steps so far, weighted by powers of the decay.

    This is the average with corrected bias of Kingma and Ba (2015, section 7.2).
    """
    count = (state.step + 1).astype(jnp.float32)
    weight = jnp.minimum((1 - task.ema) / -jnp.expm1(count * jnp.log(task.ema)), 1)
    return jax.tree.map(lambda old, new: ((1 - weight) * old + weight * new).astype(new.dtype), state.average, new)


def _gradients(task: Task, key: Key[Array, ""], state: TrainState, batch: Split) -> tuple[PyTree, ...]:
    """Returns the mean loss, its gradients, the losses and logits of the examples, and the new statistics."""
    network, loss_of = task.functions, task.loss.on(task.spec)

    def loss_sum(params: PyTree, part: Split) -> tuple[Array, tuple[Array, Array, PyTree]]:
        variables = Variables(params, state.stats)
        logits, stats = network.apply(variables, part.inputs, train=True, key=key)
        losses = loss_of(logits, part.labels)
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
            + ", and the network must have no running statistics, such as those of BatchNorm"
        )
    parts = jax.tree.map(lambda a: a.reshape(-1, task.micro_batch, *a.shape[1:]), batch)

    def add(total: PyTree, part: Split) -> PyTree:
        (loss, (losses, logits, _)), gradients = gradient(state.params, part)
        return jax.tree.map(jnp.add, total, (loss, gradients)), (losses, logits)

    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
    (loss, gradients), (losses, logits) = lax.scan(add, zeros, parts)
    return loss, gradients, losses.reshape(-1), logits.reshape(size, *logits.shape[2:]), state.stats


def steps_per_epoch(batch_size: int, split: Split) -> int:
    """Returns the number of full batches in a split; training drops the rest of each permutation."""
    return len(split.labels) // batch_size


def _pick(split: Split, rows: Array) -> Split:
    return Split(*(jnp.asarray(array)[rows] for array in split))


def order_of(batch_size: int, examples: int, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, " examples"]:
    """Returns the order of the examples in the epoch of a step, as indices."""
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
    """Takes at most `n` steps, up to the end of the epoch; a diverged run takes none, and does not change.

    Each epoch is a permutation of the split that depends on the key and the number of the epoch. A run
    that stops between two steps thus continues with the same batches, and reaches the same state bit
    for bit.

    Args:
      task: the task to train.
      key: the key of the run.
      steps: the total number of steps, which the schedule spans.
      state: the state before the first step.
      split: the training examples.
      n: the number of steps; may be a tracer, so that one program serves every number.
      order: the result of `order_of` for the epoch, if known.

    Returns:
      The state after the last step, with `epoch_metrics` since the beginning of the epoch.
    """
    length = steps_per_epoch(task.batch_size, split)
    epoch, start = state.step // length, state.step % length
    if order is None:
        order = order_of(task.batch_size, len(split.labels), key, state.step)
    begins = (start == 0) & (n > 0) & ~state.diverged
    reset = jax.tree.map(partial(jnp.where, begins), _nothing(), state.epoch_metrics)
    state = state._replace(epoch_metrics=reset)

    n = jnp.minimum(n, length - start)

    def unfinished(carry: tuple[Array, TrainState]) -> Array:
        i, state = carry
        return (i < n) & ~state.diverged

    def body(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, state = carry
        rows = lax.dynamic_slice_in_dim(order, (start + i) * task.batch_size, task.batch_size)
        batch = as_batch(task, key, _pick(split, rows), rows, epoch)
        state, _ = step(task, key, steps, state, batch)
        return i + 1, state

    _, state = lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state))
    return state


def evaluate(task: Task, state: TrainState, split: Split) -> Metrics:
    """Evaluates a state on a split: each example once, without augmentation, with the loss `for_evaluation`.

    For a diverged run, nothing is computed and the number of examples is zero.

    Args:
      task: the task that was trained.
      state: the state to evaluate.
      split: the examples, as stored.

    Returns:
      The sums of loss and metric over the examples, and their number.
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
    """Creates the task for a configuration and a data specification, without building the network.

    >>> from cnnjax import MLPConfig, load
    >>> task = make_task(TrainConfig(MLPConfig()), load("digits").spec)
    >>> count_parameters(init(task, jax.random.key(0)))
    22510

    Args:
      config: the configuration of the run.
      spec: the specification of the data.
      micro_batch: see `Task`.
      split: see `Task`.

    Raises:
      ValueError: if a value is out of range, or that number of devices cannot share a batch.
    """
    check(config)
    if not can_share(config, split):
        raise ValueError(
            f"lanes: {split} devices cannot share a batch: use a number that divides batch_size {config.batch_size}, "
            "and a network that is per_example, as one without dropout"
        )
    parts = config.network, config.optimizer, config.loss, config.metric, config.augment
    return Task(*parts, spec, config.batch_size, micro_batch, split, config.ema)


def can_share(config: TrainConfig, devices: int) -> bool:
    """Returns whether devices can share its batches: the batch size divides evenly and the network is `per_example`."""
    return devices == 1 or (config.batch_size % devices == 0 and config.network.per_example)


def separable(task: Task) -> bool:
    """Returns whether micro-batches are possible: the network is `per_example` and has no running statistics."""
    return task.network.per_example and not jax.tree.leaves(jax.eval_shape(init, task, jax.random.key(0)).stats)


def count_parameters(state: TrainState) -> int:
    """Returns the number of trainable parameters of one run."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
