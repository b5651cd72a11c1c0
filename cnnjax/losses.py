"""Losses per example, without a mean over the batch."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Num

from cnnjax.options import Config, config, number


@config
class Loss(Config):
    """The base class of losses.

    A subclass implements `__call__(logits, labels)`, which returns one loss per example, [batch].
    `logits` are the outputs of the network. `labels` are as stored in the data set, with one row per
    example, or [batch, classes] after an augmentation that mixes classes.
    """

    needs_classes: ClassVar[bool] = False
    """Whether the labels must be classes."""

    def __call__(
        self, logits: Float[Array, "batch *outputs"], labels: Num[Array, "batch *label"]
    ) -> Float[Array, " batch"]:
        raise NotImplementedError(f"{type(self).__name__}: a loss must implement __call__(logits, labels)")

    def for_evaluation(self) -> "Loss":
        """Returns the loss for validation and test, without regularization such as label smoothing."""
        return self


def targets(logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]) -> Float[Array, "batch classes"]:
    """Returns labels as distributions over classes: one-hot, unless they already have a column per class."""
    return labels if labels.shape == logits.shape else jax.nn.one_hot(labels, logits.shape[-1])


@config
class CrossEntropy(Loss):
    """The softmax cross-entropy in nats, -sum(target * log softmax(logits)).

    Label smoothing (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7) applies only
    in training.

    >>> CrossEntropy()(jnp.zeros((1, 4)), jnp.array([2]))  # log 4
    Array([1.3862944], dtype=float32)
    """

    needs_classes = True
    label_smoothing: float = number(0.0, "fraction of the target spread over all classes", least=0, below=1)

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        smoothed = optax.smooth_labels(targets(logits, labels), self.label_smoothing)
        return optax.softmax_cross_entropy(logits, smoothed)

    def for_evaluation(self) -> Loss:
        """Returns the loss without label smoothing."""
        return CrossEntropy()


@config
class SquaredError(Loss):
    """The squared error of the class probabilities, 1/2 sum((target - softmax(logits))^2).

    Label smoothing applies as in `CrossEntropy`.

    >>> SquaredError()(jnp.zeros((1, 2)), jnp.array([1]))
    Array([0.25], dtype=float32)
    """

    needs_classes = True
    label_smoothing: float = number(0.0, "fraction of the target spread over all classes", least=0, below=1)

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        smoothed = optax.smooth_labels(targets(logits, labels), self.label_smoothing)
        return 0.5 * jnp.square(smoothed - jax.nn.softmax(logits)).sum(-1)

    def for_evaluation(self) -> Loss:
        """Returns the loss without label smoothing."""
        return SquaredError()
