"""The form that a convolution and each of its gradients takes on CPU, by their sizes.

The first rule of a table that takes a case gives the form. Measured on x86-64 (AVX-512, 2 cores);
`experiments/benchmark.py --what operations` prints the speed of each form, and `docs/convolution.md` says why
each is fast.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from cnnjax.operations.forms import winograd
from cnnjax.operations.forms.blocks import blocks_input, blocks_kernel, blocks_output
from cnnjax.operations.forms.depth import depth_input, depth_kernel, depth_output
from cnnjax.operations.forms.images_last import images_last_input, images_last_kernel, images_last_output
from cnnjax.operations.forms.native import kernel_shape, lax_output, native_input, native_kernel
from cnnjax.operations.forms.patches import patch_values, patches_input, patches_kernel
from cnnjax.operations.forms.pointwise import pointwise_input, pointwise_kernel, pointwise_output
from cnnjax.operations.forms.shifts import shifts_kernel
from cnnjax.operations.forms.strides import strides_input
from cnnjax.operations.forms.taps import taps_input, taps_kernel, taps_output
from cnnjax.operations.forms.toeplitz import toeplitz_input, toeplitz_output
from cnnjax.operations.forms.winograd import winograd_input, winograd_kernel, winograd_output
from cnnjax.operations.windows import Geometry, Sizes

_FEW_CHANNELS = 4  # maximum for `toeplitz` with any kernel
_FEW_CHANNELS_WIDE = 16  # maximum for `toeplitz` with a wide kernel
_WIDE_KERNEL = 5  # minimum width
_FEW_FILTERS = 16  # maximum for `images_last` with a wide kernel
_PATCHES_ELEMENTS = 2**22  # maximum size of all patches together
_WINOGRAD_REDUCTION = 1.9  # minimum factor by which `winograd` reduces operations
_WINOGRAD_REDUCTION_ONE = 0.9  # the same for a map of one tile, where the direct form also computes padding
_WINOGRAD_REDUCTION_ROWS = 1.5  # the same for a kernel of one row, whose transforms are smaller
_SHIFTS_CHANNELS = 32
_SHIFTS_CELLS = 256  # minimum positions of the input
_PATCHES_IMAGE = 2**19  # maximum size of the patches of one image
_MOST_TAPS = 64  # maximum for `taps`, whose programs grow with them


class Case(NamedTuple):
    """The sizes by which a form is chosen."""

    images: int
    channels: int
    """The number of channels of a group."""
    filters: int
    """The number of filters of all groups."""
    dtype: Any
    geometry: Geometry


def _depthwise(case: Case) -> bool:
    geometry = case.geometry
    few = math.prod(geometry.kernel) <= _MOST_TAPS
    return case.channels == 1 < geometry.groups and few and not geometry.algorithm


def _pointwise(case: Case) -> bool:
    geometry = case.geometry
    unpadded = all(pair == (0, 0) for pair in geometry.padding)
    return geometry.groups == 1 and set(geometry.kernel) == {1} and unpadded and not geometry.algorithm


def _fewer_products(case: Case) -> bool:
    geometry = case.geometry
    if jnp.dtype(case.dtype).itemsize < 4 or geometry.exact or not winograd.takes(geometry):
        return False
    least = _WINOGRAD_REDUCTION_ONE if winograd.tile_count(geometry) == 1 else _WINOGRAD_REDUCTION
    if geometry.kernel[0] == 1:
        least = min(least, _WINOGRAD_REDUCTION_ROWS)
    return winograd.reduction(case.channels, case.filters, geometry) >= least


def _fewer_products_of_input(case: Case) -> bool:
    return winograd.takes(case.geometry) and _fewer_products(
        case._replace(channels=case.filters, filters=case.channels, geometry=case.geometry.transposed)
    )


def _few_channels(case: Case) -> bool:
    geometry, channels = case.geometry, case.channels
    return (
        len(geometry.kernel) == 2
        and geometry.groups == 1
        and set(geometry.dilation) == {1}
        and not geometry.exact
        and (set(geometry.strides) == {1} or case.filters <= _FEW_FILTERS)
        and (channels <= _FEW_CHANNELS or (channels <= _FEW_CHANNELS_WIDE and geometry.kernel[1] >= _WIDE_KERNEL))
    )


def _few_filters(case: Case) -> bool:
    patches = case.images * math.prod((*case.geometry.output, *case.geometry.kernel, case.channels))
    few = case.filters <= _FEW_FILTERS and case.geometry.kernel[-1] >= _WIDE_KERNEL
    return _few_channels(case) and few and patches <= _PATCHES_ELEMENTS


def _large_maps(case: Case) -> bool:
    channels = (case.channels, case.filters)
    return (
        case.geometry.plain
        and not case.geometry.exact
        and math.prod(case.geometry.input) >= _SHIFTS_CELLS
        and min(channels) > _FEW_CHANNELS
        and max(channels) <= _SHIFTS_CHANNELS
    )


def _small_patches(case: Case) -> bool:
    few = patch_values(case.channels, case.geometry) <= _PATCHES_IMAGE
    return case.geometry.groups == 1 and not case.geometry.exact and few


def _strided(case: Case) -> bool:
    return _small_patches(case) and max(case.geometry.strides) > 1


def _strided_few_channels(case: Case) -> bool:
    undilated = set(case.geometry.dilation) == {1}
    return _strided(case) and case.channels <= _FEW_CHANNELS and undilated


def _sparse(case: Case) -> bool:
    geometry = case.geometry
    return _small_patches(case) and case.channels > _FEW_CHANNELS and max(geometry.strides + geometry.dilation) > 1


def _deep(case: Case) -> bool:
    return len(case.geometry.kernel) == 3 and not case.geometry.exact


def _grouped(case: Case) -> bool:
    return case.geometry.groups > 1 and not case.geometry.exact


def _any(_: Case) -> bool:
    return True


Form = Callable[[Array, Array, Geometry], Array]
Table = tuple[tuple[Callable[[Case], bool], Form], ...]


def choose(table: Table, case: Case) -> Form:
    """Returns the form of the first rule that takes a case."""
    return next(form for takes, form in table if takes(case))


def _case(images: Array, kernel_shape: Sizes, geometry: Geometry) -> Case:
    channels, filters = kernel_shape[-2:]
    return Case(images.shape[0], channels, filters, images.dtype, geometry)


def cpu_output(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the output of a convolution, in the form that is fastest on CPU."""
    return choose(OUTPUT, _case(x, kernel.shape, geometry))(x, kernel, geometry)


