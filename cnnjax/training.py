"""Training as a value: init, step, advance and evaluate are pure functions of arrays.

A run is a fold of `step` over batches that its key alone decides, so each of these functions
under `jax.vmap` or `jax.lax.map` trains many runs at once (`cnnjax.sweeps`).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
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

AXIS = "batch"
"""The mapped axis over which a batch is dealt out, where `Task.split` is above 1."""

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
    micro_batch: int = 0
    """Images whose gradient is computed at once, where a batch is a sum over parts; 0 is all of them.

    It changes no number but by rounding: see `separable`.
    """
    split: int = 1
    """Devices that share a batch: with more than 1, `step` and `evaluate` run under the mapped `AXIS` of that size.

    It changes no number but by rounding, unless the network draws noise in training.
    """


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


class TrainState(NamedTuple):
    """All that a step changes. Once `diverged`, nothing of it changes any more."""

    step: Int[Array, ""]
    params: Any
    stats: Any
    optimizer: optax.OptState
    seen: Metrics
    """Of the epoch so far: running sums over its batches, each under the parameters of its time."""
    diverged: Bool[Array, ""]


def _measure(losses: Array, logits: Array, labels: Array, mask: Array | None = None) -> Metrics:
    mask = jnp.ones_like(labels, bool) if mask is None else mask
    hits = (logits.argmax(-1) == labels) & mask
    return Metrics(jnp.where(mask, losses, 0).sum(), hits.sum(), mask.sum())


def _nothing() -> Metrics:
    return Metrics(jnp.zeros(()), jnp.zeros((), int), jnp.zeros((), int))


def _share(task: Task, batch: Any) -> Any:
    """The part of a batch that is this device's."""
    if task.split == 1:
        return batch
    size = task.batch_size // task.split
    start = lax.axis_index(AXIS) * size
    return jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, size), batch)


def _total(task: Task, parts: Any) -> Any:
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
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer, _nothing(), jnp.zeros((), bool))


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

    def loss_sum(params: Any, part: Split) -> tuple[Array, tuple[Array, Array, Any]]:
        variables = Variables(params, state.stats)
        logits, stats = task.network.apply(variables, part.inputs, train=True, key=network_key, hparams=hparams)
        losses = task.loss(logits, part.labels, hparams)
        return losses.sum() / task.batch_size, (losses, logits, stats)

    size = task.batch_size // task.split
    if task.micro_batch and (size % task.micro_batch or jax.tree.leaves(state.stats)):
        raise ValueError(
            f"micro_batch: {task.micro_batch}: must divide batch_size {task.batch_size}"
            + (f" over {task.split} devices" if task.split > 1 else "")
            + ", and no network with running statistics can have one"
        )
    gradient = jax.value_and_grad(loss_sum, has_aux=True)
    whole = _share(task, Split(inputs, batch.labels))
    if not task.micro_batch:
        (loss, (losses, logits, stats)), gradients = gradient(state.params, whole)
    else:
        parts = jax.tree.map(lambda a: a.reshape(-1, task.micro_batch, *a.shape[1:]), whole)

        def add(total: Any, part: Split) -> Any:
            (loss, (losses, logits, _)), gradients = gradient(state.params, part)
            return jax.tree.map(jnp.add, total, (loss, gradients)), (losses, logits)

        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        (loss, gradients), (losses, logits) = lax.scan(add, zeros, parts)
        losses, logits, stats = losses.reshape(-1), logits.reshape(size, -1), state.stats
    loss, gradients, metrics = _total(task, (loss, gradients, _measure(losses, logits, whole.labels)))
    updates, optimizer = task.optimizer(hparams).update(gradients, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    diverged = state.diverged | ~(loss <= DIVERGED_LOSS)  # true for NaN as well
    seen = jax.tree.map(jnp.add, state.seen, metrics)
    after = TrainState(state.step + 1, params, stats, optimizer, seen, diverged)
    after = jax.tree.map(partial(jnp.where, diverged), state._replace(diverged=diverged), after)
    return after, metrics


def steps_per_epoch(batch_size: int, split: Split) -> int:
    """Whole batches in a split: training drops the tail of a permutation."""
    return len(split.labels) // batch_size


def _pick(split: Split, rows: Array) -> Split:
    return Split(*(jnp.asarray(array)[rows] for array in split))


def order_of(task: Task, examples: int, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, " examples"]:
    """The order in which a run's examples come in the epoch that a step belongs to."""
    epoch = step // (examples // task.batch_size)
    return jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch), examples)


