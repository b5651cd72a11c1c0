"""How a classifier is right and wrong."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class PerClass(NamedTuple):
    """Of each class; NaN where a class is never predicted (precision) or has no example (recall)."""

    precision: Float[np.ndarray, " classes"]
    recall: Float[np.ndarray, " classes"]
    f1: Float[np.ndarray, " classes"]
    support: Int[np.ndarray, " classes"]
    """Examples of the class."""


class Calibration(NamedTuple):
    """Predictions in bins of equal width by their confidence, the probability of the predicted class."""

    edges: Float[np.ndarray, " edges"]
    examples: Int[np.ndarray, " bins"]
    """How many there are in each bin."""
    confidence: Float[np.ndarray, " bins"]
    """Mean of each bin; NaN for an empty one."""
    accuracy: Float[np.ndarray, " bins"]
    """Share of correct predictions; NaN for an empty bin."""
    error: float
    """The expected calibration error: the mean gap between accuracy and confidence, weighted by `examples`."""


class Mistakes(NamedTuple):
    """Wrong predictions, the most confident first."""

    examples: Int[np.ndarray, " count"]
    labels: Int[np.ndarray, " count"]
    predictions: Int[np.ndarray, " count"]
    confidence: Float[np.ndarray, " count"]


def confusion(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> Int[np.ndarray, "classes classes"]:
    """How many examples of each class (row) are predicted as each class (column).

    >>> confusion(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1]))
    array([[1, 0],
           [1, 1]])

    Args:
      probabilities: of each class; logits do as well.
      labels: integers that count the classes.

    Raises:
      ValueError: there is not one label for each example, or a label is no class.
    """
    from sklearn.metrics import confusion_matrix

    scores, labels = _checked(probabilities, labels)
    return confusion_matrix(labels, scores.argmax(1), labels=np.arange(scores.shape[1]))


def per_class(probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]) -> PerClass:
    """Precision, recall and F1 of each class. Arguments and errors are those of `confusion`."""
    from sklearn.metrics import precision_recall_fscore_support

    scores, labels = _checked(probabilities, labels)
    classes = np.arange(scores.shape[1])
    return PerClass(*precision_recall_fscore_support(labels, scores.argmax(1), labels=classes, zero_division=np.nan))


def calibration(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"], bins: int = 15
) -> Calibration:
    """Whether predictions of a confidence are right as often as it says.

    Guo, Pleiss, Sun, Weinberger 2017 ("On calibration of modern neural networks", equations 2 and 3).

    >>> found = calibration(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), bins=2)
    >>> round(found.error, 6)  # |1 / 2 - 0.85|
    0.35

    Args:
      probabilities: of each class; every row sums to 1.
      labels: integers that count the classes.
      bins: number of bins from 0 to 1; each holds its upper edge.

    Raises:
      ValueError: as `confusion`; or a row does not sum to 1, or `bins` is below 1.
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
    """The wrong predictions with the greatest confidence, at most `count`; by default all.

    Arguments and errors are those of `calibration`.
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
        raise ValueError(f"{shapes}: must be [examples, classes] and a label an example, at least one")
    wrong = labels[(labels < 0) | (labels >= scores.shape[1])]
    if len(wrong):
        raise ValueError(f"labels: {wrong[0]}: must be from 0 to {scores.shape[1] - 1}")
    return scores, labels


def _sums_to_one(scores: np.ndarray) -> None:
    sums = scores.sum(1)
    wrong = np.flatnonzero(~np.isclose(sums, 1, atol=1e-3) | (scores.min(1) < 0))
    if len(wrong):
        raise ValueError(
            f"probabilities: example {wrong[0]}: sums to {sums[wrong[0]]:.4g}: apply jax.nn.softmax to logits"
        )
