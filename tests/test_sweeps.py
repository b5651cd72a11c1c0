"""Laws of sweeps: a lane is a run, lanes are apart, and what ranks first."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import (
    SGD,
    Accuracy,
    Adam,
    CNNConfig,
    CrossEntropy,
    Flip,
    Linear,
    Lion,
    MLPConfig,
    Muon,
    NetworkConfig,
    OneCycle,
    Optimizer,
    RMSprop,
    Shift,
    Step,
    SweepConfig,
    TrainConfig,
    training,
)
from cnnjax.data import Dataset
from cnnjax.sweeps import (
    Program,
    Trial,
    compile_program,
    measure_test_of,
    plan,
    rank,
    results,
    stacked,
    states_of,
    structure,
    trials,
)
from cnnjax.training import Lanes, Progress, as_arrays, evaluate, fit_task, make_task, train
from cnnjax.training.programs import _advance, _executable, _init

BASE = TrainConfig(
    CNNConfig(filters=(4,), batch_norm=True, dropout=0.2), SGD(weight_decay=1e-3), batch_size=32, epochs=2
)
LIFTS = [
    Lanes(1, 2),
    *(pytest.param(lanes, marks=pytest.mark.slow) for lanes in (Lanes(0), Lanes(1), Lanes(2), Lanes(0, 2))),
]


def rates(*values: float, seeds: int = 1, **axes: tuple) -> tuple[Trial, ...]:
    return trials(SweepConfig(BASE, (("learning_rate", values), *axes.items()), seeds))


def last(program: Program, data: Dataset) -> Progress:
    *_, progress = train(compile_program(program, data))
    return progress


def lane(tree: object, row: int) -> object:
    return jax.tree.map(lambda array: np.asarray(array)[row], tree)


def test_trials_are_every_point_under_every_seed() -> None:
    found = trials(SweepConfig(replace(BASE, seed=7), (("learning_rate", (0.1, 0.2)), ("filters", ((4,), (8,)))), 2))
    assert [(t.number, t.point, dict(t.values)["learning_rate"], t.config.network.filters, t.config.seed) for t in found] == [
        (0, 0, 0.1, (4,), 7), (1, 0, 0.1, (4,), 8), (2, 1, 0.1, (8,), 7), (3, 1, 0.1, (8,), 8),
        (4, 2, 0.2, (4,), 7), (5, 2, 0.2, (4,), 8), (6, 3, 0.2, (8,), 7), (7, 3, 0.2, (8,), 8),
    ]  # fmt: skip


def test_numbers_and_seeds_are_lanes_and_shapes_are_programs() -> None:
    axes = (
        ("learning_rate", (0.1, 0.2)),
        ("momentum", (0.0, 0.9)),
        ("filters", ((4,), (8,))),
        ("activation", ("relu", "tanh")),
    )
    programs = plan(trials(SweepConfig(BASE, axes, 3)))
    assert [len(program.trials) for program in programs] == [12] * 4
    assert sorted(trial.number for program in programs for trial in program.trials) == list(range(48))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            (("learning_rat", (0.1,)),),
            r"learning_rat: no such option: did you mean 'learning_rate'\? use one of activation,",
        ),
        ((("learning_rate", (0.1, -1.0)),), "learning_rate: -1.0: must be at least 0"),
        ((("seed", (0, 1)),), "seed: cannot be swept"),
        ((("data", ("digits", "mnist")),), "data: cannot be swept"),
        ((("metric", (Accuracy(),)),), "metric: cannot be swept"),
        ((("momentum", (0.1,)), ("momentum", (0.2,))), "momentum: duplicate axis"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(axes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trials(SweepConfig(BASE, axes))


def alone(trial: Trial, data: Dataset) -> Progress:
    """A trial trained by `fit`, without lanes."""
    config = trial.config
    *_, progress = fit_task(make_task(config, data.spec), jax.random.key(config.seed), data, config.epochs)
    return progress


@pytest.mark.parametrize("lanes", LIFTS)
def test_a_lane_equals_the_single_run(small: Dataset, lanes: Lanes) -> None:
    """Three lanes on two devices: one of them is computed twice and dropped."""
    [program] = plan(rates(0.01, 0.1, 0.3), lanes)
    together = last(program, small)
    for row, trial in enumerate(program.trials):
        pairs = zip(jax.tree.leaves(lane(together[2:], row)), jax.tree.leaves(alone(trial, small)[2:]), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def every_number(
    optimizer: Optimizer, network: NetworkConfig, dropout: tuple[float, ...] = (0.1, 0.3, 0.0)
) -> tuple[Trial, ...]:
    """Three trials that differ in every kind of number that there is."""
    base = TrainConfig(network, optimizer, CrossEntropy(), augment=(Flip(), Shift()), batch_size=32, epochs=2)
    axes = {
        "learning_rate": (0.01, 0.1, 0.003),
        "clip_norm": (0.1, 1.0, 5.0),
        "warmup": (0.0, 0.1, 0.3),
        "dropout": dropout,
        "flip.p": (0.3, 0.7, 1.0),
        "cells": (1.0, 2.0, 0.0),
        "label_smoothing": (0.0, 0.1, 0.2),
    }
    return trials(SweepConfig(base, tuple(axes.items()), 1, zipped=(tuple(axes),)))


NETWORKS = {"mlp": MLPConfig(hidden=(8,), dropout=0.2), "cnn": CNNConfig(filters=(4,), batch_norm=True, dropout=0.2)}
OPTIMIZERS = {"sgd": SGD(weight_decay=1e-3, clip_norm=1.0), "adam": Adam(clip_norm=1.0)}


def bit_equal(a: object, b: object) -> list[str]:
    """Where two trees differ in any bit."""
    pairs = zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [
        jax.tree_util.keystr(path)
        for (path, x), y in pairs
        if (np.asarray(x).dtype, np.asarray(x).tobytes()) != (np.asarray(y).dtype, np.asarray(y).tobytes())
    ]


@pytest.mark.parametrize(
    ("optimizer", "network", "lanes"),
    [
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sgd", "mlp", Lanes(1, 1)),
                ("adam", "mlp", Lanes(1, 2)),
                ("sgd", "cnn", Lanes(1, 1)),
                ("sgd", "cnn", Lanes(1, 2)),
                ("adam", "cnn", Lanes(1, 1)),
                ("adam", "cnn", Lanes(1, 2)),
            )
        ),
    ],
)
def test_a_lane_of_any_numbers_is_the_single_run_to_the_bit(
    small: Dataset, optimizer: str, network: str, lanes: Lanes
) -> None:
    """Where lanes run one after the other: parameters, statistics, optimizer and metrics."""
    [program] = plan(every_number(OPTIMIZERS[optimizer], NETWORKS[network]), lanes)
    together = last(program, small)
    ends = [alone(trial, small) for trial in program.trials]
    for row, single in enumerate(ends):
        assert bit_equal(lane(together[2:], row), single[2:]) == []
    assert bit_equal(ends[0].state.params, ends[1].state.params)


OTHERS: dict[str, tuple[Optimizer, dict[str, tuple[float, ...]]]] = {
    "lion": (Lion(), {"b1": (0.9, 0.8), "b2": (0.99, 0.9), "weight_decay": (0.01, 0.0)}),
    "rmsprop": (RMSprop(), {"decay": (0.9, 0.8), "momentum": (0.0, 0.9), "eps": (1e-8, 1e-3)}),
    "muon": (
        Muon(),
        {
            "optimizer.momentum": (0.95, 0.8),
            "weight_decay": (0.0, 0.01),
            "adam_learning_rate": (0.001, 0.1),
            "eps": (1e-8, 1e-6),
        },
    ),
    "linear": (SGD(schedule=Linear()), {"final": (0.0, 0.5), "warmup": (0.0, 0.2)}),
    "one-cycle": (
        SGD(schedule=OneCycle()),
        {"rise": (0.3, 0.2), "fall": (0.85, 0.7), "initial": (0.04, 0.1), "final": (0.0, 0.01)},
    ),
    "step": (SGD(schedule=Step()), {"first": (0.5, 0.2), "second": (0.75, 0.5), "drop": (0.1, 0.5)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [Lanes(1, 1), Lanes(1, 2)], ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_a_lane_of_any_optimizer_or_schedule_is_the_single_run_to_the_bit(
    small: Dataset, name: str, lanes: Lanes
) -> None:
    optimizer, axes = OTHERS[name]
    axes = {"learning_rate": (0.01, 0.003), "ema": (0.9, 0.5), **axes}
    base = TrainConfig(CNNConfig(filters=(4,), batch_norm=True), optimizer, batch_size=32, epochs=2, ema=0.99)
    [program] = plan(trials(SweepConfig(base, tuple(axes.items()), 1, zipped=(tuple(axes),))), lanes)
    together = last(program, small)
    ends = [alone(trial, small) for trial in program.trials]
    for row, single in enumerate(ends):
        assert bit_equal(lane(together[2:], row), single[2:]) == []
    assert bit_equal(ends[0].state.params, ends[1].state.params)


def test_one_program_serves_all_numbers(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that differ in numbers are traced and compiled once, and other numbers find the same program."""
    traced = []
    advance = training.advance
    monkeypatch.setattr("cnnjax.training.programs.advance", lambda *arguments: traced.append(1) or advance(*arguments))
    first = every_number(SGD(weight_decay=1e-3, clip_norm=1.0), MLPConfig(hidden=(6,), dropout=0.2))
    [program] = plan(first, Lanes())
    compile_program(program, small)
    assert len(traced) == 1
    compiled = _executable.cache_info().misses
    other = every_number(SGD(0.5, 0.0, 0.0, clip_norm=0.5), MLPConfig(hidden=(6,), dropout=0.7), (0.5, 0.0, 0.9))
    [again] = plan(other, Lanes())
    compile_program(again, small)
    assert len(traced) == 1
    assert _executable.cache_info().misses == compiled


