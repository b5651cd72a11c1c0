"""Receptive fields: the cells of the input that a unit depends on."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from cnnjax.devices import compiled, compiler_options
from cnnjax.look.layers import captured, outline
from cnnjax.networks import Network

_DRAWS = 8
"""The number of random inputs whose results are combined: max pooling passes only one cell of each window."""
_SCALES = (2, 4)
"""Factors by which the input is enlarged, until the receptive field of some unit lies inside it."""


class ReceptiveField(NamedTuple):
    """The receptive field of a layer: unit u depends on `size` cells, starting at `offset + stride * u`.

    Each field has one entry per spatial dimension. Cells outside of the input are padding. If the stride is 0,
    each unit depends on the whole input.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]


class _Window(NamedTuple):
    size: int
    stride: int
    offset: int


def receptive_fields(network: Network, example: Float[Array, "batch *spatial channels"]) -> dict[str, ReceptiveField]:
    """Measures the receptive field of every layer with feature maps, by path.

    The measurement works for any module: it replaces the kernels by positive ones and computes the derivatives of
    every unit with respect to every row of the input. The receptive field is the support of this gradient (Luo, Li,
    Urtasun, Zemel 2016, "Understanding the effective receptive field in deep convolutional neural networks").
    A field that extends beyond both ends of the input is measured on a larger input. If the network accepts only
    one input size, such a field is limited to the input.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> look.receptive_fields(network, jax.numpy.zeros((1, 8, 8, 1)))["blocks.0.pool"]
    ReceptiveField(size=(4, 4), stride=(2, 2), offset=(-1, -1))

    Args:
      network: a network, as returned by `cnnjax.functional`.
      example: a batch of inputs; only its shape and dtype are used.

    Raises:
      ValueError: if no layer has feature maps; each unit then depends on the whole input.
    """
    shape = tuple(example.shape[1:])
    layers = _layers(network, shape)
    if not layers:
        raise ValueError(
            "network: no layer has feature maps, [*spatial, channels]: each unit depends on the whole input"
        )
    own = _seen(network, shape, range(len(shape) - 1), layers)
    columns = [_along(network, shape, dimension, layers, seen) for dimension, seen in enumerate(own)]
    return {name: ReceptiveField(*zip(*(c[i] for c in columns), strict=True)) for i, name in enumerate(layers)}


def _layers(network: Network, shape: tuple[int, ...]) -> tuple[str, ...]:
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
    return tuple(name for name, layer in outline(network, variables, inputs).items() if layer.maps)  # type: ignore[arg-type]


def _along(
    network: Network, shape: tuple[int, ...], dimension: int, layers: tuple[str, ...], own: Sequence[np.ndarray]
) -> list[_Window]:
    """Returns the window of each layer along one dimension, from the smallest input that determines it."""
    found = [*map(_window, own)]
    for scale in _SCALES:
        if all(found):
            break
        larger = (*shape[:dimension], scale * shape[dimension], *shape[dimension + 1 :])
        try:
            [seen] = _seen(network, larger, [dimension], layers)
        except (AssertionError, TypeError, ValueError):
            break  # the network accepts only one input size
        found = [old or _window(matrix) for old, matrix in zip(found, seen, strict=True)]
    whole = _Window(shape[dimension], 0, 0)
    return [_placed(window, matrix) if window else whole for window, matrix in zip(found, own, strict=True)]


def _window(seen: Bool[np.ndarray, "cells units"]) -> _Window | None:
    """Returns the window that is consistent with the measured cells; None if they do not determine it."""
    first, last = _ends(seen)
    starts = np.flatnonzero(first > 0)[-2:]  # the units farthest from the boundary that clips them
    stops = np.flatnonzero((last >= 0) & (last < len(seen) - 1))[:2]
    if not len(starts) or not len(stops) or len(starts) + len(stops) < 3:
        return None
    units, ends = (starts, first) if len(starts) == 2 else (stops, last)
    stride = int(ends[units[1]] - ends[units[0]]) // int(units[1] - units[0])
    offset = int(first[starts[-1]] - stride * starts[-1])
    size = int(last[stops[0]] - stride * stops[0]) - offset + 1
    window = _Window(size, stride, offset)
    return window if _agrees(window, seen) else None


