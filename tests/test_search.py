"""Laws of searches: which points there are, which go on, and that results alone decide it."""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest
from conftest import needs
from scipy import stats

from cnnjax import (
    SGD,
    Accuracy,
    Adam,
    AdamW,
    Augmentation,
    CNNConfig,
    Constant,
    Cosine,
    CrossEntropy,
    Flip,
    LeNet5Config,
    Metric,
    MLPConfig,
    ResNetConfig,
    Shift,
    SquaredError,
    Step,
    SweepConfig,
    TrainConfig,
    config,
    number,
)
from cnnjax.config import SAMPLERS, SEARCHES, Range
from cnnjax.data import Dataset, Spec
from cnnjax.sweeps import (
    Program,
    Result,
    Stage,
    Trial,
    assembled,
    compact,
    plan,
    points,
    rungs,
    search,
    spare_lanes,
    state_of,
    states_of,
    trials,
    work,
)
from cnnjax.training import Lanes

BASE = TrainConfig(MLPConfig(hidden=(4,)), epochs=9)
SPEC = Spec((8, 8, 1), "float32", tuple("abcdefghij"), (), "int64", np.zeros(1, np.float32), np.ones(1, np.float32))
NINE = ("learning_rate", tuple(i / 100 for i in range(1, 10)))
RATE, MOMENTUM = ("learning_rate", Range(1e-4, 1.0, log=True)), ("momentum", Range(0.0, 0.95))

Quality = Callable[[Trial], float]


def told(stage: Stage, quality: Quality) -> list[Result]:
    """Made-up results of a stage: validation accuracies, and NaN for a trial that diverges."""
    found = []
    for trial in stage.trials:
        accuracy, last = quality(trial), trial.config.epochs
        epochs = stage.until or last
        status = "diverged" if math.isnan(accuracy) else "complete" if epochs == last else "stopped"
        found.append(Result(trial, status, 10 * epochs, epochs, 1.0, 1.0, accuracy))
    return found


def stages(sweep: SweepConfig, quality: Quality) -> list[Stage]:
    """All stages of a search that is told made-up results."""
    searching, found = search(sweep), []
    try:
        found.append(next(searching))
        while True:
            found.append(searching.send(told(found[-1], quality)))
    except StopIteration:
        return found


def best_low(trial: Trial) -> float:
    """The lower the rate the better, alike under every seed."""
    return 1 - trial.config.optimizer.learning_rate


def alive(stage: Stage) -> list[int]:
    """The points of a stage, each of which has all its seeds."""
    counts = Counter(trial.point for trial in stage.trials)
    assert len(set(counts.values())) <= 1
    return sorted(counts)


# ------------------------------------------------------------------------- halving


@pytest.mark.parametrize(
    ("points", "epochs", "factor", "expected"),
    [
        (9, 9, 3, [1, 3]),  # 9 until 1, 3 until 3, 1 to the end
        (27, 81, 3, [3, 9, 27]),
        (10, 9, 3, [1, 3]),  # 10, 4, 2: epochs end before points do
        (16, 30, 4, [2, 8]),  # round(7.5) is 8
        (4, 27, 3, [3, 9]),  # 4, 2, 1: shares are rounded up
        (8, 5, 2, [1, 2]),
        (4, 100, 2, [25, 50]),
        (1, 30, 3, []),  # nothing to choose from
        (9, 1, 3, []),  # nothing to save
        (9, 2, 3, [1]),
        (3, 30, 5, [6]),  # a factor above the number of points leaves one
        (2, 30, 1000, [1]),  # and a rung is an epoch at least
    ],
)
def test_rungs_by_hand(points: int, epochs: int, factor: int, expected: list[int]) -> None:
    assert rungs(points, epochs, factor) == expected


def test_the_best_share_of_the_points_goes_on_with_all_seeds() -> None:
    sweep = SweepConfig(BASE, (NINE,), seeds=2, search="halving", factor=3)
    found = stages(sweep, best_low)
    assert [(alive(stage), stage.after, stage.until) for stage in found] == [
        (list(range(9)), 0, 1), ([0, 1, 2], 1, 3), ([0], 3, 0),
    ]  # fmt: skip
    assert all(len(stage.trials) == 2 * len(alive(stage)) for stage in found)


def test_points_are_compared_by_the_mean_over_their_seeds() -> None:
    """Point 0 has the best seed of all, and point 2 the best mean."""
    accuracies = {0: (0.9, 0.1), 1: (0.5, 0.5), 2: (0.6, 0.7)}
    sweep = SweepConfig(BASE, (("momentum", (0.0, 0.5, 0.9)),), seeds=2, search="halving", factor=3)
    found = stages(sweep, lambda trial: accuracies[trial.point][trial.config.seed])
    assert [alive(stage) for stage in found] == [[0, 1, 2], [2]]


def test_the_share_that_goes_on_is_rounded_up() -> None:
    sweep = SweepConfig(BASE, (("learning_rate", NINE[1][:5]),), seeds=1, search="halving", factor=3)
    assert [alive(stage) for stage in stages(sweep, best_low)] == [[0, 1, 2, 3, 4], [0, 1], [0]]


