"""Laws of training: what must hold for any task."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import Array

from cnnjax import (
    SGD,
    Accuracy,
    Adam,
    AdamW,
    CNNConfig,
    Constant,
    Cosine,
    CrossEntropy,
    Flip,
    Linear,
    Lion,
    Loss,
    Metric,
    MLPConfig,
    Muon,
    NetworkConfig,
    OneCycle,
    Optimizer,
    RMSprop,
    Schedule,
    Shift,
    SquaredError,
    Step,
    TrainConfig,
    config,
    number,
    part,
    training,
)
from cnnjax.augmentation import Augmentation
from cnnjax.data import Dataset, Spec, Split
from cnnjax.devices import compiled
from cnnjax.networks import Variables
from cnnjax.training import (
    DIVERGED_LOSS,
    Progress,
    Task,
    TrainState,
    as_arrays,
    as_batch,
    augmented,
    count_parameters,
    fit_task,
    make_task,
    steps_per_epoch,
    validate,
)
from cnnjax.training.programs import _executable

CONFIG = TrainConfig(MLPConfig(hidden=(16,)), SGD(learning_rate=0.1), batch_size=32, epochs=3)
KEY = jax.random.key(0)
STEPS = 15
advance, evaluate, init, step = map(jax.jit, (training.advance, training.evaluate, training.init, training.step))


def equal(a: object, b: object) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


def start(config: TrainConfig, data: Dataset) -> tuple[Task, TrainState]:
    task = make_task(config, data.spec)
    return task, init(task, KEY)


def with_rate(task: Task, rate: float) -> Task:
    return replace(task, optimizer=replace(task.optimizer, learning_rate=rate))


def end(config: TrainConfig, data: Dataset, seed: int = 0, epochs: int = 1) -> Progress:
    *_, last = fit_task(make_task(config, data.spec), jax.random.key(seed), data, epochs)
    return last


# ------------------------------------------------------------------------- losses and metrics

LOGITS = jnp.asarray([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
LABELS = jnp.asarray([1, 2])


def test_cross_entropy_by_hand() -> None:
    log_p = np.log(np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True))
    np.testing.assert_allclose(CrossEntropy()(LOGITS, LABELS), -log_p[[0, 1], [1, 2]], rtol=1e-6)
    smoothed = np.full((2, 3), 0.3 / 3)
    smoothed[[0, 1], [1, 2]] += 0.7
    found = CrossEntropy(label_smoothing=0.3)(LOGITS, LABELS)
    np.testing.assert_allclose(found, -(smoothed * log_p).sum(1), rtol=1e-6)


def test_squared_error_by_hand() -> None:
    p = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()
    expected = 0.5 * ((1 - p[1]) ** 2 + p[0] ** 2 + p[2] ** 2)
    np.testing.assert_allclose(SquaredError()(LOGITS[:1], LABELS[:1]), [expected], rtol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(0.1), SquaredError(0.1), Accuracy()])
def test_labels_may_be_mixed(loss: Loss | Metric) -> None:
    """One-hot rows count as the labels that they stand for, and a mixture is taken as it is."""
    one_hot = jax.nn.one_hot(LABELS, 3)
    np.testing.assert_allclose(loss(LOGITS, one_hot), loss(LOGITS, LABELS), rtol=1e-6)
    mixed = jnp.asarray([[0.7, 0.3, 0.0], [0.0, 0.4, 0.6]])
    if isinstance(loss, CrossEntropy):
        expected = -((0.9 * mixed + 0.1 / 3) * jax.nn.log_softmax(LOGITS)).sum(1)
    elif isinstance(loss, SquaredError):
        expected = 0.5 * np.square(0.9 * mixed + 0.1 / 3 - jax.nn.softmax(LOGITS)).sum(1)
    else:
        expected = jnp.asarray([0.0, 1.0])
    np.testing.assert_allclose(loss(LOGITS, mixed), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy, SquaredError])
def test_smoothing_is_of_training_only(small: Dataset, loss: Callable[[float], Loss]) -> None:
    (plain, state), (smoothed, _) = (start(replace(CONFIG, loss=loss(by)), small) for by in (0.0, 0.3))
    assert equal(evaluate(plain, state, small.valid), evaluate(smoothed, state, small.valid))
    batch = Split(*(array[:32] for array in small.train))
    (_, a), (_, b) = (step(task, KEY, STEPS, state, batch) for task in (plain, smoothed))
    assert a.loss != b.loss
    assert a.metric == b.metric


# ------------------------------------------------------------------------- optimizers


def test_unit_schedules() -> None:
    at = jnp.asarray([0.0, 0.49, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(Constant().shape(at), np.ones(5))
    np.testing.assert_allclose(Step().shape(at), [1, 1, 0.1, 0.01, 0.01])
    np.testing.assert_allclose(Step(first=0.2, second=0.5, drop=0.5).shape(at), [1, 0.5, 0.25, 0.25, 0.25])
    np.testing.assert_allclose(Step(first=0.5, second=0.2).shape(at), [1, 1, 0.01, 0.01, 0.01], rtol=1e-6)
    np.testing.assert_allclose(Cosine().shape(at)[jnp.asarray([0, 2, 4])], [1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(Linear().shape(at), 1 - at)
    np.testing.assert_allclose(Linear(final=0.2).shape(at)[jnp.asarray([0, 2, 4])], [1, 0.6, 0.2], rtol=1e-6)


def test_one_cycle_is_optax_s_with_traced_numbers() -> None:
    cycle = OneCycle(rise=0.2, fall=0.7, initial=0.1, final=0.001)
    expected = optax.linear_onecycle_schedule(100, 1.0, 0.2, 0.7, div_factor=10, final_div_factor=100)
    count = jnp.arange(100)
    found = jax.jit(lambda cycle: jax.vmap(lambda count: cycle.factor(count, 100))(count))(cycle)
    np.testing.assert_allclose(found, jax.vmap(expected)(count), rtol=1e-5)
    assert np.isfinite(OneCycle(rise=1.0, fall=0.0).shape(count / 100)).all()
    assert equal(OneCycle(rise=0.5, fall=0.2).shape(count / 100), OneCycle(rise=0.5, fall=0.5).shape(count / 100))


def test_warmup_rises_then_the_schedule_begins() -> None:
    def factors(schedule: Schedule) -> Array:
        return jax.vmap(lambda count: schedule.factor(count, 100))(jnp.arange(100))

    rates = factors(Cosine(warmup=0.1))
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert rates[10] == 1
    assert (np.diff(rates[10:]) < 0).all()
    assert Cosine().factor(7, 0) == 1
    np.testing.assert_allclose(factors(Cosine()), optax.cosine_decay_schedule(1.0, 100)(jnp.arange(100)), atol=1e-6)


PARAMS = {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.asarray([3.0])}
GRADIENTS = {"kernel": jnp.asarray([[0.5, 0.5]]), "bias": jnp.asarray([1.0])}


def descend(optimizer: optax.GradientTransformation, gradients: Any, factors: tuple[float, ...] = (1, 1, 1)) -> Any:
    now, state = PARAMS, optimizer.init(PARAMS)
    for factor in factors:
        updates, state = optimizer.update(jax.tree.map(lambda g, f=factor: f * g, gradients), state, now)
        now = optax.apply_updates(now, updates)
    return now


def traced(optimizer: Optimizer, gradients: Any = GRADIENTS, factors: tuple[float, ...] = (1, 1, 1)) -> Any:
    """Three steps whose numbers are tracers."""
    return jax.jit(lambda optimizer: descend(optimizer(3), gradients, factors))(optimizer)


def close(a: Any, b: Any, rtol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol), a, b)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand_with_traced_numbers(nesterov: bool) -> None:
    """Momentum and coupled decay, on kernels only."""
    rate, momentum, decay = 0.1, 0.8, 0.3
    expected, trace = dict(PARAMS), {name: np.zeros(v.shape) for name, v in PARAMS.items()}
    for _ in range(3):
        for name, g in GRADIENTS.items():
            g = np.asarray(g) + (decay * expected[name] if name == "kernel" else 0)
            trace[name] = momentum * trace[name] + g
            expected[name] = expected[name] - rate * (g + momentum * trace[name] if nesterov else trace[name])
    close(traced(SGD(rate, momentum, decay, nesterov=nesterov, schedule=Constant())), expected)


def test_adam_is_optax_adam_with_traced_numbers() -> None:
    factors = (1, -2, 0.5)  # under gradients that stay the same, the decays cancel
    found = traced(Adam(0.1, b1=0.8, b2=0.95, eps=1e-3, schedule=Constant()), factors=factors)
    close(found, descend(optax.adam(0.1, 0.8, 0.95, 1e-3), GRADIENTS, factors))
    mean, square, at = np.zeros(2), np.zeros(2), np.asarray([1.0, 3.0])
    for count, factor in enumerate(factors, 1):
        g = factor * np.asarray([0.5, 1.0])
        mean, square = 0.8 * mean + 0.2 * g, 0.95 * square + 0.05 * g**2
        at = at - 0.1 * (mean / (1 - 0.8**count)) / (np.sqrt(square / (1 - 0.95**count)) + 1e-3)
    np.testing.assert_allclose([found["kernel"][0, 0], found["bias"][0]], at, rtol=1e-5)


def test_adamw_decays_kernels_only() -> None:
    """What decay adds to Adam is rate * decay * kernel a step, and nothing to a bias."""
    still = jax.tree.map(jnp.zeros_like, GRADIENTS)
    rate, decay = 0.1, 0.3
    found = traced(AdamW(rate, weight_decay=decay, schedule=Constant()), still)
    np.testing.assert_allclose(found["kernel"], PARAMS["kernel"] * (1 - rate * decay) ** 3, rtol=1e-6)
    assert equal(found["bias"], PARAMS["bias"])
    changing = {"factors": (1, -2, 0.5)}
    close(traced(AdamW(rate, 0.8, 0.95, weight_decay=0.0), **changing), traced(Adam(rate, 0.8, 0.95), **changing))


CHANGING = (1, -2, 0.5)


def test_lion_by_hand_with_traced_numbers() -> None:
    rate, b1, b2, decay = 0.1, 0.8, 0.95, 0.3
    mean = {name: np.zeros(v.shape) for name, v in PARAMS.items()}
    expected = dict(PARAMS)
    for factor in CHANGING:
        for name, g in GRADIENTS.items():
            step = np.sign(b1 * mean[name] + (1 - b1) * factor * g) + decay * expected[name] * (name == "kernel")
            expected[name] = expected[name] - rate * step
            mean[name] = b2 * mean[name] + (1 - b2) * factor * g
    close(traced(Lion(rate, b1, b2, decay, schedule=Constant()), factors=CHANGING), expected)


def test_rmsprop_by_hand_with_traced_numbers() -> None:
    rate, decay, momentum, eps = 0.1, 0.8, 0.5, 1e-3
    square, trace = ({name: np.zeros(v.shape) for name, v in PARAMS.items()} for _ in range(2))
    expected = dict(PARAMS)
    for factor in CHANGING:
        for name, g in GRADIENTS.items():
            square[name] = decay * square[name] + (1 - decay) * (factor * g) ** 2
            trace[name] = momentum * trace[name] + rate * factor * g / (np.sqrt(square[name]) + eps)
            expected[name] = expected[name] - trace[name]
    close(traced(RMSprop(rate, decay, momentum, eps, schedule=Constant()), factors=CHANGING), expected, rtol=1e-5)


def orthogonalized(matrix: np.ndarray, iterations: int) -> np.ndarray:
    """Newton-Schulz iterations on the singular values, which is what they do to a matrix."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt(np.sum(s**2))
    for _ in range(iterations):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return (u * s) @ v


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 20)], ids=["dense", "convolution"])
def test_muon_by_hand_with_traced_numbers(shape: tuple[int, ...], nesterov: bool) -> None:
    """A kernel is a matrix of inputs and outputs; biases, scales and arrays of other names are Adam's."""
    rng = np.random.default_rng(0)
    shapes = {"kernel": shape, "bias": (3,), "embedding": (4, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape) for name, shape in shapes.items()} for _ in CHANGING]
    optimizer = Muon(0.1, 0.8, 0.3, 0.02, 0.7, 0.9, 1e-6, nesterov=nesterov, iterations=3, schedule=Constant())

    @jax.jit
    def found(optimizer: Muon) -> Any:
        now, transformation = params, optimizer(3)
        state = transformation.init(params)
        for gradient in gradients:
            updates, state = transformation.update(jax.tree.map(jnp.float32, gradient), state, now)
            now = optax.apply_updates(now, updates)
        return now

    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    mean, square = ({name: np.zeros(shape) for name, shape in shapes.items()} for _ in range(2))
    for t, gradient in enumerate(gradients, 1):
        for name, g in gradient.items():
            b = 0.8 if name == "kernel" else 0.7
            mean[name] = b * mean[name] + (1 - b) * g
            ahead = b * mean[name] / (1 - b ** (t + 1)) + (1 - b) * g / (1 - b**t)
            direction = ahead if nesterov else mean[name] / (1 - b**t)
            if name == "kernel":
                matrix = direction.reshape(-1, shape[-1])
                scale = np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
                step = scale * orthogonalized(matrix, 3).reshape(shape) + 0.3 * expected[name]
                expected[name] = expected[name] - 0.1 * step
            else:
                square[name] = 0.9 * square[name] + 0.1 * g**2
                expected[name] = expected[name] - 0.02 * direction / (np.sqrt(square[name] / (1 - 0.9**t)) + 1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found(optimizer), expected)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, schedule=Constant()),
        Adam(0.1, eps=0.1, schedule=Constant()),
        AdamW(0.1, eps=0.1),
        RMSprop(0.1, eps=0.1),
    ],
)
def test_gradients_are_clipped_by_their_global_norm(optimizer: Optimizer) -> None:
    """The norm of all arrays together is sqrt(0.5^2 + 0.5^2 + 1) = sqrt(1.5)."""
    scaled = jax.tree.map(lambda g: g * 0.6 / np.sqrt(1.5), GRADIENTS)
    clipped = traced(replace(optimizer, clip_norm=0.6))
    close(clipped, traced(optimizer, scaled), rtol=1e-5)
    assert not equal(clipped, traced(optimizer))
    close(traced(replace(optimizer, clip_norm=2.0)), traced(optimizer))


