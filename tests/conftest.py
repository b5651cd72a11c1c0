"""What the tests share: two CPU devices, digits, and real TFDS directories made on the spot."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", max(2, len(os.sched_getaffinity(0))))

from cnnjax.data import Dataset, Split, load  # noqa: E402 - the number of devices is set first


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", cache_dir=tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def small(digits: Dataset) -> Dataset:
    """A few digits, for tests that train."""
    train, valid, test = (Split(s.inputs[:n], s.labels[:n]) for s, n in zip(digits[2:5], (160, 50, 50), strict=True))
    return Dataset.of("small", digits.classes, train, valid, test)


def images(shape: tuple[int, ...], count: int, seed: int = 0) -> list[dict]:
    """Images in which the label can be seen: a bright row."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        image = rng.integers(0, 60, shape, np.uint8)
        image[2 * (i % 10) : 2 * (i % 10) + 2] += 150
        rows.append({"image": image, "label": i % 10})
    return rows


def prepare(
    data_dir: Path, name: str, splits: dict[str, list[dict]], shape: tuple, file_format: str = "array_record"
) -> Path:
    """A TFDS directory written by TFDS itself; images given as arrays are stored as PNG."""
    import io

    import tensorflow_datasets as tfds
    from PIL import Image

    def png(image: np.ndarray | bytes) -> bytes:
        if isinstance(image, bytes):
            return image
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = data_dir

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=10)
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=shape), "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows):
            for i, row in enumerate(rows):
                yield i, {"image": png(row["image"]), "label": row["label"]}

    Pictures.name = name
    builder = Pictures(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_path)


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared directories with the names and shapes of the presets' data, small and made up."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, shape in (("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        prepare(folder, name, {"train": images(shape, 300), "test": images(shape, 60, 1)}, shape)
    return folder
