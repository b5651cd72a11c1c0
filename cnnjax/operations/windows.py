"""Where a window goes over an input: sizes, padding, and all of a convolution that is not an array."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax import lax

Padding = str | Sequence[int | tuple[int, int]]
Sizes = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]


def known(sizes: Sequence[Any]) -> bool:
    """Whether every size is a number: `jax.export` also has symbols for them."""
    return all(isinstance(size, int) for size in sizes)


def output_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Positions of a window along one dimension: floor((size + lo + hi - reach) / stride) + 1.

    `reach` is (window - 1) * dilation + 1. Zero or less means that the window does not fit.
    """
    return (size + sum(padding) - (window - 1) * dilation - 1) // stride + 1


def explicit_padding(
    padding: Padding, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """Padding as one (low, high) pair a dimension; `SAME` and `VALID` as XLA defines them.

    Raises:
      ValueError: the padding is neither `VALID`, `SAME`, `SAME_LOWER` nor one entry a dimension.
    """
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        try:
            return tuple(lax.padtype_to_pads(sizes, reach, strides, padding.upper()))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"padding: {padding!r}: use SAME, VALID, or numbers of cells") from error
    pairs = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)
    if len(pairs) != len(sizes):
        raise ValueError(f"padding: {padding!r}: {len(pairs)} entries for {len(sizes)} spatial dimensions")
    return pairs


class Geometry(NamedTuple):
    """All of a convolution that is not an array; one entry for each spatial dimension."""

    input: Sizes
    kernel: Sizes
    output: Sizes
    strides: Sizes
    dilation: Sizes
    padding: Pairs
    groups: int
    precision: Any
    """Of `jax.lax`, in its canonical form: None, a pair of `lax.Precision`, or an algorithm."""

    @property
    def exact(self) -> bool:
        """Whether each output sums the products of its own window alone: `highest` for an operand, or an algorithm."""
        if isinstance(self.precision, tuple):
            return lax.Precision.HIGHEST in self.precision
        return self.precision is not None

    @property
    def spans(self) -> Sizes:
        """How far the last tap of a dilated kernel lies from its first."""
        return tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def plain(self) -> bool:
        """Two spatial dimensions, strides and dilation of 1, one group."""
        return len(self.kernel) == 2 and self.groups == 1 and set(self.strides + self.dilation) == {1}

    @property
    def unreached(self) -> Sizes:
        """Cells at the end of the padded input that no window reaches."""
        return tuple(
            n + lo + hi - (span + 1) - (o - 1) * stride
            for n, (lo, hi), span, o, stride in zip(
                self.input, self.padding, self.spans, self.output, self.strides, strict=True
            )
        )
