"""The digits of scikit-learn: 1,797 images of 8x8 pixels in 17 shades of gray, which the library contains."""

from importlib import util
from pathlib import Path

import numpy as np

from cnnjax.data.dataset import Dataset, Split
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, assemble

USES = SHARES


def read(loading: Loading) -> Dataset:
    """Reads the digits, by default split 1257 / 180 / 360 (Alpaydin and Kaynak 1998, UCI; the original test set)."""
    # `sklearn.datasets.load_digits` reads the same file, but importing scikit-learn takes over a second.
    package = util.find_spec("sklearn")
    assert package  # a dependency of cnnjax
    assert package.origin
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    split = Split(rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int32))
    return assemble("digits", tuple(map(str, range(10))), {"train": split}, loading)
