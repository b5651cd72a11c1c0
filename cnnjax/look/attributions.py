"""Which parts of an input a network's output rests on."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from cnnjax.look.layers import captured, outline
from cnnjax.networks import Network, Variables
from cnnjax.options import choose, text

Inputs = Float[Array, "batch *shape"]
Targets = Int[Array, " batch"]


def gradient(network: Network, variables: Variables, inputs: Inputs, targets: Targets) -> Inputs:
    """The gradient of each example's target logit by its input.

    Simonyan, Vedaldi, Zisserman 2014 ("Deep inside convolutional networks", section 3); its absolute
    value is known as the saliency map.

    >>> look.gradient(network, variables, images, labels).shape == images.shape
    True

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      inputs: [batch, *shape], as the network takes them.
      targets: the number of an output, as a class, for each example.

    Returns:
      [batch, *shape], in units of the logit per unit of the input.

    Raises:
      ValueError: there is not one target for each input, or the network has no such output.
    """
    return _gradient(network, variables, inputs, _targets(network, variables, inputs, targets))


def gradient_times_input(network: Network, variables: Variables, inputs: Inputs, targets: Targets) -> Inputs:
    """The gradient times the input: of a linear network, what each cell adds to the logit.

    Shrikumar, Greenside, Shcherbina, Kundaje 2016 ("Not just a black box"). Arguments, shapes and errors are
    those of `gradient`; the result is in units of the logit.
    """
    return inputs * gradient(network, variables, inputs, targets)


def integrated_gradients(
    network: Network,
    variables: Variables,
    inputs: Inputs,
    targets: Targets,
    baseline: Float[Any, "*shape"] | float = 0.0,
    steps: int = 64,
) -> Inputs:
    """The gradient averaged along the line from a baseline to the input, times their difference.

    Sundararajan, Taly, Yan 2017 ("Axiomatic attribution for deep networks"). Completeness: the sum over an
    example is its logit less that of the baseline, up to the error of the midpoint rule.

    Args:
      network, variables, inputs, targets: as in `gradient`.
      baseline: broadcasts to one input; 0 is the mean of standardized data.
      steps: points along the line.

    Returns:
      [batch, *shape], in units of the logit.

    Raises:
      ValueError: as `gradient`, or `steps` is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps}: must be at least 1")
    return _integrated(network, variables, inputs, _targets(network, variables, inputs, targets), baseline, steps)


def grad_cam(
    network: Network, variables: Variables, inputs: Inputs, targets: Targets, layer: str | None = None
) -> Float[Array, "batch *maps"]:
    """The maps of a layer, weighted by the mean gradient of the target logit by each, summed, where positive.

    Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra 2017 ("Grad-CAM", equations 1 and 2).

    Args:
      network, variables, inputs, targets: as in `gradient`.
      layer: path, as `outline` lists it; by default the last that puts out maps.

    Returns:
      [batch, *spatial] in the size of the layer's maps.

    Raises:
      ValueError: as `gradient`; or there is no such layer, or it puts out no maps.
    """
    targets = _targets(network, variables, inputs, targets)
    known = outline(network, variables, inputs)
    maps = [name for name, found in known.items() if found.maps]
    if layer is None and not maps:
        raise ValueError("Grad-CAM: no layer of this network puts out maps, [*spatial, channels]: leave it out")
    layer = maps[-1] if layer is None else layer
    if not choose("layer", layer, known).maps:
        usable = f"use one of {', '.join(maps)}" if maps else "no layer of this network does: leave it out"
        raise ValueError(f"layer: {layer!r}: puts out [{text(known[layer].shape)}]; Grad-CAM needs maps: {usable}")
    return _grad_cam(network, variables, inputs, targets, layer)


