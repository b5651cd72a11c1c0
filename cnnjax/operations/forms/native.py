"""Convolutions of `jax.lax`: as `jax.lax` emits them, and in the layouts that XLA computes fast on CPU.

The output is NHWC and HWIO in both. XLA computes the gradients of `jax.lax` fast only outside of loops; the
forms of this file, convolutions in NHWC and HWIO with explicit transpositions, are fast inside as well. The
kernel gradient takes a few images at a time, so that their transposed copies stay in cache.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations.forms.chunks import sum_chunks
from cnnjax.operations.windows import Geometry, Sizes

_IMAGES = 8  # images per chunk of the kernel gradient


def _dimension_numbers(spatial: int) -> tuple[str, str, str]:
    letters = "DHW"[3 - spatial :]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def lax_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of the convolution, as `jax.lax` computes it."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_dimension_numbers(len(geometry.kernel)),
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def input_shape(y: Array, kernel: Array, geometry: Geometry) -> Sizes:
    """Returns the shape of the input."""
    return (y.shape[0], *geometry.input, kernel.shape[-2] * geometry.groups)


def kernel_shape(x: Array, y: Array, geometry: Geometry) -> Sizes:
    """Returns the shape of the kernel."""
    return (*geometry.kernel, x.shape[-1] // geometry.groups, y.shape[-1])


def transposed(function: Callable[[Array], Array], shape: Sizes, cotangent: Array) -> Array:
    """Applies the transpose of a linear function of an array of this shape."""
    result = jax.linear_transpose(function, jax.ShapeDtypeStruct(shape, cotangent.dtype))(cotangent)[0]
    assert isinstance(result, Array)
    return result


def lax_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient, as `jax.lax` computes it."""
    return transposed(lambda x: lax_output(x, kernel, geometry), input_shape(y, kernel, geometry), y)


def lax_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient, as `jax.lax` computes it."""
    return transposed(lambda kernel: lax_output(x, kernel, geometry), kernel_shape(x, y, geometry), y)


def native_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient."""
    spatial, groups, (channels, filters) = len(geometry.kernel), geometry.groups, kernel.shape[-2:]
    flipped = lax.rev(kernel, tuple(range(spatial)))
    flipped = flipped.reshape(*geometry.kernel, channels, groups, filters // groups)
    return lax.conv_general_dilated(
        y,
        jnp.swapaxes(flipped, -3, -1).reshape(*geometry.kernel, filters // groups, groups * channels),
        (1,) * spatial,
        geometry.transposed_padding,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_dimension_numbers(spatial),
        feature_group_count=groups,
        precision=geometry.precision,
    )


def native_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient."""
    return sum_chunks(lambda x, y: _kernel(x, y, geometry), x, y, _IMAGES)


def _kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    # Images and channels swap places, so that the convolution sums over images.
    spatial, groups, channels = len(geometry.kernel), geometry.groups, x.shape[-1] // geometry.groups
    x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, channels), (0, -2, -1), (-1, -2, 0))
    kernel = lax.conv_general_dilated(
        x.reshape(channels, *geometry.input, -1),
        jnp.moveaxis(y, 0, -2),
        geometry.dilation,
        [(lo, hi - rest) for (lo, hi), rest in zip(geometry.padding, geometry.unreached, strict=True)],
        rhs_dilation=geometry.strides,
        dimension_numbers=_dimension_numbers(spatial),
        feature_group_count=groups,
        precision=geometry.precision,
    )
    return jnp.moveaxis(kernel, 0, -2)
