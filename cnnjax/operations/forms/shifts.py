"""Kernel gradients of 5 to 32 channels: one product of shifted inputs with shifted cotangents."""

import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.chunks import sum_chunks
from cnnjax.operations.windows import Geometry, padded

_ELEMENTS = 2**19  # per chunk, of both shifted arrays: about the size of the L2 cache


def shifts_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution."""
    (kh, kw), (height, width) = geometry.kernel, geometry.input
    image = height * width * (kw * x.shape[-1] + kh * y.shape[-1])
    return sum_chunks(lambda x, y: _kernel(x, y, geometry), x, y, max(1, _ELEMENTS // image))


def _kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Computes a kernel gradient as one product of shifted inputs and shifted cotangents.

    Up to padding, the gradient at tap (i, j) is the sum over r, c of x[r, c + j] y[r - i, c]. One
    product over all positions of x thus gives every tap: one factor holds kw shifts of x along the
    width, the other kh shifts of y along the height.
    """
    (kh, kw), (height, _), (oh, ow) = geometry.kernel, geometry.input, geometry.output
    (top, _), across = geometry.padding
    x = padded(x, ((0, 0), across))
    y = padded(y, ((kh - 1 - top, height - oh + top), (0, 0)))
    wide = jnp.concatenate([x[:, :, j : j + ow] for j in range(kw)], -1)
    high = jnp.concatenate([y[:, kh - 1 - i : kh - 1 - i + height] for i in range(kh)], -1)
    rows = (((0, 1, 2), (0, 1, 2)), ((), ()))
    taps = lax.dot_general(wide, high, rows, precision=geometry.precision)
    return taps.reshape(kw, x.shape[-1], kh, y.shape[-1]).transpose(2, 0, 1, 3)
