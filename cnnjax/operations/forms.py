"""Forms of a convolution and of its two gradients, each fast for some sizes.

The `lax_*` functions emit what `jax.lax` emits. The `cpu_*` functions choose among these forms:

- `native`: a convolution in NHWC and HWIO, the layouts that XLA computes fast on CPU. The kernel
  gradient takes a few images at a time, so that their transposed copies stay in cache.
- `toeplitz`: for few channels, one product with a block-Toeplitz matrix.
- `images_last`: for few channels and few filters with a wide kernel, one product with all patches,
  in the layout [channels, height, width, images] (as in Krizhevsky's cuda-convnet). The innermost
  axis is then as long as the batch, no matter how few channels there are.
- `winograd`: for many channels, or for maps that fit in one tile (see `winograd.py`).
- `shifts`: for kernel gradients of 5 to 32 channels on maps of 256 positions or more, one product of
  inputs shifted along the width with cotangents shifted along the height.

Like `jax.lax`, `native` sums the products of each window only. `toeplitz`, `winograd` and `shifts`
also read positions outside of the window, multiplied by zero or canceled later. With
`precision="highest"` every form is `native`.

Shapes: x is [images, *spatial, channels], kernel is [*window, channels / groups, filters], and y, the
output or its cotangent, is [images, *spatial, filters]. `docs/convolution.md` lists the measurements.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from cnnjax.operations import winograd
from cnnjax.operations.windows import Geometry, Sizes

# Measured on x86-64 (AVX-512, 2 cores) by `experiments/benchmark.py`.
_FEW_CHANNELS = 4  # maximum for `toeplitz` with any kernel
_FEW_CHANNELS_WIDE = 16  # maximum for `toeplitz` with a wide kernel
_WIDE_KERNEL = 5  # minimum width
_FEW_FILTERS = 16  # maximum for `images_last` with a wide kernel
_NATIVE_IMAGES = 8  # images per chunk of the kernel gradient
_PATCHES_ELEMENTS = 2**22  # maximum size of all patches together
_WINOGRAD_REDUCTION = 1.9  # minimum factor by which `winograd` reduces operations
_WINOGRAD_REDUCTION_ONE = 0.9  # the same for a map of one tile, where the direct form also computes padding
_WINOGRAD_VALUES = 2**13  # per chunk: images times tiles times channels or filters
_SHIFTS_CHANNELS = 32
_SHIFTS_CELLS = 256  # minimum positions of the input
_SHIFTS_ELEMENTS = 2**19  # per chunk, of both shifted arrays: about the size of the L2 cache


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


def _input_shape(y: Array, kernel: Array, geometry: Geometry) -> Sizes:
    return (y.shape[0], *geometry.input, kernel.shape[-2] * geometry.groups)


def _kernel_shape(x: Array, y: Array, geometry: Geometry) -> Sizes:
    return (*geometry.kernel, x.shape[-1] // geometry.groups, y.shape[-1])


def _transposed(function: Callable[[Array], Array], shape: Sizes, cotangent: Array) -> Array:
    result = jax.linear_transpose(function, jax.ShapeDtypeStruct(shape, cotangent.dtype))(cotangent)[0]
    assert isinstance(result, Array)
    return result


def lax_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient, as `jax.lax` computes it."""
    return _transposed(lambda x: lax_output(x, kernel, geometry), _input_shape(y, kernel, geometry), y)


def lax_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient, as `jax.lax` computes it."""
    return _transposed(lambda kernel: lax_output(x, kernel, geometry), _kernel_shape(x, y, geometry), y)


# ------------------------------------------------------------------------- the choice on CPU


def _few_channels(kernel_shape: Sizes, geometry: Geometry) -> bool:
    width, channels = kernel_shape[-3:-1]
    return (
        len(geometry.kernel) == 2
        and geometry.groups == 1
        and set(geometry.dilation) == {1}
        and not geometry.exact
        and (channels <= _FEW_CHANNELS or (channels <= _FEW_CHANNELS_WIDE and width >= _WIDE_KERNEL))
    )


def _few_filters(images: int, kernel_shape: Sizes, geometry: Geometry) -> bool:
    patches = images * math.prod(geometry.output) * math.prod(kernel_shape[:-1])
    return kernel_shape[-1] <= _FEW_FILTERS and kernel_shape[-3] >= _WIDE_KERNEL and patches <= _PATCHES_ELEMENTS


def cpu_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of the convolution, in the form that is fastest on CPU."""
    if _fewer_products(x.dtype, kernel.shape, geometry):
        return _winograd_output(x, kernel, geometry)
    if not _few_channels(kernel.shape, geometry):
        return lax_output(x, kernel, geometry)
    if _few_filters(x.shape[0], kernel.shape, geometry):
        return _images_last_output(x, kernel, geometry)
    return _toeplitz_output(x, kernel, geometry, columns=max(2, geometry.kernel[-1] - 1))


