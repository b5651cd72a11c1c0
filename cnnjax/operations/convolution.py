"""A drop-in replacement for `jax.lax.conv_general_dilated`, built on three bilinear primitives.

The primitives compute the output of a convolution and its two gradients. Each is the transpose of
the other two, so derivatives of any order, in forward and reverse mode, need no further rules.
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

from cnnjax.operations.forms.native import lax_input, lax_kernel, lax_output
from cnnjax.operations.forms.table import cpu_input, cpu_kernel, cpu_output
from cnnjax.operations.windows import Geometry, Padding, explicit_padding, known, output_size

# ------------------------------------------------------------------------- the three primitives
#
# The parameter `lanes` says for each operand whether it has a leading lane axis, which it gets under
# a vmap over different kernels. On CPU a loop over the lanes is faster than the grouped convolution
# that lax emits.

_Lanes = tuple[bool, bool]
_Form = Callable[..., Array]  # form(a, b, geometry)
_Mapped = Callable[[Callable[..., Array], _Lanes], Callable[..., Array]]
STOCK: dict[Primitive, Callable[..., Array]] = {}
"""What `jax.lax` computes for each primitive, with the same operands and parameters."""


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
    """Merges a new leading axis with the lane axis; returns an operand that has neither unchanged."""
    if not (batched or lane):
        return operand
    rest = operand.shape[batched + lane :]
    operand = operand.reshape(sizes[0] if batched else 1, sizes[1] if lane else 1, *rest)
    return jnp.broadcast_to(operand, (*sizes, *rest)).reshape(-1, *rest)


def _primitive(name: str, plain: _Form, cpu: _Form, images_first: bool) -> Primitive:
    """Creates a bilinear primitive that lowers to `cpu` on CPU and to `plain` elsewhere.

    With `images_first`, the first operand holds images, so a batch of that operand alone is a
    larger number of images.
    """
    primitive = Primitive(name)
    STOCK[primitive] = default = partial(_over_lanes, plain, _vmapped)
    fast = partial(_over_lanes, cpu, _looped)

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
        with jax.disable_jit(False):  # without jit it is still one operation, as in lax
            return alone(a, b, **parameters)

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    return primitive


_output_p = _primitive("convolution", lax_output, cpu_output, images_first=True)
_input_p = _primitive("convolution_input_gradient", lax_input, cpu_input, images_first=True)
_kernel_p = _primitive("convolution_kernel_gradient", lax_kernel, cpu_kernel, images_first=False)


def _transposes(primitive: Primitive, first: Callable[..., Array], second: Callable[..., Array]) -> None:
    """Registers the gradients: `first` and `second` bind the primitive for that of each operand."""

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
    """Computes `jax.lax.conv_general_dilated` with gradients that stay fast in loops and under vmap on CPU.

    It takes the arguments of `jax.lax.conv_general_dilated` and raises the same errors. Results agree
    with `jax.lax` up to rounding. Forward mode, reverse mode and any mix of them work. To use it in a
    Flax model, pass it to the layer: `nnx.Conv(..., conv_general_dilated=conv_general_dilated)`.

    >>> images = jnp.ones((8, 28, 28, 1))
    >>> kernel = jnp.ones((5, 5, 1, 6))
    >>> conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
    (8, 28, 28, 6)

    It calls `jax.lax` unchanged for `lhs_dilation` above 1, `batch_group_count` above 1, an
    `out_sharding`, a `preferred_element_type` other than the dtype of the operands, operands of
    different or non-floating dtypes, empty arrays, and other than 1 to 3 spatial dimensions; also for
    operands on a mesh with explicit axes (the default of `jax.make_mesh`), and for operands that vary
    over the devices of a `jax.shard_map` with `check_vma`.

    Args:
      lhs: the images, [batch, channels, *spatial] by default as in `jax.lax`, or [batch, *spatial,
        channels] with `dimension_numbers=("NHWC", "HWIO", "NHWC")`.
      rhs: the kernel, [filters, channels / groups, *window] by default, or HWIO as above.
      window_strides: the stride along each spatial dimension.
      padding: `VALID`, `SAME`, `SAME_LOWER`, or a (low, high) pair for each spatial dimension.
      lhs_dilation: the dilation of the images along each spatial dimension.
      rhs_dilation: the dilation of the kernel along each spatial dimension.
      dimension_numbers: the layouts of `lhs`, `rhs` and the result.
      feature_group_count: the number of channel groups; a filter sees only the channels of its group.
      batch_group_count, preferred_element_type, out_sharding: as in `jax.lax`.
      precision: as in `jax.lax`. With `highest` for either operand, or as the default matmul
        precision, each output is the direct sum over its own window. With any other precision, the CPU
        forms may use Winograd transforms and Toeplitz matrices. Their error is bounded in
        `docs/convolution.md`: a sum that is zero or positive may come out slightly negative, and
        infinity and NaN also spread to neighboring windows.

    Returns:
      The feature maps, [batch, filters, *spatial] by default.
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
        # Only lax knows which sums a shard_map with check_vma needs, and how the result is sharded
        # on a mesh with explicit axes.
        and not any(jax.typeof(operand).manual_axis_type.varying or _explicit(operand) for operand in (lhs, rhs))
    )
    # Tracing lax raises its errors, and gives the output shape and the effective precision.
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
    if spatial == 1:  # treated as 2-D with height 1
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
