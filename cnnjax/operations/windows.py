"""The geometry of windows: output sizes, padding, and the static parameters of a convolution."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

Padding = str | Sequence[int | tuple[int, int]]
Sizes = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def known(sizes: Sequence[Any]) -> bool:
    """Returns whether every size is an integer, and not a symbolic dimension of `jax.export`."""
    return all(isinstance(size, int) for size in sizes)


def output_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Returns the number of window positions along one dimension.

    It is floor((size + low + high - reach) / stride) + 1, where (low, high) is the padding and `reach` is
    (window - 1) * dilation + 1. The window does not fit if the result is below 1.
    """
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def explicit_padding(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Returns padding as a (low, high) pair per dimension; XLA defines `SAME` and `VALID`.

    Args:
      padding: `VALID`, `SAME`, `SAME_LOWER`, or one entry per dimension: an integer or a (low, high) pair.
      sizes, window, strides, dilation: the geometry, with one entry per spatial dimension.

    Raises:
      ValueError: if the padding is not `VALID`, `SAME`, `SAME_LOWER` or one entry per dimension.
    """
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        try:
            return tuple(lax.padtype_to_pads(sizes, reach, strides, padding.upper()))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"padding: {padding!r}: use SAME, VALID, or integers") from error
    pairs = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)
    if len(pairs) != len(sizes):
        raise ValueError(f"padding: {padding!r}: give one entry for each of the {len(sizes)} spatial dimensions")
    return pairs


def padded(x: Array, pairs: Pairs, interior: int | Sequence[int] = 0) -> Array:
    """Pads the spatial dimensions of [*, *spatial, *] with zeros, or crops them where a pair is negative.

    Args:
      x: an array whose axes from the second on are spatial.
      pairs: the (low, high) padding of each spatial dimension.
      interior: the number of zeros between neighbors, for each dimension or for all.
    """
    between = [interior] * len(pairs) if isinstance(interior, int) else interior
    config = [(lo, hi, zeros) for (lo, hi), zeros in zip(pairs, between, strict=True)]
    rest = [(0, 0, 0)] * (x.ndim - 1 - len(pairs))
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, *rest])


class Geometry(NamedTuple):
    """The static parameters of a convolution, each with one entry per spatial dimension."""

    input: Sizes
    kernel: Sizes
    output: Sizes
    strides: Sizes
    dilation: Sizes
    padding: Pairs
    groups: int
    precision: Any
    """The precision of `jax.lax` in canonical form: None, a pair of `lax.Precision`, or an algorithm."""

    @property
    def exact(self) -> bool:
        """Whether each output must be the direct sum over its window: `highest` for an operand, or an algorithm."""
        if isinstance(self.precision, tuple):
            return lax.Precision.HIGHEST in self.precision
        return self.precision is not None

    @property
    def algorithm(self) -> bool:
        """Whether the precision is an algorithm, which only `jax.lax` knows how to follow."""
        return not (self.precision is None or isinstance(self.precision, tuple))

    @property
    def spans(self) -> Sizes:
        """The distance from the first to the last tap of the dilated kernel."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def plain(self) -> bool:
        """Whether it is 2-D with strides and dilation of 1 and one group."""
        return len(self.kernel) == 2 and self.groups == 1 and set(self.strides + self.dilation) == {1}

    @property
    def unreached(self) -> Sizes:
        """The number of positions at the end of the padded input that no window covers."""
        return tuple(
            n + lo + hi - (span + 1) - (o - 1) * stride
            for n, (lo, hi), span, o, stride in zip(
                self.input, self.padding, self.spans, self.output, self.strides, strict=True
            )
        )

    @property
    def transposed_padding(self) -> Pairs:
        """The padding of the transpose: a convolution of the cotangent, with zeros between strides."""
        return tuple(
            (span - lo, span - hi + rest)
            for span, (lo, hi), rest in zip(self.spans, self.padding, self.unreached, strict=True)
        )

    @property
    def transposed(self) -> Geometry:
        """The transpose of a convolution with strides of 1, which is a convolution with the flipped kernel."""
        return self._replace(input=self.output, output=self.input, padding=self.transposed_padding)


def taps(geometry: Geometry) -> Iterator[Sizes]:
    """Returns the positions in the kernel, in row-major order."""
    return itertools.product(*map(range, geometry.kernel))


def shifted(x: Array, geometry: Geometry) -> Iterator[tuple[Sizes, Array]]:
    """Returns each tap of the kernel and the padded inputs under it, [images, *output, channels]."""
    for tap in taps(geometry):
        starts = [t * d for t, d in zip(tap, geometry.dilation, strict=True)]
        reach = [(o - 1) * s + 1 for o, s in zip(geometry.output, geometry.strides, strict=True)]
        slices = [slice(a, a + r, s) for a, r, s in zip(starts, reach, geometry.strides, strict=True)]
        yield tap, x[(slice(None), *slices)]
