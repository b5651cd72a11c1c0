"""A few images at a time, so that what a form makes of them stays in cache."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def _chunks(images: int, least: int, *arrays: Array) -> list[Array] | None:
    count = arrays[0].shape[0]
    size = max(n for n in range(1, images + 1) if count % n == 0)
    if size == count or size < least:
        return None
    return [array.reshape(-1, size, *array.shape[1:]) for array in arrays]


def map_chunks(form: Callable[[Array], Array], x: Array, images: int, least: int | None = None) -> Array:
    """Computes images in a loop over chunks.

    Args:
      form: the function of a chunk, [images of the chunk, ...].
      x: all images, [images, ...].
      images: the largest number of images of a chunk.
      least: the smallest; without a divisor in between, all images are one chunk. Half of `images` by default.
    """
    chunks = _chunks(images, images // 2 if least is None else least, x)
    if chunks is None:
        return form(x)
    y = lax.map(form, *chunks)
    return y.reshape(x.shape[0], *y.shape[2:])


def sum_chunks(form: Callable[[Array, Array], Any], x: Array, y: Array, images: int, least: int | None = None) -> Any:
    """Computes a kernel gradient, or a tree of them, as a sum over chunks; the arguments are those of `map_chunks`."""
    chunks = _chunks(images, images // 2 if least is None else least, x, y)
    if chunks is None:
        return form(x, y)
    out = jax.eval_shape(form, *(a[0] for a in chunks))
    zeros = jax.tree.map(lambda o: jnp.zeros(o.shape, jnp.promote_types(o.dtype, jnp.float32)), out)
    total, _ = lax.scan(lambda total, xy: (jax.tree.map(jnp.add, total, form(*xy)), None), zeros, chunks)
    return jax.tree.map(lambda total, o: total.astype(o.dtype), total, out)
