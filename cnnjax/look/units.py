"""Which examples units answer to, and which units answer to none."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Num

from cnnjax.look.layers import outline, outputs_of
from cnnjax.look.receptive_fields import ReceptiveField
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


class Top(NamedTuple):
    """For each unit of a layer, the examples with the greatest activations, in descending order."""

    values: Float[Array, "units count"]
    examples: Int[Array, "units count"]
    """Their numbers, counted over the batches."""
    positions: Int[Array, "units count spatial"]
    """Where in the maps the activation is greatest; no entries for a layer without maps."""


def top_examples(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch *shape"]],
    layer: str,
    count: int = 9,
) -> Top:
    """The examples of a data set that activate each unit of a layer most, each example once, batch by batch.

    After Zeiler, Fergus 2014 ("Visualizing and understanding convolutional networks", section 4).

    >>> top = look.top_examples(network, variables, map(spec.standardize, batches), "c3")
    >>> look.patches(images[top.examples[unit]], fields["c3"], top.positions[unit])  # what it saw

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      batches: inputs as the network takes them.
      layer: path, as `outline` lists it.
      count: examples a unit; fewer where the data set has fewer.

    Raises:
      ValueError: there is no such layer, no batch, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count: {count}: must be at least 1")
    best: Top | None = None
    seen = 0
    shape: tuple[int, ...] = ()
    for inputs in batches:
        if best is None:
            known = choose("layer", layer, outline(network, variables, inputs))
            shape = known.shape[:-1]
            best = Top(jnp.zeros((known.units, 0)), *(jnp.zeros((known.units, 0), int) for _ in range(2)))
        [output] = outputs_of(network, (layer,), variables, inputs)
        best = _merged(best, output, seen, count)
        seen += len(inputs)
    if best is None:
        raise ValueError("batches: there is none")
    places = (
        jnp.stack(jnp.unravel_index(best.positions, shape), -1) if shape else jnp.zeros((*best.values.shape, 0), int)
    )
    return best._replace(positions=places)


@partial(jax.jit, static_argnames="count")
def _merged(best: Top, output: Float[Array, "batch *maps"], seen: Array | int, count: int) -> Top:
    """The best so far and those of a batch; positions count along the flattened maps."""
    values = output.reshape(len(output), -1, output.shape[-1])
    examples = jnp.broadcast_to(seen + jnp.arange(len(output)), (output.shape[-1], len(output)))
    new = Top(values.max(1).T, examples, values.argmax(1).T)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), best, new)
    values, order = lax.top_k(both.values, min(count, both.values.shape[1]))
    return Top(values, *(jnp.take_along_axis(part, order, 1) for part in both[1:]))


def patches(
    inputs: Num[Array, "examples *spatial channels"],
    field: ReceptiveField,
    positions: Int[Array, "examples spatial"],
    fill: float = 0.0,
) -> Num[np.ndarray, "examples *size channels"]:
    """The part of each input that the unit at a position sees.

    Args:
      inputs: in any scale.
      field: of the unit's layer.
      positions: of a unit in its map, one for each input.
      fill: stands for what lies outside of the input.
    """
    images = np.asarray(inputs)
    starts = np.asarray(field.offset) + np.asarray(field.stride) * np.asarray(positions)
    found = np.full((len(images), *field.size, images.shape[-1]), fill, images.dtype)
    for image, start, patch in zip(images, starts, found, strict=True):
        stop = start + np.asarray(field.size)
        low, high = np.maximum(start, 0), np.minimum(stop, image.shape[:-1])
        inside = tuple(map(slice, low - start, np.maximum(high - start, 0)))
        patch[inside] = image[tuple(map(slice, low, np.maximum(high, 0)))]
    return found


def maxima(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch *shape"]],
    layers: Sequence[str] | None = None,
) -> dict[str, Float[Array, " units"]]:
    """The greatest activation of each unit over a data set and all positions, batch by batch, by layer.

    Args:
      network, variables, batches: as in `top_examples`.
      layers: paths, as `outline` lists them; by default all.

    Raises:
      ValueError: there is no such layer, or no batch.
    """
    names: tuple[str, ...] = ()
    greatest: list[Array] = []
    for inputs in batches:
        if not names:
            known = outline(network, variables, inputs)
            for name in layers or ():
                choose("layer", name, known)
            names = tuple(name for name in known if layers is None or name in layers)
        new = _greatest(network, names, variables, inputs)
        greatest = [*map(jnp.maximum, greatest, new)] if greatest else new
    if not names:
        raise ValueError("batches: there is none")
    return dict(zip(names, greatest, strict=True))


@partial(jax.jit, static_argnames=("network", "layers"))
def _greatest(network: Network, layers: tuple[str, ...], variables: Variables, inputs: Array) -> list[Array]:
    return [output.max(range(output.ndim - 1)) for output in outputs_of(network, layers, variables, inputs)]


def dead_units(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch *shape"]],
    layers: Sequence[str] | None = None,
) -> dict[str, Bool[Array, " units"]]:
    """The units of each layer that are positive for no example of a data set and at no position.

    Behind a ReLU such a unit passes on nothing and learns nothing. Arguments and errors are those of `maxima`.
    """
    return {name: values <= 0 for name, values in maxima(network, variables, batches, layers).items()}
