"""Sources of data, each of which becomes a `Dataset` of arrays."""

from importlib.metadata import version
from pathlib import Path

from cnnjax.data import cache, digits, tfds
from cnnjax.data.dataset import DataError as DataError
from cnnjax.data.dataset import Dataset as Dataset
from cnnjax.data.dataset import Spec as Spec
from cnnjax.data.dataset import Split as Split


def load(name: str, data_dir: Path | None = None, cache_dir: Path | None = None) -> Dataset:
    """A data set by name: `digits`, or one that TensorFlow Datasets has prepared.

    Args:
      name: `digits`, or a TFDS name with an optional configuration and version, as `mnist`,
        `emnist/letters` or `mnist:3.0.1`. The highest version is taken if none is given.
      data_dir: where TFDS keeps its data; by default `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      cache_dir: where decoded arrays are kept; by default `CNNJAX_CACHE_DIR`, or `cnnjax` in the
        user's cache directory.

    Returns:
      Images as stored (uint8), labels as int32; what the source does not split is cut from train
      by a fixed rule (`dataset.three_splits`).

    Raises:
      DataError: the data is missing, damaged or unfit.
    """
    cache_dir = cache_dir or cache.default_directory()
    if name == "digits":
        return cache.cached(f"digits-{version('scikit-learn')}-{cache.LAYOUT}", digits.read, cache_dir)
    folder = tfds.find(name, Path(data_dir or tfds.default_directory()).expanduser())
    cache_name = f"{folder.parent.name}-{folder.name}-{cache.fingerprint(folder)}"
    return cache.cached(cache_name, lambda: tfds.read(folder), cache_dir)
