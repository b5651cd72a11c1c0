"""Schedules: the factor of the peak learning rate over the course of training."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cnnjax.options import Config, config, number


@config
class Schedule(Config):
    """A shape over progress in [0, 1], after a linear warm-up.

    A subclass implements `shape(progress)`, which must not branch on its argument: it is a tracer.

    >>> float(Cosine(warmup=0.1).factor(5, 100))  # the sixth of ten steps of warm-up
    0.6000000238418579
    """

    warmup: float = number(0.0, "share of all steps in which the rate rises from zero", least=0, below=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """The factor of the peak rate at a share of the way from the end of the warm-up to the end."""
        raise NotImplementedError(f"{type(self).__name__}: a schedule implements shape(progress)")

    def factor(self, count: Any, steps: Any) -> Float[Array, ""]:
        """The factor of the peak rate at a step.

        Args:
          count: steps taken so far.
          steps: all steps; with 0 there is no end to move to, and the factor after the warm-up is that of the start.
        """
        rise = jnp.asarray(self.warmup * steps, jnp.float32)
        progress = jnp.where(steps > 0, jnp.clip((count - rise) / jnp.maximum(steps - rise, 1), 0, 1), 0)
        return jnp.where(count < rise, (count + 1) / jnp.maximum(rise, 1), self.shape(progress)).clip(max=1)


@config
class Constant(Schedule):
    """The peak rate throughout."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """One."""
        return jnp.ones_like(progress)


@config
class Cosine(Schedule):
    """Half a cosine, from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """`(1 + cos(pi * progress)) / 2`."""
        return 0.5 * (1 + jnp.cos(jnp.pi * progress))


@config
class Step(Schedule):
    """A tenth after half of the way, a hundredth after three quarters (He et al. 2015, section 4.2)."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """1, 0.1 or 0.01."""
        return jnp.where(progress < 0.5, 1.0, jnp.where(progress < 0.75, 0.1, 0.01))
