"""What part of the input a unit sees."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float

from cnnjax.look.layers import captured, outline
from cnnjax.networks import Network

_DRAWS = 8
"""Inputs over which what a unit sees is united: a maximum passes one cell of its window only."""
_ONCE: dict[str, Any] = {"xla_backend_optimization_level": 0}
"""Options of XLA for a program that runs once."""
_SCALES = (2, 4)
"""How much larger than the example an input may become, until some unit sees neither of its ends."""


class ReceptiveField(NamedTuple):
    """What units of a layer see: unit u sees the cells from `offset + stride * u` on, `size` of them.

    One entry for each spatial dimension. Cells below zero, or beyond the input, are padding. A stride of 0
    says that every unit sees the whole input.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]


class _Window(NamedTuple):
    size: int
    stride: int
    offset: int


def receptive_fields(network: Network, example: Float[Array, "batch *spatial channels"]) -> dict[str, ReceptiveField]:
    """The receptive field of every layer that puts out maps, by path.

    It is measured, so it holds for any module: positive kernels are put into the network, and the
    derivatives of every unit by every row of the input say which rows it sees (Luo, Li, Urtasun, Zemel
    2016, "Understanding the effective receptive field in deep convolutional neural networks": the
    field in theory is the support of that gradient). Fields that reach over both ends of the input
    are measured on a larger one, where the network takes it; where it does not, they end with it.

    >>> look.receptive_fields(network, images)["c3"]  # of LeNet-5
    ReceptiveField(size=(14, 14), stride=(2, 2), offset=(-2, -2))

    Args:
      network: as `cnnjax.functional` returns it.
      example: a batch, as the network takes it; only its shape and type matter.

    Raises:
      ValueError: no layer puts out maps, so that units see the whole input.
    """
    shape = tuple(example.shape[1:])
    layers = _layers(network, shape)
    if not layers:
        raise ValueError(
            "receptive fields: no layer puts out maps, [*spatial, channels]: each unit sees the whole input"
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
    """The window of each layer along one dimension, from the smallest input that shows it."""
    found = [*map(_window, own)]
    for scale in _SCALES:
        if all(found):
            break
        larger = (*shape[:dimension], scale * shape[dimension], *shape[dimension + 1 :])
        try:
            [seen] = _seen(network, larger, [dimension], layers)
        except (AssertionError, TypeError, ValueError):
            break  # the network is made for inputs of one size
        found = [old or _window(matrix) for old, matrix in zip(found, seen, strict=True)]
    whole = _Window(shape[dimension], 0, 0)
    return [_placed(window, matrix) if window else whole for window, matrix in zip(found, own, strict=True)]


def _window(seen: Bool[np.ndarray, "cells units"]) -> _Window | None:
    """The window of which these are the cut ends; None where they do not show it."""
    first, last = _ends(seen)
    starts = np.flatnonzero(first > 0)[-2:]  # those that lie farthest from where the input cuts them
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
    """The first and the last cell that each unit sees; -1 for a unit that sees none."""
    some = seen.any(0)
    return np.where(some, seen.argmax(0), -1), np.where(some, len(seen) - 1 - seen[::-1].argmax(0), -1)


def _agrees(window: _Window, seen: Bool[np.ndarray, "cells units"]) -> bool:
    """Whether units see no more than the window, and its ends where these lie in the input."""
    first, last = _ends(seen)
    start = window.offset + window.stride * np.arange(seen.shape[1])
    stop = start + window.size - 1
    below, above = np.where(start >= 0, first == start, first >= 0), np.where(stop < len(seen), last == stop, True)
    return bool(np.all((first < 0) | (below & above & (first >= start) & (last <= stop))))


def _placed(window: _Window, seen: Bool[np.ndarray, "cells units"]) -> _Window:
    """A window measured on a larger input, whose padding may differ, where it lies on this one."""
    if _agrees(window, seen):
        return window
    shifts = sorted(range(-window.stride, window.stride + 1), key=abs)
    moved = (window._replace(offset=window.offset + shift) for shift in shifts)
    return next((near for near in moved if _agrees(near, seen)), window)


def _seen(
    network: Network, shape: tuple[int, ...], dimensions: Sequence[int], layers: tuple[str, ...]
) -> list[list[Bool[np.ndarray, "cells units"]]]:
    """For each dimension and layer, which units the rows of an input of this shape reach.

    Raises:
      AssertionError, TypeError, ValueError: what the network raises where it takes no input of this shape.
    """
    random = np.random.default_rng(0)
    variables = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    # Positive kernels that average their inputs, so that no derivatives cancel, vanish or overflow.
    kernels = [
        random.uniform(0.5, 1.5, leaf.shape).astype(np.float32) * (leaf.shape[-1] / leaf.size)
        for leaf in jax.tree.leaves(variables.params)
        if leaf.ndim > 1
    ]
    inputs = random.uniform(0.5, 1, (_DRAWS, *shape)).astype(np.float32)
    # Winograd's forms round away zeros; with `highest`, an output is the sum of its own window.
    with jax.default_matmul_precision("highest"):
        program = _reached.lower(network, tuple(dimensions), layers, kernels, inputs)
    once = program.compile(_ONCE)
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
    tangents = jnp.concatenate(rows)  # a row of the input each
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
