"""Networks: sizes of the literature, refusals, and the seam to pure functions."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization
from flax.core import FrozenDict
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax import (
    CNN,
    MLP,
    Adam,
    AirbenchConfig,
    AlexNetConfig,
    AllCNNConfig,
    CNNConfig,
    ConvNeXtConfig,
    Dataset,
    Dropout,
    LeNet5,
    LeNet5Config,
    LeNet1998,
    LeNet1998Config,
    MLPConfig,
    MobileNetConfig,
    NetworkConfig,
    ResNet,
    ResNetConfig,
    Split,
    TrainConfig,
    VGGConfig,
    WideResNetConfig,
    functional,
    make_task,
)
from cnnjax.networks import ACTIVATIONS, DropPath, LocalResponseNorm, SqueezeExcitation, TableConvolution, Variables
from cnnjax.networks.layers import Maps
from cnnjax.networks.lenet1998 import C3_TABLE, target_codes
from cnnjax.options import check
from cnnjax.training import compile_run


def size(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def once(function: Any, *arrays: Any) -> Any:
    """What a function returns, as one program, which runs once: hardly optimised."""
    return jax.jit(function).lower(*arrays).compile({"xla_backend_optimization_level": 0})(*arrays)


def random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def logits(module: Any, shape: tuple[int, ...], **fields: Any) -> jax.Array:
    """Of two random inputs."""
    return once(lambda x: module(shape, 10, **fields, rngs=rngs())(x), random(2, *shape))


def test_parameter_counts_of_the_literature() -> None:
    assert size(nnx.eval_shape(lambda: LeNet5((28, 28, 1), 10, rngs=rngs()))) == 61_706
    fields = {"filters": (6,), "kernel": 5, "padding": "VALID", "pool": "none"}
    assert size(nnx.eval_shape(lambda: CNN((32, 32, 3), 10, **fields, rngs=rngs())).blocks[0]) == 456
    assert size(nnx.eval_shape(lambda: nnx.Linear(32 * 32 * 3, 28 * 28 * 6, rngs=rngs()))) == 14_455_392
    assert size(nnx.eval_shape(lambda: ResNet((32, 32, 3), 10, rngs=rngs()))) == 269_722
    assert (
        size(nnx.eval_shape(lambda: MLP((28, 28, 1), 10, hidden=(300,), rngs=rngs())))
        == 784 * 300 + 300 + 300 * 10 + 10
    )


RESNET_IMAGENET = {"filters": (64, 128, 256, 512), "stem": "large", "shortcut": "projection"}
MOBILENET = {
    "filters": (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024),
    "strides": (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1),
}
PUBLISHED = {
    "LeNet-5, 1998": (LeNet1998Config(), (28, 28, 1), 10, 60_000),
    "AlexNet": (AlexNetConfig(), (227, 227, 3), 1000, 60_965_224),
    "AlexNet in one column": (
        AlexNetConfig(filters=(64, 192, 384, 256, 256), groups=1, padding=2, normalize=False),
        (224, 224, 3),
        1000,
        61_100_840,
    ),
    "VGG-11": (VGGConfig(), (224, 224, 3), 1000, 132_863_336),
    "VGG-16": (VGGConfig(convolutions=(2, 2, 3, 3, 3)), (224, 224, 3), 1000, 138_357_544),
    "All-CNN-C": (AllCNNConfig(), (32, 32, 3), 10, 1_369_738),
    "ResNet-32": (ResNetConfig(blocks=5), (32, 32, 3), 10, 464_154),
    "ResNet-56": (ResNetConfig(blocks=9), (32, 32, 3), 10, 853_018),
    "ResNet-18": (ResNetConfig(blocks=(2, 2, 2, 2), **RESNET_IMAGENET), (224, 224, 3), 1000, 11_689_512),
    "ResNet-50": (
        ResNetConfig(blocks=(3, 4, 6, 3), block="bottleneck", **RESNET_IMAGENET),
        (224, 224, 3),
        1000,
        25_557_032,
    ),
    "WRN-16-4": (WideResNetConfig(), (32, 32, 3), 10, 2_748_890),
    "ConvNeXt-T": (
        ConvNeXtConfig(filters=(96, 192, 384, 768), blocks=(3, 3, 9, 3), patch=4),
        (224, 224, 3),
        1000,
        28_589_128,
    ),
    "MobileNet": (MobileNetConfig(**MOBILENET), (224, 224, 3), 1000, 4_231_976),
    "airbench94": (AirbenchConfig(), (32, 32, 3), 10, 1_971_640),
}
SLOW_TO_TRACE = ("ConvNeXt-T", "MobileNet", "ResNet-18", "ResNet-32", "ResNet-50", "ResNet-56")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TO_TRACE else []) for name in PUBLISHED],
)
def test_published_networks_have_their_parameters(name: str) -> None:
    config, shape, classes, count = PUBLISHED[name]
    module = nnx.eval_shape(lambda: config.build(rngs(), jnp.zeros((1, *shape)), classes))
    assert size(module) == count
    outputs = nnx.eval_shape(lambda: config.build(rngs(), jnp.zeros((1, *shape)), classes)(jnp.zeros((2, *shape))))
    assert outputs.shape == (2, classes)


SMALL = {
    "airbench": (AirbenchConfig(filters=(4, 4, 4)), (32, 32, 3)),
    "alexnet": (AlexNetConfig(filters=(4, 4, 4, 4, 4), dense=(8, 8)), (67, 67, 3)),
    "all-cnn": (AllCNNConfig(filters=(4, 8)), (16, 16, 3)),
    "convnext": (ConvNeXtConfig(filters=(4, 8), blocks=(1, 1), drop_path=0.2), (16, 16, 3)),
    "lenet5-1998": (LeNet1998Config(), (28, 28, 1)),
    "mobilenet": (MobileNetConfig(filters=(4, 8, 8), strides=(1, 2, 1)), (16, 16, 3)),
    "resnet-bottleneck": (
        ResNetConfig(filters=(4, 8), blocks=(1, 2), block="bottleneck", stem="large", shortcut="projection"),
        (32, 32, 3),
    ),
    "vgg": (VGGConfig(filters=(4, 8), convolutions=(1, 2), dense=(8,), batch_norm=True), (16, 16, 3)),
    "wide-resnet": (WideResNetConfig(depth=10, factor=1, dropout=0.1), (16, 16, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_network_of_the_literature_trains_and_continues_bit_for_bit(name: str) -> None:
    config, shape = SMALL[name]
    inputs = np.random.default_rng(0).normal(size=(24, *shape)).astype(np.float32)
    split = Split(inputs, np.arange(24) % 3)
    data = Dataset.of(name, "abc", split, split, split)
    task = make_task(TrainConfig(config, Adam(learning_rate=0.01), batch_size=8, epochs=1), data.spec)
    run = compile_run(task, jax.random.key(0), data, epochs=1)
    once = run.advance(jax.tree.map(jnp.copy, run.state), 3)
    assert jnp.isfinite(once.epoch_metrics.loss)
    assert not once.diverged
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), run.state.params, once.params)
    assert all(jax.tree.leaves(moved)), moved
    halfway = jax.tree.map(np.array, run.advance(jax.tree.map(jnp.copy, run.state), 1))
    twice = run.advance(run.place(halfway), 2)
    jax.tree.map(np.testing.assert_array_equal, once, twice)


@pytest.mark.parametrize("name", ["all-cnn", "convnext", "mobilenet", "resnet-bottleneck", "wide-resnet"])
def test_networks_that_average_their_maps_take_any_size(name: str) -> None:
    config, shape = SMALL[name]
    network = functional(lambda rngs, example: config.build(rngs, example, 10))
    variables = jax.eval_shape(network.init, KEYS[0], jnp.zeros((1, *shape)))
    for size in ((33, 57), (48, 40)):
        x = jax.ShapeDtypeStruct((2, *size, 3), "float32")
        found = jax.eval_shape(lambda v, x: network.apply(v, x, train=False, key=KEYS[0])[0], variables, x)
        assert found.shape == (2, 10)


def test_the_filters_of_a_table_see_their_channels_only() -> None:
    counts = [len(seen) for seen in C3_TABLE]
    assert counts == [3] * 6 + [4] * 9 + [6]
    assert len(set(map(frozenset, C3_TABLE))) == 16
    assert size(nnx.eval_shape(lambda: TableConvolution(6, C3_TABLE, 5, rngs=rngs()))) == 1516

    def changed(x: jax.Array) -> jax.Array:
        layer = TableConvolution(6, C3_TABLE, 5, rngs=rngs())
        changes = jax.vmap(lambda one: layer(x + one) != layer(x))(jnp.eye(6)[:, None, None, None])
        return changes.any((1, 2, 3))

    found = once(changed, random(1, 7, 7, 6))
    assert found.T.tolist() == [[channel in seen for channel in range(6)] for seen in C3_TABLE]
    with pytest.raises(ValueError, match="table: 6: must be a channel from 0 to 5"):
        TableConvolution(6, ((0, 6),), 5, rngs=rngs())


def test_the_output_of_the_published_lenet_is_the_distance_to_a_code() -> None:
    def at_a_code(x: jax.Array) -> jax.Array:
        network = LeNet1998((28, 28, 1), 10, rngs=rngs())
        network.f6.kernel[...] = jnp.zeros((120, 84))
        network.f6.bias[...] = jnp.arctanh(codes[3] / 1.7159) * 1.5
        return network(x)

    codes = target_codes(10)
    assert codes.shape == (10, 84)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    found = once(at_a_code, random(2, 28, 28, 1))
    np.testing.assert_allclose(found[0], -((codes - codes[3]) ** 2).sum(1), atol=1e-3)
    assert target_codes(3).shape == (3, 84)
    with pytest.raises(ValueError, match="input_shape: 8x8x1: must be 28x28x1 with a padding of 2"):
        LeNet1998((8, 8, 1), 10, rngs=rngs())


def test_local_response_normalization_is_its_formula() -> None:
    x = np.asarray(random(2, 3, 7))
    expected = np.empty_like(x)
    for i in range(7):
        near = x[..., max(0, i - 2) : min(7, i + 3)]
        expected[..., i] = x[..., i] / (2 + 0.1 * (near**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(LocalResponseNorm(size=5, alpha=0.1)(x), expected, rtol=1e-6)


def test_squeeze_and_excitation_scales_whole_maps() -> None:
    x = random(2, 5, 6, 8)
    gates = once(lambda x: SqueezeExcitation(8, reduction=2, rngs=rngs())(x) / x, x)
    np.testing.assert_allclose(gates, jnp.broadcast_to(gates[:, :1, :1], x.shape), rtol=1e-4)
    assert 0 < gates.min() <= gates.max() < 1


def test_drop_path_drops_whole_examples_and_keeps_the_mean() -> None:
    layer = DropPath(0.25, rngs=nnx.Rngs(0))
    found = np.asarray(layer(jnp.ones((4000, 2, 3))))
    assert (found == found[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(found), [0, 4 / 3], rtol=1e-6)
    assert abs(found.mean() - 1) < 0.04
    layer.eval()
    assert (layer(jnp.ones((4, 2))) == 1).all()


def test_windows_may_differ_by_dimension_and_side() -> None:
    maps = Maps((9, 12, 2))

    def layers(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        first = maps.convolution(4, (3, 5), stride=(1, 2), padding=((0, 1), (2, 0)), rngs=rngs())(x)
        return first, maps.pool("max", 3, stride=2, padding=1)(first)

    found = jax.eval_shape(layers, jax.ShapeDtypeStruct((1, 9, 12, 2), "float32"))
    assert [array.shape[1:] for array in found] == maps.shapes[1:] == [(8, 5, 4), (4, 3, 4)]
    with pytest.raises(ValueError, match="kernel: 3,3,3: give one number for each of 2 spatial dimensions"):
        maps.convolution(4, (3, 3, 3), rngs=rngs())


def test_residual_blocks_halve_maps_and_keep_their_input() -> None:
    """With the last scale of each block zero, a network of identities is left after the first layers."""
    x = random(2, 8, 8, 2)

    def found_and_expected(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        network = ResNet((8, 8, 2), 10, filters=(4, 8), blocks=2, rngs=rngs())
        assert [block.stride for block in network.blocks] == [1, 1, 2, 1]
        for block in network.blocks:
            block.norms[1].scale.set_value(jnp.zeros(block.norms[1].scale.shape))
        stem = nnx.relu(network.norm(network.stem(x)))
        expected = jnp.pad(stem[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 4))).mean((1, 2))
        return network(x), network.head(expected)

    np.testing.assert_allclose(*once(found_and_expected, x), atol=1e-5)
    with pytest.raises(ValueError, match="filters: \\(8, 4\\): give one number per stage"):
        ResNet((8, 8, 2), 10, filters=(8, 4), rngs=rngs())


def test_the_paper_s_lenet_is_one_flag_away() -> None:
    paper = {"activation": "tanh", "pool": "average"}
    modern, papers = (logits(LeNet5, (28, 28, 1), filters=(4, 8), **fields) for fields in ({}, paper))
    assert papers.shape == (2, 10)
    assert not np.allclose(modern, papers)


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ((8, 8, 1), {}),
        ((32, 32, 3), {"filters": (8, 8, 8), "convolutions": 2, "batch_norm": True, "dropout": 0.5, "dense": (20,)}),
        ((30, 2), {"filters": (4, 8), "kernel": 5, "pool": "average"}),
        ((9, 9, 3), {"stride": 2, "pool": "none", "padding": 1}),
        ((12, 12, 4), {"groups": 4, "filters": (8, 8), "dilation": 2, "head": "global"}),
        ((6, 6, 6, 1), {"filters": (4,)}),
    ],
)
def test_any_stack_gives_logits(shape: tuple[int, ...], fields: dict) -> None:
    found = logits(CNN, shape, **fields)
    assert found.shape == (2, 10)
    assert jnp.isfinite(found).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    expected = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    if activation in expected:
        np.testing.assert_allclose(ACTIVATIONS[activation](x), expected[activation](x), rtol=1e-5)
    assert jnp.isfinite(logits(CNN, (8, 8, 1), filters=(2,), activation=activation)).all()


def test_a_global_head_takes_any_size() -> None:
    found = once(lambda x: CNN((8, 8, 1), 3, head="global", rngs=rngs())(x), jnp.ones((2, 20, 13, 1)))
    assert found.shape == (2, 3)
    assert jnp.isfinite(found).all()


def test_groups_see_only_their_channels() -> None:
    def differs(x: jax.Array) -> jax.Array:
        second = CNN((8, 8, 1), 3, filters=(4, 4), groups=2, pool="none", rngs=rngs()).blocks[1].convolutions[0]
        return second(x.at[..., 2:].set(5.0)) != second(x)

    changed = once(differs, jnp.ones((1, 8, 8, 4)))
    assert not changed[..., :2].any()
    assert changed[..., 2:].all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: CNN((8, 8, 1), 10, filters=(8, 16, 32, 64, 128), rngs=rngs()),
            r"floor\(\(1 \+ 0 - 2\) / 2\) \+ 1 = 0.*2x2x32 -> 1x1x32",
        ),
        (
            lambda: LeNet5((8, 8, 1), 10, rngs=rngs()),
            r"5x5 convolution of 16 filters does not fit maps of 4x4: floor\(\(4 \+ 0 - 5\) / 1\) \+ 1 = 0",
        ),
        (lambda: CNN((8, 8, 1), 10, filters=(0, 8), rngs=rngs()), "filters: 0,8: every entry must be at least 1"),
        (
            lambda: CNN((8, 8, 1), 10, filters=(6, 9), groups=2, rngs=rngs()),
            "groups: 2: must divide both 6 input channels and 9 filters",
        ),
        (
            lambda: CNN((8, 8, 1), 10, activation="rlu", rngs=rngs()),
            r"activation: 'rlu': did you mean 'relu'\? use one of relu, tanh",
        ),
        (lambda: CNN((8, 8, 1), 10, pool="min", rngs=rngs()), "pool: 'min': use one of max, average, none"),
        (lambda: CNN((8, 8, 1), 10, head="flat", rngs=rngs()), "head: 'flat'"),
        (lambda: CNN((8, 8, 1), 10, padding="HALF", rngs=rngs()), "padding: 'HALF'"),
        (lambda: CNN((8, 8, 1), 10, dropout=1.0, rngs=rngs()), "dropout: 1.0: must be at least 0 and below 1"),
        (lambda: check(CNNConfig(dropout=1.0)), "dropout: 1.0: must be at least 0 and below 1"),
        (lambda: check(MLPConfig(dropout=-0.1)), "dropout: -0.1: must be at least 0 and below 1"),
        (lambda: CNN((8,), 10, rngs=rngs()), r"input_shape: \(8,\)"),
        (lambda: LeNet5((28, 28, 1), 10, filters=(6,), rngs=rngs()), "filters: 6: LeNet-5 takes two numbers"),
        (lambda: MLP((8, 8), 10, hidden=(0,), rngs=rngs()), "hidden: 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnx.eval_shape(build)


@pytest.mark.parametrize(
    ("config", "side"),
    [
        *((config, 28) for config in (CNNConfig(), LeNet5Config(), MLPConfig(), ResNetConfig(), LeNet1998Config())),
        *((config, 67) for config in (AirbenchConfig(), AlexNetConfig(), AllCNNConfig(), ConvNeXtConfig())),
        *((config, 67) for config in (MobileNetConfig(), VGGConfig(), WideResNetConfig())),
    ],
)
def test_a_configuration_has_the_arguments_of_its_module(config: NetworkConfig, side: int) -> None:
    keywords = {
        p.name: p.default
        for p in inspect.signature(config.module.__init__).parameters.values()
        if p.kind == p.KEYWORD_ONLY and p.name != "rngs"
    }
    assert {f.name: f.default for f in dataclasses.fields(config)} == keywords
    x = jnp.ones((2, side, side, 1))
    assert jax.eval_shape(lambda x: config.build(rngs(), x, 10)(x), x).shape == (2, 10)


@pytest.mark.parametrize(
    ("module", "fields"), [(CNN, {"filters": (2,)}), (MLP, {"hidden": (4,)}), (LeNet5, {"filters": (2, 3)})]
)
def test_an_activation_may_be_a_function_of_one_s_own(module: Any, fields: dict[str, Any]) -> None:
    shape, functions = (16, 16, 1), (jnp.sin, lambda x: jnp.sin(x), "tanh")

    def all_logits(x: jax.Array) -> list[jax.Array]:
        return [module(shape, 10, **fields, activation=function, rngs=rngs())(x) for function in functions]

    sine, same, other = once(all_logits, random(2, *shape))
    np.testing.assert_array_equal(sine, same)
    assert not np.allclose(sine, other, atol=1e-3)


def test_an_own_activation_is_not_moved_behind_a_pool() -> None:
    """Only for a function that rises is the largest of its values that of the largest input."""

    def found_and_expected(x: jax.Array) -> tuple[jax.Array, ...]:
        block = CNN((8, 8, 1), 3, filters=(2,), activation=jnp.sin, rngs=rngs()).blocks[0]
        maps = block.convolutions[0](3 * x)
        return block(3 * x), block.pool(jnp.sin(maps)), jnp.sin(block.pool(maps))

    found, expected, moved = once(found_and_expected, random(2, 8, 8, 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, moved, atol=1e-2)


# ------------------------------------------------------------------------- names

EVERYTHING = {"filters": (2, 3), "convolutions": 2, "batch_norm": True, "dropout": 0.1, "dense": (4,)}
BLOCK = {
    "convolutions.0": "Conv", "convolutions.1": "Conv", "convolutions": "List",
    "norms.0": "BatchNorm", "norms.1": "BatchNorm", "norms": "List",
}  # fmt: skip
DENSE = {"dense": "List", "dense.0": "LinearGeneral", "dense.1": "LinearGeneral"}
PAIR, NORM = ("kernel", "bias"), ("scale", "bias")


def inside(name: str, count: int, of: dict[str, str]) -> dict[str, str]:
    """The names of so many blocks."""
    return {f"{name}.{i}.{inner}": kind for i in range(count) for inner, kind in of.items()}


LAYERS: dict[str, tuple[NetworkConfig, dict[str, str]]] = {
    "cnn": (
        CNNConfig(**EVERYTHING),
        inside("blocks", 2, {**BLOCK, "activation": "Activation", "pool": "Pool"})
        | {"": "CNN", "blocks": "List", "blocks.0": "Block", "blocks.1": "Block"}
        | {**DENSE, "activation": "Activation", "dropout": "Dropout"},
    ),
    "cnn without": (
        CNNConfig(filters=(2,), pool="none"),
        {"": "CNN", "blocks": "List", "blocks.0": "Block", "blocks.0.activation": "Activation"}
        | {"blocks.0.convolutions": "List", "blocks.0.convolutions.0": "Conv", "blocks.0.norms": "List"}
        | {"activation": "Activation", "dense": "List", "dense.0": "LinearGeneral"},
    ),
    "lenet5": (
        LeNet5Config(),
        {"": "LeNet5", "c1": "Conv", "s2": "Pool", "c3": "Conv", "s4": "Pool", "activation": "Activation"}
        | {**DENSE, "dense.2": "LinearGeneral"},
    ),
    "mlp": (MLPConfig(dropout=0.1), {"": "MLP", **DENSE, "activation": "Activation", "dropout": "Dropout"}),
    "resnet": (
        ResNetConfig((2, 4), blocks=1),
        inside("blocks", 2, {**BLOCK, "projection": "List"})
        | {"": "ResNet", "blocks": "List", "blocks.0": "ResidualBlock", "blocks.1": "ResidualBlock"}
        | {"stem": "Conv", "norm": "BatchNorm", "head": "Linear"},
    ),
}
ARRAYS: dict[str, tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]] = {
    "cnn": (
        {f"blocks.{i}.convolutions.{j}": ("kernel",) for i in range(2) for j in range(2)}
        | {f"blocks.{i}.norms.{j}": NORM for i in range(2) for j in range(2)}
        | {"dense.0": PAIR, "dense.1": PAIR},
        {f"blocks.{i}.norms.{j}": ("mean", "var") for i in range(2) for j in range(2)},
    ),
    "cnn without": ({"blocks.0.convolutions.0": PAIR, "dense.0": PAIR}, {}),
    "lenet5": (dict.fromkeys(("c1", "c3", "dense.0", "dense.1", "dense.2"), PAIR), {}),
    "mlp": ({"dense.0": PAIR, "dense.1": PAIR}, {}),
    "resnet": (
        {f"blocks.{i}.convolutions.{j}": ("kernel",) for i in range(2) for j in range(2)}
        | {f"blocks.{i}.norms.{j}": NORM for i in range(2) for j in range(2)}
        | {"stem": ("kernel",), "norm": NORM, "head": PAIR},
        {f"blocks.{i}.norms.{j}": ("mean", "var") for i in range(2) for j in range(2)} | {"norm": ("mean", "var")},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_a_path_of_names(name: str) -> None:
    config, expected = LAYERS[name]
    module = nnx.eval_shape(lambda: config.build(rngs(), jnp.zeros((1, 28, 28, 1)), 10))
    found = {".".join(map(str, path)): type(layer).__name__ for path, layer in nnx.iter_modules(module)}
    assert found == expected


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_and_statistics_have_the_paths_of_their_layers(name: str) -> None:
    config = LAYERS[name][0]
    network = functional(lambda rngs, example: config.build(rngs, example, 10))
    variables = jax.eval_shape(network.init, KEYS[0], jnp.zeros((1, 28, 28, 1)))
    for tree, expected in zip(variables, ARRAYS[name], strict=True):
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
        found = {".".join(str(step.key) for step in path) for path in paths}
        assert found == {f"{layer}.{array}" for layer, arrays in expected.items() for array in arrays}


# ------------------------------------------------------------------------- dropout


def dropped(rate: float | jax.Array, x: jax.Array, seed: int = 0) -> jax.Array:
    return Dropout(rate, rngs=nnx.Rngs(dropout=seed))(x)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_a_share_and_scales_it_so_that_the_mean_stays(rate: float) -> None:
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (400, 500)), jnp.float32)
    found = np.asarray(dropped(rate, x))
    kept = found != 0
    np.testing.assert_allclose(found[kept], np.asarray(x)[kept] / (1 - rate), rtol=1e-6)
    assert kept.mean() == pytest.approx(1 - rate, abs=0.005)  # a deviation of at most 0.0011
    assert found.mean() == pytest.approx(float(x.mean()), rel=0.03)
    assert abs(np.corrcoef(kept[:, :-1].ravel(), kept[:, 1:].ravel())[0, 1]) < 0.01


def test_dropout_has_the_mask_of_flax() -> None:
    """Of a given stream, so that it is a drop-in for `nnx.Dropout`."""
    x = jnp.ones((50, 20))
    theirs = nnx.Dropout(0.3, rngs=nnx.Rngs(dropout=7))
    ours = Dropout(0.3, rngs=nnx.Rngs(dropout=7))
    for _ in range(3):
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6)


def test_dropout_is_off_in_evaluation_and_at_rate_zero() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
    layer = Dropout(0.5, rngs=nnx.Rngs(0))
    assert not jnp.array_equal(layer(x), x)
    assert not jnp.array_equal(layer(x), layer(x))  # new noise at every call
    layer.eval()
    np.testing.assert_array_equal(layer(x), x)
    layer.train()
    assert not jnp.array_equal(layer(x), x)
    np.testing.assert_array_equal(dropped(0.0, x), x)


def test_the_rate_of_dropout_may_be_a_tracer() -> None:
    x, rates = jnp.ones((40, 50)), jnp.array([0.0, 0.2, 0.7])
    alone = jnp.stack([dropped(rate, x) for rate in rates.tolist()])
    for mapped in (jax.vmap(lambda rate: dropped(rate, x)), lambda rates: jax.lax.map(lambda r: dropped(r, x), rates)):
        np.testing.assert_allclose(once(mapped, rates), alone, rtol=1e-6)
    assert jnp.isfinite(once(jax.grad(lambda rate: dropped(rate, x).sum()), rates[1]))

    def network(rate: jax.Array) -> tuple[jax.Array, Any]:
        config = MLPConfig(hidden=(5,), dropout=rate)  # type: ignore[arg-type]
        pure = functional(lambda rngs, example: config.build(rngs, example, 10))
        variables = pure.init(KEYS[0], X)
        return pure.apply(variables, X, train=True, key=KEYS[1])[0], variables

    found, variables = once(jax.vmap(network), rates)
    assert len({array.tobytes() for array in np.asarray(found)}) == 3
    assert all((array == array[0]).all() for array in jax.tree.leaves(variables))


def test_streams_are_separate_so_that_dropout_changes_no_initial_value() -> None:
    def initial(**fields: Any) -> Variables:
        config = CNNConfig(filters=(3,), dense=(4,), batch_norm=True, **fields)
        return once(functional(lambda rngs, example: config.build(rngs, example, 5)).init, KEYS[0], X)

    without, with_noise = initial(), initial(dropout=0.5)
    assert jax.tree.structure(without) == jax.tree.structure(with_noise)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, without, with_noise))

    class Draws(nnx.Module):
        """Shows what each stream gives first."""

        def __init__(self, rngs: nnx.Rngs):
            self.first = nnx.Param(
                jnp.stack([jax.random.key_data(key) for key in (rngs.params(), rngs.dropout(), rngs())])
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            return x

    draws = functional(lambda rngs, example: Draws(rngs)).init(KEYS[0], X).params["first"]
    assert len({tuple(row) for row in draws.tolist()}) == 3


# ------------------------------------------------------------------------- functional


def dropping(rngs: nnx.Rngs, example: jax.Array) -> CNN:
    return CNN(example.shape[1:], 5, filters=(4,), batch_norm=True, dropout=0.5, rngs=rngs)


X = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def test_functional_computes_what_the_module_computes() -> None:
    network = functional(dropping)

    def of_both(key: jax.Array, x: jax.Array) -> tuple[Any, ...]:
        variables = network.init(key, x)
        logits, stats = network.apply(variables, x, train=False, key=KEYS[1])
        module = dropping(nnx.Rngs(0), x)
        nnx.update(module, variables.params, variables.stats)
        module.eval()
        return logits, module(x), stats, variables.stats

    logits, expected, stats, before = once(of_both, KEYS[0], X)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stats, before))


def test_training_mode_uses_the_key_and_moves_the_averages() -> None:
    network = functional(dropping)
    variables = once(network.init, KEYS[0], X)
    apply = jax.jit(lambda key: network.apply(variables, X, train=True, key=key))
    first, again, other = (apply(key) for key in (KEYS[1], KEYS[1], KEYS[2]))
    np.testing.assert_array_equal(first[0], again[0])
    assert not jnp.array_equal(first[0], other[0])
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, first[1], variables.stats))
    assert jax.tree.structure(first[1]) == jax.tree.structure(variables.stats)


def listed(rngs: nnx.Rngs, example: jax.Array) -> CNN:
    return CNN(example.shape[1:], 5, filters=(4, 6), dense=(7,), batch_norm=True, rngs=rngs)


def back_from_orbax(tree: Any, folder: Path) -> Any:
    import orbax.checkpoint as ocp

    store = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    store.save(folder / "orbax", jax.tree.map(np.asarray, tree))
    return store.restore(folder / "orbax")


def back_from_npz(tree: Any, folder: Path) -> Any:
    flat = flatten_dict(serialization.to_state_dict(tree), sep="/")
    folder.mkdir()
    np.savez(folder / "arrays.npz", **flat)
    return unflatten_dict(dict(np.load(folder / "arrays.npz")), sep="/")


@pytest.mark.parametrize(
    "back",
    [
        back_from_orbax,
        back_from_npz,
        lambda tree, _: serialization.msgpack_restore(
            serialization.msgpack_serialize(serialization.to_state_dict(tree))
        ),
        lambda tree, _: serialization.from_bytes(tree, serialization.to_bytes(tree)),
        lambda tree, _: FrozenDict(tree),
    ],
    ids=["orbax", "npz", "msgpack", "bytes", "frozen"],
)
def test_variables_may_come_back_from_a_file(back: Any, tmp_path: Path) -> None:
    """Some of which turn the numbers of a list's items into text."""
    network = functional(listed)
    variables = once(network.init, KEYS[0], X)
    variables = jax.tree.map(lambda a: a + np.float32(0.1), variables)  # no bias is 0, as if trained
    returned = Variables(*(back(tree, tmp_path / name) for name, tree in variables._asdict().items()))

    def apply(variables: Variables) -> Any:
        return network.apply(variables, X, train=False, key=KEYS[1])

    np.testing.assert_array_equal(once(apply, returned)[0], once(apply, variables)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, s: ({}, s), "params.blocks: missing: the network needs it"),
        (lambda p, s: (p, {}), "stats.blocks: missing: the network needs it"),
        (lambda p, s: ({**p, "blocks": {1: p["blocks"][1]}}, s), "params.blocks.0: missing"),
        (lambda p, s: ({"blocks": p["blocks"]}, s), "params.dense: missing"),
        (
            lambda p, s: ({**p, "more": {}}, s),
            "params.more: not a variable of the network, which has blocks, dense here",
        ),
        (
            lambda p, s: ({**p, "dense": {**p["dense"], 2: {}}}, s),
            "params.dense.2: not a variable of the network, which has 0, 1",
        ),
        (
            lambda p, s: ({**p, "dense": p["dense"][0]["bias"]}, s),
            "params.dense: the network expects entries 0, 1, not",
        ),
        (
            lambda p, s: ({**p, "dense": {0: p["dense"][0], 1: {"kernel": p["dense"][1]["kernel"]}}}, s),
            "params.dense.1.bias: missing",
        ),
        (
            lambda p, s: (jax.tree.map(lambda a: a[..., :1], p), s),
            "params.blocks.0.convolutions.0.kernel: the network expects an array of shape (3, 3, 1, 4), not (3, 3, 1, 1)",
        ),
        (
            lambda p, s: ({**p, "dense": {0: {"bias": {}, "kernel": 0}, 1: p["dense"][1]}}, s),
            "params.dense.0.bias: the network expects an array of shape (7,), not entries ",
        ),
    ],
)
def test_a_variable_that_is_missing_left_over_or_unlike_is_named(change: Any, message: str) -> None:
    """None is drawn at random in its place."""
    network = functional(listed)

    def apply() -> Any:
        return network.apply(Variables(*change(*network.init(KEYS[0], X))), X, train=False, key=KEYS[1])

    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(apply)