# ------------------------------------------------------------------------- moving averages


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.6, 0.9999])
def test_the_average_is_the_weighted_mean_of_all_steps(small: Dataset, decay: float) -> None:
    """Parameters and running statistics, with weights decay^0, decay^1, ... from the last step back."""
    task, state = start(replace(CONFIG, network=CNNConfig((2,), batch_norm=True), ema=decay), small)
    every = []
    for _ in range(4):
        state = advance(task, KEY, STEPS, state, small.train, 1)
        every.append(Variables(state.params, state.stats))
    weights = float(np.float32(decay)) ** np.arange(4)[::-1]
    expected = jax.tree.map(lambda *arrays: np.average(np.stack(arrays), 0, weights), *every)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), state.average, expected)
    assert equal(state.averaged.params, state.params) is (decay == 0)
    assert equal((state.averaged.params, state.averaged.stats), tuple(state.average))


@pytest.mark.slow
def test_the_average_is_evaluated_beside_the_state_and_changes_nothing(small: Dataset) -> None:
    plain, averaged = end(CONFIG, small), end(replace(CONFIG, ema=0.9), small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), plain.state.params, averaged.state.params)
    assert plain.average is None
    assert plain.state.average is None
    assert plain.state.averaged is plain.state
    task = make_task(replace(CONFIG, ema=0.9), small.spec)
    assert averaged.average is not None
    np.testing.assert_allclose(averaged.average.loss, evaluate(task, averaged.state.averaged, small.valid).loss)
    assert averaged.average.loss != averaged.valid.loss


