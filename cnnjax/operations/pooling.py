"""Max pooling and average pooling."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from cnnjax.operations.windows import Padding, Sizes, explicit_padding, known, output_size

_MOST_SLICES = 32  # largest window that is computed from slices: more would take long to compile
_REGISTER = 16  # float32 values in a vector register; fewer channels leave it partly empty


@jax.custom_jvp
def _first_maximum(slices: tuple[Array, ...]) -> Array:
    """Returns the elementwise maximum; the gradient goes to the first slice that attains it."""
    return _maximum_and_index(slices)[0]


def _maximum_and_index(slices: tuple[Array, ...]) -> tuple[Array, Array]:
    best, index = slices[0], jnp.zeros(slices[0].shape, jnp.int32 if len(slices) > 127 else jnp.int8)
    for i, other in enumerate(slices[1:], 1):
        index = jnp.where(other > best, jnp.asarray(i, index.dtype), index)
        best = jnp.maximum(best, other)  # unlike a comparison, keeps NaN
    return best, index


@_first_maximum.defjvp
def _(primals: tuple[tuple[Array, ...]], tangents: tuple[tuple[Array, ...]]) -> tuple[Array, Array]:
    best, index = _maximum_and_index(primals[0])
    return best, sum(jnp.where(index == i, t, 0) for i, t in enumerate(tangents[0]))  # type: ignore[return-value]


def _along(windows: Array, axis: int) -> Array:
    """Returns the maximum along an axis; the gradient goes to the first entry that attains it."""
    first = lax.argmax(windows, axis, jnp.int32)  # NaN counts as the highest
    chosen = lax.broadcasted_iota(jnp.int32, windows.shape, axis) == jnp.expand_dims(first, axis)
    return jnp.sum(jnp.where(chosen, windows, jnp.zeros((), windows.dtype)), axis, dtype=windows.dtype)


def _total_along(windows: Array, axis: int) -> Array:
    return jnp.sum(windows, axis, dtype=windows.dtype)


def _windows(x: Array, axis: int, size: int, stride: int) -> Array:
    """Splits an axis in two: the windows along it, and the positions within each window."""
    count = output_size(x.shape[axis], size, stride, (0, 0), 1)
    cells = stride * np.arange(count)[:, None] + np.arange(size)
    if stride == size or count == 1:  # without a gather
        x = lax.slice_in_dim(x, 0, count * size, axis=axis)
        return x.reshape(*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    return jnp.take(x, cells, axis)


def _slices(x: Array, axes: Sequence[int], window: Sizes, strides: Sizes) -> tuple[Array, ...]:
    """Returns `x` at every offset of the window over `axes`, in row-major order."""
    slices: tuple[Array, ...] = (x,)
    for axis, size, stride in zip(axes, window, strides, strict=True):
        count = output_size(x.shape[axis], size, stride, (0, 0), 1)
        slices = tuple(
            lax.slice_in_dim(a, i, i + (count - 1) * stride + 1, stride, axis) for a in slices for i in range(size)
        )
    return slices


def _pool(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int] | None,
    padding: Padding,
    fill: Any,
    combine: Callable[..., Array],
    along: Callable[[Array, int], Array],
    reduce: Callable[[Array, Array], Array],
) -> Array:
    window = tuple(int(w) for w in window)
    strides = (1,) * len(window) if strides is None else tuple(int(s) for s in strides)
    if not 1 <= len(window) <= x.ndim - 1 or len(strides) != len(window) or min(window + strides) < 1:
        raise ValueError(
            f"pooling: window {window} with strides {strides} on an array of shape {x.shape}: give a positive window "
            "size and stride for each spatial dimension of [..., *spatial, channels]"
        )
    axes = range(x.ndim - 1 - len(window), x.ndim - 1)
    sizes = [x.shape[axis] for axis in axes]
    ones = (1,) * len(window)
    pairs = explicit_padding(padding, sizes, window, strides, ones)
    if not known(sizes):
        lead = (1,) * (x.ndim - 1 - len(window))
        whole = [(0, 0)] * len(lead) + list(pairs) + [(0, 0)]
        start = np.asarray(fill, x.dtype)[()]
        return lax.reduce_window(x, start, reduce, (*lead, *window, 1), (*lead, *strides, 1), whole)
    if min(map(output_size, sizes, window, strides, pairs, ones)) < 1:
        raise ValueError(f"pooling: window {window} does not fit spatial shape {sizes} with padding {pairs}")
    if any(pair != (0, 0) for pair in pairs):
        config = [(0, 0, 0)] * x.ndim
        for axis, (lo, hi) in zip(axes, pairs, strict=True):
            config[axis] = (lo, hi, 0)
        x = lax.pad(x, jnp.asarray(fill, x.dtype), config)
    if math.prod(window) <= _MOST_SLICES and all(map(operator.ge, strides, window)):
        if x.ndim == len(window) + 2 and x.shape[-1] < _REGISTER and jax.default_backend() == "cpu":
            # With the images innermost, the loops fill the vector registers. The barrier keeps XLA from
            # computing the transpose back element by element.
            slices = _slices(jnp.swapaxes(x, 0, -1), axes, window, strides)
            return jnp.swapaxes(lax.optimization_barrier(combine(slices)), 0, -1)
        return combine(_slices(x, axes, window, strides))
    # Overlapping and large windows are reduced one dimension at a time. The last dimension comes first,
    # so that the first maximum in row-major order still gets the gradient.
    for axis, size, stride in reversed(list(zip(axes, window, strides, strict=True))):
        if size <= _MOST_SLICES:
            x = combine(_slices(x, (axis,), (size,), (stride,)))
        else:
            x = along(_windows(x, axis, size, stride), axis + 1)
    return x


def max_pool(
    inputs: Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Padding = "VALID"
) -> Array:
    """Computes the maximum over windows, with the arguments and defaults of `flax.nnx.max_pool`.

    If several entries of a window are maximal, the first in row-major order gets the whole gradient,
    as in `jax.lax`. A window that contains NaN gives NaN. Padding is never the maximum.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), strides=(2, 2)).reshape(2, 2)
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)

    Args:
      inputs: an array [..., *spatial, channels].
      window_shape: the size of the window along each spatial dimension.
      strides: the stride along each spatial dimension; 1 by default, as in Flax.
      padding: `VALID`, `SAME`, or a (low, high) pair for each spatial dimension.

    Returns:
      An array [..., *pooled, channels].

    Raises:
      ValueError: if the window does not fit the inputs.
    """
    if inputs.dtype == bool:
        return max_pool(inputs.astype(jnp.int8), window_shape, strides, padding) > 0
    lowest = -jnp.inf if jnp.issubdtype(inputs.dtype, jnp.floating) else jnp.iinfo(inputs.dtype).min
    return _pool(inputs, window_shape, strides, padding, lowest, _first_maximum, _along, lax.max)


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """Computes the mean over windows, with the arguments and defaults of `flax.nnx.avg_pool`.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), (2, 2), strides=(2, 2)).reshape(2, 2)
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)

    Args:
      inputs: an array [..., *spatial, channels].
      window_shape: the size of the window along each spatial dimension.
      strides: the stride along each spatial dimension; 1 by default, as in Flax.
      padding: `VALID`, `SAME`, or a (low, high) pair for each spatial dimension.
      count_include_pad: whether the mean includes padding, as zeros; if false, the sum is divided by
        the number of window positions inside of the input.

    Returns:
      An array [..., *pooled, channels].

    Raises:
      ValueError: if the window does not fit the inputs.
    """
    if inputs.dtype == bool:
        inputs = inputs.astype(jnp.int32)
    total = partial(
        _pool,
        window=window_shape,
        strides=strides,
        padding=padding,
        fill=0,
        combine=sum,
        along=_total_along,
        reduce=lax.add,
    )
    if count_include_pad:
        return total(inputs) / math.prod(window_shape)
    return total(inputs) / total(jnp.ones((*inputs.shape[-1 - len(window_shape) : -1], 1), inputs.dtype))
