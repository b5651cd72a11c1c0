"""Compares each function of `cnnjax.look` with an independent computation, in one and two dimensions."""

import itertools
import runpy
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import needs
from flax import nnx
from scipy.stats import spearmanr

from cnnjax import CNN, MLP, SGD, CNNConfig, Dataset, LeNet5, TrainConfig, fit, functional, look, make_task
from cnnjax.networks import Network, Variables


@pytest.fixture(autouse=True, scope="module")
def _programs_run_once() -> Iterator[None]:
    """Programs run once here, so XLA skips most optimizations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network_of(module: Any, *args: Any, **fields: Any) -> Network:
    return functional(lambda rngs, example: module(example.shape[1:], *args, **fields, rngs=rngs))


def drawn(network: Network, inputs: Any) -> Variables:
    """Random variables, biases included."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(inputs.shape, inputs.dtype))
    seeds = itertools.count()
    return jax.tree.map(
        lambda leaf: random(*leaf.shape, seed=next(seeds)) * (leaf.shape[-1] / leaf.size) ** 0.5, shapes
    )


IMAGES, SIGNALS = random(6, 8, 8, 2), random(5, 12, 2)
PLANE = network_of(CNN, 3, filters=(3, 4), dense=(5,))
LINE = network_of(CNN, 3, filters=(3,), pool="average")
PLANE_VARIABLES, LINE_VARIABLES = drawn(PLANE, IMAGES), drawn(LINE, SIGNALS)
DENSE = network_of(MLP, 3, hidden=(4,))
DENSE_VARIABLES = drawn(DENSE, IMAGES)
TARGETS = np.array([0, 2, 1, 1, 0, 2])


# ------------------------------------------------------------------------- a network in NumPy


def convolved(x: np.ndarray, layer: Any) -> np.ndarray:
    """A 3x3 convolution of feature maps with zero padding."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, layer["kernel"]) + layer["bias"]


def pooled(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).max((2, 4))


def numpy_outputs(images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the layers of `PLANE`, in NumPy."""
    params = jax.tree.map(np.asarray, PLANE_VARIABLES.params)
    first = convolved(images, params["blocks"][0]["convolutions"][0])
    block = np.maximum(pooled(first), 0)
    second = convolved(block, params["blocks"][1]["convolutions"][0])
    last = np.maximum(pooled(second), 0)
    dense = params["dense"]
    hidden = np.einsum("nhwc,hwcf->nf", last, dense[0]["kernel"]) + dense[0]["bias"]
    logits = np.maximum(hidden, 0) @ dense[1]["kernel"] + dense[1]["bias"]
    return {
        "blocks.0.convolutions.0": first,
        "blocks.0.pool": pooled(first),
        "blocks.0.activation": block,
        "blocks.0": block,
        "blocks.1.convolutions.0": second,
        "blocks.1.pool": pooled(second),
        "blocks.1.activation": last,
        "blocks.1": last,
        "dense.0": hidden,
        "activation": np.maximum(hidden, 0),
        "dense.1": logits,
    }


@partial(jax.jit, static_argnames="network")
def logits(network: Network, variables: Variables, inputs: Any) -> Any:
    return network.apply(variables, inputs, train=False, key=jax.random.key(0))[0]


def logit(network: Network, variables: Variables, inputs: Any, targets: Any) -> np.ndarray:
    return np.asarray(logits(network, variables, inputs))[np.arange(len(inputs)), targets]


# ------------------------------------------------------------------------- layers, kernels


def test_activations_equal_those_of_a_numpy_network_in_order_of_calls() -> None:
    found, expected = look.activations(PLANE, PLANE_VARIABLES, IMAGES), numpy_outputs(IMAGES)
    assert list(found) == list(expected)
    for name, output in expected.items():
        np.testing.assert_allclose(found[name], output, atol=1e-5, err_msg=name)
    outline = look.outline(PLANE, PLANE_VARIABLES, IMAGES)
    assert {name: layer.shape for name, layer in outline.items()} == {n: o.shape[1:] for n, o in expected.items()}
    assert [layer.kind for layer in outline.values()][:4] == ["Conv", "Pool", "Activation", "Block"]
    assert [layer.maps for layer in outline.values()] == [True] * 8 + [False] * 3


class OwnConv(nnx.Conv):
    """Inherits its `__call__`."""


class Own(nnx.Module):
    """Calls a layer twice, once under `nnx.remat`; has a static method, noise, and a layer that returns integers."""

    def __init__(self, shape: Any, *, rngs: nnx.Rngs):
        self.inner, self.noise, self.places = OwnConv(2, 2, (3, 3), rngs=rngs), nnx.Dropout(0.5, rngs=rngs), Places()

    def __call__(self, x: Any) -> Any:
        x = self.halved(nnx.remat(lambda layer, x: layer(x))(self.inner, x))
        self.places(x)
        return self.noise(self.inner(x)).mean((1, 2))

    @staticmethod
    def halved(x: Any) -> Any:
        return x / 2


