"""The loss on a plane in the space of parameters, and the path of gradient descent on it.

After Li, Xu, Taylor, Studer and Goldstein 2018 ("Visualizing the loss landscape of neural nets").
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key, PyTree

from cnnjax.data import Split
from cnnjax.devices import compiled, compiler_options, free_memory
from cnnjax.training import Lanes, Run, Task, TrainState, as_arrays, evaluate
from cnnjax.training.core import Metrics


class Plane(NamedTuple):
    """A plane in the space of parameters: center + x * first + y * second, three trees of one structure."""

    center: PyTree
    first: PyTree
    second: PyTree

    def at(self, x: Float[Any, ""], y: Float[Any, ""]) -> PyTree:
        """The parameters at a place; at (0, 0) they equal the center to the bit."""
        return jax.tree.map(lambda center, first, second: center + x * first + y * second, *self)


# ------------------------------------------------------------------------- directions


@jax.jit
def filter_normalized(direction: PyTree, params: PyTree) -> PyTree:
    """A direction whose filters have the norms of those of the parameters (Li et al. 2018, section 4).

    A filter is what lies under one index of an array's last axis: the weights of one output map of a
    convolution, or of one unit of a dense layer. Arrays with fewer than two axes (biases, the scales of
    normalization layers) do not change along the direction.

    Args:
      direction: arrays of any scale.
      params: arrays of the same shapes.
    """

    def scaled(direction: Array, array: Array) -> Array:
        if array.ndim < 2:
            return jnp.zeros_like(array)
        axes = tuple(range(array.ndim - 1))
        size, wanted = (jnp.sqrt(jnp.square(each).sum(axes)) for each in (direction, array))
        return direction * jnp.where(size > 0, wanted / jnp.where(size > 0, size, 1), 0)

    return jax.tree.map(scaled, direction, params)


def random_plane(key: Key[Array, ""], params: PyTree) -> Plane:
    """The plane through the parameters along two Gaussian directions, filter-normalized.

    Raises:
      ValueError: no array has two axes, so that there are no filters.
    """
    if all(np.ndim(leaf) < 2 for leaf in jax.tree.leaves(params)):
        raise ValueError("directions: random: the network has no array of two or more axes, and so no filters")
    return Plane(params, *_random_directions(key, params))


@jax.jit
def _random_directions(key: Array, params: PyTree) -> list[PyTree]:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return [filter_normalized(_tree(row, params), params) for row in jax.random.normal(key, (2, count))]


def trajectory_plane(path: PyTree, center: PyTree | None = None) -> tuple[Plane, Float[np.ndarray, " two"]]:
    """The plane along which parameters changed most: the first two principal components of a path.

    Both directions have length 1 and are orthogonal, so that distances on the plane are distances
    between parameters. The first point of the path lies at the left of the center, and not below it.

    Args:
      path: parameters, an axis of at least three points in front of each array.
      center: a point of the plane; by default the last one of the path.

    Returns:
      The plane, and the shares of the variance over the points that its directions explain.

    Raises:
      ValueError: the path has too few points, a single parameter, or a number that is not finite.
    """
    center = jax.tree.map(lambda array: array[-1], path) if center is None else center
    points, origin = _rows(path), _rows(jax.tree.map(lambda array: array[None], center))[0]
    if len(points) < 3 or points.shape[1] < 2:
        raise ValueError(f"path: {len(points)} points of {points.shape[1]} parameters: a plane needs 3 points of 2")
    if not np.isfinite(points).all():
        raise ValueError("path: a parameter is not finite: leave out the points after training diverged")
    _, sizes, directions = np.linalg.svd(points - points.mean(0), full_matrices=False)
    directions, variances = directions[:2], np.square(sizes, dtype=float)
    first = (points[0] - origin) @ directions.T
    directions = directions * np.where(first * [-1, 1] < 0, -1, 1)[:, None].astype(directions.dtype)
    shares = variances[:2] / variances.sum() if variances.any() else np.zeros(2)
    return Plane(center, *(_tree(row, center) for row in directions)), shares


def _rows(path: PyTree) -> Float[np.ndarray, "points parameters"]:
    """Trees of parameters, stacked, as rows of a matrix."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(path)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _tree(row: Float[Any, " parameters"], like: PyTree) -> PyTree:
    """A row of `_rows` as the tree that it comes from."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    parts = (row[i:j].reshape(leaf.shape) for i, j, leaf in zip(ends, ends[1:], leaves, strict=False))
    return jax.tree.unflatten(structure, list(parts))


# ------------------------------------------------------------------------- places


def project(plane: Plane, path: PyTree) -> Float[np.ndarray, "points 2"]:
    """The places on a plane that are nearest to parameters, by least squares.

    Args:
      plane: whose directions need not be orthogonal.
      path: parameters, an axis of points in front of each array.
    """
    origin, *directions = (_rows(jax.tree.map(lambda array: np.asarray(array)[None], tree))[0] for tree in plane)
    basis = np.array(directions, float)
    return np.linalg.solve(basis @ basis.T, basis @ (_rows(path) - origin).astype(float).T).T


def spaced(low: float, high: float, points: int) -> Float[np.ndarray, " points"]:
    """Evenly spaced coordinates from `low` to `high`, shifted by at most half a step so that one is exactly 0.

    >>> spaced(-1, 1, 5).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]

    Raises:
      ValueError: there are fewer than 3 points, or 0 does not lie between the ends.
    """
    if points < 3:
        raise ValueError(f"points: {points}: must be at least 3")
    if not low <= 0 <= high or low == high:
        raise ValueError(f"coordinates: {low:g} to {high:g}: must contain 0")
    step = (high - low) / (points - 1)
    return (np.arange(points) - round(-low / step)) * np.float32(step)


def around(
    places: Float[np.ndarray, "points 2"], points: int, margin: float = 0.2
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " rows"]]:
    """The coordinates of a square grid that holds places and the center, with a margin of a share of its side."""
    corners = np.concatenate([places, np.zeros((1, 2))])
    low, high = corners.min(0), corners.max(0)
    half = (1 + 2 * margin) * max((high - low).max(), 1e-6) / 2
    x, y = (spaced(middle - half, middle + half, points) for middle in (low + high) / 2)
    return x, y


# ------------------------------------------------------------------------- the surface


def surface(
    task: Task,
    stats: PyTree,
    plane: Plane,
    x: Float[np.ndarray, " columns"],
    y: Float[np.ndarray, " rows"],
    split: Split,
    lanes: Lanes | None = None,
) -> Metrics:
    """The loss and the metric at every point of a grid, as `training.evaluate` sums them.

    One program computes all points. At (0, 0) it computes what `evaluate` does of the center, and
    with the lanes of the run that was trained comes to the same number to the bit.

    >>> found = surface(task, variables.stats, plane, spaced(-1, 1, 51), spaced(-1, 1, 51), data.valid)
    >>> found.loss.shape
    (51, 51)

    Args:
      task: what was trained; `Task.split` is `lanes.split`.
      stats: running averages of the center, as of BatchNorm, which all points have.
      plane: its center is what was trained.
      x, y: coordinates along its first and its second direction.
      split: the examples.
      lanes: how points are distributed; by default one after the other on CPU and 256 side by side
        elsewhere, over all devices. Fewer are side by side where memory is too small.

    Returns:
      Sums over the examples, each [rows, columns]; `loss` and `metric` are the means.
    """
    lanes = lanes or Lanes(1 if jax.default_backend() == "cpu" else 256, jax.device_count())
    places = tuple(array.ravel().astype(np.float32) for array in np.meshgrid(x, y))
    arrays = jax.device_put((as_arrays(task), stats, plane, split))
    found = _compiled(lanes, places, arrays)(places, arrays)
    return jax.tree.map(lambda array: np.asarray(array).reshape(len(y), len(x)), found)


def _at(x: Array, y: Array, task: Task, stats: PyTree, plane: Plane, split: Split) -> Metrics:
    """The metrics at a point."""
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, plane.at(x, y), stats, (), Metrics(zero, zero, zero), jnp.zeros((), bool))
    return evaluate(task, state, split)


def _compiled(lanes: Lanes, places: tuple[np.ndarray, ...], arrays: PyTree) -> jax.stages.Compiled:
    """The program for all places, with as many side by side as fit into memory."""

    def program(places: tuple[Array, ...], arrays: PyTree) -> Metrics:
        return lanes(_at, *arrays)(*places)

    lowered = jax.jit(program).lower(places, arrays)
    found = compiled(lowered, compiler_options(once=False, devices=lanes.all_devices))
    usage = found.memory_analysis()
    if lanes.width == 1 or usage is None or usage.temp_size_in_bytes <= free_memory(lanes.all_devices):
        return found
    width = lanes.width or -(-len(places[0]) // lanes.devices)
    return _compiled(replace(lanes, width=width // 2), places, arrays)


# ------------------------------------------------------------------------- the path


def trajectory(run: Run, every: int, steps: int | None = None) -> Iterator[tuple[int, TrainState]]:
    """Trains a run, and yields the number of steps and the state: at first, every so many steps, and each epoch.

    Training is a value: a run that was trained before passes through the same states again, to the
    bit. Its first state is donated, so that a run can be followed once.

    Args:
      run: as of `training.compile_run`; under a lift the states have an axis of lanes in front.
      every: steps between two points.
      steps: after which it ends; by default all of them.
    """
    state, step = run.state, 0
    last = run.epochs * run.steps if steps is None else steps
    yield step, jax.tree.map(np.array, state)
    while step < last:
        n = min(every, run.steps - step % run.steps, last - step)
        state = run.advance(state, n)
        step += n
        yield step, jax.tree.map(np.array, state)
