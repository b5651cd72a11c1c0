"""Reads TFRECORD files, the default format of TensorFlow Datasets, without TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from cnnjax.data.dataset import DataError


def read_records(path: Path, count: int) -> Iterator[bytes]:
    """Yields the `count` records of a TFRECORD file.

    A record is the length of its data (uint64, little-endian) and the data, each followed by its masked CRC-32C;
    see https://www.tensorflow.org/tutorials/load_data/tfrecord.

    Raises:
      DataError: if a record is truncated or has a wrong CRC, or the file has another number of records.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for number in range(count):
            where = f"{path}: damaged: record {number}"
            length = int.from_bytes(_read(file, 8, where), "little")
            yield _read(file, min(length, size), where)
        if file.read(1):
            raise DataError(f"{path}: damaged: more than {count} records; copy or prepare the data set again")


def _read(file: BinaryIO, length: int, where: str) -> bytes:
    """Reads data that a masked CRC follows, and checks it."""
    found = file.read(length + 4)
    data, crc = found[:-4], int.from_bytes(found[-4:], "little")
    if len(data) < length or crc != _masked(google_crc32c.value(data)):
        problem = "is truncated" if len(data) < length else "has a wrong CRC"
        raise DataError(f"{where} {problem}; copy or prepare the data set again")
    return data


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