class Places(nnx.Module):
    """Returns the index of the largest value."""

    def __call__(self, x: Any) -> Any:
        return x.argmax()


def test_layers_of_any_module_are_found_and_its_classes_are_unchanged() -> None:
    network = network_of(Own)
    variables, before = drawn(network, IMAGES), (nnx.Conv.__call__, OwnConv.__dict__.keys())
    found = look.activations(network, variables, IMAGES)
    assert list(found) == ["inner", "inner:2", "noise"]
    layer = jax.tree.map(np.asarray, variables.params["inner"])
    np.testing.assert_allclose(found["inner"], convolved(IMAGES, layer), atol=1e-5)
    np.testing.assert_allclose(found["inner:2"], convolved(convolved(IMAGES, layer) / 2, layer), atol=1e-5)
    np.testing.assert_array_equal(found["noise"], found["inner:2"])
    assert (nnx.Conv.__call__, OwnConv.__dict__.keys()) == before


def test_an_unknown_path_raises_an_error_that_suggests_a_known_one() -> None:
    with pytest.raises(ValueError, match=r"layer: 'blocks.0.convolution.0': did you mean 'blocks.0.convolutions.0'\?"):
        look.activations(PLANE, PLANE_VARIABLES, IMAGES, ["blocks.0.convolution.0"])
    with pytest.raises(
        ValueError, match=r"layer: 'dense': did you mean 'dense.1'\? use one of dense.0, activation, dense.1"
    ):
        look.top_examples(DENSE, DENSE_VARIABLES, [IMAGES], "dense")
    with pytest.raises(
        ValueError, match=r"layer: 'dense.0': use one of blocks.0.convolutions.0, blocks.1.convolutions.0"
    ):
        look.kernels(PLANE, PLANE_VARIABLES, IMAGES, "dense.0")


def test_kernels_are_those_of_the_variables() -> None:
    found = look.kernels(PLANE, PLANE_VARIABLES, IMAGES)
    assert list(found) == ["blocks.0.convolutions.0", "blocks.1.convolutions.0"]
    for i, kernel in enumerate(found.values()):
        np.testing.assert_array_equal(kernel, PLANE_VARIABLES.params["blocks"][i]["convolutions"][0]["kernel"])
    assert look.kernels(DENSE, DENSE_VARIABLES, IMAGES) == {}


@pytest.mark.parametrize("shape", [(5, 5, 2, 3), (7, 1, 3), (3, 5, 1, 2)])
def test_smoothness_is_the_fraction_of_power_at_low_frequencies(shape: tuple[int, ...]) -> None:
    kernel, window = random(*shape), shape[:-2]
    grid = (512,) * len(window)
    power = np.square(abs(np.fft.fftn(kernel, grid, axes=range(len(window))))).sum(-2)
    # The band ends at a frequency of the grid, which has half the weight.
    weight = [np.interp(abs(np.fft.fftfreq(n)), [0.25 - 1e-9, 0.25, 0.25 + 1e-9], [1, 0.5, 0]) for n in grid]
    band = weight[0] if len(window) == 1 else np.multiply.outer(*weight)
    expected = np.tensordot(band, power, len(window)) / power.sum(tuple(range(len(window))))
    np.testing.assert_allclose(look.smoothness(kernel), expected, rtol=1e-4)
    np.testing.assert_allclose(look.smoothness(random(5, 5, 1, 4000)).mean(), 0.25, atol=0.01)
    assert look.smoothness(np.zeros(shape)).tolist() == [0] * shape[-1]


# ------------------------------------------------------------------------- receptive fields


def arithmetic(windows: list[tuple[int, int, int, int]]) -> tuple[int, int, int]:
    """The size, stride and offset after windows of (cells, stride, padding, dilation)."""
    size, jump, offset = 1, 1, 0
    for cells, stride, padding, dilation in windows:
        size, offset = size + (cells - 1) * dilation * jump, offset - padding * jump
        jump *= stride
    return size, jump, offset


POOL = (2, 2, 0, 1)