def advance(
    task: Task,
    key: Key[Array, ""],
    state: TrainState,
    split: Split,
    hparams: Hparams,
    n: Int[Array, ""] | int,
    order: Int[Array, " examples"] | None = None,
) -> TrainState:
    """At most `n` steps, and not past the end of the epoch; none once the run has diverged.

    Each epoch is a permutation of the split, drawn from the key and the number of the epoch, so a
    run that stops between two steps goes on with the batches it would have seen, and comes to the
    same state to the bit.

    Args:
      task: what is trained.
      key: the run's key.
      state: the state before.
      split: the training examples.
      hparams: the run's numbers.
      n: number of steps; may be a tracer, so that one program serves every number.
      order: `order_of` the epoch, where it is known.

    Returns:
      The state after, whose `seen` counts from the beginning of the epoch.
    """
    length = steps_per_epoch(task.batch_size, split)
    start = state.step % length
    if order is None:
        order = order_of(task, len(split.labels), key, state.step)
    begins = (start == 0) & ~state.diverged
    state = state._replace(seen=jax.tree.map(partial(jnp.where, begins), _nothing(), state.seen))

    n = jnp.minimum(n, length - start)

    def unfinished(carry: tuple[Array, TrainState]) -> Array:
        i, state = carry
        return (i < n) & ~state.diverged

    def body(carry: tuple[Array, TrainState]) -> tuple[Array, TrainState]:
        i, state = carry
        rows = lax.dynamic_slice_in_dim(order, (start + i) * task.batch_size, task.batch_size)
        state, _ = step(task, key, state, _pick(split, rows), hparams)
        return i + 1, state

    _, state = lax.while_loop(unfinished, body, (jnp.zeros((), jnp.int32), state))
    return state