@pytest.mark.parametrize(
    ("name", "values", "programs"),
    [
        ("learning_rate", (0.1, 0.2), 1),
        ("warmup", (0.0, 0.5), 1),
        ("label_smoothing", (0.0, 0.1), 1),
        ("dropout", (0.0, 0.5), 1),
        ("dropout", (None, 0.0, 0.5), 2),
        ("clip_norm", (None, 1.0, 2.0), 2),
        ("clip_norm", (0.0, 1.0), 1),
        ("cells", (0, 1, 1.5), 1),
        ("p", (0.0, 1.0), 1),
        ("augment", ((), (Flip(),), (Flip(0.1),), (Flip(), Shift())), 3),
        ("optimizer", (SGD(), SGD(0.2), Adam(), Adam(0.1)), 2),
        ("loss", (CrossEntropy(), CrossEntropy(0.1)), 1),
        ("nesterov", (False, True), 2),
        ("batch_size", (16, 32), 2),
        ("ema", (None, 0.0, 0.9), 2),
        ("patience", (None, 1, 5), 1),
    ],
)
def test_numbers_share_a_structure_and_none_is_another(name: str, values: tuple, programs: int) -> None:
    base = BASE if name == "augment" else replace(BASE, augment=(Flip(), Shift()))
    found = trials(SweepConfig(base, ((name, values),), 2))
    assert len({structure(trial.config) for trial in found}) == programs
    assert len(plan(found)) == programs


