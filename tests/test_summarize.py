"""What networks cost, as XLA counts it, and the command that prints it."""

import json

import jax
import jax.numpy as jnp
import pytest

from cnnjax import (
    CNNConfig,
    ConvNeXtConfig,
    LeNet5Config,
    MLPConfig,
    MobileNetConfig,
    NetworkConfig,
    ResNetConfig,
    TextCNNConfig,
    functional,
    summarize,
)
from cnnjax.commands.summarize import main


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (CNNConfig(filters=(16, 32), padding="VALID"), (28, 28, 1)),
        (CNNConfig(filters=(8, 16), kernel=5, head="global", padding="VALID"), (150, 4)),
        (MLPConfig(hidden=(100, 50)), (8, 8, 1)),
        (LeNet5Config(padding=0), (32, 32, 1)),
    ],
)
def test_multiply_adds_are_half_of_the_operations_that_xla_counts(
    network: NetworkConfig, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnjax.networks.layers.conv_general_dilated", jax.lax.conv_general_dilated)
    pure = functional(lambda rngs, example: network.build(rngs, example, 10))
    inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(pure.init, jax.random.key(0), inputs)
    apply = jax.jit(lambda variables, x: pure.apply(variables, x, train=False, key=jax.random.key(0))[0])
    operations = apply.lower(variables, inputs).cost_analysis()["flops"]
    costs = summarize(network, shape)
    assert 0.95 * operations <= 2 * costs.multiply_adds <= operations
    assert costs.parameters == sum(leaf.size for leaf in jax.tree.leaves(variables.params))


@pytest.mark.parametrize(
    "network",
    [
        ConvNeXtConfig(filters=(8, 16), blocks=(1, 1)),
        MobileNetConfig(filters=(8, 16), strides=(1, 2)),
        ResNetConfig(filters=(4, 8), blocks=1, shortcut="projection"),
    ],
)
def test_layers_add_up_to_the_network(network: NetworkConfig) -> None:
    costs = summarize(network, (16, 16, 3))
    assert sum(layer.parameters for layer in costs.layers) == costs.parameters
    assert sum(layer.multiply_adds for layer in costs.layers) == costs.multiply_adds > 0
    assert len({layer.path for layer in costs.layers}) == len(costs.layers)


def test_what_sharing_and_locality_save() -> None:
    layer = summarize(CNNConfig(filters=(6,), kernel=5, padding="VALID", pool="none"), (32, 32, 3)).layers[0]
    assert layer.shape == (28, 28, 6)
    assert (layer.parameters, layer.locally_connected, layer.dense) == (456, 357_504, 14_455_392)
    assert layer.multiply_adds == 28 * 28 * 6 * 75
    assert layer.activations == 4 * 28 * 28 * 6
    assert layer.field is not None
    assert (layer.field.size, layer.field.stride) == ((5, 5), (1, 1))


def test_a_network_for_text() -> None:
    costs = summarize(TextCNNConfig(embedding=8, filters=4), (20,), 2, tokens=50)
    assert costs.parameters == 50 * 8 + sum(k * 8 * 4 + 4 for k in (3, 4, 5)) + 12 * 2 + 2
    assert sum(layer.multiply_adds for layer in costs.layers) == costs.multiply_adds


def test_the_command_prints_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["digits", "--filters", "4,8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["layer", "kind", "output", "parameters"]
    assert lines[1].split()[:4] == ["blocks.0.convolutions.0", "Conv", "8x8x4", "40"]
    main(["digits", "--filters", "4,8", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["layers"][0]["receptive_field"] == [3, 3]


@pytest.mark.slow
def test_the_command_takes_another_shape_of_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["digits", "--network", "alexnet", "--input-shape", "227,227,3", "--outputs", "1000", "--format", "markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert set(lines[1]) == {"|", "-"}
    assert lines[-1].startswith("| total |  |  | 60,965,224 | ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--format", "xml"], "format: 'xml'"),
        (["digits", "--input-shape", "a"], "input_shape: a: must be positive integers, such as 32,32,3"),
        (["digits", "--input-shape", "2,2,0"], "input_shape: 2,2,0: must be positive integers"),
        (["digits", "--input-shape", "2,2,1", "--network", "lenet5"], "does not fit maps of"),
        (["digits", "--input-shape"], "--input-shape: expected one argument"),
    ],
)
def test_mistakes_take_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
