"""Reads series from CSV files as network inputs."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Num

from cnnjax.data.dataset import DataError, Spec
from cnnjax.options import reason


def read_series(path: Path, spec: Spec) -> Num[np.ndarray, "series *shape"]:
    """Reads the series of a CSV file.

    If the series of the data set have one channel, each row is a series. If they have several, the file is one series,
    with a row for each time step and a column for each channel. A first row without numbers is skipped as a header.

    Raises:
      DataError: if the file is missing or not a text file, if a number of rows or columns is wrong, or if a cell is
        not a finite value of the dtype.
      ValueError: if the inputs of the data set are not series.
    """
    if len(spec.shape) not in (1, 2):
        raise ValueError(f"inputs are {list(spec.shape)}: series need [length, channels]")
    length, *channels = spec.shape
    several = channels not in ([], [1])
    columns = channels[0] if several else length
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(line, row) for line, row in enumerate(csv.reader(file), 1) if any(map(str.strip, row))]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not a CSV file: {reason(error)}") from None
    if rows and not any(map(_is_number, rows[0][1])):
        rows = rows[1:]
    for line, row in rows:
        if len(row) != columns:
            wanted = "one for each channel" if several else "one for each time step"
            raise DataError(f"{path}: row {line}: columns: {len(row)}: must be {columns}, {wanted}")
    if not rows or (several and len(rows) != length):
        wanted = f"{length}, one for each time step" if several else "at least 1"
        raise DataError(f"{path}: rows: {len(rows)}: must be {wanted}")
    cells = [list(_numbers(f"{path}: row {line}", row, spec)) for line, row in rows]
    return np.asarray(cells).reshape(-1, *spec.shape).astype(spec.dtype)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(where: str, row: list[str], spec: Spec) -> Iterator[float]:
    """Yields the values of a row; a DataError names the first cell that is not a finite value of the dtype."""
    kind = np.dtype(spec.dtype)
    for column, cell in enumerate(row, 1):
        value = float(cell) if _is_number(cell) else np.nan
        with np.errstate(over="ignore", invalid="ignore"):
            kept = float(np.asarray(value).astype(kind))
        if not np.isfinite(kept) or (kind.kind != "f" and kept != value):
            raise DataError(f"{where}, column {column}: {cell!r}: must be a finite {spec.dtype}")
        yield value
