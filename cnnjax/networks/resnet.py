"""Residual networks for small images."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, positive
from cnnjax.options import config, static


class ResidualBlock(nnx.Module):
    """A residual block: two 3x3 convolutions with BatchNorm, added to the input.

    If the block changes the shape, the shortcut subsamples the input by the stride and appends zero
    channels. It has no parameters (option A of He et al. 2016).
    """

    def __init__(self, maps: Maps, filters: int, stride: int, *, rngs: nnx.Rngs):
        self.stride, self.extra = stride, filters - maps.channels
        convolutions = [maps.convolution(filters, 3, stride=s, padding=1, bias=False, rngs=rngs) for s in (stride, 1)]
        self.convolutions = nnx.List(convolutions)
        self.norms = nnx.List([nnx.BatchNorm(filters, momentum=0.9, rngs=rngs) for _ in convolutions])

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w filters"]:
        first, second = self.convolutions
        x = self.norms[1](second(nnx.relu(self.norms[0](first(inputs)))))
        shortcut = inputs[:, :: self.stride, :: self.stride]
        return nnx.relu(x + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.extra))))


class ResNet(nnx.Module):
    """A residual network: a convolution, stages of residual blocks, global average pooling, a dense layer.

    The network follows He, Zhang, Ren and Sun 2016 ("Deep residual learning for image recognition",
    section 4.2) with shortcuts of option A. Three stages of 16, 32 and 64 filters with n blocks each
    have 6n + 2 layers. ResNet-20 (n = 3) has 269,722 parameters for 32x32x3 inputs and 10 classes.

    >>> network = ResNet((32, 32, 3), classes=10, filters=(8, 16), blocks=1, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((4, 32, 32, 3))).shape
    (4, 10)

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of filters of each stage, in ascending order.
      blocks: the number of residual blocks per stage. Each stage after the first halves the maps.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        rngs: nnx.Rngs,
    ):
        filters = positive("filters", filters)
        positive("blocks", [blocks])
        if not filters or sorted(filters) != list(filters):
            raise ValueError(f"filters: {filters}: give one number per stage, in ascending order")
        maps = Maps(input_shape)
        self.stem = maps.convolution(filters[0], 3, padding=1, bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(filters[0], momentum=0.9, rngs=rngs)
        strides = [2 if stage and not block else 1 for stage in range(len(filters)) for block in range(blocks)]
        self.blocks = nnx.List(
            [ResidualBlock(maps, filters[i // blocks], stride, rngs=rngs) for i, stride in enumerate(strides)]
        )
        self.head = nnx.Linear(maps.channels, classes, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = nnx.relu(self.norm(self.stem(inputs)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(range(1, x.ndim - 1)))


@config
class ResNetConfig(NetworkConfig):
    """The configuration of a `ResNet`."""

    word = "resnet"
    module = ResNet
    widths = ("filters",)
    per_example = True
    filters: tuple[int, ...] = static((16, 32, 64), "number of filters of each stage")
    blocks: int = static(3, "residual blocks per stage (3 with three stages is ResNet-20)", least=1)
