"""Augmentations that mix two examples and their labels.

The partner of an example is the one before it in the batch. Since a batch is a random part of the
training split, this is a random pairing.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, Num

from cnnjax.augmentation.base import GRIDS, NUMBERS, Augmentation, boxes, for_each
from cnnjax.data import Batch
from cnnjax.options import config, number


def symmetric_beta(key: Key[Array, ""], alpha: Num[Array, ""] | float, count: int) -> Float[Array, " count"]:
    """Draws from Beta(alpha, alpha); with alpha = 0, from its limit, which is 0 or 1.

    It needs no rejection: if T has Student's t distribution with 2 alpha degrees of freedom, which is drawn
    as by Bailey (1994, "Polar generation of random variates with the t-distribution"), then
    (1 + T / sqrt(2 alpha + T^2)) / 2 has this distribution.

    Args:
      key: the key of the draws.
      alpha: the parameter of the distribution, at least 0; may be a tracer.
      count: the number of draws.
    """
    radius, angle = jax.random.split(key)
    exponential = jnp.maximum(jax.random.exponential(radius, (count,)), 1e-7)
    cosine = jnp.cos(2 * jnp.pi * jax.random.uniform(angle, (count,)))
    squared = jnp.expm1(exponential / jnp.maximum(alpha, 1e-30)) * jnp.maximum(cosine**2, 1e-12)  # T^2 / (2 alpha)
    return 0.5 + 0.5 * jnp.sign(cosine) / jnp.sqrt(1 + 1 / squared)


def _partners(array: Num[Array, "batch *shape"]) -> Num[Array, "batch *shape"]:
    return jnp.roll(array, 1, 0)


def _mixed(array: Num[Array, "batch *shape"], share: Float[Array, " batch"]) -> Float[Array, "batch *shape"]:
    share = for_each(share, array)
    return (1 - share) * array + share * _partners(array)


def _soft(batch: Batch) -> Float[Array, "batch *label"]:
    """Returns labels that can be mixed: a distribution over classes, or numbers."""
    classes = len(batch.spec.classes)
    if classes and batch.labels.ndim == 1:
        return jax.nn.one_hot(batch.labels, classes)
    return batch.labels.astype(jnp.float32)


@config
class Mixup(Augmentation):
    """Mixes inputs and labels of two examples (Zhang et al. 2018).

    The weight of each example is the larger of lambda and 1 - lambda with lambda from Beta(alpha, alpha),
    drawn for each pair. Which of a pair comes first is arbitrary, so the distribution of mixed examples is
    that of the paper, which uses alpha = 1 on CIFAR-10. With alpha = 0, nothing is mixed. Labels become
    [batch, classes]; numbers of a regression are mixed like inputs.
    """

    needs = NUMBERS
    alpha: float = number(0.2, "parameter of the distribution Beta(alpha, alpha) of the weights", least=0)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        weight = symmetric_beta(key, self.alpha, len(batch.inputs))
        share = jnp.minimum(weight, 1 - weight)
        return batch._replace(inputs=_mixed(batch.inputs, share), labels=_mixed(_soft(batch), share))


@config
class CutMix(Augmentation):
    """Replaces a box by that of another example, and mixes the labels by area (Yun et al. 2019).

    The box covers 1 - lambda of the input, with lambda from Beta(alpha, alpha); its center is uniform over
    all pixels, and only what lies inside of the input is replaced and counted. With alpha = 0 or p = 0,
    nothing is mixed. Labels become [batch, classes].
    """

    word = "cutmix"
    needs = GRIDS
    alpha: float = number(1.0, "parameter of the distribution Beta(alpha, alpha) of the area", least=0)
    p: float = number(0.5, "probability that an example is mixed", least=0, most=1)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        area_key, coin_key, box_key = jax.random.split(key, 3)
        inputs, count, spatial = batch.inputs, len(batch.inputs), batch.inputs.shape[1:-1]
        chosen = jax.random.bernoulli(coin_key, self.p, (count,)) & (self.alpha > 0)
        area = jnp.where(chosen, 1 - symmetric_beta(area_key, self.alpha, count), 0)
        replaced = boxes(box_key, inputs, [jnp.floor(size * area ** (1 / len(spatial))) for size in spatial])
        share = replaced.mean(range(1, inputs.ndim))
        return batch._replace(inputs=jnp.where(replaced, _partners(inputs), inputs), labels=_mixed(_soft(batch), share))
