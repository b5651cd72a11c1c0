"""What every source of data becomes: arrays, cut into train, validation and test."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num


class DataError(Exception):
    """Data that is missing, damaged or unfit; the message says what, where, and what to do."""


class Split(NamedTuple):
    """Examples, in the type in which they are stored."""

    inputs: Num[Any, "examples *shape"]
    labels: Num[Any, "examples *label"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "std"],
    meta_fields=["shape", "dtype", "classes", "label_shape", "label_dtype"],
)
@dataclass(frozen=True, eq=False)
class Spec:
    """What a network needs to know of its data: a pytree whose leaves are the statistics of the training split."""

    shape: tuple[int, ...]
    """Of one input, as it is stored."""
    dtype: str
    classes: tuple[str, ...]
    """Names, in the order of the labels; empty where labels are no classes."""
    label_shape: tuple[int, ...]
    """Of one label."""
    label_dtype: str
    mean: Float[Any, " channels"]
    """Of each channel (last axis), as float32."""
    std: Float[Any, " channels"]

    @property
    def outputs(self) -> int:
        """Numbers that a network puts out for an example: a logit a class, or as many as a label has."""
        return len(self.classes) or math.prod(self.label_shape)

    @property
    def example(self) -> Num[Array, "one *shape"]:
        """A batch of one input of zeros, as it is stored."""
        return jnp.zeros((1, *self.shape), jax.dtypes.canonicalize_dtype(self.dtype))

    def standardize(self, inputs: Num[Any, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Stored inputs, less the mean and divided by the deviation of the training split."""
        return (inputs.astype(jnp.float32) - self.mean) / self.std


def statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each channel (last axis) over a split, as float32."""
    channels = split.inputs.shape[-1]
    size = max(1, len(split.labels) // 50)
    first = second = np.zeros(channels)
    for start in range(0, len(split.labels), size):  # in parts, to keep float64 copies small
        values = np.asarray(split.inputs[start : start + size], np.float64).reshape(-1, channels)
        first, second = first + values.sum(0), second + np.square(values).sum(0)
    count = split.inputs.size / channels
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0))
    std = np.where(std > 1e-6 * np.abs(mean), std, 1)  # a constant channel is only centered
    return mean.astype(np.float32), std.astype(np.float32)


class Dataset(NamedTuple):
    """Three splits; choices are made on `valid`, `test` is read once."""

    name: str
    spec: Spec
    train: Split
    valid: Split
    test: Split

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty where labels are no classes."""
        return self.spec.classes

    @classmethod
    def of(
        cls, name: str, classes: Sequence[str], train: Split, valid: Split | None = None, test: Split | None = None
    ) -> "Dataset":
        """A data set of arrays, with the statistics of its training split.

        >>> split = Split(np.zeros((50, 8, 8, 1)), np.arange(50) % 5)
        >>> [len(s.labels) for s in Dataset.of("zeros", "abcde", split)[2:]]
        [35, 5, 10]

        Args:
          name: in records.
          classes: names of the classes, where labels are integers that count them or a column a class;
            empty where labels are other numbers.
          train: inputs [examples, *shape] with channels last, and labels [examples, *label].
          valid: by default a tenth, at most 5,000, cut from `train` (`three_splits`).
          test: by default a fifth, cut from `train`.

        Numbers of 64 bits are kept in 32, in which JAX computes.

        Raises:
          DataError: inputs and labels differ in number, splits differ in shape or type, there is no
            example, a label is no class, or a number is NaN, infinite or too large for 32 bits.
        """
        given = {"train": train, "valid": valid, "test": test}
        if isinstance(classes, int) or classes is None:
            raise DataError(f"{name}: classes: {classes}: must be their names, or () where labels are other numbers")
        splits = _checked(name, len(classes), {split: arrays for split, arrays in given.items() if arrays is not None})
        parts = three_splits(splits["train"], splits.get("valid"), splits.get("test"), stratified=bool(classes))
        inputs, labels = splits["train"]
        kind = inputs.shape[1:], inputs.dtype.name, tuple(map(str, classes)), labels.shape[1:], labels.dtype.name
        return cls(name, Spec(*kind, *statistics(parts[0])), *parts)

    def check(self) -> None:
        """What `of` checks, for a data set that was put together or changed without it.

        Raises:
          DataError: as `of`; or a split is not what the `spec` says.
        """
        splits = {name: getattr(self, name) for name in ("train", "valid", "test")}
        spec = Split((self.spec.shape, self.spec.dtype), (self.spec.label_shape, self.spec.label_dtype))
        _checked(self.name, len(self.classes), splits)
        for name, split in splits.items():
            for what, array, (shape, dtype) in zip(Split._fields, map(np.asarray, split), spec, strict=True):
                if (array.shape[1:], array.dtype) != (shape, dtype):
                    raise DataError(
                        f"{self.name}: {name}: {what} are {array.dtype}{list(array.shape)} and the spec says "
                        f"{dtype}{['examples', *shape]}: make the data set by Dataset.of"
                    )