def cpu_input(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Returns the input gradient of a convolution, in the form that is fastest on CPU."""
    return choose(INPUT, _case(y, kernel.shape, geometry))(y, kernel, geometry)


def cpu_kernel(x: Array, y: Array, geometry: Geometry) -> Array:
    """Returns the kernel gradient of a convolution, in the form that is fastest on CPU."""
    return choose(KERNEL, _case(x, kernel_shape(x, y, geometry), geometry))(x, y, geometry)


OUTPUT: Table = (
    (_depthwise, taps_output),
    (_grouped, partial(blocks_output, form=cpu_output)),
    (_pointwise, pointwise_output),
    (_deep, partial(depth_output, form=cpu_output)),
    (_fewer_products, winograd_output),
    (_few_filters, images_last_output),
    (_few_channels, toeplitz_output),
    (_any, lax_output),
)
INPUT: Table = (
    (_depthwise, taps_input),
    (_grouped, partial(blocks_input, form=cpu_input)),
    (_pointwise, pointwise_input),
    (_deep, partial(depth_input, form=cpu_input)),
    (_fewer_products_of_input, winograd_input),
    (_few_filters, images_last_input),
    (_few_channels, toeplitz_input),
    (_strided_few_channels, partial(strides_input, form=patches_input)),
    (_strided, patches_input),
    (_any, native_input),
)
KERNEL: Table = (
    (_depthwise, taps_kernel),
    (_grouped, partial(blocks_kernel, form=cpu_kernel)),
    (_pointwise, pointwise_kernel),
    (_deep, partial(depth_kernel, form=cpu_kernel)),
    (_few_filters, images_last_kernel),
    (_fewer_products, winograd_kernel),
    (_large_maps, shifts_kernel),
    (_sparse, patches_kernel),
    (_any, native_kernel),
)
