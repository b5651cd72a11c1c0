"""Narrow networks inside of a wide one, so that trials of several widths are lanes of one program.

A network is a corner of a wider one of its family whose other parameters are all zero: what it adds
to a layer is then nothing, and the gradient of every zero is zero. So it stays under gradient
descent with momentum, decay and clipping, and the wide network computes what the narrow one would,
but for rounding. This needs activations with f(0) = 0, and neither statistics across channels nor
noise drawn for the wide shape.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from cnnjax.config import NetworkConfig
from cnnjax.networks.layers import NOT_ZERO_AT_ZERO


def obstacle(config: NetworkConfig) -> str:
    """Why a network cannot be embedded in a wider one; empty where it can."""
    activation, groups, dropout = (getattr(config, name, None) for name in ("activation", "groups", "dropout"))
    if not config.widths:
        return f"{type(config).__name__} does not say which of its fields are widths"
    if activation in NOT_ZERO_AT_ZERO:
        return f"activation {activation}: it is not 0 at 0, so that padding would not stay zero"
    if groups not in (None, 1):
        return f"groups {groups}: which channels a filter sees depends on their number"
    if dropout:
        return "dropout: its noise is drawn for the shape of the network"
    return ""


def family(config: NetworkConfig) -> NetworkConfig:
    """What networks share that can be embedded in one: all but widths. It builds nothing."""
    return replace(config, **{name: (0,) * len(getattr(config, name)) for name in config.widths})


def widest(configs: Sequence[NetworkConfig]) -> NetworkConfig:
    """The network, of one family, in which all of these can be embedded: the largest width of each layer."""
    first = configs[0]
    columns = {name: zip(*(getattr(config, name) for config in configs), strict=True) for name in first.widths}
    return replace(first, **{name: tuple(map(max, layers)) for name, layers in columns.items()})


def widths(config: NetworkConfig) -> tuple[tuple[int, ...], ...]:
    """The channels and units of each layer."""
    return tuple(getattr(config, name) for name in config.widths)


def rounded(config: NetworkConfig) -> NetworkConfig:
    """The network with each width rounded up to a power of two."""
    return replace(
        config, **{name: tuple(1 << (n - 1).bit_length() for n in getattr(config, name)) for name in config.widths}
    )


def embed(narrow: Any, wide: Any) -> Any:
    """A tree of numpy arrays with zeros added at the end of every dimension, to the shapes of another tree."""

    def padded(array: np.ndarray, like: Any) -> np.ndarray:
        wide = np.zeros(like.shape, array.dtype)
        wide[tuple(map(slice, array.shape))] = array
        return wide

    return jax.tree.map(padded, narrow, wide)


def extract(wide: Any, narrow: Any) -> Any:
    """The corner of each array of a tree that has the shape of another tree's: undoes `embed`."""
    return jax.tree.map(lambda array, like: array[tuple(map(slice, like.shape))], wide, narrow)
