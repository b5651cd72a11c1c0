"""Texts as tokens: the rule for words, the vocabulary of a training split, and CSV and TSV files of texts."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Int

from cnnjax.data.dataset import PADDING, UNKNOWN, DataError, Dataset, Split
from cnnjax.data.loading import Loading
from cnnjax.data.sources import SHARES, assemble, indexed, integers, split_files, text_file
from cnnjax.options import reason, suggest

FIELDS = ("max_length", "min_count")
"""The fields of `Loading` that texts use, from any source."""
USES = ("input_key", "label_key", *FIELDS, *SHARES)
LONGEST = 400
"""The number of words at which texts are cut without `max_length`."""
SPECIAL = ("<padding>", "<unknown>")
"""The first entries of a vocabulary, at `PADDING` and `UNKNOWN`; no text has such a word."""
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def words_of(text: str) -> list[str]:
    """Splits a text into words and punctuation marks, in lower case; an apostrophe within a word is a part of it.

    >>> words_of("It's good, isn't it?  10/10")
    ["it's", 'good', ',', "isn't", 'it', '?', '10', '/', '10']
    """
    return _WORD.findall(text.lower())


def encode(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> Int[np.ndarray, "texts length"]:
    """Converts texts to tokens: longer ones are cut, shorter ones are padded at the end.

    >>> encode(["good movie", "a good one"], ["<padding>", "<unknown>", "good", "a"], 4)
    array([[2, 1, 0, 0],
           [3, 2, 1, 0]], dtype=int32)
    """
    return _tokens([words_of(text) for text in texts], vocabulary, length)


def decode(tokens: Int[np.ndarray, " length"], vocabulary: Sequence[str]) -> str:
    """Converts tokens to words with spaces between them, without padding.

    >>> decode(np.array([2, 1, 0, 0]), ["<padding>", "<unknown>", "good", "a"])
    'good <unknown>'
    """
    return " ".join(vocabulary[token] for token in np.asarray(tokens).tolist() if token != PADDING)


def _tokens(rows: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int) -> Int[np.ndarray, "texts length"]:
    places = {word: token for token, word in enumerate(vocabulary)}
    tokens = np.full((len(rows), length), PADDING, np.int32)
    for row, words in zip(tokens, rows, strict=True):
        row[: len(words)] = [places.get(word, UNKNOWN) for word in words[:length]]
    return tokens


class _Tabs(csv.excel_tab):
    """Tab-separated values, in which a quotation mark is a character as any other."""

    quoting = csv.QUOTE_NONE


DIALECTS = {".csv": csv.excel, ".tsv": _Tabs}


def takes(path: Path) -> bool:
    """Returns whether this source reads a path: a `.csv` file, or a `.tsv` file that is not one of series."""
    return path.suffix.lower() in DIALECTS and path.is_file()


def read(path: Path, loading: Loading) -> Dataset:
    """Reads texts and labels from a file with a header, and from those of other splits, such as `NAME_TEST.csv`.

    The columns are `text` and `label`, in any order, or those that `input_key` and `label_key` name; others are
    not used. The classes are the labels of the training file, sorted.

    Raises:
      DataError: if a file is damaged, or a column, text or label is missing; the message names the file and the line.
    """
    files = split_files(path)
    found = {split: _rows(file, loading) for split, file in files.items()}
    written = {files[split].name: np.asarray([label for _, label in rows]) for split, rows in found.items()}
    classes, labels = indexed(str(path.parent), integers(written))
    splits = {split: Split([text for text, _ in found[split]], part) for split, part in zip(files, labels, strict=True)}
    return assemble_texts(path.resolve().name, classes, splits, loading)


def _rows(path: Path, loading: Loading) -> list[tuple[str, str]]:
    """Returns the texts and labels of a file."""
    header, rows = _table(path)
    columns = [
        _column(path, header, field, given, name)
        for field, given, name in (
            ("input_key", loading.input_key, "text"),
            ("label_key", loading.label_key, "label"),
        )
    ]
    return [*_pairs(path, header, columns, rows)]


def read_texts(path: Path, loading: Loading) -> list[str]:
    """Reads texts without labels: the column of texts of a `.csv` or `.tsv` file, or the lines of another file.

    Raises:
      DataError: if the file is missing or damaged, it has no texts, or a row or the column is missing.
    """
    if path.suffix.lower() in DIALECTS:
        header, rows = _table(path)
        column = _column(path, header, "input_key", loading.input_key, "text")
        return [row[column].strip() for _, row in rows]
    with text_file(path) as file:
        found = [line.strip() for line in file.read().splitlines() if line.strip()]
    if not found:
        raise DataError(f"{path}: is empty: must have a text in each line")
    return found


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the header of a file, and its rows with the numbers of their lines."""
    try:
        with text_file(path, newline="") as file:
            reader = csv.reader(file, DIALECTS[path.suffix.lower()], strict=True)
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: is not {path.suffix[1:].upper()}: {reason(error)}") from None
    if not rows:
        raise DataError(f"{path}: is empty: must have a header with text and label, and a row for each text")
    header = [name.strip() for name in rows[0][1]]
    if len(rows) == 1:
        raise DataError(f"{path}: has no rows after the header {', '.join(header)}")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise DataError(f"{path}: line {line}: columns: {len(row)}: must be {len(header)}, as in the header")
    return header, rows[1:]


