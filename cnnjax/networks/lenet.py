"""LeNet-5, in the form in which it is usually trained today."""

from collections.abc import Sequence
from dataclasses import dataclass

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.config import NetworkConfig, choose, option, text
from cnnjax.networks.layers import ACTIVATIONS, POOLS, Maps, positive
from cnnjax.networks.layers import dense as dense_layers


class LeNet5(nnx.Module):
    """Two convolutions of 5x5, each followed by a 2x2 pool, then dense layers of 120 and 84 units.

    After LeCun, Bottou, Bengio, Haffner 1998 ("Gradient-based learning applied to document
    recognition", section II.B), with C3 connected to all maps of S2, plain pooling and a dense
    output: 61,706 parameters for 28x28x1 and 10 classes. The paper's activation and subsampling
    are `activation="tanh", pool="average"`.

    Args:
      input_shape: [height, width, channels] of one input.
      classes: number of logits.
      filters: channels of C1 and C3.
      activation: a name in `ACTIVATIONS`.
      pool: `max` or `average`.
      padding: zero cells on every side of the input: 2 makes 28x28 the paper's 32x32.

    Raises:
      ValueError: the input is too small, with the arithmetic; or an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        filters: Sequence[int] = (6, 16),
        activation: str = "relu",
        pool: str = "max",
        padding: int = 2,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != 2:
            raise ValueError(f"filters: {text(tuple(filters))}: LeNet-5 has two counts, as 6,16")
        self.activation = choose("activation", activation, ACTIVATIONS)
        choose("pool", pool, POOLS)
        maps = Maps(input_shape)
        self.c1 = maps.convolution(filters[0], 5, padding=padding, rngs=rngs)
        self.s2 = nnx.Sequential(*maps.activate_and_pool(activation, pool))
        self.c3 = maps.convolution(filters[1], 5, rngs=rngs)
        self.s4 = nnx.Sequential(*maps.activate_and_pool(activation, pool))
        self.dense = dense_layers(maps.shapes[-1], (120, 84, classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = self.s2(self.c1(inputs))
        x = self.s4(self.c3(x))
        c5, f6, output = self.dense
        return output(self.activation(f6(self.activation(c5(x)))))


@dataclass(frozen=True)
class LeNet5Config(NetworkConfig):
    """The arguments of `LeNet5`, as a value."""

    module = LeNet5
    examples_apart = True
    widths = ("filters",)
    filters: tuple[int, ...] = option((6, 16), "channels of C1 and C3")
    activation: str = option("relu", f"one of {', '.join(ACTIVATIONS)}; the paper's is tanh")
    pool: str = option("max", "max or average; the paper's is average")
    padding: int = option(2, "zero cells on every side of the input", least=0)
