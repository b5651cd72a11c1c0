"""What a sweep says: points ranked by their seeds, and how far the ranking can be trusted."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax.sweeps import Result


class Summary(NamedTuple):
    """Mean and sample standard deviation (divisor n - 1); NaN where they do not exist."""

    mean: float
    std: float
    n: int


def summarize(values: Sequence[float]) -> Summary:
    """The mean and spread of the values that are finite."""
    values = [value for value in values if math.isfinite(value)]
    mean = float(np.mean(values)) if values else math.nan
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Summary(mean, std, len(values))


class Ranked(NamedTuple):
    """A point of a sweep with the results of its seeds."""

    values: Mapping[str, Any]
    results: tuple[Result, ...]
    valid_accuracy: Summary
    valid_loss: Summary

    @property
    def complete(self) -> bool:
        return all(result.status == "complete" for result in self.results)


def rank(results: Sequence[Result]) -> list[Ranked]:
    """Points, best first: by mean validation accuracy, ties by mean validation loss.

    A point with a diverged seed ranks below every point without.
    """
    ranked = []
    for _, group in itertools.groupby(sorted(results, key=lambda r: r.trial.number), lambda r: r.trial.point):
        seeds = tuple(group)
        accuracy, loss = (summarize([getattr(r, name) for r in seeds]) for name in ("valid_accuracy", "valid_loss"))
        ranked.append(Ranked(dict(seeds[0].trial.values), seeds, accuracy, loss))

    def badness(point: Ranked) -> tuple[bool, float, float]:
        accuracy, loss = point.valid_accuracy.mean, point.valid_loss.mean
        if math.isnan(accuracy):
            return True, math.inf, math.inf
        return not point.complete, -round(accuracy, 9), loss  # rounded, so that equal counts tie

    return sorted(ranked, key=badness)