def test_a_run_without_steps_to_take_does_not_change(small: Dataset) -> None:
    task, state = start(replace(CONFIG, ema=0.9), small)
    after = advance(task, KEY, STEPS, state, small.train, 5)  # an epoch
    assert equal(advance(task, KEY, STEPS, after, small.train, 0), after)


# ------------------------------------------------------------------------- augmentations


def test_augmentations_follow_each_other_under_keys_of_their_own(small: Dataset) -> None:
    task = make_task(replace(CONFIG, augment=(Flip(), Shift())), small.spec)
    batch = as_batch(task, KEY, Split(*(array[:32] for array in small.train)))
    expected = batch._replace(inputs=small.spec.standardize(batch.inputs))
    for i, augment in enumerate(task.augment):
        expected = augment(jax.random.fold_in(KEY, i), expected)
    assert equal(augmented(task, KEY, batch), Split(*expected[:2]))
    assert not equal(expected.inputs, small.spec.standardize(batch.inputs))


def test_augmentation_is_of_training_only_and_new_in_every_step(small: Dataset) -> None:
    task, state = start(replace(CONFIG, augment=(Flip(), Shift())), small)
    plain, _ = start(CONFIG, small)
    assert equal(evaluate(task, state, small.valid), evaluate(plain, state, small.valid))
    batch = Split(*(array[:32] for array in small.train))
    losses = {float(step(task, KEY, STEPS, state._replace(step=jnp.int32(i)), batch)[1].loss) for i in range(4)}
    assert len(losses) == 4


