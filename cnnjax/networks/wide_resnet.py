"""Wide residual networks."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import Dropout, Maps, positive
from cnnjax.options import config, number, static


class PreactivatedBlock(nnx.Module):
    """A residual block whose convolutions follow BatchNorm and ReLU.

    If the block changes the shape, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(self, maps: Maps, filters: int, stride: int, dropout: float | None, *, rngs: nnx.Rngs):
        inputs = maps.shapes[-1]
        self.norms = nnx.List([nnx.BatchNorm(count, momentum=0.9, rngs=rngs) for count in (inputs[-1], filters)])
        self.convolutions = nnx.List(
            [maps.convolution(filters, 3, stride=s, padding=1, bias=False, rngs=rngs) for s in (stride, 1)]
        )
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        changes = stride > 1 or filters != inputs[-1]
        projection = Maps(inputs).convolution(filters, 1, stride=stride, bias=False, rngs=rngs) if changes else None
        self.projection = projection

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w filters"]:
        first, second = self.convolutions
        activated = nnx.relu(self.norms[0](inputs))
        x = nnx.relu(self.norms[1](first(activated)))
        x = second(x if self.dropout is None else self.dropout(x))
        return x + (inputs if self.projection is None else self.projection(activated))


class WideResNet(nnx.Module):
    """A wide residual network for small images.

    The network follows Zagoruyko and Komodakis 2016 ("Wide residual networks"): a depth of 6n + 4 layers
    and k times 16, 32 and 64 filters. WRN-16-4 (the defaults) has 2,748,890 parameters for 3 channels
    and 10 classes. It takes inputs of any size.

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      depth: the number of layers, 6n + 4.
      factor: the widening factor k.
      dropout: the fraction of the values between the convolutions of a block that training sets to zero;
        None for no dropout.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        depth: int = 16,
        factor: int = 4,
        dropout: float | None = None,
        rngs: nnx.Rngs,
    ):
        positive("factor", [factor])
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth: {depth}: must be 6n + 4, such as 16")
        maps = Maps(input_shape)
        self.stem = maps.convolution(16, 3, padding=1, bias=False, rngs=rngs)
        blocks = [
            (16 * factor * 2**stage, 2 if stage and not i else 1) for stage in range(3) for i in range(depth // 6)
        ]
        self.blocks = nnx.List([PreactivatedBlock(maps, *block, dropout, rngs=rngs) for block in blocks])
        self.norm = nnx.BatchNorm(maps.channels, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(maps.channels, classes, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu(self.norm(x)).mean((1, 2)))


@config
class WideResNetConfig(WithDropout, NetworkConfig):
    """The configuration of a `WideResNet`."""

    word = "wide-resnet"
    module = WideResNet
    depth: int = static(16, "number of layers, 6n + 4", least=10)
    factor: int = static(4, "factor of 16, 32 and 64 filters", least=1)
    dropout: float | None = number(None, "fraction of values within blocks set to zero", least=0, below=1)
