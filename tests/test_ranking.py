"""Laws of ranking: what ranks first, what ties with it, what lies beyond, and what matters."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

import cnnjax
from cnnjax import (
    SGD,
    Accuracy,
    Adam,
    CNNConfig,
    Flip,
    InMemory,
    LeNet5Config,
    Metric,
    MLPConfig,
    Optimizer,
    Shift,
    SweepConfig,
    TrainConfig,
    config,
    number,
)
from cnnjax.config import Range
from cnnjax.data import Dataset
from cnnjax.descriptions import configuration, describe
from cnnjax.options import with_values
from cnnjax.planning import Execution
from cnnjax.runs import Finished, RunFolder, begin, read_metrics, result_of, run
from cnnjax.runs.records import Counts
from cnnjax.sweeps import (
    Ranked,
    Result,
    Trial,
    compare,
    edges,
    effects,
    rank,
    search,
    summarize,
    trials,
    variance_shares,
)
from cnnjax.sweeps.blocks import fit_blocks
from cnnjax.sweeps.comparison import critical, least_correlation

BASE = TrainConfig(
    CNNConfig(filters=(4,), batch_norm=True, dropout=0.2), SGD(weight_decay=1e-3), batch_size=32, epochs=2
)
NAN = math.nan


def result(point: int, seed: int, accuracy: float, loss: float, status: str = "complete", epochs: int = 2) -> Result:
    config = replace(BASE, seed=seed)
    trial = Trial(100 * point + seed, point, (("learning_rate", point),), config)
    return Result(trial, status, 9, epochs, loss, loss, accuracy)


def ranked(*accuracies: Sequence[float]) -> list[Ranked]:
    """Points, one for each row, of which NaN is a diverged seed."""
    return rank(
        [
            result(point, seed, accuracy, 0.5, "diverged" if math.isnan(accuracy) else "complete")
            for point, row in enumerate(accuracies)
            for seed, accuracy in enumerate(row)
        ]
    )


def numbers(points: Sequence[Ranked]) -> list[int]:
    return [point.values["learning_rate"] for point in points]


def table(sweep: SweepConfig, accuracies: Sequence[float]) -> list[Ranked]:
    """The points of a sweep whose trials came to these accuracies."""
    return rank(
        [
            Result(trial, "complete", 9, 2, 0.5, 0.5, accuracy)
            for trial, accuracy in zip(trials(sweep), accuracies, strict=True)
        ]
    )


# ------------------------------------------------------------------------- ranking


def test_rank_by_mean_accuracy_then_loss_and_diverged_last() -> None:
    nan = math.nan
    table = [
        result(0, 0, 0.9, 0.5), result(0, 1, 0.8, 0.5),
        result(1, 0, 0.99, 0.1), result(1, 1, nan, nan, "diverged"),
        result(2, 0, 0.85, 0.3), result(2, 1, 0.85, 0.3),
        result(3, 0, nan, nan, "diverged"), result(3, 1, nan, nan, "diverged"),
        result(4, 0, 0.7, 0.1), result(4, 1, 0.9, 0.1),
    ]  # fmt: skip
    ranked = rank(table)
    assert [point.values["learning_rate"] for point in ranked] == [2, 0, 4, 1, 3]
    assert [point.complete for point in ranked] == [True, True, True, False, False]
    assert ranked[1].valid_metric.mean == pytest.approx(0.85)
    assert ranked[1].valid_metric.std == pytest.approx(0.1 / math.sqrt(2))


def test_a_stopped_point_ranks_between_complete_and_diverged_ones_and_by_how_far_it_came() -> None:
    points = rank(
        [
            result(0, 0, 0.3, 0.5, epochs=9), result(0, 1, 0.3, 0.5, epochs=9),
            result(1, 0, 0.9, 0.1, "stopped", 1), result(1, 1, 0.9, 0.1, "stopped", 1),
            result(2, 0, 0.7, 0.1, "stopped", 3), result(2, 1, 0.7, 0.1, "stopped", 3),
            result(3, 0, 0.8, 0.1, "stopped", 3), result(3, 1, 0.8, 0.1, "stopped", 3),
            result(4, 0, 0.99, 0.1, "stopped", 3), result(4, 1, NAN, NAN, "diverged", 3),
            result(5, 0, 0.95, 0.1, epochs=9), result(5, 1, NAN, NAN, "diverged", 3),
            result(6, 0, NAN, NAN, "diverged", 8), result(6, 1, NAN, NAN, "diverged", 8),
        ]
    )  # fmt: skip
    assert numbers(points) == [0, 3, 2, 1, 4, 5, 6]


@config
class Error(Metric):
    """The share of examples that are wrong."""

    higher_is_better = False


@config
class KnownError(Error):
    """The share of examples that are wrong, of which guessing is known."""

    def chance(self, classes: int) -> float | None:
        return 1 - 1 / classes


def above(point: int, *standard_errors: float, accuracy: float = 0.5) -> list[Result]:
    return [result(point, seed, accuracy, 0.5)._replace(above_chance=by) for seed, by in enumerate(standard_errors)]


def unstable(points: Sequence[Ranked]) -> set[int]:
    return set(numbers([point for point in points if point.unstable]))


def test_a_point_whose_seeds_disagree_ranks_below_all_that_are_stable() -> None:
    stable = [[0.5, 0.51, 0.52], [0.4, 0.41, 0.42], [0.3, 0.31, 0.32], [0.2, 0.21, 0.22]]
    wild = [0.99, 0.98, 0.5]
    points = ranked(wild, *stable)
    assert np.mean(wild) > 0.52
    assert numbers(points) == [1, 2, 3, 4, 0]
    assert unstable(points) == {0}
    assert numbers(ranked(wild, *stable[:3])) == [0, 1, 2, 3]  # of four points no spread can be called usual
    assert numbers(ranked(wild[::2], *(row[:2] for row in stable))) == [0, 1, 2, 3, 4]  # nor of two seeds
    stopped = [r._replace(status="stopped", epochs=1) for point in points for r in point.results]
    assert numbers(rank(stopped)) == [1, 2, 3, 4, 0]  # as halving sees them


def test_a_point_with_a_seed_no_better_than_guessing_ranks_below_all_that_are_stable() -> None:
    learned = [*above(0, 9, 8, accuracy=0.4), *above(1, 4, 3.1, accuracy=0.3)]
    rows = [*learned, *above(2, 20, 2.9, accuracy=0.6), *above(3, -3, -2, accuracy=0.1)]
    assert numbers(rank(rows)) == [0, 1, 2, 3]
    assert unstable(rank(rows)) == {2, 3}
    assert [each.verdict for each in compare(rank(rows))][2:] == ["unstable", "unstable"]


def test_a_sweep_that_has_not_learned_calls_no_point_unstable() -> None:
    rows = [*above(0, 5.9, 9), *above(1, 1, 20, accuracy=0.6), *above(2, -1, 0, accuracy=0.1)]
    assert numbers(rank(rows)) == [1, 0, 2]
    assert unstable(rank(rows)) == set()
    assert unstable(rank([*rows, *above(3, 6.1, 9)])) == {1, 2}
    assert unstable(rank([*rows, *(r._replace(status="diverged") for r in above(3, 7, 7))])) == set()


def test_points_at_chance_do_not_make_others_unstable() -> None:
    """Their spread is hardly any: it is not that of a usual point."""
    rng = np.random.default_rng(0)
    learned = [r._replace(valid_metric=0.9 + rng.normal(0, 0.01)) for p in range(5) for r in above(p, 9, 9, 9)]
    collapsed = [r._replace(valid_metric=0.1 + rng.normal(0, 1e-5)) for p in range(5, 12) for r in above(p, 0, 0, 0)]
    assert unstable(rank(learned + collapsed)) == set(range(5, 12))


def test_accuracy_knows_what_guessing_gives() -> None:
    assert Accuracy().chance(10) == 0.1
    assert Accuracy().above_chance(0.19, 10, 100) == pytest.approx(3)
    assert Accuracy().above_chance(0.01, 10, 100) == pytest.approx(-3)
    assert Accuracy().above_chance(0.5, 0, 100) == Error().above_chance(0.5, 10, 100) == math.inf
    assert KnownError().above_chance(0.81, 10, 100) == pytest.approx(3)
    row = {"step": 9, "epoch": 2, "train_loss": 0.5, "valid_loss": 0.5, "valid_accuracy": 0.19}
    assert result_of(result(0, 0, 0.5, 0.5).trial, row, Counts(160, 100, 10)).above_chance == pytest.approx(3)


def test_halving_drops_what_is_unstable() -> None:
    base = replace(BASE, epochs=4)
    searching = search(SweepConfig(base, (("learning_rate", (0.1, 0.2, 0.3)),), 2, search="halving", factor=3))
    stage = next(searching)
    errors, scores = {0: (9, 9), 1: (20, 1), 2: (9, 9)}, {0: 0.4, 1: 0.9, 2: 0.5}
    found = [
        Result(t, "stopped", 9, stage.until, 0.5, 0.5, scores[t.point], errors[t.point][t.number % 2])
        for t in stage.trials
    ]
    assert {trial.point for trial in searching.send(found).trials} == {2}


def test_where_lower_is_better_points_rank_the_other_way() -> None:
    rows = [
        *(result(0, seed, value, 0.5) for seed, value in enumerate((0.3, 0.5))),
        *(result(1, seed, value, 0.9) for seed, value in enumerate((0.1, 0.2))),
        *(result(2, seed, value, 0.2) for seed, value in enumerate((0.2, 0.6))),
        *(result(3, seed, value, 0.1, "stopped", 1) for seed, value in enumerate((0.05, 0.05))),
        *(result(4, seed, value, 0.1, "stopped", 1) for seed, value in enumerate((0.04, 0.04))),
        result(5, 0, 0.01, 0.1), result(5, 1, NAN, NAN, "diverged"),
        result(6, 0, NAN, NAN, "diverged"), result(6, 1, NAN, NAN, "diverged"),
    ]  # fmt: skip
    assert numbers(rank(rows, Error())) == [1, 2, 0, 4, 3, 5, 6]  # of 0.4 and 0.4 the one of less loss
    assert numbers(rank(rows, Accuracy())) == numbers(rank(rows)) == [2, 0, 1, 3, 4, 5, 6]
    assert (Error().cost(0.25), Accuracy().cost(0.25)) == (0.25, -0.25)


def test_verdicts_are_the_same_whichever_way_is_better() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.normal(0, 0.02, 5) + rng.normal(0.5, 0.02, (4, 1)) + rng.normal(0, 0.01, (4, 5))
        up = [result(point, seed, row[seed], 0.5) for point, row in enumerate(rows) for seed in range(5)]
        down = [row._replace(valid_metric=1 - row.valid_metric) for row in up]
        assert numbers(rank(up)) == numbers(rank(down, Error()))
        assert verdicts(rank(up)) == verdicts(rank(down, Error()), Error(), margin=0.005)


def test_summaries_say_what_does_not_exist() -> None:
    assert summarize([1.0, math.nan, 3.0]) == (2.0, pytest.approx(math.sqrt(2)), 2)
    assert summarize([1.0])[2] == 1
    assert math.isnan(summarize([1.0]).std)
    assert math.isnan(summarize([math.nan]).mean)


# ------------------------------------------------------------------------- comparison with the best


def verdicts(points: Sequence[Ranked], *args: Any, **kwargs: Any) -> dict[int, str]:
    return {each.point.values["learning_rate"]: each.verdict for each in compare(points, *args, **kwargs)}


def test_two_points_are_compared_by_a_paired_t_test() -> None:
    """Of one side: for two points, blocks are pairs."""
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        rows = 0.9 - np.array([[0], [0.008]]) + rng.normal(0, 0.02, 5) + rng.normal(0, 0.008, (2, 5))
        best, other = compare(points := ranked(*rows.tolist()))
        first, second = (rows[number] for number in numbers(points))
        p = ttest_rel(first, second, alternative="greater").pvalue
        assert (other.verdict == "worse") == (p <= 0.05)
        interval = ttest_rel(first, second).confidence_interval(0.9)
        np.testing.assert_allclose(other[2:4], (max(0, interval.low), interval.high), atol=1e-6)
        assert best.verdict == "best"
        seen.add(other.verdict)
    assert seen == {"worse", "undecided"}


@pytest.mark.parametrize(
    ("comparisons", "freedom", "value"), [(3, 10, 2.34), (5, 20, 2.39), (9, 60, 2.48), (1, 5, 2.015)]
)
def test_critical_values_are_those_of_dunnett(comparisons: int, freedom: int, value: float) -> None:
    """Table 1a of Dunnett (1955), 5 %."""
    assert critical(comparisons, freedom) == pytest.approx(value, abs=0.006)


def test_a_seed_s_effect_on_all_points_is_no_spread() -> None:
    rows = np.random.default_rng(0).normal(0, 0.001, (4, 5)) + np.array([[0.9], [0.89], [0.88], [0.899]])
    found = compare(ranked(*rows.tolist()))
    shifted = compare(ranked(*(rows - np.array([0, 0.1, 0.3, 0.2, 0.4])).tolist()))
    for a, b in zip(found, shifted, strict=True):
        assert (a.verdict, *np.round(a[1:4], 6)) == (b.verdict, *np.round(b[1:4], 6))
    assert {each.verdict for each in found} == {"best", "worse", "equal"}


def test_differences_without_spread() -> None:
    best = [0.9, 0.8, 0.7]
    lower = [0.8, 0.7, 0.6]  # by 0.1, which rounding makes three different numbers
    assert len({a - b for a, b in zip(best, lower, strict=True)}) > 1
    assert verdicts(ranked(best, best, lower)) == {0: "best", 1: "equal", 2: "worse"}
    assert verdicts(ranked([0.1 + 0.2] * 3, [0.3] * 3)) == {0: "best", 1: "equal"}  # equal but for rounding


def test_one_seed_separates_nothing() -> None:
    assert verdicts(ranked([0.9], [0.1], [0.5])) == {0: "best", 2: "undecided", 1: "undecided"}
    points = rank([*(result(0, seed, 0.9, 0.5) for seed in (0, 1)), *(result(1, seed, 0.1, 0.5) for seed in (2, 3))])
    assert verdicts(points) == {0: "best", 1: "undecided"}  # no seed that both have


def test_a_seed_that_one_point_alone_has_does_not_count() -> None:
    rows = [[0.9, 0.8, 0.7], [0.89, 0.79, 0.69], [0.5, 0.41, 0.3]]
    more = result(1, 3, 0.1, 0.5)
    points = rank([*(result(p, s, value, 0.5) for p, row in enumerate(rows) for s, value in enumerate(row)), more])
    gaps = {each.point.values["learning_rate"]: each.gap for each in compare(points)}
    assert gaps == {0: 0, 1: pytest.approx(0.01), 2: pytest.approx(0.8 - 1.21 / 3)}


def test_equal_is_within_the_margin_for_certain() -> None:
    errors = 0.001 * np.array([[1, -1] * 4, [1, 1, -1, -1] * 2, [1, -1, -1, 1] * 2])
    points = ranked(*(0.9 + errors - np.array([[0], [0.0003], [0.004]])).tolist())
    assert set(verdicts(points).values()) == {"best", "equal", "worse"}
    assert "equal" not in verdicts(points, margin=1e-4).values()


def test_a_point_whose_seeds_disagree_is_unstable_and_widens_no_interval() -> None:
    rows = [[0.97, 0.96, 0.975], [0.95, 0.94, 0.956], [0.93, 0.92, 0.934], [0.91, 0.9, 0.917]]
    without, with_it = (compare(ranked(*some)) for some in (rows, [*rows, [0.97, 0.1, 0.1]]))
    assert with_it[:4] == without
    assert with_it[4].verdict == "unstable"
    few = compare(ranked(*rows[:3], [0.97, 0.1, 0.1]))  # of which nothing can be called usual
    assert "unstable" not in {each.verdict for each in few}


def test_the_true_best_is_rarely_called_worse() -> None:
    """A small case of `experiments/ranking.py`, whose rates are 5 % at most."""
    from experiments.ranking import by_comparison, by_pairs, table

    for model in ("equal spread", "unequal spread", "one unstable"):
        drawn = [table(model, 3, np.random.default_rng(number)) for number in range(30)]
        worse = [by_comparison(each) for each in drawn]
        assert sum(0 in each for each in worse) <= 4  # of 30: more at 5 % with a probability of 2 %
        assert sum(map(len, worse)) > 1.5 * sum(len(by_pairs(each)) for each in drawn)


def test_only_complete_points_are_compared() -> None:
    assert compare([]) == []
    points = rank(
        [
            *(result(0, seed, 0.9 - seed / 10, 0.5) for seed in range(3)),
            *(result(1, seed, 0.9 - seed / 10, 0.5, "stopped", 1) for seed in range(3)),
            *(result(2, seed, 0.9 - seed / 10, 0.5) for seed in range(2)),
            result(2, 2, NAN, NAN, "diverged"),
        ]
    )
    assert verdicts(points) == {0: "best", 1: "incomplete", 2: "incomplete"}


# ------------------------------------------------------------------------- points with unequal seeds


def unequal(rng: np.random.Generator, points: int = 7) -> np.ndarray:
    """Costs [points, seeds] of which all but the first point lack some."""
    costs = rng.normal(size=(points, 6))
    for row in costs[1:]:
        row[rng.permutation(6)[: rng.integers(0, 5)]] = math.nan
    return costs


def test_points_and_variances_are_those_of_a_least_squares_fit() -> None:
    for drawn in range(5):
        costs = unequal(np.random.default_rng(drawn))
        blocks, had = fit_blocks(costs), ~np.isnan(costs)
        points, seeds = (np.eye(size) for size in costs.shape)
        design, y = np.array([[*points[p], *seeds[s]] for p, s in np.argwhere(had)]), costs[had]
        coefficients, _, order, _ = np.linalg.lstsq(design, y)
        errors, covariance = y - design @ coefficients, np.linalg.pinv(design.T @ design)
        assert blocks.freedom == len(y) - order
        assert blocks.spread**2 == pytest.approx(errors @ errors / (len(y) - order))
        for p, q in itertools.combinations(range(7), 2):
            contrast = np.array([*(points[p] - points[q]), *np.zeros(6)])
            assert blocks.costs[p] - blocks.costs[q] == pytest.approx(contrast @ coefficients)
            variance = blocks.variances[blocks.kinds[p], blocks.kinds[q]]
            assert variance == pytest.approx(contrast @ covariance @ contrast)


def test_with_equal_seeds_costs_are_means_and_differences_have_a_correlation_of_a_half() -> None:
    costs = np.random.default_rng(0).normal(size=(5, 3))
    blocks = fit_blocks(costs)
    np.testing.assert_allclose(blocks.costs, costs.mean(1))
    np.testing.assert_allclose(blocks.variances, [[2 / 3]])
    assert blocks.freedom == 4 * 2
    assert least_correlation(blocks.variances) == 0.5
    half = critical(4, 8) * blocks.spread * math.sqrt(2 / 3)
    found = compare(ranked(*costs.tolist()))
    assert [each.high - each.gap for each in found] == pytest.approx([half] * 5)


def test_points_that_no_seed_connects_cannot_be_compared() -> None:
    blocks = fit_blocks(np.array([[1, 2, NAN, NAN], [2, 4, NAN, NAN], [NAN, NAN, 3, 5], [NAN, NAN, 3, 4]]))
    assert blocks.variances[blocks.kinds[0], blocks.kinds[2]] == math.inf
    assert blocks.variances[blocks.kinds[0], blocks.kinds[1]] == pytest.approx(1)
    assert blocks.freedom == 8 - 4 - 2
    rows = [[1, 2, None, None], [2, 3, None, None], [None, None, 30, 40], [None, None, 40, 50]]
    results = [result(p, s, v, 0.5) for p, row in enumerate(rows) for s, v in enumerate(row) if v is not None]
    found = {each.point.values["learning_rate"]: each for each in compare(rank(results))}  # without spread
    assert found[0].verdict == found[1].verdict == "undecided" or found[2].verdict == found[3].verdict == "undecided"
    assert "worse" in {each.verdict for each in found.values()}


def test_seeds_that_only_some_have_are_not_held_against_these() -> None:
    """Raw means would rank the point with the harder seeds second."""
    rows = [0.9, 0.91, 0.89, 0.5, 0.51], [0.8, 0.81, 0.79], [0.7, 0.71, 0.69, 0.3, 0.31]
    points = ranked(*rows)
    assert points[0].valid_metric.mean < points[1].valid_metric.mean
    assert numbers(points) == [0, 1, 2]
    assert [each.verdict for each in compare(points)] == ["best", "worse", "worse"]
    assert [each.gap for each in compare(points)] == pytest.approx([0, 0.1, 0.2], abs=1e-3)


def test_every_seed_narrows_the_intervals_of_the_points_that_have_it() -> None:
    costs = 0.9 + np.random.default_rng(0).normal(0, 0.01, (4, 8))
    few = ranked(*costs[:, :3].tolist())
    many = ranked(*(row[: 8 if point < 2 else 3] for point, row in enumerate(costs.tolist())))
    before, after = (
        {each.point.values["learning_rate"]: each.high - each.gap for each in compare(points, margin=0)}
        for points in (few, many)
    )
    assert max(after[0], after[1]) < min(after[2], after[3])
    assert max(after.values()) < min(before.values())


@pytest.mark.parametrize("control", ["few seeds", "many seeds"])
def test_the_critical_value_holds_whatever_seeds_points_have(control: str) -> None:
    """Of equal points one is called worse in at most 5 % of tables; the rate has a standard error of 0.5 %."""
    rng, count, tables = np.random.default_rng(0), 6, 2000
    lacks = np.arange(count) < 3 if control == "few seeds" else np.arange(count) >= 3
    excluded = 0
    for _ in range(tables):
        costs = rng.normal(size=(count, 8)) + rng.normal(size=8)
        costs[np.ix_(lacks, np.arange(3, 8))] = math.nan
        blocks = fit_blocks(costs)
        value = critical(count - 1, blocks.freedom, 0.05, least_correlation(blocks.variances))
        apart = np.sqrt(blocks.variances[blocks.kinds[0], blocks.kinds[1:]]) * blocks.spread
        excluded += bool(np.any(blocks.costs[0] - blocks.costs[1:] > value * apart))
    assert 0.03 < excluded / tables < 0.06


def test_critical_values_grow_as_correlations_fall() -> None:
    """At 0 they are those of independent statistics, below that Bonferroni's, which are the largest."""
    values = [critical(9, 20, 0.05, correlation) for correlation in (0.99, 0.7, 0.5, 0.2, 0.0, -0.1)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(t.ppf(1 - 0.05 / 9, 20), abs=1e-3)
    assert critical(1, 20, 0.05, 0.2) == pytest.approx(t.ppf(0.95, 20), abs=1e-3)


# ------------------------------------------------------------------------- more seeds

TINY = TrainConfig(MLPConfig(hidden=(16,)), SGD(learning_rate=0.1), batch_size=32, epochs=6)
RATES = SweepConfig(TINY, (("learning_rate", (0.1, 1e-9, 0.11)),), seeds=3, equal_within=0.0)
HOW: dict[str, Any] = {"lanes": "1:1", "pack": "shapes"}


@pytest.fixture(scope="module")
def ended(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose first and last point cannot be told apart, without what a run folder ends with."""
    folder = tmp_path_factory.mktemp("ended") / "a"
    with RunFolder(folder) as store:
        begin(store, RATES, small)
        *_, finished = run(RATES, small, store, Execution(**HOW))
    assert isinstance(finished, Finished)
    verdicts = {each.point.results[0].trial.point: each.verdict for each in finished.swept.compared}
    assert verdicts[1] == "unstable"  # it hardly moves from where it begins, which is guessing
    assert {verdicts[0], verdicts[2]} == {"best", "undecided"}
    return folder


def test_more_seeds_come_after_all_trials_and_go_on_from_their_seeds() -> None:
    more = replace(RATES, more_seeds=((0, 2), (2, 1)))
    before, after = trials(RATES), trials(more)
    assert after[:9] == before
    assert [(t.number, t.point, t.config.seed) for t in after[9:]] == [(9, 0, 3), (10, 0, 4), (11, 2, 3)]
    assert [t.values for t in after[9:]] == [before[0].values] * 2 + [before[6].values]
    with pytest.raises(ValueError, match="more_seeds: 3: the sweep has points 0 to 2"):
        trials(replace(RATES, more_seeds=((3, 1),)))


def test_records_from_before_are_read_and_equal_those_of_now() -> None:
    plainly = replace(RATES, equal_within=None)
    record = describe(plainly)
    assert (record.pop("equal_within"), record.pop("more_seeds")) == (None, None)
    assert configuration(record) == plainly
    more = replace(RATES, more_seeds=((0, 2), (2, 1)))
    assert configuration(json.loads(json.dumps(describe(more)))) == more


def test_more_seeds_are_trained_for_the_best_and_the_undecided_alone(ended: Path, small: Dataset) -> None:
    store = InMemory()
    more = cnnjax.sweep(RATES, small, store=store, extend=ended, add_seeds=2, **HOW)
    assert more.config == replace(RATES, more_seeds=((0, 2), (2, 2)))
    assert {point.results[0].trial.point: len(point.results) for point in more.points} == {0: 5, 1: 3, 2: 5}
    assert set(more.tests) == {result.trial.number for result in more.winner.results}
    programs = store.read_json("plan.json")["programs"]
    assert [program["trials"] for program in programs] == [list(range(9)), [9, 10, 11, 12]]
    assert [row for row in more.rows if row["trial"] < 9] == read_metrics(ended / "metrics.jsonl")
    whole = cnnjax.sweep(replace(RATES, seeds=5), small, **HOW)
    by_config = {result.trial.config: result for result in whole.results}
    for found in more.results:
        assert found[1:] == by_config[found.trial.config][1:]
    assert "3 to 5 seeds" in str(more)


def stopping() -> Callable[[], bool]:
    """Says after the first dispatch that the run is to stop."""
    asked = itertools.count()
    return lambda: next(asked) > 0


def test_adding_seeds_that_stops_ends_as_if_it_had_not(ended: Path, small: Dataset) -> None:
    how: dict[str, Any] = {"extend": ended, "add_seeds": 2, "save_seconds": 0, **HOW}
    whole, store = cnnjax.sweep(RATES, small, **how), InMemory()
    for resume in (False, True, True):
        with pytest.raises(KeyboardInterrupt):
            cnnjax.sweep(RATES, small, store=store, resume=resume, stop=stopping(), **how)
    resumed = cnnjax.sweep(RATES, small, store=store, resume=True, **how)
    assert resumed.rows == whole.rows
    assert resumed.tests == whole.tests
    assert resumed.compared == whole.compared


@pytest.mark.slow
def test_a_folder_of_added_seeds_is_loaded_and_gets_more(ended: Path, small: Dataset, tmp_path: Path) -> None:
    more = cnnjax.sweep(RATES, small, store=tmp_path / "b", extend=ended, add_seeds=2, **HOW)
    summary = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert summary["equal_within"] == 0
    assert [each["verdict"] for each in summary["compared"]] == [each.verdict for each in more.compared]
    loaded, best = cnnjax.load_run(tmp_path / "b"), more.trained()
    np.testing.assert_array_equal(loaded.logits(small.test.inputs), best.logits(small.test.inputs))
    again = cnnjax.sweep(more.config, small, extend=tmp_path / "b", add_seeds=1, **HOW)
    assert again.config.more_seeds == ((0, 3), (2, 3))


def folder_of(path: Path, config: SweepConfig | TrainConfig, ended: Path, lines: int) -> Path:
    """A run folder with so many of the lines of one that has ended."""
    with RunFolder(path) as store:
        store.write_json("config.json", describe(config))
        store.append_metrics(read_metrics(ended / "metrics.jsonl")[:lines])
    return path


def test_seeds_are_added_to_a_whole_sweep_that_has_ended(ended: Path, small: Dataset, tmp_path: Path) -> None:
    shard, halving = replace(RATES, shard="1/3"), replace(RATES, search="halving")
    made = {"shard": shard, "halving": halving, "one": TINY, "stopped": RATES}
    folders = {name: folder_of(tmp_path / name, config, ended, lines=9) for name, config in made.items()}
    whole = "must be a whole sweep with --search all, not"
    wrong: list[tuple[SweepConfig, Path, int, str]] = [
        (RATES, ended, 0, "0: must be at least 1"),
        (RATES, ended, -2, "-2: must be at least 1"),
        (RATES, tmp_path, 2, f"{tmp_path}: must be the run folder of a sweep"),
        (RATES, folders["one"], 2, f"{tmp_path}/one: must be a sweep, not a single run"),
        (shard, folders["shard"], 2, f"{tmp_path}/shard: {whole} shard 1/3: merge the shards first"),
        (halving, folders["halving"], 2, f"{tmp_path}/halving: {whole} a sweep by halving"),
        (RATES, folders["stopped"], 2, f"{tmp_path}/stopped has not finished: continue it with --resume"),
        (replace(RATES, seeds=4), ended, 2, f"{ended} is of another sweep: seeds 3 there, 4 here"),
        (replace(RATES, equal_within=0.9), ended, 2, f"{ended}: no point is undecided"),
    ]
    for asked, folder, count, message in wrong:
        with pytest.raises(ValueError, match=f"^{re.escape(f'add_seeds: {message}')}$"):
            cnnjax.sweep(asked, small, store=tmp_path / "b", extend=folder, add_seeds=count, **HOW)
    with pytest.raises(ValueError, match=r"^add_seeds: give the run folder of the sweep as `extend`$"):
        cnnjax.sweep(RATES, small, add_seeds=2)
    with pytest.raises(TypeError, match=r"^add_seeds: True: must be an integer, such as 5$"):
        cnnjax.sweep(RATES, small, extend=ended, add_seeds=True)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", True])
def test_a_margin_is_a_number_of_at_least_zero(value: Any) -> None:
    with pytest.raises(ValueError, match=f"equal_within: {value!r}: must be a number of at least 0"):
        replace(RATES, equal_within=value)


@pytest.mark.parametrize("value", [3, ((0,),), ((0, 0),), ((-1, 2),), ((0, 1), (0, 2)), ((0, True),), ("ab",)])
def test_more_seeds_are_pairs(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^more_seeds: .*must be pairs of a point and a number"):
        replace(RATES, more_seeds=value)


def test_only_a_whole_grid_has_more_seeds() -> None:
    for other in ({"search": "halving"}, {"shard": "1/2"}):
        with pytest.raises(ValueError, match="more_seeds: only a whole sweep"):
            replace(RATES, more_seeds=((0, 1),), **other)


# ------------------------------------------------------------------------- edges


def best_of(sweep: SweepConfig, **values: Any) -> Ranked:
    chosen = {name: choices.low if isinstance(choices, Range) else choices[0] for name, choices in sweep.axes}
    return Ranked({**chosen, **values}, (), summarize([0.9]), summarize([0.1]))


def proposed(name: str, values: Any, best: Any, base: TrainConfig = BASE) -> Any:
    """What is proposed for an axis whose best value is this one, with its side; None where it has no edge."""
    sweep = SweepConfig(base, ((name, values),), points=8 * isinstance(values, Range))
    found = edges(sweep, best_of(sweep, **{name: best}))
    assert [(edge.name, edge.value) for edge in found] in ([], [(name, best)])
    return (found[0].side, found[0].proposed) if found else None


@pytest.mark.parametrize(
    ("name", "values", "best", "side", "grid"),
    [
        ("learning_rate", (0.01, 0.03, 0.1, 0.3), 0.3, "highest", (0.1, 0.3, 1.0, 3.0)),
        ("learning_rate", (0.3, 0.01, 0.1, 0.03), 0.01, "lowest", (0.001, 0.003, 0.01, 0.03)),
        ("learning_rate", (0.1, 0.2, 0.5, 1.0), 1.0, "highest", (0.5, 1.0, 2.0, 5.0)),
        ("learning_rate", (0.01, 0.1), 0.1, "highest", (0.01, 0.1, 1.0)),
        ("learning_rate", (0.01, 0.03), 0.01, "lowest", (0.003, 0.01, 0.03)),
        ("learning_rate", (0.05, 0.1, 0.2), 0.2, "highest", (0.1, 0.2, 0.4)),
        ("learning_rate", (0.14, 0.42), 0.14, "lowest", (0.047, 0.14, 0.42)),
        ("learning_rate", (1, 2), 1, "lowest", (0.5, 1, 2)),  # a float that was written as an integer
        ("learning_rate", (0.1, 0.101, 0.10201), 0.10201, "highest", (0.101, 0.10201, 0.103)),
        ("learning_rate", (0.1, 0.11, 0.12), 0.12, "highest", (0.11, 0.12, 0.13)),
        ("learning_rate", (0.4, 0.7), 0.7, "highest", (0.4, 0.7, 1.0)),
        ("learning_rate", (0.125, 0.25, 0.375), 0.375, "highest", (0.25, 0.375, 0.5)),
        ("learning_rate", (0.3, 0.41, 0.527), 0.527, "highest", (0.41, 0.527, 0.637)),
        ("weight_decay", (0.0, 1e-4, 1e-3), 1e-3, "highest", (1e-4, 1e-3, 1e-2)),
        ("weight_decay", (0.0, 5e-4), 5e-4, "highest", (0.0, 5e-4, 1e-3)),
        ("momentum", (0.3, 0.6, 0.9), 0.3, "lowest", (0.0, 0.3, 0.6)),
        ("momentum", (0.1, 0.4, 0.7, 0.9, 0.95), 0.1, "lowest", (0.0, 0.1, 0.4, 0.7)),  # -0.1 is cut at 0
        ("momentum", (0.0, 0.5, 0.8, 0.9), 0.9, "highest", (0.8, 0.9, 0.95, 0.975)),
        ("momentum", (0.0, 0.9), 0.9, "highest", (0.0, 0.9, 0.95)),
        ("momentum", (0.9, 0.99, 0.999), 0.999, "highest", (0.99, 0.999, 0.9995)),
        ("momentum", (0.5, 0.72, 0.86), 0.86, "highest", (0.72, 0.86, 0.93)),
        ("momentum", (0.5, 0.999999999998), 0.999999999998, "highest", (0.5, 0.999999999998, 0.999999999999)),
        ("label_smoothing", (0.0, 0.05, 0.1), 0.1, "highest", (0.05, 0.1, 0.15)),
        ("label_smoothing", (0.1, 0.2, 0.3, 0.4, 0.5), 0.5, "highest", (0.3, 0.4, 0.5, 0.6, 0.7)),
        ("batch_size", (32, 64, 128), 128, "highest", (64, 128, 256)),
        ("batch_size", (100, 30, 10), 100, "highest", (30, 100, 300)),
        ("batch_size", (2, 4, 8, 16), 2, "lowest", (1, 2, 4)),
        ("batch_size", (112, 128, 144), 144, "highest", (128, 144, 160)),
        ("kernel", (3, 5), 5, "highest", (3, 5, 7)),
        ("kernel", (1, 3), 3, "highest", (1, 3, 5)),
        ("kernel", (3, 5, 8, 10), 10, "highest", (8, 10, 12, 14)),
        ("kernel", (2, 4, 6), 2, "lowest", (1, 2, 4)),
        ("padding", (1, 2, 3), 1, "lowest", (0, 1, 2)),
        ("filters", ((8, 16), (16, 32), (32, 64)), (32, 64), "highest", ((16, 32), (32, 64), (64, 128))),
        ("filters", ((8, 16), (16, 32), (32, 64)), (8, 16), "lowest", ((4, 8), (8, 16), (16, 32))),
        ("filters", ((1, 3), (2, 6), (8, 9), (9, 9)), (1, 3), "lowest", ((1, 1), (1, 3), (2, 6))),
    ],
)  # fmt: skip
def test_the_grid_goes_on_beyond_the_best_value_in_the_spacing_of_the_axis(
    name: str, values: tuple, best: Any, side: str, grid: tuple
) -> None:
    found = proposed(name, values, best)
    assert repr(found) == repr((side, grid))  # which tells 1 from 1.0 and 0.0 from -0.0


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("learning_rate", (0.01, 0.03, 0.1), 0.03),  # in the middle
        ("learning_rate", (0.01,), 0.01),
        ("momentum", (0.0, 0.9), 0.0),  # nothing beyond
        ("label_smoothing", (0.0, 0.1, 0.2), 0.0),
        ("momentum", (0.5, 1 - 2**-53), 1 - 2**-53),
        ("batch_size", (1, 2, 4), 1),
        ("padding", (0, 1), 0),
        ("filters", ((1, 1), (2, 2)), (1, 1)),
        ("filters", ((8, 16), (16, 8)), (16, 8)),  # no order
        ("filters", ((8,), (8, 16)), (8, 16)),
        ("dense", ((), (32,)), ()),
        ("batch_norm", (False, True), True),
        ("padding", ("SAME", 1), 1),
        ("activation", ("relu", "tanh"), "tanh"),
        ("network", (CNNConfig(), MLPConfig()), MLPConfig()),
    ],
)
def test_what_is_no_edge(name: str, values: tuple, best: Any) -> None:
    assert proposed(name, values, best) is None


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "label_smoothing", "batch_size", "kernel"])
def test_proposed_grids_are_new_in_order_and_in_range(name: str) -> None:
    rng = np.random.default_rng(len(name))
    whole, share = name in ("batch_size", "kernel"), name in ("momentum", "label_smoothing")
    for _ in range(100):
        count = int(rng.integers(2, 7))
        if whole:
            values = tuple(rng.choice(np.arange(1, 60), count, replace=False).tolist())
        else:
            values = tuple(
                float(f"{v:.2g}") for v in (rng.uniform(0, 0.99, count) if share else 10 ** rng.uniform(-4, 0, count))
            )
        if len(set(values)) < count:
            continue
        for best in (min(values), max(values)):
            if (found := proposed(name, values, best)) is None:
                assert best == (1 if whole else 0)
                continue
            side, grid = found
            assert list(grid) == sorted(set(grid))
            assert set(grid) & set(values) == set(
                (sorted(values) if side == "lowest" else sorted(values)[::-1])[: max(count, 3) - max(count, 3) // 2]
            )
            assert grid[0] < best if side == "lowest" else grid[-1] > best
            if side == "highest":
                assert len(grid) == max(count, 3)
            for value in grid:
                with_values(BASE, {name: value})
                assert isinstance(value, int) == whole


def test_the_range_of_an_option_is_that_of_the_best_network() -> None:
    axes = (("network", (CNNConfig(), LeNet5Config())), ("filters", ((6, 16), (8, 32))))
    sweep = SweepConfig(replace(BASE, network=MLPConfig()), axes)
    [edge] = edges(sweep, best_of(sweep, network=LeNet5Config(), filters=(8, 32)))
    assert (edge.name, edge.side, edge.proposed) == ("filters", "highest", ((6, 16), (8, 32), (16, 64)))


@config
class Careful(Optimizer):
    """An optimizer whose rate has an end."""

    learning_rate: float = number(0.1, least=0.05, below=1)


@pytest.mark.parametrize("optimizers", [(SGD(), Careful()), (Careful(), SGD())], ids=["last", "first"])
def test_the_range_of_an_option_is_that_of_the_best_part(optimizers: tuple[Optimizer, ...]) -> None:
    """Whichever part comes first among those that have the option."""
    sweep = SweepConfig(BASE, (("optimizer", optimizers), ("learning_rate", (0.1, 0.3, 0.9))))

    def grid(**values: Any) -> tuple[Any, ...]:
        [edge] = edges(sweep, best_of(sweep, **values))
        assert isinstance(edge.proposed, tuple)
        return edge.proposed

    assert grid(optimizer=SGD(), learning_rate=0.9) == (0.3, 0.9, 2.7)
    assert grid(optimizer=Careful(), learning_rate=0.9) == (0.3, 0.9, 0.95)
    assert grid(optimizer=SGD(), learning_rate=0.1) == (0.033, 0.1, 0.3)
    assert grid(optimizer=Careful(), learning_rate=0.1) == (0.05, 0.1, 0.3)


@pytest.mark.parametrize("networks", [(CNNConfig(), LeNet5Config()), (LeNet5Config(), CNNConfig())])
def test_counts_stay_whole_where_the_option_takes_words_as_well(networks: tuple) -> None:
    sweep = SweepConfig(BASE, (("network", networks), ("padding", (1, 2, 4))))
    for network in networks:
        [edge] = edges(sweep, best_of(sweep, network=network, padding=4))
        assert repr(edge.proposed) == "(2, 4, 8)"


@pytest.mark.parametrize(
    ("values", "best", "expected"),
    [
        ((0.25, 0.5), 0.5, ("highest", (0.25, 0.5, 1.0))),  # which the option may be
        ((0.3, 0.6, 0.9), 0.9, ("highest", (0.6, 0.9, 1.0))),
        ((0.0, 0.5, 1.0), 1.0, None),
        ((0.0, 0.5, 1.0), 0.0, None),
        (Range(0.5, 1.0), 0.99, None),
        (Range(0.5, 0.9), 0.88, ("highest", Range(0.68, 1.0))),
    ],
)
def test_a_value_may_be_as_large_as_the_largest_that_is_allowed(values: Any, best: float, expected: Any) -> None:
    assert proposed("augment.flip.p", values, best, replace(BASE, augment=(Shift(), Flip()))) == expected


def test_a_number_that_can_be_off_has_no_edge_where_off_is_among_its_values() -> None:
    assert proposed("dropout", (None, 0.1, 0.2), 0.2) is None
    assert proposed("dropout", (None, 0.1, 0.2), None) is None
    assert proposed("dropout", (0.1, 0.2), 0.2) == ("highest", (0.1, 0.2, 0.4))


def test_every_axis_has_its_own_edge_but_those_that_are_zipped() -> None:
    axes = (("learning_rate", (0.1, 1.0)), ("filters", ((2,), (4,))), ("momentum", (0.5, 0.9)))
    sweep = SweepConfig(BASE, axes)
    assert [edge.name for edge in edges(sweep, best_of(sweep))] == ["learning_rate", "filters", "momentum"]
    sweep = SweepConfig(BASE, axes, zipped=(("learning_rate", "filters"),))
    assert [edge.name for edge in edges(sweep, best_of(sweep))] == ["momentum"]
    sweep = SweepConfig(BASE, (("ema", (0.9, 0.99)), ("patience", (2, 4))))
    assert [(edge.name, edge.proposed) for edge in edges(sweep, best_of(sweep))] == [("patience", (1, 2, 4))]  # not ema


@pytest.mark.parametrize(
    ("name", "range", "best", "expected"),
    [
        ("learning_rate", Range(0.001, 0.1, log=True), 0.09, ("highest", Range(0.009, 0.9, log=True))),
        ("learning_rate", Range(0.001, 0.1, log=True), 0.0011, ("lowest", Range(0.00011, 0.011, log=True))),
        ("learning_rate", Range(0.001, 0.1, log=True), 0.07, ("highest", Range(0.007, 0.7, log=True))),
        ("learning_rate", Range(0.001, 0.1, log=True), 0.05, None),  # the outer tenth begins at 0.063
        ("learning_rate", Range(0.001, 0.1, log=True), 0.0017, None),
        ("learning_rate", Range(0.001, 0.1), 0.09, None),  # and at 0.0901 without the logarithm
        ("learning_rate", Range(0.1, 0.102, log=True), 0.102, ("highest", Range(0.101, 0.103, log=True))),
        ("weight_decay", Range(0.0, 0.01), 0.00987, ("highest", Range(0.005, 0.015))),
        ("label_smoothing", Range(0.05, 0.25), 0.06, ("lowest", Range(0.0, 0.16))),
        ("label_smoothing", Range(0.0, 0.2), 0.001, None),
        ("momentum", Range(0.5, 0.9), 0.88, ("highest", Range(0.68, 0.95))),
        ("momentum", Range(0.8, 0.9), 0.801, ("lowest", Range(0.75, 0.85))),
        ("batch_size", Range(16, 128, log=True), 16, ("lowest", Range(5, 45, log=True))),
        ("batch_size", Range(2, 16, log=True), 2, ("lowest", Range(1, 6, log=True))),
        ("padding", Range(2, 16, log=True), 2, ("lowest", Range(1, 6, log=True))),  # 0 has no logarithm
        ("kernel", Range(2, 5), 5, ("highest", Range(3, 7))),
        ("kernel", Range(1, 5), 1, None),
    ],
)  # fmt: skip
def test_a_range_moves_so_that_the_best_lies_in_its_middle(name: str, range: Range, best: float, expected: Any) -> None:
    base = replace(BASE, network=LeNet5Config()) if name == "padding" else BASE
    found = proposed(name, range, best, base)
    assert found == expected
    if found:
        SweepConfig(base, ((name, found[1]),), points=8)  # which checks its ends
        assert found[1].low <= best <= found[1].high


# ------------------------------------------------------------------------- effects

GRID = SweepConfig(
    BASE, (("momentum", (0.9, 0.0)), ("filters", ((8,), (2,), (4,))), ("learning_rate", (0.1, 0.01))), seeds=4
)


def test_effects_are_marginal_means_of_the_points() -> None:
    y = np.random.default_rng(0).uniform(0.5, 1, (2, 3, 2, 4))
    found = effects(table(GRID, y.ravel().tolist()))
    assert {name: list(by) for name, by in found.items()} == {
        "momentum": ["0.9", "0.0"], "filters": ["8", "2", "4"], "learning_rate": ["0.1", "0.01"],
    }  # fmt: skip
    for axis, by in enumerate(found.values()):
        rows = np.moveaxis(y.mean(3), axis, 0).reshape(len(by), -1)
        for row, summary in zip(rows, by.values(), strict=True):
            assert summary == pytest.approx((row.mean(), row.std(ddof=1), len(row)))


def test_effects_leave_out_what_is_not_complete() -> None:
    points = rank([result(0, 0, 0.9, 0.5), result(1, 0, 0.8, 0.5, "stopped"), result(2, 0, NAN, NAN, "diverged")])
    found = effects(points)["learning_rate"]
    assert (found["0"].mean, found["0"].n) == (0.9, 1)
    assert [found["1"].n, found["2"].n] == [0, 0]
    assert effects([]) == {}


def squares(y: np.ndarray, *factors: tuple[int, ...]) -> float:
    """The sum of squares that a least squares fit leaves of a table; a factor is a dummy for each cell of its axes."""
    cells = np.indices(y.shape).reshape(y.ndim, -1).T
    columns = [np.ones(y.size)]
    for axes in factors:
        levels = itertools.product(*(range(y.shape[axis]) for axis in axes))
        columns += [(cells[:, axes] == level).all(1) for level in levels]
    design = np.array(columns, float).T
    return float(np.sum((y.ravel() - design @ np.linalg.lstsq(design, y.ravel())[0]) ** 2))


def test_shares_are_those_of_least_squares_fits() -> None:
    y = np.random.default_rng(0).uniform(0.5, 1, (2, 3, 2, 4)) + 0.1 * np.arange(3)[:, None, None]
    found = variance_shares(table(GRID, y.ravel().tolist()))
    main = [(axis,) for axis in range(4)]
    total = squares(y)
    expected = {
        name: (squares(y, *main[:axis], *main[axis + 1 :]) - squares(y, *main)) / total
        for axis, name in enumerate(["momentum", "filters", "learning_rate", "seed"])
    }
    pairs = {"momentum x filters": (0, 1), "momentum x learning_rate": (0, 2), "filters x learning_rate": (1, 2)}
    expected |= {name: (squares(y, *main) - squares(y, *main, pair)) / total for name, pair in pairs.items()}
    expected["rest"] = squares(y, *main, *pairs.values()) / total
    assert found == pytest.approx(expected)
    assert found is not None
    assert sum(found.values()) == pytest.approx(1)


def test_shares_of_effects_that_are_known() -> None:
    axes = (("momentum", (0.0, 0.9)), ("kernel", (3, 5)))
    a, b, s = np.meshgrid([-1, 1], [-1, 1], [-1, 1], indexing="ij")
    y = 0.5 + 0.01 * (3 * a + 1 * b + 2 * a * b + 1 * s + 1 * a * s)
    found = variance_shares(table(SweepConfig(BASE, axes, 2), y.ravel().tolist()))
    wanted = {"momentum": 9, "kernel": 1, "momentum x kernel": 4, "seed": 1, "rest": 1}
    assert found == pytest.approx({name: square / 16 for name, square in wanted.items()})


def test_shares_need_every_combination_complete_under_equal_seeds() -> None:
    y = np.random.default_rng(0).uniform(0.5, 1, 48).tolist()
    points = table(GRID, y)
    assert variance_shares(points) is not None
    assert variance_shares(points[:-1]) is None
    assert variance_shares([]) is None
    last = points[-1]
    cut = last._replace(results=last.results[:-1])
    assert variance_shares([*points[:-1], cut]) is None
    other = last.results[0]._replace(trial=last.results[0].trial._replace(config=replace(BASE, seed=99)))
    assert variance_shares([*points[:-1], last._replace(results=(other, *last.results[1:]))]) is None
    stopped = last.results[0]._replace(status="stopped")
    assert variance_shares([*points[:-1], last._replace(results=(stopped, *last.results[1:]))]) is None
    assert variance_shares([*points, last]) is None


def test_where_all_accuracies_are_equal_nothing_has_a_share() -> None:
    assert variance_shares(table(GRID, [0.1 + 0.2, 0.3] * 24)) is None


def test_a_single_point_s_variance_is_that_of_its_seeds() -> None:
    assert variance_shares(table(SweepConfig(BASE, (("momentum", (0.9,)),), 3), [0.8, 0.9, 0.7])) == pytest.approx(
        {"seed": 1, "rest": 0}
    )


# ------------------------------------------------------------------------- axes that only some points have

SGDS_AND_ADAMS = SweepConfig(
    BASE, (("optimizer", (SGD(), Adam())), ("momentum", (0.5, 0.9)), ("learning_rate", (0.01, 0.1))), seeds=3
)
MEANS = np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.65])  # of SGD by momentum, then rate; of Adam by rate


def judged(means: np.ndarray) -> list[Ranked]:
    spread = np.random.default_rng(0).normal(0, 1e-3, (6, 3))
    return table(SGDS_AND_ADAMS, (means[:, None] + spread).ravel().tolist())


def test_points_of_parts_with_other_fields_rank_and_tie_together() -> None:
    points = judged(MEANS)
    assert [point.results[0].trial.point for point in points] == [3, 2, 5, 1, 4, 0]
    assert [set(point.values) for point in points if point.values["optimizer"] == Adam()] == (
        [{"optimizer", "learning_rate"}] * 2
    )
    assert [each.verdict for each in compare(points)] == ["best"] + ["worse"] * 5
    level = compare(judged(np.array([0.5, 0.6, 0.7, 0.8, 0.55, 0.8])))
    assert {each.point.results[0].trial.point for each in level if each.verdict != "worse"} == {3, 5}


def test_an_axis_that_the_best_point_lacks_has_no_edge() -> None:
    sgd, adam = judged(MEANS), judged(MEANS[::-1])
    assert [(edge.name, edge.side) for edge in edges(SGDS_AND_ADAMS, sgd[0])] == [
        ("momentum", "highest"), ("learning_rate", "highest"),
    ]  # fmt: skip
    low = judged(np.array([0.5, 0.6, 0.7, 0.8, 0.95, 0.65]))
    assert low[0].values["optimizer"] == Adam()
    assert [(edge.name, edge.side) for edge in edges(SGDS_AND_ADAMS, low[0])] == [("learning_rate", "lowest")]
    assert [edge.name for edge in edges(SGDS_AND_ADAMS, adam[0])] == ["momentum", "learning_rate"]


def test_effects_of_an_axis_are_those_of_the_points_that_have_it() -> None:
    found = effects(judged(MEANS))
    means = {axis: {value: summary.mean for value, summary in by.items()} for axis, by in found.items()}
    assert means == {
        "optimizer": pytest.approx({"sgd": 0.65, "adam": 0.6}, abs=2e-3),
        "momentum": pytest.approx({"0.5": 0.55, "0.9": 0.75}, abs=2e-3),
        "learning_rate": pytest.approx({"0.01": (0.5 + 0.7 + 0.55) / 3, "0.1": (0.6 + 0.8 + 0.65) / 3}, abs=2e-3),
    }
    counts = {axis: [summary.n for summary in by.values()] for axis, by in found.items()}
    assert counts == {"optimizer": [4, 2], "momentum": [2, 2], "learning_rate": [3, 3]}


def test_shares_need_points_of_equal_axes() -> None:
    points = judged(MEANS)
    assert variance_shares(points) is None
    found = variance_shares([point for point in points if point.values["optimizer"] == SGD()])
    assert found is not None
    assert found["momentum"] == pytest.approx(0.8, abs=0.01)  # 0.1 against 0.05 either way, squared
    assert found["learning_rate"] == pytest.approx(0.2, abs=0.01)
    assert sum(found.values()) == pytest.approx(1)
    alone = variance_shares([point for point in points if point.values["optimizer"] == Adam()])
    assert alone is not None
    assert alone.keys() == {"learning_rate", "seed", "rest"}
