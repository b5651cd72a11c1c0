"""Data sources, which return a `Dataset` of arrays."""

from importlib.metadata import version
from pathlib import Path

from cnnjax.data import cache, digits, tfds
from cnnjax.data.dataset import PADDING as PADDING
from cnnjax.data.dataset import UNKNOWN as UNKNOWN
from cnnjax.data.dataset import Batch as Batch
from cnnjax.data.dataset import DataError as DataError
from cnnjax.data.dataset import Dataset as Dataset
from cnnjax.data.dataset import Spec as Spec
from cnnjax.data.dataset import Split as Split


def load(name: str, data_dir: Path | None = None, cache_dir: Path | None = None) -> Dataset:
    """Loads a data set by name: `digits`, or one that TensorFlow Datasets (TFDS) has prepared.

    >>> digits = load("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype.name, digits.classes[:3]
    ((1257, 8, 8, 1), 'uint8', ('0', '1', '2'))

    Args:
      name: `digits`, or a TFDS name with an optional configuration and version, such as `mnist`,
        `emnist/letters` or `mnist:3.0.1`; without a version, the highest one is used.
      data_dir: the directory of the prepared TFDS data; by default `TFDS_DATA_DIR` or
        `~/tensorflow_datasets`.
      cache_dir: the directory for decoded arrays; by default `CNNJAX_CACHE_DIR`, or `cnnjax` in the
        user's cache directory.

    Returns:
      The data set, with images as stored (uint8) and labels as int32. A missing validation or test
      split is cut from the training split by a fixed rule (see `dataset.three_splits`).

    Raises:
      DataError: if the data is missing, damaged, or not a set of images with class labels.
      TypeError: if `name` is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: {name!r}: must be the name of a data set, such as 'digits'")
    cache_dir = cache_dir or cache.default_directory()
    if name == "digits":
        return cache.cached(f"digits-{version('scikit-learn')}-{cache.LAYOUT}", digits.read, cache_dir)
    folder = tfds.find(name, Path(data_dir or tfds.default_directory()).expanduser())
    cache_name = f"{folder.parent.name}-{folder.name}-{cache.fingerprint(folder)}"
    return cache.cached(cache_name, lambda: tfds.read(folder), cache_dir)
