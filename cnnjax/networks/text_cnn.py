"""The convolutional network of Kim (2014) for sentences."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from cnnjax.networks.base import NetworkConfig, WithDropout
from cnnjax.networks.layers import Activation, Dropout, Maps, positive
from cnnjax.networks.layers import dense as dense_layers
from cnnjax.options import config, number, static

PADDING = 0
"""The token that fills a text up to its length, as in `cnnjax.data`."""


class TextCNN(nnx.Module):
    """An embedding of tokens, convolutions of several sizes side by side, their maxima over time, and a dense layer.

    The network follows Kim 2014 ("Convolutional neural networks for sentence classification"), with an embedding
    that starts at random (CNN-rand). Padding has the embedding zero. A filter is applied wherever its window has at
    least one token that is not padding, also beyond both ends of the text, so that a text of one token is long
    enough for every kernel. The maximum over time is that over these windows: it does not depend on the padding.

    >>> network = TextCNN(tokens=1000, classes=2, rngs=nnx.Rngs(0))
    >>> network(jnp.ones((8, 20), int)).shape
    (8, 2)

    Args:
      tokens: the size of the vocabulary, with padding (0).
      classes: the number of logits.
      embedding: the number of features of a token.
      kernels: the sizes of the convolutions, in tokens.
      filters: the number of filters of each convolution.
      dropout: the fraction of the maxima that training sets to zero; None for no dropout.
      rngs: the random streams for initial values and dropout.

    Raises:
      ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        tokens: int,
        classes: int,
        *,
        embedding: int = 128,
        kernels: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dropout: float | None = 0.5,
        rngs: nnx.Rngs,
    ):
        positive("tokens", [tokens]), positive("embedding", [embedding]), positive("filters", [filters])
        self.kernels = positive("kernels", kernels)
        if not self.kernels:
            raise ValueError("kernels: none: give at least one size, such as 3")
        self.embedding = nnx.Embed(tokens, embedding, rngs=rngs)
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        for kernel in self.kernels:
            maps = Maps((1, embedding))
            self.convolutions.append(maps.convolution(filters, kernel, padding=kernel - 1, rngs=rngs))
        self.activation = Activation("relu")
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.dense = dense_layers((len(self.kernels), filters), (classes,), rngs=rngs)

    def __call__(self, inputs: Int[Array, "batch length"]) -> Float[Array, "batch classes"]:
        words = inputs != PADDING
        x = jnp.where(words[..., None], self.embedding(inputs), 0)
        maxima = []
        for kernel, convolution in zip(self.kernels, self.convolutions, strict=True):
            found = jnp.where(_with_words(words, kernel)[..., None], convolution(x), -jnp.inf)
            maxima.append(self.activation(found.max(1)))
        x = jnp.stack(maxima, 1)
        [last] = self.dense
        return last(x if self.dropout is None else self.dropout(x))


def _with_words(words: Bool[Array, "batch length"], kernel: int) -> Bool[Array, "batch windows"]:
    """Returns which windows have a word, from the one that ends at the first token to the one that starts at the last.

    >>> _with_words(jnp.array([[True, False, False]]), 2)
    Array([[ True,  True, False, False]], dtype=bool)
    """
    padded = jnp.pad(words, ((0, 0), (kernel - 1, kernel - 1)))
    windows = words.shape[1] + kernel - 1
    return jnp.stack([jax.lax.slice_in_dim(padded, i, i + windows, axis=1) for i in range(kernel)]).any(0)


@config
class TextCNNConfig(WithDropout, NetworkConfig):
    """The configuration of a `TextCNN`."""

    word = "text-cnn"
    module = TextCNN
    for_text = True
    embedding: int = static(128, "number of features of a token", least=1)
    kernels: tuple[int, ...] = static((3, 4, 5), "sizes of the convolutions, in tokens")
    filters: int = static(100, "number of filters of each convolution", least=1)
    dropout: float | None = number(0.5, "fraction of the maxima over time set to zero", least=0, below=1)