@pytest.mark.parametrize("factor", [2, 3, 4, 50])
@pytest.mark.parametrize("epochs", [1, 2, 5, 9, 30])
def test_stages_join_up_to_the_last_epoch(factor: int, epochs: int) -> None:
    sweep = SweepConfig(replace(BASE, epochs=epochs), (NINE,), seeds=2, search="halving", factor=factor)
    found = stages(sweep, best_low)
    assert found[0].after == 0
    assert [stage.until for stage in found[:-1]] == [stage.after for stage in found[1:]]
    assert all(stage.after < stage.until < epochs for stage in found[:-1])
    assert found[-1].until == 0
    assert found[-1].after < epochs
    for before, stage in pairwise(found):
        assert set(stage.trials) < set(before.trials)


def test_a_point_that_diverged_under_every_seed_never_goes_on() -> None:
    """Two of nine live, where three may go on."""
    sweep = SweepConfig(BASE, (NINE,), seeds=2, search="halving")
    found = stages(sweep, lambda trial: best_low(trial) if trial.point in (4, 7) else math.nan)
    assert [alive(stage) for stage in found] == [list(range(9)), [4, 7], [4]]


def test_a_point_with_a_diverged_seed_goes_on_only_where_no_other_can() -> None:
    """It ranks below all that are whole, however good its other seed is, and goes on with both."""
    quality = {0: (0.99, math.nan), 1: (0.1, 0.1), 2: (0.2, 0.2)}
    axes = (("momentum", (0.0, 0.5, 0.9)),)
    sweep = SweepConfig(BASE, axes, seeds=2, search="halving", factor=2)
    found = stages(sweep, lambda trial: quality[trial.point][trial.config.seed])
    assert [alive(stage) for stage in found] == [[0, 1, 2], [1, 2], [2]]
    others = {**quality, 1: (math.nan, math.nan)}
    found = stages(sweep, lambda trial: others[trial.point][trial.config.seed])
    assert [alive(stage) for stage in found] == [[0, 1, 2], [0, 2], [2]]


def test_halving_ends_where_all_have_diverged() -> None:
    sweep = SweepConfig(BASE, (NINE,), seeds=2, search="halving")
    assert len(stages(sweep, lambda trial: math.nan)) == 1


@pytest.mark.parametrize("name", ["all", "halving"])
def test_the_same_results_give_the_same_stages(name: str) -> None:
    sweep = SweepConfig(BASE, (RATE, MOMENTUM), seeds=2, points=9, search=name)
    assert stages(sweep, best_low) == stages(sweep, best_low)


def test_one_stage_trains_every_trial_to_its_end() -> None:
    sweep = SweepConfig(BASE, (NINE,), seeds=2)
    assert stages(sweep, best_low) == [Stage(trials(sweep), 0, 0)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("gp", "cmaes") else n for n in SEARCHES]
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_work_is_the_epochs_of_all_stages(name: str, seeds: int) -> None:
    for package in {"cmaes": ("optuna", "cmaes"), "gp": ("optuna", "torch")}.get(
        name, ("optuna",) * (name in SAMPLERS)
    ):
        needs(package)
    for count, epochs, factor in ((10, 9, 3), (7, 30, 2), (1, 5, 3), (10, 1, 3)):
        sweep = SweepConfig(
            replace(BASE, epochs=epochs),
            (RATE, MOMENTUM),
            seeds,
            points=count,
            search=name,
            batch_points=4,
            factor=factor,
        )
        found = stages(sweep, best_low)
        done = sum(len(stage.trials) * ((stage.until or epochs) - stage.after) for stage in found)
        assert work(sweep) == done


def test_work_counts_epochs_that_are_swept() -> None:
    sweep = SweepConfig(BASE, (("epochs", (2, 5)), ("momentum", (0.0, 0.5, 0.9))), seeds=2)
    assert work(sweep) == 2 * 3 * (2 + 5)


# ------------------------------------------------------------------------- points


def test_points_are_combinations_with_the_last_axis_fastest() -> None:
    sweep = SweepConfig(BASE, (("learning_rate", (0.1, 0.2)), ("momentum", (0.0, 0.9)), ("hidden", ((4,), (8, 4)))))
    assert [tuple(value for _, value in point) for point in points(sweep)] == [
        (0.1, 0.0, (4,)), (0.1, 0.0, (8, 4)), (0.1, 0.9, (4,)), (0.1, 0.9, (8, 4)),
        (0.2, 0.0, (4,)), (0.2, 0.0, (8, 4)), (0.2, 0.9, (4,)), (0.2, 0.9, (8, 4)),
    ]  # fmt: skip


