"""Augmentations: random transformations of training batches, which run on the device inside of the step."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from cnnjax.data import Split
from cnnjax.options import Config, config, number


@config
class Augmentation(Config):
    """The base class of augmentations.

    A subclass implements `__call__(key, batch)`, which returns a batch with the same shapes and dtypes.
    `batch.inputs` are standardized, [batch, *spatial, channels]. `batch.labels` are as stored in the data
    set, or [batch, classes] after an augmentation that mixes classes. Number fields may be tracers.
    """

    def __call__(self, key: Key[Array, ""], batch: Split) -> Split:
        raise NotImplementedError(f"{type(self).__name__}: an augmentation must implement __call__(key, batch)")


@config
class Flip(Augmentation):
    """Flips images horizontally with probability `p`."""

    p: float = number(0.5, "probability of a horizontal flip", least=0, most=1)

    def __call__(self, key: Key[Array, ""], batch: Split) -> Split:
        images = batch.inputs
        flipped = jax.random.bernoulli(key, self.p, (len(images), *(1,) * (images.ndim - 1)))
        return batch._replace(inputs=jnp.where(flipped, images[..., ::-1, :], images))


@config
class Shift(Augmentation):
    """Shifts images by a random integer number of pixels along each spatial axis, at most `cells`.

    Zeros fill the border; since inputs are standardized, they are the mean of the training split. A
    fractional `cells` makes the largest shifts less likely.
    """

    cells: float = number(2.0, "maximum shift along each spatial axis, in pixels", least=0)

    def __call__(self, key: Key[Array, ""], batch: Split) -> Split:
        images, spatial = batch.inputs, batch.inputs.ndim - 2
        reach = self.cells + 0.5
        drawn = jax.random.uniform(key, (spatial, len(images)), minval=-reach, maxval=reach)
        moves = jnp.clip(jnp.round(drawn), -jnp.ceil(self.cells), jnp.ceil(self.cells)).astype(jnp.int32)
        for axis, move in enumerate(moves, 1):
            rows = jnp.arange(images.shape[axis]) - move[:, None]
            inside = (rows >= 0) & (rows < images.shape[axis])
            shape = (len(images), *(-1 if i == axis else 1 for i in range(1, images.ndim)))
            moved = jnp.take_along_axis(images, rows.clip(0, images.shape[axis] - 1).reshape(shape), axis)
            images = jnp.where(inside.reshape(shape), moved, 0)
        return batch._replace(inputs=images)
