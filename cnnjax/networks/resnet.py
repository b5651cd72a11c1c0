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
    """Two 3x3 convolutions with BatchNorm, added to the input.

    Where the block changes the shape, the shortcut takes every second cell and pads with zero
    channels, and has no parameters.
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
    """A convolution, stages of residual blocks, the average of each map, and a dense layer.

    After He, Zhang, Ren, Sun 2016 ("Deep residual learning for image recognition", section 4.2),
    with shortcuts of option A. Three stages of 16, 32 and 64 filters with n blocks each have
    6n + 2 layers; ResNet-20 (n = 3) has 269,722 parameters for 32x32x3 and 10 classes.

    Args:
      input_shape: [height, width, channels] of one input.
      classes: number of logits.
      filters: channels of each stage, none fewer than the one before.
      blocks: residual blocks a stage; each stage but the first begins by halving the maps.

    Raises:
      ValueError: the input is too small, with the arithmetic; or an argument is out of range.
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
            raise ValueError(f"filters: {filters}: give one count a stage, none fewer than the one before")
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
    """The arguments of `ResNet`, as a value."""

    word = "resnet"
    module = ResNet
    widths = ("filters",)
    per_example = True
    filters: tuple[int, ...] = static((16, 32, 64), "channels of each stage")
    blocks: int = static(3, "residual blocks a stage; with three stages 3 is ResNet-20", least=1)
