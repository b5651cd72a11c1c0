"""Losses of single examples, before any mean."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from cnnjax.config import Hparams


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], hparams: Hparams
) -> Float[Array, " batch"]:
    """-sum(target * log softmax(logits)), in nats; the target is smoothed by `label_smoothing`.

    Smoothing after Szegedy et al. 2016 ("Rethinking the Inception architecture", section 7).
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), hparams.label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def squared_error(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], hparams: Hparams
) -> Float[Array, " batch"]:
    """1/2 sum((target - softmax(logits))^2); the target is smoothed as for `cross_entropy`."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), hparams.label_smoothing)
    return 0.5 * jnp.square(targets - jax.nn.softmax(logits)).sum(-1)


LOSSES: Mapping[str, Callable[..., Array]] = {"cross_entropy": cross_entropy, "squared_error": squared_error}
