"""The kernels of convolutions, and how smooth they are."""

from functools import partial

import jax
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.look.layers import outline
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


def kernels(
    network: Network, variables: Variables, inputs: Float[Array, "batch *shape"], layer: str | None = None
) -> dict[str, Float[Array, "*window channels filters"]]:
    """The kernels of convolutions by path, in the order in which they are called.

    >>> look.kernels(network, variables, images)["c1"].shape
    (5, 5, 1, 6)

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      inputs: a batch, as the network takes it; only its shape and type matter.
      layer: the path of one of them; by default all.

    Returns:
      [*window, channels / groups, filters] by path; nothing where the network has no convolution.

    Raises:
      ValueError: the network has no such convolution; the message suggests one.
    """
    found = _kernels(network, variables, inputs)
    ordered = {name: found[name] for name in outline(network, variables, inputs) if name in found}
    return ordered if layer is None else {layer: choose("layer", layer, ordered)}


@partial(jax.jit, static_argnames="network")
def _kernels(network: Network, variables: Variables, inputs: Array) -> dict[str, Array]:
    module = network.module(variables, inputs)
    return {
        ".".join(map(str, path)): layer.kernel[...]
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, nnx.Conv | nnx.ConvTranspose)
    }


def smoothness(kernel: Float[Array, "*window channels filters"]) -> Float[np.ndarray, " filters"]:
    """The share of each filter's power at wavelengths above four cells in every spatial dimension.

    The integral of the power spectrum over that band, without a grid of frequencies. White noise has 1/2 in
    one dimension and 1/4 in two on average, a filter that is constant over a wide window nearly 1.

    >>> smoothness(np.ones((1, 1, 1, 2)))
    array([0.25, 0.25])

    Args:
      kernel: [*window, channels, filters].
    """
    values = np.asarray(kernel, np.float64)
    smooth = values
    for axis, size in enumerate(values.shape[:-2]):
        cells = np.arange(size)
        band = np.sinc((cells[:, None] - cells) / 2) / 2  # the inner products of cells within the band
        smooth = np.moveaxis(np.tensordot(band, smooth, (1, axis)), 0, axis)
    axes = tuple(range(values.ndim - 1))
    power = np.square(values).sum(axes)
    return (values * smooth).sum(axes) / np.where(power > 0, power, 1)
