"""Metrics: functions of logits and labels that rank points."""

import math
from typing import ClassVar

from jax import Array
from jaxtyping import Float, Num

from cnnjax.options import Config, config


@config
class Metric(Config):
    """Base class of metrics.

    A subclass implements `__call__(logits, labels)`, which returns one value per example, [batch]; records
    contain the mean. Columns are named after the class, such as `valid_accuracy`.
    """

    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = False
    """Whether values are fractions, which are shown in percent."""
    needs_classes: ClassVar[bool] = False
    """Whether the labels must be classes."""

    def __call__(
        self, logits: Float[Array, "batch *outputs"], labels: Num[Array, "batch *label"]
    ) -> Float[Array, " batch"]:
        raise NotImplementedError(f"{type(self).__name__}: a metric must implement __call__(logits, labels)")

    @property
    def name(self) -> str:
        """The name in columns and records, such as `accuracy` in `valid_accuracy`."""
        return self.kind().replace("-", "_")

    def cost(self, value: float) -> float:
        """Returns the value with the sign for which lower is better."""
        return -value if self.higher_is_better else value

    def chance(self, classes: int) -> float | None:
        """Returns the expected value under random guessing; None if unknown.

        It must be None for metrics that are not 0 or 1 for each example.

        Args:
          classes: the number of classes, assumed to be equally frequent; 0 if the labels are not classes.
        """
        return None

    def above_chance(self, value: float, classes: int, examples: int) -> float:
        """Returns how many binomial standard errors a mean over examples is above chance; infinite if unknown."""
        guess = self.chance(classes)
        if guess is None or not 0 < guess < 1:
            return math.inf
        return (self.cost(guess) - self.cost(value)) / math.sqrt(guess * (1 - guess) / examples)


@config
class Accuracy(Metric):
    """Fraction of examples whose largest logit is that of the label; mixed labels count as their largest entry."""

    percent = True
    needs_classes = True

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        best = labels.argmax(-1) if labels.shape == logits.shape else labels
        return (logits.argmax(-1) == best).astype(logits.dtype)

    def chance(self, classes: int) -> float | None:
        return 1 / classes if classes else None
