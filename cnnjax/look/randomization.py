"""Whether an attribution depends on what a network has learned."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from cnnjax.look.layers import outline
from cnnjax.networks import Network, Variables


def randomized(
    network: Network, variables: Variables, key: Key[Array, ""], inputs: Float[Array, "batch *shape"]
) -> Iterator[tuple[str, Variables]]:
    """The network with its layers set back to random values from the output down, one more at a time.

    The check of Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim 2018 ("Sanity checks for saliency maps",
    section 3.1): an attribution that hardly changes does not show what was learned.

    >>> [layer for layer, _ in look.randomized(network, variables, key, images)]
    ['dense.2', 'dense.1', 'dense.0', 'c3', 'c1']

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      key: of the random values, which the network draws as before training.
      inputs: a batch, as the network takes it; only its shape and type matter.

    Yields:
      The path of each layer that has parameters of its own, in the opposite order of calls (those of no
      layer come last, under an empty path), and the variables with it and all layers above it random.
    """
    fresh = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(jax.jit(network.init)(key, inputs))}
    owners = {_owner(name) for name in fresh if name.startswith("params.")}
    order = [name for name in reversed(outline(network, variables, inputs)) if name in owners]
    done: set[str] = set()

    def drawn(path: Any, learned: Array) -> Array:
        return fresh[_name(path)] if _owner(_name(path)) in done else learned

    for layer in [*order, *sorted(owners - set(order), reverse=True)]:
        done.add(layer)
        yield layer, jax.tree.map_with_path(drawn, variables)


def _name(path: Any) -> str:
    """Of a variable, as `params.c1.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _owner(name: str) -> str:
    """The path of the layer that a variable belongs to."""
    return name.partition(".")[2].rpartition(".")[0]


def rank_correlation(
    first: Float[Any, "batch *shape"], second: Float[Any, "batch *shape"]
) -> Float[np.ndarray, " batch"]:
    """Spearman's rank correlation of each example's values; NaN where all of them are equal.

    >>> rank_correlation(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 4.0, 9.0]]))
    array([1.])
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks = [rankdata(np.reshape(values, (len(values), -1)), axis=1) for values in (first, second)]
    a, b = (rank - rank.mean(1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.where(scale > 0, scale, np.nan)
