"""Optax SGD built from numbers that may be tracers, so that a lane of a sweep can hold its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from cnnjax.config import Hparams

# Unit schedules: the share of the peak rate at a share of the way from 0 to 1.


def constant(progress: Float[Array, ""]) -> Float[Array, ""]:
    """The peak rate throughout."""
    return jnp.ones_like(progress)


def cosine(progress: Float[Array, ""]) -> Float[Array, ""]:
    """Half a cosine, from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def step(progress: Float[Array, ""]) -> Float[Array, ""]:
    """A tenth after half of the way, a hundredth after three quarters (He et al. 2015, section 4.2)."""
    return jnp.where(progress < 0.5, 1.0, jnp.where(progress < 0.75, 0.1, 0.01))


SCHEDULES: Mapping[str, Callable[[Array], Array]] = {"constant": constant, "cosine": cosine, "step": step}


def with_warmup(
    unit: Callable[[Array], Array], count: Array | int, steps: Array | int, warmup: Array | float
) -> Float[Array, ""]:
    """A unit schedule after a linear rise over the first `warmup` share of all `steps`.

    Args:
      unit: maps progress in [0, 1] to a share of the peak rate.
      count: steps taken so far.
      steps: all steps; with 0 there is no end to move to, and the share stays 1.
      warmup: share of all steps, in [0, 1).
    """
    rise = jnp.asarray(warmup * steps, jnp.float32)
    progress = jnp.where(steps > 0, jnp.clip((count - rise) / jnp.maximum(steps - rise, 1), 0, 1), 0)
    return jnp.where(count < rise, (count + 1) / jnp.maximum(rise, 1), unit(progress)).clip(max=1)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda array: array.ndim > 1, params)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum and coupled L2 decay, as a `Task.optimizer`.

    Decay adds `weight_decay * kernel` to the gradient before momentum; biases and normalisation
    scales (arrays of one dimension) have none.
    """

    schedule: Callable[[Array], Array]
    nesterov: bool = False
    clip: bool = False
    """Whether a gradient, before decay is added, is scaled down to `clip_norm` (Pascanu et al. 2013)."""

    def __call__(self, hparams: Hparams) -> optax.GradientTransformation:
        def rate(count: Array) -> Array:
            return hparams.learning_rate * with_warmup(self.schedule, count, hparams.steps, hparams.warmup)

        return optax.chain(
            *([optax.clip_by_global_norm(hparams.clip_norm)] if self.clip else []),
            optax.add_decayed_weights(hparams.weight_decay, _kernels),
            optax.sgd(rate, hparams.momentum, self.nesterov),
        )
