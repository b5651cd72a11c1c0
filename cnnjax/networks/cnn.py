"""A convolutional network of any depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.config import NetworkConfig, choose, option
from cnnjax.networks.layers import ACTIVATIONS, POOLS, Maps, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.networks.layers import dropout as dropout_layer

HEADS = {"flatten": False, "global": True}


class CNN(nnx.Module):
    """Blocks of convolution, activation and pooling, then dense layers.

    For each entry of `filters` a block: `convolutions` times (convolution, BatchNorm if asked for,
    activation), then one pool. The head flattens the last maps, or averages each of them (`global`:
    the network then takes inputs of any size that its windows fit). Dense layers follow, each but
    the last with the activation; dropout precedes every dense layer.

    >>> network = CNN((32, 32, 3), classes=10, filters=(32, 64), rngs=nnx.Rngs(0))
    >>> logits = network(images)  # [batch, 32, 32, 3] -> [batch, 10]

    Args:
      input_shape: [*spatial, channels] of one input, with 1 to 3 spatial dimensions.
      classes: number of logits.
      filters: channels that the convolutions of each block put out.
      kernel, stride, dilation: of every convolution, the same in each spatial dimension.
      padding: `SAME`, `VALID`, or a number of zero cells on every side.
      groups: channel groups of every convolution but the first; a filter sees only its own group.
      convolutions: convolutions a block.
      activation: a name in `ACTIVATIONS`.
      pool: `max`, `average` or `none`; windows of `pool_size` that do not overlap.
      batch_norm: normalise after every convolution (momentum 0.9), which then has no bias.
      dropout: share of a dense layer's inputs that training sets to zero.
      head: `flatten` or `global`.
      dense: widths of the hidden dense layers.

    Raises:
      ValueError: a window does not fit the maps, with the arithmetic; or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (16, 32),
        kernel: int = 3,
        stride: int = 1,
        padding: Literal["SAME", "VALID"] | int = "SAME",
        dilation: int = 1,
        groups: int = 1,
        convolutions: int = 1,
        activation: str = "relu",
        pool: str = "max",
        pool_size: int = 2,
        batch_norm: bool = False,
        dropout: float = 0.0,
        head: str = "flatten",
        dense: Sequence[int] = (),
        rngs: nnx.Rngs,
    ):
        positive("filters", filters), positive("dense", dense)
        positive("convolutions", [convolutions]), positive("pool_size", [pool_size])
        if pool != "none":
            choose("pool", pool, {**POOLS, "none": None})
        self.activation = choose("activation", activation, ACTIVATIONS)
        self.global_head = choose("head", head, HEADS)
        maps = Maps(input_shape)
        self.blocks: nnx.List[nnx.Sequential] = nnx.List()
        for count in filters:
            block: list[Any] = []
            for number in range(1, convolutions + 1):
                block.append(
                    maps.convolution(
                        count,
                        kernel,
                        stride=stride,
                        padding=padding,
                        dilation=dilation,
                        groups=groups if len(maps.shapes) > 1 else 1,
                        bias=not batch_norm,
                        rngs=rngs,
                    )
                )
                if batch_norm:
                    block.append(nnx.BatchNorm(count, momentum=0.9, rngs=rngs))
                block += maps.activate_and_pool(activation, pool if number == convolutions else "none", pool_size)
            self.blocks.append(nnx.Sequential(*block))
        features = (maps.channels,) if self.global_head else maps.shapes[-1]
        self.dropout = dropout_layer(dropout, rngs=rngs)
        self.dense = dense_layers(features, (*dense, classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch *spatial channels"]) -> Float[Array, "batch classes"]:
        x = inputs
        for block in self.blocks:
            x = block(x)
        x = x.mean(range(1, x.ndim - 1)) if self.global_head else x
        *hidden, last = self.dense
        for layer in hidden:
            x = self.activation(layer(self.dropout(x)))
        return last(self.dropout(x))


@dataclass(frozen=True)
class CNNConfig(NetworkConfig):
    """The arguments of `CNN`, as a value."""

    module = CNN
    examples_apart = True
    widths = ("filters", "dense")
    filters: tuple[int, ...] = option((16, 32), "channels that the convolutions of each block put out")
    kernel: int = option(3, "width of every convolution's window", least=1)
    stride: int = option(1, "step between windows", least=1)
    padding: int | str = option("SAME", "SAME, VALID, or zero cells on every side")
    dilation: int = option(1, "spacing of a kernel's taps", least=1)
    groups: int = option(1, "channel groups of every convolution but the first", least=1)
    convolutions: int = option(1, "convolutions a block", least=1)
    activation: str = option("relu", f"one of {', '.join(ACTIVATIONS)}")
    pool: str = option("max", "max, average or none")
    pool_size: int = option(2, "width of a pooling window", least=1)
    batch_norm: bool = option(False, "normalise after every convolution")
    dropout: float = option(0.0, "share of a dense layer's inputs set to zero", least=0, below=1)
    head: str = option("flatten", "flatten or global (average of each map)")
    dense: tuple[int, ...] = option((), "widths of hidden dense layers")
