"""The base class of augmentations, and the random draws that several of them share."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Key, Num

from cnnjax.data import Batch
from cnnjax.options import Config, config

SHAPES = {
    "vectors": "[features]",
    "series": "[steps, channels]",
    "images": "[height, width, channels]",
    "volumes": "[depth, height, width, channels]",
    "tokens": "[length]",
}
"""The kinds of inputs, with the shape of one."""
GRIDS = ("series", "images", "volumes")
NUMBERS = ("vectors", *GRIDS)


def kind_of(inputs: Num[Any, "batch *shape"]) -> str:
    """Returns the kind of a batch of standardized inputs, such as `images`; integers are tokens."""
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        return "tokens"
    return dict(enumerate(NUMBERS, 2)).get(inputs.ndim, "arrays")


@config
class Augmentation(Config):
    """The base class of augmentations.

    A subclass implements `__call__(key, batch)`, which returns a batch with the same shapes and dtypes.
    `key` is another one in each step. `batch.inputs` are standardized, [batch, *spatial, channels], or
    tokens, [batch, length]. `batch.labels` are as stored in the data set, or [batch, classes] after an
    augmentation that mixes classes. Number fields may be tracers. See `cnnjax.Batch`.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """The kinds of inputs that it takes, such as `("images",)`; empty for all."""

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        raise NotImplementedError(f"{type(self).__name__}: an augmentation must implement __call__(key, batch)")


def for_each(values: Num[Array, " batch"], inputs: Num[Array, "batch *shape"]) -> Num[Array, "batch *ones"]:
    """Returns one value per example in a shape that broadcasts with the inputs."""
    return values.reshape(-1, *(1,) * (inputs.ndim - 1))


def between(key: Key[Array, ""], largest: Any, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """Draws uniformly between `-largest` and `largest`."""
    return largest * jax.random.uniform(key, shape, minval=-1, maxval=1)


def boxes(
    key: Key[Array, ""], inputs: Num[Array, "batch *spatial channels"], sides: Sequence[Any]
) -> Bool[Array, "batch *spatial one"]:
    """Draws one box for each example, and returns the mask of its cells.

    The center is uniform over all cells, so that a part of the box may lie outside of the input.

    Args:
      key: the key of the draws.
      inputs: the inputs.
      sides: the side of the boxes along each spatial axis in cells, or [batch]; rounded up.
    """
    masks: Array = jnp.ones((), bool)
    for axis, side in enumerate(sides, 1):
        cells = jnp.arange(inputs.shape[axis])
        center = jnp.floor(len(cells) * jax.random.uniform(jax.random.fold_in(key, axis), (len(inputs), 1)))
        side = jnp.broadcast_to(side, len(inputs))[:, None]
        start = center - jnp.floor(side / 2)
        along = (cells >= start) & (cells < start + side)
        masks &= along.reshape(len(inputs), *(-1 if i == axis else 1 for i in range(1, inputs.ndim)))
    return masks
