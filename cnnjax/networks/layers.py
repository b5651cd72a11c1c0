"""The layers of the networks: activations, convolutions and pooling with checked shapes, dropout."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp

from cnnjax.operations import Pairs, avg_pool, conv_general_dilated, explicit_padding, max_pool, output_size
from cnnjax.options import choose, text

Shape = tuple[int, ...]

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": nnx.relu,
    "tanh": jnp.tanh,
    "sigmoid": nnx.sigmoid,
    "leaky_relu": nnx.leaky_relu,
    "elu": nnx.elu,
    "gelu": nnx.gelu,
    "silu": nnx.silu,
    "softplus": nnx.softplus,
}
ZERO_AT_ZERO = ("relu", "tanh", "leaky_relu", "elu", "gelu", "silu")
RISING = ("relu", "tanh", "sigmoid", "leaky_relu", "elu", "softplus")
POOLS: Mapping[str, Callable[..., Array]] = {"max": max_pool, "average": avg_pool}


def positive(field: str, values: Iterable[int]) -> Shape:
    """Returns counts as a tuple; raises ValueError if any is below 1."""
    values = tuple(values)
    if any(value < 1 for value in values):
        raise ValueError(f"{field}: {text(values)}: every entry must be at least 1")
    return values


def by_name(shape: Sequence[int]) -> str:
    """Formats a shape, as in `28x28x1`."""
    return "x".join(map(str, shape))


class Maps:
    """Tracks the shape of the feature maps, [*spatial, channels], from layer to layer.

    Raises a ValueError if a window does not fit; the message shows the computation and all shapes so far.
    """

    def __init__(self, input_shape: Sequence[int]):
        if len(input_shape) < 2 or min(input_shape) < 1:
            raise ValueError(
                f"input_shape: {tuple(input_shape)}: give [*spatial, channels] with positive sizes, as (28, 28, 1)"
            )
        self.shapes: list[Shape] = [tuple(input_shape)]

    @property
    def channels(self) -> int:
        return self.shapes[-1][-1]

    @property
    def spatial(self) -> Shape:
        return self.shapes[-1][:-1]

    def convolution(
        self,
        filters: int,
        kernel: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[tuple[int, int]] = "VALID",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        rngs: nnx.Rngs,
    ) -> nnx.Conv:
        """Creates a convolution of the current maps.

        Args:
          filters: the number of filters.
          kernel, stride, dilation: a number for every spatial dimension, or one for each.
          padding: `SAME`, `VALID`, the number of zeros on every side, or a (low, high) pair for each
            spatial dimension.
          groups: the number of channel groups; as many as channels for a depthwise convolution.
          bias: whether a bias is added.
          rngs: the random streams for the initial values.

        Raises:
          ValueError: if an argument is out of range, or the window does not fit the maps.
        """
        positive("groups", [groups])
        if self.channels % groups or filters % groups:
            raise ValueError(f"groups: {groups}: must divide both {self.channels} input channels and {filters} filters")
        inputs = self.channels
        sizes, strides, dilations = self._window(kernel=kernel, stride=stride, dilation=dilation)
        name = f"a {by_name(sizes)} convolution of {filters} filters"
        pairs = self._advance(name, sizes, strides, padding, dilations, filters)
        return nnx.Conv(
            inputs,
            filters,
            sizes,
            strides,
            padding=pairs,
            kernel_dilation=dilations,
            feature_group_count=groups,
            use_bias=bias,
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )

    def pool(
        self,
        kind: str,
        size: int | Sequence[int] = 2,
        *,
        stride: int | Sequence[int] | None = None,
        padding: str | int | Sequence[tuple[int, int]] = "VALID",
    ) -> "Pool":
        """Creates a pooling layer for the current maps.

        Args:
          kind: a name in `POOLS`.
          size: the size of the windows, for every spatial dimension or for each.
          stride: their distance; by default their size, so that they do not overlap.
          padding: as in `convolution`; a maximum ignores padding, and an average counts it as zeros.

        Raises:
          ValueError: as in `convolution`.
        """
        sizes, strides = self._window(pool_size=size, stride=size if stride is None else stride)
        ones = (1,) * len(sizes)
        pairs = self._advance(f"a {kind} pool of {by_name(sizes)}", sizes, strides, padding, ones, self.channels)
        return Pool(kind, sizes, strides, pairs if any(map(any, pairs)) else "VALID")

    def _window(self, **fields: int | Sequence[int]) -> Iterator[Shape]:
        """Yields each field as one number for each spatial dimension."""
        count = len(self.spatial)
        for field, given in fields.items():
            values = (given,) * count if isinstance(given, int) else tuple(given)
            if len(values) != count:
                raise ValueError(f"{field}: {text(values)}: give one number for each of {count} spatial dimensions")
            yield positive(field, values)

    def _advance(
        self,
        name: str,
        sizes: Shape,
        strides: Shape,
        padding: str | int | Sequence[tuple[int, int]],
        dilations: Shape,
        channels: int,
    ) -> Pairs:
        """Updates the maps for a window, and returns its padding as pairs."""
        pairs = explicit_padding(
            (padding,) * len(sizes) if isinstance(padding, int) else padding, self.spatial, sizes, strides, dilations
        )
        if min(map(min, pairs)) < 0:
            raise ValueError(f"padding: {padding}: must be at least 0")
        spatial = []
        for cells, size, stride, pair, dilation in zip(self.spatial, sizes, strides, pairs, dilations, strict=True):
            out = output_size(cells, size, stride, pair, dilation)
            spatial.append(out)
            if out < 1:
                reach = (size - 1) * dilation + 1
                raise ValueError(
                    f"{name} does not fit maps of {by_name(self.spatial)}: "
                    f"floor(({cells} + {sum(pair)} - {reach}) / {stride}) + 1 = {out}; "
                    f"maps so far: {' -> '.join(map(by_name, self.shapes))}; "
                    "use larger inputs, smaller windows or fewer layers"
                )
        self.shapes.append((*spatial, channels))
        return pairs


class Activation(nnx.Module):
    """A layer that applies an activation function.

    Args:
      function: a name in `ACTIVATIONS`, or a function of an array.
    """

    def __init__(self, function: str | Callable[[Array], Array]):
        self.name = function if isinstance(function, str) else getattr(function, "__name__", "")
        self.known = isinstance(function, str)
        if isinstance(function, str):
            choose("activation", function, ACTIVATIONS)
        self.function = function  # stored by name, because jitted functions cannot be pickled

    def __call__(self, inputs: Array) -> Array:
        function = ACTIVATIONS[self.function] if isinstance(self.function, str) else self.function
        return function(inputs)

    @property
    def rising(self) -> bool:
        """Whether it is known to be monotonic, so that it commutes with a maximum."""
        return self.known and self.name in RISING


class Pool(nnx.Module):
    """A pooling layer.

    Args:
      kind: a name in `POOLS`.
      window: the window size in each spatial dimension.
      strides: the distance of the windows; by default their size, so that they do not overlap.
      padding: `VALID`, or a (low, high) pair for each spatial dimension.
    """

    def __init__(self, kind: str, window: Shape, strides: Shape | None = None, padding: str | Pairs = "VALID"):
        self.kind, self.window, self.strides, self.padding = kind, window, strides or window, padding
        self.function = choose("pool", kind, POOLS)

    def __call__(self, inputs: Array) -> Array:
        return self.function(inputs, window_shape=self.window, strides=self.strides, padding=self.padding)


def activate_and_pool(inputs: Array, activation: Activation, pool: Pool | None) -> Array:
    """Applies the activation, then the pooling layer if there is one.

    A monotonic activation commutes with a maximum. It is then computed after max pooling, on fewer
    values; values and gradients are the same.
    """
    if pool is None:
        return activation(inputs)
    return activation(pool(inputs)) if pool.kind == "max" and activation.rising else pool(activation(inputs))


class Dropout(nnx.Module):
    """Dropout (Srivastava et al. 2014): in training, sets random inputs to zero and scales up the others.

    Unlike `nnx.Dropout`, which it replaces, it takes a tracer as its rate, so each lane can have its own.

    >>> layer = Dropout(0.5, rngs=nnx.Rngs(0))
    >>> sorted(set(layer(jnp.ones(100)).tolist()))
    [0.0, 2.0]

    Args:
      rate: the fraction of inputs that is set to zero, at least 0 and below 1.
      rngs: the random streams; the stream `dropout` seeds the noise.
    """

    field = "dropout"
    """The name of the rate in messages."""

    def __init__(self, rate: Any, *, rngs: nnx.Rngs):
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"{self.field}: {rate}: must be at least 0 and below 1")
        self.rate, self.rngs, self.deterministic = rate, rngs.dropout.fork(), False

    def __call__(self, inputs: Array) -> Array:
        if self.deterministic:
            return inputs
        keep = 1 - self.rate
        scale = 1 / keep  # a division by `keep` may be rewritten by XLA, and lanes would round unlike a single run
        return jnp.where(jax.random.bernoulli(self.rngs(), keep, self.drawn(inputs)), inputs * scale, 0)

    def drawn(self, inputs: Array) -> Shape:
        """Returns the shape of the draws, which is broadcast over the inputs."""
        return inputs.shape


def dense(shape: Shape, widths: Sequence[int], *, rngs: nnx.Rngs) -> nnx.List[nnx.LinearGeneral]:
    """Creates dense layers of the given widths, for inputs of the given shape.

    The first kernel is [*shape, width], so the kernel of a narrower network is a corner of it.
    """
    shapes = (shape, *((width,) for width in widths))
    return nnx.List(
        [
            nnx.LinearGeneral(inputs, width, axis=tuple(range(-len(inputs), 0)), rngs=rngs)
            for inputs, width in zip(shapes, widths, strict=False)
        ]
    )
