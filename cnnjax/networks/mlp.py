"""The network without convolution, to compare with."""

import math
from collections.abc import Callable, Sequence

from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import ACTIVATIONS, Activation, Dropout, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, number, static


class MLP(nnx.Module):
    """Dense layers on the flattened input.

    Args:
      input_shape: shape of one input.
      classes: number of logits.
      hidden: widths of the hidden layers.
      activation: a name in `ACTIVATIONS`, or a function.
      dropout: share of a dense layer's inputs that training sets to zero, the first layer excepted;
        None for no dropout.

    Raises:
      ValueError: an argument is out of range.
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
class MLPConfig(NetworkConfig):
    """The arguments of `MLP`, as a value."""

    word = "mlp"
    module = MLP
    widths = ("hidden",)
    hidden: tuple[int, ...] = static((300,), "widths of the hidden layers")
    activation: str | Callable[[Array], Array] = static("relu", f"one of {', '.join(ACTIVATIONS)}")
    dropout: float | None = number(None, "share of a hidden layer's outputs set to zero", least=0, below=1)

    @property
    def per_example(self) -> bool:
        """Unless there is dropout."""
        return self.dropout is None
