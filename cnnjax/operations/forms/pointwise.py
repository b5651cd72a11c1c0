"""Kernels of one position: one matrix product over all positions and channels.

Strides leave out inputs first. As in a direct convolution, an output is the sum of the products of its own
position.
"""

from jax import Array, lax

from cnnjax.operations.windows import Geometry, padded


def _reached(x: Array, geometry: Geometry) -> Array:
    """Returns the inputs that a window covers, [images, *output, channels]."""
    ends = [(o - 1) * s + 1 for o, s in zip(geometry.output, geometry.strides, strict=True)]
    return x[(slice(None), *[slice(0, end, s) for end, s in zip(ends, geometry.strides, strict=True)])]


def _product(a: Array, b: Array, axes: tuple[int, int], geometry: Geometry) -> Array:
    rows, columns = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    first, second = axes
    return lax.dot_general(rows, columns, (((first,), (second,)), ((), ())), precision=geometry.precision)


def pointwise_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution."""
    return _product(_reached(x, geometry), kernel, (1, 0), geometry).reshape(-1, *geometry.output, kernel.shape[-1])


def pointwise_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    reached = _product(y, kernel, (1, 1), geometry).reshape(*y.shape[:-1], kernel.shape[-2])
    return padded(reached, tuple((0, rest) for rest in geometry.unreached), [s - 1 for s in geometry.strides])


def pointwise_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution."""
    kernel = _product(_reached(x, geometry), y, (0, 0), geometry)
    return kernel.reshape(*geometry.kernel, *kernel.shape)
