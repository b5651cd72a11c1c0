"""Augmentations of text, as tokens [batch, length]."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from cnnjax.augmentation.base import Augmentation
from cnnjax.data import PADDING, UNKNOWN, Batch
from cnnjax.options import config, number


@config
class TokenDropout(Augmentation):
    """Replaces random tokens by the unknown token, `cnnjax.data.UNKNOWN` (word dropout, Iyyer et al. 2015).

    Padding, `cnnjax.data.PADDING`, stays.
    """

    needs = ("tokens",)
    p: float = number(0.1, "probability that a token is replaced", least=0, most=1)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        tokens = batch.inputs
        dropped = jax.random.bernoulli(key, self.p, tokens.shape) & (tokens != PADDING)
        return batch._replace(inputs=jnp.where(dropped, UNKNOWN, tokens).astype(tokens.dtype))
