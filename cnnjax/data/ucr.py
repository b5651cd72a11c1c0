"""Series in the text formats of the UCR and UEA archives: `.tsv`, with the label first, and `.ts`, with a header."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from cnnjax.data.dataset import DataError, Dataset, Spec, Split
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, assemble, indexed, integers, split_files, text_file
from cnnjax.options import reason

USES = ("max_length", *SHARES)
SUFFIXES = (".tsv", ".ts")
MISSING = ("", "?")

Series = Float[np.ndarray, "steps channels"]
Lines = Iterator[tuple[int, str]]


class Row(NamedTuple):
    """A line with a series."""

    line: int
    dimensions: Sequence[Sequence[str]]
    label: str


class Found(NamedTuple):
    """The series of a file, with their labels as they are written."""

    series: Sequence[Series]
    labels: Sequence[str]
    regression: bool
    """Whether the labels are numbers to predict, and not classes."""


def takes(path: Path) -> bool:
    """Returns whether this source reads a path: a `.ts` file, a `.tsv` file, or a folder with such a training file.

    A `.tsv` file of series has no header: all cells of its first line but the label are numbers.
    """
    if path.is_dir():
        return bool(_training_files(path))
    return path.suffix.lower() == ".ts" or (path.suffix.lower() == ".tsv" and _starts_with_numbers(path))


def _training_files(folder: Path) -> list[Path]:
    """Returns the files of a folder that are named as `NAME_TRAIN.tsv` is."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return [path for path in files if path.stem.lower().endswith("_train")]


