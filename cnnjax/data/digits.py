"""scikit-learn's digits: 1,797 images of 8x8 in 17 shades of grey, embedded in the library."""

import numpy as np

from cnnjax.data.dataset import Dataset, Split, three_splits


def read() -> Dataset:
    """Digits, cut 1257 / 180 / 360 (Alpaydin and Kaynak 1998, UCI; the test part of the original)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = Split(digits.images[..., None].astype(np.uint8), digits.target.astype(np.int32))
    classes = tuple(str(name) for name in digits.target_names)
    return Dataset.of("digits", classes, *three_splits(split, None, None))
