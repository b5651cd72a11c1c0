"""The network of airbench94, which trains fast on CIFAR-10."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, positive
from cnnjax.options import config, number, static, text


class Airbench(nnx.Module):
    """The network of airbench94: a 2x2 convolution, blocks of two 3x3 convolutions, a scaled dense layer.

    The network follows Jordan 2024 ("94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3):
    1,971,640 parameters for 32x32x3 inputs and 10 classes, with GELU, BatchNorm without scale, and no
    bias in the 3x3 convolutions and the dense layer. There, the first kernel holds the principal patches
    of the training images and is not trained. Here, it starts at random and is trained.

    Args:
      input_shape: the shape [height, width, channels] of one input; 30x30 or more.
      classes: the number of logits.
      filters: the number of filters of each block.
      scale: the factor of the logits.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (64, 256, 256),
        scale: float = 1 / 9,
        rngs: nnx.Rngs,
    ):
        if not positive("filters", filters):
            raise ValueError(f"filters: {text(tuple(filters))}: give one number for each block")
        maps = Maps(input_shape)
        self.whiten = maps.convolution(8 * maps.channels, 2, rngs=rngs)
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        self.norms: nnx.List[nnx.BatchNorm] = nnx.List()
        for count in filters:
            for pools in (True, False):
                self.convolutions.append(maps.convolution(count, 3, padding=1, bias=False, rngs=rngs))
                self.norms.append(nnx.BatchNorm(count, momentum=0.6, epsilon=1e-12, use_scale=False, rngs=rngs))
                if pools:
                    self.pool = maps.pool("max")
        self.last_pool = maps.pool("max", 3)
        self.scale = scale
        self.dense = nnx.LinearGeneral(maps.shapes[-1], classes, axis=(-3, -2, -1), use_bias=False, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = nnx.gelu(self.whiten(inputs))
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = convolution(x)
            x = nnx.gelu(norm(x if i % 2 else self.pool(x)))
        return self.dense(self.last_pool(x)) * self.scale


@config
class AirbenchConfig(NetworkConfig):
    """The configuration of an `Airbench`."""

    word = "airbench"
    module = Airbench
    per_example = True
    filters: tuple[int, ...] = static((64, 256, 256), "number of filters of each block")
    scale: float = number(1 / 9, "factor of the logits")
