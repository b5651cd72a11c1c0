"""The All Convolutional Net."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import Dropout, Maps, positive
from cnnjax.options import config, number, static, text


class AllCNN(nnx.Module):
    """The All Convolutional Net: convolutions only, with strides in place of pooling.

    The network follows Springenberg, Dosovitskiy, Brox and Riedmiller 2015 ("Striving for simplicity:
    the all convolutional net", All-CNN-C): 1,369,738 parameters for 32x32x3 inputs and 10 classes. It
    takes inputs of any size from 12x12, since the last maps are averaged.

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of filters of the first three convolutions, and of the next five.
      dropout: the fractions of the inputs of the network that training sets to zero; it is 0.5 after each
        convolution with a stride. None for no dropout at all.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (96, 192),
        dropout: float | None = 0.2,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != 2:
            raise ValueError(f"filters: {text(tuple(filters))}: All-CNN takes two numbers, such as 96,192")
        few, many = filters
        maps = Maps(input_shape)
        windows = [(few, 3, 1, 1), (few, 3, 1, 1), (few, 3, 2, 1), (many, 3, 1, 1), (many, 3, 1, 1), (many, 3, 2, 1)]
        windows += [(many, 3, 1, 0), (many, 1, 1, 0), (classes, 1, 1, 0)]
        self.convolutions = nnx.List(
            [maps.convolution(n, size, stride=stride, padding=pad, rngs=rngs) for n, size, stride, pad in windows]
        )
        dropped = () if dropout is None else (Dropout(dropout, rngs=rngs), *(Dropout(0.5, rngs=rngs) for _ in range(2)))
        self.dropouts = nnx.List(dropped)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        before = dict(zip((0, 3, 6), self.dropouts, strict=False))
        x = inputs
        for i, convolution in enumerate(self.convolutions):
            x = nnx.relu(convolution(before[i](x) if i in before else x))
        return x.mean((1, 2))


@config
class AllCNNConfig(WithDropout, NetworkConfig):
    """The configuration of an `AllCNN`."""

    word = "all-cnn"
    module = AllCNN
    widths = ("filters",)
    filters: tuple[int, ...] = static((96, 192), "number of filters of the first three convolutions, and of the others")
    dropout: float | None = number(0.2, "fraction of the inputs set to zero (0.5 after strides)", least=0, below=1)
