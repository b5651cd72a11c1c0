"""Depthwise convolutions: a sum over taps of shifted inputs, a few images at a time.

One image stays in cache between its padding and its last tap. Over a whole batch the sums would be as slow as
the grouped convolution of `jax.lax`, because each tap would read the batch from memory.

A group has one channel, and any number of filters: for more than one, the channels are repeated. As in a
direct convolution, an output is the sum of the products of its own window.
"""

import itertools
import math

import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.chunks import map_chunks, sum_chunks
from cnnjax.operations.windows import Geometry, padded, shifted

_VALUES = 2**15  # per chunk of images, at most, of the input or the output
_TERMS = 8  # products per entry of a partial sum of a kernel gradient


def _images(channels: int, geometry: Geometry) -> int:
    return max(1, _VALUES // (max(math.prod(geometry.input), math.prod(geometry.output)) * channels))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sum(x: Array, kernel: Array, geometry: Geometry) -> Array:
    one = (1,) * (x.ndim - 1)
    taps = (inputs * kernel[tap].reshape(*one, -1) for tap, inputs in shifted(_wide(x), geometry))
    return sum(taps, jnp.zeros((), kernel.dtype))


def taps_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution."""
    filters = kernel.shape[-1]
    weights = _wide(kernel.reshape(*geometry.kernel, filters))

    def output(x: Array) -> Array:
        x = padded(jnp.repeat(x, filters // geometry.groups, -1), geometry.padding)
        return _sum(x, weights, geometry).astype(x.dtype)

    return map_chunks(output, x, _images(filters, geometry), least=1)


def taps_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    spatial, filters = len(geometry.kernel), kernel.shape[-1]
    weights = _wide(lax.rev(kernel.reshape(*geometry.kernel, filters), tuple(range(spatial))))
    gaps = [stride - 1 for stride in geometry.strides]
    transposed = geometry._replace(strides=(1,) * spatial, output=geometry.input)

    def gradient(y: Array) -> Array:
        x = _sum(padded(y, geometry.transposed_padding, gaps), weights, transposed)
        each = filters // geometry.groups
        return sum((x[..., i::each] for i in range(each)), jnp.zeros((), x.dtype)).astype(y.dtype)

    return map_chunks(gradient, y, _images(filters, geometry), least=1)


def _divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)


def taps_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution.

    A first sum, over every n-th row and image, leaves all columns and channels: so the innermost loop is a
    sum of products of contiguous values.
    """
    filters = y.shape[-1]
    rows = _divisor(geometry.output[0], _TERMS)

    def partial_sums(x: Array, y: Array) -> list[Array]:
        images = _divisor(len(x), _TERMS // rows)
        x = padded(jnp.repeat(x, filters // geometry.groups, -1), geometry.padding)
        # One more column makes this a copy in the cache, and keeps rows from being a power of two apart,
        # where they would evict each other.
        y = padded(y, (*[(0, 0)] * (len(geometry.output) - 1), (0, 1)))
        x, y = lax.optimization_barrier((x, y))
        y = _wide(y[..., : geometry.output[-1], :])
        places = list(itertools.product(range(images), range(rows)))
        return [
            sum((inputs[i::images, r::rows] * y[i::images, r::rows] for i, r in places), jnp.zeros((), y.dtype))
            for _, inputs in shifted(_wide(x), geometry)
        ]

    images = max(_images(filters, geometry), _TERMS // rows)
    sums = sum_chunks(partial_sums, x, y, images, least=1)
    kernel = jnp.stack([taps.sum(range(taps.ndim - 1)) for taps in sums])
    return kernel.reshape(*geometry.kernel, 1, filters).astype(x.dtype)
