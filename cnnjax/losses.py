"""Losses per example, without a mean over the batch."""

from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Num

from cnnjax.data import Spec
from cnnjax.options import Config, config, number, static, text

LossFunction = Callable[[Float[Array, "batch *outputs"], Num[Array, "batch *label"]], Float[Array, " batch"]]


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

    def on(self, spec: Spec) -> "Loss | LossFunction":
        """Returns the loss in training on a data set: a function of logits and labels."""
        return self

    def for_evaluation(self) -> "Loss":
        """Returns the loss for validation and test, without regularization such as label smoothing."""
        return self


def targets(logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]) -> Float[Array, "batch classes"]:
    """Returns labels as distributions over classes: one-hot, unless they already have a column per class."""
    return labels if labels.shape == logits.shape else jax.nn.one_hot(labels, logits.shape[-1])


@config
class CrossEntropy(Loss):
    """The softmax cross-entropy in nats, -sum(target * log softmax(logits)).

    Label smoothing (Szegedy et al. 2016, "Rethinking the Inception architecture", section 7) and class
    weights apply only in training. The loss of an example is multiplied by the weight of its class, or the
    mean weight of its classes if they are mixed. `balanced` weights are examples / (classes * count), which
    is `compute_class_weight` of scikit-learn.

    >>> CrossEntropy()(jnp.zeros((1, 4)), jnp.array([2]))  # log 4
    Array([1.3862944], dtype=float32)
    """

    needs_classes = True
    label_smoothing: float = number(0.0, "fraction of the target spread over all classes", least=0, below=1)
    class_weight: tuple[float, ...] | Literal["balanced"] | None = static(
        None, "weights of the classes in training: none, balanced, or one for each class such as 1,2,0.5"
    )

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        smoothed = optax.smooth_labels(targets(logits, labels), self.label_smoothing)
        return optax.softmax_cross_entropy(logits, smoothed)

    def on(self, spec: Spec) -> Loss | LossFunction:
        """Returns the loss with the class weights.

        Raises:
          ValueError: if there is not one weight of at least 0 for each class, or the class counts are not known.
        """
        if self.class_weight is None:
            return self
        weights = self.weights(spec)
        return lambda logits, labels: self(logits, labels) * (targets(logits, labels) @ weights)

    def weights(self, spec: Spec) -> Float[Array, " classes"]:
        """Returns the weights of the classes of a data set."""
        given, classes = self.class_weight, len(spec.classes)
        if given == "balanced":
            if spec.counts is None:
                raise ValueError(
                    "class_weight: balanced: the class counts are not known: create the data with Dataset.of"
                )
            present = spec.counts > 0
            return jnp.where(present, spec.counts.sum() / (present.sum() * jnp.maximum(spec.counts, 1)), 0)
        if not isinstance(given, tuple) or len(given) != classes or min(given) < 0:
            words = f"{classes} weights of at least 0, one for each class" if classes else "none, without classes"
            raise ValueError(f"class_weight: {text(given)}: must be balanced or {words}")
        return jnp.asarray(given, jnp.float32)

    def for_evaluation(self) -> Loss:
        """Returns the loss without label smoothing and class weights."""
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
