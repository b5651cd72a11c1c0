"""Metrics: what points are ranked by, as values of single examples."""

import math
from typing import ClassVar

from jax import Array
from jaxtyping import Float, Num

from cnnjax.options import Config, config


@config
class Metric(Config):
    """The base of metrics.

    A subclass implements `__call__(logits, labels)`, which returns one value an example, [batch]; what
    is recorded is their mean. Its columns have the name of the class, as `valid_accuracy`.
    """

    higher_is_better: ClassVar[bool] = True
    percent: ClassVar[bool] = False
    """Whether values are shares of 1, which are shown in percent."""
    needs_classes: ClassVar[bool] = False
    """Whether labels must be classes: other data are refused."""

    def __call__(
        self, logits: Float[Array, "batch *outputs"], labels: Num[Array, "batch *label"]
    ) -> Float[Array, " batch"]:
        raise NotImplementedError(f"{type(self).__name__}: a metric implements __call__(logits, labels)")

    @property
    def name(self) -> str:
        """In columns and records, as `accuracy` in `valid_accuracy`."""
        return self.kind().replace("-", "_")

    def cost(self, value: float) -> float:
        """The value, or its negative, so that less is better."""
        return -value if self.higher_is_better else value

    def chance(self, classes: int) -> float | None:
        """What guessing gives, of a metric that is 0 or 1 for each example; None where that is not known.

        Args:
          classes: number of classes, of which each is taken to be as frequent as any; 0 where labels are none.
        """
        return None

    def above_chance(self, value: float, classes: int, examples: int) -> float:
        """By how many binomial standard errors a mean over examples is better than guessing; infinite if not known."""
        guess = self.chance(classes)
        if guess is None or not 0 < guess < 1:
            return math.inf
        return (self.cost(guess) - self.cost(value)) / math.sqrt(guess * (1 - guess) / examples)


@config
class Accuracy(Metric):
    """The share of examples whose largest logit is that of their label (of the label's largest entry, where mixed)."""

    percent = True
    needs_classes = True

    def __call__(
        self, logits: Float[Array, "batch classes"], labels: Num[Array, "batch *mixed"]
    ) -> Float[Array, " batch"]:
        best = labels.argmax(-1) if labels.shape == logits.shape else labels
        return (logits.argmax(-1) == best).astype(logits.dtype)

    def chance(self, classes: int) -> float | None:
        return 1 / classes if classes else None
