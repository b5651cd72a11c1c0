"""LeNet-5, in the form in which it is usually trained today."""

from collections.abc import Callable, Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import ACTIVATIONS, Activation, Maps, activate_and_pool, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, static, text


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
      activation: a name in `ACTIVATIONS`, or a function.
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
        activation: str | Callable[[Array], Array] = "relu",
        pool: str = "max",
        padding: int = 2,
        rngs: nnx.Rngs,
    ):
        if len(positive("filters", filters)) != 2:
            raise ValueError(f"filters: {text(tuple(filters))}: LeNet-5 has two counts, as 6,16")
        self.activation = Activation(activation)
        maps = Maps(input_shape)
        self.c1 = maps.convolution(filters[0], 5, padding=padding, rngs=rngs)
        self.s2 = maps.pool(pool)
        self.c3 = maps.convolution(filters[1], 5, rngs=rngs)
        self.s4 = maps.pool(pool)
        self.dense = dense_layers(maps.shapes[-1], (120, 84, classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = activate_and_pool(self.c1(inputs), self.activation, self.s2)
        x = activate_and_pool(self.c3(x), self.activation, self.s4)
        c5, f6, output = self.dense
        return output(self.activation(f6(self.activation(c5(x)))))


@config
class LeNet5Config(NetworkConfig):
    """The arguments of `LeNet5`, as a value."""

    word = "lenet5"
    module = LeNet5
    widths = ("filters",)
    per_example = True
    filters: tuple[int, ...] = static((6, 16), "channels of C1 and C3")
    activation: str | Callable[[Array], Array] = static("relu", f"one of {', '.join(ACTIVATIONS)}; the paper's is tanh")
    pool: str = static("max", "max or average; the paper's is average")
    padding: int = static(2, "zero cells on every side of the input", least=0)
