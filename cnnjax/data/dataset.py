"""What every source of data becomes: arrays, cut into train, validation and test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, Num


class DataError(Exception):
    """Data that is missing, damaged or unfit; the message says what, where, and what to do."""


class Split(NamedTuple):
    """Examples, in the type in which they are stored."""

    inputs: Num[Any, "examples *shape"]
    labels: Int[Any, " examples"]


@dataclass(frozen=True)
class Standardize:
    """Subtracts the mean and divides by the deviation of the training split: a `Task.prepare`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, split: Split) -> "Standardize":
        """The statistics of each channel (last axis) over a split."""
        channels = split.inputs.shape[-1]
        size = max(1, len(split.labels) // 50)
        first = second = np.zeros(channels)
        for start in range(0, len(split.labels), size):  # in parts, to keep float64 copies small
            values = np.asarray(split.inputs[start : start + size], np.float64).reshape(-1, channels)
            first, second = first + values.sum(0), second + np.square(values).sum(0)
        count = split.inputs.size / channels
        mean = first / count
        std = np.sqrt(np.maximum(second / count - mean**2, 0))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1)  # a constant channel is only centred
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def __call__(
        self, key: Key[Array, ""], inputs: Num[Array, "batch *shape"], hparams: Any, *, train: bool
    ) -> Float[Array, "batch *shape"]:
        mean, std = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.std))
        return (inputs.astype(jnp.float32) - mean) / std


class Dataset(NamedTuple):
    """Three splits; choices are made on `valid`, `test` is read once."""

    name: str
    classes: tuple[str, ...]
    train: Split
    valid: Split
    test: Split
    standardize: Standardize
    """By the training split."""

    @classmethod
    def of(cls, name: str, classes: tuple[str, ...], train: Split, valid: Split, test: Split) -> "Dataset":
        """A data set with the statistics of its training split."""
        return cls(name, classes, train, valid, test, Standardize.of(train))


def cut(split: Split, count: int) -> tuple[Split, Split]:
    """`count` examples cut from a split, and the rest: by a fixed shuffle, the same share of each class.

    The rule is scikit-learn's `train_test_split(stratify=labels, random_state=0)`.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(split.labels))
    try:
        rest, part = train_test_split(rows, test_size=count, stratify=split.labels, random_state=0)
    except ValueError as error:
        raise DataError(f"cannot cut {count} of {len(rows)} examples evenly over the classes: {error}") from error
    return tuple(Split(split.inputs[rows], split.labels[rows]) for rows in (part, rest))  # type: ignore[return-value]


def three_splits(train: Split, valid: Split | None, test: Split | None) -> tuple[Split, Split, Split]:
    """Cuts what is missing from train: a fifth for test, then a tenth of all, at most 5,000, for validation."""
    total = len(train.labels)
    if test is None:
        test, train = cut(train, math.ceil(0.2 * total))
    if valid is None:
        valid, train = cut(train, min(math.ceil(0.1 * total), 5000))
    return train, valid, test


def stack(images: Sequence[np.ndarray], origin: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Images as one array; DataError names the first whose shape or type differs."""
    shape = shape or images[0].shape
    for i, image in enumerate(images):
        if image.shape != shape or image.dtype != images[0].dtype:
            raise DataError(
                f"{origin}: image {i} is {image.dtype}{list(image.shape)}, expected {images[0].dtype}{list(shape)}: "
                "all images must have one shape; resize them when the data set is prepared"
            )
    return np.stack(images)
