"""Convolution and pooling against NumPy, SciPy and lax."""

import copy
import inspect
import itertools
import pickle
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cnnjax import CNN, MLP, LeNet5, ResNet, devices
from cnnjax.operations import avg_pool, conv_general_dilated, max_pool, output_size


class Case(NamedTuple):
    size: tuple[int, ...]
    channels: int
    filters: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    images: int = 3


CASES = {
    "valid": Case((7, 6), 5, 4, (3, 3), (1, 1), "VALID"),
    "same": Case((7, 6), 5, 4, (3, 3), (1, 1), "SAME"),
    "same-lower": Case((7, 6), 5, 4, (2, 4), (1, 2), "SAME_LOWER"),
    "even-kernel": Case((8, 7), 5, 2, (2, 4), (1, 1), "SAME"),
    "strides": Case((9, 8), 5, 3, (3, 2), (2, 3), "VALID"),
    "same-strides": Case((9, 8), 5, 3, (3, 3), (2, 3), "SAME"),
    "asymmetric": Case((6, 7), 5, 3, (3, 3), (2, 1), ((2, 0), (1, 3))),
    "negative": Case((9, 9), 5, 3, (3, 3), (1, 2), ((-1, 0), (1, -2))),
    "dilation": Case((9, 9), 5, 3, (3, 2), (1, 2), "SAME", (2, 3)),
    "groups": Case((6, 6), 6, 4, (3, 3), (1, 2), "SAME", groups=2),
    "groups-blocks": Case((6, 5), 24, 18, (3, 2), (1, 1), "SAME", groups=6, images=4),
    "3-d-groups": Case((4, 5, 4), 6, 4, (2, 3, 2), (1, 2, 1), "SAME", (1, 1, 1), 2),
    "depthwise": Case((6, 6), 4, 8, (3, 3), (1, 1), "SAME", groups=4),
    "depthwise-chunks": Case((18, 17), 40, 80, (2, 3), (1, 1), ((1, 0), (2, -1)), groups=40),
    "depthwise-strides": Case((17, 8), 4, 4, (3, 2), (2, 3), ((-1, 2), (1, 0)), (2, 1), groups=4),
    "one-channel": Case((8, 8), 1, 4, (3, 3), (1, 1), "SAME"),
    "few-channels-strides": Case((11, 9), 3, 4, (5, 4), (2, 3), ((1, 2), (0, 3))),
    "few-channels-strides-many-filters": Case((11, 9), 3, 17, (5, 4), (2, 3), ((1, 2), (0, 3))),
    "few-channels-wide": Case((9, 9), 6, 4, (5, 5), (1, 1), "VALID"),
    "few-filters": Case((9, 8), 3, 4, (5, 5), (2, 1), ((1, 2), (0, 3))),
    "few-channels-many-filters": Case((9, 8), 6, 17, (5, 5), (1, 1), "SAME"),
    "shifts": Case((16, 17), 5, 6, (3, 2), (1, 1), ((2, 0), (-1, 3))),
    "shifts-chunks": Case((16, 16), 5, 6, (2, 3), (1, 1), ((3, 1), (0, 1)), images=144),
    "patches-chunks": Case((33, 32), 16, 5, (3, 3), (2, 2), "SAME", images=4),
    "winograd-one-tile": Case((4, 3), 8, 16, (3, 3), (1, 1), "SAME"),
    "winograd-one-tile-valid": Case((6, 5), 32, 40, (3, 2), (1, 1), ((0, 0), (-1, 2))),
    "winograd": Case((11, 13), 64, 96, (3, 3), (1, 1), ((2, 1), (0, 3))),
    "winograd-crops": Case((13, 14), 96, 80, (3, 4), (1, 1), ((-1, -2), (1, -3))),
    "winograd-wide": Case((8, 8), 128, 144, (5, 5), (1, 1), "SAME"),
    "winograd-chunks": Case((8, 8), 64, 64, (3, 3), (1, 1), "SAME", images=64),
    "pointwise": Case((4, 4), 2, 6, (1, 1), (1, 1), "VALID"),
    "pointwise-strides": Case((6, 7), 5, 6, (1, 1), (2, 4), "SAME"),
    "chunks": Case((5, 5), 5, 3, (3, 3), (1, 1), "SAME", images=32),
    "chunks-groups": Case((5, 5), 6, 4, (3, 3), (2, 1), "SAME", groups=2, images=48),
    "no-divisor": Case((4, 4), 5, 3, (3, 3), (1, 1), "SAME", images=37),
    "1-d": Case((11,), 5, 3, (4,), (2,), "SAME", (1,)),
    "1-d-one-channel": Case((11,), 1, 3, (5,), (1,), "VALID", (1,)),
    "1-d-dilation": Case((11,), 4, 6, (3,), (1,), ((3, 1),), (2,), 2),
    "1-d-winograd": Case((14,), 64, 80, (3,), (1,), ((2, -1),), (1,)),
    "1-d-depthwise": Case((11,), 5, 5, (4,), (2,), "SAME", (1,), 5, 8),
    "3-d-depthwise": Case((4, 5, 4), 3, 6, (2, 3, 2), (1, 2, 1), "SAME", (1, 1, 1), 3),
    "3-d-strides": Case((6, 5, 4), 3, 4, (2, 3, 2), (2, 1, 2), ((1, 0), (2, -1), (0, 1)), (2, 1, 1)),
    "3-d": Case((4, 5, 4), 2, 3, (2, 3, 2), (1, 2, 1), "SAME", (1, 1, 1)),
}


