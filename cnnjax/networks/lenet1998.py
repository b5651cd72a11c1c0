"""LeNet-5 as published in 1998."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from cnnjax.networks.base import NetworkConfig
from cnnjax.networks.layers import Maps, by_name
from cnnjax.operations import avg_pool, conv_general_dilated
from cnnjax.options import config, static

C3_TABLE = (
    *(tuple((i + j) % 6 for j in range(3)) for i in range(6)),
    *(tuple((i + j) % 6 for j in range(4)) for i in range(6)),
    *((i, i + 1, (i + 3) % 6, (i + 4) % 6) for i in range(3)),
    tuple(range(6)),
)
"""The maps of S2 that each of the 16 filters of C3 sees (table I of the paper)."""

_DIGITS = (
    ".###. #...# #...# #...# #...# #...# .###.",
    "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    ".###. #...# ....# ...#. ..#.. .#... #####",
    "####. ....# ....# .###. ....# ....# ####.",
    "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "##### #.... ####. ....# ....# #...# .###.",
    ".###. #.... #.... ####. #...# #...# .###.",
    "##### ....# ...#. ..#.. ..#.. ..#.. ..#..",
    ".###. #...# #...# .###. #...# #...# .###.",
    ".###. #...# #...# .#### ....# ....# .###.",
)


def target_codes(classes: int) -> np.ndarray:
    """Returns the codes of the output layer, [classes, 84], of -1 and 1.

    For 10 classes, they are 7x12 pictures of the digits, as in the paper, though not its own pictures. For
    other numbers of classes they are random.
    """
    if classes != len(_DIGITS):
        return np.random.default_rng(0).choice((-1.0, 1.0), (classes, 84)).astype(np.float32)
    codes = -np.ones((classes, 12, 7), np.float32)
    for code, rows in zip(codes, _DIGITS, strict=True):
        code[2:9, 1:6][[[pixel == "#" for pixel in row] for row in rows.split()]] = 1
    return codes.reshape(classes, 84)


def squashed(x: Array) -> Array:
    """The activation of the paper, 1.7159 tanh(2/3 x)."""
    return 1.7159 * jnp.tanh(2 / 3 * x)


def _uniform(fan_in: int | np.ndarray) -> Callable[..., Array]:
    """Returns an initializer that draws between -2.4 / fan_in and 2.4 / fan_in, as in the paper (appendix A)."""

    def draw(key: Array, shape: tuple[int, ...], *_: object) -> Array:
        return jax.random.uniform(key, shape, minval=-1) * (2.4 / fan_in)

    return draw


class TableConvolution(nnx.Module):
    """A convolution whose filters each see some of the channels, as a table says.

    The kernels of a filter, [height, width, channels that it sees], are its only weights. They are
    placed in a full kernel, with zeros for the other channels.

    >>> layer = TableConvolution(3, ((0, 1), (2,)), 5, rngs=nnx.Rngs(0))
    >>> layer(jnp.zeros((1, 8, 8, 3))).shape, sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    ((1, 4, 4, 2), 77)

    Args:
      channels: the number of input channels.
      table: for each filter, the channels that it sees.
      kernel: the size of the windows.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if the table names a channel that the inputs do not have.
    """

    def __init__(self, channels: int, table: Sequence[Sequence[int]], kernel: int, *, rngs: nnx.Rngs):
        if wrong := [channel for seen in table for channel in seen if not 0 <= channel < channels]:
            raise ValueError(f"table: {wrong[0]}: must be a channel from 0 to {channels - 1}")
        pairs = [(channel, i) for i, seen in enumerate(table) for channel in seen]
        self.seen, self.filters = tuple(zip(*pairs, strict=True))
        self.shape = (kernel, kernel, channels, len(table))
        fans = np.array([kernel * kernel * len(table[i]) for i in self.filters], np.float32)
        self.kernel = nnx.Param(_uniform(fans)(rngs.params(), (kernel, kernel, len(pairs))))
        self.bias = nnx.Param(jnp.zeros(len(table)))

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w filters"]:
        kernel = self.kernel[...]
        full = jnp.zeros(self.shape, kernel.dtype).at[:, :, np.array(self.seen), np.array(self.filters)].set(kernel)
        layout = ("NHWC", "HWIO", "NHWC")
        return conv_general_dilated(inputs, full, (1, 1), "VALID", dimension_numbers=layout) + self.bias[...]


class Subsampling(nnx.Module):
    """Pooling with trained numbers: the sum over 2x2 cells of each map, times a coefficient, plus a bias.

    Args:
      channels: the number of maps.
      rngs: the random streams for the initial values.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.coefficient = nnx.Param(_uniform(4)(rngs.params(), (channels,)))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
        return 4 * avg_pool(inputs, (2, 2), (2, 2)) * self.coefficient[...] + self.bias[...]


class LeNet1998(nnx.Module):
    """LeNet-5 as LeCun, Bottou, Bengio and Haffner published it in 1998, with 60,000 trained parameters.

    The network follows "Gradient-based learning applied to document recognition", section II.B: the
    filters of C3 see 3, 4 or 6 of the maps of S2; subsampling has a trained coefficient and bias for each
    map; the activation is 1.7159 tanh(2/3 x); and the output of a class is the squared distance of F6
    to a fixed code of 84 numbers, -1 or 1. The logits are the negative distances. For the codes, see
    `target_codes`. The network in its usual modern form is `LeNet5`.

    Args:
      input_shape: the shape [height, width, channels] of one input: 28x28x1, or 32x32x1 without padding.
      classes: the number of logits.
      padding: the number of zeros on each side of the input; 2 pads 28x28 to the 32x32 of the paper.
      rngs: the random streams for the initial values.

    Raises:
      ValueError: if the input has another size.
    """

    def __init__(self, input_shape: Sequence[int], classes: int, *, padding: int = 2, rngs: nnx.Rngs):
        maps = Maps(input_shape)
        self.c1 = maps.convolution(6, 5, padding=padding, rngs=rngs)
        if maps.shapes[-1] != (28, 28, 6):
            side = 32 - 2 * padding
            raise ValueError(
                f"input_shape: {by_name(input_shape)}: must be {side}x{side}x1 with a padding of {padding}: use "
                "lenet5 for other sizes"
            )
        self.s2 = Subsampling(6, rngs=rngs)
        self.c3 = TableConvolution(6, C3_TABLE, 5, rngs=rngs)
        self.s4 = Subsampling(16, rngs=rngs)
        self.c5 = Maps((5, 5, 16)).convolution(120, 5, rngs=rngs)
        self.f6 = nnx.Linear(120, 84, kernel_init=_uniform(120), rngs=rngs)
        for layer, fan_in in ((self.c1, 25 * input_shape[-1]), (self.c5, 400)):
            layer.kernel[...] = _uniform(fan_in)(rngs.params(), layer.kernel.shape)
        self.codes = target_codes(classes)

    def __call__(self, inputs: Float[Array, "batch height width channels"]) -> Float[Array, "batch classes"]:
        x = squashed(self.s2(squashed(self.c1(inputs))))
        x = squashed(self.s4(squashed(self.c3(x))))
        x = squashed(self.f6(squashed(self.c5(x)).reshape(len(inputs), 120)))
        return -jnp.square(x[:, None] - self.codes).sum(-1)


@config
class LeNet1998Config(NetworkConfig):
    """The configuration of a `LeNet1998`."""

    word = "lenet5-1998"
    module = LeNet1998
    per_example = True
    padding: int = static(2, "zeros on each side of the input", least=0)