def _starts_with_numbers(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            _, *cells = file.readline().rstrip("\r\n").split("\t")
        return bool(cells) and _numbers(cells).dtype.kind == "f"
    except (OSError, ValueError):
        return False


def read(path: Path, loading: Loading) -> Dataset:
    """Reads a training file, and the files of the other splits beside it, such as `NAME_TEST.tsv`.

    The classes are those of the training file, sorted. Series of unequal length need `max_length`.

    Raises:
      DataError: if a file is damaged, a value is missing, or the lengths are unequal; the message names the file
        and the line.
    """
    main = path
    if path.is_dir():
        main, *others = _training_files(path)
        if others:
            raise DataError(
                f"{path}: has {main.name} and {', '.join(other.name for other in others)}: give one of them"
            )
    if main.stem.lower().endswith("_test"):
        raise DataError(f"{path}: is a test file: give the training file, which it belongs to")
    files = split_files(main)
    found = {split: read_file(file) for split, file in files.items()}
    length = _length(path, [series for part in found.values() for series in part.series], loading.max_length)
    inputs = {split: np.stack([fit_length(series, length) for series in part.series]) for split, part in found.items()}
    written = {files[split].name: np.asarray(part.labels) for split, part in found.items()}
    regression = found["train"].regression
    classes, labels = ((), _floats(written)) if regression else indexed(str(main.parent), integers(written))
    splits = {split: Split(inputs[split], part) for split, part in zip(files, labels, strict=True)}
    return assemble(path.resolve().name, classes, splits, loading)


def read_file(path: Path) -> Found:
    """Reads the series of a `.ts` or `.tsv` file.

    Values that are missing at the end of a series make it shorter, as in the UCR archive.

    Raises:
      DataError: if the file is damaged or a value is missing; the message names the file and the line.
    """
    with text_file(path) as file:
        lines = ((line, text.strip("\r\n")) for line, text in enumerate(file, 1) if text.strip())
        headed = path.suffix.lower() == ".ts"
        header = _header(path, lines) if headed else {}
        rows = [*(_ts(path, header, lines) if headed else _tsv(lines))]
    if not rows:
        raise DataError(f"{path}: has no series")
    for row in rows:
        if (count := len(row.dimensions)) != (first := len(rows[0].dimensions)):
            raise DataError(f"{path}: line {row.line}: dimensions: {count}: must be {first}, as in line {rows[0].line}")
    series = [_series(f"{path}: line {row.line}", row.dimensions) for row in rows]
    return Found(series, [row.label for row in rows], _is_on(header, "targetlabel"))


def _tsv(lines: Lines) -> Iterator[Row]:
    for line, text in lines:
        label, *cells = text.split("\t")
        yield Row(line, [cells], label.strip())


def _ts(path: Path, header: Mapping[str, Sequence[str]], lines: Lines) -> Iterator[Row]:
    classes = header.get("classlabel", [""])[1:]
    if _is_on(header, "timestamps"):
        raise DataError(f"{path}: @timeStamps true: series with time stamps are not read")
    if not _is_on(header, "classlabel") and not _is_on(header, "targetlabel"):
        raise DataError(f"{path}: has no labels: must have a line @classLabel true, with the names of the classes")
    for line, text in lines:
        *dimensions, label = text.split(":")
        if classes and label.strip() not in classes:
            raise DataError(
                f"{path}: line {line}: class {label.strip()!r}: must be one of {', '.join(classes)}, as in the header"
            )
        yield Row(line, [part.split(",") for part in dimensions], label.strip())


def _is_on(header: Mapping[str, Sequence[str]], name: str) -> bool:
    return header.get(name, [""])[0].lower() == "true"


def _header(path: Path, lines: Lines) -> dict[str, list[str]]:
    """Reads the lines before the series; returns the words after each name, in lower case."""
    header: dict[str, list[str]] = {}
    for line, text in lines:
        name, *words = text.split()
        if name.lower() == "@data":
            return header
        if name.startswith("@"):
            header[name[1:].lower()] = words or [""]
        elif not name.startswith("#"):
            raise DataError(f"{path}: line {line}: must be a comment or a field, such as @classLabel, before @data")
    raise DataError(f"{path}: has no line @data: is not a .ts file of series")


def _series(where: str, dimensions: Sequence[Sequence[str]]) -> Series:
    """Reads the values of a series, given by dimension, without those that are missing at its end."""
    lengths = [len(cells) for cells in dimensions]
    if len(set(lengths)) > 1:
        raise DataError(f"{where}: dimensions of {min(lengths)} to {max(lengths)} values: must be equal")
    try:
        values = np.stack([_numbers(cells) for cells in dimensions], -1)
    except ValueError as error:
        raise DataError(f"{where}: {reason(error)}") from None
    length = int((~np.isnan(values)).any(-1).nonzero()[0].max(initial=-1)) + 1
    if not length:
        raise DataError(f"{where}: has no values")
    wrong = np.argwhere(~np.isfinite(values[:length])).tolist()
    if wrong:
        step, channel = wrong[0]
        place = f"step {step + 1}" + (f" of dimension {channel + 1}" if len(dimensions) > 1 else "")
        cell = dimensions[channel][step].strip()
        raise DataError(f"{where}: {place}: {cell!r}: values must be finite in float32: fill gaps first")
    return values[:length]


def _numbers(cells: Sequence[str]) -> Float[np.ndarray, " cells"]:
    """Converts text to numbers; a missing value is NaN."""
    with np.errstate(over="ignore"):
        return np.asarray(["nan" if cell.strip() in MISSING else cell for cell in cells], float).astype(np.float32)


def _length(path: Path, series: Sequence[Series], given: int | None) -> int:
    """Returns the length of all series: the one that is given, or that they have."""
    lengths = [len(each) for each in series]
    if given is None and len(set(lengths)) > 1:
        raise DataError(
            f"{path}: series have {min(lengths)} to {max(lengths)} steps: give --max-length {max(lengths)}, at which "
            "longer ones are cut, and up to which shorter ones repeat their last value"
        )
    return given or lengths[0]


def read_inputs(path: Path, spec: Spec, length: int | None = None) -> Num[np.ndarray, "series *shape"]:
    """Reads the series of a `.ts` or `.tsv` file as network inputs; their labels are not used.

    Raises:
      DataError: as in `read_file`, or if the series differ from those of the data, unless they were fitted to `length`.
    """
    series = [fit_length(each, length or len(each)) for each in read_file(path).series]
    steps, channels = (*spec.shape, 1)[:2]
    for number, each in enumerate(series, 1):
        if each.shape != (steps, channels):
            raise DataError(
                f"{path}: series {number}: {list(each.shape)}: must be {[steps, channels]}, [steps, channels]"
            )
    return np.stack(series).reshape(-1, *spec.shape).astype(spec.dtype)


def fit_length(series: Series, length: int) -> Series:
    """Cuts a series at a length, or repeats its last value up to it.

    >>> fit_length(np.array([[1.0], [2.0]]), 4).ravel()
    array([1., 2., 2., 2.])
    """
    return series[np.minimum(np.arange(length), len(series) - 1)]


def _floats(labels: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return [np.asarray(written.tolist(), np.float32) for written in labels.values()]
    except ValueError as error:
        raise DataError(
            f"{', '.join(labels)}: @targetLabel true: the labels must be numbers: {reason(error)}"
        ) from None
