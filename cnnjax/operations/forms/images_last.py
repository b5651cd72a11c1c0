"""Few channels and few filters with a wide kernel: one product with all patches, images innermost.

In the layout [channels, height, width, images], as in Krizhevsky's cuda-convnet, the innermost axis is as
long as the batch, no matter how few channels there are.
"""

import math
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.native import input_shape, kernel_shape, transposed
from cnnjax.operations.windows import Geometry, padded


def _column_shifts(x: Array, geometry: Geometry) -> Iterator[Array]:
    """Returns the inputs under each row of the kernel, [kw * channels, oh, ow * images]."""
    (kh, kw), (sh, sw), (oh, ow) = geometry.kernel, geometry.strides, geometry.output
    x = padded(x.transpose(3, 1, 2, 0), geometry.padding)
    columns = jnp.stack([x[:, :, j : j + (ow - 1) * sw + 1 : sw] for j in range(kw)])
    columns = columns.reshape(kw * x.shape[0], x.shape[1], ow * x.shape[3])
    return (columns[:, i : i + (oh - 1) * sh + 1 : sh] for i in range(kh))


def _patches(x: Array, geometry: Geometry) -> Array:
    """Returns all patches, [kh * kw * channels, oh * ow * images]."""
    return jnp.stack(list(_column_shifts(x, geometry))).reshape(math.prod(geometry.kernel) * x.shape[-1], -1)


def _images_first(y: Array, geometry: Geometry) -> Array:
    return y.reshape(y.shape[0], *geometry.output, -1).transpose(3, 1, 2, 0)


def images_last_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    y = lax.dot_general(matrix, _patches(x, geometry), (((0,), (0,)), ((), ())), precision=geometry.precision)
    return _images_first(y, geometry)


def images_last_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    return transposed(lambda x: _rows(x, kernel, geometry), input_shape(y, kernel, geometry), y)


def _rows(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Computes the same with one product per row of the kernel, whose transpose is faster."""
    y = sum(
        lax.dot_general(
            row.reshape(-1, row.shape[-1]),
            columns.reshape(columns.shape[0], -1),
            (((0,), (0,)), ((), ())),
            precision=geometry.precision,
        )
        for row, columns in zip(kernel, _column_shifts(x, geometry), strict=True)
    )
    assert isinstance(y, Array)
    return _images_first(y, geometry)


def images_last_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution."""
    maps = y.transpose(3, 1, 2, 0).reshape(y.shape[-1], -1)
    kernel = lax.dot_general(_patches(x, geometry), maps, (((1,), (1,)), ((), ())), precision=geometry.precision)
    return kernel.reshape(kernel_shape(x, y, geometry))
