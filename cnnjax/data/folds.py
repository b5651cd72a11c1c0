"""The folds of a data set, for cross-validation."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from cnnjax.data.dataset import DataError, Dataset, Spec, Split, class_counts, statistics
from cnnjax.options import part_of


def folds(data: Dataset, count: int) -> Iterator[Dataset]:
    """Yields the folds of a data set: as many data sets, in which every example is once in the test split.

    All examples, those of the training, the validation and the test split in this order, are divided into
    `count` parts by a fixed shuffle. If the labels are classes, the parts have the same share of each class. The rule
    is that of scikit-learn's `StratifiedKFold(count, shuffle=True, random_state=0)`; of `KFold` for other labels. In
    fold i, part i is the test split, part i + 1 (after the last, the first) the validation split, and the rest the
    training split. All folds train on equally many examples: up to two are left out of a training split.
    The statistics of a fold are those of its training split; a vocabulary stays that of `data`.

    >>> from cnnjax import load
    >>> digits = load("digits")
    >>> [(len(fold.train.labels), len(fold.valid.labels), len(fold.test.labels)) for fold in folds(digits, 3)]
    [(599, 599, 599), (599, 599, 599), (599, 599, 599)]

    Args:
      data: the data set.
      count: the number of folds, at least 3.

    Raises:
      DataError: if there are more folds than examples of a class, or fewer than 3.
    """
    yield from Folds(data, count).values()


class Folds(Mapping[str, Dataset]):
    """The data sets of `folds` by name, such as `3/10` for the third of ten; examples are copied on access.

    Args:
      data: the data set.
      count: the number of folds.

    Raises:
      DataError: as in `folds`.
    """

    def __init__(self, data: Dataset, count: int):
        if count < 3:
            raise DataError(f"folds: {count}: must be at least 3, to train, validate and test in each")
        data.check()
        splits = data.train, data.valid, data.test
        self._data = data._replace(cut=(), folds=None)
        self._examples = Split(*(np.concatenate(arrays) for arrays in zip(*splits, strict=True)))
        self._parts = _parts(data, np.asarray(self._examples.labels), count)
        sizes = np.bincount(self._parts)
        self._fewest = len(self._parts) - int(max(sizes + np.roll(sizes, -1)))
        self._names = [f"{number}/{count}" for number in range(1, count + 1)]
        self._specs: dict[int, Spec] = {}
        self._read = lru_cache(maxsize=2)(self._fold)

    def __getitem__(self, name: str) -> Dataset:
        return self._read(self._names.index(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _fold(self, number: int) -> Dataset:
        test, valid = self._parts == number, self._parts == (number + 1) % len(self)
        train = np.flatnonzero(~(test | valid))[: self._fewest]
        found = [Split(*(array[rows] for array in self._examples)) for rows in (train, valid, test)]
        if number not in self._specs:
            self._specs[number] = self._spec(found[0])
        return self._data._replace(spec=self._specs[number], train=found[0], valid=found[1], test=found[2])

    def _spec(self, train: Split) -> Spec:
        """Returns the specification with the statistics of a training split."""
        spec = self._data.spec
        if spec.counts is not None:
            spec = replace(spec, counts=class_counts(train.labels, len(spec.classes)))
        if spec.tokens:
            return spec
        mean, std = statistics(train)
        return replace(spec, mean=mean, std=std)


def _parts(data: Dataset, labels: np.ndarray, count: int) -> Int[np.ndarray, " examples"]:
    """Returns the part of each example."""
    from sklearn.model_selection import KFold, StratifiedKFold

    stratified = bool(data.classes) and labels.ndim == 1
    if stratified:
        found, counts = np.unique(labels, return_counts=True)
        least = int(np.argmin(counts))
        if counts[least] < count:
            name = f"class {data.classes[found[least]]} of {data.name}"
            raise DataError(f"folds: {count}: {name} has only {counts[least]} examples, and each fold needs one")
    if len(labels) < count:
        raise DataError(f"folds: {count}: {data.name} has only {len(labels)} examples, and each fold needs one")
    rule = (StratifiedKFold if stratified else KFold)(count, shuffle=True, random_state=0)
    parts = np.zeros(len(labels), int)
    for part, (_, rows) in enumerate(rule.split(parts, labels if stratified else None)):
        parts[rows] = part
    return parts


def folded(data: Dataset, count: int | None) -> Dataset:
    """Returns the first fold of a data set, which knows the others (`Dataset.at`); unchanged if `count` is None."""
    if count is None or data.folds is not None:
        return data
    every = Folds(data, count)
    return every[f"1/{count}"]._replace(folds=every)


def one_fold(data: Dataset, name: str) -> Dataset:
    """Returns a fold by name, such as `3/10` for the third of ten; raises DataError if it does not exist."""
    try:
        _, count = part_of("fold", name)
    except ValueError as error:
        raise DataError(str(error)) from None
    return Folds(data, count)[name]