def arguments(case: Case) -> dict[str, Any]:
    letters = "DHW"[3 - len(case.size) :]
    return {
        "window_strides": case.strides,
        "padding": case.padding,
        "rhs_dilation": case.dilation,
        "dimension_numbers": (f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        "feature_group_count": case.groups,
    }


def operands(case: Case, dtype: Any = np.float64, lanes: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*lanes, case.images, *case.size, case.channels))
    kernel = rng.normal(size=(*lanes, *case.kernel, case.channels // case.groups, case.filters))
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def pairs_of(case: Case) -> list[tuple[int, int]]:
    if not isinstance(case.padding, str):
        return list(case.padding)
    if case.padding == "VALID":
        return [(0, 0)] * len(case.size)
    pairs = []
    for n, k, s, d in zip(case.size, case.kernel, case.strides, case.dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        low = total // 2 if case.padding == "SAME" else total - total // 2
        pairs.append((low, total - low))
    return pairs


def by_hand(case: Case, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The definition: at every position the sum over taps and channels of one group."""
    pairs = pairs_of(case)
    cropped = x[
        (slice(None), *(slice(max(0, -lo), n - max(0, -hi)) for n, (lo, hi) in zip(case.size, pairs, strict=True)))
    ]
    padded = np.pad(cropped, [(0, 0), *((max(0, lo), max(0, hi)) for lo, hi in pairs), (0, 0)])
    out = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(padded.shape[1:-1], case.kernel, case.strides, case.dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *out, case.filters))
    each_in, each_out = case.channels // case.groups, case.filters // case.groups
    for group in range(case.groups):
        ins, outs = slice(group * each_in, (group + 1) * each_in), slice(group * each_out, (group + 1) * each_out)
        for tap in itertools.product(*map(range, case.kernel)):
            window = tuple(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(tap, case.dilation, out, case.strides, strict=True)
            )
            y[..., outs] += padded[(slice(None), *window, ins)] @ kernel[(*tap, slice(None), outs)]
    return y


@pytest.fixture(params=CASES, name="case")
def _case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


# Compiling derivatives of derivatives and lanes takes seconds: every case has its turn among the
# slow tests, one of each form here.
FORMS = {"groups", "depthwise-chunks", "patches-chunks", "few-channels-strides", "few-filters", "shifts", "chunks"}


@pytest.fixture(params=[pytest.param(name, marks=[] if name in FORMS else pytest.mark.slow) for name in CASES])
def form(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_convolution_and_its_gradients_equal_the_definition(case: Case) -> None:
    """The sum of t * convolution is linear in each operand: along a direction it grows by its value there."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, kernel = operands(case)
        expected = by_hand(case, np.asarray(x), np.asarray(kernel))
        t = rng.normal(size=expected.shape)

        def total(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = conv_general_dilated(x, kernel, **arguments(case))
            return (t * y).sum(), y

        (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    for which, gradient in enumerate(map(np.asarray, gradients)):
        for _ in range(3):
            changed = [np.asarray(x), np.asarray(kernel)]
            changed[which] = direction = rng.normal(size=gradient.shape)
            np.testing.assert_allclose((gradient * direction).sum(), (t * by_hand(case, *changed)).sum(), rtol=1e-10)


def test_convolution_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 9, 8, 3)), rng.normal(size=(5, 4, 3, 2))
    with jax.enable_x64(True):
        ours = conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    theirs = [[scipy.signal.correlate(x[n], kernel[..., o], "valid")[..., 0] for o in range(2)] for n in range(2)]
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), atol=1e-12)


def both(case: Case, make: Any, *operands: Any, atol: float) -> None:
    """What `make` makes of our convolution and of lax's, compared leaf by leaf."""
    ours, theirs = (
        jax.jit(make(partial(c, **arguments(case))))(*operands)
        for c in (conv_general_dilated, lax.conv_general_dilated)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        scale = np.abs(np.asarray(b, np.float64)).max() + 1
        np.testing.assert_allclose(np.asarray(a, np.float64) / scale, np.asarray(b, np.float64) / scale, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 3e-6), (jnp.bfloat16, 2e-2)])
def test_values_and_gradients_equal_lax(form: Case, dtype: Any, atol: float) -> None:
    def make(conv: Any) -> Any:
        return jax.value_and_grad(lambda x, kernel: (conv(x, kernel).astype(jnp.float32) ** 2).sum(), (0, 1))

    both(form, make, *operands(form, dtype), atol=atol)


@pytest.mark.slow
def test_second_derivatives_equal_lax(form: Case) -> None:
    """Reverse over reverse, forward over reverse, reverse over forward."""

    def make(conv: Any) -> Any:
        def energy(operands: Any) -> jax.Array:
            return (conv(*operands) ** 3).sum()

        def derivatives(*operands: Any) -> Any:
            direction = jax.tree.map(jnp.cos, operands)
            return (
                jax.grad(lambda o: sum((g**2).sum() for g in jax.grad(energy)(o)))(operands),
                jax.jvp(jax.grad(energy), (operands,), (direction,)),
                jax.grad(lambda o: jax.jvp(energy, (o,), (direction,))[1])(operands),
            )

        return derivatives

    with jax.enable_x64(True):
        both(form, make, *operands(form), atol=1e-12)


@pytest.mark.parametrize("axes", [*(pytest.param(a, marks=pytest.mark.slow) for a in ((0, None), (None, 0))), (0, 0)])
def test_vmap_equals_lax(form: Case, axes: tuple[int | None, int | None]) -> None:
    """Lanes of gradients, and gradients through lanes."""

    def make(conv: Any) -> Any:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return (conv(x, kernel) ** 2).sum()

        def derivatives(*operands: Any) -> Any:
            through = jax.grad(lambda *operands: jax.vmap(loss, axes)(*operands).sum(), (0, 1))
            return jax.vmap(jax.grad(loss, (0, 1)), axes)(*operands), through(*operands)

        return derivatives

    with jax.enable_x64(True):
        single, lanes = operands(form), operands(form, lanes=(2,))
        both(form, make, *(o[axis is not None] for o, axis in zip(zip(single, lanes), axes)), atol=1e-12)  # noqa: B905


@pytest.mark.parametrize(
    "axes", [((0, 0), (0, None)), ((0, None), (0, 0)), ((0, 0), (0, 0)), ((0, None), (None, 0)), ((None, 0), (0, 0))]
)
def test_nested_vmap_equals_lax(axes: Any) -> None:
    case = CASES["groups"]

    def make(conv: Any) -> Any:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.vmap(jax.vmap(conv, axes[1]), axes[0])(x, kernel)

        return jax.value_and_grad(lambda x, kernel: (loss(x, kernel) ** 2).sum(), (0, 1))

    with jax.enable_x64(True):
        lanes = [tuple(n for n, level in zip((2, 3), axes) if level[i] == 0) for i in range(2)]  # noqa: B905
        both(case, make, operands(case, lanes=lanes[0])[0], operands(case, lanes=lanes[1])[1], atol=1e-12)


def test_scan_equals_lax(form: Case) -> None:
    def make(conv: Any) -> Any:
        def descend(x: jax.Array, kernel: jax.Array) -> jax.Array:
            def body(kernel: jax.Array, _: None) -> tuple[jax.Array, None]:
                return kernel - 1e-3 * jax.grad(lambda k: (conv(x, k) ** 2).mean())(kernel), None

            return lax.scan(body, kernel, None, length=3)[0]

        return descend

    both(form, make, *operands(form, jnp.float32), atol=1e-5)


def test_it_runs_inside_a_module_a_remat_and_eagerly() -> None:
    conv = nnx.Conv(1, 4, (3, 3), conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))
    stock = nnx.Conv(1, 4, (3, 3), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    np.testing.assert_allclose(conv(x), stock(x), atol=1e-6)
    ours, theirs = (jax.grad(lambda x, f=f: jax.checkpoint(f)(x).sum())(x) for f in (conv, stock))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_data_parallel_gradients_equal_lax() -> None:
    """Inside a shard_map that tracks varying values, a replicated kernel's gradient is summed over devices."""
    mesh = jax.make_mesh((2,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    case = CASES["valid"]._replace(images=4)
    x, kernel = operands(case, jnp.float32)

    def gradient(conv: Any) -> jax.Array:
        def local(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.grad(lambda k: (conv(x, k, **arguments(case)) ** 2).sum())(kernel)

        spec = jax.sharding.PartitionSpec
        return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(spec("d"), spec()), out_specs=spec()))(x, kernel)

    np.testing.assert_allclose(gradient(conv_general_dilated), gradient(lax.conv_general_dilated), rtol=1e-4)


def test_it_is_a_drop_in() -> None:
    ours, theirs = (
        list(inspect.signature(f).parameters.values()) for f in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension_numbers": None},
        {"dimension_numbers": ("NHWC", "OIHW", "NCHW"), "rhs_dilation": None},
        {"lhs_dilation": (2, 1), "padding": ((1, 1), (0, 2))},
        {"batch_group_count": 2},
        {"preferred_element_type": jnp.float32},
        {"precision": lax.Precision.HIGHEST},
        {"precision": ["high", "high"]},
        {"rhs_dilation": np.asarray([2, 1])},
    ],
)
def test_every_argument_means_what_it_means_in_lax(changes: dict[str, Any]) -> None:
    case = CASES["valid"]._replace(images=4)
    kwargs = {**arguments(case), **changes}
    dtype = jnp.bfloat16 if "preferred_element_type" in changes else jnp.float32
    x, kernel = operands(case, dtype)
    layout = kwargs["dimension_numbers"]
    if layout is None:
        x, kernel = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
    elif layout[1] == "OIHW":
        kernel = kernel.transpose(3, 2, 0, 1)
    ours, theirs = (c(x, kernel, **kwargs) for c in (conv_general_dilated, lax.conv_general_dilated))
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_errors_are_those_of_lax() -> None:
    x, kernel = operands(CASES["valid"], jnp.float32)
    for wrong in ({"feature_group_count": 2}, {"window_strides": (1,)}, {"padding": "FULL"}):
        kwargs = {**arguments(CASES["valid"]), **wrong}
        with pytest.raises((ValueError, TypeError, RuntimeError)) as theirs:
            lax.conv_general_dilated(x, kernel, **kwargs)
        with pytest.raises(theirs.type, match=r".") as ours:
            conv_general_dilated(x, kernel, **kwargs)
        assert str(ours.value) == str(theirs.value)


def test_sizes_of_the_textbook() -> None:
    """5x5x3 filters on 32x32x3 give 28x28 maps."""
    y = conv_general_dilated(
        jnp.ones((1, 32, 32, 3)), jnp.ones((5, 5, 3, 6)), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert y.shape == (1, 28, 28, 6)
    assert output_size(32, 5, 1, (0, 0), 1) == 28


PLACED = [
    ((8, 8, 8, 3), (3, 3, 3, 4)),
    ((8, 8, 8, 3), (5, 5, 3, 8)),
    ((8, 8, 8, 32), (3, 3, 32, 32)),
    ((8, 9, 2), (3, 2, 4)),
]


def of_case(shape: tuple, window: tuple) -> tuple[Any, jax.Array, jax.Array]:
    """A loss over a convolution and pooling with its gradients, input and kernel."""
    spatial = len(shape) - 2
    layout = ("NHWC", "HWIO", "NHWC") if spatial == 2 else ("NWC", "WIO", "NWC")

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = conv_general_dilated(x, kernel, (1,) * spatial, "SAME", dimension_numbers=layout)
        return jnp.square(max_pool(y, (2,) * spatial, (2,) * spatial)).mean()

    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in (shape, window))
    return jax.value_and_grad(loss, argnums=(0, 1)), x, kernel


def agree(found: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "window"), PLACED, ids=str)
def test_a_batch_on_a_mesh_with_explicit_axes(shape: tuple, window: tuple) -> None:
    """As `jax.make_mesh` makes one unless told otherwise."""
    function, x, kernel = of_case(shape, window)
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Explicit,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        found = jax.jit(function)(placed, jax.device_put(kernel, NamedSharding(mesh, PartitionSpec())))
    agree(found, jax.jit(function)(x, kernel))


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "window"), PLACED, ids=str)
def test_without_jit_the_numbers_are_the_same(shape: tuple, window: tuple) -> None:
    function, x, kernel = of_case(shape, window)
    expected = jax.jit(function)(x, kernel)
    with jax.disable_jit():
        agree(function(x, kernel), expected)
        agree(jax.vmap(function, (0, None))(x[:, None], kernel)[1][1].mean(0), expected[1][1])