def _ends(seen: Bool[np.ndarray, "cells units"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and last cell that each unit depends on; -1 if there is none."""
    some = seen.any(0)
    return np.where(some, seen.argmax(0), -1), np.where(some, len(seen) - 1 - seen[::-1].argmax(0), -1)


def _agrees(window: _Window, seen: Bool[np.ndarray, "cells units"]) -> bool:
    """Whether units depend only on cells of the window, and on both of its ends if they lie inside the input."""
    first, last = _ends(seen)
    start = window.offset + window.stride * np.arange(seen.shape[1])
    stop = start + window.size - 1
    below, above = np.where(start >= 0, first == start, first >= 0), np.where(stop < len(seen), last == stop, True)
    return bool(np.all((first < 0) | (below & above & (first >= start) & (last <= stop))))


def _placed(window: _Window, seen: Bool[np.ndarray, "cells units"]) -> _Window:
    """Shifts a window that was measured on a larger input, whose padding may differ, to fit this input."""
    if _agrees(window, seen):
        return window
    shifts = sorted(range(-window.stride, window.stride + 1), key=abs)
    moved = (window._replace(offset=window.offset + shift) for shift in shifts)
    return next((near for near in moved if _agrees(near, seen)), window)


def _seen(
    network: Network, shape: tuple[int, ...], dimensions: Sequence[int], layers: tuple[str, ...]
) -> list[list[Bool[np.ndarray, "cells units"]]]:
    """Measures which units depend on which rows of an input of this shape, for each dimension and layer.

    Raises:
      AssertionError, TypeError, ValueError: from the network, if it does not accept inputs of this shape.
    """
    random = np.random.default_rng(0)
    variables = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    # Positive kernels that average their inputs, so that derivatives do not cancel, vanish or overflow.
    kernels = [
        random.uniform(0.5, 1.5, leaf.shape).astype(np.float32) * (leaf.shape[-1] / leaf.size)
        for leaf in jax.tree.leaves(variables.params)
        if leaf.ndim > 1
    ]
    inputs = random.uniform(0.5, 1, (_DRAWS, *shape)).astype(np.float32)
    # Winograd convolutions round exact zeros; with `highest`, each output is the sum over its own window.
    with jax.default_matmul_precision("highest"):
        program = _reached.lower(network, tuple(dimensions), layers, kernels, inputs)
    once = compiled(program, compiler_options(once=True, devices=1))
    return [[*map(np.asarray, found)] for found in once(kernels, inputs)]


@partial(jax.jit, static_argnames=("network", "dimensions", "layers"))
def _reached(
    network: Network,
    dimensions: tuple[int, ...],
    layers: tuple[str, ...],
    kernels: Sequence[Array],
    inputs: Float[Array, "draws *spatial channels"],
) -> list[list[Bool[Array, "cells units"]]]:
    shape = inputs.shape[1:]
    rows = [np.zeros((shape[d], *shape), np.float32) for d in dimensions]
    for d, row in zip(dimensions, rows, strict=True):
        np.moveaxis(row, 1 + d, 1)[np.arange(shape[d]), np.arange(shape[d])] = 1
    tangents = jnp.concatenate(rows)  # one for each row of the input
    own = network.init(jax.random.key(0), tangents)
    given = iter(kernels)
    params = jax.tree.map(lambda leaf: next(given) if leaf.ndim > 1 else abs(leaf), own.params)

    def outputs(inputs: Array) -> tuple[Array, ...]:
        found = captured(network, own._replace(params=params), inputs)[1]
        return tuple(found[name] for name in layers)

    def draw(inputs: Array) -> list[list[Array]]:
        _, changes = jax.jvp(outputs, (jnp.broadcast_to(inputs, tangents.shape),), (tangents,))
        ends = np.cumsum([shape[d] for d in dimensions])[:-1]
        parts = [jnp.split(change != 0, ends) for change in changes]
        others = [tuple(axis for axis in range(1, len(shape) + 1) if axis != d + 1) for d in dimensions]
        return [[part[i].any(axes) for part in parts] for i, axes in enumerate(others)]

    return jax.tree.map(lambda found: found.any(0), lax.map(draw, inputs))