# ------------------------------------------------------------------------- laws


def test_zero_rate_changes_nothing(small: Dataset) -> None:
    task, before = start(CONFIG, small)
    after = advance(with_rate(task, 0.0), KEY, STEPS, before, small.train, 5)
    assert equal(after.params, before.params)
    assert after.step == 5


@pytest.mark.parametrize(
    ("loss", "network"), [(CrossEntropy(), CNNConfig(filters=(8,))), (SquaredError(), MLPConfig(hidden=(16,)))]
)
def test_it_overfits_32_images(small: Dataset, loss: Loss, network: NetworkConfig) -> None:
    few = small._replace(train=Split(*(array[:32] for array in small.train)))
    last = end(replace(CONFIG, network=network, loss=loss), few, epochs=300)
    assert last.train.metric == 1
    assert last.train.loss < 0.02


def test_evaluation_ignores_order_and_counts_every_example_once(small: Dataset) -> None:
    task, state = start(CONFIG, small)
    order = np.random.default_rng(0).permutation(len(small.train.labels))[:157]  # not whole batches
    split = Split(small.train.inputs[order], small.train.labels[order])
    backwards = Split(split.inputs[::-1], split.labels[::-1])
    a, b = evaluate(task, state, split), evaluate(task, state, backwards)
    assert a.examples == b.examples == 157
    assert a.metric_sum == b.metric_sum
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
    one = [evaluate(task, state, Split(split.inputs[i : i + 1], split.labels[i : i + 1])).loss for i in range(4)]
    four = evaluate(task, state, Split(split.inputs[:4], split.labels[:4]))
    np.testing.assert_allclose(four.loss, np.mean(one), rtol=1e-5)


