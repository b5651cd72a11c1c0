"""Normalization across channels, and layers that rescale or drop whole maps or branches."""

from typing import Any

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from cnnjax.networks.layers import Dropout, positive


class LocalResponseNorm(nnx.Module):
    """Divides each value by a power of the sum of squares over neighboring channels.

    The layer follows Krizhevsky, Sutskever and Hinton 2012 ("ImageNet classification with deep
    convolutional neural networks", section 3.3), whose constants are the defaults.

    >>> layer = LocalResponseNorm(size=1, alpha=1.0, beta=0.5, k=0.0)
    >>> layer(jnp.array([[3.0, -4.0]])).tolist()
    [[1.0, -1.0]]

    Args:
      size: the number of neighboring channels, centered.
      alpha: the factor of the sum of squares.
      beta: the exponent.
      k: the constant that is added to the sum.
    """

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0):
        positive("size", [size])
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def __call__(self, inputs: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        low = (self.size - 1) // 2
        edges = [(0, 0)] * (inputs.ndim - 1) + [(low, self.size - 1 - low)]
        squares, channels = jnp.pad(jnp.square(inputs), edges), inputs.shape[-1]
        total: Any = sum(squares[..., i : i + channels] for i in range(self.size))
        return inputs * (self.k + self.alpha * total) ** -self.beta


class SqueezeExcitation(nnx.Module):
    """Scales each channel by a gate between 0 and 1, computed from the averages of all channels.

    The layer follows Hu, Shen and Sun 2018 ("Squeeze-and-excitation networks").

    Args:
      channels: the number of channels.
      reduction: the factor by which the hidden layer is narrower.
      rngs: the random streams for the initial values.
    """

    def __init__(self, channels: int, reduction: int = 16, *, rngs: nnx.Rngs):
        positive("reduction", [reduction])
        hidden = max(1, channels // reduction)
        self.squeeze = nnx.Linear(channels, hidden, rngs=rngs)
        self.excite = nnx.Linear(hidden, channels, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch *spatial channels"]) -> Float[Array, "batch *spatial channels"]:
        average = inputs.mean(range(1, inputs.ndim - 1), keepdims=True)
        return inputs * nnx.sigmoid(self.excite(nnx.relu(self.squeeze(average))))


class DropPath(Dropout):
    """Stochastic depth (Huang et al. 2016): in training, sets random examples to zero and scales up the rest.

    The arguments are those of `Dropout`; the rate is a fraction of the examples.
    """

    field = "drop_path"

    def drawn(self, inputs: Float[Array, "batch *shape"]) -> tuple[int, ...]:
        return inputs.shape[0], *(1,) * (inputs.ndim - 1)
