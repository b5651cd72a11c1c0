"""How much each token of a text contributes to the activation of a unit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from cnnjax.look.layers import captured, outline
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


def token_contributions(
    network: Network,
    variables: Variables,
    inputs: Int[Array, "batch length"],
    layer: str,
    units: Int[Any, " batch"],
    positions: Int[Any, "batch spatial"],
) -> Float[Array, "batch length"]:
    """Computes the gradient of a unit with respect to the embedding of each token, times the embedding.

    For a convolution of the embedding, the sum over the tokens is the activation without the bias. It is zero for
    tokens outside of the window of the unit.

    >>> import jax
    >>> from cnnjax import TextCNN, functional, look
    >>> network = functional(lambda rngs, example: TextCNN(50, 2, kernels=(3,), filters=4, rngs=rngs))
    >>> texts = jax.random.randint(jax.random.key(0), (6, 9), 1, 50)
    >>> variables = network.init(jax.random.key(1), texts)
    >>> units, positions = jax.numpy.zeros(6, int), jax.numpy.full((6, 1), 4)
    >>> found = look.token_contributions(network, variables, texts, "convolutions.0", units, positions)
    >>> (found != 0).sum(1).tolist()
    [3, 3, 3, 3, 3, 3]

    Args:
      network: a network of texts with a layer `nnx.Embed`, as returned by `cnnjax.functional`.
      variables: its variables.
      inputs: a batch of tokens.
      layer: the path of a layer, as listed by `outline`.
      units: the unit of each text.
      positions: its position in the output of the layer, as in `Top`; [batch, 0] if the output has no positions.

    Raises:
      ValueError: if the layer does not exist, or the network has no embedding.
    """
    known = outline(network, variables, inputs)
    choose("layer", layer, known)
    embedding = next((name for name, found in known.items() if found.kind == "Embed"), None)
    if embedding is None:
        raise ValueError(f"network: has no nnx.Embed, only {', '.join(found.kind for found in known.values())}")
    nothing = jnp.zeros((len(inputs), *known[embedding].shape))
    return _contributions(
        network, layer, embedding, variables, inputs, jnp.asarray(units), jnp.asarray(positions), nothing
    )


@partial(jax.jit, static_argnames=("network", "layer", "embedding"))
def _contributions(
    network: Network,
    layer: str,
    embedding: str,
    variables: Variables,
    inputs: Array,
    units: Array,
    positions: Array,
    nothing: Array,
) -> Array:
    def activations(change: Array) -> tuple[Array, Array]:
        found = captured(network, variables, inputs, {embedding: change})[1]
        return found[layer][(jnp.arange(len(inputs)), *positions.T, units)].sum(), found[embedding]

    gradient, embedded = jax.grad(activations, has_aux=True)(nothing)
    return (gradient * embedded).sum(-1)