def test_a_stranger_s_module_works_unchanged() -> None:
    class Theirs(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layer = nnx.Linear(64, 5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.layer(x.reshape(x.shape[0], -1))

    network = functional(lambda rngs, example: Theirs(rngs))
    variables = network.init(KEYS[0], X)
    logits, _ = jax.jit(lambda v, x: network.apply(v, x, train=True, key=KEYS[1]))(variables, X)
    np.testing.assert_allclose(logits, X.reshape(6, -1) @ variables.params["layer"]["kernel"], rtol=1e-4, atol=1e-5)


def test_a_traced_number_of_a_stranger_s_module_is_no_variable() -> None:
    class Theirs(nnx.Module):
        def __init__(self, slope: Any, rngs: nnx.Rngs):
            self.slope = slope
            self.layer = nnx.Linear(64, 5, rngs=rngs)
            self.norm = nnx.BatchNorm(5, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.slope * self.layer(x.reshape(x.shape[0], -1)))

    def whole(slope: Any) -> tuple[Variables, jax.Array, Any]:
        network = functional(lambda rngs, example: Theirs(slope, rngs))
        variables = network.init(KEYS[0], X)
        return variables, *network.apply(variables, X, train=False, key=KEYS[1])

    slopes = jnp.array([0.5, 2.0])
    variables, logits, stats = once(jax.vmap(whole), slopes)
    assert jax.tree.map(jnp.ndim, variables) == Variables(
        {"layer": {"bias": 2, "kernel": 3}, "norm": {"bias": 2, "scale": 2}}, {"norm": {"mean": 2, "var": 2}}
    )
    assert jax.tree.structure(stats) == jax.tree.structure(variables.stats)
    for slope, found in zip(slopes, logits, strict=True):
        alone, expected, _ = once(lambda slope=float(slope): whole(slope))
        assert jax.tree.structure(alone) == jax.tree.structure(variables)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[1], 4 * logits[0], rtol=1e-4, atol=1e-4)


def test_variables_are_arrays_only_and_values() -> None:
    assert functional(dropping) == functional(dropping)
    assert hash(functional(dropping)) == hash(functional(dropping))
    variables = functional(dropping).init(KEYS[0], X)
    assert isinstance(variables, Variables)
    assert all(type(leaf).__module__.startswith("jax") for leaf in jax.tree.leaves(variables))
