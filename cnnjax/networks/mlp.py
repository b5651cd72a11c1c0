"""The network without convolution, to compare with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.config import NetworkConfig, choose, option
from cnnjax.networks.layers import ACTIVATIONS, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.networks.layers import dropout as dropout_layer


class MLP(nnx.Module):
    """Dense layers on the flattened input.

    Args:
      input_shape: shape of one input.
      classes: number of logits.
      hidden: widths of the hidden layers.
      activation: a name in `ACTIVATIONS`.
      dropout: share of a dense layer's inputs that training sets to zero, the first layer excepted.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        hidden: Sequence[int] = (300,),
        activation: str = "relu",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        self.activation = choose("activation", activation, ACTIVATIONS)
        self.dropout = dropout_layer(dropout, rngs=rngs)
        self.dense = dense_layers((math.prod(input_shape),), (*positive("hidden", hidden), classes), rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch *shape"]) -> Float[Array, "batch classes"]:
        x = inputs.reshape(inputs.shape[0], -1)
        *hidden, last = self.dense
        for layer in hidden:
            x = self.dropout(self.activation(layer(x)))
        return last(x)


@dataclass(frozen=True)
class MLPConfig(NetworkConfig):
    """The arguments of `MLP`, as a value."""

    module = MLP
    examples_apart = True
    widths = ("hidden",)
    hidden: tuple[int, ...] = option((300,), "widths of the hidden layers")
    activation: str = option("relu", f"one of {', '.join(ACTIVATIONS)}")
    dropout: float = option(0.0, "share of a hidden layer's outputs set to zero", least=0, below=1)
