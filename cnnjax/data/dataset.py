"""Data sets: arrays in training, validation and test splits, with their specification."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Key, Num

PADDING, UNKNOWN = 0, 1
"""The tokens that fill a text up to its length, and that stand for words outside of the vocabulary."""


class DataError(Exception):
    """Raised for data that is missing, damaged or invalid; the message names it and what to do."""


class Split(NamedTuple):
    """Examples of a data set, in their stored dtype."""

    inputs: Num[Any, "examples *shape"]
    labels: Num[Any, "examples *label"]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "std", "counts"],
    meta_fields=["shape", "dtype", "classes", "label_shape", "label_dtype", "low", "high", "margin", "tokens"],
)
@dataclass(frozen=True, eq=False)
class Spec:
    """The specification of a data set: a pytree whose leaves are the statistics of the training split."""

    shape: tuple[int, ...]
    """The shape of one stored input."""
    dtype: str
    classes: tuple[str, ...]
    """The names of the classes, in label order; empty if the labels are not classes."""
    label_shape: tuple[int, ...]
    """The shape of one label."""
    label_dtype: str
    mean: Float[Any, " channels"]
    """The mean of each channel (last axis), as float32."""
    std: Float[Any, " channels"]
    """The standard deviation of each channel, as float32; 1 for a constant channel."""
    low: tuple[float, ...] = ()
    """The smallest value of each channel in the training examples, for image files; empty if not recorded."""
    high: tuple[float, ...] = ()
    """The largest value of each channel."""
    margin: float | None = None
    """The median margin around the content of the training examples, as a share of the side; None unless they are
    drawings."""
    counts: Float[Any, " classes"] | None = None
    """The number of training examples of each class; None if the labels are not classes, or not recorded."""
    tokens: int = 0
    """The size of the vocabulary, with padding and the unknown token, for inputs that are text; 0 for others."""

    @property
    def outputs(self) -> int:
        """The number of network outputs per example: one logit per class, or the size of a label."""
        return len(self.classes) or math.prod(self.label_shape)

    @property
    def example(self) -> Num[Array, "one *shape"]:
        """A batch of one input, filled with zeros of the stored dtype."""
        return jnp.zeros((1, *self.shape), jax.dtypes.canonicalize_dtype(self.dtype))

    @property
    def standardized(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of a batch of one standardized input."""
        return jax.ShapeDtypeStruct((1, *self.shape), jnp.int32 if self.tokens else jnp.float32)

    def standardize(self, inputs: Num[Any, "batch *shape"]) -> Num[Array, "batch *shape"]:
        """Standardizes stored inputs with the mean and standard deviation of the training split; tokens stay int32."""
        if self.tokens:
            return inputs.astype(jnp.int32)
        return (inputs.astype(jnp.float32) - self.mean) / self.std


class Batch(NamedTuple):
    """The examples of a training step, as augmentations get them."""

    inputs: Num[Array, "batch *shape"]
    """Standardized; tokens are int32."""
    labels: Num[Array, "batch *label"]
    rows: Int[Array, " batch"]
    """The indices of the examples in the training split."""
    epoch: Int[Array, ""]
    """The number of the epoch, from 0."""
    key: Key[Array, ""]
    """A key that depends on the seed alone, and is thus the same in each step."""
    spec: Spec
    """The specification of the data set, such as its classes."""


def statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of each channel (last axis) of a split, as float32."""
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


def _extremes(inputs: np.ndarray) -> Iterator[tuple[float, ...]]:
    """Yields the smallest and the largest value of each channel."""
    for extreme in (np.min, np.max):  # over the examples first, which is many times faster
        yield tuple(extreme(extreme(inputs, 0).reshape(-1, inputs.shape[-1]), 0).astype(float).tolist())


def _usual_margin(inputs: np.ndarray, most: int = 1000) -> float | None:
    """Returns the `Spec.margin` of some of the inputs.

    They are drawings if two thirds of the pixels at their borders have nearly the same color.
    """
    if inputs.ndim != 4:
        return None
    some = np.asarray(inputs[:: -(-len(inputs) // most)], np.float32)
    border = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], 1).reshape(-1, some.shape[-1])
    paper = np.median(border, 0)
    if (np.abs(border - paper).max(-1) < 0.1 * np.ptp(some)).mean() < 2 / 3:
        return None
    ink = np.abs(some - paper).max(-1)
    drawn = ink >= ink.max((1, 2), keepdims=True) / 4  # as in `images`
    shares = [
        (line.shape[1] - line.argmax(1) - line[:, ::-1].argmax(1)) / line.shape[1] for line in map(drawn.any, (1, 2))
    ]
    return round(float(np.median(1 - np.maximum(*shares))) / 2, 3)


class Dataset(NamedTuple):
    """A data set: its specification and three splits.

    Points are ranked on `valid`; `test` is evaluated once, at the end.
    """

    name: str
    spec: Spec
    train: Split
    valid: Split
    test: Split
    cut: tuple[str, ...] = ()
    """The splits that were cut from the training split of the source."""
    notes: tuple[str, ...] = ()
    """What was noticed while the data were read, such as files that were skipped; a line each."""
    vocabulary: tuple[str, ...] = ()
    """The words that tokens stand for, from padding and the unknown token; empty if the inputs are not text."""
    folds: "Mapping[str, Dataset] | None" = None
    """If this is the first fold of a cross-validation, all of its folds by name."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if the labels are not classes."""
        return self.spec.classes

    def at(self, fold: str | None) -> "Dataset":
        """Returns a fold by name if this data set has folds, else the data set itself."""
        return self if self.folds is None or fold is None else self.folds[fold]

    @classmethod
    def of(
        cls,
        name: str,
        classes: Sequence[str],
        train: Split,
        valid: Split | None = None,
        test: Split | None = None,
        *,
        valid_share: float | None = None,
        test_share: float | None = None,
        vocabulary: Sequence[str] = (),
    ) -> "Dataset":
        """Creates a data set from arrays, and computes the statistics of its training split.

        64-bit numbers are stored in 32 bits.

        >>> split = Split(np.zeros((50, 8, 8, 1)), np.arange(50) % 5)
        >>> data = Dataset.of("zeros", "abcde", split)
        >>> len(data.train.labels), len(data.valid.labels), len(data.test.labels)
        (35, 5, 10)

        Args:
          name: the name of the data set in records.
          classes: the names of the classes, if the labels are class indices or have one column per
            class; empty if the labels are other numbers.
          train: inputs [examples, *shape] with channels last, and labels [examples, *label].
          valid: the validation split; by default a tenth of the examples, at most 5,000, is cut from
            `train` (see `three_splits`).
          test: the test split; by default a fifth of the examples is cut from `train`.
          valid_share: another share of all examples to cut for validation.
          test_share: another share of all examples to cut for the test.
          vocabulary: for inputs that are tokens, [examples, length], the words that they stand for; the first is
            padding, the second the unknown token.

        Raises:
          DataError: if inputs and labels differ in number, the splits differ in shape or dtype, a split
            is empty, a label is not a class, a token is not in the vocabulary, a
            number is NaN, infinite or too large for 32 bits, or a share is given for a split that exists or is out of
            range.
        """
        given = {"train": train, "valid": valid, "test": test}
        if isinstance(classes, int) or classes is None:
            raise DataError(f"{name}: classes: {classes}: must be class names, or () if the labels are other numbers")
        splits = _checked(name, len(classes), {split: arrays for split, arrays in given.items() if arrays is not None})
        shares = _shares(name, splits, valid_share, test_share)
        parts = three_splits(
            splits["train"], splits.get("valid"), splits.get("test"), stratified=bool(classes), **shares
        )
        inputs, labels = splits["train"]
        kind = inputs.shape[1:], inputs.dtype.name, tuple(map(str, classes)), labels.shape[1:], labels.dtype.name
        counts = class_counts(parts[0].labels, len(classes)) if classes else None
        cut = tuple(split for split in ("valid", "test") if split not in splits)
        if words := tuple(map(str, vocabulary)):
            _check_tokens(name, splits, len(words))
            spec = Spec(*kind, np.zeros(1, np.float32), np.ones(1, np.float32), counts=counts, tokens=len(words))
            return cls(name, spec, *parts, cut=cut, vocabulary=words)
        low, high = _extremes(inputs)
        spec = Spec(*kind, *statistics(parts[0]), low, high, _usual_margin(inputs), counts)
        return cls(name, spec, *parts, cut=cut)

    def check(self) -> None:
        """Checks a data set that was not created by `of`, or was changed since.

        Raises:
          DataError: as in `of`, or if a split does not match the `spec`.
        """
        splits = {name: getattr(self, name) for name in ("train", "valid", "test")}
        spec = Split((self.spec.shape, self.spec.dtype), (self.spec.label_shape, self.spec.label_dtype))
        _checked(self.name, len(self.classes), splits)
        if self.spec.tokens:
            _check_tokens(self.name, splits, self.spec.tokens)
        for name, split in splits.items():
            for what, array, (shape, dtype) in zip(Split._fields, map(np.asarray, split), spec, strict=True):
                if (array.shape[1:], array.dtype) != (shape, dtype):
                    raise DataError(
                        f"{self.name}: {name}: {what} are {array.dtype}{list(array.shape)}, but the spec says "
                        f"{dtype}{['examples', *shape]}: create the data set with Dataset.of"
                    )


