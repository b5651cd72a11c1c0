"""Embedding of narrow networks in a wide one, so that trials of several widths are lanes of one program.

The wide network contains the parameters of the narrow one in the corner of each array; its other
parameters (the padding) are zero. Zero parameters add nothing to a layer, and their gradients are
zero. They therefore stay zero under gradient descent with momentum, decay and clipping, and the wide
network computes the same function as the narrow one, up to rounding. This requires activations with
f(0) = 0, no statistics across channels, and no noise drawn for the wide shape.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.tree_util import PyTreeDef
from jaxtyping import PyTree

from cnnjax.data import Spec
from cnnjax.networks import CNN, MLP, LeNet5, NetworkConfig, ResNet, cnn, resnet
from cnnjax.networks.layers import ZERO_AT_ZERO, Activation, Pool
from cnnjax.optimizers import SGD, Adam, AdamW, Lion, Optimizer, RMSprop

# Exactly these classes, not their subclasses: tests/test_embedding.py shows that each keeps padding at zero.
LAYERS = (nnx.Conv, nnx.Linear, nnx.LinearGeneral, nnx.BatchNorm, nnx.List, Activation, Pool)
NETWORKS = (CNN, LeNet5, MLP, ResNet, cnn.Block, resnet.ResidualBlock)
OPTIMIZERS = (SGD, Adam, AdamW, Lion, RMSprop)


def obstacle(network: NetworkConfig, optimizer: Optimizer, spec: Spec | None) -> str:
    """Returns why a network cannot be embedded in a wider one, or an empty string if it can.

    It can be embedded if all of its layers and the optimizer are known to keep padding at zero.
    """
    if not network.widths:
        return f"network {type(network).__name__}: does not name its width fields in `widths`"
    if type(optimizer) not in OPTIMIZERS:
        return f"optimizer {type(optimizer).__name__}: not known to keep padding at zero"
    if spec is None:
        raise ValueError("spec: None: packing widths needs the Spec of the data")
    numbers, structure = jax.tree.flatten(network)
    return _obstacle(structure, tuple(numbers), spec.standardized, spec.outputs, spec.tokens)


@lru_cache(maxsize=64)
def _obstacle(
    structure: PyTreeDef, numbers: tuple[float, ...], inputs: jax.ShapeDtypeStruct, outputs: int, tokens: int
) -> str:
    network, found = jax.tree.unflatten(structure, numbers), list[str]()

    def built(example: jax.Array) -> None:
        module = network.built(nnx.Rngs(0), example, outputs, tokens)
        found.extend(why for path, layer in nnx.iter_modules(module) if (why := _layer_obstacle(path, layer)))

    jax.eval_shape(built, inputs)
    return found[0] if found else ""


def _layer_obstacle(path: Sequence[Any], layer: Any) -> str:
    if isinstance(layer, Activation) and layer.name not in ZERO_AT_ZERO * layer.known:
        return f"activation {layer.name}: not known to be 0 at 0, so padding might not stay zero"
    if isinstance(layer, nnx.Conv) and layer.feature_group_count != 1:
        return f"groups {layer.feature_group_count}: the channels that a filter sees depend on the width"
    if type(layer) in LAYERS + NETWORKS:
        return ""
    name = ".".join(map(str, path))
    return f"layer {name + ': ' if name else ''}{type(layer).__name__}: not known to keep padding at zero"


def as_wide(narrow: NetworkConfig, wide: NetworkConfig) -> NetworkConfig:
    """Returns a network with the widths of another network of its family."""
    return replace(narrow, **{name: getattr(wide, name) for name in wide.widths})


def family(config: NetworkConfig) -> NetworkConfig:
    """Returns a network with all widths set to zero: it is equal for all networks of a family."""
    return replace(config, **{name: (0,) * len(getattr(config, name)) for name in config.widths})


def widest(configs: Sequence[NetworkConfig]) -> NetworkConfig:
    """Returns the network in which all networks of a family can be embedded: the maximum width of each layer."""
    first = configs[0]
    columns = {name: zip(*(getattr(config, name) for config in configs), strict=True) for name in first.widths}
    return replace(first, **{name: tuple(map(max, layers)) for name, layers in columns.items()})


def widths(config: NetworkConfig) -> tuple[tuple[int, ...], ...]:
    """Returns the number of channels or units of each layer."""
    return tuple(getattr(config, name) for name in config.widths)


def rounded(config: NetworkConfig) -> NetworkConfig:
    """Returns a network with each width rounded up to a power of two."""
    return replace(
        config, **{name: tuple(1 << (n - 1).bit_length() for n in getattr(config, name)) for name in config.widths}
    )


def embed(narrow: PyTree, wide: PyTree) -> PyTree:
    """Pads the NumPy arrays of a tree with zeros at the end of every dimension, to the shapes of another tree."""

    def padded(array: np.ndarray, like: PyTree) -> np.ndarray:
        wide = np.zeros(like.shape, array.dtype)
        wide[tuple(map(slice, array.shape))] = array
        return wide

    return jax.tree.map(padded, narrow, wide)


def extract(wide: PyTree, narrow: PyTree) -> PyTree:
    """Cuts the arrays of a tree to the shapes of another tree; the inverse of `embed`."""
    return jax.tree.map(lambda array, like: array[tuple(map(slice, like.shape))], wide, narrow)
