"""AlexNet, in the two groups of the paper or in one column."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import Dropout, Maps, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.networks.normalization import LocalResponseNorm
from cnnjax.options import config, number, static, text


class AlexNet(nnx.Module):
    """AlexNet: five convolutions, three overlapping max pools, and dense layers with dropout.

    The network follows Krizhevsky, Sutskever and Hinton 2012 ("ImageNet classification with deep
    convolutional neural networks"): 60,965,224 parameters for 227x227x3 inputs and 1,000 classes. The
    second, fourth and fifth convolution have two groups of channels, which lay on two GPUs.

    The variant in one column of Krizhevsky 2014 ("One weird trick for parallelizing convolutional neural
    networks"), as torchvision has it, is `filters=(64, 192, 384, 256, 256), groups=1, normalize=False`
    with a `padding` of 2 for 224x224x3 inputs: 61,100,840 parameters.

    Args:
      input_shape: the shape [height, width, channels] of one input; at least 63x63 without padding.
      classes: the number of logits.
      filters: the number of filters of the five convolutions.
      groups: the number of channel groups of the second, fourth and fifth convolution.
      dense: the widths of the hidden dense layers.
      padding: the number of zeros on each side of the input.
      normalize: whether local response normalization follows the first two convolutions.
      dropout: the fraction of the inputs of the hidden dense layers that training sets to zero; None
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
        filters: Sequence[int] = (96, 256, 384, 384, 256),
        groups: int = 2,
        dense: Sequence[int] = (4096, 4096),
        padding: int = 0,
        normalize: bool = True,
        dropout: float | None = 0.5,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != 5:
            raise ValueError(f"filters: {text(tuple(filters))}: AlexNet takes five numbers, such as 96,256,384,384,256")
        maps = Maps(input_shape)
        windows: tuple[dict[str, Any], ...] = (
            {"kernel": 11, "stride": 4, "padding": padding},
            {"kernel": 5, "padding": 2, "groups": groups},
            {"kernel": 3, "padding": 1},
            {"kernel": 3, "padding": 1, "groups": groups},
            {"kernel": 3, "padding": 1, "groups": groups},
        )
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        pools = []
        for i, (count, window) in enumerate(zip(filters, windows, strict=True)):
            self.convolutions.append(maps.convolution(count, **window, rngs=rngs))
            pools.append(maps.pool("max", 3, stride=2) if i in (0, 1, 4) else None)
        self.pools = nnx.List(pools)
        self.norm = LocalResponseNorm() if normalize else None
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.dense = dense_layers(maps.shapes[-1], (*positive("dense", dense), classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = inputs
        for i, (convolution, pool) in enumerate(zip(self.convolutions, self.pools, strict=True)):
            x = nnx.relu(convolution(x))
            x = self.norm(x) if self.norm and i < 2 else x
            x = pool(x) if pool else x
        *hidden, last = self.dense
        for layer in hidden:
            x = nnx.relu(layer(x if self.dropout is None else self.dropout(x)))
        return last(x)


@config
class AlexNetConfig(WithDropout, NetworkConfig):
    """The configuration of an `AlexNet`."""

    word = "alexnet"
    module = AlexNet
    widths = ("filters", "dense")
    filters: tuple[int, ...] = static((96, 256, 384, 384, 256), "number of filters of the five convolutions")
    groups: int = static(2, "channel groups of the second, fourth and fifth convolution", least=1)
    dense: tuple[int, ...] = static((4096, 4096), "widths of the hidden dense layers")
    padding: int = static(0, "zeros on each side of the input", least=0)
    normalize: bool = static(True, "whether local response normalization follows the first two convolutions")
    dropout: float | None = number(0.5, "fraction of the inputs of dense layers set to zero", least=0, below=1)
