"""A randomized block model of points and seeds: each seed is a block, whose effect all points share."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Blocks(NamedTuple):
    """The least squares fit of `cost = point + seed + error`; points may have different seeds."""

    costs: Float[np.ndarray, " points"]
    """The adjusted cost of each point; its mean cost if all points have the same seeds."""
    spread: float
    """Standard deviation of the errors, pooled over points; infinite without degrees of freedom."""
    freedom: int
    """Degrees of freedom of the spread."""
    kinds: Int[np.ndarray, " points"]
    """The kind of each point; points of one kind have the same seeds."""
    variances: Float[np.ndarray, "kinds kinds"]
    """Variance of the difference between points of two kinds, over `spread` squared; infinite if not estimable."""


def fit_blocks(costs: Float[np.ndarray, "points seeds"]) -> Blocks:
    """Fits the effects of points and seeds (randomized blocks, Cochran and Cox 1957).

    The points are eliminated from the normal equations, whose size is then the number of seeds.

    Args:
      costs: the cost of each point under each seed; NaN for missing seeds.
    """
    had = ~np.isnan(costs)
    values, counts = np.where(had, costs, 0), had.sum(1)
    shares = had / counts[:, None]
    normal = np.diag(had.sum(0)) - had.T @ shares
    inverse = np.linalg.pinv(normal, 1e-9, hermitian=True)
    seeds = inverse @ (values.sum(0) - shares.T @ values.sum(1))
    points = (values.sum(1) - had @ seeds) / counts
    errors = np.where(had, costs - points[:, None] - seeds, 0)
    estimable = inverse @ normal  # projects onto the estimable seed effects
    freedom = int(had.sum()) - len(points) - round(float(np.trace(estimable)))
    spread = math.sqrt(float(np.sum(errors**2)) / freedom) if freedom else math.inf
    patterns, kinds = np.unique(had, axis=0, return_inverse=True)
    return Blocks(points, spread, freedom, kinds.reshape(-1), _variances(patterns, inverse, estimable))


def _variances(patterns: np.ndarray, inverse: np.ndarray, estimable: np.ndarray) -> np.ndarray:
    """Returns the variances of differences between points with two patterns of seeds."""
    counts = patterns.sum(1)
    shares = patterns / counts[:, None]
    apart = shares[:, None] - shares
    variances = 1 / counts[:, None] + 1 / counts + np.einsum("abs,st,abt->ab", apart, inverse, apart)
    connected = np.abs(apart @ estimable - apart).max(-1, initial=0) < 1e-6
    return np.where(connected, variances, math.inf)