def _column(path: Path, header: Sequence[str], field: str, given: str | None, usual: str) -> int:
    names = [name.lower() for name in header]
    name = (given or usual).lower()
    if (count := names.count(name)) != 1:
        wrong = "has no column" if not count else f"has {count} columns"
        raise DataError(
            f"{path}: {wrong} {given or usual}: {suggest(name, names)}the header is {', '.join(header)}; name the "
            f"column with --{field.replace('_', '-')}"
        )
    return names.index(name)


def _pairs(
    path: Path, header: Sequence[str], columns: Sequence[int], rows: Sequence[tuple[int, list[str]]]
) -> Iterator[tuple[str, str]]:
    for line, row in rows:
        text, label = (row[column].strip() for column in columns)
        for column, value in zip(columns, (_WORD.search(text), label), strict=True):
            if not value:
                raise DataError(f"{path}: line {line}: {header[column]}: is empty")
        yield text, label


def assemble_texts(name: str, classes: Sequence[str], splits: Mapping[str, Split], loading: Loading) -> Dataset:
    """Creates a data set from splits whose inputs are strings, with the vocabulary of its training split.

    Missing splits are cut before the vocabulary is made.

    Raises:
      DataError: as in `assemble`, or if a text has no words.
    """
    found = {split: [words_of(text) for text in texts] for split, (texts, _) in splits.items()}
    for split, rows in found.items():
        if empty := [place for place, row in enumerate(rows) if not row]:
            raise DataError(f"{name}: {split}: text {empty[0]} is empty: must have at least one word")
    texts = [*chain(*found.values())]
    every, lengths = (*SPECIAL, *sorted({*chain(*texts)})), [*map(len, texts)]
    longest = loading.max_length or min(LONGEST, max(lengths))
    whole = {split: Split(_tokens(found[split], every, longest), labels) for split, (_, labels) in splits.items()}
    data = assemble(name, classes, whole, loading, vocabulary=every)
    return _with_vocabulary(data, loading, lengths)


def _with_vocabulary(data: Dataset, loading: Loading, lengths: Sequence[int]) -> Dataset:
    """Returns a data set with the vocabulary and the length of its training split.

    Words are ordered by the number of times that the training split has them, and then by the alphabet.

    Args:
      data: the data set, with the vocabulary of all splits.
      loading: how to read it.
      lengths: the number of words of each text of the source.
    """
    train = data.train.inputs
    counts = np.bincount(train.ravel(), minlength=len(data.vocabulary))[len(SPECIAL) :]
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= loading.min_count] + len(SPECIAL)
    tokens = np.full(len(data.vocabulary), UNKNOWN, np.int32)
    tokens[PADDING], tokens[order] = PADDING, np.arange(len(order)) + len(SPECIAL)
    length = loading.max_length or int((train != PADDING).sum(1).max())
    vocabulary = (*SPECIAL, *(data.vocabulary[place] for place in order.tolist()))
    if not len(order):
        raise DataError(
            f"{data.name}: min_count: {loading.min_count}: no word occurs so often in the training texts, at most "
            f"{counts.max()} times: give a smaller number"
        )
    splits = [Split(tokens[split.inputs[:, :length]], split.labels) for split in (data.train, data.valid, data.test)]
    rare = int(((counts > 0) & (counts < loading.min_count)).sum())
    times = f"fewer than {loading.min_count} times" if loading.min_count != 2 else "only once"
    notes = [f"{len(order):,} words in texts of up to {length}"]
    if rare:
        notes = [f"{notes[0]}; {rare:,} that the training texts have {times} are unknown"]
    if cut := sum(count > length for count in lengths):
        notes.append(f"{cut:,} of {len(lengths):,} texts are cut at {length} words")
    made = Dataset.of(data.name, data.classes, *splits, vocabulary=vocabulary)
    return made._replace(cut=data.cut, notes=(*notes, *data.notes))