def _check_tokens(name: str, splits: Mapping[str, Split], tokens: int) -> None:
    for split, (inputs, _) in splits.items():
        if inputs.ndim != 2 or inputs.dtype.kind not in "iu":
            raise DataError(
                f"{name}: {split}: inputs are {inputs.dtype}{list(inputs.shape)}: tokens must be integers, "
                "[examples, length]"
            )
        least, most = inputs.min(initial=0), inputs.max(initial=0)
        if not 0 <= least <= most < tokens:
            raise DataError(f"{name}: {split}: tokens are {least} to {most}: must be from 0 to {tokens - 1}")


def class_counts(labels: np.ndarray, classes: int) -> Float[np.ndarray, " classes"]:
    """Returns the number of examples of each class, as float32; the sum of each column of labels with columns."""
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(0)
    return counts.astype(np.float32)


def _shares(name: str, splits: Mapping[str, Split], valid: float | None, test: float | None) -> dict[str, float]:
    """Returns the shares to cut that are given; raises DataError for a share of a split that the source has."""
    given = {split: share for split, share in (("valid", valid), ("test", test)) if share is not None}
    for split, share in given.items():
        if split in splits:
            raise DataError(f"{name}: {split}_share: {share:g}: the data have a {split} split: omit it")
        if not 0 < share < 1:
            raise DataError(f"{name}: {split}_share: {share:g}: must be above 0 and below 1")
    if sum(given.values()) >= 1:
        raise DataError(f"{name}: valid_share {valid:g} and test_share {test:g}: must leave examples for training")
    return {f"{split}_share": share for split, share in given.items()}


def _checked(name: str, classes: int, given: Mapping[str, Split]) -> dict[str, Split]:
    """Converts splits to arrays, and checks each against the `train` split."""
    splits = {
        split: Split(
            *(numbers(f"{name}: {split}: {what}", array) for what, array in zip(Split._fields, arrays, strict=True))
        )
        for split, arrays in given.items()
    }
    for split, arrays in splits.items():
        _check(f"{name}: {split}", arrays, splits["train"], classes)
    return splits


def numbers(name: str, given: Any) -> np.ndarray:
    """Returns numbers as an array of at most 32 bits; raises DataError for the first that does not fit."""
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise DataError(f"{name}: not an array: {error}") from None
    kind = array.dtype.kind
    if kind not in "biuf":
        raise DataError(f"{name}: dtype {array.dtype}: must be numbers")
    with np.errstate(over="ignore"):
        kept = array.astype(f"{kind}4") if array.dtype.itemsize > 4 else array
    fits = np.isfinite(kept) if kind == "f" else np.asarray(kept is array or kept == array)
    if not fits.all():
        place = tuple(np.argwhere(~fits)[0].tolist())
        wanted = "finite in" if kind == "f" else "in the range of"
        raise DataError(f"{name}{list(place)} is {array[place]}: must be {wanted} {kept.dtype}")
    return kept


