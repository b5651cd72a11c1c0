"""Attributions: how much each part of an input contributes to an output."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from cnnjax.devices import jit
from cnnjax.look.layers import captured, outline
from cnnjax.networks import Network, Variables
from cnnjax.options import choose, text

Inputs = Float[Array, "batch *shape"]
Targets = Int[Array, " batch"]


def gradient(network: Network, variables: Variables, inputs: Inputs, targets: Targets) -> Inputs:
    """Computes the gradient of the target logit of each example with respect to its input.

    The absolute value of this gradient is known as the saliency map (Simonyan, Vedaldi, Zisserman 2014, "Deep
    inside convolutional networks", section 3).

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.gradient(network, variables, images, jax.numpy.zeros(6, int)).shape
    (6, 8, 8, 1)

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      inputs: a batch of inputs of the network, [batch, *shape].
      targets: the index of an output for each example, such as its class.

    Returns:
      An array [batch, *shape], in units of the logit per unit of the input.

    Raises:
      ValueError: if the number of targets differs from the number of inputs, or a target is not an output of
        the network.
    """
    return _gradient(network, variables, inputs, _targets(network, variables, inputs, targets))


def gradient_times_input(network: Network, variables: Variables, inputs: Inputs, targets: Targets) -> Inputs:
    """Computes the gradient times the input, in units of the logit.

    For a linear network, this is the contribution of each cell to the logit (Shrikumar, Greenside, Shcherbina,
    Kundaje 2016, "Not just a black box"). The arguments, shapes and errors are those of `gradient`.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.gradient_times_input(network, variables, images, jax.numpy.zeros(6, int)).shape
    (6, 8, 8, 1)
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
    """Computes integrated gradients: the mean gradient between a baseline and the input, times their difference.

    The sum over the cells of an example is the logit of the example minus that of the baseline, up to the error
    of the midpoint rule (Sundararajan, Taly, Yan 2017, "Axiomatic attribution for deep networks").

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.integrated_gradients(network, variables, images, jax.numpy.zeros(6, int), steps=8).shape
    (6, 8, 8, 1)

    Args:
      network, variables, inputs, targets: as in `gradient`.
      baseline: an input, or a value for all cells; 0 is the mean of standardized data.
      steps: the number of points between the baseline and the input.

    Returns:
      An array [batch, *shape], in units of the logit.

    Raises:
      ValueError: as in `gradient`, or if `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps}: must be at least 1")
    return _integrated(network, variables, inputs, _targets(network, variables, inputs, targets), baseline, steps)


def grad_cam(
    network: Network, variables: Variables, inputs: Inputs, targets: Targets, layer: str | None = None
) -> Float[Array, "batch *maps"]:
    """Computes Grad-CAM: a weighted sum of the feature maps of a layer, with negative sums set to zero.

    The weight of a map is the mean over its positions of the gradient of the target logit (Selvaraju, Cogswell,
    Das, Vedantam, Parikh, Batra 2017, "Grad-CAM", equations 1 and 2).

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.grad_cam(network, variables, images, jax.numpy.zeros(6, int)).shape
    (6, 4, 4)

    Args:
      network, variables, inputs, targets: as in `gradient`.
      layer: the path of a layer with feature maps; by default the last one.

    Returns:
      An array [batch, *spatial], with the spatial shape of the layer's output.

    Raises:
      ValueError: as in `gradient`, or if the layer does not exist or has no feature maps.
    """
    targets = _targets(network, variables, inputs, targets)
    known = outline(network, variables, inputs)
    maps = [name for name, found in known.items() if found.maps]
    if layer is None and not maps:
        raise ValueError(
            "layer: Grad-CAM needs feature maps, [*spatial, channels], and no layer has any: use another method"
        )
    layer = maps[-1] if layer is None else layer
    if not choose("layer", layer, known).maps:
        usable = f"use one of {', '.join(maps)}" if maps else "no layer has any: use another method"
        raise ValueError(
            f"layer: {layer!r}: Grad-CAM needs feature maps, not outputs [{text(known[layer].shape)}]: {usable}"
        )
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
    """Computes how much the target logit decreases when a window of the input is covered, for each window position.

    This is occlusion sensitivity (Zeiler, Fergus 2014, "Visualizing and understanding convolutional networks",
    section 4.2).

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.occlusion(network, variables, images, jax.numpy.zeros(6, int), size=4, stride=2).shape
    (6, 3, 3)

    Args:
      network, variables, inputs, targets: as in `gradient`.
      size: the size of the window in cells, the same in each spatial dimension or one value per dimension.
      stride: the distance between windows, likewise.
      fill: the value inside the window; 0 is the mean of standardized data.

    Returns:
      An array [batch, *windows], in units of the logit. Each spatial dimension has
      floor((cells - size) / stride) + 1 windows.

    Raises:
      ValueError: as in `gradient`, or if the inputs have no spatial dimension, or no window fits into them.
    """
    targets = _targets(network, variables, inputs, targets)
    cells = inputs.shape[1:-1]
    if not cells:
        raise ValueError(
            f"inputs: {list(inputs.shape)}: must have at least one spatial dimension, [batch, *spatial, channels]"
        )
    window, steps = (tuple(np.broadcast_to(given, len(cells)).tolist()) for given in (size, stride))
    if min(*window, *steps) < 1 or any(w > c for w, c in zip(window, cells, strict=True)):
        raise ValueError(
            f"size: {text(window)}, stride: {text(steps)}: must be at least 1, and the size at most {text(cells)}"
        )
    return _occlusion(network, variables, inputs, targets, window, steps, fill)


def _targets(network: Network, variables: Variables, inputs: Array, targets: Any) -> Array:
    """Returns the targets as an array; raises ValueError if they are invalid. Values of tracers are not checked."""
    outputs = jax.eval_shape(partial(_outputs, network), variables, inputs).shape[-1]
    if np.shape(targets) != inputs.shape[:1]:
        raise ValueError(f"targets: {list(np.shape(targets))}: must be [{len(inputs)}], one for each input")
    if not isinstance(targets, jax.core.Tracer):
        wrong = [target for target in np.asarray(targets) if not 0 <= target < outputs]
        if wrong:
            raise ValueError(f"targets: {wrong[0]}: must be an output of the network, from 0 to {outputs - 1}")
    return jnp.asarray(targets)


def _outputs(network: Network, variables: Variables, inputs: Array) -> Array:
    return network.apply(variables, inputs, train=False, key=jax.random.key(0))[0]


def _of_targets(outputs: Array, targets: Array) -> Float[Array, " batch"]:
    return jnp.take_along_axis(outputs, targets[:, None], 1)[:, 0]


def _scores(network: Network, variables: Variables, inputs: Array, targets: Array) -> Float[Array, " batch"]:
    return _of_targets(_outputs(network, variables, inputs), targets)


@partial(jit, static_argnames="network")
def _gradient(network: Network, variables: Variables, inputs: Array, targets: Array) -> Array:
    # Examples are independent in evaluation mode, so the gradient of the sum holds the gradient of each.
    return jax.grad(lambda inputs: _scores(network, variables, inputs, targets).sum())(inputs)


@partial(jit, static_argnames=("network", "steps"))
def _integrated(
    network: Network, variables: Variables, inputs: Array, targets: Array, baseline: Any, steps: int
) -> Array:
    difference = inputs - baseline

    def add(total: Array, share: Array) -> tuple[Array, None]:
        return total + _gradient(network, variables, baseline + share * difference, targets), None

    total, _ = lax.scan(add, jnp.zeros_like(inputs), (jnp.arange(steps) + 0.5) / steps)
    return difference * total / steps


@partial(jit, static_argnames=("network", "layer"))
def _grad_cam(network: Network, variables: Variables, inputs: Array, targets: Array, layer: str) -> Array:
    def score(change: Array) -> tuple[Array, Array]:
        outputs, found = captured(network, variables, inputs, {layer: change})
        return _of_targets(outputs, targets).sum(), found[layer]

    [maps] = jax.eval_shape(lambda: (captured(network, variables, inputs)[1][layer],))
    gradients, maps = jax.grad(score, has_aux=True)(jnp.zeros(maps.shape, maps.dtype))
    weights = gradients.mean(range(1, gradients.ndim - 1), keepdims=True)
    return jax.nn.relu((weights * maps).sum(-1))


@partial(jit, static_argnames=("network", "size", "stride"))
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
