"""VGG networks: many 3x3 convolutions, then dense layers."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import Dropout, Maps, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, number, static, text


class VGG(nnx.Module):
    """A VGG network: blocks of 3x3 convolutions and a max pool, then dense layers with dropout.

    The network follows Simonyan and Zisserman 2015 ("Very deep convolutional networks for large-scale
    image recognition"). For 224x224x3 inputs and 1,000 classes, VGG-11 (configuration A, the default)
    has 132,863,336 parameters, and VGG-16 (D, `convolutions=(2, 2, 3, 3, 3)`) has 138,357,544.

    Args:
      input_shape: the shape [height, width, channels] of one input; every block halves the maps.
      classes: the number of logits.
      filters: the number of filters of the convolutions in each block.
      convolutions: the number of convolutions of each block.
      dense: the widths of the hidden dense layers.
      batch_norm: whether BatchNorm follows each convolution.
      dropout: the fraction of the outputs of the hidden dense layers that training sets to zero; None
        for no dropout.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (64, 128, 256, 512, 512),
        convolutions: Sequence[int] = (1, 1, 2, 2, 2),
        dense: Sequence[int] = (4096, 4096),
        batch_norm: bool = False,
        dropout: float | None = 0.5,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != len(positive("convolutions", convolutions)):
            raise ValueError(
                f"convolutions: {text(tuple(convolutions))}: give one number for each of {len(filters)} blocks"
            )
        maps = Maps(input_shape)
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        self.norms: nnx.List[nnx.BatchNorm] = nnx.List()
        self.ends = tuple(sum(convolutions[: i + 1]) for i in range(len(convolutions)))
        for count, depth in zip(filters, convolutions, strict=True):
            for _ in range(depth):
                self.convolutions.append(maps.convolution(count, 3, padding=1, rngs=rngs))
                if batch_norm:
                    self.norms.append(nnx.BatchNorm(count, momentum=0.9, rngs=rngs))
            self.pool = maps.pool("max")
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.dense = dense_layers(maps.shapes[-1], (*positive("dense", dense), classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = inputs
        for i, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = self.norms[i](x) if self.norms else x
            x = nnx.relu(self.pool(x) if i + 1 in self.ends else x)
        *hidden, last = self.dense
        for layer in hidden:
            x = nnx.relu(layer(x))
            x = x if self.dropout is None else self.dropout(x)
        return last(x)


@config
class VGGConfig(WithDropout, NetworkConfig):
    """The configuration of a `VGG`."""

    word = "vgg"
    module = VGG
    widths = ("filters", "dense")
    filters: tuple[int, ...] = static((64, 128, 256, 512, 512), "number of filters of the convolutions in each block")
    convolutions: tuple[int, ...] = static(
        (1, 1, 2, 2, 2), "number of convolutions of each block (2,2,3,3,3 is VGG-16)"
    )
    dense: tuple[int, ...] = static((4096, 4096), "widths of the hidden dense layers")
    batch_norm: bool = static(False, "whether BatchNorm follows each convolution")
    dropout: float | None = number(0.5, "fraction of the outputs of dense layers set to zero", least=0, below=1)
