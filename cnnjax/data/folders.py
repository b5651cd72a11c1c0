"""Image folders: `folder/class/*.png`, or with `train/`, `valid/` and `test/` above the class folders."""

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from cnnjax.data.dataset import DataError, Dataset, Split
from cnnjax.data.images import Header, Reading, files_below, named, read_header, read_pixels
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, assemble, split_names

USES = ("image_size", "fit", *SHARES)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
SIZES = (224, 160, 128, 96, 64, 48, 32, 24, 16)  # to propose
CHUNK = 1000  # images that are decoded before they are copied to the array of all images
MOST = 20  # damaged files that are named

T = TypeVar("T")


def takes(path: Path) -> bool:
    """Returns whether this source reads a path: a folder."""
    return path.is_dir()


class Found(NamedTuple):
    """The image files of a folder."""

    files: Mapping[str, Mapping[str, Sequence[Path]]]
    """By split and class."""
    notes: Sequence[str]


def read(folder: Path, loading: Loading) -> Dataset:
    """Decodes all images of a folder into memory, as uint8: gray if all are gray, else RGB.

    Files that cannot be read are skipped and noted. Symbolic links out of the folder are not followed.

    Raises:
      DataError: if there are no classes, a class has too few images, or the images differ in size and
        `image_size` is not given.
    """
    files, notes = list_files(folder)
    every = [path for by_class in files.values() for paths in by_class.values() for path in paths]
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        warnings.simplefilter("ignore")  # of invalid metadata
        headers = _each(threads, read_header, every)
        shape = _shape(folder, [header for header in headers.values() if isinstance(header, Header)], loading)
        problems = {path: header for path, header in headers.items() if isinstance(header, str)}
        splits, classes = {}, sorted({name for by_class in files.values() for name in by_class})
        for split, by_class in files.items():
            usable = [path for paths in by_class.values() for path in paths if path not in problems]
            images, kept, damaged = _decoded(threads, usable, shape, Reading(loading.fit))
            problems |= damaged
            labels = {path: classes.index(name) for name, paths in by_class.items() for path in paths}
            splits[split] = Split(images, np.asarray([labels[path] for path in kept], np.int32))
    notes = [*notes, *_skipped(folder, problems)]
    data = assemble(folder.resolve().name, classes, splits, loading, notes)
    channels = shape[-1]  # the range is that of the file format, not of these images
    return data._replace(spec=replace(data.spec, low=(0.0,) * channels, high=(255.0,) * channels))


def list_files(folder: Path) -> Found:
    """Lists the image files of a folder by split and class.

    Raises:
      DataError: if there are no class folders, a class folder has no images, or two differ only in case.
    """
    images, rest = files_below(folder, SUFFIXES)
    inside, outward = list[Path](), [path for path in rest if path.is_symlink()]
    for path in images:
        (inside if _stays(path, folder) else outward).append(path)
    tops = {path.name for path in folder.iterdir() if path.is_dir()}
    places = {name: split for split, name in split_names(tops).items()} if "train" in tops else {"": "train"}
    depth = int("train" in tops)
    files: dict[str, dict[str, list[Path]]] = {split: {} for split in places.values()}
    stray = []
    for path in inside:
        *above, _ = path.relative_to(folder).parts
        split = places.get(above[0] if depth and above else "")
        if split is None or len(above) <= depth:
            stray.append(path)
        else:
            files[split].setdefault(above[depth], []).append(path)
    _check_classes(folder, places, files, stray)
    kinds = {
        "hidden": [path for path in rest if path.name.startswith(".")],
        "not image files": [path for path in rest if not path.name.startswith(".") and not path.is_symlink()],
        "links to folders, or out of the folder": outward,
        "images outside of the class folders": stray,
    }
    notes = [f"skipped, {kind}: {named(folder, paths)}" for kind, paths in kinds.items() if paths]
    return Found(files, [*notes, *_same_but_for_case(folder, inside)])


def _stays(path: Path, folder: Path) -> bool:
    return not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(folder.resolve())  # links may be a loop


