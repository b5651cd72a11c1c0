"""Training as a value: init, step, advance and evaluate are pure functions of arrays.

A run is a fold of `step` over batches that its key alone decides, so each of these functions
under `jax.vmap` or `jax.lax.map` trains many runs at once (`cnnjax.sweeps`).
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from cnnjax.augmentation import Augmentation
from cnnjax.config import TrainConfig
from cnnjax.data import Dataset, Spec, Split
from cnnjax.losses import Loss
from cnnjax.metrics import Metric
from cnnjax.networks import Network, NetworkConfig, Variables, functional
from cnnjax.optimizers import Optimizer
from cnnjax.options import check, reason

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


def as_arrays(tree: Any) -> Any:
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
    params: Any
    stats: Any
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


def _gradients(task: Task, key: Key[Array, ""], state: TrainState, batch: Split) -> tuple[Any, ...]:
    """The mean loss of a batch, its gradients, losses and logits of the examples, and new running statistics."""
    network = task.functions

    def loss_sum(params: Any, part: Split) -> tuple[Array, tuple[Array, Array, Any]]:
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

    def add(total: Any, part: Split) -> Any:
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


# Below, tasks, keys, steps and states are those of one run, or under a lift those of many, lanes first.


@partial(jax.jit, static_argnums=0)
def _init(lift: Lift, task: Task, key: Array) -> TrainState:
    return lift(init)(task, key)


@partial(jax.jit, static_argnums=0)
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
def _executable(function: Any, lift: Lift, structure: Any, shapes: tuple[Any, ...], x64: bool) -> Any:
    lowered = function.lower(lift, *jax.tree.unflatten(structure, shapes))
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


def _compiled(function: Any, lift: Lift, *arrays: Any) -> Any:
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
    """advance(state, n): at most n steps, up to the end of the epoch."""
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


def prepare(
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
    memory = max(
        usage.argument_size_in_bytes + usage.output_size_in_bytes + usage.temp_size_in_bytes
        for usage in (program.memory_analysis() for program in (advance, evaluate))
    )

    def advanced(state: TrainState, n: int) -> TrainState:
        epoch = int(np.max(np.asarray(state.step))) // length
        return place(advance(task, key, steps, state, train, np.int32(n), order(epoch)))

    return Run(state, epochs, length, advanced, lambda state: evaluate(task, state, valid), place, memory)


def parts(run: Run, state: TrainState, step: int = 0, seconds: float = 1.0) -> Iterator[tuple[int, TrainState]]:
    """Trains on from a state; yields the number of steps and the state about every second and after each epoch.

    A run that stops at one of these, and continues from the state some other time, comes to the same
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


