"""The points and trials of a sweep, and the results of trials."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from cnnjax.config import Range, SweepConfig, TrainConfig
from cnnjax.options import part_of

MOST_TRIALS = 100_000


class Trial(NamedTuple):
    """A point trained with one seed, in one fold of a cross-validation."""

    number: int
    point: int
    values: tuple[tuple[str, Any], ...]
    config: TrainConfig

    @property
    def fold(self) -> str | None:
        """The name of the fold, such as `3/10`; None without cross-validation."""
        return self.config.loading.fold

    @property
    def repeat(self) -> dict[str, Any]:
        """What tells the trials of a point apart, by name: the number of the fold, if there are folds, and the seed."""
        fold = {} if self.fold is None else {"fold": part_of("fold", self.fold)[0] + 1}
        return {**fold, "seed": self.config.seed}


Point = tuple[tuple[str, Any], ...]
"""The swept values of a point, by name."""


def columns(sweep: SweepConfig) -> list[tuple[tuple[str, ...], Any]]:
    """Returns what varies independently: the names of each axis or zipped group, with rows of values or a range."""
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
    """Returns all combinations of values, the last axis varying fastest, or `sweep.points` random points.

    Raises:
      ValueError: if there are fewer different points than `sweep.points`.
    """
    grid = columns(sweep)
    if not sweep.points:
        every = itertools.product(*(rows for _, rows in grid))
        return list(
            dict.fromkeys(point_of(sweep, rows) for rows in every)
        )  # some combinations coincide if parts have different fields
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
    raise ValueError(f"points: {sweep.points}: must be at most {len(drawn)}, the number of different points")


def point_of(sweep: SweepConfig, rows: Iterable[tuple[Any, ...]]) -> Point:
    """Returns the point for one row of each of the `columns`, without values for fields that its parts lack."""
    chosen = {
        name: value
        for (names, _), row in zip(columns(sweep), rows, strict=True)
        for name, value in zip(names, row, strict=True)
    }
    _, applied = sweep.run({name: chosen[name] for name, _ in sweep.axes})
    return tuple(applied.items())


def trials_of(sweep: SweepConfig, points: Sequence[Point], before: int = 0) -> tuple[Trial, ...]:
    """Combines points with all folds and seeds, the seed varying fastest.

    Seeds count up from the seed of the base run, and are the same for every point and fold.

    Args:
      sweep: the sweep, which defines the base run and the number of seeds.
      points: the swept values.
      before: the number of earlier points, at which the numbering of points and trials starts.

    Raises:
      ValueError: if an axis is not an option of the run, or a value is out of range.
    """
    found: list[Trial] = []
    for i, point in enumerate(points, before):
        config, _ = sweep.run({**dict.fromkeys(sweep.paths), **dict(point)})
        for fold in range(sweep.folds or 1):
            if sweep.folds:
                config = replace(config, loading=replace(config.loading, fold=f"{fold + 1}/{sweep.folds}"))
            first = (i * (sweep.folds or 1) + fold) * sweep.seeds
            found += [
                Trial(first + seed, i, point, replace(config, seed=config.seed + seed)) for seed in range(sweep.seeds)
            ]
    return tuple(found)


def trials(sweep: SweepConfig) -> tuple[Trial, ...]:
    """Returns the trials of a sweep or of its shard: all `points` with all seeds, numbered as in the whole sweep.

    Those of `more_seeds` come last, so that they change no number.

    Raises:
      ValueError: if an axis is not an option of the run, a value is out of range, there are too many
        trials, the shard has none, or `more_seeds` names a point that does not exist.
    """
    count = (sweep.points or math.prod(len(rows) for _, rows in columns(sweep))) * sweep.repeats
    count += sum(more for _, more in sweep.more_seeds) * (sweep.folds or 1)
    if count > MOST_TRIALS:
        raise ValueError(f"seeds: {sweep.seeds}: {count} trials in all: must be at most {MOST_TRIALS}")
    part, parts = sweep.part
    every = trials_of(sweep, points(sweep))
    found = tuple(trial for trial in every if trial.point % parts == part)
    if not found:
        raise ValueError(f"shard: {sweep.shard}: use fewer shards: the sweep has only {len(points(sweep))} points")
    return found + tuple(_further(sweep, every))


def _further(sweep: SweepConfig, every: Sequence[Trial]) -> Iterator[Trial]:
    """Yields the trials of `more_seeds`, whose seeds and numbers follow those of all other trials."""
    number = len(every)
    for point, more in sweep.more_seeds:
        if point > every[-1].point:
            raise ValueError(f"more_seeds: {point}: the sweep has points 0 to {every[-1].point}")
        for last in every[(point + 1) * sweep.repeats - 1 : point * sweep.repeats : -sweep.seeds][::-1]:
            for seed in range(last.config.seed + 1, last.config.seed + 1 + more):
                yield last._replace(number=number, config=replace(last.config, seed=seed))
                number += 1


class Result(NamedTuple):
    """The result of a trial; missing numbers are NaN."""

    trial: Trial
    status: str
    """`complete`, `diverged`, or `stopped` by halving before the last epoch; early stopping counts as complete."""
    step: int
    epochs: int
    """The number of full epochs; for a diverged trial, before it diverged."""
    train_loss: float
    valid_loss: float
    valid_metric: float
    above_chance: float = math.inf
    """By how many standard errors the metric is better than guessing; infinite where that is not known."""

    @property
    def early(self) -> bool:
        """Whether the trial ran out of patience before its last epoch."""
        return self.status == "complete" and self.epochs < self.trial.config.epochs
