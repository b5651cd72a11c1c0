"""LeNet-5 in its usual modern form."""

from collections.abc import Callable, Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import ACTIVATIONS, Activation, Maps, activate_and_pool, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, static, text


class LeNet5(nnx.Module):
    """LeNet-5: two 5x5 convolutions, each followed by 2x2 pooling, then dense layers of 120 and 84 units.

    The network follows LeCun, Bottou, Bengio and Haffner 1998 ("Gradient-based learning applied to
    document recognition", section II.B). As is usual today, C3 is connected to all maps of S2, pooling
    has no parameters, and the output layer is dense: 61,706 parameters for 28x28x1 inputs and 10
    classes. For the activation and pooling of the paper, use `activation="tanh", pool="average"`.

    >>> import jax.numpy as jnp
    >>> network = LeNet5((28, 28, 1), classes=10, rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((8, 28, 28, 1))).shape
    (8, 10)

    Args:
      input_shape: the shape [height, width, channels] of one input.
      classes: the number of logits.
      filters: the number of filters of C1 and C3.
      activation: a name in `ACTIVATIONS`, or a function of an array.
      pool: `max` or `average`.
      padding: the number of zeros on each side of the input; 2 pads 28x28 to the 32x32 of the paper.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if the input is too small, or an argument is out of range.
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
            raise ValueError(f"filters: {text(tuple(filters))}: LeNet-5 takes two numbers, such as 6,16")
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
    """The configuration of a `LeNet5`."""

    word = "lenet5"
    module = LeNet5
    widths = ("filters",)
    per_example = True
    filters: tuple[int, ...] = static((6, 16), "number of filters of C1 and C3")
    activation: str | Callable[[Array], Array] = static(
        "relu", f"activation function: {', '.join(ACTIVATIONS)} (tanh in the paper)"
    )
    pool: str = static("max", "pooling: max or average (average in the paper)")
    padding: int = static(2, "zeros on each side of the input", least=0)