def fit(task: Task, key: Key[Array, "*runs"], data: Dataset, epochs: int, lift: Lift = single) -> Iterator[Progress]:
    """Trains from the start, and yields after each epoch.

    >>> task = make_task(TrainConfig(MLPConfig(), SGD(learning_rate=0.1)), data.spec)
    >>> for progress in fit(task, jax.random.key(0), data, epochs=10):
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
    yield from train(prepare(task, key, data, epochs, lift))


def measure_test(task: Task, state: TrainState, data: Dataset, lift: Lift = single) -> Metrics:
    """The metrics of the test split; read it once, after every choice is made."""
    task, test = jax.device_put((as_arrays(task), data.test))
    return _compiled(_evaluate, lift, task, state, test)(task, state, test)


# ------------------------------------------------------------------------- from a configuration


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


def validate(task: Task, data: Dataset) -> None:
    """Traces a step on data, part by part, so that what cannot be trained is refused by name.

    Raises:
      ValueError: the network does not fit the inputs, the batch is larger than the training split,
        a loss or metric is of classes and the data have none, or a part has another signature or
        returns another shape than it should.
    """
    for name, part in (("loss", task.loss), ("metric", task.metric)):
        if part.needs_classes and not task.spec.classes:
            raise ValueError(f"{name}: {part.kind()}: is of classes, and {data.name} has none: give another {name}")
    if task.batch_size > len(data.train.labels):
        raise ValueError(
            f"batch_size: {task.batch_size}: the training split of {data.name} has {len(data.train.labels)} examples"
        )
    task = dataclasses.replace(as_arrays(task), split=1, micro_batch=0)
    labels = data.train.labels[:1]
    _validated(*_abstract((task, Split(data.train.inputs[:1], labels))))


def _abstract(tree: Any) -> tuple[Any, tuple[Any, ...]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype) for leaf in leaves)


@lru_cache(maxsize=256)
def _validated(structure: Any, shapes: tuple[Any, ...]) -> None:
    jax.eval_shape(_parts_of_a_step, *jax.tree.unflatten(structure, shapes))


def _parts_of_a_step(task: Task, example: Split) -> None:
    size, key = task.batch_size, jax.random.key(0)
    batch = jax.tree.map(lambda array: jnp.zeros((size, *array.shape[1:]), array.dtype), example)
    batch = batch._replace(inputs=task.spec.standardize(batch.inputs))
    for augment in task.augment:
        batch = _called("augmentation", augment, (key, batch), "key, batch", partial(_as_batch, batch, task))
    network = task.functions

    built = partial(network.init, key)
    variables = _called("network", task.network, (batch.inputs,), "rngs, example, outputs", lambda _: "", built)

    def logits_of(inputs: Array) -> Array:
        return network.apply(variables, inputs, train=True, key=key)[0]

    classes = len(task.spec.classes)
    wanted = (size, classes) if classes else (size, "...")
    logits = _called(
        "network",
        task.network,
        (batch.inputs,),
        "inputs",
        lambda found: (
            ""
            if getattr(found, "shape", (None,))[: 1 + bool(classes)] == wanted[: 1 + bool(classes)]
            and (not classes or found.ndim == 2)
            else f"an array {_shape(wanted)}"
        ),
        logits_of,
    )

    def one_each(found: Any) -> str:
        return "" if getattr(found, "shape", None) == (size,) else f"one number an example, {_shape((size,))}"

    for name, part in (("loss", task.loss), ("loss", task.loss.for_evaluation()), ("metric", task.metric)):
        _called(name, part, (logits, batch.labels), "logits, labels", one_each)

    def transformation(found: Any) -> str:
        return "" if hasattr(found, "init") and hasattr(found, "update") else "an optax.GradientTransformation"

    _called("optimizer", task.optimizer, (jnp.zeros((), jnp.int32),), "steps", transformation)


def _as_batch(batch: Split, task: Task, found: Any) -> str:
    """What is wrong with the batch that an augmentation returns."""
    mixed = jax.ShapeDtypeStruct((task.batch_size, len(task.spec.classes)), jnp.float32)
    try:
        shapes = [(array.shape, array.dtype) for array in Split(*found)]
    except (TypeError, AttributeError):
        return "a Split, as batch._replace(inputs=...)"
    inputs, labels = ((array.shape, array.dtype) for array in batch)
    if shapes[0] == inputs and shapes[1] in (labels, (mixed.shape, mixed.dtype)):
        return ""
    return _described(batch)


def _shape(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _described(found: Any) -> str:
    """What a part returned: shapes, and types too in a batch."""
    if isinstance(found, Split):
        return " and ".join(f"{name} {a.dtype}{_shape(a.shape)}" for name, a in found._asdict().items())
    return _shape(found.shape) if hasattr(found, "shape") else type(found).__name__


def _called(
    name: str,
    part: Any,
    arguments: tuple[Any, ...],
    words: str,
    problem: Callable[[Any], str],
    function: Callable[..., Any] | None = None,
) -> Any:
    """What a part returns; ValueError that names the part where it cannot be called so, or returns something else."""
    who = f"{name} {type(part).__name__}"
    try:
        found = (function or part)(*arguments)
    except jax.errors.TracerBoolConversionError as error:
        raise ValueError(
            f"{who}: {words}: a Python condition depends on a traced number: use jnp.where, make the field "
            f"static(...), or use cnnjax.Dropout for nnx.Dropout: {reason(error)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{reason(error)}" if name == "network" else f"{who}: {reason(error)}") from error
    except Exception as error:
        raise ValueError(f"{who}: called with ({words}): {type(error).__name__}: {reason(error)}") from error
    if expected := problem(found):
        raise ValueError(f"{who}: called with ({words}): returned {_described(found)}, expected {expected}")
    return found


def can_share(config: TrainConfig, devices: int) -> bool:
    """Whether so many devices can share its batches: equal parts, of a network that allows it."""
    return devices == 1 or (config.batch_size % devices == 0 and config.network.per_example)


def separable(task: Task) -> bool:
    """Whether a batch can be computed in parts: the network is `per_example` and has no running statistics."""
    return task.network.per_example and not jax.tree.leaves(jax.eval_shape(init, task, jax.random.key(0)).stats)


def parameters(state: TrainState) -> int:
    """Number of trainable numbers of one run."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
