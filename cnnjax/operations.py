"""Convolution and pooling that stay fast under jit, grad, scan and vmap.

On CPU, XLA runs a convolution quickly when its operands lie NHWC / HWIO. At the top level of a
program it brings other layouts into that form itself; inside a loop (`lax.scan`, `lax.map`) it
does not, and the two gradients that `jax.lax` emits for a convolution fall to plain loops there
(https://github.com/jax-ml/jax/issues/12868).

Here the output of a convolution and its two gradients are three bilinear primitives. On CPU each
is lowered as an NHWC / HWIO convolution or as a matrix product; on every other backend as what
`jax.lax` itself would have emitted. Each is the transpose of the other two, so derivatives of any
order, forward and reverse, need no further rule.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Padding = str | Sequence[int | tuple[int, int]]
Sizes = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

# Measured on x86-64 (AVX-512, 2 cores); `experiments/benchmark.py` shows the outcome.
_KERNEL_GRADIENT_IMAGES = 16  # images a chunk: transposed copies stay in cache
_FEW_CHANNELS = 4  # up to here a matrix product beats the native convolution for any kernel,
_FEW_CHANNELS_WIDE = 16  # and up to here for kernels
_WIDE_KERNEL = 5  # at least this wide


# ------------------------------------------------------------------------- sizes and padding


def output_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Positions of a window along one dimension: floor((size + lo + hi - reach) / stride) + 1.

    `reach` is (window - 1) * dilation + 1. Zero or less means that the window does not fit.
    """
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def explicit_padding(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Padding as one (low, high) pair a dimension; `SAME` and `VALID` as XLA defines them.

    Raises:
      ValueError: the padding is neither `VALID`, `SAME`, `SAME_LOWER` nor one entry a dimension.
    """
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        try:
            return tuple(lax.padtype_to_pads(sizes, reach, strides, padding.upper()))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"padding: {padding!r}: use SAME, VALID, or numbers of cells") from error
    pairs = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)
    if len(pairs) != len(sizes):
        raise ValueError(f"padding: {padding!r}: {len(pairs)} entries for {len(sizes)} spatial dimensions")
    return pairs


# ------------------------------------------------------------------------- a convolution in lax


class _Geometry(NamedTuple):
    """All of a convolution that is not an array; one entry for each spatial dimension."""

    input: Sizes
    kernel: Sizes
    output: Sizes
    strides: Sizes
    dilation: Sizes
    padding: Pairs
    groups: int
    precision: Any

    @property
    def spans(self) -> Sizes:
        """How far the last tap of a dilated kernel lies from its first."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def unreached(self) -> Sizes:
        """Cells at the end of the padded input that no window reaches."""
        return tuple(
            n + lo + hi - (span + 1) - (o - 1) * stride
            for n, (lo, hi), span, o, stride in zip(
                self.input, self.padding, self.spans, self.output, self.strides, strict=True
            )
        )


def _dimension_numbers(spatial: int) -> tuple[str, str, str]:
    letters = "DHW"[3 - spatial :]
    return f"N{letters}C", f"{letters}IO", f"N{letters}C"


def _lax_output(x: Array, kernel: Array, geometry: _Geometry) -> Array:
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


def _input_shape(y: Array, kernel: Array, geometry: _Geometry) -> Sizes:
    return (y.shape[0], *geometry.input, kernel.shape[-2] * geometry.groups)


def _kernel_shape(x: Array, y: Array, geometry: _Geometry) -> Sizes:
    return (*geometry.kernel, x.shape[-1] // geometry.groups, y.shape[-1])


def _transposed(function: Callable[[Array], Array], shape: Sizes, cotangent: Array) -> Array:
    result = jax.linear_transpose(function, jax.ShapeDtypeStruct(shape, cotangent.dtype))(cotangent)[0]
    assert isinstance(result, Array)
    return result


def _lax_input(y: Array, kernel: Array, geometry: _Geometry) -> Array:
    return _transposed(lambda x: _lax_output(x, kernel, geometry), _input_shape(y, kernel, geometry), y)


def _lax_kernel(x: Array, y: Array, geometry: _Geometry) -> Array:
    return _transposed(lambda kernel: _lax_output(x, kernel, geometry), _kernel_shape(x, y, geometry), y)


# ------------------------------------------------------------------------- a convolution on CPU


def _few_channels(kernel_shape: Sizes, geometry: _Geometry) -> bool:
    width, channels = kernel_shape[-3:-1]
    return (
        len(geometry.kernel) <= 2
        and geometry.groups == 1
        and set(geometry.dilation) == {1}
        and (channels <= _FEW_CHANNELS or (channels <= _FEW_CHANNELS_WIDE and width >= _WIDE_KERNEL))
    )


def _matrix_product(x: Array, kernel: Array, geometry: _Geometry, columns: int) -> Array:
    """A convolution as one product with a block-Toeplitz matrix, `columns` output columns a tile.

    A tile covers kh rows and `reach` = (columns - 1) * stride + kw columns of the input, so the
    matrix is [kh * reach * channels, columns * filters]: wide enough to fill the processor's
    registers where a single output column with few channels is not.
    """
    if len(geometry.kernel) == 1:
        flat = geometry._replace(
            input=(1, *geometry.input),
            kernel=(1, *geometry.kernel),
            output=(1, *geometry.output),
            strides=(1, *geometry.strides),
            dilation=(1, *geometry.dilation),
            padding=((0, 0), *geometry.padding),
        )
        return _matrix_product(x[:, None], kernel[None], flat, columns)[:, 0]
    (kh, kw, channels, filters), (sh, sw), (oh, ow) = kernel.shape, geometry.strides, geometry.output
    tiles, reach = -(-ow // columns), (columns - 1) * sw + kw
    step = columns * sw
    (top, bottom), (left, _) = geometry.padding
    right = (tiles - 1) * step + reach - left - geometry.input[1]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))
    x = jnp.concatenate([x[:, :, i : i + (tiles - 1) * step + 1 : step] for i in range(reach)], -1)
    x = jnp.concatenate([x[:, i : i + (oh - 1) * sh + 1 : sh] for i in range(kh)], -1)
    shifts = [(i * sw, reach - kw - i * sw) for i in range(columns)]
    band = jnp.stack([jnp.pad(kernel, ((0, 0), shift, (0, 0), (0, 0))) for shift in shifts], 3)
    band = band.reshape(kh * reach * channels, columns * filters)
    y = lax.dot_general(x, band, (((3,), (0,)), ((), ())), precision=geometry.precision)
    return y.reshape(*y.shape[:2], tiles * columns, filters)[:, :, :ow]


def _cpu_output(x: Array, kernel: Array, geometry: _Geometry) -> Array:
    if _few_channels(kernel.shape, geometry):
        return _matrix_product(x, kernel, geometry, columns=max(2, geometry.kernel[-1] - 1))
    return _lax_output(x, kernel, geometry)


def _cpu_input(y: Array, kernel: Array, geometry: _Geometry) -> Array:
    if _few_channels(kernel.shape, geometry):
        product = partial(_matrix_product, kernel=kernel, geometry=geometry, columns=2)
        return _transposed(product, _input_shape(y, kernel, geometry), y)
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


def _cpu_kernel(x: Array, y: Array, geometry: _Geometry) -> Array:
    spatial, groups, channels = len(geometry.kernel), geometry.groups, x.shape[-1] // geometry.groups

    def chunk(x: Array, y: Array) -> Array:
        # Images take the place of channels: the convolution's own sum runs over them.
        x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, channels), (0, -2, -1), (-1, -2, 0))
        return lax.conv_general_dilated(
            x.reshape(channels, *geometry.input, -1),
            jnp.moveaxis(y, 0, -2),
            geometry.dilation,
            [(lo, hi - rest) for (lo, hi), rest in zip(geometry.padding, geometry.unreached, strict=True)],
            rhs_dilation=geometry.strides,
            dimension_numbers=_dimension_numbers(spatial),
            feature_group_count=groups,
            precision=geometry.precision,
        )

    images = x.shape[0]
    size = max(n for n in range(1, _KERNEL_GRADIENT_IMAGES + 1) if images % n == 0)
    if images == size or size < _KERNEL_GRADIENT_IMAGES // 2:
        total = chunk(x, y)
    else:
        chunks = [a.reshape(images // size, size, *a.shape[1:]) for a in (x, y)]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        zeros = jnp.zeros((channels, *geometry.kernel, y.shape[-1]), wide)
        total, _ = lax.scan(lambda total, xy: (total + chunk(*xy), None), zeros, chunks)
        total = total.astype(x.dtype)
    return jnp.moveaxis(total, 0, -2)


# ------------------------------------------------------------------------- the three primitives
#
# Each primitive takes `lanes`, which says for each operand whether it has a leading axis of
# lanes: convolutions under vmap whose kernels differ. On CPU a loop over lanes beats the grouped
# convolution that lax makes of them.

_Lanes = tuple[bool, bool]
_Form = Callable[..., Array]  # form(a, b, geometry)
_Mapped = Callable[[Callable[..., Array], _Lanes], Callable[..., Array]]


def _over_lanes(form: _Form, mapped: _Mapped, a: Array, b: Array, *, geometry: _Geometry, lanes: _Lanes) -> Array:
    one = partial(form, geometry=geometry)
    return mapped(one, lanes)(a, b) if any(lanes) else one(a, b)


def _vmapped(function: Callable[..., Array], lanes: _Lanes) -> Callable[..., Array]:
    return jax.vmap(function, in_axes=tuple(0 if lane else None for lane in lanes))


def _looped(function: Callable[..., Array], lanes: _Lanes) -> Callable[..., Array]:
    if all(lanes):
        return lambda a, b: lax.map(lambda pair: function(*pair), (a, b))
    if lanes[0]:
        return lambda a, b: lax.map(lambda lane: function(lane, b), a)
    return lambda a, b: lax.map(lambda lane: function(a, lane), b)


def _merge_lanes(operand: Array, batched: bool, lane: bool, sizes: tuple[int, int]) -> Array:
    """A new leading axis and an axis of lanes as one; an operand with neither stays as it is."""
    if not (batched or lane):
        return operand
    rest = operand.shape[batched + lane :]
    operand = operand.reshape(sizes[0] if batched else 1, sizes[1] if lane else 1, *rest)
    return jnp.broadcast_to(operand, (*sizes, *rest)).reshape(-1, *rest)


def _primitive(name: str, plain: _Form, cpu: _Form, images_first: bool) -> Primitive:
    """A bilinear primitive that is `cpu` on CPU and `plain` everywhere else.

    With `images_first` the first operand holds images, so that a batch of it alone is more images.
    """
    primitive = Primitive(name)
    default, on_cpu = partial(_over_lanes, plain, _vmapped), partial(_over_lanes, cpu, _looped)

    @primitive.def_abstract_eval  # type: ignore[untyped-decorator]
    def _(a: Any, b: Any, **parameters: Any) -> jax.core.ShapedArray:
        shapes = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in (a, b)]
        out = jax.eval_shape(partial(default, **parameters), *shapes)
        return jax.core.ShapedArray(out.shape, out.dtype)

    def batch(operands: Sequence[Array], axes: Sequence[int | None], *, geometry: _Geometry, lanes: _Lanes) -> Any:
        batched = tuple(axis is not None for axis in axes)
        a, b = (o if axis is None else jnp.moveaxis(o, axis, 0) for o, axis in zip(operands, axes, strict=True))
        size = a.shape[0] if batched[0] else b.shape[0]
        if images_first and batched == (True, False) and not any(lanes):
            images = a.shape[1]
            out = primitive.bind(a.reshape(size * images, *a.shape[2:]), b, geometry=geometry, lanes=lanes)
            return out.reshape(size, images, *out.shape[1:]), 0
        if not any(lanes):
            return primitive.bind(a, b, geometry=geometry, lanes=batched), 0
        inner = a.shape[batched[0]] if lanes[0] else b.shape[batched[1]]
        a, b = (_merge_lanes(o, new, old, (size, inner)) for o, new, old in zip((a, b), batched, lanes, strict=True))
        merged = tuple(new or old for new, old in zip(batched, lanes, strict=True))
        out = primitive.bind(a, b, geometry=geometry, lanes=merged)
        return out.reshape(size, inner, *out.shape[1:]), 0

    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("geometry", "lanes")))
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    return primitive