def evaluate(task: Task, state: TrainState, split: Split) -> Metrics:
    """The metrics of a split, every example counted once, under the default `Hparams`: no label smoothing.

    Nothing is computed for a run that has diverged, and counted for it.
    """
    hparams, key, size = Hparams(), jax.random.key(0), task.batch_size
    examples = len(split.labels)
    batches = jnp.where(state.diverged, 0, -(-examples // size))

    def batch(i: Array) -> Metrics:
        rows = i * size + _share(task, jnp.arange(size))
        inputs, labels = _pick(split, jnp.minimum(rows, examples - 1))
        inputs = task.prepare(key, inputs, hparams, train=False)
        variables = Variables(state.params, state.stats)
        logits, _ = task.network.apply(variables, inputs, train=False, key=key)
        return _measure(task.loss(logits, labels, hparams), logits, labels, rows < examples)

    return _total(
        task, lax.fori_loop(0, batches, lambda i, so_far: jax.tree.map(jnp.add, so_far, batch(i)), _nothing())
    )


# ------------------------------------------------------------------------- a run

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


@partial(jax.jit, static_argnums=(0, 1))
def _init(task: Task, lift: Lift, key: Array, hparams: Hparams, example: Array) -> TrainState:
    return lift(partial(init, task), example)(key, hparams)


@partial(jax.jit, static_argnums=(0, 1))
def _advance(
    task: Task,
    lift: Lift,
    key: Array,
    state: TrainState,
    split: Split,
    hparams: Hparams,
    n: Array,
    order: Array | None = None,
) -> TrainState:
    def one(key: Array, state: TrainState, hparams: Hparams, order: Array | None, split: Split, n: Array) -> TrainState:
        return advance(task, key, state, split, hparams, n, order)

    return lift(one, split, n)(key, state, hparams, order)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _order(task: Task, lift: Lift, examples: int, key: Array, step: Array) -> Array:
    return lift(partial(order_of, task, examples))(key, step)


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(task: Task, lift: Lift, state: TrainState, split: Split) -> Metrics:
    return lift(partial(evaluate, task), split)(state)


def _compiler_options(function: Any, lift: Lift) -> dict[str, str | int]:
    """XLA's options on CPU.

    Initialisation runs once, so it is not optimised: drawing numbers compiles slowly. Steps of a
    program that has the processor to itself keep their convolutions from YNNPACK, which computes
    them on one thread (jaxlib 0.10); Eigen uses all. Lanes that occupy a core each want no other.
    """
    if jax.default_backend() != "cpu":
        return {}
    if function is _init:
        return {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    if getattr(lift, "all_devices", 1) > 1:
        return {}
    kinds = ("INDIVIDUAL_DOT", "REDUCE")
    return {"xla_cpu_experimental_ynn_fusion_type": ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds)}


@lru_cache(maxsize=64)
def _executable(function: Any, task: Task, lift: Lift, structure: Any, shapes: tuple[Any, ...]) -> Any:
    lowered = function.lower(task, lift, *jax.tree.unflatten(structure, shapes))
    return _compile(lowered, _compiler_options(function, lift))


def _compile(lowered: jax.stages.Lowered, options: dict[str, str | int]) -> jax.stages.Compiled:
    """Compiles with those of the options that this version of XLA has."""
    try:
        return lowered.compile(options)  # type: ignore[arg-type]
    except jax.errors.JaxRuntimeError as error:
        known = {
            name: value for name, value in options.items() if f"No such compile option: '{name}'" not in str(error)
        }
        if known == options:
            raise
        return _compile(lowered, known)


def _compiled(function: Any, task: Task, lift: Lift, *arrays: Any) -> Any:
    """The program for arguments like these, compiled once."""

    def shape(array: Array) -> jax.ShapeDtypeStruct:
        known = getattr(array, "committed", isinstance(array, jax.ShapeDtypeStruct))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding if known else None)

    leaves, structure = jax.tree.flatten(arrays)
    return _executable(function, task, lift, structure, tuple(map(shape, leaves)))


class Run(NamedTuple):
    """A run that is ready to train: its first state on the device, and its programs, compiled."""

    state: TrainState
    epochs: int
    steps: int
    """Of an epoch."""
    advance: Callable[[TrainState, int], TrainState]
    """advance(state, n): at most n steps, up to the end of the epoch."""
    evaluate: Callable[[TrainState], Metrics]
    """The metrics of the validation split."""
    place: Callable[[TrainState], TrainState]
    """Puts a state from elsewhere, as a checkpoint, where `advance` takes it."""
    memory: int
    """Bytes that training takes on the busiest device, by the compiler's own account."""


def begin(task: Task, key: Key[Array, "*runs"], hparams: Hparams, data: Dataset, lift: Lift = single) -> TrainState:
    """The first state of a run. The arguments are those of `fit`."""
    hparams, example = jax.device_put((hparams, np.asarray(data.train.inputs[:1])))
    task = task._replace(micro_batch=0)  # which changes nothing here, and so compiles nothing anew
    return _compiled(_init, task, lift, key, hparams, example)(key, hparams, example)


def prepare(
    task: Task,
    key: Key[Array, "*runs"],
    hparams: Hparams,
    data: Dataset,
    epochs: int,
    lift: Lift = single,
    state: TrainState | None = None,
) -> Run:
    """Initialises a run and compiles what it needs.

    Args:
      task, key, hparams, data, epochs, lift: as of `fit`.
      state: the first state; or only its shapes and types, where `Run.place` brings the state later.
    """
    train, valid = jax.device_put((data.train, data.valid))
    length = steps_per_epoch(task.batch_size, train)
    steps = np.full(np.shape(hparams.learning_rate), epochs * length, np.int32)
    hparams = jax.device_put(replace(hparams, steps=steps))  # type: ignore[arg-type]
    if state is None:
        state = begin(task, key, hparams, data, lift)
    sharding = lift.sharding(len(key)) if hasattr(lift, "sharding") else None

    def place(state: TrainState) -> TrainState:
        return jax.device_put(state, sharding)

    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state)):
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state)
    else:
        state = place(state)

    @lru_cache(maxsize=1)  # once an epoch, since sorting many keys takes as long as some steps
    def order(epoch: int) -> Array:
        first = np.full_like(steps, epoch * length)
        return _order(task._replace(micro_batch=0), lift, len(train.labels), key, first)

    n = np.int32(length)
    advance = _compiled(_advance, task, lift, key, state, train, hparams, n, order(0))
    evaluate = _compiled(_evaluate, task, lift, state, valid)
    memory = max(
        usage.argument_size_in_bytes + usage.output_size_in_bytes + usage.temp_size_in_bytes
        for usage in (program.memory_analysis() for program in (advance, evaluate))
    )

    def advanced(state: TrainState, n: int) -> TrainState:
        epoch = int(np.max(np.asarray(state.step))) // length
        return place(advance(key, state, train, hparams, np.int32(n), order(epoch)))

    return Run(state, epochs, length, advanced, lambda state: evaluate(state, valid), place, memory)


