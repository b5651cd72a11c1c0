"""Gradients by one product with all taps at once, a few images at a time.

A patch holds the inputs under one window. The kernel gradient is the product of cotangents and patches. The
input gradient is the product of cotangents and the kernel, which gives patches again, summed where they
overlap. Both take as many operations as the direct form, also with strides, where the other forms multiply
the zeros between cotangents. The patches of a few images stay in cache.
"""

import math

import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.chunks import map_chunks, sum_chunks
from cnnjax.operations.windows import Geometry, padded, shifted, taps

_VALUES = 2**17  # per chunk, of the patches


def patch_values(channels: int, geometry: Geometry) -> int:
    """Returns the size of the patches of one image."""
    return math.prod((*geometry.output, *geometry.kernel, channels))


def _images(channels: int, geometry: Geometry) -> int:
    return max(1, _VALUES // patch_values(channels, geometry))


def patches_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution."""
    channels = kernel.shape[-2]
    weights = kernel.reshape(-1, kernel.shape[-1])
    gaps = [stride - 1 for stride in geometry.strides]

    def gradient(y: Array) -> Array:
        rows = y.reshape(-1, y.shape[-1])
        patches = lax.dot_general(rows, weights, (((1,), (1,)), ((), ())), precision=geometry.precision)
        patches = patches.reshape(*y.shape[:-1], -1, channels)
        # Kept whole: otherwise the product is computed once for each tap.
        patches = lax.optimization_barrier(patches)
        x = jnp.zeros((), y.dtype)
        for i, tap in enumerate(taps(geometry)):
            starts = [t * d - lo for t, d, (lo, _) in zip(tap, geometry.dilation, geometry.padding, strict=True)]
            ends = [
                n - start - (o - 1) * s - 1
                for n, start, o, s in zip(geometry.input, starts, geometry.output, geometry.strides, strict=True)
            ]
            x = x + padded(patches[..., i, :], tuple(zip(starts, ends, strict=True)), gaps)
        return x

    return map_chunks(gradient, y, _images(channels, geometry), least=1)


def patches_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution."""
    channels, filters = x.shape[-1], y.shape[-1]

    def gradient(x: Array, y: Array) -> Array:
        x = lax.optimization_barrier(padded(x, geometry.padding))
        patches = jnp.concatenate([inputs for _, inputs in shifted(x, geometry)], -1)
        rows = (((0,), (0,)), ((), ()))  # the product transposes its first factor: the smaller one
        return lax.dot_general(
            y.reshape(-1, filters), patches.reshape(-1, patches.shape[-1]), rows, precision=geometry.precision
        )

    kernel = sum_chunks(gradient, x, y, _images(channels, geometry), least=1)
    return kernel.T.reshape(*geometry.kernel, channels, filters)
