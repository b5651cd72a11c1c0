"""Sanity checks: whether an attribution depends on the trained parameters."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from cnnjax.devices import jit
from cnnjax.look.layers import outline
from cnnjax.networks import Network, Variables


def randomized(
    network: Network, variables: Variables, key: Key[Array, ""], inputs: Float[Array, "batch *shape"]
) -> Iterator[tuple[str, Variables]]:
    """Randomizes the layers of a network one after another, starting at the output.

    An attribution that hardly changes does not depend on the trained parameters (Adebayo, Gilmer, Muelly,
    Goodfellow, Hardt, Kim 2018, "Sanity checks for saliency maps", section 3.1).

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> [layer for layer, _ in look.randomized(network, variables, jax.random.key(2), images)]
    ['dense.0', 'blocks.0.convolutions.0']

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      key: seeds the random values, which have the distribution of the initial values.
      inputs: a batch of inputs; only its shape and dtype are used.

    Yields:
      The path of each layer with parameters, in reverse order of calls, and variables in which this layer and all
      previous ones are random. Parameters outside of layers come last, under an empty path.
    """
    fresh = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(jit(network.init)(key, inputs))}
    owners = {_owner(name) for name in fresh if name.startswith("params.")}
    order = [name for name in reversed(outline(network, variables, inputs)) if name in owners]
    done: set[str] = set()

    def drawn(path: Any, learned: Array) -> Array:
        return fresh[_name(path)] if _owner(_name(path)) in done else learned

    for layer in [*order, *sorted(owners - set(order), reverse=True)]:
        done.add(layer)
        yield layer, jax.tree.map_with_path(drawn, variables)


def _name(path: Any) -> str:
    """Returns the name of a variable, such as `params.c1.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _owner(name: str) -> str:
    """Returns the path of the layer that a variable belongs to."""
    return name.partition(".")[2].rpartition(".")[0]


def rank_correlation(
    first: Float[Any, "batch *shape"], second: Float[Any, "batch *shape"]
) -> Float[np.ndarray, " batch"]:
    """Computes Spearman's rank correlation for each example; NaN if all values of an example are equal.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> look.rank_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 4.0, 9.0]]))
    array([1.])
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks = [rankdata(np.reshape(values, (len(values), -1)), axis=1) for values in (first, second)]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(scale > 0, scale, np.nan)