def _check_classes(
    folder: Path, places: Mapping[str, str], files: Mapping[str, Mapping[str, Any]], stray: Sequence[Path]
) -> None:
    if not files["train"]:
        there = f"{len(stray):,} images but no class folders" if stray else "no images"
        raise DataError(
            f"{folder / ('train' if 'train' in places else '')}: has {there}: put the images of each class "
            "into a folder of its name"
        )
    for place, split in places.items():
        inner = [path for path in (folder / place).iterdir() if path.is_dir() and not path.is_symlink()]
        for path in sorted(inner):
            if path.name not in files[split] and not path.name.startswith("."):
                raise DataError(
                    f"{path}: has no images ({', '.join(sorted(SUFFIXES))}): add some, or remove the folder"
                )
    names = {name for by_class in files.values() for name in by_class}
    for one, other in pairwise(sorted(names, key=str.casefold)):
        if one.casefold() == other.casefold():
            raise DataError(f"{folder}: classes {one} and {other} differ only in case: rename or join the folders")


def _same_but_for_case(folder: Path, paths: Sequence[Path]) -> Iterator[str]:
    """Yields a note on files whose names differ only in case, which are different files here, but not everywhere."""
    alike = defaultdict(list)
    for path in paths:
        alike[str(path).casefold()].append(path)
    if found := [path for group in alike.values() if len(group) > 1 for path in group]:
        yield f"names that differ only in case, all used: {named(folder, found)}"


def _each(threads: ThreadPoolExecutor, read: Callable[[Path], T], paths: Sequence[Path]) -> dict[Path, T | str]:
    """Reads files in parallel; returns the results, or the reason why a file cannot be read."""

    def attempt(path: Path) -> T | str:
        try:
            return read(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")

    return dict(zip(paths, threads.map(attempt, paths), strict=True))


def _shape(folder: Path, headers: Sequence[Header], loading: Loading) -> tuple[int, int, int]:
    """Returns the shape of all images: `image_size`, or their size if it is the same; gray if all are gray."""
    if not headers:
        raise DataError(f"{folder}: none of its image files can be read")
    channels = 1 if all(header.gray for header in headers) else 3
    if loading.image_size is not None:
        return loading.image_size, loading.image_size, channels
    sizes = {header[:2] for header in headers}
    if len(sizes) > 1:
        low, high = (f"{width}x{height}" for height, width in (min(sizes), max(sizes)))
        side = np.median([min(header[:2]) for header in headers])
        proposed = next((size for size in SIZES if size <= side), SIZES[-1])
        raise DataError(
            f"{folder}: images have {len(sizes):,} different sizes, such as {low} and {high}: give the size to "
            f"fit them to, such as --image-size {proposed}"
        )
    return (*sizes.pop(), channels)


def _decoded(
    threads: ThreadPoolExecutor, paths: Sequence[Path], shape: tuple[int, int, int], how: Reading
) -> tuple[UInt8[np.ndarray, "images height width channels"], list[Path], dict[Path, str]]:
    """Decodes image files; returns the images, their files, and the problem of each file that cannot be decoded."""
    images, kept, problems = _room(len(paths), shape), list[Path](), dict[Path, str]()
    decode = partial(read_pixels, shape=shape, how=how)
    for start in range(0, len(paths), CHUNK):
        for path, pixels in _each(threads, decode, paths[start : start + CHUNK]).items():
            if isinstance(pixels, str):
                problems[path] = pixels
            else:
                images[len(kept)] = pixels
                kept.append(path)
    return images[: len(kept)], kept, problems


def _room(count: int, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "images height width channels"]:
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError:
        height, width, _ = shape
        size = count * math.prod(shape) / 2**30
        raise DataError(
            f"image_size: {count:,} images of {width}x{height} take {size:,.0f} GiB of memory: give a smaller size"
        ) from None


def _skipped(folder: Path, problems: Mapping[Path, str]) -> Iterator[str]:
    for path, problem in list(problems.items())[:MOST]:
        yield f"skipped {path.relative_to(folder)}: {problem}"
    if len(problems) > MOST:
        yield f"skipped {len(problems) - MOST:,} more files that cannot be read"
