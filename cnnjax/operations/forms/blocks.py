"""Groups of several channels: neighboring groups are one convolution without groups, with zeros between them.

XLA computes a grouped convolution on CPU as a naive loop. A convolution without groups is faster even where
most of its kernel is zero, as long as a block is no wider than the vectors and tiles of a matrix product.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from cnnjax.operations.forms.chunks import map_chunks, sum_chunks
from cnnjax.operations.forms.native import kernel_shape, transposed
from cnnjax.operations.windows import Geometry

_CHANNELS = 16  # maximum of the channels and filters of a block of several groups

_IMAGES = 2  # per chunk, if there are several blocks, whose copies stay in cache

_Form = Callable[[Array, Array, Geometry], Array]


def _merged(channels: int, filters: int, groups: int) -> int:
    """Returns how many groups make a block."""
    most = max(1, _CHANNELS // max(channels, filters // groups))
    return max(n for n in range(1, most + 1) if groups % n == 0)


def _dense(kernel: Array, groups: int) -> list[Array]:
    """Returns the kernels of the blocks, which are zero from the channels of one group to the filters of another."""
    *window, channels, filters = kernel.shape
    count = _merged(channels, filters, groups)
    blocks = kernel.reshape(*window, channels, groups // count, count, filters // groups)
    apart = jnp.eye(count, dtype=kernel.dtype).reshape(*[1] * len(window), count, 1, count, 1)
    return [
        (jnp.expand_dims(blocks[..., i, :, :], -4) * apart).reshape(*window, count * channels, -1)
        for i in range(groups // count)
    ]


def _parts(x: Array, count: int) -> list[Array]:
    return jnp.split(x, count, -1)


def blocks_output(x: Array, kernel: Array, geometry: Geometry, form: _Form) -> Array:
    """Returns the output of a convolution, with `form` for that of a block."""
    kernels, one = _dense(kernel, geometry.groups), geometry._replace(groups=1)

    def output(x: Array) -> Array:
        pairs = zip(_parts(x, len(kernels)), kernels, strict=True)
        return jnp.concatenate([form(*pair, one) for pair in pairs], -1)

    return output(x) if len(kernels) == 1 else map_chunks(output, x, _IMAGES, least=1)


def blocks_input(y: Array, kernel: Array, geometry: Geometry, form: _Form) -> Array:
    """Returns the input gradient of a convolution, with `form` for that of a block."""
    return blocks_output(y, kernel, geometry, form)


def blocks_kernel(x: Array, y: Array, geometry: Geometry, form: _Form) -> Array:
    """Returns the kernel gradient of a convolution, with `form` for that of a block."""
    groups, one = geometry.groups, geometry._replace(groups=1)
    count = groups // _merged(x.shape[-1] // groups, y.shape[-1], groups)

    def gradient(x: Array, y: Array) -> Array:
        return jnp.stack([form(*pair, one) for pair in zip(_parts(x, count), _parts(y, count), strict=True)])

    kernels = gradient(x, y) if count == 1 else sum_chunks(gradient, x, y, _IMAGES, least=1)
    return transposed(lambda kernel: jnp.stack(_dense(kernel, groups)), kernel_shape(x, y, geometry), kernels)
