"""Inputs that activate units most."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, Key

from cnnjax.look.layers import outline, outputs_of
from cnnjax.networks import Network, Variables
from cnnjax.options import choose

_STARTS = 32
"""Inputs of noise of which the best is the first: a unit behind a ReLU is off for many, and has no gradient there."""


class Maximized(NamedTuple):
    """For each unit, an input that activates it, and how much it does."""

    inputs: Float[Array, "units *shape"]
    values: Float[Array, " units"]
    """The greatest activation over the unit's map."""


class _Numbers(NamedTuple):
    """What may differ from unit to unit: 0 switches each of them off, but the rate."""

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
    """Inputs that activate units of a layer, by gradient ascent from noise within the range of the data.

    Erhan, Bengio, Courville, Vincent 2009 ("Visualizing higher-layer features of a deep network"); with blur after
    Yosinski, Clune, Nguyen, Fuchs, Lipson 2015 ("Understanding neural networks through deep visualization"), total
    variation after Mahendran, Vedaldi 2015 ("Understanding deep image representations by inverting them"), jitter
    and frequency penalty after Olah, Mordvintsev, Schubert 2017 ("Feature visualization"). What is maximized is the
    unit in the middle of the map; a unit behind a ReLU has no gradient where it is off, so prefer the layer before
    it. All units are lanes of one program; the input of a unit depends on the key and on its
    number, not on what other units are asked for.

    >>> low, high = (spec.standardize(np.full((1, *spec.shape), v, spec.dtype))[0] for v in (0, 255))
    >>> look.maximize(network, variables, key, "c3", [0, 3], low, high).inputs.shape
    (2, 28, 28, 1)

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      key: of noise and jitter.
      layer: path, as `outline` lists it.
      units: numbers of its channels or dense units.
      low, high: [*shape] of one input, the bounds of each cell, as the network takes it.
      steps: of ascent.
      rate: length of the first step, as a share of the bounds' range in the mean over cells; it falls to 0 linearly.
      jitter: by how many cells the input is shifted at most, at random in each step.
      blur: standard deviation in cells of the Gaussian that each step is followed by; it falls to 0 linearly.
      total_variation: weight of the sum of absolute differences of neighbors.
      frequency: weight of the power times the squared frequency, in cycles a cell.

    The weights of penalties are relative to a gradient of the activation whose root mean square is 1. Each of
    these numbers is one for all units, or an array with one a unit.

    Raises:
      ValueError: there is no such layer or unit, bounds differ in shape, `low` is not below `high` anywhere, or
        `steps` is below 1.
    """
    low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
    if low.shape != high.shape or not bool((low <= high).all() & (low < high).any()):
        raise ValueError(
            f"low: {list(low.shape)}, high: {list(high.shape)}: must be of one input's shape, low below high"
        )
    if steps < 1:
        raise ValueError(f"steps: {steps}: must be at least 1")
    known = choose("layer", layer, outline(network, variables, low[None]))
    numbers = np.asarray(units, int).reshape(-1)
    if wrong := [unit for unit in numbers.tolist() if not 0 <= unit < known.units]:
        raise ValueError(f"units: {wrong[0]}: layer {layer!r} has units 0 to {known.units - 1}")
    given = _Numbers(rate, jitter, blur, total_variation, frequency)
    lanes = jax.tree.map(lambda value: jnp.broadcast_to(jnp.asarray(value, jnp.float32), len(numbers)), given)
    return _maximized(network, layer, steps, variables, key, jnp.asarray(numbers), low, high, lanes)


@partial(jax.jit, static_argnames=("network", "layer", "steps"))
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
    """One unit. Cells run from 0 to 1 between their bounds."""
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
        # Where the unit is off for the whole input, a step at random may switch it on.
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
    """Of each entry of the Fourier transform of cells, in cycles a cell, squared."""
    grids = np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij") if shape else []
    return sum((np.square(grid).astype(np.float32) for grid in grids), np.zeros(shape, np.float32))
