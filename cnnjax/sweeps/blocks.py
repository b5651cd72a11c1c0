"""Points compared under common seeds: each seed is a block, whose effect all points share."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Blocks(NamedTuple):
    """The least squares fit of `cost = point + seed + error`, where points may have different seeds."""

    costs: Float[np.ndarray, " points"]
    """Of each point, as if all had all seeds; with equal seeds, its mean."""
    spread: float
    """Standard deviation of an error, pooled over points; infinite where nothing is left to estimate it from."""
    freedom: int
    """Degrees of freedom of the spread."""
    kinds: Int[np.ndarray, " points"]
    """Points of one kind have the same seeds."""
    variances: Float[np.ndarray, "kinds kinds"]
    """Of the difference between two points, in squares of the spread; infinite where no seed connects them."""


def fit_blocks(costs: Float[np.ndarray, "points seeds"]) -> Blocks:
    """Fits points and seeds (randomized blocks, Cochran and Cox 1957); NaN where a point lacks a seed.

    The normal equations of the seeds, from which the points are eliminated, are as small as the number of seeds.
    """
    had = ~np.isnan(costs)
    values, counts = np.where(had, costs, 0), had.sum(1)
    shares = had / counts[:, None]
    normal = np.diag(had.sum(0)) - had.T @ shares
    inverse = np.linalg.pinv(normal, 1e-9, hermitian=True)
    seeds = inverse @ (values.sum(0) - shares.T @ values.sum(1))
    points = (values.sum(1) - had @ seeds) / counts
    errors = np.where(had, costs - points[:, None] - seeds, 0)
    estimable = inverse @ normal  # projects onto what the points determine of the seeds
    freedom = int(had.sum()) - len(points) - round(float(np.trace(estimable)))
    spread = math.sqrt(float(np.sum(errors**2)) / freedom) if freedom else math.inf
    patterns, kinds = np.unique(had, axis=0, return_inverse=True)
    return Blocks(points, spread, freedom, kinds.reshape(-1), _variances(patterns, inverse, estimable))


def _variances(patterns: np.ndarray, inverse: np.ndarray, estimable: np.ndarray) -> np.ndarray:
    """Variances of differences between points that have the seeds of one pattern and those of another."""
    counts = patterns.sum(1)
    shares = patterns / counts[:, None]
    apart = shares[:, None] - shares
    variances = 1 / counts[:, None] + 1 / counts + np.einsum("abs,st,abt->ab", apart, inverse, apart)
    connected = np.abs(apart @ estimable - apart).max(-1, initial=0) < 1e-6
    return np.where(connected, variances, math.inf)
