"""Data sources, which return a `Dataset` of arrays."""

import dataclasses
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cnnjax.data import arrays, cache, digits, folders, texts, tfds, ucr
from cnnjax.data.dataset import PADDING as PADDING
from cnnjax.data.dataset import UNKNOWN as UNKNOWN
from cnnjax.data.dataset import Batch as Batch
from cnnjax.data.dataset import DataError as DataError
from cnnjax.data.dataset import Dataset as Dataset
from cnnjax.data.dataset import Spec as Spec
from cnnjax.data.dataset import Split as Split
from cnnjax.data.folds import folded as folded
from cnnjax.data.folds import folds as folds
from cnnjax.data.folds import one_fold as one_fold
from cnnjax.data.loading import Loading as Loading
from cnnjax.data.sources import split_files
from cnnjax.data.sources import summary as summary
from cnnjax.options import check

FILES = (arrays, ucr, texts, folders)
"""The sources that read a path. Each has `takes(path)`, the fields of `Loading` that it `USES`, and `read`."""


def load(
    name: str, data_dir: Path | None = None, cache_dir: Path | None = None, *, loading: Loading | None = None
) -> Dataset:
    """Loads a data set by name: `digits`, a path, or one that TensorFlow Datasets (TFDS) has prepared.

    >>> digits = load("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype.name, digits.classes[:3]
    ((1257, 8, 8, 1), 'uint8', ('0', '1', '2'))

    Args:
      name: `digits`; the path of a folder with a folder of images for each class, of an `.npz` file, of a
        `.tsv` or `.ts` file of series, or of a `.csv` or `.tsv` file of texts (see docs/data.md); or a TFDS name
        with an optional configuration and version, such as `mnist`, `emnist/letters` or `mnist:3.0.1`; without a
        version, the highest one is used.
      data_dir: the directory of the prepared TFDS data; by default `TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      cache_dir: the directory for decoded arrays; by default `CNNJAX_CACHE_DIR`, or `cnnjax` in the
        user's cache directory.
      loading: how the data are read and split; by default `Loading()`.

    Returns:
      The data set, with images as stored (uint8), texts as tokens, and labels as int32. A missing validation or test
      split is cut from the training split by a fixed rule (see `dataset.three_splits`).

    Raises:
      DataError: if the data is missing, damaged or not usable, or a field of `loading` does not apply.
      TypeError: if `name` is not a string, or `loading` not a `Loading`.
      ValueError: if a field of `loading` is out of range.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: {name!r}: must be the name of a data set, such as 'digits'")
    if not isinstance(loading, Loading | None):
        raise TypeError(f"loading: {loading!r}: must be a Loading, such as Loading(image_size=32)")
    cache_dir, loading = cache_dir or cache.default_directory(), loading or Loading()
    check(loading)
    if loading.fold is not None:
        return one_fold(load(name, data_dir, cache_dir, loading=dataclasses.replace(loading, fold=None)), loading.fold)
    if name == "digits":
        loading.check_used(name, digits.USES)
        key = f"digits-{version('scikit-learn')}-{cache.LAYOUT}-{cache.digest(str(loading))}"
        return cache.cached(key, lambda: digits.read(loading), cache_dir)
    source, path = _found(name, data_dir)
    loading.check_used(name, source.USES)
    words = (path.parent.name, path.name) if source is tfds else (path.name,)
    start = re.sub(r"[^\w.-]", "_", "-".join(words))[:80]
    key = f"{start}-{cache.fingerprint(*split_files(path).values(), how=str(loading))}"
    return cache.cached(key, lambda: source.read(path, loading), cache_dir)


def _found(name: str, data_dir: Path | None) -> tuple[Any, Path]:
    """Returns the source of a data set that is not digits, and its path."""
    path = existing(name)
    if path is None and name.lower().endswith(".npz"):
        raise DataError(f"data: {name}: no such file")
    if path is None:
        return tfds, tfds.find(name, Path(data_dir or tfds.default_directory()).expanduser())
    for source in FILES:
        if source.takes(path):
            return source, path
    raise DataError(f"data: {name}: must be a folder of images, or an .npz, .csv, .tsv or .ts file")


def existing(name: str) -> Path | None:
    """Returns the path of a file or folder that `name` is; None for another name, also of a prepared TFDS directory."""
    if name in ("", "digits"):
        return None
    path = Path(name).expanduser()
    try:
        prepared = any(any(path.glob(f"{below}dataset_info.json")) for below in ("", "*/"))
        return path if path.exists() and not prepared else None
    except OSError:  # such as a name that is too long
        return None
