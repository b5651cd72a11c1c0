"""Series in the text formats of the UCR and UEA archives, whole and damaged, and the runs that use them."""

from pathlib import Path

import numpy as np
import pytest

from cnnjax import Loading
from cnnjax.data import DataError, Dataset, load, summary

RISING = np.random.default_rng(0).normal(size=(40, 6)).cumsum(1).round(4)
LABELS = np.arange(40) % 3 + 1


def write(path: Path, values: np.ndarray = RISING, labels: object = LABELS) -> Path:
    """A `.tsv` file of the UCR archive: the label, and the values after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(np.asarray(labels).tolist(), values.tolist(), strict=True)
    path.write_text("".join("\t".join(map(str, (label, *row))) + "\n" for label, row in rows))
    return path


def header(classes: str = "@classLabel true up down") -> str:
    return f"# made\n@problemName Made\n@univariate false\n@equalLength true\n{classes}\n@data\n"


TS = header() + "".join(f"{i},{i + 1}.5,-{i}:{9 - i},0,1:{'up' if i % 2 else 'down'}\n" for i in range(20))


def read(path: Path, **loading: object) -> Dataset:
    return load(str(path), cache_dir=path.parent / "cache", loading=Loading(**loading))  # type: ignore[arg-type]


def examples(data: Dataset) -> dict[tuple[float, ...], str]:
    """The names of the classes by series."""
    return {
        tuple(series.ravel().tolist()): data.classes[label]
        for split in (data.train, data.valid, data.test)
        for series, label in zip(*split, strict=True)
    }


# ------------------------------------------------------------------------- .tsv


@pytest.mark.parametrize("words", ["TRAIN TEST", "train test"])
@pytest.mark.parametrize("given", ["", "Made_{}.tsv"])
def test_a_training_file_or_its_folder_stands_for_both_files(tmp_path: Path, words: str, given: str) -> None:
    train, test = words.split()
    write(tmp_path / "Made" / f"Made_{train}.tsv")
    write(tmp_path / "Made" / f"Made_{test}.tsv", RISING[:9] + 1, LABELS[:9])
    write(tmp_path / "Made" / f"Made_more_{test}.tsv")
    (tmp_path / "Made" / "README.md").touch()
    name = given.format(train) or "Made"
    data = read(tmp_path / "Made" / given.format(train))
    assert list(summary(data))[:2] == [
        f"{name}: train 36, valid 4 (cut from train), test 9",
        "3 classes, training examples: 1 12, 2 12, 3 12",
    ]
    assert (data.spec.shape, data.spec.dtype, data.classes) == ((6, 1), "float32", ("1", "2", "3"))
    np.testing.assert_array_equal(data.test.inputs[..., 0], (RISING[:9] + 1).astype(np.float32))
    np.testing.assert_array_equal(data.test.labels, LABELS[:9] - 1)


def test_a_changed_test_file_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "A_TRAIN.tsv")
    assert read(path).cut == ("valid", "test")
    write(tmp_path / "A_TEST.tsv", RISING[:9] + 1, LABELS[:9])
    assert read(path).cut == ("valid",)
    write(tmp_path / "A_TEST.tsv", RISING[:12] + 1, LABELS[:12])
    assert len(read(path).test.labels) == 12


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["1", "10", "9"], ("1", "9", "10")),
        (["-1.0", "1.0", "3.0"], ("-1", "1", "3")),
        (["a", "B", "7"], ("7", "B", "a")),
        (["0.5", "1", "2"], ("0.5", "1", "2")),
    ],
)
def test_labels_of_series_are_names_or_integers(tmp_path: Path, names: list[str], classes: tuple[str, ...]) -> None:
    written = np.array(names)[LABELS - 1]
    data = read(write(tmp_path / "a.tsv", labels=written))
    assert data.classes == classes
    found = examples(data)
    for series, name in zip(RISING.astype(np.float32).tolist(), written, strict=True):
        assert found[tuple(series)] == (str(int(float(name))) if name.endswith(".0") else name)


def test_series_of_unequal_length_need_a_length(tmp_path: Path) -> None:
    """Values that are missing at the end make a series shorter; its last value is repeated."""
    values = RISING.copy()
    values[3, 4:] = np.nan
    path = write(tmp_path / "a.tsv", values)
    with pytest.raises(DataError, match=r"a.tsv: series have 4 to 6 steps: give --max-length 6, at which longer ones"):
        read(path)
    for length in (3, 6, 8):
        data = read(path, max_length=length)
        assert data.spec.shape == (length, 1)
        whole = np.concatenate([RISING[3, :4], np.full(4, RISING[3, 3])])[:length].astype(np.float32)
        assert tuple(whole.tolist()) in examples(data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t1\tNaN\t3\t4\t5\t6", r"a.tsv: line 4: step 2: 'NaN': values must be finite"),
        ("1\t1\t2\t\t4\t5\t6", r"a.tsv: line 4: step 3: '': values must be finite"),
        ("1\t1\t2\t3\t4\t5\tinf", r"a.tsv: line 4: step 6: 'inf': values must be finite"),
        ("1\t1\tx\t3\t4\t5\t6", r"a.tsv: line 4: could not convert string to float: 'x'"),
        ("1", r"a.tsv: line 4: has no values"),
        ("1\tNaN\tNaN\tNaN\tNaN\tNaN\tNaN", r"a.tsv: line 4: has no values"),
        ("1\t1\t2\t3\t4\t5\t1e99", r"a.tsv: line 4: step 6: '1e99': values must be finite"),
        ("1\t1\t2\t3\t4\t5", r"a.tsv: series have 5 to 6 steps: give --max-length 6"),
        ("1\t1\t2\t3\t4\t5\t\udcff", r"a.tsv: is not a text file in UTF-8"),
    ],
)
def test_a_damaged_series_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    lines = write(tmp_path / "a.tsv").read_text().splitlines()
    lines[2:3] = ["", line]
    (tmp_path / "a.tsv").write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.tsv")


def test_which_files_are_series(tmp_path: Path) -> None:
    write(tmp_path / "d" / "A_TRAIN.tsv"), write(tmp_path / "d" / "B_TRAIN.tsv")
    with pytest.raises(DataError, match=r"d: has A_TRAIN.tsv and B_TRAIN.tsv: give one of them"):
        read(tmp_path / "d")
    with pytest.raises(DataError, match=r"A_TEST.tsv: is a test file: give the training file"):
        read(write(tmp_path / "d" / "A_TEST.tsv"))
    write(tmp_path / "d" / "A_TEST.tsv", labels=LABELS + 1)
    with pytest.raises(DataError, match=r"d: A_TEST.tsv: example 2 has label 4, which is not in A_TRAIN.tsv"):
        read(tmp_path / "d" / "A_TRAIN.tsv")


# ------------------------------------------------------------------------- .ts


def test_dimensions_of_a_ts_file_are_channels(tmp_path: Path) -> None:
    (tmp_path / "Made_TRAIN.ts").write_text(TS)
    data = read(tmp_path / "Made_TRAIN.ts", test_share=0.3)
    assert (data.spec.shape, data.classes, len(data.test.labels)) == ((3, 2), ("down", "up"), 6)
    assert examples(data) == {
        (float(i), 9.0 - i, i + 1.5, 0.0, float(-i), 1.0): "up" if i % 2 else "down" for i in range(20)
    }


def test_labels_of_a_regression_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text(header("@targetLabel true") + "".join(f"{i},1:{i}.5\n" for i in range(20)))
    data = read(tmp_path / "a.ts")
    assert (data.classes, data.spec.label_dtype) == ((), "float32")
    np.testing.assert_array_equal(data.train.inputs[:, 0, 0] + 0.5, data.train.labels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3,4.5,-3", "3,?,-3", r"a.ts: line 10: step 2 of dimension 1: '\?': values must be finite"),
        (":6,0,1:", ":6,0,?:", r"a.ts: line 10: step 3 of dimension 2: '\?': values must be finite"),
        ("3,4.5,-3", "3,4.5", "a.ts: line 10: dimensions of 2 to 3 values: must be equal"),
        ("3,4.5,-3:6,0,1", "3,4.5:6,0", "a.ts: series have 2 to 3 steps: give --max-length 3"),
        ("3,4.5,-3:", "", "a.ts: line 10: dimensions: 1: must be 2, as in line 7"),
        ("6,0,1:up", "6,0,1:left", "a.ts: line 10: class 'left': must be one of up, down, as in the header"),
        ("@data", "", "a.ts: line 7: must be a comment or a field"),
        ("@classLabel true", "@classLabel false", "a.ts: has no labels: must have a line @classLabel true"),
        ("@equalLength", "@timeStamps true\n@equalLength", "a.ts: @timeStamps true: series with time stamps"),
        ("@classLabel true up down", "@targetLabel true", "@targetLabel true: the labels must be numbers: .*'down'"),
        (TS, header(), "a.ts: has no series"),
        (TS, "", "a.ts: has no line @data: is not a .ts file of series"),
    ],
)
def test_a_damaged_ts_file_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TS
    (tmp_path / "a.ts").write_text(TS.replace(old, new))
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.ts")