WINOGRAD = [
    (4, 3, 16, 32),
    (16, 3, 64, 64),
    (8, 3, 128, 128),
    (13, 4, 96, 80),
    (8, 5, 128, 144),
    (16, (1, 5), 128, 256),
]
OTHERS = [(9, 5, 6, 4), (16, 3, 8, 8)]  # by Toeplitz matrices, and kernel gradients by shifts
SQUARE = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def square(size: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images and a kernel of (cells, taps, channels, filters)."""
    cells, taps, channels, filters = size
    window = taps if isinstance(taps, tuple) else (taps, taps)
    rng = np.random.default_rng(0)
    shapes = (2, cells, cells, channels), (*window, channels, filters)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)  # type: ignore[return-value]


def magnitude(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.asarray(lax.conv_general_dilated(abs(x), abs(kernel), **SQUARE))


@pytest.mark.parametrize("size", WINOGRAD, ids=str)
@pytest.mark.parametrize(("large", "units"), [(1, 8), (1e6, 32)], ids=["even", "one large cell"])
def test_the_error_of_few_products_is_bounded(size: tuple[int, ...], large: float, units: int) -> None:
    """In units in the last place of the largest sum of magnitudes of an image, as the documentation says."""
    x, kernel = square(size)
    x[:, 1, 1] *= large
    with jax.enable_x64(True):
        exact = np.asarray(lax.conv_general_dilated(x.astype(np.float64), kernel.astype(np.float64), **SQUARE))
    error = abs(np.asarray(conv_general_dilated(x, kernel, **SQUARE)) - exact)
    bound = 2.0**-23 * magnitude(x, kernel).max((1, 2, 3))
    assert (error.max((1, 2, 3)) <= units * bound).all()


@pytest.mark.parametrize("precision", ["highest", lax.Precision.HIGHEST, ("default", "highest"), "in force"], ids=str)
@pytest.mark.parametrize("size", [WINOGRAD[0], WINOGRAD[1], *OTHERS], ids=str)
def test_with_the_highest_precision_an_output_is_of_its_own_window(size: tuple[int, ...], precision: Any) -> None:
    """Signs, zeros, infinity and NaN are those of `lax`, and so are the cells that gradients reach."""
    x, kernel = square(size)
    positive = np.maximum(kernel, 0)
    broken = x.copy()
    broken[:, 1, 1, 0] = np.nan
    in_force = jax.default_matmul_precision("highest" if precision == "in force" else None)

    def found(conv: Any) -> list[np.ndarray]:
        with in_force:
            if precision != "in force":
                conv = partial(conv, precision=precision)
            conv = jax.jit(partial(conv, **SQUARE))
            y = conv(np.maximum(x - 2, 0), positive)
            infinite = conv(np.full_like(x, np.inf), positive + 1e-3)
            reached = jax.grad(lambda x: conv(x, kernel)[0, 1, 1].sum())(x)
            learned = jax.grad(lambda kernel: conv(broken, kernel)[..., 0].sum())(kernel)
            return [*map(np.asarray, (y < 0, y == 0, infinite, np.isnan(conv(broken, kernel)), reached != 0, learned))]

    ours, theirs = found(conv_general_dilated), found(lax.conv_general_dilated)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.isnan(ours[-1]), np.isnan(theirs[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["groups", "one-channel", "few-channels-wide", "shifts", "winograd", "1-d", "3-d"])
def test_it_is_exported_for_any_number_of_images(name: str) -> None:
    case = CASES[name]
    x, kernel = map(jnp.asarray, operands(case, np.float32))
    convolution = partial(conv_general_dilated, **arguments(case))

    def outputs(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(convolution, x, kernel)
        window = (2,) * (x.ndim - 2)
        return (y, max_pool(y, window), avg_pool(y, window), *pull(jnp.ones_like(y)))

    [images] = jax.export.symbolic_shape("images")
    shapes = (jax.ShapeDtypeStruct((images, *x.shape[1:]), x.dtype), jax.ShapeDtypeStruct(kernel.shape, kernel.dtype))
    exported = jax.export.export(jax.jit(outputs))(*shapes)
    for found, expected in zip(exported.call(x, kernel), jax.jit(outputs)(x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * float(abs(expected).max()))


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_programs_are_compiled_without_a_fusion_that_gives_wrong_sums(once: bool, count: int) -> None:
    """https://github.com/jax-ml/jax/issues/39103: jaxlib 0.10.2 is off by 0.2 % in the last row."""
    rows = jnp.stack([jnp.arange(32_769, dtype=jnp.float32), jnp.zeros(32_769), jnp.zeros(32_769)], 1)

    def energy(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda row: jnp.square(jnp.eye(3) @ row).sum())(rows)

    program = devices.compiled(jax.jit(energy).lower(rows), devices.compiler_options(once=once, devices=count))
    np.testing.assert_allclose(program(rows)[-1], 32_768.0**2, rtol=1e-6)


# ------------------------------------------------------------------------- pooling

POOLS = {
    "2x2": ((6, 8), (2, 2), (2, 2), "VALID"),
    "odd-tail": ((7, 5), (2, 2), (2, 2), "VALID"),
    "gaps": ((9, 9), (2, 1), (3, 2), "VALID"),
    "overlap": ((9, 8), (3, 3), (2, 2), "VALID"),
    "overlap-same": ((9, 8), (3, 2), (2, 1), "SAME"),
    "overlap-mixed": ((9, 8), (3, 2), (1, 2), "VALID"),
    "padded": ((6, 6), (2, 3), (2, 3), ((1, 1), (0, 2))),
    "unit-strides": ((5, 5), (2, 2), None, "SAME"),
    "1-d": ((11,), (3,), (2,), "SAME"),
    "3-d": ((4, 4, 4), (2, 2, 2), (2, 2, 2), "VALID"),
    "wide": ((14, 14), (12, 12), (1, 1), "VALID"),
}


def reference_pool(x: jax.Array, window: Any, strides: Any, padding: Any) -> jax.Array:
    strides = strides or (1,) * len(window)
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), pads)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("channels", [4, pytest.param(16, marks=pytest.mark.slow)])  # fewer than fill a register
def test_max_pool_equals_lax(name: str, channels: int) -> None:
    """On few different numbers, so that many cells tie: the first of them gets the gradient."""
    size, *how = POOLS[name]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 4, (2, 3, *size, channels)), jnp.float32)

    def derivatives(pool: Any) -> Any:
        weights = jnp.asarray(rng.normal(size=jax.eval_shape(pool, x[0]).shape), jnp.float32)

        @jax.jit
        def all_of(x: jax.Array, weights: jax.Array) -> Any:
            values, gradient = jax.vmap(pool)(x), jax.grad(lambda x: (weights * jax.vmap(pool)(x)).sum())(x)
            return values, gradient

        return all_of, weights

    ours, weights = derivatives(lambda x: max_pool(x, *how))
    theirs, _ = derivatives(lambda x: reference_pool(x, *how))
    for a, b in zip(ours(x, weights), theirs(x, weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    if name in ("2x2", "overlap"):
        _, tangent = jax.jvp(lambda x: max_pool(x, *how), (x[0],), (jnp.cos(x[0]),))
        np.testing.assert_allclose(
            (weights * tangent).sum(), (theirs(x, weights)[1][0] * jnp.cos(x[0])).sum(), rtol=1e-4
        )


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool_equals_flax(name: str, count_include_pad: bool) -> None:
    size, *how = POOLS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *size, 4)), jnp.float32)

    def derivatives(pool: Any) -> Any:
        def squared(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = pool(x, *how, count_include_pad=count_include_pad)
            return (y**2).sum(), y

        return jax.jit(jax.value_and_grad(squared, has_aux=True))(x)

    for a, b in zip(jax.tree.leaves(derivatives(avg_pool)), jax.tree.leaves(derivatives(nnx.avg_pool)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_max_pool_by_hand() -> None:
    x = jnp.asarray([[1, 2, 5, 0], [3, 4, 5, 5]], jnp.float32)[None, ..., None]
    np.testing.assert_array_equal(max_pool(x, (2, 2), (2, 2)).ravel(), [4, 5])
    gradient = jax.grad(lambda x: max_pool(x, (2, 2), (2, 2)).sum())(x)
    np.testing.assert_array_equal(gradient[0, ..., 0], [[0, 0, 1, 0], [0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [
        ((2, 7, 7, 3), (7, 7), (7, 7), "VALID"),
        ((2, 40, 3), (40,), None, "VALID"),
        ((2, 90, 3), (33,), (20,), "SAME"),
        ((2, 75, 3), (36,), (37,), "VALID"),
        ((2, 36, 5, 3), (36, 2), (36, 2), [(2, 2), (0, 0)]),
    ],
    ids=str,
)
def test_large_windows_equal_flax(shape: tuple, window: tuple, strides: Any, padding: Any) -> None:
    """Also the gradient, which of equal maxima goes to the first, and the way NaN goes."""
    x = jnp.asarray(np.random.default_rng(0).integers(-3, 4, shape), jnp.float32)

    def derivatives(pool: Any) -> Any:
        def outcome(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = pool(x, window, strides, padding)
            return (jnp.cos(jnp.arange(y.size)).reshape(y.shape) * y).sum(), y

        gradient, y = jax.grad(outcome, has_aux=True)(x)
        return gradient, y, jnp.isnan(pool(x.at[0, 1].set(jnp.nan), window, strides, padding))

    for ours, theirs in ((max_pool, nnx.max_pool), (avg_pool, nnx.avg_pool)):
        found, expected = (jax.jit(partial(derivatives, pool))() for pool in (ours, theirs))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_large_window_is_no_large_program() -> None:
    def lines(size: int) -> int:
        def total(x: jax.Array) -> jax.Array:
            return max_pool(x, (size,)).sum() + avg_pool(x, (size,)).sum()

        return jax.jit(jax.grad(total)).lower(jnp.ones((2, size, 3))).as_text().count("\n")

    assert lines(1000) == lines(100)


def test_pooling_keeps_nan_and_type() -> None:
    x = jnp.ones((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x, (2, 2), (2, 2))).ravel().tolist() == [True, False, False, False]
    assert jnp.isnan(max_pool(x, (3, 3), (1, 1))).all()
    assert max_pool(jnp.zeros((1, 4, 4, 1), jnp.uint8), (2, 2), (2, 2)).dtype == jnp.uint8
    lit = jnp.zeros((1, 4, 4, 1), bool).at[0, 0, 3].set(True)
    np.testing.assert_array_equal(max_pool(lit, (2, 2), (2, 2)), nnx.max_pool(lit, (2, 2), (2, 2)))
    for cells in (2, 40):
        lit = jnp.zeros((1, cells, 1), bool).at[0, 1:].set(True)
        np.testing.assert_allclose(avg_pool(lit, (cells,)), [[[(cells - 1) / cells]]], rtol=1e-6)
    for pool in (max_pool, avg_pool):
        assert pool(jnp.zeros((1, 4, 4, 1), jnp.bfloat16), (2, 2), (2, 2), "SAME").dtype == jnp.bfloat16


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_pooling_refuses_what_does_not_fit(pool: Any) -> None:
    with pytest.raises(ValueError, match=r"window \(5, 2\) does not fit spatial shape \[4, 4\]"):
        pool(jnp.zeros((1, 4, 4, 1)), (5, 2))
    with pytest.raises(ValueError, match=r"strides \(0, 1\)"):
        pool(jnp.zeros((1, 4, 4, 1)), (2, 2), (0, 1))


# ------------------------------------------------------------------------- a citizen of JAX


@pytest.mark.parametrize("pool", [max_pool, avg_pool])
@pytest.mark.parametrize(
    "name", ["2x2", "odd-tail", "overlap-same", "padded", pytest.param("wide", marks=pytest.mark.slow), "1-d"]
)
def test_pooling_exports_with_symbolic_sizes(name: str, pool: Any) -> None:
    size, *how = POOLS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), jnp.float32)
    gradient = jax.grad(lambda x: jnp.square(pool(x, *how)).sum())
    for function, sizes in (
        (lambda x: pool(x, *how), "hw"[: len(size)]),
        (gradient, "hw"[: len(size)]),
        (gradient, map(str, size)),
    ):
        shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"b,{','.join(sizes)},3"), x.dtype)
        np.testing.assert_allclose(jax.export.export(jax.jit(function))(shape).call(x), function(x), atol=1e-5)


MODULES: dict[str, Any] = {
    "nnx.Conv": lambda r: nnx.Conv(1, 4, (3, 3), conv_general_dilated=conv_general_dilated, rngs=r),
    "CNN": lambda r: CNN((8, 8, 1), 10, filters=(4, 8), rngs=r),
    "batch_norm": lambda r: CNN((8, 8, 1), 10, filters=(4, 8), batch_norm=True, rngs=r),
    "dropout": lambda r: CNN((8, 8, 1), 10, filters=(4, 8), dropout=0.5, rngs=r),
    "LeNet5": lambda r: LeNet5((28, 28, 1), 10, rngs=r),
    "MLP": lambda r: MLP((8, 8, 1), 10, rngs=r),
    "ResNet": lambda r: ResNet((8, 8, 1), 10, filters=(4, 8), blocks=1, rngs=r),
}


@pytest.mark.parametrize(
    "name", [n if n in ("nnx.Conv", "MLP", "batch_norm") else pytest.param(n, marks=pytest.mark.slow) for n in MODULES]
)
def test_modules_of_one_configuration_are_equal_and_can_be_copied(name: str) -> None:
    one, two = (MODULES[name](nnx.Rngs(params=seed, dropout=seed)) for seed in range(2))
    assert nnx.graphdef(one) == nnx.graphdef(two)
    jax.tree.map(lambda a, b: a, one, two)
    traces = []

    @nnx.jit
    def count(module: nnx.Module) -> jax.Array:
        traces.append(module)
        return jnp.zeros(())

    for module in (one, two, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        count(module)
        assert nnx.graphdef(module) == nnx.graphdef(one)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.numpy_rank_promotion("raise"),
        lambda: jax.numpy_dtype_promotion("strict"),
    ],
    ids=["x64", "rank", "strict"],
)
@pytest.mark.parametrize(
    "name",
    [
        *("one-channel", "few-filters", "shifts", "chunks", "winograd-one-tile", "groups"),
        *("depthwise-strides", "groups-blocks", "few-channels-strides-many-filters", "patches-chunks", "3-d-strides"),
    ],
)
def test_the_numbers_are_the_same_under_settings_of_jax(name: str, setting: Any) -> None:
    case = CASES[name]
    x, kernel = operands(case, jnp.float32)

    def all_of(x: jax.Array, kernel: jax.Array) -> Any:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            y = conv_general_dilated(x, kernel, **arguments(case))
            window = (2,) * len(case.size)
            return jnp.square(max_pool(y, window, window)).sum() + jnp.square(avg_pool(y, window)).sum()

        return jax.value_and_grad(loss, (0, 1))(x, kernel)

    expected = jax.jit(all_of)(x, kernel)
    with setting():
        found = jax.jit(all_of)(x, kernel)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))
