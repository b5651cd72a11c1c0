"""Few channels: one product with a block-Toeplitz matrix of the kernel, for a tile of output columns at a time.

A product over few channels leaves most of a vector register empty; several output columns fill it. The
form also multiplies positions outside of a window, by zero.
"""

import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.native import input_shape, transposed
from cnnjax.operations.windows import Geometry, padded


def toeplitz_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution."""
    return _output(x, kernel, geometry, columns=max(2, geometry.kernel[-1] - 1))


def toeplitz_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    return transposed(lambda x: _output(x, kernel, geometry, columns=2), input_shape(y, kernel, geometry), y)


def _output(x: Array, kernel: Array, geometry: Geometry, columns: int) -> Array:
    """Computes a convolution as one product with a block-Toeplitz matrix, `columns` output columns per tile.

    A tile covers kh rows and `reach` = (columns - 1) * stride + kw columns of the input, so the
    matrix is [kh * reach * channels, columns * filters]. Unlike a single output column with few
    channels, this is wide enough to fill the vector registers.
    """
    (kh, kw, channels, filters), (sh, sw), (oh, ow) = kernel.shape, geometry.strides, geometry.output
    tiles, reach = -(-ow // columns), (columns - 1) * sw + kw
    step = columns * sw
    (top, bottom), (left, _) = geometry.padding
    right = (tiles - 1) * step + reach - left - geometry.input[1]
    x = padded(x, ((top, bottom), (left, right)))
    x = jnp.concatenate([x[:, :, i : i + (tiles - 1) * step + 1 : step] for i in range(reach)], -1)
    x = jnp.concatenate([x[:, i : i + (oh - 1) * sh + 1 : sh] for i in range(kh)], -1)
    shifts = [(i * sw, reach - kw - i * sw) for i in range(columns)]
    band = jnp.stack([jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], 3)
    band = band.reshape(kh * reach * channels, columns * filters)
    y = lax.dot_general(x, band, (((3,), (0,)), ((), ())), precision=geometry.precision)
    return y.reshape(*y.shape[:2], tiles * columns, filters)[:, :, :ow]
