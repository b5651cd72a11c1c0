"""Reads prepared TensorFlow Datasets (TFDS) directories, without TensorFlow and without network access.

Only this module uses TFDS. It imports TFDS after it has found the directory, and not at all if the
decoded arrays are in the cache.
"""

import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.dataset import DataError, Dataset, Split, stack
from cnnjax.data.images import MODES, Reading, fit_pixels
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, assemble, indexed, split_names
from cnnjax.data.texts import FIELDS, assemble_texts
from cnnjax.data.tfrecord import read_records
from cnnjax.logs import quiet
from cnnjax.options import from_json, reason

BATCH = 1000  # images that are decoded at once
KEYS = ("input_key", "label_key")
USES = ("image_size", "fit", *KEYS, *FIELDS, *SHARES)
FORMATS = ("array_record", "tfrecord")


def default_directory() -> Path:
    """Returns the default directory of TFDS: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, data_dir: Path) -> Path:
    """Returns the directory of `name` or `name:version`; without a version, that of the highest one.

    Raises:
      DataError: if there is no prepared data set in that directory, or it is stored in another format than `FORMATS`.
    """
    if not re.fullmatch(r"\w[\w/.+-]*(:[\w.]+)?", name) or ".." in name or name.endswith("/"):
        raise DataError(
            f"data: {name!r}: no such file or folder: give one, digits, or the name of a TensorFlow Datasets data set "
            "(--data-dir sets its directory)"
        )
    command = f"python -m cnnjax prepare {name} --data-dir {shlex.quote(str(data_dir))}"
    name, _, version = name.partition(":")
    found = {path.parent.name: path.parent for path in (data_dir / name).glob("*/dataset_info.json")}
    if version not in found and (version or not found):
        there = f" (only {', '.join(sorted(found))})" if found else ""
        looked = data_dir / name / (version or "*")
        raise DataError(
            f"data: {name!r}: no such file or folder, and not prepared in {looked}{there}; prepare it with: {command}"
        )
    folder = found[version or max(found, key=_version_key)]
    try:
        file_format = from_json((folder / "dataset_info.json").read_bytes()).get("fileFormat", "tfrecord")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / 'dataset_info.json'}: damaged: {reason(error)}; prepare it again with: {command}"
        ) from error
    if file_format not in FORMATS:
        formats = " or ".join(FORMATS)
        raise DataError(f"{folder}: stored as {file_format}: must be {formats}; prepare it again with: {command}")
    return folder


def _version_key(version: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in version.split(".")]


def read(folder: Path, loading: Loading) -> Dataset:
    """Decodes all examples of a prepared directory into memory.

    The inputs are images, arrays of numbers, such as series, [steps, channels], or texts. The labels are
    classes, or numbers if they are floats.

    Raises:
      DataError: if a file is damaged, a feature is missing or of another kind, or the images differ in shape
        and `image_size` is not given.
    """
    from absl import logging

    with quiet(logging, logging.ERROR):  # TFDS recommends OpenCV at every start
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(folder)
            keys = _keys(folder, builder.info, loading, tfds)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{folder}: not a valid TFDS directory: {reason(error)}; prepare it again") from error
        names = _names(folder, list(builder.info.splits))
        splits = {split: _split(builder, found, keys, loading) for split, found in names.items()}
    name = f"{builder.info.name}:{builder.info.version}"
    inputs, label = (builder.info.features[key] for key in keys)
    gathered = assemble_texts if _is_text(inputs) else assemble
    if hasattr(label, "names"):
        return gathered(name, tuple(label.names), splits, loading)
    if splits["train"].labels.dtype.kind == "f" or splits["train"].labels.ndim > 1:
        return gathered(name, (), splits, loading)
    classes, labels = indexed(name, {names[split]: found.labels for split, found in splits.items()})
    indices = dict(zip(splits, labels, strict=True))
    splits = {split: found._replace(labels=indices[split]) for split, found in splits.items()}
    return gathered(name, classes, splits, loading)


def _names(folder: Path, found: list[str]) -> dict[str, str]:
    """Returns the names of our three splits in a directory; warns about splits that are not used."""
    if "train" not in found:
        raise DataError(f"{folder}: must have a train split, not only {sorted(found)}")
    names = split_names(found)
    if unused := sorted(set(found) - set(names.values())):
        warnings.warn(
            f"{folder}: splits not used: {', '.join(unused)}; used: {', '.join(names.values())}", stacklevel=2
        )
    return names


def _keys(folder: Path, info: Any, loading: Loading, tfds: Any) -> tuple[str, str]:
    """Returns the features with inputs and labels: those that are given, the supervised pair, or the only ones."""
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    images, labels = ([name for name, feature in features.items() if isinstance(feature, kind)] for kind in kinds)
    arrays = [name for name, feature in features.items() if _is_array(feature) and len(feature.shape)]
    texts = [name for name, feature in features.items() if _is_text(feature)]
    pair: tuple[Any, ...] = info.supervised_keys or ()
    found = list[str]()
    for place, (field, given, usable) in enumerate(
        [("input_key", loading.input_key, images or arrays or texts), ("label_key", loading.label_key, labels)]
    ):
        if given is not None and given not in features:
            raise DataError(f"{field}: {given}: {folder} has the features {', '.join(sorted(features))}")
        if given is None and len(pair) == 2 and pair[place] in usable:
            given = pair[place]
        if given is None and len(usable) != 1:
            raise DataError(
                f"{folder}: must have one image, array or text and one class label per example, not "
                f"{sorted(features)}: give --input-key and --label-key"
            )
        found.append(given if given is not None else usable[0])
    _check_kinds(folder, features, found[0], found[1], images)
    own = ("image_size", "fit") if found[0] in images else FIELDS if found[0] in texts else ()
    loading.check_used(f"{folder}, feature {found[0]}", (*own, *KEYS, *SHARES))
    return found[0], found[1]


def _is_array(feature: Any) -> bool:
    """Returns whether a feature has arrays of numbers of a known shape."""
    return np.dtype(getattr(feature, "np_dtype", object)).kind in "biuf" and None not in (feature.shape or ())


def _is_text(feature: Any) -> bool:
    return type(feature).__name__ == "Text"


def _check_kinds(folder: Path, features: Mapping[str, Any], image: str, label: str, images: Sequence[str]) -> None:
    kinds = {name: type(features[name]).__name__ for name in (image, label)}
    array = _is_array(features[image]) and len(features[image].shape)
    if image not in images and not array and not _is_text(features[image]):
        raise DataError(
            f"input_key: {image}: is a feature of kind {kinds[image]} in {folder}: must be an image, array or text"
        )
    if label in images or not (_is_array(features[label]) or _is_text(features[label])):
        raise DataError(
            f"label_key: {label}: is a feature of kind {kinds[label]} in {folder}: must be a class or number"
        )


def _split(builder: Any, name: str, keys: tuple[str, str], loading: Loading) -> Split:
    image, label = keys
    files = ", ".join(path.name for path in builder.info.splits[name].filepaths)
    origin = f"{builder.data_path}/{files}"
    features = builder.info.features
    fitted: Callable[[Any], Any] = bytes.decode if _is_text(features[image]) else np.asarray
    if loading.image_size and len(features[image].shape) == 3:
        fitted = partial(_fitted, loading)
    images: list[Any] = []
    labels: list[Any] = []
    try:
        for row in _rows(builder, name):
            images.append(fitted(row[image]))
            labels.append(row[label])
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{origin}: damaged: {reason(error)}; copy or prepare the data set again") from error
    expected = builder.info.splits[name].num_examples
    if len(images) != expected or not images:
        raise DataError(f"{origin}: {len(images)} examples, expected {expected}; copy or prepare the data set again")
    if hasattr(features[label], "names"):
        wrong = [i for i, number in enumerate(labels) if not 0 <= number < features[label].num_classes]
        if wrong:
            raise DataError(
                f"{origin}: example {wrong[0]} has label {labels[wrong[0]]}, which is not a class: is it unlabeled?"
            )
    if _is_text(features[image]):
        return Split(images, _labels(labels))
    declared = None if loading.image_size or None in features[image].shape else features[image].shape
    inputs = stack(images, origin, declared)
    return Split(inputs[..., None] if inputs.ndim == 2 else inputs, _labels(labels))


def _rows(builder: Any, name: str) -> Iterator[Mapping[str, Any]]:
    """Yields the examples of a split as values by feature."""
    if builder.info.file_format.value == "tfrecord":  # which TFDS reads with TensorFlow alone
        split = builder.info.splits[name]
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True):
            yield from map(builder.info.features.deserialize_example_np, read_records(Path(path), count))
        return
    source = builder.as_data_source(name)
    for start in range(0, len(source), BATCH):
        yield from source.__getitems__(list(range(start, min(start + BATCH, len(source)))))


def _labels(found: Sequence[Any]) -> np.ndarray:
    """Returns labels as an array: names as text, integers as int32."""
    labels = np.asarray([label.decode() if isinstance(label, bytes) else label for label in found])
    return labels.astype(np.int32) if labels.dtype.kind in "iub" else labels


def _fitted(loading: Loading, image: np.ndarray) -> np.ndarray:
    """Returns an image in the size of `loading`."""
    size = loading.image_size
    assert size
    if image.dtype != np.uint8 or image.shape[-1] not in MODES:
        raise ValueError(f"images are {image.dtype}{list(image.shape)}: --image-size needs gray or RGB images of uint8")
    return fit_pixels(image, (size, size, image.shape[-1]), Reading(loading.fit))