@pytest.mark.parametrize(
    ("shape", "module", "fields", "layer", "windows"),
    [
        ((28, 28, 1), LeNet5, {}, "activation:2", [(5, 1, 2, 1), POOL, (5, 1, 0, 1), POOL]),
        pytest.param(
            *((8, 8, 1), CNN, {"filters": (3, 4)}, "blocks.1.pool", [(3, 1, 1, 1), POOL, (3, 1, 1, 1), POOL]),
            marks=pytest.mark.slow,
        ),
        (
            (40, 2),
            CNN,
            {"filters": (3, 3), "kernel": 5, "stride": 2, "padding": 3, "pool": "none", "batch_norm": True},
            "blocks.1",
            [(5, 2, 3, 1), (5, 2, 3, 1)],
        ),
        (
            (20, 17, 1),
            CNN,
            {"filters": (2,), "convolutions": 2, "dilation": 2, "activation": "tanh", "pool": "average"},
            "blocks.0",
            [(3, 1, 2, 2), (3, 1, 2, 2), POOL],
        ),
    ],
    ids=["lenet5", "max", "one", "dilated"],
)
def test_receptive_fields_equal_those_computed_from_kernels_and_strides(
    shape: tuple[int, ...], module: Any, fields: dict[str, Any], layer: str, windows: list[tuple[int, int, int, int]]
) -> None:
    found = look.receptive_fields(network_of(module, 3, **fields), jnp.zeros((1, *shape)))
    size, stride, offset = arithmetic(windows)
    dims = len(shape) - 1
    assert found[layer] == ((size,) * dims, (stride,) * dims, (offset,) * dims)


@cache
def field_of_plane() -> look.ReceptiveField:
    """The receptive field of the second convolution of `PLANE`."""
    return look.receptive_fields(PLANE, IMAGES)["blocks.1.convolutions.0"]


def test_receptive_fields_are_the_support_of_the_gradient() -> None:
    field = field_of_plane()
    images = random(64, 8, 8, 2)

    @jax.jit
    def reached(images: Any, row: int, column: int) -> Any:
        def unit(images: Any) -> Any:
            maps = look.activations(PLANE, PLANE_VARIABLES, images, ["blocks.1.convolutions.0"])
            return maps["blocks.1.convolutions.0"][:, row, column].sum()

        return (jax.grad(unit)(images) != 0).any((0, 3))

    for row, column in ((1, 2), (0, 3)):
        expected = np.zeros((8, 8), bool)
        starts = [max(o + s * u, 0) for o, s, u in zip(field.offset, field.stride, (row, column), strict=True)]
        stops = [
            o + s * u + n for o, s, u, n in zip(field.offset, field.stride, (row, column), field.size, strict=True)
        ]
        expected[starts[0] : stops[0], starts[1] : stops[1]] = True
        np.testing.assert_array_equal(reached(images, row, column), expected)


class Fixed(nnx.Module):
    """Accepts inputs of one size only."""

    def __init__(self, shape: Any, *, rngs: nnx.Rngs):
        if shape != (8, 8, 2):
            raise ValueError("8x8")
        self.inner, self.outer = (nnx.Conv(2, 2, (k, k), rngs=rngs) for k in (3, 17))

    def __call__(self, x: Any) -> Any:
        return self.outer(self.inner(x))


WHOLE, LOCAL = look.ReceptiveField((8, 8), (0, 0), (0, 0)), look.ReceptiveField((3, 3), (1, 1), (-1, -1))


def test_a_unit_may_depend_on_the_whole_input() -> None:
    assert look.receptive_fields(network_of(Fixed), IMAGES) == {"inner": LOCAL, "outer": WHOLE}
    with pytest.raises(ValueError, match="network: no layer has feature maps"):
        look.receptive_fields(DENSE, IMAGES)


@pytest.mark.slow
def test_after_a_gate_that_depends_on_the_whole_input_so_does_every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    presets = Path(__file__).with_name("presets")
    monkeypatch.syspath_prepend(str(presets))
    squeeze = runpy.run_path(str(presets / "squeeze.py"))["SENetConfig"](filters=(4, 4))
    network = functional(lambda rngs, example: squeeze.build(rngs, example, 3))
    assert look.receptive_fields(network, IMAGES) == {"convolutions.0": LOCAL, "convolutions.1": WHOLE}
    variables = drawn(network, IMAGES)
    for method in (look.gradient, look.integrated_gradients, look.grad_cam, look.occlusion):
        assert np.isfinite(method(network, variables, IMAGES, TARGETS)).all()


# ------------------------------------------------------------------------- units