def test_an_epoch_is_a_permutation_in_batches(small: Dataset) -> None:
    """Labels stand for examples: with a linear count of them, every one of whole batches is seen once."""
    task, state = start(CONFIG, small)
    once = advance(task, KEY, STEPS, state, small.train, 10**6)
    assert once.epoch_metrics.examples == steps_per_epoch(task.batch_size, small.train) * CONFIG.batch_size == 160
    # With rate zero the loss of an epoch is the loss of the split.
    again = advance(task, KEY, STEPS, once, small.train, 1)
    assert again.epoch_metrics.examples == CONFIG.batch_size  # of the next epoch
    still = advance(with_rate(task, 0.0), KEY, STEPS, state, small.train, 10**6)
    np.testing.assert_allclose(still.epoch_metrics.loss, evaluate(task, state, small.train).loss, rtol=1e-5)


def test_stopping_anywhere_changes_nothing(small: Dataset) -> None:
    network = CNNConfig(filters=(4,), batch_norm=True, dropout=0.3)
    task, begin = start(replace(CONFIG, network=network, augment=(Flip(), Shift())), small)
    whole = begin
    for _ in range(2):
        whole = advance(task, KEY, STEPS, whole, small.train, 5)
    for cut in ((2, 3, 1, 4), (4, 9, 9)):
        parts = begin
        for n in cut:
            parts = advance(task, KEY, STEPS, parts, small.train, n)
        assert equal(parts, whole)


def test_a_seed_decides_everything(small: Dataset) -> None:
    config = replace(CONFIG, network=MLPConfig(hidden=(8,), dropout=0.5), augment=(Shift(),))
    first, again, other = (end(config, small, seed, epochs=2) for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first.state.params, other.state.params)


@pytest.mark.parametrize("network", [CNNConfig(filters=(4,), dense=(8,)), MLPConfig(hidden=(16,))])
def test_switching_dropout_on_changes_no_initial_weight(small: Dataset, network: NetworkConfig) -> None:
    plain, dropped = (start(replace(CONFIG, network=replace(network, dropout=rate)), small)[1] for rate in (None, 0.3))
    assert equal(plain, dropped)
    assert count_parameters(plain) > 500


def numbers_of(rate: float, warmup: float, smoothing: float, dropout: float, cells: float) -> TrainConfig:
    network = MLPConfig(hidden=(16,), dropout=dropout)
    optimizer = SGD(rate, momentum=rate, clip_norm=rate, schedule=Cosine(warmup=warmup))
    return replace(
        CONFIG, network=network, optimizer=optimizer, loss=CrossEntropy(smoothing), augment=(Flip(rate), Shift(cells))
    )


def test_no_program_closes_over_a_number(small: Dataset) -> None:
    """Runs that differ in every number find the same compiled programs, and each comes to numbers of its own."""
    first = end(numbers_of(0.1, 0.1, 0.1, 0.3, 2.0), small)
    programs = _executable.cache_info()
    second = end(numbers_of(0.2, 0.0, 0.0, 0.0, 1), small, epochs=2)
    assert _executable.cache_info().misses == programs.misses
    assert not equal(first.state.params, second.state.params)


def test_a_rebuilt_task_finds_its_compiled_program(small: Dataset) -> None:
    end(CONFIG, small)
    programs = _executable.cache_info()
    end(replace(CONFIG, optimizer=SGD(learning_rate=0.3)), small)
    assert _executable.cache_info().misses == programs.misses


def test_every_number_enters_as_float32(small: Dataset) -> None:
    task = make_task(replace(CONFIG, augment=(Shift(1),), network=MLPConfig(dropout=0)), small.spec)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(as_arrays(task))} == {"float32"}
    assert jax.tree.structure(as_arrays(task)) == jax.tree.structure(task)


@pytest.mark.slow
def test_the_schedule_spans_the_epochs(small: Dataset) -> None:
    """Under a cosine the last epoch moves little; a constant rate moves as much as before."""

    def moves(schedule: Schedule) -> list[float]:
        task = make_task(replace(CONFIG, optimizer=SGD(0.01, momentum=0.0, schedule=schedule)), small.spec)
        states = [p.state for p in fit_task(task, KEY, small, epochs=6)]
        return [float(optax.tree.norm(jax.tree.map(jnp.subtract, b.params, a.params))) for a, b in pairwise(states)]

    cosine, constant = moves(Cosine()), moves(Constant())
    assert cosine[-1] < 0.3 * cosine[0]
    assert constant[-1] > 0.3 * constant[0]


# ------------------------------------------------------------------------- parts of a user's own


