"""Evaluation of a classifier: confusion matrix, precision and recall, calibration, and mistakes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class PerClass(NamedTuple):
    """Precision, recall and F1 of each class.

    Precision is NaN for a class that is never predicted, and recall for a class without examples.
    """

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]
    """The number of examples of each class."""


class Calibration(NamedTuple):
    """Predictions in bins of equal width by confidence, the probability of the predicted class."""

    edges: Float[np.ndarray, " edges"]
    examples: Int[np.ndarray, " bins"]
    """The number of predictions in each bin."""
    confidence: Float[np.ndarray, " bins"]
    """The mean confidence of each bin; NaN for an empty bin."""
    accuracy: Float[np.ndarray, " bins"]
    """The fraction of correct predictions in each bin; NaN for an empty bin."""
    error: float
    """The expected calibration error: the mean gap between accuracy and confidence, weighted by `examples`."""


class Mistakes(NamedTuple):
    """Wrong predictions, in descending order of confidence."""

    examples: Int[np.ndarray, " count"]
    """The indices of the examples."""
    labels: Int[np.ndarray, " count"]
    predictions: Int[np.ndarray, " count"]
    confidence: Float[np.ndarray, " count"]


def confusion(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> Int[np.ndarray, "classes classes"]:
    """Computes the confusion matrix: the number of examples of each class (row) by predicted class (column).

    >>> import numpy as np
    >>> from cnnjax import look
    >>> look.confusion(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1]))
    array([[1, 0],
           [1, 1]])

    Args:
      probabilities: the probability or logit of each class.
      labels: the index of the class of each example.

    Raises:
      ValueError: if there are no examples, their number differs from the number of labels, or a label is not a
        class.
    """
    scores, labels = _checked(probabilities, labels)
    classes = scores.shape[1]
    return np.bincount(classes * labels + scores.argmax(1), minlength=classes**2).reshape(classes, classes)


def per_class(probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]) -> PerClass:
    """Computes precision, recall and F1 of each class. The arguments and errors are those of `confusion`.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> look.per_class(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1])).precision
    array([0.5, 1. ])
    """
    counts = confusion(probabilities, labels)
    right, support, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore"):
        return PerClass(right / predicted, right / support, 2 * right / (support + predicted), support)


def calibration(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"], bins: int = 15
) -> Calibration:
    """Compares confidence with accuracy, and computes the expected calibration error.

    See Guo, Pleiss, Sun, Weinberger 2017 ("On calibration of modern neural networks", equations 2 and 3).

    >>> import numpy as np
    >>> from cnnjax import look
    >>> found = look.calibration(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), bins=2)
    >>> round(found.error, 6)  # |1 / 2 - 0.85|
    0.35

    Args:
      probabilities: the probability of each class; each row sums to 1.
      labels: the index of the class of each example.
      bins: the number of bins between 0 and 1; each includes its upper edge.

    Raises:
      ValueError: as in `confusion`, or if a row does not sum to 1, or `bins` is less than 1.
    """
    scores, labels = _checked(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins: {bins}: must be at least 1")
    _sums_to_one(scores)
    edges = np.linspace(0, 1, bins + 1)
    confidence, correct = scores.max(1), scores.argmax(1) == labels
    place = np.clip(np.searchsorted(edges, confidence) - 1, 0, bins - 1)
    count, sure, right = (np.bincount(place, values, bins) for values in (np.ones(len(place)), confidence, correct))
    filled = np.where(count > 0, count, np.nan)
    error = float(np.abs(right - sure).sum() / len(labels))
    return Calibration(edges, count.astype(int), sure / filled, right / filled, error)


def mistakes(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"], count: int | None = None
) -> Mistakes:
    """Returns the wrong predictions in descending order of confidence, at most `count`; by default all.

    The other arguments and the errors are those of `calibration`.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> look.mistakes(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 0])).examples
    array([1, 2])
    """
    scores, labels = _checked(probabilities, labels)
    _sums_to_one(scores)
    predictions, confidence = scores.argmax(1), scores.max(1)
    wrong = np.flatnonzero(predictions != labels)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return Mistakes(chosen, labels[chosen], predictions[chosen], confidence[chosen])


def _checked(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        shapes = f"probabilities: {list(scores.shape)}, labels: {list(labels.shape)}"
        raise ValueError(f"{shapes}: must be [examples, classes] and [examples], with at least one example")
    wrong = labels[(labels < 0) | (labels >= scores.shape[1])]
    if len(wrong):
        raise ValueError(f"labels: {wrong[0]}: must be from 0 to {scores.shape[1] - 1}")
    return scores, labels


def _sums_to_one(scores: np.ndarray) -> None:
    sums = scores.sum(1)
    wrong = np.flatnonzero(~np.isclose(sums, 1, atol=1e-3) | (scores.min(1) < 0))
    if len(wrong):
        raise ValueError(
            f"probabilities: example {wrong[0]}: must be at least 0 and sum to 1 (sum: {sums[wrong[0]]:.4g}): "
            "apply jax.nn.softmax to logits"
        )
