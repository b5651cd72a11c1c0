"""Projections of activations to two dimensions."""

import numpy as np
from jaxtyping import Float, Num

from cnnjax.options import choose

METHODS = ("pca", "tsne")


def projection(
    features: Num[np.ndarray, "examples *features"], method: str = "pca", seed: int = 0, perplexity: float = 30.0
) -> Float[np.ndarray, "examples 2"]:
    """Projects examples to two dimensions with scikit-learn.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> features = np.random.default_rng(0).normal(size=(6, 4, 4, 8))  # the output of a layer
    >>> look.projection(features).shape
    (6, 2)

    Args:
      features: the features of each example, such as the output of a layer; they are flattened.
      method: `pca`, the two directions of largest variance (Pearson 1901), or `tsne`, which preserves
        neighborhoods (van der Maaten, Hinton 2008, "Visualizing data using t-SNE") and starts from `pca`.
      seed: the random seed of t-SNE.
      perplexity: the approximate number of neighbors in t-SNE, reduced to a third of the examples if there are few.

    Raises:
      ValueError: if the method is unknown, or there are fewer than 3 examples or 2 features.
    """
    choose("method", method, dict.fromkeys(METHODS))
    table = np.asarray(features, np.float32).reshape(len(features), -1)
    if len(table) < 3 or table.shape[1] < 2:
        raise ValueError(f"features: {list(np.shape(features))}: must have at least 3 examples with 2 features each")
    if method == "pca":
        from sklearn.decomposition import PCA

        return PCA(2, svd_solver="full").fit_transform(table)
    from sklearn.manifold import TSNE

    return TSNE(2, perplexity=min(perplexity, (len(table) - 1) / 3), init="pca", random_state=seed).fit_transform(table)