def occlusion(
    network: Network,
    variables: Variables,
    inputs: Inputs,
    targets: Targets,
    size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    fill: float = 0.0,
) -> Float[Array, "batch *windows"]:
    """By how much the target logit falls when a window of the input is covered, for each place of the window.

    Zeiler, Fergus 2014 ("Visualizing and understanding convolutional networks", section 4.2).

    Args:
      network, variables, inputs, targets: as in `gradient`.
      size: cells of the window, for all spatial dimensions or each.
      stride: cells between windows.
      fill: what the window is filled with; 0 is the mean of standardized data.

    Returns:
      [batch, *windows], in units of the logit; of each spatial dimension floor((cells - size) / stride) + 1 windows.

    Raises:
      ValueError: as `gradient`; or inputs have no spatial dimension, or no window fits.
    """
    targets = _targets(network, variables, inputs, targets)
    cells = inputs.shape[1:-1]
    if not cells:
        raise ValueError(
            f"inputs: {list(inputs.shape)}: occlusion needs spatial dimensions, [batch, *spatial, channels]"
        )
    window, steps = (tuple(np.broadcast_to(given, len(cells)).tolist()) for given in (size, stride))
    if min(*window, *steps) < 1 or any(w > c for w, c in zip(window, cells, strict=True)):
        raise ValueError(f"size: {text(window)}, stride: {text(steps)}: at least 1, in inputs of {text(cells)} cells")
    return _occlusion(network, variables, inputs, targets, window, steps, fill)


def _targets(network: Network, variables: Variables, inputs: Array, targets: Any) -> Array:
    """The targets as an array; ValueError where they do not fit, as far as their values are known."""
    outputs = jax.eval_shape(partial(_outputs, network), variables, inputs).shape[-1]
    if np.shape(targets) != inputs.shape[:1]:
        raise ValueError(f"targets: {list(np.shape(targets))}: must be one for each of {len(inputs)} inputs")
    if not isinstance(targets, jax.core.Tracer):
        wrong = [target for target in np.asarray(targets) if not 0 <= target < outputs]
        if wrong:
            raise ValueError(f"targets: {wrong[0]}: the network has outputs 0 to {outputs - 1}")
    return jnp.asarray(targets)


def _outputs(network: Network, variables: Variables, inputs: Array) -> Array:
    return network.apply(variables, inputs, train=False, key=jax.random.key(0))[0]


def _of_targets(outputs: Array, targets: Array) -> Float[Array, " batch"]:
    return jnp.take_along_axis(outputs, targets[:, None], 1)[:, 0]


def _scores(network: Network, variables: Variables, inputs: Array, targets: Array) -> Float[Array, " batch"]:
    return _of_targets(_outputs(network, variables, inputs), targets)


@partial(jax.jit, static_argnames="network")
def _gradient(network: Network, variables: Variables, inputs: Array, targets: Array) -> Array:
    # Examples do not depend on each other in evaluation mode: the gradient of the sum is that of each.
    return jax.grad(lambda inputs: _scores(network, variables, inputs, targets).sum())(inputs)


@partial(jax.jit, static_argnames=("network", "steps"))
def _integrated(
    network: Network, variables: Variables, inputs: Array, targets: Array, baseline: Any, steps: int
) -> Array:
    difference = inputs - baseline

    def add(total: Array, share: Array) -> tuple[Array, None]:
        return total + _gradient(network, variables, baseline + share * difference, targets), None

    total, _ = lax.scan(add, jnp.zeros_like(inputs), (jnp.arange(steps) + 0.5) / steps)
    return difference * total / steps


@partial(jax.jit, static_argnames=("network", "layer"))
def _grad_cam(network: Network, variables: Variables, inputs: Array, targets: Array, layer: str) -> Array:
    def score(change: Array) -> tuple[Array, Array]:
        outputs, found = captured(network, variables, inputs, {layer: change})
        return _of_targets(outputs, targets).sum(), found[layer]

    [maps] = jax.eval_shape(lambda: (captured(network, variables, inputs)[1][layer],))
    gradients, maps = jax.grad(score, has_aux=True)(jnp.zeros(maps.shape, maps.dtype))
    weights = gradients.mean(range(1, gradients.ndim - 1), keepdims=True)
    return jax.nn.relu((weights * maps).sum(-1))


@partial(jax.jit, static_argnames=("network", "size", "stride"))
def _occlusion(
    network: Network,
    variables: Variables,
    inputs: Array,
    targets: Array,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    fill: float,
) -> Array:
    cells = inputs.shape[1:-1]
    places = [range(0, c - w + 1, s) for c, w, s in zip(cells, size, stride, strict=True)]
    starts = jnp.array([*itertools.product(*places)])
    window = jnp.full((len(inputs), *size, inputs.shape[-1]), fill, inputs.dtype)

    def covered(start: Array) -> Array:
        return _scores(network, variables, lax.dynamic_update_slice(inputs, window, (0, *start, 0)), targets)

    falls = _scores(network, variables, inputs, targets) - lax.map(covered, starts)
    return jnp.moveaxis(falls, 0, -1).reshape(len(inputs), *map(len, places))