_output_p = _primitive("convolution", _lax_output, _cpu_output, images_first=True)
_input_p = _primitive("convolution_input_gradient", _lax_input, _cpu_input, images_first=True)
_kernel_p = _primitive("convolution_kernel_gradient", _lax_kernel, _cpu_kernel, images_first=False)


def _transposes(primitive: Primitive, first: Callable[..., Array], second: Callable[..., Array]) -> None:
    """Registers what each operand's gradient is; `first` and `second` bind the primitive for it."""

    def rule(operand: int, bind: Callable[..., Array]) -> Callable[..., Array]:
        def gradient(cotangent: Array, *operands: Array, geometry: _Geometry, lanes: _Lanes) -> Array:
            out = bind((cotangent, any(lanes)), (operands[1 - operand], lanes[1 - operand]), geometry)
            return out.sum(0) if any(lanes) and not lanes[operand] else out

        return gradient

    ad.defbilinear(primitive, rule(0, first), rule(1, second))


def _bind(primitive: Primitive, swap: bool = False) -> Callable[..., Array]:
    def bind(a: tuple[Array, bool], b: tuple[Array, bool], geometry: _Geometry) -> Array:
        (first, lane), (second, other) = (b, a) if swap else (a, b)
        return primitive.bind(first, second, geometry=geometry, lanes=(lane, other))

    return bind


