"""Activation maximization: inputs that strongly activate units."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key

from cnnjax.devices import jit
from cnnjax.look.layers import outline, outputs_of
from cnnjax.networks import Network, Variables
from cnnjax.options import choose

_STARTS = 32
"""The number of random inputs from which the best is chosen as the start: after a ReLU, many have no gradient."""


class Maximized(NamedTuple):
    """An input for each unit, and the activation that it causes."""

    inputs: Float[Array, "units *shape"]
    values: Float[Array, " units"]
    """The largest activation in the feature map of each unit."""


class _Numbers(NamedTuple):
    """The numbers that may differ between units; 0 switches off all except the rate."""

    rate: Any
    jitter: Any
    blur: Any
    total_variation: Any
    frequency: Any


def maximize(
    network: Network,
    variables: Variables,
    key: Key[Array, ""],
    layer: str,
    units: Sequence[int] | Int[Array, " units"],
    low: Float[Any, "*shape"],
    high: Float[Any, "*shape"],
    *,
    steps: int = 256,
    rate: float = 0.05,
    jitter: float = 1.0,
    blur: float = 0.3,
    total_variation: float = 0.02,
    frequency: float = 0.1,
) -> Maximized:
    """Finds inputs that strongly activate units of a layer, by gradient ascent from random inputs.

    The objective is the activation in the middle of the unit's feature map (Erhan, Bengio, Courville, Vincent 2009,
    "Visualizing higher-layer features of a deep network"). The inputs are regularized by blur (Yosinski, Clune,
    Nguyen, Fuchs, Lipson 2015, "Understanding neural networks through deep visualization"), total variation
    (Mahendran, Vedaldi 2015, "Understanding deep image representations by inverting them"), jitter, and a penalty
    on high frequencies (Olah, Mordvintsev, Schubert 2017, "Feature visualization").

    An inactive unit after a ReLU has no gradient, so choose the layer before the ReLU. All units are lanes of one
    program; the input of a unit depends on the key and the unit, but not on the other units.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> low, high = images.min(0), images.max(0)
    >>> key = jax.random.key(2)
    >>> found = look.maximize(network, variables, key, "blocks.0.convolutions.0", [0, 3], low, high, steps=8)
    >>> found.inputs.shape
    (2, 8, 8, 1)

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      key: seeds the random inputs and the jitter.
      layer: the path of a layer, as listed by `outline`.
      units: the indices of channels or dense units.
      low, high: the bounds of each cell, with the shape of one input of the network.
      steps: the number of steps.
      rate: the mean change of a cell in the first step, as a fraction of its range; decreases linearly to 0.
      jitter: the largest random shift of the input in each step, in cells.
      blur: the standard deviation of the Gaussian blur after each step, in cells; decreases linearly to 0.
      total_variation: the weight of the sum of absolute differences between neighbors.
      frequency: the weight of the power times the squared frequency, in cycles per cell.

    The weights of the penalties are relative to a gradient of the activation with a root mean square of 1. Each
    number from `rate` to `frequency` is a single value, or an array with one value per unit.

    Returns:
      The inputs and their activations, in the order of `units`.

    Raises:
      ValueError: if the layer or a unit does not exist, the bounds differ in shape, `low` is above `high` or
        equals it everywhere, or `steps` is less than 1.
    """
    low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    if low.shape != high.shape or not bool((low <= high).all() & (low < high).any()):
        raise ValueError(
            f"low: {list(low.shape)}, high: {list(high.shape)}: must have the same shape, with low below high"
        )
    if steps < 1:
        raise ValueError(f"steps: {steps}: must be at least 1")
    known = choose("layer", layer, outline(network, variables, low[None]))
    numbers = np.asarray(units, int).reshape(-1)
    if wrong := [unit for unit in numbers.tolist() if not 0 <= unit < known.units]:
        raise ValueError(f"units: {wrong[0]}: must be from 0 to {known.units - 1} in layer {layer!r}")
    given = _Numbers(rate, jitter, blur, total_variation, frequency)
    lanes = jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), len(numbers)), given)
    return _maximized(network, layer, steps, variables, key, jnp.asarray(numbers), low, high, lanes)


@partial(jit, static_argnames=("network", "layer", "steps"))
def _maximized(
    network: Network,
    layer: str,
    steps: int,
    variables: Variables,
    key: Array,
    units: Array,
    low: Array,
    high: Array,
    numbers: _Numbers,
) -> Maximized:
    ascend = partial(_ascend, network, layer, steps, variables, low, high)
    return jax.vmap(ascend)(jax.vmap(partial(jax.random.fold_in, key))(units), units, numbers)


def _ascend(
    network: Network,
    layer: str,
    steps: int,
    variables: Variables,
    low: Array,
    high: Array,
    key: Array,
    unit: Array,
    numbers: _Numbers,
) -> Maximized:
    """Maximizes one unit; cells are scaled to [0, 1] between their bounds."""
    axes = tuple(range(low.ndim - 1))
    powers = _squared_frequencies(low.shape[:-1])[..., None]

    def activation(cells: Array) -> Array:
        [output] = outputs_of(network, (layer,), variables, (low + cells * (high - low))[None])
        return output[0, ..., unit]

    def center(cells: Array) -> Array:
        values = activation(cells)
        return values[tuple(size // 2 for size in values.shape)]

    def penalty(cells: Array) -> Array:
        differences = sum((abs(jnp.diff(cells, axis=axis)).sum() for axis in axes), jnp.zeros(()))
        spectrum = jnp.square(abs(jnp.fft.fftn(cells, axes=axes))) * powers if axes else jnp.zeros(())
        return numbers.total_variation * differences + numbers.frequency * spectrum.sum() / cells.size

    def step(cells: Array, i: Array) -> tuple[Array, None]:
        left = 1 - i / steps
        shift_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        shifts = jnp.round(numbers.jitter * jax.random.uniform(shift_key, (len(axes),), minval=-1)).astype(int)
        slope = jax.grad(lambda cells: center(jnp.roll(cells, shifts, axes)))(cells)
        size = jnp.sqrt(jnp.square(slope).mean())
        # If the gradient is zero everywhere, a random step may make the unit active.
        slope = jnp.where(size > 0, slope / jnp.where(size > 0, size, 1), jax.random.normal(noise_key, cells.shape))
        cells = cells + numbers.rate * left * (slope - jax.grad(penalty)(cells))
        if axes:
            smooth = jnp.exp(-2 * jnp.square(jnp.pi * left * numbers.blur) * powers)
            cells = jnp.fft.ifftn(jnp.fft.fftn(cells, axes=axes) * smooth, axes=axes).real
        return jnp.clip(cells, 0, 1), None

    starts = jax.random.uniform(jax.random.fold_in(key, steps), (_STARTS, *low.shape))
    start = starts[jax.vmap(center)(starts).argmax()]
    cells, _ = lax.scan(step, start, jnp.arange(steps))
    return Maximized(low + cells * (high - low), activation(cells).max())


def _squared_frequencies(shape: tuple[int, ...]) -> Float[np.ndarray, "*spatial"]:
    """Returns the squared frequency of each entry of the Fourier transform, in cycles per cell."""
    grids = np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij") if shape else []
    return sum((np.square(grid).astype(np.float32) for grid in grids), np.zeros(shape, np.float32))
