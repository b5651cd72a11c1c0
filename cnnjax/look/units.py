"""The examples that activate units most, and units that no example activates."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Num

from cnnjax.devices import jit
from cnnjax.look.layers import outline, outputs_of
from cnnjax.look.receptive_fields import ReceptiveField
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


class Top(NamedTuple):
    """The examples with the largest activations of each unit of a layer, in descending order."""

    values: Float[Array, "units count"]
    examples: Int[Array, "units count"]
    """The indices of the examples, counted over all batches."""
    positions: Int[Array, "units count spatial"]
    """The position of the largest activation in the feature map; empty for a layer without feature maps."""


def top_examples(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch *shape"]],
    layer: str,
    count: int = 9,
) -> Top:
    """Finds the examples of a data set that activate each unit of a layer most.

    Each example appears at most once per unit (Zeiler, Fergus 2014, "Visualizing and understanding convolutional
    networks", section 4). Batches are processed one at a time.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> top = look.top_examples(network, variables, [images[:3], images[3:]], "blocks.0", count=2)
    >>> top.examples.shape, top.positions.shape
    ((4, 2), (4, 2, 2))

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      batches: batches of inputs of the network.
      layer: the path of a layer, as listed by `outline`.
      count: the number of examples per unit; fewer if the data set has fewer.

    Raises:
      ValueError: if the layer does not exist, `batches` is empty, or `count` is less than 1.
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
        raise ValueError("batches: empty: must have at least one batch")
    places = (
        jnp.stack(jnp.unravel_index(best.positions, shape), -1) if shape else jnp.zeros((*best.values.shape, 0), int)
    )
    return best._replace(positions=places)


@partial(jit, static_argnames="count")
def _merged(best: Top, output: Float[Array, "batch *maps"], seen: Array | int, count: int) -> Top:
    """Merges the best examples so far with those of a batch; positions are indices into the flattened maps."""
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
    """Cuts out the receptive field of a unit from each input.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> images = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> field = look.ReceptiveField(size=(2, 2), stride=(1, 1), offset=(0, 0))
    >>> look.patches(images, field, np.array([[2, 1]]))[0, ..., 0]
    array([[ 9., 10.],
           [13., 14.]])

    Args:
      inputs: the inputs, in any scale.
      field: the receptive field of the unit's layer.
      positions: the position of the unit in its feature map, for each input.
      fill: the value of cells outside of the input.
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
    """Computes the largest activation of each unit over all examples and positions, by layer.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.maxima(network, variables, [images], ["blocks.0"])["blocks.0"].shape
    (4,)

    Args:
      network, variables, batches: as in `top_examples`.
      layers: the paths of layers, as listed by `outline`; by default all.

    Raises:
      ValueError: if a layer does not exist, or `batches` is empty.
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
        raise ValueError("batches: empty: must have at least one batch")
    return dict(zip(names, greatest, strict=True))


@partial(jit, static_argnames=("network", "layers"))
def _greatest(network: Network, layers: tuple[str, ...], variables: Variables, inputs: Array) -> list[Array]:
    return [output.max(range(output.ndim - 1)) for output in outputs_of(network, layers, variables, inputs)]


def dead_units(
    network: Network,
    variables: Variables,
    batches: Iterable[Float[Array, "batch *shape"]],
    layers: Sequence[str] | None = None,
) -> dict[str, Bool[Array, " units"]]:
    """Finds the units of each layer that are positive for no example at any position.

    After a ReLU, the output and the gradient of such a unit are zero. The arguments and errors are those of
    `maxima`.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.dead_units(network, variables, [images], ["blocks.0"])["blocks.0"].shape
    (4,)
    """
    return {name: values <= 0 for name, values in maxima(network, variables, batches, layers).items()}
