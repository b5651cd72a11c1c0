"""A configurable convolutional network."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import ACTIVATIONS, POOLS, Activation, Dropout, Maps, activate_and_pool, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import choose, config, number, static, text

HEADS = {"flatten": False, "global": True}


class Block(nnx.Module):
    """Convolutions with activations and optional BatchNorm, followed by one pooling layer.

    Args:
      maps: the feature maps of the inputs; updated to those of the outputs.
      filters: the number of filters of each convolution.
      convolutions: the number of convolutions.
      activation: the activation after each convolution.
      pool: `max`, `average` or `none`.
      pool_size: the size of the pooling windows, which do not overlap.
      batch_norm: whether BatchNorm follows each convolution, which then has no bias.
      window: returns the remaining arguments of `Maps.convolution`; called before each convolution.
      rngs: the random streams for the initial values.
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
    """A convolutional network: blocks of convolution, activation and pooling, followed by dense layers.

    Each entry of `filters` adds one block. The head flattens the last feature maps, or averages each
    of them (`global`). With a global head, the network takes inputs of any size that fits its windows.
    The activation follows every dense layer except the last; dropout precedes every dense layer.

    >>> import jax.numpy as jnp
    >>> network = CNN((32, 32, 3), classes=10, filters=(32, 64), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((8, 32, 32, 3))).shape
    (8, 10)

    Args:
      input_shape: the shape [*spatial, channels] of one input, with 1 to 3 spatial dimensions.
      classes: the number of logits.
      filters: the number of filters of the convolutions in each block.
      kernel: the kernel size, the same in each spatial dimension; or one for each block.
      stride: the stride of every convolution.
      padding: `SAME`, `VALID`, or the number of zeros on each side.
      dilation: the kernel dilation.
      groups: the number of channel groups, except in the first convolution; a filter sees only the
        channels of its group.
      convolutions: the number of convolutions per block.
      activation: a name in `ACTIVATIONS`, or a function of an array.
      pool: `max`, `average` or `none`.
      pool_size: the size of the pooling windows, which do not overlap.
      batch_norm: whether BatchNorm (momentum 0.9) follows each convolution, which then has no bias.
      dropout: the fraction of the inputs of each dense layer that training sets to zero; None for no
        dropout.
      head: `flatten` or `global`.
      dense: the widths of the hidden dense layers.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if a window does not fit its inputs, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (16, 32),
        kernel: int | Sequence[int] = 3,
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
        kernels = positive("kernel", (kernel,) * len(filters) if isinstance(kernel, int) else kernel)
        if len(kernels) != len(filters):
            raise ValueError(f"kernel: {text(kernels)}: give one number, or one for each of {len(filters)} blocks")
        maps = Maps(input_shape)

        def window(size: int) -> dict[str, Any]:  # the first convolution has one group
            several = groups if len(maps.shapes) > 1 else 1
            return {"kernel": size, "stride": stride, "padding": padding, "dilation": dilation, "groups": several}

        self.blocks: nnx.List[Block] = nnx.List()
        for count, size in zip(filters, kernels, strict=True):
            activated, of_size = Activation(activation), partial(window, size)
            self.blocks.append(
                Block(maps, count, convolutions, activated, pool, pool_size, batch_norm, of_size, rngs=rngs)
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
class CNNConfig(WithDropout, NetworkConfig):
    """The configuration of a `CNN`."""

    word = "cnn"
    module = CNN
    widths = ("filters", "dense")
    filters: tuple[int, ...] = static((16, 32), "number of filters of the convolutions in each block")
    kernel: int | tuple[int, ...] = static(3, "kernel size of the convolutions, or of those in each block", least=1)
    stride: int = static(1, "stride of the convolutions", least=1)
    padding: int | str = static("SAME", "padding of the convolutions: SAME, VALID, or zeros on each side")
    dilation: int = static(1, "kernel dilation of the convolutions", least=1)
    groups: int = static(1, "channel groups of the convolutions, except the first", least=1)
    convolutions: int = static(1, "number of convolutions per block", least=1)
    activation: str | Callable[[Array], Array] = static("relu", f"activation function: {', '.join(ACTIVATIONS)}")
    pool: str = static("max", "pooling after each block: max, average or none")
    pool_size: int = static(2, "size of the pooling windows", least=1)
    batch_norm: bool = static(False, "whether BatchNorm follows each convolution")
    dropout: float | None = number(None, "fraction of the inputs of dense layers set to zero", least=0, below=1)
    head: str = static("flatten", "input of the dense layers: flatten, or global (the average of each map)")
    dense: tuple[int, ...] = static((), "widths of the hidden dense layers")
