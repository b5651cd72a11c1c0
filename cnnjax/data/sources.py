"""What the sources share: classes from labels, and a data set from the splits that were found."""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from cnnjax.data.dataset import DataError, Dataset, Split, class_counts
from cnnjax.data.loading import Loading
from cnnjax.options import reason

VALIDATION = ("validation", "valid", "val", "dev", "eval")
"""Names of the validation split, in order of preference."""
SHARES = ("valid_share", "test_share")


@contextlib.contextmanager
def text_file(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Opens a text file in UTF-8; reports errors of reading it in the block as a DataError."""
    try:
        with path.open(newline=newline, encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not a text file in UTF-8: {reason(error)}") from None


def split_names(found: Collection[str]) -> dict[str, str]:
    """Returns the names in a source of our splits, of those that it has."""
    valid = next((name for name in VALIDATION if name in found), "valid")
    named = {"train": "train", "valid": valid, "test": "test"}
    return {split: name for split, name in named.items() if name in found}


def split_files(path: Path) -> dict[str, Path]:
    """Returns the files of our splits: `NAME_TRAIN.tsv`, in any case, stands for `NAME_TEST.tsv` beside it as well."""
    start, _, word = path.stem.rpartition("_")
    if word.lower() != "train":
        return {"train": path}
    parts = {other: other.stem.rpartition("_") for other in sorted(path.parent.iterdir())}
    beside = {
        end.lower(): other for other, (begin, _, end) in parts.items() if (begin, other.suffix) == (start, path.suffix)
    }
    return {split: beside[name] for split, name in split_names(beside).items()} | {"train": path}


def assemble(
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Split],
    loading: Loading,
    notes: Sequence[str] = (),
    vocabulary: Sequence[str] = (),
) -> Dataset:
    """Creates a data set from the splits of a source: cuts missing splits, checks classes, and notes duplicates.

    Args:
      name: the name of the data set in records and messages.
      classes: the names of the classes; empty if the labels are other numbers.
      splits: `train`, and `valid` and `test` if the source has them.
      loading: how to split.
      notes: what was noticed while the source was read.
      vocabulary: the words, if the inputs are tokens.

    Raises:
      DataError: as in `Dataset.of`, or if a split lacks a class that another one has.
    """
    if classes:
        _check_enough(name, classes, splits)
    data = Dataset.of(
        name,
        classes,
        splits["train"],
        splits.get("valid"),
        splits.get("test"),
        valid_share=loading.valid_share,
        test_share=loading.test_share,
        vocabulary=vocabulary,
    )
    if classes:
        _check_complete(data)
    return data._replace(notes=(*notes, *_duplicates(data)))


def _check_enough(name: str, classes: Sequence[str], splits: Mapping[str, Split]) -> None:
    """Raises DataError if there are fewer than two classes, or too few examples of one to cut the missing splits."""
    labels = np.asarray(splits["train"].labels)
    if len(classes) < 2:
        raise DataError(f"{name}: only one class, {classes[0]}: at least two are needed")
    needed = 4 - len(splits)
    if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0:
        for label, count in enumerate(np.bincount(labels, minlength=len(classes))[: len(classes)].tolist()):
            if 0 < count < needed:
                raise DataError(
                    f"{name}: class {classes[label]} has {count} example{'s' if count > 1 else ''}: at least {needed} "
                    "are needed, to cut the splits that the data do not have: add some, or remove the class"
                )


def _check_complete(data: Dataset) -> None:
    """Raises DataError if a split lacks a class that another split has."""
    counts = {name: class_counts(getattr(data, name).labels, len(data.classes)) for name in ("train", "valid", "test")}
    for label, name in enumerate(data.classes):
        found = {split: int(count[label]) for split, count in counts.items()}
        missing = [split for split, count in found.items() if not count]
        if missing and any(found.values()):
            has = ", ".join(f"{split} {count:,}" for split, count in found.items() if count)
            shares = f", or a larger --{missing[0]}-share" if missing[0] in data.cut else ""
            raise DataError(
                f"{data.name}: class {name} has no example in {missing[0]} (it has {has}): add some{shares}"
            )


def _duplicates(data: Dataset) -> Iterator[str]:
    """Yields a note for each split with inputs that equal inputs of the training split."""
    seen = set(_digests(data.train))
    for name in ("valid", "test"):
        split = getattr(data, name)
        if count := sum(digest in seen for digest in _digests(split)):
            yield f"{count:,} of {len(split.labels):,} {name} examples are equal to a training example"


def _digests(split: Split) -> Iterator[bytes]:
    for example in split.inputs:
        yield hashlib.blake2b(np.ascontiguousarray(example).data, digest_size=16).digest()


def indexed(where: str, labels: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Converts labels, which are names or integers, to class indices, int32; the classes are sorted.

    >>> indexed("signs.npz", {"y_train": np.array([7, 3, 7]), "y_test": np.array([3])})
    (('3', '7'), [array([1, 0, 1], dtype=int32), array([0], dtype=int32)])

    Args:
      where: the name of the data set in messages.
      labels: the labels of each split by name, [examples]; those of the training split come first.

    Returns:
      The names of the classes, which are those of the training split, and the indices of each split.

    Raises:
      DataError: if a label of another split is not in the training split.
    """
    (train, first), *others = labels.items()
    known, indices = np.unique(first, return_inverse=True)
    found = [indices.astype(np.int32)]
    for name, given in others:
        places = np.searchsorted(known, given).clip(0, len(known) - 1)
        if len(wrong := np.flatnonzero(known[places] != given)):
            raise DataError(
                f"{where}: {name}: example {wrong[0]} has label {given[wrong[0]]}, which is not in {train}: add "
                "examples of it there, or remove it here"
            )
        found.append(places.astype(np.int32))
    return tuple(map(str, known.tolist())), found


def integers(labels: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Converts labels to integers if all are, such as `1` or `1.0`, so that classes are in the order of numbers."""
    try:
        numbers = {name: written.astype(np.float64) for name, written in labels.items()}
    except ValueError:
        return labels
    whole = all((values == np.round(values)).all() for values in numbers.values())
    return {name: values.astype(np.int64) for name, values in numbers.items()} if whole else labels


def summary(data: Dataset) -> Iterator[str]:
    """Yields what a data set is, a line each: its splits, its classes, and what was noticed when it was read."""
    sizes = [
        f"{name} {len(getattr(data, name).labels):,}" + (" (cut from train)" if name in data.cut else "")
        for name in ("train", "valid", "test")
    ]
    folds = "" if data.folds is None else f", {len(data.folds)} folds"
    yield f"{data.name}{folds}: {', '.join(sizes)}"
    if data.spec.counts is not None:
        counts = dict(zip(data.classes, map(int, data.spec.counts), strict=True))
        least, most = (extreme(counts, key=lambda name: counts[name]) for extreme in (min, max))
        few = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        many = f"{counts[least]:,} ({least}) to {counts[most]:,} ({most})"
        many = f"{counts[most]:,} each" if counts[least] == counts[most] else many
        yield f"{len(counts)} classes, training examples: {few if len(few) <= 80 else many}"
    yield from data.notes
