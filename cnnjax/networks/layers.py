"""What the networks are built of: activations, pooling, and windows that must fit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Counts as a tuple; ValueError if one is below 1."""
    values = tuple(values)
    if any(value < 1 for value in values):
        raise ValueError(f"{field}: {text(values)}: every entry must be at least 1")
    return values


def by_name(shape: Sequence[int]) -> str:
    """A shape as people write it: `28x28x1`."""
    return "x".join(map(str, shape))


class Maps:
    """The shape of the feature maps as layer follows layer: [*spatial, channels].

    Refuses a window that does not fit, with the arithmetic and the maps so far in the message.
    """

    def __init__(self, input_shape: Sequence[int]):
        if len(input_shape) < 2 or min(input_shape) < 1:
            raise ValueError(f"input_shape: {tuple(input_shape)}: give [*spatial, channels], as (28, 28, 1)")
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
        kernel: int,
        *,
        stride: int = 1,
        padding: str | int = "VALID",
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        rngs: nnx.Rngs,
    ) -> nnx.Conv:
        """A convolution of the current maps, square in every spatial dimension."""
        for field, value in (("kernel", kernel), ("stride", stride), ("dilation", dilation), ("groups", groups)):
            positive(field, [value])
        if self.channels % groups or filters % groups:
            raise ValueError(f"groups: {groups}: must divide {self.channels} input channels and {filters} filters")
        name = f"a {by_name([kernel] * len(self.spatial))} convolution of {filters} filters"
        inputs = self.channels
        pairs = self._advance(name, kernel, stride, padding, dilation, filters)
        return nnx.Conv(
            inputs,
            filters,
            (kernel,) * len(pairs),
            stride,
            padding=pairs,
            kernel_dilation=dilation,
            feature_group_count=groups,
            use_bias=bias,
            conv_general_dilated=conv_general_dilated,
            rngs=rngs,
        )

    def pool(self, kind: str, size: int = 2) -> "Pool":
        """Pooling of the current maps over windows of `size` that do not overlap."""
        pool = Pool(kind, (size,) * len(self.spatial))
        self._advance(f"a {kind} pool of {by_name(pool.window)}", size, size, "VALID", 1, self.channels)
        return pool

    def _advance(self, name: str, size: int, stride: int, padding: str | int, dilation: int, channels: int) -> Pairs:
        """Moves on to the maps that a window gives, and returns its padding as pairs."""
        count = len(self.spatial)
        if isinstance(padding, int):
            if padding < 0:
                raise ValueError(f"padding: {padding}: must be at least 0")
            pairs = ((padding, padding),) * count
        else:
            pairs = explicit_padding(padding, self.spatial, *((n,) * count for n in (size, stride, dilation)))
        spatial = []
        for cells, pair in zip(self.spatial, pairs, strict=True):
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
    """An activation function as a layer.

    Args:
      function: a name in `ACTIVATIONS`, or a function of an array.
    """

    def __init__(self, function: str | Callable[[Array], Array]):
        self.name = function if isinstance(function, str) else getattr(function, "__name__", "")
        self.known = isinstance(function, str)
        if isinstance(function, str):
            choose("activation", function, ACTIVATIONS)
        self.function = function  # by its name, since functions under jit cannot be pickled

    def __call__(self, inputs: Array) -> Array:
        function = ACTIVATIONS[self.function] if isinstance(self.function, str) else self.function
        return function(inputs)

    @property
    def rising(self) -> bool:
        """Whether it is known to commute with a maximum."""
        return self.known and self.name in RISING


class Pool(nnx.Module):
    """Pooling over windows that do not overlap.

    Args:
      kind: a name in `POOLS`.
      window: cells in each spatial dimension.
    """

    def __init__(self, kind: str, window: Shape):
        self.kind, self.window = kind, window
        self.function = choose("pool", kind, POOLS)

    def __call__(self, inputs: Array) -> Array:
        return self.function(inputs, window_shape=self.window, strides=self.window)


def activate_and_pool(inputs: Array, activation: Activation, pool: Pool | None) -> Array:
    """The end of a block: activation, then pool.

    A rising activation commutes with a maximum, so it may follow the pool and then has only a
    share of the values to compute; values and gradients are the same.
    """
    if pool is None:
        return activation(inputs)
    return activation(pool(inputs)) if pool.kind == "max" and activation.rising else pool(activation(inputs))


class Dropout(nnx.Module):
    """Sets a share of its inputs to zero in training, and scales up the rest.

    A drop-in for `nnx.Dropout` whose rate may be a tracer, so that each lane has its own.

    Args:
      rate: share, below 1.
      rngs: whose stream `dropout` seeds the noise.
    """

    def __init__(self, rate: Any, *, rngs: nnx.Rngs):
        if isinstance(rate, int | float) and not 0 <= rate < 1:
            raise ValueError(f"dropout: {rate}: must be at least 0 and below 1")
        self.rate, self.rngs, self.deterministic = rate, rngs.dropout.fork(), False

    def __call__(self, inputs: Array) -> Array:
        if self.deterministic:
            return inputs
        keep = 1 - self.rate
        scale = 1 / keep  # XLA rewrites some divisions by `keep`, so that lanes would round unlike a single run
        return jnp.where(jax.random.bernoulli(self.rngs(), keep, inputs.shape), inputs * scale, 0)


def dense(shape: Shape, widths: Sequence[int], *, rngs: nnx.Rngs) -> nnx.List[nnx.LinearGeneral]:
    """Dense layers on inputs of a shape, each as wide as the next entry of `widths`.

    The first kernel is [*shape, width]: that of a narrower network is a corner of it.
    """
    shapes = (shape, *((width,) for width in widths))
    return nnx.List(
        [
            nnx.LinearGeneral(inputs, width, axis=tuple(range(-len(inputs), 0)), rngs=rngs)
            for inputs, width in zip(shapes, widths, strict=False)
        ]
    )
