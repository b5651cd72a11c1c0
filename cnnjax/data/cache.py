"""A cache of decoded arrays on disk, so that images are decoded only once."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from cnnjax.data.dataset import Dataset, Spec, Split
from cnnjax.options import from_json

SPLITS = ("train", "valid", "test")
LAYOUT = 8  # version of the cache folders and of the rules that choose splits; a new version ignores old folders


def default_directory() -> Path:
    """Returns `CNNJAX_CACHE_DIR`, or `cnnjax` in the user's cache directory."""
    return Path(os.environ.get("CNNJAX_CACHE_DIR") or platformdirs.user_cache_dir("cnnjax", appauthor=False))


def fingerprint(*sources: Path, how: str = "") -> str:
    """Returns a hash that changes if a file is written, one in a folder is added, removed or written, or with `how`."""
    facts = [[str(source.resolve()), _facts(source)] for source in sources]
    return digest([LAYOUT, facts, how])


def _facts(source: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    return [(str(path.relative_to(source)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def digest(value: Any) -> str:
    """Returns a short hash of a plain value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def cached(name: str, read: Callable[[], Dataset], directory: Path) -> Dataset:
    """Returns the result of `read`, from the cache if possible.

    A damaged cache entry is read again; if the cache cannot be written, it is not used.
    """
    folder = directory / name
    try:
        return _load(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        dataset = read()
    with contextlib.suppress(OSError):  # with a full disk or a read-only home, the next start reads again
        _save(folder, dataset)
    return dataset


def sha256(array: np.ndarray) -> str:
    """Returns the SHA-256 of the values of an array, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _load(folder: Path) -> Dataset:
    facts = from_json((folder / "dataset.json").read_bytes())
    splits: dict[str, Split] = {}
    for name in SPLITS:
        arrays = [np.load(folder / f"{name}-{part}.npy", mmap_mode="r", allow_pickle=False) for part in Split._fields]
        if [list(array.shape) for array in arrays] != facts["shapes"][name]:
            raise ValueError(f"{folder}: {name} does not have the recorded shape")
        if [sha256(array) for array in arrays] != facts["sha256"][name]:
            raise ValueError(f"{folder}: {name} has changed since it was written")
        splits[name] = Split(*arrays)
    cut, notes, vocabulary = (tuple(map(str, facts[name])) for name in ("cut", "notes", "vocabulary"))
    spec = read_spec(facts["spec"])
    return Dataset(facts["name"], spec, **splits, cut=cut, notes=notes, vocabulary=vocabulary, folds=None)


def describe_spec(spec: Spec) -> dict[str, Any]:
    """Converts a spec to plain values."""
    return {
        name: np.asarray(value).astype(float).tolist()
        if name in ("mean", "std", "counts") and value is not None
        else value
        for name, value in vars(spec).items()
    }


def read_spec(described: Mapping[str, Any]) -> Spec:
    """Reads the output of `describe_spec`; raises ValueError if it is not a spec."""
    shape, label_shape = (tuple(map(int, described[name])) for name in ("shape", "label_shape"))
    dtypes = [np.dtype(str(described[name])) for name in ("dtype", "label_dtype")]
    if wrong := [dtype for dtype in dtypes if dtype.kind not in "biuf"]:
        raise ValueError(f"dtype {wrong[0]}")
    mean, std = (np.asarray(list(map(float, described[name])), np.float32) for name in ("mean", "std"))
    low, high = (tuple(map(float, described.get(name, ()))) for name in ("low", "high"))
    if len(low) != len(high) or len(low) not in (0, len(mean)):
        raise ValueError(f"low: {len(low)}, high: {len(high)} numbers, mean: {len(mean)}")
    margin = described.get("margin")
    if margin is not None and not 0 <= (margin := float(margin)) < 0.5:
        raise ValueError(f"margin: {margin}")
    classes = tuple(map(str, described["classes"]))
    counted = described.get("counts")
    counts = None if counted is None else np.asarray(list(map(float, counted)), np.float32)
    if counts is not None and len(counts) != len(classes):
        raise ValueError(f"counts: {len(counts)} numbers, classes: {len(classes)}")
    kind = shape, dtypes[0].name, classes, label_shape, dtypes[1].name
    return Spec(*kind, mean, std, low, high, margin, counts, int(described.get("tokens", 0)))


def _save(folder: Path, dataset: Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shapes, digests = {}, {}
        for name in SPLITS:
            split = getattr(dataset, name)
            for part, array in split._asdict().items():
                np.save(temporary / f"{name}-{part}.npy", array, allow_pickle=False)
            shapes[name] = [list(array.shape) for array in split]
            digests[name] = [sha256(array) for array in split]
        facts = {
            "name": dataset.name,
            "spec": describe_spec(dataset.spec),
            "cut": dataset.cut,
            "notes": dataset.notes,
            "vocabulary": dataset.vocabulary,
            "shapes": shapes,
            "sha256": digests,
        }
        (temporary / "dataset.json").write_text(json.dumps(facts))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
