"""Laws of sweeps: a lane is a run, lanes are apart, and what ranks first."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from cnnjax import CNNConfig, Hparams, SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.judgement import rank
from cnnjax.sweeps import (
    Lanes,
    Program,
    Trial,
    measure_test_of,
    plan,
    prepare,
    results,
    run,
    states_of,
    trials,
)
from cnnjax.training import Progress, _advance, _init, evaluate, fit, make_task

BASE = TrainConfig(
    CNNConfig(filters=(4,), batch_norm=True, dropout=0.2), Hparams(weight_decay=1e-3), batch_size=32, epochs=2
)
LIFTS = [
    Lanes(1, 2),
    Lanes(0),
    *(pytest.param(lanes, marks=pytest.mark.slow) for lanes in (Lanes(1), Lanes(2), Lanes(0, 2))),
]


def rates(*values: float, seeds: int = 1, **axes: tuple) -> tuple[Trial, ...]:
    return trials(SweepConfig(BASE, (("learning_rate", values), *axes.items()), seeds))


def last(program: Program, data: Dataset) -> Progress:
    *_, progress = run(program, data)
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
            "learning_rat: no such option; did you mean 'learning_rate'. there are activation,",
        ),
        ((("learning_rate", (0.1, -1.0)),), "learning_rate: -1.0: must be at least 0"),
        ((("seed", (0, 1)),), "seed: cannot be swept"),
        ((("data", ("digits", "mnist")),), "data: cannot be swept"),
        ((("momentum", (0.1,)), ("momentum", (0.2,))), "momentum: stands twice among the axes"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(axes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trials(SweepConfig(BASE, axes))


@pytest.mark.parametrize("lanes", LIFTS)
def test_a_lane_equals_the_single_run(small: Dataset, lanes: Lanes) -> None:
    """Three lanes on two devices: one of them is dealt out twice and dropped."""
    [program] = plan(rates(0.01, 0.1, 0.3), lanes)
    together = last(program, small)
    for row, trial in enumerate(program.trials):
        config = trial.config
        *_, alone = fit(make_task(config, small), jax.random.key(config.seed), config.hparams, small, config.epochs)
        for a, b in zip(jax.tree.leaves(lane(together[2:], row)), jax.tree.leaves(alone[2:]), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("lanes", LIFTS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_poison_in_one_lane_leaves_the_others_bit_equal(small: Dataset, lanes: Lanes, poison: float) -> None:
    [program] = plan(rates(0.05, 0.1, 0.2), lanes)
    task, config = make_task(program.config, small), program.config
    keys = jax.random.split(jax.random.key(0), 3)
    hparams = jax.tree.map(lambda *v: np.stack(v), *(replace(t.config.hparams, steps=10) for t in program.trials))
    healthy = _init(task, lanes, keys, hparams, small.train.inputs[:1])
    poisoned = healthy._replace(params=jax.tree.map(lambda a: a.at[1].set(poison), healthy.params))
    ends = [_advance(task, lanes, keys, state, small.train, hparams, 5) for state in (healthy, poisoned)]
    assert np.asarray(ends[0].diverged).tolist() == [False, False, False]
    assert np.asarray(ends[1].diverged).tolist() == [False, True, False]
    for row in (0, 2):
        assert jax.tree.all(jax.tree.map(np.array_equal, lane(ends[0], row), lane(ends[1], row)))
    assert config.epochs == 2


def test_a_rate_that_explodes_diverges_alone(small: Dataset) -> None:
    [wild] = plan(rates(0.01, 1e30, 0.1, seeds=2))
    [tame] = plan(rates(0.01, 0.05, 0.1, seeds=2))
    ends = [last(program, small) for program in (wild, tame)]
    found = results(wild, ends[0])
    assert [result.status for result in found] == ["complete"] * 2 + ["diverged"] * 2 + ["complete"] * 2
    assert [result.epochs for result in found] == [2, 2, 0, 0, 2, 2]
    assert all(math.isnan(number) for result in found[2:4] for number in result[4:])
    for row in (0, 1, 4, 5):
        assert jax.tree.all(jax.tree.map(np.array_equal, lane(ends[0][2:], row), lane(ends[1][2:], row)))


def test_too_many_trials_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="seeds: 1000000000: 2000000000 trials in all"):
        rates(0.1, 0.2, seeds=10**9)


def test_numbers_may_be_written_as_integers(small: Dataset) -> None:
    [program] = plan(trials(SweepConfig(BASE, (("momentum", (0, 0.9)), ("learning_rate", (1, 0.01))))))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnjax.training.prepare", lambda task, keys, hparams, *rest: seen.append(hparams))
        prepare(program, small)
    np.testing.assert_allclose(seen[0].momentum, np.repeat([0, 0.9], 6))
    np.testing.assert_allclose(seen[0].learning_rate, np.tile(np.repeat([1, 0.01], 3), 2))


def test_lanes_also_run_with_64_bit_types(small: Dataset) -> None:
    with jax.enable_x64(True):
        [program] = plan(rates(0.01, 0.1), Lanes())
        assert np.isfinite(np.asarray(last(program, small).train.loss)).all()


def test_the_winner_s_test_metrics_are_its_own_lanes(small: Dataset) -> None:
    [program] = plan(rates(0.001, 0.1, seeds=2))
    progress = last(program, small)
    winner = rank(results(program, progress))[0]
    assert winner.values["learning_rate"] == 0.1
    trials = [result.trial for result in winner.results]
    tested = measure_test_of(trials, states_of(program, progress.state, trials, small), small)
    task = make_task(program.config, small)
    assert sorted(tested) == [2, 3]
    for row, numbers in tested.items():
        alone = evaluate(task, lane(progress.state, row), small.test)
        assert numbers == pytest.approx((float(alone.accuracy), float(alone.loss)), rel=1e-5)