def test_top_examples_have_the_largest_activations_and_patches_determine_them() -> None:
    layer, images = "blocks.1.convolutions.0", random(10, 8, 8, 2, seed=3)
    top = look.top_examples(PLANE, PLANE_VARIABLES, [images[:6], images[6:]], layer, count=3)
    maps = numpy_outputs(images)[layer]
    for unit in range(4):
        best = maps[..., unit].max((1, 2))
        assert top.examples[unit].tolist() == np.argsort(-best)[:3].tolist()
        np.testing.assert_allclose(top.values[unit], np.sort(best)[::-1][:3], rtol=1e-5)
    rows, columns = np.moveaxis(np.asarray(top.positions), -1, 0)
    units = np.arange(4)[:, None]
    np.testing.assert_allclose(maps[top.examples, rows, columns, units], top.values, rtol=1e-5)

    field = field_of_plane()
    examples, places = np.asarray(top.examples).ravel(), np.asarray(top.positions).reshape(-1, 2)
    patches = look.patches(images[examples], field, places, fill=np.nan)
    assert patches.shape == (12, *field.size, 2)
    changed = random(12, 8, 8, 2, seed=4)  # everywhere except in the patch
    for image, patch, place in zip(changed, patches, places, strict=True):
        for cell in itertools.product(*map(range, field.size)):
            here = tuple(np.array(field.offset) + np.array(field.stride) * place + cell)
            inside = all(0 <= h < 8 for h in here)
            assert np.isnan(patch[cell]).all() == (not inside)
            if inside:
                image[here] = patch[cell]
    again = numpy_outputs(changed)[layer][np.arange(12), *places.T, np.repeat(np.arange(4), 3)]
    np.testing.assert_allclose(again, np.asarray(top.values).ravel(), rtol=1e-5)


def test_top_examples_of_a_dense_layer_have_no_position() -> None:
    top = look.top_examples(PLANE, PLANE_VARIABLES, [IMAGES], "dense.1", count=50)
    assert (top.examples.shape, top.positions.shape) == ((3, 6), (3, 6, 0))
    np.testing.assert_array_equal(top.examples, np.argsort(-numpy_outputs(IMAGES)["dense.1"], 0).T)
    with pytest.raises(ValueError, match="count: 0: must be at least 1"):
        look.top_examples(PLANE, PLANE_VARIABLES, [IMAGES], "dense.1", count=0)
    with pytest.raises(ValueError, match="batches: empty: must have at least one batch"):
        look.maxima(PLANE, PLANE_VARIABLES, [])