def _checked(name: str, classes: int, given: Mapping[str, Split]) -> dict[str, Split]:
    """Splits as arrays, of which `train` is one."""
    splits = {
        split: Split(
            *(_array(f"{name}: {split}: {what}", array) for what, array in zip(Split._fields, arrays, strict=True))
        )
        for split, arrays in given.items()
    }
    for split, arrays in splits.items():
        _check(f"{name}: {split}", arrays, splits["train"], classes)
    return splits


def _array(name: str, given: Any) -> np.ndarray:
    """Numbers as an array of at most 32 bits each; DataError names the first that does not fit."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DataError(f"{name}: no array: {error}") from None
    kind = array.dtype.kind
    if kind not in "biuf":
        raise DataError(f"{name} are {array.dtype}: must be numbers")
    with np.errstate(over="ignore"):
        kept = array.astype(f"{kind}4") if array.dtype.itemsize > 4 else array
    fits = np.isfinite(kept) if kind == "f" else np.asarray(kept is array or kept == array)
    if not fits.all():
        place = tuple(np.argwhere(~fits)[0].tolist())
        wanted = "finite" if kind == "f" else "in the range"
        raise DataError(f"{name}{list(place)} is {array[place]}: must be {wanted} in {kept.dtype}")
    return kept


def _check(name: str, split: Split, train: Split, classes: int) -> None:
    for what, array, other in zip(Split._fields, split, train, strict=True):
        if (array.shape[1:], array.dtype) != (other.shape[1:], other.dtype):
            raise DataError(
                f"{name}: {what} are {array.dtype}{list(array.shape)}: must be as in train, "
                f"{other.dtype}{['examples', *other.shape[1:]]}"
            )
    inputs, labels = split
    if inputs.ndim < 2 or len(inputs) != len(labels) or not len(labels):
        raise DataError(
            f"{name}: inputs {list(inputs.shape)}, labels {list(labels.shape)}: must be "
            "[examples, *shape, channels] and as many labels, at least one"
        )
    if classes and labels.ndim == 1:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes)) if labels.dtype.kind in "iu" else [0]
        if len(wrong):
            raise DataError(
                f"{name}: example {wrong[0]} has label {labels[wrong[0]]}: labels are integers from 0 to {classes - 1}"
            )
    elif classes and labels.shape[1:] != (classes,):
        raise DataError(f"{name}: labels are {list(labels.shape)}: with {classes} classes they have a column for each")


def cut(split: Split, count: int, stratified: bool = True) -> tuple[Split, Split]:
    """`count` examples cut from a split, and the rest, by a fixed shuffle.

    The rule is scikit-learn's `train_test_split(random_state=0)`; with `stratified` and one label an
    example, it takes the same share of each class (`stratify=labels`).
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(split.labels))
    stratify = split.labels if stratified and split.labels.ndim == 1 else None
    try:
        rest, part = train_test_split(rows, test_size=count, stratify=stratify, random_state=0)
    except ValueError as error:
        raise DataError(f"cannot cut {count} of {len(rows)} examples evenly over the classes: {error}") from error
    return tuple(Split(split.inputs[rows], split.labels[rows]) for rows in (part, rest))  # type: ignore[return-value]


def three_splits(
    train: Split, valid: Split | None, test: Split | None, stratified: bool = True
) -> tuple[Split, Split, Split]:
    """Cuts what is missing from train: a fifth for test, then a tenth of all, at most 5,000, for validation."""
    total = len(train.labels)
    if test is None:
        test, train = cut(train, math.ceil(0.2 * total), stratified)
    if valid is None:
        valid, train = cut(train, min(math.ceil(0.1 * total), 5000), stratified)
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
