"""The kernels of convolutions, and their smoothness."""

from functools import partial

import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.devices import jit
from cnnjax.look.layers import outline
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


def kernels(
    network: Network, variables: Variables, inputs: Float[Array, "batch *shape"], layer: str | None = None
) -> dict[str, Float[Array, "*window channels filters"]]:
    """Returns the kernels of the convolutions by path, in the order of their calls.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.kernels(network, variables, images)["blocks.0.convolutions.0"].shape
    (3, 3, 1, 4)

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      inputs: a batch of inputs; only its shape and dtype are used.
      layer: the path of a convolution; by default, all convolutions are returned.

    Returns:
      A dictionary of arrays [*window, channels / groups, filters]; empty if the network has no convolutions.

    Raises:
      ValueError: if the network has no such convolution.
    """
    found = _kernels(network, variables, inputs)
    ordered = {name: found[name] for name in outline(network, variables, inputs) if name in found}
    return ordered if layer is None else {layer: choose("layer", layer, ordered)}


@partial(jit, static_argnames="network")
def _kernels(network: Network, variables: Variables, inputs: Array) -> dict[str, Array]:
    module = network.module(variables, inputs)
    return {
        ".".join(map(str, path)): layer.kernel[...]
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, nnx.Conv | nnx.ConvTranspose)
    }


def smoothness(kernel: Float[Array, "*window channels filters"]) -> Float[np.ndarray, " filters"]:
    """Computes the fraction of the power of each filter at wavelengths above four cells in every dimension.

    The power spectrum is integrated exactly over this band. The expected value for white noise is 1/2 in one
    spatial dimension and 1/4 in two; a filter that is constant over a large window has almost 1.

    >>> import numpy as np
    >>> from cnnjax import look
    >>> look.smoothness(np.ones((1, 1, 1, 2)))
    array([0.25, 0.25])

    Args:
      kernel: an array [*window, channels, filters].

    Returns:
      A value between 0 and 1 for each filter; 0 for a filter of zeros.
    """
    values = np.asarray(kernel, np.float64)
    smooth = values
    for axis, size in enumerate(values.shape[:-2]):
        cells = np.arange(size)
        band = np.sinc((cells[:, None] - cells) / 2) / 2  # inner products of cells, restricted to the band
        smooth = np.moveaxis(np.tensordot(band, smooth, (1, axis)), 0, axis)
    axes = tuple(range(values.ndim - 1))
    power = np.square(values).sum(axes)
    return (values * smooth).sum(axes) / np.where(power > 0, power, 1)
