"""Learning rate schedules, as a factor of the peak learning rate."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
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
class Linear(Schedule):
    """A linear decay from 1 to `final`."""

    final: float = number(0.0, "fraction of the peak rate at the end", least=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns `1 - (1 - final) * progress`."""
        return 1 - (1 - self.final) * progress


@config
class OneCycle(Schedule):
    """One cycle: a linear rise to the peak, a fall to the initial rate, and a fall to `final` (Smith 2018).

    The momentum does not change. `warmup` would precede the cycle, and is not needed.
    """

    rise: float = number(0.3, "fraction of the steps after which the rate is at its peak", least=0, most=1)
    fall: float = number(0.85, "fraction of the steps after which it is back at its initial value", least=0, most=1)
    initial: float = number(0.04, "fraction of the peak rate at the beginning", least=0, most=1)
    final: float = number(4e-6, "fraction of the peak rate at the end", least=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the linear interpolation of `initial`, 1, `initial` and `final` at 0, `rise`, `fall` and 1.

        A `fall` before `rise` counts as `rise`.
        """
        ends = lax.cummax(jnp.asarray([0.0, self.rise, self.fall, 1.0]))
        return jnp.interp(progress, ends, jnp.asarray([self.initial, 1.0, self.initial, self.final]))


@config
class Step(Schedule):
    """A step decay: by default to 0.1 after half of the steps, and to 0.01 after three quarters (He et al. 2016)."""

    first: float = number(0.5, "fraction of the steps after which the rate drops", least=0, most=1)
    second: float = number(0.75, "fraction of the steps after which it drops again", least=0, most=1)
    drop: float = number(0.1, "factor of the rate at each drop", least=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Returns 1, `drop` or `drop ** 2`."""
        return jnp.where(progress < self.first, 1.0, jnp.where(progress < self.second, self.drop, self.drop**2))
