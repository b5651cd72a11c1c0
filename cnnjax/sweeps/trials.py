"""The points and trials of a sweep, and what each trial came to."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import Range, SweepConfig, TrainConfig

MOST_TRIALS = 100_000


class Trial(NamedTuple):
    """One point under one seed."""

    number: int
    point: int
    values: tuple[tuple[str, Any], ...]
    config: TrainConfig


Point = tuple[tuple[str, Any], ...]
"""The swept values, by name."""


def columns(sweep: SweepConfig) -> list[tuple[tuple[str, ...], Any]]:
    """What varies on its own: the names of an axis or of a zipped group, with rows of their values, or a range."""
    axes: dict[str, Any] = dict(sweep.axes)
    group_of = {name: group for group in sweep.zipped for name in group}
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, values in axes.items():
        group = group_of.get(name, (name,))
        if isinstance(values, Range):
            found.append((group, values))
        elif group[0] == name:
            found.append((group, tuple(zip(*(axes[name] for name in group), strict=True))))
    return found


def points(sweep: SweepConfig) -> list[Point]:
    """Every combination of the axes' values, the last axis varying fastest; or `sweep.points` drawn at random.

    Raises:
      ValueError: more points are asked for than there are.
    """
    grid = columns(sweep)
    if not sweep.points:
        every = itertools.product(*(rows for _, rows in grid))
        return list(
            dict.fromkeys(point_of(sweep, rows) for rows in every)
        )  # fewer, where parts have fields of their own
    rng, drawn = np.random.default_rng(sweep.base.seed), dict[Point, None]()
    for _ in range(100 * sweep.points):
        rows = [
            (rows.at(rng.random(), sweep.option(names[0]).whole),)
            if isinstance(rows, Range)
            else rows[rng.integers(len(rows))]
            for names, rows in grid
        ]
        drawn[point_of(sweep, rows)] = None
        if len(drawn) == sweep.points:
            return list(drawn)
    raise ValueError(f"points: {sweep.points}: there are only {len(drawn)} different ones")


def point_of(sweep: SweepConfig, rows: Iterable[tuple[Any, ...]]) -> Point:
    """The point of one row of each of the `columns`: the values that apply to the parts it has."""
    chosen = {
        name: value
        for (names, _), row in zip(columns(sweep), rows, strict=True)
        for name, value in zip(names, row, strict=True)
    }
    _, applied = sweep.run({name: chosen[name] for name, _ in sweep.axes})
    return tuple(applied.items())


def trials_of(sweep: SweepConfig, points: Sequence[Point], before: int = 0) -> tuple[Trial, ...]:
    """Points under every seed, seeds varying fastest.

    Seeds count up from the base run's, and are the same under every point.

    Args:
      sweep: whose base run and seeds are meant.
      points: the swept values.
      before: number of points before these; trials and points are counted on from there.

    Raises:
      ValueError: an axis is no option of the run, or a value is out of range.
    """
    found: list[Trial] = []
    for i, point in enumerate(points, before):
        config, _ = sweep.run({**dict.fromkeys(sweep.paths), **dict(point)})
        found += [
            Trial(i * sweep.seeds + seed, i, point, replace(config, seed=config.seed + seed))
            for seed in range(sweep.seeds)
        ]
    return tuple(found)


def trials(sweep: SweepConfig) -> tuple[Trial, ...]:
    """The `points` of a sweep, or of its shard, under every seed; numbers are those of the whole sweep.

    Those of `more_seeds` come last, so that they change no number.

    Raises:
      ValueError: an axis is no option of the run, a value is out of range, there are too many, the shard has
        none, or no point has a number that is given more seeds.
    """
    count = (sweep.points or math.prod(len(rows) for _, rows in columns(sweep))) * sweep.seeds
    count += sum(more for _, more in sweep.more_seeds)
    if count > MOST_TRIALS:
        raise ValueError(f"seeds: {sweep.seeds}: {count} trials in all; at most {MOST_TRIALS} are planned at once")
    part, parts = sweep.part
    every = trials_of(sweep, points(sweep))
    found = tuple(trial for trial in every if trial.point % parts == part)
    if not found:
        raise ValueError(f"shard: {sweep.shard}: the sweep has {len(points(sweep))} points, fewer than shards")
    return found + tuple(_further(sweep, every))


def _further(sweep: SweepConfig, every: Sequence[Trial]) -> Iterator[Trial]:
    """The trials of `more_seeds`, whose seeds and numbers go on from those of all trials."""
    number = len(every)
    for point, more in sweep.more_seeds:
        if (last := (point + 1) * sweep.seeds - 1) >= len(every):
            raise ValueError(f"more_seeds: {point}: the sweep has points 0 to {every[-1].point}")
        for seed in range(every[last].config.seed + 1, every[last].config.seed + 1 + more):
            yield every[last]._replace(number=number, config=replace(every[last].config, seed=seed))
            number += 1


class Result(NamedTuple):
    """What a trial came to. Numbers that do not exist are NaN."""

    trial: Trial
    status: str
    """`complete`, `diverged`, or `stopped`: not at its last epoch."""
    step: int
    epochs: int
    """Whole epochs, before it diverged if it did."""
    train_loss: float
    valid_loss: float
    valid_metric: float
    above_chance: float = math.inf
    """By how many standard errors the metric is better than guessing; infinite where that is not known."""