def test_axes_of_a_group_vary_together() -> None:
    """In its points the axes keep their order; the group varies where its first name stands."""
    axes = (("learning_rate", (0.1, 0.2)), ("momentum", (0.0, 0.9)), ("weight_decay", (1e-3, 1e-2)))
    sweep = SweepConfig(BASE, axes, zipped=(("weight_decay", "learning_rate"),))
    assert [dict(point) for point in points(sweep)] == [
        {"learning_rate": rate, "momentum": momentum, "weight_decay": decay}
        for momentum in (0.0, 0.9)
        for rate, decay in ((0.1, 1e-3), (0.2, 1e-2))
    ]
    assert [name for name, _ in points(sweep)[0]] == ["learning_rate", "momentum", "weight_decay"]
    drawn = points(replace(sweep, points=4))
    assert set(drawn) == set(points(sweep))
    assert replace(sweep, zipped=(("optimizer.weight_decay", "learning-rate"),)) == sweep


def test_a_network_is_an_axis() -> None:
    networks = (MLPConfig(hidden=(4,)), CNNConfig(filters=(4,)), LeNet5Config())
    sweep = SweepConfig(BASE, (("network", networks), ("learning_rate", (0.1, 0.2))), seeds=1)
    found = [(trial.config.network, trial.config.optimizer.learning_rate) for trial in trials(sweep)]
    assert found == [(network, rate) for network in networks for rate in (0.1, 0.2)]


# ------------------------------------------------------------------------- axes over parts


def grid(*axes: tuple[str, Any], base: TrainConfig = BASE, **settings: Any) -> list[dict[str, Any]]:
    return [dict(point) for point in points(SweepConfig(base, axes, **settings))]


def test_an_axis_varies_under_the_parts_that_have_it() -> None:
    sgd, adam = SGD(), Adam()
    assert grid(("optimizer", (sgd, adam)), ("momentum", (0.0, 0.9))) == [
        {"optimizer": sgd, "momentum": 0.0}, {"optimizer": sgd, "momentum": 0.9}, {"optimizer": adam},
    ]  # fmt: skip
    cnn, mlp = CNNConfig(), MLPConfig()
    assert grid(("network", (cnn, mlp)), ("filters", ((4,), (8,)))) == [
        {"network": cnn, "filters": (4,)}, {"network": cnn, "filters": (8,)}, {"network": mlp},
    ]  # fmt: skip
    rates = ("learning_rate", (0.1, 0.2))
    assert len(grid(("optimizer", (sgd, adam, AdamW())), ("momentum", (0.0, 0.9)), ("b1", (0.8, 0.9)), rates)) == 2 * 6
    assert len(grid(("momentum", (0.0, 0.9)), ("optimizer", (adam, sgd)))) == 3  # in either order


def test_a_field_of_a_part_that_an_axis_replaces_is_no_axis() -> None:
    axes = ("network", (MLPConfig(), ResNetConfig())), ("kernel", (4, 8))
    with pytest.raises(ValueError, match=r"^kernel: no such option"):
        SweepConfig(replace(BASE, network=CNNConfig()), axes)


def test_values_reach_the_parts_that_have_them_and_no_others() -> None:
    axes = (("b1", (0.5, 0.6)), ("momentum", (0.7, 0.8)), ("optimizer", (SGD(weight_decay=0.1), Adam(b2=0.99))))
    found = [trial.config.optimizer for trial in trials(SweepConfig(BASE, axes, seeds=1))]
    assert set(found) == {
        SGD(weight_decay=0.1, momentum=0.7), SGD(weight_decay=0.1, momentum=0.8),
        Adam(b2=0.99, b1=0.5), Adam(b2=0.99, b1=0.6),
    }  # fmt: skip
    assert len(found) == 4


def test_parts_of_parts_and_parts_in_tuples_are_axes() -> None:
    axes = (("optimizer", (SGD(), Adam())), ("schedule", (Cosine(warmup=0.3), Step())), ("warmup", (0.0, 0.1)))
    found = {trial.config.optimizer for trial in trials(SweepConfig(BASE, axes, seeds=1))}
    schedules = [schedule(warmup=share) for schedule in (Cosine, Step) for share in (0.0, 0.1)]
    assert found == {kind(schedule=schedule) for kind in (SGD, Adam) for schedule in schedules}
    axes = (("augment", ((), (Flip(),), (Shift(), Flip()))), ("p", (0.1, 0.2)), ("cells", (1.0, 2.0)))
    found = [trial.config.augment for trial in trials(SweepConfig(BASE, axes, seeds=1))]
    assert found == [
        (), (Flip(0.1),), (Flip(0.2),),
        *((Shift(cells), Flip(p)) for p in (0.1, 0.2) for cells in (1.0, 2.0)),
    ]  # fmt: skip


def test_a_schedule_is_replaced_as_a_whole() -> None:
    base = replace(BASE, optimizer=SGD(schedule=Cosine(warmup=0.2)))
    sweep = SweepConfig(base, (("schedule", (Constant(), Cosine())),), seeds=1)
    assert [trial.config.optimizer.schedule for trial in trials(sweep)] == [Constant(), Cosine()]


