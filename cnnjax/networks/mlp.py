"""A multilayer perceptron, as a baseline without convolutions."""

import math
from collections.abc import Callable, Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import ACTIVATIONS, Activation, Dropout, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, number, static


class MLP(nnx.Module):
    """A multilayer perceptron: dense layers on the flattened input.

    >>> import jax.numpy as jnp
    >>> network = MLP((8, 8, 1), classes=10, hidden=(32,), rngs=nnx.Rngs(0))
    >>> network(jnp.zeros((4, 8, 8, 1))).shape
    (4, 10)

    Args:
      input_shape: the shape of one input.
      classes: the number of logits.
      hidden: the widths of the hidden layers.
      activation: a name in `ACTIVATIONS`, or a function of an array.
      dropout: the fraction of the outputs of each hidden layer that training sets to zero; None for no
        dropout.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        hidden: Sequence[int] = (300,),
        activation: str | Callable[[Array], Array] = "relu",
        dropout: float | None = None,
        rngs: nnx.Rngs,
    ):
        self.activation = Activation(activation)
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.dense = dense_layers((math.prod(input_shape),), (*positive("hidden", hidden), classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch *shape"]) -> Float[Array, "batch classes"]:
        x = inputs.reshape(inputs.shape[0], -1)
        *hidden, last = self.dense
        for layer in hidden:
            x = self.activation(layer(x))
            x = x if self.dropout is None else self.dropout(x)
        return last(x)


@config
class MLPConfig(WithDropout, NetworkConfig):
    """The configuration of an `MLP`."""

    word = "mlp"
    module = MLP
    widths = ("hidden",)
    hidden: tuple[int, ...] = static((300,), "widths of the hidden layers")
    activation: str | Callable[[Array], Array] = static("relu", f"activation function: {', '.join(ACTIVATIONS)}")
    dropout: float | None = number(None, "fraction of the outputs of hidden layers set to zero", least=0, below=1)