@config
class Huber(Loss):
    """Of all outputs of an example, with a bound that is a number."""

    delta: float = number(1.0, least=0)

    def __call__(self, logits: Array, labels: Array) -> Array:
        return optax.huber_loss(logits, labels.reshape(logits.shape), delta=self.delta).sum(-1)


@config
class AbsoluteError(Metric):
    """Less is better."""

    higher_is_better = False

    def __call__(self, logits: Array, labels: Array) -> Array:
        return jnp.abs(logits - labels.reshape(logits.shape)).mean(-1)


@config
class Columns(Loss):
    """A binary cross-entropy for each column."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)


@config
class Hits(Metric):
    """The share of columns that are right."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        return ((logits > 0) == (labels > 0.5)).mean(-1)


@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()])
def test_what_is_of_classes_needs_some(loss: Loss) -> None:
    inputs = np.zeros((20, 6, 1), np.float32)
    data = Dataset.of("line", (), Split(inputs, inputs[:, 0, 0]))
    run = TrainConfig(MLPConfig(hidden=()), SGD(), loss, AbsoluteError(), batch_size=5)
    with pytest.raises(ValueError, match=f"^loss: {loss.kind()}: needs classes, but line has none: use another loss"):
        validate(make_task(run, data.spec), data)
    with pytest.raises(ValueError, match=r"^metric: accuracy: needs classes, but line has none: use another metric"):
        validate(make_task(replace(run, loss=Huber(0.5), metric=Accuracy()), data.spec), data)


@pytest.mark.parametrize("columns", [(), (2,)])
def test_a_loss_and_a_metric_of_one_s_own_learn_a_regression(columns: tuple[int, ...]) -> None:
    """On labels that are no classes; the metric is what it computes, and no accuracy."""
    inputs = np.random.default_rng(0).normal(size=(200, 6, 1)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(6, *columns)).astype(np.float32)
    data = Dataset.of("line", (), Split(inputs, np.tensordot(inputs[..., 0], weights, 1)))
    assert data.classes == ()
    assert data.spec.outputs == (2 if columns else 1)
    run = TrainConfig(MLPConfig(hidden=()), SGD(0.03), Huber(0.5), AbsoluteError(), batch_size=20)
    first, *_, last = fit_task(make_task(run, data.spec), KEY, data, epochs=20)
    assert last.valid.metric < 0.2 * first.valid.metric
    assert last.valid.metric < 0.1
    task = make_task(run, data.spec)
    outputs, _ = task.functions.apply(
        Variables(*last.state[1:3]), data.spec.standardize(data.valid.inputs), train=False, key=KEY
    )
    expected = np.abs(outputs - data.valid.labels.reshape(outputs.shape))
    np.testing.assert_allclose(last.valid.metric, expected.mean(), rtol=1e-5)


def test_labels_may_be_columns_of_zeros_and_ones() -> None:
    inputs = np.random.default_rng(0).normal(size=(300, 5, 1)).astype(np.float32)
    labels = (inputs[:, :3, 0] > 0).astype(np.float32)
    data = Dataset.of("columns", ("low", "middle", "high"), Split(inputs, labels))
    run = TrainConfig(MLPConfig(hidden=()), SGD(0.1), Columns(), Hits(), batch_size=30)
    last = end(run, data, epochs=20)
    assert last.valid.metric > 0.9


@config
class Doubled(SGD):
    """A subclass inherits numbers and parts."""

    factor: float = number(2.0, least=0)
    after: Schedule = part(Constant())

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        return optax.chain(super().__call__(steps), optax.scale(self.factor))


