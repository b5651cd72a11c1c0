"""Reads prepared TensorFlow Datasets (TFDS) directories, without TensorFlow and without network access.

Only this module uses TFDS. It imports TFDS after it has found the directory, and not at all if the
decoded arrays are in the cache.
"""

import os
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.dataset import DataError, Dataset, Split, stack
from cnnjax.logs import quiet
from cnnjax.options import from_json, reason

BATCH = 1000  # images that are decoded at once
VALIDATION = ("validation", "valid", "val", "dev", "eval")  # names of the validation split, in order of preference


def default_directory() -> Path:
    """Returns the default directory of TFDS: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, data_dir: Path) -> Path:
    """Returns the directory of `name` or `name:version`; without a version, that of the highest one.

    Raises:
      DataError: if there is no prepared data set in that directory, or it is not stored as array_record.
    """
    if not re.fullmatch(r"\w[\w/.+-]*(:[\w.]+)?", name) or ".." in name:
        raise DataError(
            f"data: {name!r}: give digits or the name of a TensorFlow Datasets data set (--data-dir sets its directory)"
        )
    command = f"python -m cnnjax prepare {name} --data-dir {shlex.quote(str(data_dir))}"
    name, _, version = name.partition(":")
    found = {path.parent.name: path.parent for path in (data_dir / name).glob("*/dataset_info.json")}
    if version not in found and (version or not found):
        there = f" (only {', '.join(sorted(found))})" if found else ""
        looked = data_dir / name / (version or "*")
        raise DataError(f"data set {name!r}: not prepared in {looked}{there}; prepare it with: {command}")
    folder = found[version or max(found, key=_version_key)]
    try:
        file_format = from_json((folder / "dataset_info.json").read_bytes()).get("fileFormat", "tfrecord")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'dataset_info.json'}: damaged: {reason(error)}; prepare it again with: {command}"
        ) from error
    if file_format != "array_record":
        raise DataError(f"{folder}: stored as {file_format}, which needs TensorFlow; prepare it again with: {command}")
    return folder


def _version_key(version: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in version.split(".")]


def read(folder: Path) -> Dataset:
    """Decodes all images of a prepared directory into memory.

    Raises:
      DataError: if a file is damaged, the images differ in shape, or the data set does not consist of
        images with class labels.
    """
    from absl import logging

    with quiet(logging, logging.ERROR):  # TFDS recommends OpenCV at every start
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(folder)
            features = builder.info.features
            image, label = _image_and_label(builder.info, tfds)
        except Exception as error:
            raise DataError(f"{folder}: not a valid TFDS directory: {reason(error)}; prepare it again") from error
        if image is None or label is None:
            raise DataError(f"{folder}: must have one image and one class label per example, not {sorted(features)}")
        names = _names(folder, list(builder.info.splits))
        splits = {name: _split(builder, found, image, label) for name, found in names.items()}
        classes = tuple(features[label].names)
    name = f"{builder.info.name}:{builder.info.version}"
    return Dataset.of(name, classes, splits["train"], splits.get("valid"), splits.get("test"))


def _names(folder: Path, found: list[str]) -> dict[str, str]:
    """Returns the names of our three splits in a directory; warns about splits that are not used."""
    if "train" not in found:
        raise DataError(f"{folder}: must have a train split, not only {sorted(found)}")
    valid = next((name for name in VALIDATION if name in found), None)
    names = {"train": "train", **({"valid": valid} if valid else {}), **({"test": "test"} if "test" in found else {})}
    if unused := sorted(set(found) - set(names.values())):
        warnings.warn(
            f"{folder}: splits not used: {', '.join(unused)}; used: {', '.join(names.values())}", stacklevel=2
        )
    return names


def _image_and_label(info: Any, tfds: Any) -> tuple[str | None, str | None]:
    """Returns the names of both features: the supervised pair, or the only image and the only class label."""
    if not isinstance(info.features, tfds.features.FeaturesDict):
        return None, None
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    found = [[name for name, feature in info.features.items() if isinstance(feature, kind)] for kind in kinds]
    pair: tuple[str, ...] = info.supervised_keys or ()
    if len(pair) == 2 and pair[0] in found[0] and pair[1] in found[1]:
        return pair[0], pair[1]
    image, label = (names[0] if len(names) == 1 else None for names in found)
    return image, label


def _split(builder: Any, name: str, image: str, label: str) -> Split:
    files = ", ".join(path.name for path in builder.info.splits[name].filepaths)
    origin = f"{builder.data_path}/{files}"
    declared = builder.info.features[image].shape
    images: list[np.ndarray] = []
    labels: list[int] = []
    try:
        source = builder.as_data_source(name)
        for start in range(0, len(source), BATCH):
            rows = source.__getitems__(list(range(start, min(start + BATCH, len(source)))))
            images.extend(row[image] for row in rows)
            labels.extend(row[label] for row in rows)
    except Exception as error:
        raise DataError(f"{origin}: damaged: {reason(error)}; copy or prepare the data set again") from error
    expected = builder.info.splits[name].num_examples
    if len(images) != expected or not images:
        raise DataError(f"{origin}: {len(images)} examples, expected {expected}; copy or prepare the data set again")
    wrong = [i for i, number in enumerate(labels) if not 0 <= number < builder.info.features[label].num_classes]
    if wrong:
        raise DataError(
            f"{origin}: example {wrong[0]} has label {labels[wrong[0]]}, which is not a class: is it unlabeled?"
        )
    shape = declared if None not in declared else None
    return Split(stack(images, origin, shape), np.asarray(labels, np.int32))