_transposes(_output_p, _bind(_input_p), _bind(_kernel_p, swap=True))  # (y, kernel), (x, y)
_transposes(_input_p, _bind(_output_p), _bind(_kernel_p))  # (x, kernel), (x, y)
_transposes(_kernel_p, _bind(_input_p, swap=True), _bind(_output_p, swap=True))  # (y, kernel), (x, kernel)


# ------------------------------------------------------------------------- convolution


def _hashable(precision: Any) -> Any:
    return tuple(precision) if isinstance(precision, list) else precision


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Padding,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """`jax.lax.conv_general_dilated` with gradients that stay fast in loops and under vmap on CPU.

    A drop-in: the arguments, their meaning and the errors are those of `jax.lax`, and
    `nnx.Conv(..., conv_general_dilated=conv_general_dilated)` speeds up a Flax model. Results
    agree with `jax.lax` to rounding. Forward mode, reverse mode and any mix of them work.

    Handed to `jax.lax` unchanged: `lhs_dilation` above 1, `batch_group_count` above 1, an
    `out_sharding`, operands that vary over the devices of a `jax.shard_map` with `check_vma`, a
    `preferred_element_type` other than the operands' own, operands that are not both of one
    floating type, empty arrays, and anything but 1 to 3 spatial dimensions.

    Args:
      lhs: images, by default [batch, channels, *spatial] as in `jax.lax`; [batch, *spatial,
        channels] with `dimension_numbers=("NHWC", "HWIO", "NHWC")`.
      rhs: kernel, by default [filters, channels / groups, *window]; HWIO as above.
      window_strides: steps between windows, in cells.
      padding: `VALID`, `SAME`, `SAME_LOWER`, or (low, high) cells a dimension.
      lhs_dilation: spacing of the input's cells.
      rhs_dilation: spacing of the kernel's taps.
      dimension_numbers: layouts of lhs, rhs and the result.
      feature_group_count: number of channel groups; a filter sees only the channels of its own.
      batch_group_count, precision, preferred_element_type, out_sharding: see `jax.lax`.

    Returns:
      The feature maps, by default [batch, filters, *spatial].
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    spatial = lhs.ndim - 2
    ours = (
        1 <= spatial <= 3
        and lhs.ndim == rhs.ndim
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and lhs.size > 0
        and rhs.size > 0
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and batch_group_count == 1
        and (preferred_element_type is None or jnp.dtype(preferred_element_type) == lhs.dtype)
        and out_sharding is None
        # Under a shard_map that tracks how values vary over devices, lax knows what to sum.
        and not any(jax.typeof(operand).manual_axis_type.varying for operand in (lhs, rhs))
    )
    # Abstract evaluation raises lax's own errors, and gives the shape.
    reference = partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,  # type: ignore[arg-type]
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if not ours or jax.eval_shape(reference, lhs, rhs).size == 0:
        return reference(lhs, rhs)
    lhs_spec, rhs_spec, out_spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])
    kernel = rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0])
    sizes, window = x.shape[1:-1], kernel.shape[:-2]
    strides = tuple(int(s) for s in window_strides)
    dilation = (1,) * spatial if rhs_dilation is None else tuple(int(d) for d in rhs_dilation)
    pairs = explicit_padding(padding, sizes, window, strides, dilation)
    output = tuple(map(output_size, sizes, window, strides, pairs, dilation))
    geometry = _Geometry(sizes, window, output, strides, dilation, pairs, feature_group_count, _hashable(precision))
    y = _output_p.bind(x, kernel, geometry=geometry, lanes=(False, False))
    order = (out_spec[0], *out_spec[2:], out_spec[1])
    return y.transpose(sorted(range(y.ndim), key=order.__getitem__))


# ------------------------------------------------------------------------- pooling


@jax.custom_jvp
def _first_maximum(slices: tuple[Array, ...]) -> Array:
    """Elementwise maximum of equal shapes; the gradient goes to the first that attains it."""
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


def _slices(x: Array, axes: Sequence[int], window: Sizes, strides: Sizes) -> tuple[Array, ...]:
    """X at every offset of the window over `axes`, in row-major order."""
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
) -> Array:
    window = tuple(int(w) for w in window)
    strides = (1,) * len(window) if strides is None else tuple(int(s) for s in strides)
    if not 1 <= len(window) <= x.ndim - 1 or len(strides) != len(window) or min(window + strides) < 1:
        raise ValueError(
            f"pooling: window {window} with strides {strides} on an array {x.shape}: give one positive window size and "
            "stride for each spatial dimension of [..., *spatial, channels]"
        )
    axes = range(x.ndim - 1 - len(window), x.ndim - 1)
    sizes = [x.shape[axis] for axis in axes]
    ones = (1,) * len(window)
    pairs = explicit_padding(padding, sizes, window, strides, ones)
    if min(map(output_size, sizes, window, strides, pairs, ones)) < 1:
        raise ValueError(f"pooling: window {window} does not fit {sizes} cells padded by {pairs}")
    if any(pair != (0, 0) for pair in pairs):
        config = [(0, 0, 0)] * x.ndim
        for axis, (lo, hi) in zip(axes, pairs, strict=True):
            config[axis] = (lo, hi, 0)
        x = lax.pad(x, jnp.asarray(fill, x.dtype), config)
    if all(stride >= size for size, stride in zip(window, strides, strict=True)):
        return combine(_slices(x, axes, window, strides))
    # Overlapping windows: one dimension after the other, the last first, so that of equal maxima
    # the first in row-major order still wins.
    for axis, size, stride in reversed(list(zip(axes, window, strides, strict=True))):
        x = combine(_slices(x, (axis,), (size,), (stride,)))
    return x


def max_pool(
    inputs: Array, window_shape: Sequence[int], strides: Sequence[int] | None = None, padding: Padding = "VALID"
) -> Array:
    """Maximum over windows; the arguments and their defaults are those of `flax.nnx.max_pool`.

    Of equal maxima the first in row-major order gets the whole gradient, as in `jax.lax`. NaN in a
    window gives NaN. Padding never wins.

    Args:
      inputs: [..., *spatial, channels].
      window_shape: cells of the window, one entry for each spatial dimension.
      strides: steps between windows; 1 by default, as in Flax.
      padding: `VALID`, `SAME`, or (low, high) cells a dimension.

    Returns:
      [..., *pooled, channels].

    Raises:
      ValueError: the window does not fit.
    """
    lowest = -jnp.inf if jnp.issubdtype(inputs.dtype, jnp.floating) else jnp.iinfo(inputs.dtype).min
    return _pool(inputs, window_shape, strides, padding, lowest, _first_maximum)


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """Mean over windows; the arguments and their defaults are those of `flax.nnx.avg_pool`.

    Args:
      inputs: [..., *spatial, channels].
      window_shape: cells of the window, one entry for each spatial dimension.
      strides: steps between windows; 1 by default, as in Flax.
      padding: `VALID`, `SAME`, or (low, high) cells a dimension.
      count_include_pad: whether padding counts as zeros (the divisor is the window's size) or not
        at all (the divisor is the number of cells that lie in the input).

    Returns:
      [..., *pooled, channels].

    Raises:
      ValueError: the window does not fit.
    """
    total = partial(_pool, window=window_shape, strides=strides, padding=padding, fill=0, combine=sum)
    if count_include_pad:
        return total(inputs) / math.prod(window_shape)
    return total(inputs) / total(jnp.ones((*inputs.shape[-1 - len(window_shape) : -1], 1), inputs.dtype))
