"""A convolutional network of any depth."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import ACTIVATIONS, POOLS, Activation, Dropout, Maps, activate_and_pool, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import choose, config, number, static

HEADS = {"flatten": False, "global": True}


class Block(nnx.Module):
    """Convolutions, each with BatchNorm if asked for and the activation, then one pool.

    Args:
      maps: of the inputs; moved on to those of the outputs.
      filters: channels of every convolution.
      convolutions: how many there are.
      activation: of each of them.
      pool: `max`, `average` or `none`; windows of `pool_size` that do not overlap.
      batch_norm: normalize after every convolution, which then has no bias.
      window: further arguments of `Maps.convolution`, for the first and for the others.
    """

    def __init__(
        self,
        maps: Maps,
        filters: int,
        convolutions: int,
        activation: Activation,
        pool: str,
        pool_size: int,
        batch_norm: bool,
        window: Callable[[], dict[str, Any]],
        *,
        rngs: nnx.Rngs,
    ):
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        self.norms: nnx.List[nnx.BatchNorm] = nnx.List()
        for _ in range(convolutions):
            self.convolutions.append(maps.convolution(filters, **window(), bias=not batch_norm, rngs=rngs))
            if batch_norm:
                self.norms.append(nnx.BatchNorm(filters, momentum=0.9, rngs=rngs))
        self.activation = activation
        self.pool = None if pool == "none" else maps.pool(pool, pool_size)

    def __call__(self, inputs: Float[Array, "batch *spatial channels"]) -> Float[Array, "batch *spatial filters"]:
        x, last = inputs, len(self.convolutions) - 1
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = self.norms[i](x) if self.norms else x
            x = activate_and_pool(x, self.activation, self.pool if i == last else None)
        return x


class CNN(nnx.Module):
    """Blocks of convolution, activation and pooling, then dense layers.

    For each entry of `filters` a `Block`. The head flattens the last maps, or averages each of them (`global`:
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
      activation: a name in `ACTIVATIONS`, or a function.
      pool: `max`, `average` or `none`; windows of `pool_size` that do not overlap.
      batch_norm: normalize after every convolution (momentum 0.9), which then has no bias.
      dropout: share of a dense layer's inputs that training sets to zero; None for no dropout.
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
        activation: str | Callable[[Array], Array] = "relu",
        pool: str = "max",
        pool_size: int = 2,
        batch_norm: bool = False,
        dropout: float | None = None,
        head: str = "flatten",
        dense: Sequence[int] = (),
        rngs: nnx.Rngs,
    ):
        positive("filters", filters), positive("dense", dense)
        positive("convolutions", [convolutions]), positive("pool_size", [pool_size])
        self.activation = Activation(activation)
        self.global_head = choose("head", head, HEADS)
        choose("pool", pool, {**POOLS, "none": None})
        maps = Maps(input_shape)

        def window() -> dict[str, Any]:  # a filter of the first layer sees all channels
            several = groups if len(maps.shapes) > 1 else 1
            return {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": several}

        self.blocks: nnx.List[Block] = nnx.List()
        for count in filters:
            activated = Activation(activation)
            self.blocks.append(
                Block(maps, count, convolutions, activated, pool, pool_size, batch_norm, window, rngs=rngs)
            )
        features = (maps.channels,) if self.global_head else maps.shapes[-1]
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.dense = dense_layers(features, (*dense, classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch *spatial channels"]) -> Float[Array, "batch classes"]:
        x = inputs
        for block in self.blocks:
            x = block(x)
        x = x.mean(range(1, x.ndim - 1)) if self.global_head else x
        *hidden, last = self.dense
        for layer in hidden:
            x = self.activation(layer(self._dropped(x)))
        return last(self._dropped(x))

    def _dropped(self, x: Array) -> Array:
        return x if self.dropout is None else self.dropout(x)


@config
class CNNConfig(NetworkConfig):
    """The arguments of `CNN`, as a value."""

    word = "cnn"
    module = CNN
    widths = ("filters", "dense")
    filters: tuple[int, ...] = static((16, 32), "channels that the convolutions of each block put out")
    kernel: int = static(3, "width of every convolution's window", least=1)
    stride: int = static(1, "step between windows", least=1)
    padding: int | str = static("SAME", "SAME, VALID, or zero cells on every side")
    dilation: int = static(1, "spacing of a kernel's taps", least=1)
    groups: int = static(1, "channel groups of every convolution but the first", least=1)
    convolutions: int = static(1, "convolutions a block", least=1)
    activation: str | Callable[[Array], Array] = static("relu", f"one of {', '.join(ACTIVATIONS)}")
    pool: str = static("max", "max, average or none")
    pool_size: int = static(2, "width of a pooling window", least=1)
    batch_norm: bool = static(False, "normalize after every convolution")
    dropout: float | None = number(None, "share of a dense layer's inputs set to zero", least=0, below=1)
    head: str = static("flatten", "flatten or global (average of each map)")
    dense: tuple[int, ...] = static((), "widths of hidden dense layers")

    @property
    def per_example(self) -> bool:
        """Unless there is dropout."""
        return self.dropout is None
