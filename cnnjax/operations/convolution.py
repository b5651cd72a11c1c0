"""The drop-in for `jax.lax.conv_general_dilated`, over three bilinear primitives.

The output of a convolution and its two gradients are each the transpose of the other two, so
derivatives of any order, forward and reverse, need no further rule.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType

from cnnjax.operations.forms import cpu_input, cpu_kernel, cpu_output, lax_input, lax_kernel, lax_output
from cnnjax.operations.windows import Geometry, Padding, explicit_padding, known, output_size

# ------------------------------------------------------------------------- the three primitives
#
# Each primitive takes `lanes`, which says for each operand whether it has a leading axis of
# lanes: convolutions under vmap whose kernels differ. On CPU a loop over lanes beats the grouped
# convolution that lax makes of them.

_Lanes = tuple[bool, bool]
_Form = Callable[..., Array]  # form(a, b, geometry)
_Mapped = Callable[[Callable[..., Array], _Lanes], Callable[..., Array]]


def _over_lanes(form: _Form, mapped: _Mapped, a: Array, b: Array, *, geometry: Geometry, lanes: _Lanes) -> Array:
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
    default, fast = partial(_over_lanes, plain, _vmapped), partial(_over_lanes, cpu, _looped)

    def on_cpu(a: Array, b: Array, **parameters: Any) -> Array:
        return (fast if known((*a.shape, *b.shape)) else default)(a, b, **parameters)

    @primitive.def_abstract_eval  # type: ignore[untyped-decorator]
    def _(a: Any, b: Any, **parameters: Any) -> jax.core.ShapedArray:
        shapes = [jax.ShapeDtypeStruct(o.shape, o.dtype) for o in (a, b)]
        out = jax.eval_shape(partial(default, **parameters), *shapes)
        return jax.core.ShapedArray(out.shape, out.dtype)

    def batch(operands: Sequence[Array], axes: Sequence[int | None], *, geometry: Geometry, lanes: _Lanes) -> Any:
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

    alone = jax.jit(primitive.bind, static_argnames=("geometry", "lanes"))

    @primitive.def_impl  # type: ignore[untyped-decorator]
    def _(a: Array, b: Array, **parameters: Any) -> Array:
        with jax.disable_jit(False):  # one operation, as each of lax is one also without jit
            return alone(a, b, **parameters)

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    return primitive


_output_p = _primitive("convolution", lax_output, cpu_output, images_first=True)
_input_p = _primitive("convolution_input_gradient", lax_input, cpu_input, images_first=True)
_kernel_p = _primitive("convolution_kernel_gradient", lax_kernel, cpu_kernel, images_first=False)


def _transposes(primitive: Primitive, first: Callable[..., Array], second: Callable[..., Array]) -> None:
    """Registers what each operand's gradient is; `first` and `second` bind the primitive for it."""

    def rule(operand: int, bind: Callable[..., Array]) -> Callable[..., Array]:
        def gradient(cotangent: Array, *operands: Array, geometry: Geometry, lanes: _Lanes) -> Array:
            out = bind((cotangent, any(lanes)), (operands[1 - operand], lanes[1 - operand]), geometry)
            return out.sum(0) if any(lanes) and not lanes[operand] else out

        return gradient

    ad.defbilinear(primitive, rule(0, first), rule(1, second))


def _bind(primitive: Primitive, swap: bool = False) -> Callable[..., Array]:
    def bind(a: tuple[Array, bool], b: tuple[Array, bool], geometry: Geometry) -> Array:
        (first, lane), (second, other) = (b, a) if swap else (a, b)
        return primitive.bind(first, second, geometry=geometry, lanes=(lane, other))

    return bind


_transposes(_output_p, _bind(_input_p), _bind(_kernel_p, swap=True))  # (y, kernel), (x, y)
_transposes(_input_p, _bind(_output_p), _bind(_kernel_p))  # (x, kernel), (x, y)
_transposes(_kernel_p, _bind(_input_p, swap=True), _bind(_output_p, swap=True))  # (y, kernel), (x, kernel)


# ------------------------------------------------------------------------- the drop-in


def _explicit(operand: Array) -> bool:
    return AxisType.Explicit in jax.typeof(operand).sharding.mesh.axis_types


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
    `out_sharding`, operands that lie on a mesh with explicit axes, as `jax.make_mesh` makes one, or
    that vary over the devices of a `jax.shard_map` with `check_vma`, a
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
      batch_group_count, preferred_element_type, out_sharding: see `jax.lax`.
      precision: see `jax.lax`. With `highest`, for either operand or in force as the default precision, each output
        is the sum of the products of its own window, as in `jax.lax`. Otherwise Winograd's forms and Toeplitz
        matrices may be used on CPU, with the error that `docs/convolution.md` states: a result that is zero or
        positive by a direct sum may be slightly negative, and infinity and NaN also reach neighboring windows.

    Returns:
      The feature maps, by default [batch, filters, *spatial].
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    spatial = lhs.ndim - 2
    ours = (
        1 <= spatial <= 3
        and lhs.ndim == rhs.ndim
        and known((*lhs.shape, *rhs.shape))
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and lhs.size > 0
        and rhs.size > 0
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and batch_group_count == 1
        and (preferred_element_type is None or jnp.dtype(preferred_element_type) == lhs.dtype)
        and out_sharding is None
        # Under a shard_map that tracks how values vary over devices, lax knows what to sum; under a
        # mesh with explicit axes, where the result lies.
        and not any(jax.typeof(operand).manual_axis_type.varying or _explicit(operand) for operand in (lhs, rhs))
    )
    # Tracing it raises lax's own errors, and gives the shape and the precision that is in force.
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
    if not ours:
        return reference(lhs, rhs)
    equation = jax.make_jaxpr(reference)(lhs, rhs).eqns[-1]
    if equation.outvars[0].aval.size == 0:
        return reference(lhs, rhs)
    lhs_spec, rhs_spec, out_spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = lhs.transpose(lhs_spec[0], *lhs_spec[2:], lhs_spec[1])
    kernel = rhs.transpose(*rhs_spec[2:], rhs_spec[1], rhs_spec[0])
    strides = tuple(int(s) for s in window_strides)
    dilation = (1,) * spatial if rhs_dilation is None else tuple(int(d) for d in rhs_dilation)
    pairs = explicit_padding(padding, x.shape[1:-1], kernel.shape[:-2], strides, dilation)
    if spatial == 1:  # as a plane of height 1
        x, kernel = x[:, None], kernel[None]
        strides, dilation, pairs = (1, *strides), (1, *dilation), ((0, 0), *pairs)
    sizes, window = x.shape[1:-1], kernel.shape[:-2]
    output = tuple(map(output_size, sizes, window, strides, pairs, dilation))
    geometry = Geometry(
        sizes, window, output, strides, dilation, pairs, feature_group_count, equation.params["precision"]
    )
    y = _output_p.bind(x, kernel, geometry=geometry, lanes=(False, False))
    if spatial == 1:
        y = y[:, 0]
    order = (out_spec[0], *out_spec[2:], out_spec[1])
    return y.transpose(sorted(range(y.ndim), key=order.__getitem__))