@pytest.mark.slow
@pytest.mark.parametrize("lanes", LIFTS)
@pytest.mark.parametrize("poison", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_poison_in_one_lane_leaves_the_others_bit_equal(small: Dataset, lanes: Lanes, poison: float) -> None:
    [program] = plan(rates(0.05, 0.1, 0.2), lanes)
    task, _ = stacked(program, small.spec)
    keys, steps = jax.random.split(jax.random.key(0), 3), np.full(3, 10, np.int32)
    healthy = _init(lanes, task, keys)
    poisoned = jax.tree.map(jnp.array, healthy)  # a state is donated
    poisoned = poisoned._replace(params=jax.tree.map(lambda a: a.at[1].set(poison), poisoned.params))
    ends = [
        _advance(lanes, task, keys, steps, state, small.train, np.full(3, 5, np.int32)) for state in (healthy, poisoned)
    ]
    assert np.asarray(ends[0].diverged).tolist() == [False, False, False]
    assert np.asarray(ends[1].diverged).tolist() == [False, True, False]
    for row in (0, 2):
        assert jax.tree.all(jax.tree.map(np.array_equal, lane(ends[0], row), lane(ends[1], row)))


@pytest.mark.slow
def test_a_rate_that_explodes_diverges_alone(small: Dataset) -> None:
    [wild] = plan(rates(0.01, 1e30, 0.1, seeds=2))
    [tame] = plan(rates(0.01, 0.05, 0.1, seeds=2))
    ends = [last(program, small) for program in (wild, tame)]
    found = results(wild, ends[0])
    assert [result.status for result in found] == ["complete"] * 2 + ["diverged"] * 2 + ["complete"] * 2
    assert [result.epochs for result in found] == [2, 2, 0, 0, 2, 2]
    assert all(math.isnan(number) for result in found[2:4] for number in result[4:7])
    for row in (0, 1, 4, 5):
        assert jax.tree.all(jax.tree.map(np.array_equal, lane(ends[0][2:], row), lane(ends[1][2:], row)))


def test_too_many_trials_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="seeds: 1000000000: 2000000000 trials in all"):
        rates(0.1, 0.2, seeds=10**9)