def test_an_optimizer_of_one_s_own_trains(small: Dataset) -> None:
    doubled, single = (end(replace(CONFIG, optimizer=o), small) for o in (Doubled(0.05), SGD(0.1)))
    for a, b in zip(*(jax.tree.leaves(p.state.params) for p in (doubled, single)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_poisoned_run_is_diverged_for_good(small: Dataset, poison: float) -> None:
    task, state = start(CONFIG, small)
    leaves, structure = jax.tree.flatten(state.params)
    leaves[-1] = leaves[-1].at[0].set(poison)
    poisoned = state._replace(params=jax.tree.unflatten(structure, leaves))
    after = advance(task, KEY, STEPS, poisoned, small.train, 3)
    assert after.diverged
    assert equal(after._replace(diverged=poisoned.diverged), poisoned)
    assert after.epoch_metrics.examples == 0
    assert equal(advance(task, KEY, STEPS, after, small.train, 3), after)


@config
class Loud(Loss):
    """The bound above which a run has diverged, times a factor."""

    factor: float = number(1.0)

    def __call__(self, logits: Array, labels: Array) -> Array:
        return 0 * logits.sum(-1) + self.factor * DIVERGED_LOSS


def test_a_loss_above_the_bound_diverges_and_one_below_does_not(small: Dataset) -> None:
    task, state = start(CONFIG, small)
    batch = Split(*(array[:32] for array in small.train))
    for factor, diverged in ((0.9, False), (1.1, True)):
        after, _ = step(replace(task, loss=Loud(factor)), KEY, STEPS, state, batch)
        assert after.diverged == diverged
        assert after.step == 1 - diverged


# ------------------------------------------------------------------------- refusals


@config
class Wrong(NetworkConfig):
    """A network that returns what its outcome says."""

    outcome: str = "columns"
    threshold: float = 0.5

    def build(self, rngs: nnx.Rngs, example: Array, outputs: int) -> nnx.Module:
        if self.outcome == "branch" and self.threshold > 0.3:
            outputs += 1
        shape = {"columns": (outputs + 1,), "maps": (outputs, 2)}.get(self.outcome, (outputs,))
        return nnx.LinearGeneral(example.shape[1:], shape, axis=(1, 2, 3), rngs=rngs)


@config
class Bare(NetworkConfig):
    pass


@config
class OneArgument(Loss):
    def __call__(self, logits: Array) -> Array:  # type: ignore[override]
        return logits.sum(-1)


@config
class Mean(Loss):
    def __call__(self, logits: Array, labels: Array) -> Array:
        return CrossEntropy()(logits, labels).mean()


@config
class MeanInEvaluation(CrossEntropy):
    def for_evaluation(self) -> Loss:
        return Mean()


@config
class Unfinished(Loss):
    pass


@config
class Confusion(Metric):
    def __call__(self, logits: Array, labels: Array) -> Array:
        return logits


@config
class Crop(Augmentation):
    def __call__(self, key: Array, batch: Split) -> Split:
        return batch._replace(inputs=batch.inputs[:, 1:])


@config
class Halved(Augmentation):
    def __call__(self, key: Array, batch: Split) -> Split:
        return batch._replace(inputs=batch.inputs.astype(jnp.bfloat16))


@config
class Inputs(Augmentation):
    def __call__(self, key: Array, batch: Split) -> Split:
        return batch.inputs  # type: ignore[return-value]


@config
class Sometimes(Augmentation):
    p: float = number(0.5)

    def __call__(self, key: Array, batch: Split) -> Split:
        return batch if self.p > 0.5 else Flip()(key, batch)


@config
class Rate(Optimizer):
    learning_rate: float = number(0.1)

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        return self.learning_rate  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": Wrong()}, r"network Wrong: called with (inputs): returned [32, 11], expected an array [32, 10]"),
        (
            {"network": Wrong("maps")},
            "network Wrong: called with (inputs): returned [32, 10, 2], expected an array [32, 10]",
        ),
        (
            {"network": Wrong("branch")},
            "network Wrong: rngs, example, outputs: a Python condition depends on a traced number: use jnp.where, make the field "
            "static(...), or replace nnx.Dropout by cnnjax.Dropout: ",
        ),
        (
            {"network": Bare()},
            "network Bare: called with (rngs, example, outputs): NotImplementedError: Bare: set `module`, ",
        ),
        ({"loss": OneArgument()}, "loss OneArgument: called with (logits, labels): TypeError: "),
        (
            {"loss": Mean()},
            "loss Mean: called with (logits, labels): returned [], expected one number per example, [32]",
        ),
        (
            {"loss": MeanInEvaluation()},
            "loss Mean: called with (logits, labels): returned [], expected one number per example, [32]",
        ),
        (
            {"loss": Unfinished()},
            "loss Unfinished: called with (logits, labels): NotImplementedError: Unfinished: a loss must implement __call__(logits, labels)",
        ),
        (
            {"metric": Confusion()},
            "metric Confusion: called with (logits, labels): returned [32, 10], expected one number per example, [32]",
        ),
        (
            {"augment": (Crop(),)},
            "augmentation Crop: called with (key, batch): returned inputs float32[32, 7, 8, 1] and "
            "labels int32[32], expected inputs float32[32, 8, 8, 1] and labels int32[32]",
        ),
        (
            {"augment": (Flip(), Halved())},
            "augmentation Halved: called with (key, batch): returned inputs bfloat16[32, 8, 8, 1] and "
            "labels int32[32], expected inputs float32[32, 8, 8, 1] and labels int32[32]",
        ),
        (
            {"augment": (Inputs(),)},
            "augmentation Inputs: called with (key, batch): returned [32, 8, 8, 1], expected a Batch, as "
            "batch._replace(inputs=...)",
        ),
        (
            {"augment": (Sometimes(),)},
            "augmentation Sometimes: key, batch: a Python condition depends on a traced number: use jnp.where",
        ),
        (
            {"optimizer": Rate()},
            "optimizer Rate: called with (steps): returned [], expected an optax.GradientTransformation",
        ),
        ({"batch_size": 161}, "batch_size: 161: must be at most 160, the number of training examples of small"),
        ({"network": CNNConfig(filters=(4, 4, 4, 4))}, "a max pool of 2x2 does not fit maps of 1x1"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(small: Dataset, changes: dict, message: str) -> None:
    task = make_task(replace(CONFIG, **changes), small.spec)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        validate(task, small)
    assert str(refused.value).startswith(message)
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(ValueError) as fitted:  # noqa: PT011
        next(fit_task(task, KEY, small, epochs=1))
    assert str(fitted.value) == str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0: must be at least 1"),
        ({"loss": "hinge"}, "loss: 'hinge': must be a Loss, such as CrossEntropy()"),
        ({"loss": CrossEntropy}, "loss: the class CrossEntropy: must be a Loss, such as CrossEntropy()"),
        ({"metric": CrossEntropy()}, "must be a Metric, such as Accuracy()"),
        ({"optimizer": SGD(schedule="linear")}, "optimizer.schedule: 'linear': must be a Schedule, such as Constant()"),  # type: ignore[arg-type]
        ({"optimizer": optax.sgd(0.1)}, "must be an Optimizer, such as SGD()"),
        ({"optimizer": SGD(learning_rate=-1)}, "learning_rate: -1.0: must be at least 0"),
        ({"augment": Flip()}, "must be a tuple of parts, such as (Flip(),)"),
        ({"augment": (Flip(), Flip(0.1))}, "duplicate value flip"),
        ({"network": MLPConfig(dropout=1.0)}, "dropout: 1.0: must be at least 0 and below 1"),
    ],
)
def test_a_part_that_is_none_or_out_of_range_is_refused(small: Dataset, changes: dict, message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        make_task(replace(CONFIG, **changes), small.spec)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@config
class Mixup(Augmentation):
    """Mixes each example with the next, labels as well."""

    share: float = number(0.7, least=0, most=1)
    classes: int = 10

    def __call__(self, key: Array, batch: Split) -> Split:
        def mixed(array: Array) -> Array:
            return self.share * array + (1 - self.share) * jnp.roll(array, 1, 0)

        return Split(mixed(batch.inputs), mixed(jax.nn.one_hot(batch.labels, self.classes)))


@pytest.mark.slow
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError(0.1)])
def test_an_augmentation_may_mix_labels(small: Dataset, loss: Loss) -> None:
    """The loss of the mixed batch, by hand; and training under it learns."""
    first, *_, last = fit_task(make_task(replace(CONFIG, loss=loss, augment=(Mixup(0.8),)), small.spec), KEY, small, 30)
    assert last.valid.metric > 0.5 > first.valid.metric
    task, state = start(replace(CONFIG, loss=loss, augment=(Mixup(0.8),)), small)
    batch = Split(*(array[:32] for array in small.train))
    one_hot = np.eye(10)[batch.labels]
    inputs = small.spec.standardize(batch.inputs)
    inputs = 0.8 * inputs + 0.2 * np.roll(inputs, 1, 0)
    logits, _ = task.functions.apply(Variables(*state[1:3]), inputs, train=False, key=KEY)
    expected = loss(logits, jnp.asarray(0.8 * one_hot + 0.2 * np.roll(one_hot, 1, 0))).mean()
    np.testing.assert_allclose(step(task, KEY, STEPS, state, batch)[1].loss, expected, rtol=1e-5)


