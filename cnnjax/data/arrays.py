"""Arrays in an `.npz` file, with names such as `x_train` and `y_train`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from cnnjax.data.dataset import DataError, Dataset, Spec, Split, numbers
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, VALIDATION, assemble, indexed
from cnnjax.options import reason, suggest

USES = SHARES
INPUTS = ("inputs", "x", "X", "images", "series")
LABELS = ("labels", "y", "Y", "targets")
_KEYS = "x_train and y_train, train_inputs and train_labels, or inputs and labels"


def takes(path: Path) -> bool:
    """Returns whether this source reads a path: an `.npz` file."""
    return path.suffix.lower() == ".npz"


def read(path: Path, loading: Loading) -> Dataset:
    """Reads the arrays of an `.npz` file.

    Labels that are names or integers become classes; the classes are those of the training split, sorted,
    or the names in an array `classes`, for labels from 0. Other labels are numbers. Images without an axis
    of channels, uint8[examples, height, width], get one.

    Raises:
      DataError: if the file is damaged, an array is missing, or an array is not usable; the message names
        the file and the array.
    """
    arrays = _arrays(path)
    keys = _keys(path, list(arrays))
    inputs = {split: _inputs(numbers(f"{path}: {x}", arrays[x])) for split, (x, _) in keys.items()}
    for split, (x, y) in keys.items():
        if len(np.shape(arrays[y])) == 0 or len(arrays[y]) != len(inputs[split]):
            sizes = f"{list(np.shape(arrays[x]))} and {list(np.shape(arrays[y]))}"
            raise DataError(f"{path}: {x} and {y}: {sizes}: must have an entry for each example")
    classes, labels = _labels(path, arrays, {split: y for split, (_, y) in keys.items()})
    splits = {split: Split(inputs[split], labels[split]) for split in keys}
    return assemble(path.name, classes, splits, loading, _notes(arrays, keys))


def read_inputs(path: Path, spec: Spec) -> Num[np.ndarray, "examples *shape"]:
    """Reads inputs for a network from an `.npz` file: the array `inputs` or `x`, or the only one.

    Raises:
      DataError: if the file is damaged, it has no such array, or its shape or dtype is not that of the data.
    """
    arrays = _arrays(path)
    name = next((name for name in (*INPUTS, *arrays) if name in arrays and (name in INPUTS or len(arrays) == 1)), None)
    if name is None:
        raise DataError(f"{path}: arrays {', '.join(sorted(arrays)) or 'none'}: must be one, or inputs or x")
    array = numbers(f"{path}: {name}", arrays[name])
    if spec.shape[-1] == 1 and array.shape[1:] == spec.shape[:-1]:
        array = array[..., None]
    kept = array.astype(spec.dtype)
    if array.shape[1:] != spec.shape or (np.dtype(spec.dtype).kind != "f" and (kept != array).any()):
        wanted = f"{spec.dtype}{['examples', *spec.shape]}".replace("'", "")
        raise DataError(f"{path}: {name}: {array.dtype}{list(array.shape)}: must be {wanted}")
    return kept


def _arrays(path: Path) -> dict[str, np.ndarray]:
    found, name = dict[str, np.ndarray](), ""
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError("is not a zip archive")
            file = np.load(opened, allow_pickle=False)
            for name in file.files:
                found |= {name: file[name]}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if "allow_pickle" in str(error) and name:
            raise DataError(
                f"{path}: {name}: holds Python objects, such as series of unequal length, which are not read: save "
                "numbers or names"
            ) from None
        problem = getattr(error, "strerror", None) or f"is not a valid .npz file: {reason(error)}"
        raise DataError(f"{path}: {name + ': ' if name else ''}{problem}") from None
    return found


def _keys(path: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """Returns the names of inputs and labels by split."""
    spelled = {"train": ("train",), "valid": VALIDATION, "test": ("test",)}
    pairs = {split: _pair(path, names, words) for split, words in spelled.items()}
    found = {split: pair for split, pair in pairs.items() if pair}
    if "train" not in found and (plain := _pair(path, names, ("",))):
        found = {"train": plain, **found}
    if "train" not in found:
        hint = next(filter(None, (suggest(name, ("x_train", "train_inputs", "inputs")) for name in names)), "")
        raise DataError(f"{path}: arrays {', '.join(sorted(names)) or 'none'}: {hint}must be {_KEYS}")
    return found


def _pair(path: Path, names: list[str], words: tuple[str, ...]) -> tuple[str, str] | None:
    """Returns the names of the inputs and labels of a split, which may be spelled in several ways."""

    def first(kinds: tuple[str, ...]) -> str | None:
        spelled = (form for word in words for kind in kinds for form in _forms(kind, word))
        return next((form for form in spelled if form in names), None)

    x, y = first(INPUTS), first(LABELS)
    if x and y:
        return x, y
    if x or y:
        raise DataError(
            f"{path}: {x or y}: the {'labels' if x else 'inputs'} that belong to it are missing: use {_KEYS}"
        )
    return None


def _forms(kind: str, word: str) -> tuple[str, ...]:
    return (f"{kind}_{word}", f"{word}_{kind}") if word else (kind,)


def _inputs(array: np.ndarray) -> np.ndarray:
    return array[..., None] if array.dtype == np.uint8 and array.ndim == 3 else array


def _labels(
    path: Path, arrays: dict[str, np.ndarray], keys: dict[str, str]
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the names of the classes and the labels by split: class indices, or numbers as they are."""
    labels: dict[str, Any] = {split: arrays[key] for split, key in keys.items()}
    kinds = {split: "i" if array.dtype.kind in "iub" else array.dtype.kind for split, array in labels.items()}
    for split, kind in kinds.items():
        if kind not in "ifUS" or kind != kinds["train"]:
            wanted = (
                "names, integers or floats" if kind not in "ifUS" else f"as {keys['train']}, {labels['train'].dtype}"
            )
            raise DataError(f"{path}: {keys[split]}: dtype {labels[split].dtype}: must be {wanted}")
    if kinds["train"] == "S":
        labels = {split: np.char.decode(array, "utf-8") for split, array in labels.items()}
    if "classes" in arrays:
        return tuple(map(str, arrays["classes"].tolist())), labels
    if kinds["train"] == "f" or labels["train"].ndim > 1:
        return (), {split: numbers(f"{path}: {keys[split]}", array) for split, array in labels.items()}
    classes, indices = indexed(str(path), {keys[split]: array for split, array in labels.items()})
    return classes, dict(zip(keys, indices, strict=True))


def _notes(arrays: dict[str, np.ndarray], keys: dict[str, tuple[str, str]]) -> list[str]:
    used = {name for pair in keys.values() for name in pair} | {"classes"}
    unused = sorted(set(arrays) - used)
    notes = [f"arrays that are not used: {', '.join(unused)}"] if unused else []
    labels = arrays[keys["train"][1]]
    if labels.dtype.kind == "f" and labels.ndim == 1 and (labels == np.round(labels)).all():
        notes.append(
            f"{keys['train'][1]} are {labels.dtype}, so they are numbers and not classes: save classes as integers"
        )
    return notes
