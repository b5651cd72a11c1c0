"""Winograd's minimal filtering: convolutions with fewer products.

With a kernel of r taps, a tile of m outputs takes m + r - 1 products instead of m * r: input and
kernel are evaluated as polynomials at that many points and multiplied there, and the outputs are
interpolated (S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast
Algorithms for Convolutional Neural Networks, 2016). With a 3x3 kernel and tiles of 4x4 outputs,
36 products replace 144. At each point, one matrix product covers all tiles, channels and filters.
Each transform is also one matrix product, with a constant matrix for both dimensions: this takes
more operations than explicit sums, but XLA runs them several times faster.

The forms cover two spatial dimensions, strides and dilation of 1, and one group. Their rounding
errors are a few times those of a direct sum.
"""

import math
from functools import cache
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnjax.operations.forms.chunks import map_chunks, sum_chunks
from cnnjax.operations.windows import Geometry, padded

# Six points with infinity. The points of the literature, 1 and 2, have twice the error.
_POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)


_VALUES = 2**13  # per chunk: images times tiles times channels or filters


class _Transforms(NamedTuple):
    """The matrices of the transforms along one dimension."""

    input: np.ndarray
    """[points, points], from the inputs under a tile to the points."""
    kernel: np.ndarray
    """[points, taps], from the kernel to the points."""
    output: np.ndarray
    """[tile, points], from the points to the outputs of a tile."""


@cache
def _transforms(taps: int) -> _Transforms:
    """Returns the transforms of Cook and Toom, which follow from Lagrange interpolation."""
    if taps == 1:
        return _Transforms(*np.ones((3, 1, 1)))
    points, tile = np.array(_POINTS), len(_POINTS) + 2 - taps
    others = [np.delete(points, i) for i in range(len(points))]
    monic = [np.poly(roots)[::-1] for roots in (*others, points)]  # coefficients in ascending order
    weights = [np.prod(point - other) for point, other in zip(points, others, strict=True)]
    at_infinity = np.eye(len(_POINTS) + 1)[:1]
    return _Transforms(
        np.stack([np.pad(row, (0, len(monic) - len(row))) for row in monic]),
        np.vstack([np.vander(points, taps, increasing=True) / np.c_[weights], at_infinity[:, taps - 1 :: -1]]),
        np.vstack([np.vander(points, tile, increasing=True), at_infinity[:, tile - 1 :: -1]]).T,
    )


class _Tiles(NamedTuple):
    """The tiles along one dimension, and their transforms."""

    number: int
    input: np.ndarray
    """[points, inputs under a tile], or [points, inputs] if one tile covers the whole dimension."""
    kernel: np.ndarray
    output: np.ndarray
    padding: tuple[int, int]
    """The padding of the input that all tiles together need."""

    @property
    def size(self) -> int:
        """The number of outputs of a tile."""
        return len(self.output)