def test_numbers_may_be_written_as_integers(small: Dataset) -> None:
    [program] = plan(trials(SweepConfig(BASE, (("momentum", (0, 0.9)), ("learning_rate", (1, 0.01))))))
    task, _ = stacked(program, small.spec)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(task)} == {"float32"}
    np.testing.assert_allclose(task.optimizer.momentum, np.repeat([0, 0.9], 6))
    np.testing.assert_allclose(task.optimizer.learning_rate, np.tile(np.repeat([1, 0.01], 3), 2))


@pytest.mark.slow
def test_lanes_also_run_with_64_bit_types(small: Dataset) -> None:
    with jax.enable_x64(True):
        [program] = plan(rates(0.01, 0.1), Lanes())
        assert np.isfinite(np.asarray(last(program, small).train.loss)).all()


@pytest.mark.slow
def test_lanes_with_64_bit_types_equal_the_single_run(small: Dataset) -> None:
    """Lanes are the single run there as well; numbers stay float32, whose programs other numbers find."""
    with jax.enable_x64(True):
        [program] = plan(every_number(SGD(clip_norm=1.0), NETWORKS["mlp"])[:2], Lanes())
        together = last(program, small)
        assert np.isfinite(np.asarray(together.train.loss)).all()
        assert {leaf.dtype.name for leaf in jax.tree.leaves(together.state.params)} == {"float32"}
        single = [alone(program.trials[0], small)]
        compiled = _executable.cache_info().misses
        single.append(alone(program.trials[1], small))
        assert _executable.cache_info().misses == compiled
        for row, progress in enumerate(single):
            assert bit_equal(lane(together[2:], row), progress[2:]) == []


@pytest.mark.slow
def test_the_winner_s_test_metrics_are_its_own_lanes(small: Dataset) -> None:
    [program] = plan(rates(0.001, 0.1, seeds=2))
    progress = last(program, small)
    winner = rank(results(program, progress))[0]
    assert winner.values["learning_rate"] == 0.1
    trials = [result.trial for result in winner.results]
    tested = measure_test_of(trials, states_of(program, progress.state, trials, small.spec), small)
    task = as_arrays(make_task(program.config, small.spec))
    assert sorted(tested) == [2, 3]
    for row, numbers in tested.items():
        single = evaluate(task, lane(progress.state, row), small.test)
        assert numbers == pytest.approx((float(single.metric), float(single.loss)), rel=1e-5)
