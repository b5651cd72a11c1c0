"""The loss on a plane in parameter space, and the path of gradient descent on it.

The method is that of Li, Xu, Taylor, Studer and Goldstein 2018 ("Visualizing the loss landscape of neural nets").
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
from cnnjax.devices import compiled, compiler_options, free_memory, jit
from cnnjax.training import Lanes, Run, Task, TrainState, as_arrays, evaluate
from cnnjax.training.core import Metrics


class Plane(NamedTuple):
    """A plane in parameter space: center + x * first + y * second, three trees of one structure."""

    center: PyTree
    first: PyTree
    second: PyTree

    def at(self, x: Float[Any, ""], y: Float[Any, ""]) -> PyTree:
        """Returns the parameters at a position; at (0, 0) they are bit-identical to the center."""
        return jax.tree.map(lambda center, first, second: center + x * first + y * second, *self)


# ------------------------------------------------------------------------- directions


@jit
def filter_normalized(direction: PyTree, params: PyTree) -> PyTree:
    """Scales the filters of a direction to the norms of the filters of the parameters (Li et al. 2018, section 4).

    A filter is a slice of an array at one index of its last axis: the weights of one output map of a
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
    """Returns the plane through the parameters along two Gaussian directions, filter-normalized.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from cnnjax import look
    >>> params = {"kernel": jnp.ones((3, 3, 1, 4)), "bias": jnp.ones(4)}
    >>> plane = look.random_plane(jax.random.key(0), params)
    >>> plane.at(0.5, 0)["bias"].tolist()  # biases do not change
    [1.0, 1.0, 1.0, 1.0]

    Args:
      key: a random key.
      params: the parameters of a network, the center of the plane.

    Raises:
      ValueError: if no array has two axes, so that there are no filters.
    """
    if all(np.ndim(leaf) < 2 for leaf in jax.tree.leaves(params)):
        raise ValueError("directions: random: the network has no array of two or more axes, and so no filters")
    return Plane(params, *_random_directions(key, params))


@jit
def _random_directions(key: Array, params: PyTree) -> list[PyTree]:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return [filter_normalized(_tree(row, params), params) for row in jax.random.normal(key, (2, count))]