def test_off_is_a_program_of_its_own_on_an_axis_of_numbers() -> None:
    sweep = SweepConfig(BASE, (("dropout", (None, 0.0, 0.3)),), seeds=2)
    assert grid(*sweep.axes) == [{"dropout": None}, {"dropout": 0.0}, {"dropout": 0.3}]
    programs = plan(trials(sweep), Lanes(0))
    assert [[trial.config.network.dropout for trial in program.trials] for program in programs] == [
        [None, None], [0.0, 0.0, 0.3, 0.3],
    ]  # fmt: skip


def test_programs_are_as_many_as_structures() -> None:
    axes = (
        ("optimizer", (SGD(), SGD(clip_norm=1.0), Adam())),
        ("momentum", (0.0, 0.9)),
        ("learning_rate", (0.1, 0.01)),
        ("schedule", (Cosine(), Cosine(warmup=0.1))),
    )
    members = trials(SweepConfig(BASE, axes, seeds=2))
    assert len(members) == (2 + 2 + 1) * 2 * 2 * 2
    assert sorted(len(program.trials) for program in plan(members, Lanes(0))) == [8, 16, 16]


@pytest.mark.parametrize(
    "name", ["learning_rate", "optimizer.learning_rate", "learning-rate", "optimizer.learning-rate"]
)
def test_an_axis_may_have_its_path_as_name(name: str) -> None:
    sweep = SweepConfig(BASE, ((name, (0.1, 0.2)),), seeds=1)
    assert [trial.config.optimizer.learning_rate for trial in trials(sweep)] == [0.1, 0.2]
    assert grid(*sweep.axes) == [{name: 0.1}, {name: 0.2}]
    assert SweepConfig(BASE, ((name, Range(0.1, 0.2)),), points=2).option(name).path == ("optimizer", "learning_rate")


@pytest.mark.parametrize("name", ["warmup", "schedule.warmup", "optimizer.schedule.warmup"])
def test_any_end_of_a_path_is_its_name(name: str) -> None:
    found = [trial.config.optimizer.schedule for trial in trials(SweepConfig(BASE, ((name, (0.1, 0.2)),), seeds=1))]
    assert found == [Cosine(0.1), Cosine(0.2)]


@pytest.mark.parametrize("name", ["p", "flip.p", "augment.flip.p"])
def test_a_part_in_a_tuple_is_named_by_its_class(name: str) -> None:
    base = replace(BASE, augment=(Shift(1.0), Flip()))
    found = [trial.config.augment for trial in trials(SweepConfig(base, ((name, (0.1, 0.2)),), seeds=1))]
    assert found == [(Shift(1.0), Flip(0.1)), (Shift(1.0), Flip(0.2))]


@config
class Erase(Augmentation):
    """Another augmentation with a probability."""

    p: float = number(0.5, least=0, most=1)


TWO = replace(BASE, augment=(Flip(), Erase()))