def test_validation_depends_on_kinds_and_not_on_numbers(small: Dataset) -> None:
    """Refused where the configuration enters; the same structure is traced once."""
    from cnnjax.training.validation import _validated

    validate(make_task(CONFIG, small.spec), small)
    before = _validated.cache_info().misses
    validate(make_task(replace(CONFIG, optimizer=SGD(0.7)), small.spec), small)
    assert _validated.cache_info().misses == before


def test_a_task_is_a_pytree_of_its_numbers(small: Dataset) -> None:
    task = make_task(CONFIG, small.spec)
    found = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(task)]
    assert found == [
        "optimizer.learning_rate",
        "optimizer.momentum",
        "optimizer.weight_decay",
        "optimizer.schedule.warmup",
        "loss.label_smoothing",
        "spec.mean",
        "spec.std",
        "spec.counts",
    ]
    assert isinstance(task.spec, Spec)
    assert dataclasses.replace(task) == task


def test_an_option_that_xla_does_not_have_is_left_out() -> None:
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert compiled(lowered, {"xla_of_another_version": 1, "xla_backend_optimization_level": 0})(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        compiled(lowered, {"xla_backend_optimization_level": "high"})


def test_parameters_counts_one_run(small: Dataset) -> None:
    _, state = start(CONFIG, small)
    assert count_parameters(state) == 64 * 16 + 16 + 16 * 10 + 10
