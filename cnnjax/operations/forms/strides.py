"""Few channels with strides: without strides, of blocks as wide as the stride whose positions become channels."""

from collections.abc import Callable

from jax import Array

from cnnjax.operations.forms.native import input_shape, transposed
from cnnjax.operations.windows import Geometry, Sizes, padded

_Form = Callable[[Array, Array, Geometry], Array]


def _dense(geometry: Geometry) -> Geometry:
    """Returns the geometry without strides."""
    kernel = tuple(-(-k // s) for k, s in zip(geometry.kernel, geometry.strides, strict=True))
    size = tuple(o + k - 1 for o, k in zip(geometry.output, kernel, strict=True))
    ones = (1,) * len(kernel)
    return geometry._replace(input=size, kernel=kernel, strides=ones, padding=((0, 0),) * len(kernel))


def _blocks(x: Array, counts: Sizes, strides: Sizes) -> Array:
    """Turns [a, *positions, b] into [a, *counts, strides * b]."""
    sizes = [size for pair in zip(counts, strides, strict=True) for size in pair]
    x = x.reshape(x.shape[0], *sizes, x.shape[-1])
    order = [*range(1, len(sizes), 2), *range(2, len(sizes) + 1, 2)]
    return x.transpose(0, *order, len(sizes) + 1).reshape(x.shape[0], *counts, -1)


def _inputs(x: Array, geometry: Geometry) -> Array:
    dense = _dense(geometry)
    sizes = [n * s for n, s in zip(dense.input, geometry.strides, strict=True)]
    pairs = zip(sizes, geometry.input, geometry.padding, strict=True)
    x = padded(x, tuple((lo, size - n - lo) for size, n, (lo, _) in pairs))
    return _blocks(x, dense.input, geometry.strides)


def _kernel(kernel: Array, geometry: Geometry) -> Array:
    dense = _dense(geometry)
    pairs = zip(dense.kernel, geometry.strides, geometry.kernel, strict=True)
    kernel = padded(kernel[None], tuple((0, n * s - k) for n, s, k in pairs))
    filters = kernel.shape[-1]
    kernel = kernel.reshape(*kernel.shape[:-2], -1)
    kernel = _blocks(kernel, dense.kernel, geometry.strides)
    return kernel.reshape(*dense.kernel, -1, filters)


def strides_input(y: Array, kernel: Array, geometry: Geometry, form: _Form) -> Array:
    """Returns the input gradient of a convolution, with `form` for that without strides."""
    inputs = form(y, _kernel(kernel, geometry), _dense(geometry))
    return transposed(lambda x: _inputs(x, geometry), input_shape(y, kernel, geometry), inputs)
