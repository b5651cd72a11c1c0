"""Augmentations of series, [batch, steps, channels]."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from cnnjax.augmentation.base import NUMBERS, Augmentation
from cnnjax.data import Batch
from cnnjax.options import config, number


@config
class Jitter(Augmentation):
    """Adds normal noise to every number (Um et al. 2017, "Data augmentation of wearable sensor data")."""

    needs = NUMBERS
    noise: float = number(0.05, "standard deviation of the noise, in those of the training split", least=0)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        return batch._replace(inputs=batch.inputs + self.noise * jax.random.normal(key, batch.inputs.shape))


@config
class Scaling(Augmentation):
    """Multiplies each channel of an example by a normal factor of mean 1 (Um et al. 2017)."""

    needs = NUMBERS
    deviation: float = number(0.1, "standard deviation of the factor", least=0)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        inputs = batch.inputs
        shape = (len(inputs), *(1,) * (inputs.ndim - 2), inputs.shape[-1])
        return batch._replace(inputs=inputs * (1 + self.deviation * jax.random.normal(key, shape)))


@config
class WindowSlice(Augmentation):
    """Cuts a random window from each series (Le Guennec et al. 2016), and stretches it to the whole length.

    Values between two steps are interpolated linearly. The paper leaves windows of 90 % at their length.
    """

    needs = ("series",)
    cut: float = number(0.1, "fraction of the steps that is cut off", least=0, below=1)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        series, steps = batch.inputs, batch.inputs.shape[1]
        start = self.cut * (steps - 1) * jax.random.uniform(key, (len(series), 1))
        places = start + (1 - self.cut) * jnp.arange(steps)
        before = jnp.floor(places).astype(jnp.int32).clip(max=steps - 1)
        after = (before + 1).clip(max=steps - 1)
        share = (places - before)[..., None]
        at = (jnp.take_along_axis(series, index[..., None], 1) for index in (before, after))
        return batch._replace(inputs=(1 - share) * next(at) + share * next(at))
