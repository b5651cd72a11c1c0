"""Networks: sizes of the literature, refusals, and the seam to pure functions."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import CNN, MLP, CNNConfig, LeNet5, LeNet5Config, MLPConfig, ResNet, functional
from cnnjax.networks import ACTIVATIONS, Variables


def size(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def logits(module: Any, shape: tuple[int, ...], **fields: Any) -> jax.Array:
    """Of two random inputs, building and applying the module in one program, which runs once: hardly optimised."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)), jnp.float32)
    program = jax.jit(lambda x: module(shape, 10, **fields, rngs=rngs())(x)).lower(x)
    return program.compile({"xla_backend_optimization_level": 0})(x)


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


def test_residual_blocks_halve_maps_and_keep_their_input() -> None:
    """With the last scale of each block zero, a network of identities is left after the first layers."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 2)), jnp.float32)

    @jax.jit
    def found_and_expected(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        network = ResNet((8, 8, 2), 10, filters=(4, 8), blocks=2, rngs=rngs())
        assert [block.stride for block in network.blocks] == [1, 1, 2, 1]
        for block in network.blocks:
            block.norms[1].scale.set_value(jnp.zeros(block.norms[1].scale.shape))
        stem = nnx.relu(network.norm(network.stem(x)))
        expected = jnp.pad(stem[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (0, 4))).mean((1, 2))
        return network(x), network.head(expected)

    np.testing.assert_allclose(*found_and_expected(x), atol=1e-5)
    with pytest.raises(ValueError, match="filters: \\(8, 4\\): give one count a stage"):
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
    network = CNN((8, 8, 1), 3, head="global", rngs=rngs())
    assert network(jnp.ones((2, 20, 13, 1))).shape == (2, 3)


def test_groups_see_only_their_channels() -> None:
    network = CNN((8, 8, 1), 3, filters=(4, 4), groups=2, pool="none", rngs=rngs())
    second = network.blocks[1].layers[0]
    x = jnp.ones((1, 8, 8, 4))
    changed = second(x.at[..., 2:].set(5.0)) != second(x)
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
            "groups: 2: must divide 6 input channels and 9 filters",
        ),
        (lambda: CNN((8, 8, 1), 10, activation="rlu", rngs=rngs()), "activation: 'rlu': use one of relu, tanh"),
        (lambda: CNN((8, 8, 1), 10, pool="min", rngs=rngs()), "pool: 'min': use one of max, average, none"),
        (lambda: CNN((8, 8, 1), 10, head="flat", rngs=rngs()), "head: 'flat'"),
        (lambda: CNN((8, 8, 1), 10, padding="HALF", rngs=rngs()), "padding: 'HALF'"),
        (lambda: CNN((8, 8, 1), 10, dropout=1.0, rngs=rngs()), "dropout: 1.0"),
        (lambda: CNN((8,), 10, rngs=rngs()), r"input_shape: \(8,\)"),
        (lambda: LeNet5((28, 28, 1), 10, filters=(6,), rngs=rngs()), "filters: 6: LeNet-5 has two counts"),
        (lambda: MLP((8, 8), 10, hidden=(0,), rngs=rngs()), "hidden: 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("config", [CNNConfig(), LeNet5Config(), MLPConfig()])
def test_a_configuration_has_the_arguments_of_its_module(config) -> None:
    keywords = {
        p.name: p.default
        for p in inspect.signature(config.module.__init__).parameters.values()
        if p.kind == p.KEYWORD_ONLY and p.name != "rngs"
    }
    assert {f.name: f.default for f in dataclasses.fields(config)} == keywords
    x = jnp.ones((2, 28, 28, 1))
    assert jax.eval_shape(lambda x: config.build(rngs(), x, 10)(x), x).shape == (2, 10)


# ------------------------------------------------------------------------- functional


def dropping(rngs: nnx.Rngs, example: jax.Array) -> CNN:
    return CNN(example.shape[1:], 5, filters=(4,), batch_norm=True, dropout=0.5, rngs=rngs)


X = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def test_functional_computes_what_the_module_computes() -> None:
    network = functional(dropping)
    variables = network.init(KEYS[0], X)
    logits, stats = network.apply(variables, X, train=False, key=KEYS[1])
    module = dropping(nnx.Rngs(KEYS[0]), X)
    module.eval()
    np.testing.assert_allclose(logits, module(X), rtol=1e-6)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, stats, variables.stats))


def test_training_mode_uses_the_key_and_moves_the_averages() -> None:
    network = functional(dropping)
    variables = network.init(KEYS[0], X)
    first, again, other = (network.apply(variables, X, train=True, key=key) for key in (KEYS[1], KEYS[1], KEYS[2]))
    np.testing.assert_array_equal(first[0], again[0])
    assert not jnp.array_equal(first[0], other[0])
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, first[1], variables.stats))
    assert jax.tree.structure(first[1]) == jax.tree.structure(variables.stats)


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


def test_variables_are_arrays_only_and_values() -> None:
    assert functional(dropping) == functional(dropping)
    assert hash(functional(dropping)) == hash(functional(dropping))
    variables = functional(dropping).init(KEYS[0], X)
    assert isinstance(variables, Variables)
    assert all(type(leaf).__module__.startswith("jax") for leaf in jax.tree.leaves(variables))