def parts(run: Run, state: TrainState, step: int = 0, seconds: float = 1.0) -> Iterator[tuple[int, TrainState]]:
    """Trains on from a state; yields the number of steps and the state about every second and after each epoch.

    A run that stops at one of these, and goes on from the state some other time, comes to the same
    numbers to the bit.
    """
    most = 1  # steps at once; grows to what takes so many seconds
    while step < run.epochs * run.steps:
        n = min(most, run.steps - step % run.steps)
        began = time.perf_counter()
        state = jax.block_until_ready(run.advance(state, n))
        if n == most:
            most = max(1, min(8 * most, int(n * seconds / (time.perf_counter() - began))))
        step += n
        yield step, state


def train(run: Run, state: TrainState | None = None, step: int = 0) -> Iterator[Progress]:
    """Trains a run, by default from its first state, and yields after each epoch."""
    for step, state in parts(run, run.state if state is None else state, step):  # noqa: B020
        if step % run.steps == 0:
            yield measured(run, step, state)


def measured(run: Run, step: int, state: TrainState) -> Progress:
    """Where a run is at the end of an epoch."""
    return Progress(step // run.steps, step, state, run.evaluate(state))


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
    yield from train(prepare(task, key, hparams, data, epochs, lift))


def measure_test(task: Task, state: TrainState, data: Dataset, lift: Lift = single) -> Metrics:
    """The metrics of the test split; read it once, after every choice is made."""
    test = jax.device_put(data.test)
    return _compiled(_evaluate, task, lift, state, test)(state, test)


# ------------------------------------------------------------------------- from a configuration


@dataclass(frozen=True)
class _Build:
    """Builds a configured module; a value, so that a rebuilt Task finds its compiled program."""

    config: Any
    classes: int

    def __call__(self, rngs: Any, example: Array) -> Any:
        return self.config.build(rngs, example, self.classes)


def make_task(config: TrainConfig, data: Dataset, micro_batch: int = 0, split: int = 1) -> Task:
    """The task that a configuration describes on a data set.

    Raises:
      ValueError: the network does not fit the images, the batch is larger than the training
        split or cannot be shared by so many devices, or a word (loss, schedule, activation, ...)
        is unknown.
    """
    if config.batch_size > len(data.train.labels):
        raise ValueError(
            f"batch_size: {config.batch_size}: the training split of {data.name} has {len(data.train.labels)} examples"
        )
    if not can_share(config, split):
        raise ValueError(
            f"lanes: {split} devices share a batch: they must divide batch_size {config.batch_size}, and the network "
            "must be `per_example`: without dropout, whose noise is drawn for a whole batch"
        )
    task = Task(
        functional(_Build(config.network, len(data.classes)), AXIS if split > 1 else None),
        data.standardize,
        choose("loss", config.loss, LOSSES),
        SGD(choose("schedule", config.schedule, SCHEDULES), config.nesterov, clip=config.hparams.clip_norm > 0),
        config.batch_size,
        micro_batch,
        split,
    )
    jax.eval_shape(partial(init, task), jax.random.key(0), config.hparams, np.asarray(data.train.inputs[:1]))
    return task


def can_share(config: TrainConfig, devices: int) -> bool:
    """Whether so many devices can share its batches: equal parts, of a network that allows it."""
    return devices == 1 or (config.batch_size % devices == 0 and config.network.per_example)


def separable(task: Task, data: Dataset) -> bool:
    """Whether a batch can be computed in parts: an example's logits depend on it alone.

    So it is unless the network keeps statistics of the batch or draws noise in training. Found by
    computing the logits of some examples at once and in two parts, under different keys.
    """
    first, second, third = jax.random.split(jax.random.key(0), 3)
    inputs = task.prepare(first, jnp.asarray(data.train.inputs[:32]), Hparams(), train=True)
    variables = task.network.init(first, inputs)
    apply = partial(task.network.apply, variables, train=True)
    parts = jnp.array_split(inputs, 2)
    whole = apply(inputs, key=first)[0]
    apart = [apply(part, key=key)[0] for part, key in zip(parts, (second, third), strict=True)]
    return not jax.tree.leaves(variables.stats) and bool(jnp.allclose(whole, jnp.concatenate(apart), 1e-4, 1e-4))


def parameters(state: TrainState) -> int:
    """Number of trainable numbers of one run."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
