"""Learning rate schedules, as a factor of the peak learning rate."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cnnjax.options import Config, config, number


@config
class Schedule(Config):
    """The base class of schedules: a linear warmup followed by a function of progress in [0, 1].

    A subclass implements `shape(progress)`. The argument is a tracer, so it must not be used in an `if`.

    >>> float(Cosine(warmup=0.1).factor(5, 100))  # the sixth of ten warmup steps
    0.6000000238418579
    """

    warmup: float = number(0.0, "fraction of all steps in which the rate rises linearly from zero", least=0, below=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the factor of the peak rate after the warmup; `progress` goes from 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__}: a schedule must implement shape(progress)")

    def factor(self, count: Any, steps: Any) -> Float[Array, ""]:
        """Returns the factor of the peak rate at a step.

        Args:
          count: the number of steps taken so far.
          steps: the total number of steps; with 0, progress stays at 0.
        """
        rise = jnp.asarray(self.warmup * steps, jnp.float32)
        progress = jnp.where(steps > 0, jnp.clip((count - rise) / jnp.maximum(steps - rise, 1), 0, 1), 0)
        return jnp.where(count < rise, (count + 1) / jnp.maximum(rise, 1), self.shape(progress)).clip(max=1)


@config
class Constant(Schedule):
    """A constant learning rate after the warmup."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns 1."""
        return jnp.ones_like(progress)


@config
class Cosine(Schedule):
    """A cosine decay from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns `(1 + cos(pi * progress)) / 2`."""
        return 0.5 * (1 + jnp.cos(jnp.pi * progress))


@config
class Step(Schedule):
    """A step decay: 0.1 after half of the steps, 0.01 after three quarters (He et al. 2016, section 4.2)."""

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns 1, 0.1 or 0.01."""
        return jnp.where(progress < 0.5, 1.0, jnp.where(progress < 0.75, 0.1, 0.01))
