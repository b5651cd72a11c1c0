"""Residual networks, for small images and for those of ImageNet."""

import math
from collections.abc import Sequence
from typing import Literal

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, positive
from cnnjax.options import choose, config, static, text


class ResidualBlock(nnx.Module):
    """A residual block: convolutions with BatchNorm, added to the input or to a projection of it.

    Args:
      maps: the feature maps of the inputs; updated to those of the outputs.
      windows: the number of filters, the kernel size and the stride of each convolution.
      projects: how the shortcut follows a change of shape. If true, it is a 1x1 convolution with
        BatchNorm (option B of He et al. 2016). If false, it subsamples the input by the stride and appends
        zero channels, without parameters (option A).
      rngs: the random streams for the initial values.
    """

    def __init__(self, maps: Maps, windows: Sequence[tuple[int, int, int]], projects: bool, *, rngs: nnx.Rngs):
        inputs, filters, self.stride = maps.shapes[-1], windows[-1][0], math.prod(stride for *_, stride in windows)
        self.convolutions = nnx.List(
            [
                maps.convolution(count, kernel, stride=stride, padding=kernel // 2, bias=False, rngs=rngs)
                for count, kernel, stride in windows
            ]
        )
        self.norms = nnx.List([nnx.BatchNorm(count, momentum=0.9, rngs=rngs) for count, *_ in windows])
        self.extra = filters - inputs[-1]
        self.projection: nnx.List[nnx.Conv | nnx.BatchNorm] = nnx.List()
        if projects and (self.extra or self.stride > 1):
            self.projection.append(Maps(inputs).convolution(filters, 1, stride=self.stride, bias=False, rngs=rngs))
            self.projection.append(nnx.BatchNorm(filters, momentum=0.9, rngs=rngs))

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w filters"]:
        x, last = inputs, len(self.convolutions) - 1
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x))
            x = nnx.relu(x) if i < last else x
        return nnx.relu(x + self._shortcut(inputs))

    def _shortcut(self, inputs: Array) -> Array:
        if self.projection:
            convolution, norm = self.projection
            return norm(convolution(inputs))
        kept = inputs[:, :: self.stride, :: self.stride]
        return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (0, self.extra)))


class ResNet(nnx.Module):
    """A residual network: a convolution, stages of residual blocks, global average pooling, a dense layer.

    The network follows He, Zhang, Ren and Sun 2016 ("Deep residual learning for image recognition"). It
    takes inputs of any size. For CIFAR (section 4.2, the defaults), shortcuts have no parameters
    (option A), and three stages of 16, 32 and 64 filters with n blocks each have 6n + 2 layers: ResNet-20
    (n = 3) has 269,722 parameters for 10 classes. For ImageNet (section 4.1, `stem="large",
    shortcut="projection", filters=(64, 128, 256, 512)`), ResNet-18 (`blocks=(2, 2, 2, 2)`) has 11,689,512
    parameters for 1,000 classes, and ResNet-50 (`blocks=(3, 4, 6, 3), block="bottleneck"`) has 25,557,032.

    >>> network = ResNet((32, 32, 3), classes=10, filters=(8, 16), blocks=1, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((4, 32, 32, 3))).shape
    (4, 10)

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of filters of each stage, in ascending order.
      blocks: the number of residual blocks of every stage, or of each. Each stage after the first halves
        the maps.
      block: `basic`, two 3x3 convolutions; or `bottleneck`, 1x1, 3x3 and 1x1 convolutions, where the last
        has four times the filters of the stage, and the 3x3 one has the stride (as in torchvision).
      shortcut: `pad` or `projection` (see `ResidualBlock`).
      stem: `small`, a 3x3 convolution; or `large`, a 7x7 convolution and a max pool, each with a stride
        of 2.
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
        blocks: int | Sequence[int] = 3,
        block: Literal["basic", "bottleneck"] = "basic",
        shortcut: Literal["pad", "projection"] = "pad",
        stem: Literal["small", "large"] = "small",
        rngs: nnx.Rngs,
    ):
        filters = positive("filters", filters)
        counts = positive("blocks", (blocks,) * len(filters) if isinstance(blocks, int) else blocks)
        if not filters or sorted(filters) != list(filters):
            raise ValueError(f"filters: {filters}: give one number per stage, in ascending order")
        if len(counts) != len(filters):
            raise ValueError(f"blocks: {text(counts)}: give one number, or one for each of {len(filters)} stages")
        expansion = choose("block", block, {"basic": 1, "bottleneck": 4})
        projects = choose("shortcut", shortcut, {"pad": False, "projection": True})
        large = choose("stem", stem, {"small": False, "large": True})
        maps = Maps(input_shape)
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = maps.convolution(filters[0], kernel, stride=stride, padding=kernel // 2, bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(filters[0], momentum=0.9, rngs=rngs)
        self.pool = maps.pool("max", 3, stride=2, padding=1) if large else None
        self.blocks: nnx.List[ResidualBlock] = nnx.List()
        for stage, (width, count) in enumerate(zip(filters, counts, strict=True)):
            for i in range(count):
                stride = 2 if stage and not i else 1
                windows = [(width, 3, stride), (width, 3, 1)]
                if expansion > 1:
                    windows = [(width, 1, 1), (width, 3, stride), (expansion * width, 1, 1)]
                self.blocks.append(ResidualBlock(maps, windows, projects, rngs=rngs))
        self.head = nnx.Linear(maps.channels, classes, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = nnx.relu(self.norm(self.stem(inputs)))
        x = x if self.pool is None else self.pool(x)
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
    blocks: int | tuple[int, ...] = static(
        3, "residual blocks of every stage, or of each (3 with three stages is ResNet-20)"
    )
    block: Literal["basic", "bottleneck"] = static("basic", "two 3x3 convolutions, or 1x1, 3x3 and 1x1")
    shortcut: Literal["pad", "projection"] = static("pad", "shortcuts that change shape: zeros, or 1x1 convolutions")
    stem: Literal["small", "large"] = static("small", "3x3 convolution, or 7x7 and max pool with strides of 2")