def trajectory_plane(path: PyTree, center: PyTree | None = None) -> tuple[Plane, Float[np.ndarray, " two"]]:
    """Returns the plane in which parameters changed most: the first two principal components of a path.

    Both directions have length 1 and are orthogonal, so that distances on the plane are distances
    between parameters. The first point of the path lies to the left of the center, and not below it.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> path = {"weights": np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])}
    >>> plane, shares = look.trajectory_plane(path)
    >>> print(shares.round(2), plane.center["weights"])  # the path is a straight line
    [1. 0.] [3. 3.]

    Args:
      path: parameters, with a leading axis of at least three points in each array.
      center: a point of the plane; by default the last one of the path.

    Returns:
      The plane, and the shares of the variance over the points that its directions explain.

    Raises:
      ValueError: if the path has too few points, a single parameter, or a number that is not finite.
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
    """Returns stacked trees of parameters as rows of a matrix."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(path)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _tree(row: Float[Any, " parameters"], like: PyTree) -> PyTree:
    """Converts a row of `_rows` back to a tree."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
    parts = (row[i:j].reshape(leaf.shape) for i, j, leaf in zip(ends, ends[1:], leaves, strict=False))
    return jax.tree.unflatten(structure, list(parts))


# ------------------------------------------------------------------------- places


def project(plane: Plane, path: PyTree) -> Float[np.ndarray, "points 2"]:
    """Returns the positions on a plane that are nearest to parameters, by least squares.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> plane = look.Plane(*({"weights": np.array(vector)} for vector in ([0, 0, 0], [1, 0, 0], [0, 2, 0])))
    >>> look.project(plane, {"weights": np.array([[1, 4, 9]])}).tolist()
    [[1.0, 2.0]]

    Args:
      plane: the plane; its directions need not be orthogonal.
      path: parameters, with a leading axis of points in each array.
    """
    origin, *directions = (_rows(jax.tree.map(lambda array: np.asarray(array)[None], tree))[0] for tree in plane)
    basis = np.array(directions, float)
    return np.linalg.solve(basis @ basis.T, basis @ (_rows(path) - origin).astype(float).T).T


def spaced(low: float, high: float, points: int) -> Float[np.ndarray, " points"]:
    """Returns evenly spaced coordinates from `low` to `high`, shifted by at most half a step so that one is exactly 0.

    >>> from cnnjax import look
    >>> look.spaced(-1, 1, 5).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]

    Raises:
      ValueError: if there are fewer than 3 points, or 0 is not between the ends.
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
    """Returns the coordinates of a square grid around positions and the center.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> x, y = look.around(np.array([[-2.0, 1.0]]), points=5, margin=0.0)
    >>> x.tolist(), y.tolist()
    ([-2.0, -1.5, -1.0, -0.5, 0.0], [-0.5, 0.0, 0.5, 1.0, 1.5])

    Args:
      places: positions, as returned by `project`.
      points: the number of points along each side.
      margin: the margin on each side, as a share of the range of the positions.
    """
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
    """Returns the loss and the metric at every point of a grid, as `training.evaluate` sums them.

    One program computes all points. With the lanes of the trained run, the result at (0, 0) is bit-identical
    to `evaluate` at the center.

    >>> import jax
    >>> from cnnjax import MLPConfig, TrainConfig, fit, load, look, make_task
    >>> data = load("digits")
    >>> run = fit(TrainConfig(MLPConfig(hidden=(8,)), data="digits", epochs=1), data)
    >>> task, plane = make_task(run.config, run.spec), look.random_plane(jax.random.key(0), run.variables.params)
    >>> axis = look.spaced(-1, 1, 3)
    >>> found = look.surface(task, run.variables.stats, plane, axis, axis, data.valid)
    >>> found.loss.shape
    (3, 3)

    Args:
      task: the task of the run; `Task.split` is `lanes.split`.
      stats: the running averages of the center, such as those of BatchNorm, which are used at all points.
      plane: the plane, centered at the trained parameters.
      x, y: coordinates along the first and the second direction.
      split: the examples.
      lanes: the distribution of points; by default sequential on CPU and 256 in parallel elsewhere, over
        all devices. The width is reduced if memory is too small.

    Returns:
      Sums over the examples, each [rows, columns]; the properties `loss` and `metric` are the means.
    """
    lanes = lanes or Lanes(1 if jax.default_backend() == "cpu" else 256, jax.device_count())
    places = tuple(array.ravel().astype(np.float32) for array in np.meshgrid(x, y))
    arrays = jax.device_put((as_arrays(task), stats, plane, split))
    found = _compiled(lanes, places, arrays)(places, arrays)
    return jax.tree.map(lambda array: np.asarray(array).reshape(len(y), len(x)), found)


def _at(x: Array, y: Array, task: Task, stats: PyTree, plane: Plane, split: Split) -> Metrics:
    """Returns the metrics at a point."""
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, plane.at(x, y), stats, (), Metrics(zero, zero, zero), jnp.zeros((), bool))
    return evaluate(task, state, split)


def _compiled(lanes: Lanes, places: tuple[np.ndarray, ...], arrays: PyTree) -> jax.stages.Compiled:
    """Compiles the program for all positions, with as many in parallel as fit into memory."""

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
    """Trains a run; yields the step and the state at the start, every few steps, and after each epoch.

    The states are bit-identical to those of an earlier training of the run. The first state is donated, so
    a run can be followed only once.

    >>> import jax
    >>> from cnnjax import MLPConfig, TrainConfig, load, look, make_task
    >>> from cnnjax.training import compile_run
    >>> data = load("digits")
    >>> task = make_task(TrainConfig(MLPConfig(hidden=(8,))), data.spec)
    >>> run = compile_run(task, jax.random.key(0), data, epochs=1)
    >>> [step for step, state in look.trajectory(run, every=5)]
    [0, 5, 10, 15, 19]

    Args:
      run: a run as returned by `training.compile_run`; with several lanes, states have a leading axis of lanes.
      every: the number of steps between two points.
      steps: the number of steps; by default all.
    """
    state, step = run.state, 0
    last = run.epochs * run.steps if steps is None else steps
    yield step, jax.tree.map(np.array, state)
    while step < last:
        n = min(every, run.steps - step % run.steps, last - step)
        state = run.advance(state, n)
        step += n
        yield step, jax.tree.map(np.array, state)