def _check(name: str, split: Split, train: Split, classes: int) -> None:
    for what, array, other in zip(Split._fields, split, train, strict=True):
        if (array.shape[1:], array.dtype) != (other.shape[1:], other.dtype):
            raise DataError(
                f"{name}: {what} are {array.dtype}{list(array.shape)}: must match the training split, "
                f"{other.dtype}{['examples', *other.shape[1:]]}"
            )
    inputs, labels = split
    if inputs.ndim < 2 or len(inputs) != len(labels) or not len(labels):
        raise DataError(
            f"{name}: inputs {list(inputs.shape)}, labels {list(labels.shape)}: must be "
            "[examples, *shape, channels] and [examples, *label], with at least one example"
        )
    if classes and labels.ndim == 1:
        wrong = np.flatnonzero((labels < 0) | (labels >= classes)) if labels.dtype.kind in "iu" else [0]
        if len(wrong):
            raise DataError(
                f"{name}: example {wrong[0]} has label {labels[wrong[0]]}: must be an integer from 0 to {classes - 1}"
            )
    elif classes and labels.shape[1:] != (classes,):
        raise DataError(
            f"{name}: labels {list(labels.shape)}: must be class indices, [examples], or one column per class, "
            f"[examples, {classes}]"
        )


def cut(split: Split, count: int, stratified: bool = True, seed: int = 0) -> tuple[Split, Split]:
    """Cuts `count` examples from a split by a fixed shuffle; returns them and the rest.

    The rule is scikit-learn's `train_test_split(random_state=seed)`. With `stratified` and scalar labels,
    it takes the same fraction of each class (`stratify=labels`).

    Raises:
      DataError: if there are too few examples of a class.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(split.labels))
    stratify = split.labels if stratified and split.labels.ndim == 1 else None
    try:
        rest, part = train_test_split(rows, test_size=count, stratify=stratify, random_state=seed)
    except ValueError as error:
        raise DataError(
            f"cannot cut {count} of {len(rows)} examples evenly over the classes: {error}: give all three splits, "
            "or another share to cut"
        ) from error
    return tuple(Split(split.inputs[rows], split.labels[rows]) for rows in (part, rest))  # type: ignore[return-value]


def three_splits(
    train: Split,
    valid: Split | None,
    test: Split | None,
    stratified: bool = True,
    *,
    valid_share: float | None = None,
    test_share: float = 0.2,
) -> tuple[Split, Split, Split]:
    """Cuts missing splits from `train`: a fifth of all examples for test, a tenth (at most 5,000) for validation.

    Args:
      train: the training split.
      valid: the validation split, if there is one.
      test: the test split, if there is one.
      stratified: whether to take the same fraction of each class.
      valid_share: the share of all examples for validation, instead of a tenth.
      test_share: the share of all examples for the test.

    Returns:
      The training, validation and test splits.

    Raises:
      DataError: as in `cut`.
    """
    total = len(train.labels)
    if test is None:
        test, train = cut(train, math.ceil(test_share * total), stratified)
    if valid is None:
        count = min(math.ceil(0.1 * total), 5000) if valid_share is None else math.ceil(valid_share * total)
        valid, train = cut(train, count, stratified)
    return train, valid, test


def stack(images: Sequence[np.ndarray], origin: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Stacks images to one array; raises DataError for the first whose shape or dtype differs."""
    shape = shape or images[0].shape
    for i, image in enumerate(images):
        if image.shape != shape or image.dtype != images[0].dtype:
            raise DataError(
                f"{origin}: image {i} is {image.dtype}{list(image.shape)}, expected {images[0].dtype}{list(shape)}: "
                "all images must have the same shape: give --image-size, such as --image-size 64"
            )
    return np.stack(images)
