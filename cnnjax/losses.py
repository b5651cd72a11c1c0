"""Losses of single examples, before any mean."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Num

from cnnjax.options import Config, config, number


@config
class Loss(Config):
    """The base of losses.

    A subclass implements `__call__(logits, labels)`, which returns one loss an example, [batch].
    `logits` are what the network returns. `labels` are as the data set stores them, one row an example;
    an augmentation that mixes classes makes them [batch, classes].
    """

    needs_classes: ClassVar[bool] = False
    """Whether labels must be classes: other data are refused."""

    def __call__(
        self, logits: Float[Array, "batch *outputs"], labels: Num[Array, "batch *label"]
    ) -> Float[Array, " batch"]:
        raise NotImplementedError(f"{type(self).__name__}: a loss implements __call__(logits, labels)")

    def for_evaluation(self) -> "Loss":
        """The loss that is reported of validation and test splits: without what only regularizes training."""
        return self


def targets(logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]) -> Float[Array, "batch classes"]:
    """Labels as a distribution over classes: one-hot, unless they are one already."""
    return labels if labels.shape == logits.shape else jax.nn.one_hot(labels, logits.shape[-1])


@config
class CrossEntropy(Loss):
    """-sum(target * log softmax(logits)), in nats.

    The target is smoothed after Szegedy et al. 2016 ("Rethinking the Inception architecture",
    section 7), in training only.

    >>> CrossEntropy()(jnp.zeros((1, 4)), jnp.array([2]))  # log 4
    Array([1.3862944], dtype=float32)
    """

    needs_classes = True
    label_smoothing: float = number(0.0, "share of the target spread over all classes", least=0, below=1)

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        smoothed = optax.smooth_labels(targets(logits, labels), self.label_smoothing)
        return optax.softmax_cross_entropy(logits, smoothed)

    def for_evaluation(self) -> Loss:
        """Without smoothing."""
        return CrossEntropy()


@config
class SquaredError(Loss):
    """1/2 sum((target - softmax(logits))^2); the target is smoothed as for `CrossEntropy`."""

    needs_classes = True
    label_smoothing: float = number(0.0, "share of the target spread over all classes", least=0, below=1)

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        smoothed = optax.smooth_labels(targets(logits, labels), self.label_smoothing)
        return 0.5 * jnp.square(smoothed - jax.nn.softmax(logits)).sum(-1)

    def for_evaluation(self) -> Loss:
        """Without smoothing."""
        return SquaredError()