def _tiles(geometry: Geometry, axis: int) -> _Tiles:
    size, out, (low, _) = geometry.input[axis], geometry.output[axis], geometry.padding[axis]
    given = _transforms(geometry.kernel[axis])
    tile, points = given.output.shape
    if out <= tile:  # the matrices leave out padding and unused outputs
        return _Tiles(1, given.input @ np.eye(points, size, k=-low), given.kernel, given.output[:out], (0, 0))
    count = -(-out // tile)
    return _Tiles(count, *given, (low, (count - 1) * tile + points - low - size))


def _both(geometry: Geometry) -> tuple[_Tiles, _Tiles]:
    return _tiles(geometry, 0), _tiles(geometry, 1)


def takes(geometry: Geometry) -> bool:
    """Returns whether these forms can compute a convolution."""
    return geometry.plain and max(geometry.kernel) <= len(_POINTS)


def tile_count(geometry: Geometry) -> int:
    """Returns the number of tiles of one image."""
    return math.prod(tiles.number for tiles in _both(geometry))


def reduction(channels: int, filters: int, geometry: Geometry) -> float:
    """Returns the operations of the direct form over those of this form, both including padding."""
    high, wide = _both(geometry)
    tiles = high.number * wide.number
    points = len(high.input) * len(wide.input)
    cells = high.input.shape[1] * wide.input.shape[1]
    ours = tiles * points * (channels * filters + cells * channels + high.size * wide.size * filters)
    return math.prod(geometry.output) * math.prod(geometry.kernel) * channels * filters / ours


def _matrix(high: np.ndarray, wide: np.ndarray, like: Array) -> Array:
    return jnp.asarray(np.kron(high, wide), like.dtype)


def _input_points(x: Array, high: _Tiles, wide: _Tiles, precision: Any) -> Array:
    """Transforms inputs to the points, [points, images * tiles, channels]."""
    x = padded(x, (high.padding, wide.padding))

    def under(tiles: _Tiles, i: int) -> slice:
        return slice(i, i + (tiles.number - 1) * tiles.size + 1, tiles.size)

    rows, columns = high.input.shape[1], wide.input.shape[1]
    cells = jnp.stack([x[:, under(high, i), under(wide, j)] for i in range(rows) for j in range(columns)])
    points = jnp.dot(_matrix(high.input, wide.input, x), cells.reshape(len(cells), -1), precision=precision)
    return points.reshape(len(points), -1, x.shape[-1])


def _images(channels: int, geometry: Geometry) -> int:
    return max(1, _VALUES // (tile_count(geometry) * channels))


def winograd_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution."""
    images = _images(max(kernel.shape[-2:]), geometry)
    return map_chunks(lambda x: _output(x, kernel, geometry), x, images)


def winograd_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    flipped = jnp.swapaxes(lax.rev(kernel, (0, 1)), -1, -2)
    return winograd_output(y, flipped, geometry.transposed)


def winograd_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution."""
    images = _images(max(x.shape[-1], y.shape[-1]), geometry)
    return sum_chunks(lambda x, y: _kernel(x, y, geometry), x, y, images)


def _output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    high, wide = _both(geometry)
    matrix = _matrix(high.kernel, wide.kernel, kernel)
    weights = jnp.dot(matrix, kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]), precision=geometry.precision)
    weights = weights.reshape(-1, *kernel.shape[-2:])

    points = _input_points(x, high, wide, geometry.precision)
    products = lax.dot_general(points, weights, (((2,), (1,)), ((0,), (0,))), precision=geometry.precision)
    matrix = _matrix(high.output, wide.output, x)
    y = jnp.dot(matrix, products.reshape(len(products), -1), precision=geometry.precision)
    y = y.reshape(high.size, wide.size, x.shape[0], high.number, wide.number, -1).transpose(2, 3, 0, 4, 1, 5)
    y = y.reshape(x.shape[0], high.number * high.size, wide.number * wide.size, -1)
    return y[:, : geometry.output[0], : geometry.output[1]]


def _kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    high, wide = _both(geometry)
    points = _input_points(x, high, wide, geometry.precision)
    lack = [tiles.number * tiles.size - out for tiles, out in zip((high, wide), geometry.output, strict=True)]
    y = jnp.pad(y, ((0, 0), *((0, n) for n in lack), (0, 0)))
    y = y.reshape(y.shape[0], high.number, high.size, wide.number, wide.size, -1).transpose(2, 4, 0, 1, 3, 5)
    outputs = jnp.dot(
        _matrix(high.output.T, wide.output.T, y), y.reshape(high.size * wide.size, -1), precision=geometry.precision
    )
    outputs = outputs.reshape(*points.shape[:2], -1)
    taps = lax.dot_general(points, outputs, (((1,), (1,)), ((0,), (0,))), precision=geometry.precision)
    matrix = _matrix(high.kernel.T, wide.kernel.T, x)
    kernel = jnp.dot(matrix, taps.reshape(len(taps), -1), precision=geometry.precision)
    return kernel.reshape(*geometry.kernel, *taps.shape[1:])
