"""Laws of training: what must hold for any task."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import CNNConfig, Hparams, MLPConfig, TrainConfig
from cnnjax.config import NetworkConfig
from cnnjax.data import Dataset, Split
from cnnjax.losses import cross_entropy, squared_error
from cnnjax.optimizers import SCHEDULES, SGD, with_warmup
from cnnjax.training import (
    DIVERGED_LOSS,
    _advance,
    _compile,
    advance,
    evaluate,
    fit,
    init,
    make_task,
    parameters,
    step,
    steps_per_epoch,
)

CONFIG = TrainConfig(MLPConfig(hidden=(16,)), Hparams(learning_rate=0.1), batch_size=32, epochs=3)
KEY = jax.random.key(0)
HPARAMS = Hparams(learning_rate=0.1, steps=15)


def equal(a: object, b: object) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b))


def start(config: TrainConfig, data: Dataset, hparams: Hparams = HPARAMS):
    task = make_task(config, data)
    return task, init(task, KEY, hparams, data.train.inputs[:1])


# ------------------------------------------------------------------------- losses


def test_cross_entropy_by_hand() -> None:
    logits, labels = jnp.asarray([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), jnp.asarray([1, 2])
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(cross_entropy(logits, labels, Hparams()), -log_p[[0, 1], [1, 2]], rtol=1e-6)
    smoothed = np.full((2, 3), 0.3 / 3)
    smoothed[[0, 1], [1, 2]] += 0.7
    found = cross_entropy(logits, labels, Hparams(label_smoothing=0.3))
    np.testing.assert_allclose(found, -(smoothed * log_p).sum(1), rtol=1e-6)


def test_squared_error_by_hand() -> None:
    logits = jnp.asarray([[1.0, 2.0, 0.5]])
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    expected = 0.5 * ((1 - p[1]) ** 2 + p[0] ** 2 + p[2] ** 2)
    np.testing.assert_allclose(squared_error(logits, jnp.asarray([1]), Hparams()), [expected], rtol=1e-6)


# ------------------------------------------------------------------------- optimizers


def test_unit_schedules() -> None:
    at = jnp.asarray([0.0, 0.49, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(SCHEDULES["constant"](at), np.ones(5))
    np.testing.assert_allclose(SCHEDULES["step"](at), [1, 1, 0.1, 0.01, 0.01])
    np.testing.assert_allclose(SCHEDULES["cosine"](at)[jnp.asarray([0, 2, 4])], [1, 0.5, 0], atol=1e-6)


def test_warmup_rises_then_the_schedule_begins() -> None:
    rates = jax.vmap(lambda i: with_warmup(SCHEDULES["cosine"], i, 100, 0.1))(jnp.arange(100))
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert rates[10] == 1
    assert (np.diff(rates[10:]) < 0).all()
    assert with_warmup(SCHEDULES["cosine"], 7, 0, 0.0) == 1
    plain = jax.vmap(lambda i: with_warmup(SCHEDULES["cosine"], i, 100, 0.0))(jnp.arange(100))
    np.testing.assert_allclose(plain, optax.cosine_decay_schedule(1.0, 100)(jnp.arange(100)), atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand_with_traced_numbers(nesterov: bool) -> None:
    """Momentum and coupled decay, on kernels only."""
    params = {"kernel": jnp.asarray([[1.0, -2.0]]), "bias": jnp.asarray([3.0])}
    gradients = {"kernel": jnp.asarray([[0.5, 0.5]]), "bias": jnp.asarray([1.0])}

    @jax.jit
    def run(hparams: Hparams) -> dict:
        optimizer = SGD(SCHEDULES["constant"], nesterov)(hparams)
        now, state = params, optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(gradients, state, now)
            now = optax.apply_updates(now, updates)
        return now

    rate, momentum, decay = 0.1, 0.8, 0.3
    expected, trace = dict(params), {name: np.zeros(v.shape) for name, v in params.items()}
    for _ in range(3):
        for name, g in gradients.items():
            g = np.asarray(g) + (decay * expected[name] if name == "kernel" else 0)
            trace[name] = momentum * trace[name] + g
            expected[name] = expected[name] - rate * (g + momentum * trace[name] if nesterov else trace[name])
    found = run(Hparams(rate, momentum, decay, steps=3))
    for name in params:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


# ------------------------------------------------------------------------- laws


def test_zero_rate_changes_nothing(small: Dataset) -> None:
    task, before = start(CONFIG, small)
    after = advance(task, KEY, before, small.train, replace(HPARAMS, learning_rate=0.0), 5)
    assert equal(after.params, before.params)
    assert after.step == 5


@pytest.mark.parametrize(
    ("loss", "network"), [("cross_entropy", CNNConfig(filters=(8,))), ("squared_error", MLPConfig(hidden=(16,)))]
)
def test_it_overfits_32_images(small: Dataset, loss: str, network: NetworkConfig) -> None:
    few = small._replace(train=Split(*(array[:32] for array in small.train)))
    config = replace(CONFIG, network=network, loss=loss)
    *_, last = fit(make_task(config, few), KEY, Hparams(learning_rate=0.1), few, epochs=300)
    assert last.train.accuracy == 1
    assert last.train.loss < 0.02


def test_evaluation_ignores_order_and_counts_every_example_once(small: Dataset) -> None:
    task, state = start(CONFIG, small)
    order = np.random.default_rng(0).permutation(len(small.train.labels))[:157]  # not whole batches
    split = Split(small.train.inputs[order], small.train.labels[order])
    backwards = Split(split.inputs[::-1], split.labels[::-1])
    a, b = evaluate(task, state, split), evaluate(task, state, backwards)
    assert a.examples == b.examples == 157
    assert a.correct == b.correct
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)
    one = [evaluate(task, state, Split(split.inputs[i : i + 1], split.labels[i : i + 1])).loss for i in range(4)]
    four = evaluate(task, state, Split(split.inputs[:4], split.labels[:4]))
    np.testing.assert_allclose(four.loss, np.mean(one), rtol=1e-5)


def test_an_epoch_is_a_permutation_in_batches(small: Dataset) -> None:
    """Labels stand for examples: with a linear count of them, every one of whole batches is seen once."""
    task, state = start(CONFIG, small)
    once = advance(task, KEY, state, small.train, HPARAMS, 10**6)
    assert once.seen.examples == steps_per_epoch(task.batch_size, small.train) * CONFIG.batch_size == 160
    # With rate zero the loss of an epoch is the loss of the split.
    again = advance(task, KEY, once, small.train, HPARAMS, 1)
    assert again.seen.examples == CONFIG.batch_size  # of the next epoch
    still = advance(task, KEY, state, small.train, replace(HPARAMS, learning_rate=0.0), 10**6)
    np.testing.assert_allclose(still.seen.loss, evaluate(task, state, small.train).loss, rtol=1e-5)


def test_stopping_anywhere_changes_nothing(small: Dataset) -> None:
    config = replace(CONFIG, network=CNNConfig(filters=(4,), batch_norm=True, dropout=0.3))
    task, begin = start(config, small)
    run = jax.jit(lambda state, n: advance(task, KEY, state, small.train, HPARAMS, n))
    whole = begin
    for _ in range(2):
        whole = run(whole, 5)
    for cut in ((2, 3, 1, 4), (4, 9, 9)):
        parts = begin
        for n in cut:
            parts = run(parts, n)
        assert equal(parts, whole)


def test_a_seed_decides_everything(small: Dataset) -> None:
    task = make_task(replace(CONFIG, network=MLPConfig(hidden=(8,), dropout=0.5)), small)

    def end(seed: int):
        *_, last = fit(task, jax.random.key(seed), Hparams(), small, epochs=2)
        return last

    assert equal(end(1), end(1))
    assert not equal(end(1).state.params, end(2).state.params)


def test_a_rebuilt_task_finds_its_compiled_program(small: Dataset) -> None:
    list(fit(make_task(CONFIG, small), KEY, Hparams(), small, epochs=1))
    compiled = _advance._cache_size()
    list(fit(make_task(replace(CONFIG), small), KEY, Hparams(learning_rate=0.3), small, epochs=1))
    assert _advance._cache_size() == compiled


def test_the_schedule_spans_the_epochs(small: Dataset) -> None:
    """Under a cosine the last epoch moves little; a constant rate moves as much as before."""

    def moves(schedule: str) -> list[float]:
        task = make_task(replace(CONFIG, schedule=schedule), small)
        states = [p.state for p in fit(task, KEY, Hparams(learning_rate=0.01, momentum=0.0), small, epochs=6)]
        return [float(optax.tree.norm(jax.tree.map(jnp.subtract, b.params, a.params))) for a, b in pairwise(states)]

    cosine, constant = moves("cosine"), moves("constant")
    assert cosine[-1] < 0.3 * cosine[0]
    assert constant[-1] > 0.3 * constant[0]


# ------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_poisoned_run_is_diverged_for_good(small: Dataset, poison: float) -> None:
    task, state = start(CONFIG, small)
    leaves, structure = jax.tree.flatten(state.params)
    leaves[-1] = leaves[-1].at[0].set(poison)
    poisoned = state._replace(params=jax.tree.unflatten(structure, leaves))
    after = advance(task, KEY, poisoned, small.train, HPARAMS, 3)
    assert after.diverged
    assert equal(after._replace(diverged=poisoned.diverged), poisoned)
    assert after.seen.examples == 0
    assert equal(advance(task, KEY, after, small.train, HPARAMS, 3), after)


def test_a_loss_above_the_bound_diverges_and_one_below_does_not(small: Dataset) -> None:
    task, state = start(CONFIG, small)
    batch = Split(*(array[:32] for array in small.train))
    for factor, diverged in ((0.9, False), (1.1, True)):
        loud = task._replace(loss=lambda logits, labels, hparams, f=factor: 0 * logits.sum(-1) + f * DIVERGED_LOSS)
        after, _ = step(loud, KEY, state, batch, HPARAMS)
        assert after.diverged == diverged
        assert after.step == 1 - diverged


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 161}, "batch_size: 161: the training split of small has 160 examples"),
        ({"loss": "hinge"}, "loss: 'hinge': use one of cross_entropy, squared_error"),
        ({"schedule": "linear"}, "schedule: 'linear'"),
        ({"network": CNNConfig(filters=(4, 4, 4, 4))}, "does not fit"),
    ],
)
def test_a_task_that_cannot_be_is_refused(small: Dataset, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(replace(CONFIG, **changes), small)


def test_an_option_that_xla_does_not_have_is_left_out() -> None:
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    assert _compile(lowered, {"xla_of_another_version": 1, "xla_backend_optimization_level": 0})(1.0) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_backend_optimization_level"):
        _compile(lowered, {"xla_backend_optimization_level": "high"})


def test_parameters_counts_one_run(small: Dataset) -> None:
    _, state = start(CONFIG, small)
    assert parameters(state) == 64 * 16 + 16 + 16 * 10 + 10
