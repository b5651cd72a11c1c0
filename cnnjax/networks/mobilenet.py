"""MobileNet: depthwise separable convolutions."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, positive
from cnnjax.options import config, static, text


class Separable(nnx.Module):
    """A depthwise 3x3 convolution and a 1x1 convolution, each with BatchNorm and ReLU."""

    def __init__(self, maps: Maps, filters: int, stride: int, *, rngs: nnx.Rngs):
        channels = maps.channels
        self.depthwise = maps.convolution(channels, 3, stride=stride, padding=1, groups=channels, bias=False, rngs=rngs)
        self.pointwise = maps.convolution(filters, 1, bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(count, momentum=0.9, rngs=rngs) for count in (channels, filters)])

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w filters"]:
        x = nnx.relu(self.norms[0](self.depthwise(inputs)))
        return nnx.relu(self.norms[1](self.pointwise(x)))


class MobileNet(nnx.Module):
    """A MobileNet: a convolution, then depthwise separable ones, global average pooling, a dense layer.

    The network follows Howard et al. 2017 ("MobileNets: efficient convolutional neural networks for
    mobile vision applications"). That of the paper (`filters=(32, 64, 128, 128, 256, 256, 512, 512, 512,
    512, 512, 512, 1024, 1024), strides=(2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)`) has 4,231,976
    parameters for 3 channels and 1,000 classes. The defaults are a small one for small images. It takes
    inputs of any size.

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of filters of the first convolution, and of each separable one.
      strides: the strides of these convolutions.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (32, 64, 64, 128, 128),
        strides: Sequence[int] = (1, 2, 1, 2, 1),
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != len(positive("strides", strides)) or not filters:
            raise ValueError(f"strides: {text(tuple(strides))}: give one number for each of {len(filters)} filters")
        maps = Maps(input_shape)
        self.stem = maps.convolution(filters[0], 3, stride=strides[0], padding=1, bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(filters[0], momentum=0.9, rngs=rngs)
        rest = zip(filters[1:], strides[1:], strict=True)
        self.blocks = nnx.List([Separable(maps, count, stride, rngs=rngs) for count, stride in rest])
        self.head = nnx.Linear(maps.channels, classes, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = nnx.relu(self.norm(self.stem(inputs)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


@config
class MobileNetConfig(NetworkConfig):
    """The configuration of a `MobileNet`."""

    word = "mobilenet"
    module = MobileNet
    per_example = True
    filters: tuple[int, ...] = static(
        (32, 64, 64, 128, 128), "number of filters of the first convolution, and of each separable one"
    )
    strides: tuple[int, ...] = static((1, 2, 1, 2, 1), "strides of these convolutions")