def cpu_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient, in the form that is fastest on CPU."""
    flipped = jnp.swapaxes(lax.rev(kernel, tuple(range(len(geometry.kernel)))), -1, -2)
    if winograd.takes(geometry) and _fewer_products(y.dtype, flipped.shape, _transpose(geometry)):
        return _winograd_output(y, flipped, _transpose(geometry))
    if not _few_channels(kernel.shape, geometry):
        return _native_input(y, kernel, geometry)
    if _few_filters(y.shape[0], kernel.shape, geometry):
        output = partial(_images_last_rows, kernel=kernel, geometry=geometry)
    else:
        output = partial(_toeplitz_output, kernel=kernel, geometry=geometry, columns=2)
    return _transposed(output, _input_shape(y, kernel, geometry), y)


def cpu_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient, in the form that is fastest on CPU."""
    shape = _kernel_shape(x, y, geometry)
    if _few_channels(shape, geometry) and _few_filters(x.shape[0], shape, geometry):
        return _images_last_kernel(x, y, geometry)
    if _fewer_products(x.dtype, shape, geometry):
        return _in_chunks(partial(winograd.winograd_kernel, geometry=geometry), x, y, _winograd_images(shape, geometry))
    large = math.prod(geometry.input) >= _SHIFTS_CELLS
    channels = shape[-2:]
    if (
        geometry.plain
        and large
        and not geometry.exact
        and min(channels) > _FEW_CHANNELS
        and max(channels) <= _SHIFTS_CHANNELS
    ):
        (kh, kw), (height, width) = geometry.kernel, geometry.input
        image = height * width * (kw * channels[0] + kh * channels[1])
        return _in_chunks(partial(_shifts_kernel, geometry=geometry), x, y, max(1, _SHIFTS_ELEMENTS // image))
    return _in_chunks(partial(_native_kernel, geometry=geometry), x, y, _NATIVE_IMAGES)


def _chunks(images: int, *arrays: Array) -> list[Array] | None:
    """Splits arrays into chunks of at most `images`; None if one chunk is enough or no divisor is near that size."""
    count = arrays[0].shape[0]
    size = max(n for n in range(1, images + 1) if count % n == 0)
    if size == count or size < images // 2:
        return None
    return [array.reshape(-1, size, *array.shape[1:]) for array in arrays]


def _in_chunks(form: Callable[[Array, Array], Array], x: Array, y: Array, images: int) -> Array:
    """Computes a kernel gradient as a sum over chunks."""
    chunks = _chunks(images, x, y)
    if chunks is None:
        return form(x, y)
    out = jax.eval_shape(form, *(a[0] for a in chunks))
    zeros = jnp.zeros(out.shape, jnp.promote_types(out.dtype, jnp.float32))
    total, _ = lax.scan(lambda total, xy: (total + form(*xy), None), zeros, chunks)
    return total.astype(out.dtype)


# ------------------------------------------------------------------------- native


def _native_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    spatial, groups, (channels, filters) = len(geometry.kernel), geometry.groups, kernel.shape[-2:]
    flipped = lax.rev(kernel, tuple(range(spatial)))
    flipped = flipped.reshape(*geometry.kernel, channels, groups, filters // groups)
    return lax.conv_general_dilated(
        y,
        jnp.swapaxes(flipped, -3, -1).reshape(*geometry.kernel, filters // groups, groups * channels),
        (1,) * spatial,
        [
            (span - lo, span - hi + rest)
            for span, (lo, hi), rest in zip(geometry.spans, geometry.padding, geometry.unreached, strict=True)
        ],
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_dimension_numbers(spatial),
        feature_group_count=groups,
        precision=geometry.precision,
    )


def _native_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
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


# ------------------------------------------------------------------------- fewer products


def _fewer_products(dtype: Any, kernel_shape: Sizes, geometry: Geometry) -> bool:
    if jnp.dtype(dtype).itemsize < 4 or geometry.exact or not winograd.takes(geometry):
        return False
    least = _WINOGRAD_REDUCTION_ONE if winograd.tile_count(geometry) == 1 else _WINOGRAD_REDUCTION
    return winograd.reduction(kernel_shape[-2], kernel_shape[-1], geometry) >= least


def _winograd_images(kernel_shape: Sizes, geometry: Geometry) -> int:
    return max(1, _WINOGRAD_VALUES // (winograd.tile_count(geometry) * max(kernel_shape[-2:])))


def _winograd_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    form = partial(winograd.winograd_output, kernel=kernel, geometry=geometry)
    chunks = _chunks(_winograd_images(kernel.shape, geometry), x)
    if chunks is None:
        return form(x)
    return lax.map(form, *chunks).reshape(x.shape[0], *geometry.output, -1)


def _transpose(geometry: Geometry) -> Geometry:
    """Returns the geometry of the transpose: with strides of 1, a convolution with the flipped kernel."""
    padding = tuple((span - lo, span - hi) for span, (lo, hi) in zip(geometry.spans, geometry.padding, strict=True))
    return geometry._replace(input=geometry.output, output=geometry.input, padding=padding)


# ------------------------------------------------------------------------- matrix products


def _pad(x: Array, *pairs: tuple[int, int]) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), [(lo, hi, 0) for lo, hi in pairs])


def _toeplitz_output(x: Array, kernel: Array, geometry: Geometry, columns: int) -> Array:
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
    x = _pad(x, (0, 0), (top, bottom), (left, right), (0, 0))
    x = jnp.concatenate([x[:, :, i : i + (tiles - 1) * step + 1 : step] for i in range(reach)], -1)
    x = jnp.concatenate([x[:, i : i + (oh - 1) * sh + 1 : sh] for i in range(kh)], -1)
    shifts = [(i * sw, reach - kw - i * sw) for i in range(columns)]
    band = jnp.stack([jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], 3)
    band = band.reshape(kh * reach * channels, columns * filters)
    y = lax.dot_general(x, band, (((3,), (0,)), ((), ())), precision=geometry.precision)
    return y.reshape(*y.shape[:2], tiles * columns, filters)[:, :, :ow]


def _column_shifts(x: Array, geometry: Geometry) -> Iterator[Array]:
    """Returns the inputs under each row of the kernel, [kw * channels, oh, ow * images]."""
    (kh, kw), (sh, sw), (oh, ow) = geometry.kernel, geometry.strides, geometry.output
    x = _pad(x.transpose(3, 1, 2, 0), (0, 0), *geometry.padding, (0, 0))
    columns = jnp.stack([x[:, :, j : j + (ow - 1) * sw + 1 : sw] for j in range(kw)])
    columns = columns.reshape(kw * x.shape[0], x.shape[1], ow * x.shape[3])
    return (columns[:, i : i + (oh - 1) * sh + 1 : sh] for i in range(kh))


def _patches(x: Array, geometry: Geometry) -> Array:
    """Returns all patches, [kh * kw * channels, oh * ow * images]."""
    return jnp.stack(list(_column_shifts(x, geometry))).reshape(math.prod(geometry.kernel) * x.shape[-1], -1)


def _images_first(y: Array, geometry: Geometry) -> Array:
    return y.reshape(y.shape[0], *geometry.output, -1).transpose(3, 1, 2, 0)


def _images_last_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    y = lax.dot_general(matrix, _patches(x, geometry), (((0,), (0,)), ((), ())), precision=geometry.precision)
    return _images_first(y, geometry)


def _images_last_rows(x: Array, kernel: Array, geometry: Geometry) -> Array:
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


def _images_last_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    maps = y.transpose(3, 1, 2, 0).reshape(y.shape[-1], -1)
    kernel = lax.dot_general(_patches(x, geometry), maps, (((1,), (1,)), ((), ())), precision=geometry.precision)
    return kernel.reshape(_kernel_shape(x, y, geometry))


def _shifts_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Computes a kernel gradient as one product of shifted inputs and shifted cotangents.

    Up to padding, the gradient at tap (i, j) is the sum over r, c of x[r, c + j] y[r - i, c]. One
    product over all positions of x thus gives every tap: one factor holds kw shifts of x along the
    width, the other kh shifts of y along the height.
    """
    (kh, kw), (height, _), (oh, ow) = geometry.kernel, geometry.input, geometry.output
    (top, _), across = geometry.padding
    x = _pad(x, (0, 0), (0, 0), across, (0, 0))
    y = _pad(y, (0, 0), (kh - 1 - top, height - oh + top), (0, 0), (0, 0))
    wide = jnp.concatenate([x[:, :, j : j + ow] for j in range(kw)], -1)
    high = jnp.concatenate([y[:, kh - 1 - i : kh - 1 - i + height] for i in range(kh)], -1)
    rows = (((0, 1, 2), (0, 1, 2)), ((), ()))
    taps = lax.dot_general(wide, high, rows, precision=geometry.precision)
    return taps.reshape(kw, x.shape[-1], kh, y.shape[-1]).transpose(2, 0, 1, 3)