def test_dead_units_are_never_positive() -> None:
    params = jax.tree.map(jnp.array, PLANE_VARIABLES.params)
    params["blocks"][1]["convolutions"][0]["bias"] = jnp.array([0.0, -1e3, 0.0, -1e3])
    variables = PLANE_VARIABLES._replace(params=params)
    dead = look.dead_units(PLANE, variables, [IMAGES[:3], IMAGES[3:]], ["blocks.1.activation"])
    assert {name: units.tolist() for name, units in dead.items()} == {"blocks.1.activation": [False, True, False, True]}
    found = look.maxima(PLANE, PLANE_VARIABLES, [IMAGES[:3], IMAGES[3:]])
    for name, output in numpy_outputs(IMAGES).items():
        np.testing.assert_allclose(found[name], output.reshape(-1, output.shape[-1]).max(0), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------- maximization

PLAIN = {"jitter": 0.0, "blur": 0.0, "total_variation": 0.0, "frequency": 0.0}


def test_the_maximum_of_a_linear_unit_is_a_corner_of_the_bounds() -> None:
    low, high = -1 - abs(random(8, 8, 2)), 1 + abs(random(8, 8, 2, seed=1))
    found = look.maximize(
        DENSE, DENSE_VARIABLES, jax.random.key(0), "dense.0", [0, 2], low, high, steps=100, rate=100.0, **PLAIN
    )
    weights = np.asarray(DENSE_VARIABLES.params["dense"][0]["kernel"])[:, [0, 2]].T.reshape(2, 8, 8, 2)
    corner = np.where(weights > 0, high, low)
    np.testing.assert_allclose(found.inputs, corner, atol=1e-5)
    bias = np.asarray(DENSE_VARIABLES.params["dense"][0]["bias"])[[0, 2]]
    np.testing.assert_allclose(found.values, (weights * corner).sum((1, 2, 3)) + bias, rtol=1e-5)


@pytest.mark.parametrize(
    ("network", "variables", "inputs", "layer"),
    [
        pytest.param(PLANE, PLANE_VARIABLES, IMAGES, "blocks.1.convolutions.0", marks=pytest.mark.slow),
        (LINE, LINE_VARIABLES, SIGNALS, "blocks.0.convolutions.0"),
    ],
    ids=["plane", "line"],
)
def test_maximized_inputs_lie_in_bounds_and_depend_on_key_and_unit_alone(
    network: Network, variables: Variables, inputs: np.ndarray, layer: str
) -> None:
    low, high = np.full(inputs.shape[1:], -2.0), np.full(inputs.shape[1:], 2.0)

    def maximized(units: list[int], key: int = 0, **numbers: Any) -> look.Maximized:
        return look.maximize(network, variables, jax.random.key(key), layer, units, low, high, steps=40, **numbers)

    found = maximized([0, 1, 2])
    assert (abs(found.inputs) <= 2).all()
    maps = look.activations(network, variables, found.inputs, [layer])[layer]
    own = [maps[lane, ..., lane].max() for lane in range(3)]
    np.testing.assert_allclose(found.values, own, rtol=1e-5)
    seen = look.maxima(network, variables, [np.clip(inputs, -2, 2)], [layer])[layer][:3]
    assert (found.values > seen).all()
    alone = maximized([2, 0, 0])
    np.testing.assert_allclose(alone.inputs[:2], found.inputs[jnp.array([2, 0])], atol=1e-5)
    assert (maximized([0, 1, 2], key=1).inputs != found.inputs).any()
    # Numbers are lanes: each unit has its own penalty.
    for name in ("total_variation", "frequency", "blur"):
        smooth = maximized([0, 0, 0], **{**PLAIN, name: np.array([0.0, 0.2, 1.0])})
        rough = [float(abs(np.diff(image, axis=0)).sum()) for image in np.asarray(smooth.inputs)]
        assert rough[0] > rough[1] > rough[2], name


def test_maximization_rejects_invalid_arguments() -> None:
    low, high = np.zeros((8, 8, 2)), np.ones((8, 8, 2))
    arguments = DENSE, DENSE_VARIABLES, jax.random.key(0)
    with pytest.raises(ValueError, match=r"units: 4: must be from 0 to 3 in layer 'dense.0'"):
        look.maximize(*arguments, "dense.0", [0, 4], low, high)
    with pytest.raises(ValueError, match="must have the same shape, with low below high"):
        look.maximize(*arguments, "dense.0", [0], high, low)
    with pytest.raises(ValueError, match="steps: 0: must be at least 1"):
        look.maximize(*arguments, "dense.0", [0], low, high, steps=0)


# ------------------------------------------------------------------------- attributions


@pytest.mark.parametrize(
    ("network", "variables", "inputs"),
    [
        pytest.param(PLANE, PLANE_VARIABLES, IMAGES, marks=pytest.mark.slow),
        (LINE, LINE_VARIABLES, SIGNALS),
        (DENSE, DENSE_VARIABLES, IMAGES),
    ],
    ids=["plane", "line", "dense"],
)
def test_gradients_and_their_integral(network: Network, variables: Variables, inputs: np.ndarray) -> None:
    targets = TARGETS[: len(inputs)]
    gradient = look.gradient(network, variables, inputs, targets)
    direction = random(*inputs.shape, seed=5)
    ahead, behind = (logit(network, variables, inputs + step * direction, targets) for step in (1e-3, -1e-3))
    axes = tuple(range(1, inputs.ndim))
    np.testing.assert_allclose((gradient * direction).sum(axes), (ahead - behind) / 2e-3, rtol=0.02, atol=0.02)
    np.testing.assert_array_equal(look.gradient_times_input(network, variables, inputs, targets), inputs * gradient)

    baseline = 0.3 * np.ones(inputs.shape[1:], np.float32)
    middle = (inputs - baseline) * look.gradient(network, variables, (inputs + baseline) / 2, targets)
    one = look.integrated_gradients(network, variables, inputs, targets, baseline, steps=1)
    np.testing.assert_allclose(one, middle, atol=1e-5)
    integral = look.integrated_gradients(network, variables, inputs, targets, baseline, steps=200)
    far = logit(network, variables, np.broadcast_to(baseline, inputs.shape), targets)
    np.testing.assert_allclose(integral.sum(axes), logit(network, variables, inputs, targets) - far, atol=0.02)


def test_grad_cam_equals_that_of_a_numpy_network() -> None:
    outputs, dense = numpy_outputs(IMAGES), jax.tree.map(np.asarray, PLANE_VARIABLES.params["dense"])
    back = dense[1]["kernel"].T[TARGETS] * (outputs["dense.0"] > 0)
    gradients = np.einsum("nf,hwcf->nhwc", back, dense[0]["kernel"])
    expected = np.maximum(np.einsum("nhwc,nc->nhw", outputs["blocks.1"], gradients.mean((1, 2))), 0)
    found = look.grad_cam(PLANE, PLANE_VARIABLES, IMAGES, TARGETS)
    assert expected.any()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # For an earlier layer: max pooling passes the gradient to the largest cell of each window.
    inner = np.asarray(outputs["blocks.1.convolutions.0"])
    whole = np.repeat(np.repeat(gradients * (outputs["blocks.1"] > 0), 2, 1), 2, 2)
    passed = whole * (inner == np.repeat(np.repeat(outputs["blocks.1.pool"], 2, 1), 2, 2))
    expected = np.maximum(np.einsum("nhwc,nc->nhw", inner, passed.mean((1, 2))), 0)
    np.testing.assert_allclose(
        look.grad_cam(PLANE, PLANE_VARIABLES, IMAGES, TARGETS, "blocks.1.convolutions.0"), expected, atol=1e-5
    )


def pytorch_lenet5(nn: Any) -> Any:
    """LeNet-5, and the layers whose outputs are our `c3` and `s4`."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    return network, {"c3": network[3], None: network[5]}


def pytorch_normalized(nn: Any) -> Any:
    """A CNN with BatchNorm and average pooling, and the layers whose outputs are those of ours."""
    network = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, eps=1e-5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(24, 7), nn.Tanh(), nn.Linear(7, 10)),
    )
    return network, {"blocks.0.norms.0": network[1], "blocks.1.activation": network[6], None: network[7]}


def load_pytorch(torch: Any, peer: Any, variables: Variables) -> None:
    """Gives a PyTorch network our weights, layer by layer, and sets it to evaluation."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    found: dict[str, dict] = {}
    for tree in variables:
        for path, leaf in jax.tree.leaves_with_path(tree):
            # [*spatial, in, out] to [out, in, *spatial]; a dense layer flattens what it takes
            array = np.moveaxis(leaf, (-1, -2), (0, 1)) if leaf.ndim > 1 else leaf
            array = array.reshape(len(array), -1) if "dense" in str(path) and leaf.ndim > 1 else array
            layer = found.setdefault(jax.tree_util.keystr(path[:-1]), {})
            layer[names[path[-1].key]] = torch.from_numpy(np.ascontiguousarray(array))
    for layer, state in zip((each for each in peer if each.state_dict()), found.values(), strict=True):
        layer.load_state_dict(state, strict=False)  # but for BatchNorm's count of batches
    peer.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "fields", "twin", "shape"),
    [
        (LeNet5, {}, pytorch_lenet5, (28, 28, 1)),
        (
            CNN,
            {"filters": (4, 6), "dense": (7,), "batch_norm": True, "activation": "tanh", "pool": "average"},
            pytorch_normalized,
            (8, 8, 2),
        ),
    ],
    ids=["LeNet-5", "BatchNorm"],
)
def test_attributions_equal_those_of_a_pytorch_network(
    module: Any, fields: dict, twin: Any, shape: tuple[int, ...]
) -> None:
    torch = needs("torch")
    inputs, targets = random(10, *shape), np.arange(10)
    network = network_of(module, 10, **fields)
    variables = drawn(network, inputs)
    variables = variables._replace(stats=jax.tree.map(np.abs, variables.stats))
    peer, layers = twin(torch.nn)
    load_pytorch(torch, peer, variables)
    x = torch.from_numpy(inputs).permute(0, 3, 1, 2)

    def logit(x: Any) -> Any:
        return peer(x)[torch.arange(10), torch.from_numpy(targets)]

    np.testing.assert_allclose(
        logits(network, variables, inputs), peer(x).detach(), atol=1e-4, err_msg="the networks differ"
    )
    for name, layer in layers.items():
        outputs: list[Any] = []
        hook = layer.register_forward_hook(lambda layer, given, output, outputs=outputs: outputs.append(output))
        score = logit(x).sum()
        hook.remove()
        [gradient] = torch.autograd.grad(score, outputs)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * outputs[0]).sum(1)).detach().numpy()
        assert expected.any()
        found = look.grad_cam(network, variables, inputs, targets, name)
        np.testing.assert_allclose(found, expected, atol=1e-4 * min(1, expected.max()), err_msg=f"Grad-CAM of {name}")

    shares = [(share * x).requires_grad_() for share in (np.arange(8) + 0.5) / 8]
    gradients = [torch.autograd.grad(logit(share).sum(), share)[0] for share in shares]
    expected = (x * torch.stack(gradients).mean(0)).permute(0, 2, 3, 1).numpy()
    found = look.integrated_gradients(network, variables, inputs, targets, steps=8)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_grad_cam_in_one_dimension() -> None:
    """The gradient with respect to the inputs of a dense layer is its kernel."""
    targets = TARGETS[:5]
    maps = np.asarray(look.activations(LINE, LINE_VARIABLES, SIGNALS, ["blocks.0"])["blocks.0"])
    weights = np.asarray(LINE_VARIABLES.params["dense"][0]["kernel"]).mean(0).T[targets]
    expected = np.maximum(np.einsum("ntc,nc->nt", maps, weights), 0)
    np.testing.assert_allclose(look.grad_cam(LINE, LINE_VARIABLES, SIGNALS, targets), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "variables", "inputs", "size", "stride"),
    [
        (PLANE, PLANE_VARIABLES, IMAGES[:2], (3, 2), (2, 3)),
        (LINE, LINE_VARIABLES, SIGNALS, 4, 1),
        (DENSE, DENSE_VARIABLES, IMAGES[:2], 4, 4),
    ],
    ids=["plane", "line", "dense"],
)
def test_occlusion_equals_a_loop_over_windows(
    network: Network, variables: Variables, inputs: np.ndarray, size: Any, stride: Any
) -> None:
    targets, dims = TARGETS[: len(inputs)], inputs.ndim - 2
    found = look.occlusion(network, variables, inputs, targets, size, stride, fill=0.5)
    sizes, strides = (np.broadcast_to(value, dims) for value in (size, stride))
    windows = [range((c - n) // s + 1) for c, n, s in zip(inputs.shape[1:], sizes, strides, strict=False)]
    assert found.shape[1:] == tuple(map(len, windows))
    for place in itertools.product(*windows):
        covered = inputs.copy()
        cells = tuple(slice(p * s, p * s + n) for p, s, n in zip(place, strides, sizes, strict=True))
        covered[:, *cells] = 0.5
        expected = logit(network, variables, inputs, targets) - logit(network, variables, covered, targets)
        np.testing.assert_allclose(found[:, *place], expected, atol=1e-5)


def test_attributions_reject_invalid_arguments() -> None:
    plane, dense = (PLANE, PLANE_VARIABLES, IMAGES), (DENSE, DENSE_VARIABLES, IMAGES)
    with pytest.raises(ValueError, match=r"Grad-CAM needs feature maps.*and no layer has any: use another method"):
        look.grad_cam(*dense, TARGETS)
    with pytest.raises(
        ValueError, match=r"layer: 'dense.0': Grad-CAM needs feature maps, not outputs \[5\]: use one of blocks"
    ):
        look.grad_cam(*plane, TARGETS, "dense.0")
    with pytest.raises(ValueError, match="targets: 3: must be an output of the network, from 0 to 2"):
        look.gradient(*plane, TARGETS + 1)
    with pytest.raises(ValueError, match=r"targets: \[2\]: must be \[6\], one for each input"):
        look.gradient(*plane, TARGETS[:2])
    with pytest.raises(ValueError, match="size: 9,9, stride: 1,1: must be at least 1, and the size at most 8,8"):
        look.occlusion(*plane, TARGETS, 9)
    with pytest.raises(ValueError, match="steps: 0"):
        look.integrated_gradients(*plane, TARGETS, steps=0)


# ------------------------------------------------------------------------- classification, projection


def predictions(count: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them."""
    odds = np.exp(2 * random(count, classes).astype(np.float64))
    probabilities = odds / odds.sum(1, keepdims=True)
    draws = np.random.default_rng(1).random((count, 1))
    return probabilities, np.minimum((probabilities.cumsum(1) < draws).sum(1), classes - 1)


def test_confusion_and_per_class_equal_counts() -> None:
    probabilities, labels = predictions()
    found, guesses = look.confusion(probabilities, labels), probabilities.argmax(1)
    for label, guess in itertools.product(range(4), range(4)):
        assert found[label, guess] == sum((labels == label) & (guesses == guess))
    shares = look.per_class(probabilities, labels)
    np.testing.assert_allclose(shares.precision, np.diag(found) / found.sum(0))
    np.testing.assert_allclose(shares.recall, np.diag(found) / found.sum(1))
    np.testing.assert_allclose(shares.f1, 2 * np.diag(found) / (found.sum(0) + found.sum(1)))
    assert shares.support.tolist() == found.sum(1).tolist()
    lacking = look.per_class(np.eye(3)[[0, 0]], np.array([0, 1]))
    assert np.isnan([lacking.precision[1], lacking.recall[2]]).all()


def test_calibration_equals_a_loop_over_predictions() -> None:
    probabilities, labels = predictions()
    found, error = look.calibration(probabilities, labels, bins=5), 0.0
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    for i in range(5):
        inside = [j for j in range(200) if i / 5 < confidence[j] <= (i + 1) / 5]
        assert found.examples[i] == len(inside)
        if inside:
            np.testing.assert_allclose(
                [found.confidence[i], found.accuracy[i]], [confidence[inside].mean(), right[inside].mean()]
            )
            error += len(inside) / 200 * abs(confidence[inside].mean() - right[inside].mean())
    assert found.error == pytest.approx(error)
    assert np.isnan(found.accuracy[0])
    assert look.calibration(np.eye(3), np.arange(3)).error == 0


def test_mistakes_are_in_descending_order_of_confidence() -> None:
    probabilities, labels = predictions()
    found = look.mistakes(probabilities, labels, 7)
    wrong = [i for i in range(200) if probabilities[i].argmax() != labels[i]]
    assert found.examples.tolist() == sorted(wrong, key=lambda i: -probabilities[i].max())[:7]
    assert (found.labels != found.predictions).all()
    np.testing.assert_array_equal(found.confidence, probabilities[found.examples, found.predictions])
    assert len(look.mistakes(probabilities, labels).examples) == len(wrong)
    with pytest.raises(
        ValueError,
        match=r"probabilities: example 0: must be at least 0 and sum to 1 \(sum: 4\): apply jax.nn.softmax to logits",
    ):
        look.mistakes(4 * probabilities, labels)
    with pytest.raises(ValueError, match="labels: 4: must be from 0 to 3"):
        look.confusion(probabilities, labels + 1)


def test_pca_equals_the_singular_value_decomposition() -> None:
    features = random(40, 3, 2) * np.array([5.0, 1.0])
    table = features.reshape(40, -1) - features.reshape(40, -1).mean(0)
    left, scale, _ = np.linalg.svd(table, full_matrices=False)
    np.testing.assert_allclose(abs(look.projection(features)), abs(left * scale)[:, :2], atol=1e-4)
    with pytest.raises(ValueError, match="method: 'tnse': did you mean 'tsne'"):
        look.projection(features, "tnse")
    with pytest.raises(ValueError, match=r"features: \[2, 3\]: must have at least 3 examples"):
        look.projection(random(2, 3))


@pytest.mark.slow
def test_tsne_separates_groups() -> None:
    features = np.concatenate([random(40, 6), random(40, 6) + 100])
    found = look.projection(features, "tsne", perplexity=10)
    np.testing.assert_array_equal(found, look.projection(features, "tsne", perplexity=10))
    groups = found.reshape(2, 40, 2)
    centers = groups.mean(1)
    spread = np.linalg.norm(groups - centers[:, None], axis=-1).mean(1)
    assert np.linalg.norm(centers[0] - centers[1]) > spread.max()


# ------------------------------------------------------------------------- randomization


def test_layers_are_randomized_one_after_another_from_the_output() -> None:
    stages = dict(look.randomized(PLANE, PLANE_VARIABLES, jax.random.key(7), IMAGES))
    order = ["dense.1", "dense.0", "blocks.1.convolutions.0", "blocks.0.convolutions.0"]
    assert list(stages) == order
    fresh = stages[order[-1]].params

    def kernel(params: Any, layer: str) -> Any:
        for step in layer.split("."):
            params = params[int(step) if step.isdigit() else step]
        return params["kernel"]

    for count, stage in enumerate(stages.values(), start=1):
        for i, layer in enumerate(order):
            source = fresh if i < count else PLANE_VARIABLES.params
            np.testing.assert_array_equal(kernel(stage.params, layer), kernel(source, layer))
    for layer in order:
        assert (kernel(fresh, layer) != kernel(PLANE_VARIABLES.params, layer)).all()


def test_rank_correlation_equals_that_of_scipy() -> None:
    first, second = random(4, 5, 5), np.round(random(4, 5, 5, seed=1), 1)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(look.rank_correlation(first, second), expected)
    np.testing.assert_allclose(look.rank_correlation(first, np.exp(first)), 1)
    assert np.isnan(look.rank_correlation(first, np.zeros((4, 5, 5)))).all()


@pytest.mark.slow
def test_attributions_depend_on_the_trained_parameters(digits: Dataset) -> None:
    """Randomizing layers from the output on lowers the rank correlation (Adebayo et al. 2018)."""
    config = TrainConfig(network=CNNConfig(filters=(8, 16)), optimizer=SGD(learning_rate=0.05), batch_size=64, epochs=8)
    run = fit(config, digits)
    network = make_task(run.config, run.spec).functions
    inputs, labels = run.spec.standardize(digits.valid.inputs[:60]), digits.valid.labels[:60]
    assert (run.logits(digits.valid.inputs[:60]).argmax(1) == labels).mean() > 0.9
    stages = [variables for _, variables in look.randomized(network, run.variables, jax.random.key(1), inputs)]
    for method in (look.gradient, look.gradient_times_input, look.integrated_gradients, look.occlusion):
        learned = method(network, run.variables, inputs, labels)
        found = [
            float(look.rank_correlation(learned, method(network, variables, inputs, labels)).mean())
            for variables in stages
        ]
        assert max(map(abs, found)) < 0.4, method.__name__
