"""Activations as points in a plane."""

import numpy as np
from jaxtyping import Float, Num

from cnnjax.options import choose

METHODS = ("pca", "tsne")


def projection(
    features: Num[np.ndarray, "examples *features"], method: str = "pca", seed: int = 0, perplexity: float = 30.0
) -> Float[np.ndarray, "examples 2"]:
    """Examples as points in a plane, by scikit-learn.

    >>> maps = look.activations(network, variables, images)["activation:2"]
    >>> look.projection(maps, "tsne").shape
    (360, 2)

    Args:
      features: what a layer puts out for each example; flattened.
      method: `pca`, the two directions of the greatest variance (Pearson 1901), or `tsne`, which keeps
        near what is near (van der Maaten, Hinton 2008, "Visualizing data using t-SNE") and begins with `pca`.
      seed: of t-SNE.
      perplexity: of t-SNE, about how many neighbors count; at most a third of the examples is used.

    Raises:
      ValueError: the method is none of these, or there are fewer than 3 examples or 2 features.
    """
    choose("method", method, dict.fromkeys(METHODS))
    table = np.asarray(features, np.float32).reshape(len(features), -1)
    if len(table) < 3 or table.shape[1] < 2:
        raise ValueError(f"features: {list(np.shape(features))}: must be at least 3 examples with 2 features each")
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(table)
    from sklearn.manifold import TSNE

    return TSNE(2, perplexity=min(perplexity, (len(table) - 1) / 3), init="pca", random_state=seed).fit_transform(table)