def test_a_name_that_several_parts_have_is_refused_with_their_paths() -> None:
    several = r"^p: ambiguous: use augment\.flip\.p or augment\.erase\.p$"
    with pytest.raises(ValueError, match=several):
        SweepConfig(TWO, (("p", (0.1, 0.2)),))
    with pytest.raises(ValueError, match=several):  # of parts that are offered as well
        SweepConfig(BASE, (("augment", ((Flip(),), (Erase(),))), ("p", (0.1, 0.2))))
    assert grid(("flip.p", (0.1,)), ("augment.erase.p", (0.3,)), base=TWO) == [{"flip.p": 0.1, "augment.erase.p": 0.3}]
    with pytest.raises(ValueError, match=r"^flip\.p: duplicate axis"):
        SweepConfig(TWO, (("flip.p", (0.1,)), ("augment.flip.p", (0.2,))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rat", "learning_rat: no such option: did you mean 'learning_rate'[?] use one of activation, "),
        ("optimizer.momentun", "optimizer.momentun: no such option: "),
        ("clip_nrm", "clip_nrm: no such option: did you mean 'clip_norm'[?]"),
        ("flip.p", "flip.p: no such option: "),
        ("seed", "seed: cannot be swept: all points have the same data, seeds and metric"),
        ("data", "data: cannot be swept"),
        ("threshold", "threshold: cannot be swept"),  # of the metric
        ("metric.threshold", "metric.threshold: cannot be swept"),
    ],
)
def test_names_that_are_no_axes(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SweepConfig(replace(BASE, metric=Above()), ((name, (0.1, 0.2)),))


@config
class Above(Metric):
    """A metric with a number, of which less is better."""

    higher_is_better = False
    threshold: float = number(0.5)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((("metric", (Accuracy(), Above())),), "metric: cannot be swept: all points have the same"),
        ((("optimizer", (SGD, Adam())),), "optimizer: the class SGD: must be an Optimizer, such as SGD()"),
        ((("optimizer", (Cosine(),)),), "optimizer: Cosine(warmup=0.0): must be an Optimizer, such as SGD()"),
        ((("schedule", ("cosine",)),), "optimizer.schedule: 'cosine': must be a Schedule"),
        ((("augment", (Flip(),)),), "augment: Flip(p=0.5): must be a tuple of parts, such as (Flip(),)"),
        ((("augment", ((Flip(), Flip(0.1)),)),), "augment: flip,flip: duplicate value flip"),
        ((("optimizer", (SGD(), SGD())),), "optimizer: sgd sgd: duplicate value"),
        ((("optimizer", (SGD(momentum=1.5),)),), "momentum: 1.5: must be at least 0 and below 1"),
        ((("learning_rate", (1, 1.0)),), "learning_rate: 1 1.0: duplicate value"),
        ((("dropout", (None, 0.1, None)),), "dropout: none 0.1 none: duplicate value"),
        ((("loss", (CrossEntropy(), SquaredError())), ("label_smoothing", (1.0,))), "label_smoothing: 1.0: must be at"),
    ],
)  # fmt: skip
def test_an_axis_over_parts_that_cannot_be_is_refused(axes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        SweepConfig(BASE, axes)


def test_lists_of_values_are_tuples() -> None:
    listed: Any = [("hidden", [[4], [8, 4]]), ("augment", [[], [Flip()]])]
    sweep = SweepConfig(BASE, listed)
    assert sweep.axes == (("hidden", ((4,), (8, 4))), ("augment", ((), (Flip(),))))
    assert len(trials(sweep)) == 12


OPTIMIZERS = ("optimizer", (SGD(), Adam(), AdamW()))
ONE_OF_THREE = (OPTIMIZERS, MOMENTUM, ("b1", (0.8, 0.9)), RATE, ("dropout", (None, 0.0, 0.3)))


def conditional(trial: Trial) -> None:
    """A point names what its optimizer has, and its configuration has these values."""
    values, run = dict(trial.values), trial.config
    adam = isinstance(values["optimizer"], Adam)
    assert set(values) == {"optimizer", "learning_rate", "dropout", "b1" if adam else "momentum"}
    assert type(run.optimizer) is type(values["optimizer"])
    assert run.optimizer.learning_rate == values["learning_rate"]
    assert run.network.dropout == values["dropout"]
    assert getattr(run.optimizer, name := "b1" if adam else "momentum") == values[name]


def test_points_with_parts_are_drawn_as_often_as_there_are_parts() -> None:
    sweep = SweepConfig(BASE, ONE_OF_THREE, points=300, seeds=1)
    drawn = trials(sweep)
    for trial in drawn:
        conditional(trial)
    assert len({trial.values for trial in drawn}) == 300
    counts = Counter(type(trial.config.optimizer) for trial in drawn)
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    assert len(plan(drawn, Lanes(0))) == 3 * 2
    axes = (OPTIMIZERS, ("momentum", (0.0, 0.5, 0.9)))
    assert len(points(SweepConfig(BASE, axes, points=5))) == 5
    with pytest.raises(ValueError, match="points: 6: must be at most 5, the number of different points"):
        points(SweepConfig(BASE, axes, points=6))


def test_halving_continues_the_best_points_whatever_parts_they_have() -> None:
    axes = (("optimizer", (SGD(), Adam())), ("momentum", (0.0, 0.9)), ("learning_rate", (0.1, 0.2, 0.3)))
    sweep = SweepConfig(BASE, axes, seeds=2, search="halving")

    def quality(trial: Trial) -> float:
        return best_low(trial) + 0.15 * isinstance(trial.config.optimizer, Adam)

    found = stages(sweep, quality)
    assert [len(alive(stage)) for stage in found] == [9, 3, 1]
    kept = [{(type(t.config.optimizer), t.config.optimizer.learning_rate) for t in stage.trials} for stage in found[1:]]
    assert kept == [{(Adam, 0.1), (Adam, 0.2), (SGD, 0.1)}, {(Adam, 0.1)}]
    assert work(sweep) == sum(len(stage.trials) * ((stage.until or 9) - stage.after) for stage in found)


def test_halving_continues_the_lowest_where_lower_is_better() -> None:
    sweep = SweepConfig(replace(BASE, metric=Above()), (NINE,), seeds=2, search="halving")
    assert [alive(stage) for stage in stages(sweep, best_low)] == [list(range(9)), [6, 7, 8], [8]]


# ------------------------------------------------------------------------- points that are drawn


def test_drawn_points_are_distinct_and_follow_from_the_base_seed() -> None:
    axes = (RATE, MOMENTUM, ("nesterov", (False, True)))
    sweep = SweepConfig(BASE, axes, points=200)
    drawn = points(sweep)
    assert len(set(drawn)) == len(drawn) == 200
    assert points(sweep) == drawn
    assert points(replace(sweep, base=replace(BASE, seed=1))) != drawn
    assert points(replace(sweep, points=50)) == drawn[:50]
    assert [trial.values for trial in trials(replace(sweep, seeds=1))] == drawn


def test_as_many_points_as_there_are_can_be_drawn_and_no_more() -> None:
    axes = (("momentum", (0.0, 0.5, 0.9)), ("batch_size", Range(16, 17)))
    sweep = SweepConfig(BASE, axes, points=6)
    assert len(points(sweep)) == 6
    with pytest.raises(ValueError, match="points: 7: must be at most 6, the number of different points"):
        points(replace(sweep, points=7))


def test_ranges_are_drawn_from_uniformly_or_uniformly_in_the_logarithm() -> None:
    sweep = SweepConfig(BASE, (RATE, MOMENTUM), points=1000)
    rates, momenta = np.array([[value for _, value in point] for point in points(sweep)]).T
    assert stats.kstest(np.log10(rates), stats.uniform(-4, 4).cdf).pvalue > 0.01
    assert stats.kstest(momenta, stats.uniform(0, 0.95).cdf).pvalue > 0.01
    assert abs(np.corrcoef(np.log(rates), momenta)[0, 1]) < 0.1
    assert min(len(set(rates)), len(set(momenta))) > 900
    for values, range in zip((rates, momenta), (RATE[1], MOMENTUM[1]), strict=True):
        assert range.low <= values.min()
        assert values.max() <= range.high
        assert all(float(f"{value:.4g}") == value for value in values)


@pytest.mark.parametrize("log", [False, True])
def test_an_option_that_counts_is_drawn_as_whole_numbers(log: bool) -> None:
    sweep = SweepConfig(BASE, (("batch_size", Range(8, 64, log)), MOMENTUM), points=1000)
    sizes = [dict(point)["batch_size"] for point in points(sweep)]
    assert all(type(size) is int for size in sizes)
    assert (min(sizes), max(sizes)) == (8, 64)
    middle = math.sqrt(8 * 64) if log else (8 + 64) / 2
    assert abs(np.median(sizes) - middle) < 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"axes": (("learning_rate", Range(1.0, 0.1)),), "points": 4},
            "learning_rate: uniform:1:0.1: the first end must be below the second",
        ),
        (
            {"axes": (("learning_rate", Range(0.1, 0.1)),), "points": 4},
            "learning_rate: uniform:0.1:0.1: the first end must be below the second",
        ),
        (
            {"axes": (("momentum", Range(0.0, 0.9, True)),), "points": 4},
            "momentum: log:0:0.9: a logarithmic range must start above 0",
        ),
        ({"axes": (("momentum", Range(0.5, 1.0)),), "points": 4}, "momentum: 1.0: must be at least 0 and below 1"),
        ({"axes": (("learning_rate", Range(-1.0, 1.0)),), "points": 4}, "learning_rate: -1.0: must be at least 0"),
        ({"axes": (("learning_rate", Range(0.1, math.inf)),), "points": 4}, "learning_rate: inf: must be finite"),
        ({"axes": (("learning_rate", Range(math.nan, 1.0)),), "points": 4}, "learning_rate: nan: must be finite"),
        (
            {"axes": (("learning_rate", Range(0.1, 1.0)),)},
            "learning_rate: uniform:0.1:1: give the number of random points",
        ),
        ({"axes": (("hidden", Range(4, 8)),), "points": 4}, "hidden: uniform:4:8: only numbers can have a range"),
        ({"axes": (("nesterov", Range(0, 1)),), "points": 4}, "nesterov: uniform:0:1: only numbers can have a range"),
        ({"axes": (("momentun", Range(0.1, 0.9)),), "points": 4}, "momentun: no such option: did you mean 'momentum'"),
        ({"axes": (("momentun", (0.1,)),)}, "momentun: no such option: did you mean 'momentum'"),
        ({"axes": (("kernel", (3,)), ("network", (LeNet5Config(), MLPConfig())))}, "kernel: no such option"),
        ({"axes": (("network", ("cnn",)),)}, "network: 'cnn': must be a NetworkConfig"),
        ({"axes": (NINE, NINE)}, "learning_rate: duplicate axis"),
        ({"axes": (("learning_rate", ()),)}, "learning_rate: give at least one value"),
        ({"axes": (("hidden", ((4,), (8,), (4,))),)}, "hidden: 4 8 4: duplicate value"),
        ({"axes": (("seed", Range(0, 9)),), "points": 4}, "seed: cannot be swept"),
        ({"axes": (), "seeds": 0}, "seeds: 0: must be at least 1"),
        ({"axes": (), "points": -1}, "points: -1: must be at least 0"),
        ({"axes": (), "batch_points": 0}, "batch_points: 0: must be at least 1"),
        ({"axes": (), "factor": 1}, "factor: 1: must be at least 2"),
        ({"axes": (), "search": "halvin"}, "search: 'halvin': did you mean 'halving'. use one of all, halving, tpe"),
        ({"axes": (("epochs", (1, 2)),), "search": "halving"}, "epochs: cannot be swept with halving"),
        ({"axes": (NINE,), "search": "tpe"}, "points: 0: give the number of points that tpe may try"),
        (
            {"axes": (("momentum", (0.1, 0.2)), NINE), "zipped": (("momentum", "learning_rate"),)},
            "zip: momentum,learning_rate: must have the same number of values, not momentum 2, learning_rate 9",
        ),
        (
            {"axes": (("momentum", (0.1, 0.2)),), "zipped": (("momentum", "momentun"),)},
            "zip: momentun: did you mean 'momentum'. must be an axis with a list of values",
        ),
        ({"axes": (RATE, MOMENTUM), "points": 4, "zipped": (("momentum", "learning_rate"),)}, "zip: momentum: "),
        (
            {"axes": (("momentum", (0.1,)), ("warmup", (0.1,))), "zipped": (("momentum", "warmup"), ("warmup",))},
            "zip: warmup: duplicate value",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SweepConfig(BASE, **settings)


# ------------------------------------------------------------------------- Optuna


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Optuna's studies, as searches create them."""
    optuna = needs("optuna")
    create, created = optuna.create_study, []
    monkeypatch.setattr(optuna, "create_study", lambda **options: created.append(create(**options)) or created[-1])
    return created


def proposing(name: str, *axes: tuple, points: int = 24, **settings: Any) -> SweepConfig:
    return SweepConfig(
        BASE, axes or (RATE, MOMENTUM), points=points, search=name, **{"seeds": 2, "batch_points": 8, **settings}
    )


def values(found: Sequence[Stage]) -> list[list[tuple]]:
    return [[trial.values for trial in stage.trials] for stage in found]


@pytest.mark.parametrize("name", ["tpe", "qmc"])
def test_batches_depend_on_seed_and_results_alone(name: str, studies: list[Any]) -> None:
    sweep = proposing(name)
    found = stages(sweep, best_low)
    again = stages(sweep, best_low)
    assert found == again
    assert [alive(stage) for stage in found] == [list(range(8)), list(range(8, 16)), list(range(16, 24))]
    assert [trial.number for stage in found for trial in stage.trials] == list(range(48))
    assert {(stage.after, stage.until) for stage in found} == {(0, 0)}
    assert len({trial.values for stage in found for trial in stage.trials}) == 24
    other = stages(replace(sweep, base=replace(BASE, seed=5)), best_low)
    assert values(other)[0] != values(found)[0]
    assert len(studies) == 3


def test_other_results_change_later_batches_and_not_the_first(studies: list[Any]) -> None:
    low, high = (stages(proposing("tpe"), quality) for quality in (best_low, lambda trial: -best_low(trial)))
    assert low[0] == high[0]
    assert values(low)[1:] != values(high)[1:]
    rates = [[math.log10(dict(trial.values)["learning_rate"]) for trial in found[2].trials] for found in (low, high)]
    assert np.mean(rates[0]) < np.mean(rates[1])


def test_a_study_is_told_the_mean_over_seeds_and_failure_where_one_diverged(studies: list[Any]) -> None:
    def quality(trial: Trial) -> float:
        return math.nan if (trial.point, trial.config.seed) == (3, 1) else trial.point / 100 + trial.config.seed / 10

    stages(proposing("tpe"), quality)
    [study] = studies
    assert [trial.number for trial in study.trials] == list(range(24))
    assert [trial.number for trial in study.trials if trial.state.name == "FAIL"] == [3]
    told = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
    np.testing.assert_allclose(told, [-(i / 100 + 0.05) for i in range(24) if i != 3])
    assert study.direction.name == "MINIMIZE"


def test_a_study_minimizes_whichever_way_is_better(studies: list[Any]) -> None:
    sweep = proposing("tpe", points=8)
    up = stages(sweep, best_low)
    down = stages(replace(sweep, base=replace(BASE, metric=Above())), lambda trial: -best_low(trial))
    assert values(up) == values(down)
    first, second = studies
    assert [trial.value for trial in first.trials] == [trial.value for trial in second.trials]
    assert {study.direction.name for study in studies} == {"MINIMIZE"}


def test_optuna_logs_for_its_other_users_as_before(studies: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        stages(proposing("tpe"), best_low)
        assert logging.get_verbosity() == logging.INFO
        assert capfd.readouterr().err == ""
    finally:
        logging.set_verbosity(before)


@pytest.mark.parametrize("name", ["tpe", "qmc"])
def test_points_with_the_fields_of_their_parts_are_proposed(name: str, studies: list[Any]) -> None:
    sweep = proposing(name, *ONE_OF_THREE, points=32, batch_points=16)
    found = stages(sweep, best_low)
    members = [trial for stage in found for trial in stage.trials]
    assert [trial.number for trial in members] == list(range(64))
    for trial in members:
        conditional(trial)
    assert {type(trial.config.optimizer) for trial in members} == {SGD, Adam, AdamW}
    assert stages(sweep, best_low) == found


@pytest.mark.parametrize("name", ["tpe", "qmc"])
def test_proposed_values_are_of_their_axes(name: str, studies: list[Any]) -> None:
    """Tuples and groups are categories; options that count are whole; numbers have four digits and stay inside."""
    hidden, decays = ((4,), (8, 4), (16,)), (0.0, 1e-3, 1e-2)
    axes = (
        ("learning_rate", Range(0.012345, 0.98765, log=True)),
        ("hidden", hidden),
        ("batch_size", Range(8, 32)),
        ("weight_decay", decays),
        ("momentum", Range(0.0, 0.95)),
        ("nesterov", (False, True)),
    )
    sweep = proposing(name, *axes, points=32, batch_points=16, zipped=(("hidden", "weight_decay"),))
    found = [trial for stage in stages(sweep, best_low) for trial in stage.trials]
    assert [name for name, _ in found[0].values] == [name for name, _ in axes]
    for point in (dict(trial.values) for trial in found):
        assert (point["hidden"], point["weight_decay"]) in list(zip(hidden, decays, strict=True))
        assert type(point["batch_size"]) is int
        assert 8 <= point["batch_size"] <= 32
        assert 0.012345 <= point["learning_rate"] <= 0.98765
        assert float(f"{point['momentum']:.4g}") == point["momentum"]
        assert type(point["nesterov"]) is bool
    assert len({trial.config.network.hidden for trial in found}) == 3
    assert len({trial.config.batch_size for trial in found}) > 8


def test_a_search_without_optuna_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"search: tpe needs Optuna: pip install -e '\.\[optuna\]'"):
        search(proposing("tpe"))


# ------------------------------------------------------------------------- programs that go on with fewer


def population(lanes: Lanes, count: int = 12, **axes: tuple) -> Program:
    sweep = SweepConfig(BASE, (("learning_rate", tuple(0.01 * i for i in range(1, count + 1))), *axes.items()), seeds=1)
    [program] = plan(trials(sweep), lanes, "one", spec=SPEC)
    return program


@pytest.mark.parametrize("lanes", [Lanes(0), Lanes(4), Lanes(0, 2), Lanes(1), Lanes(1, 2)], ids=str)
def test_a_program_goes_on_in_a_power_of_two_of_lanes_side_by_side_or_in_all_one_after_the_other(lanes: Lanes) -> None:
    program = population(lanes)
    for left in range(1, 13):
        rest = compact(program, program.trials[-left:], 3, 9)
        assert (rest.trials, rest.after, rest.until) == (program.trials[-left:], 3, 9)
        expected = 12 if lanes.width == 1 else min(12, max(lanes.devices, 2 ** math.ceil(math.log2(left))))
        assert len(rest.trials) + rest.spare == expected
        assert compact(rest, rest.trials, 9, 0) == rest._replace(after=9, until=0)


@pytest.mark.parametrize("width", [0, 1])
def test_trials_that_go_on_are_dealt_evenly_over_devices(width: int) -> None:
    program = population(Lanes(width, 2))
    for left in range(1, 13):
        rest = compact(program, program.trials[12 - left :], 3, 9)
        count = left + rest.spare
        assert len(set(rest.rows)) == left
        assert set(rest.rows) <= set(range(count))
        shares = Counter(row // (count // 2) for row in rest.rows)
        assert max(shares.values()) - shares.get(1, 0) <= 1


def test_room_is_left_for_trials_to_come_where_resting_lanes_cost_little() -> None:
    """One after the other for all of them, side by side up to a power of two."""
    assert [spare_lanes(Lanes(1), trials, 12) for trials in (1, 5, 12, 13)] == [11, 7, 0, 0]
    assert [spare_lanes(Lanes(0), trials, 12) for trials in (1, 3, 5, 8, 9, 12, 13)] == [0, 1, 3, 0, 3, 0, 0]
    assert [spare_lanes(Lanes(0, 2), trials, 12) for trials in (1, 3)] == [1, 1]
    members = population(Lanes(1)).trials[:5]
    assert [program.spare for program in plan(members, Lanes(1), capacity=12)] == [7]
    assert [program.spare for program in plan(members, Lanes(1))] == [0]


def test_states_outlive_the_programs_that_trials_move_through(small: Dataset) -> None:
    """From a program of two widths into a smaller one, in lanes of other places, and back."""
    program = population(Lanes(0, 2), 6, hidden=((3,), (5,)))
    assert program.wide == MLPConfig(hidden=(5,))
    rng = np.random.default_rng(0)
    alone = {}
    for group in plan(program.trials, Lanes(1)):
        like = state_of(group, small.spec)
        state = jax.tree.map(lambda array: rng.integers(1, 9, array.shape).astype(array.dtype), like)
        alone |= states_of(group, state._replace(diverged=np.zeros(len(group.trials), bool)), group.trials, small.spec)
    rest = compact(program, program.trials[1:11:2], 3, 9)
    assert (len(rest.trials), rest.spare) == (5, 3)
    whole = assembled(program, alone, small.spec)
    moved = assembled(rest, states_of(program, whole, rest.trials, small.spec), small.spec)
    back = states_of(rest, moved, rest.trials, small.spec)
    assert back.keys() == {trial.number for trial in rest.trials}
    for trial, state in back.items():
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(alone[trial]), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    resting = sorted(set(range(8)) - set(rest.rows))
    assert np.flatnonzero(moved.diverged).tolist() == resting
