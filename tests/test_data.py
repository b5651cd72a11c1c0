"""Data: digits, and real TFDS directories, whole and damaged."""

import gzip
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import images, needs, prepare
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cnnjax
from cnnjax import MLPConfig, TrainConfig
from cnnjax.data import DataError, Dataset, Split, cache, load
from cnnjax.data.dataset import statistics, three_splits


def test_digits_are_split_as_published(digits: Dataset) -> None:
    """360 for test first, then 180 for validation, stratified, random_state 0."""
    images, labels = load_digits(return_X_y=True)
    rest, test, rest_labels, _ = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train, valid = train_test_split(rest, test_size=180, stratify=rest_labels, random_state=0)
    for split, expected in zip(digits[2:5], (train, valid, test), strict=True):
        np.testing.assert_array_equal(split.inputs.reshape(len(expected), 64), expected)
    assert [len(split.labels) for split in digits[2:5]] == [1257, 180, 360]
    assert digits.train.inputs.dtype == np.uint8


def test_what_a_source_does_not_split_is_cut_from_train() -> None:
    labels = np.arange(200, dtype=np.int32) % 4
    whole = Split(np.arange(200)[:, None], labels)
    train, valid, test = three_splits(whole, None, None)
    assert [len(split.labels) for split in (train, valid, test)] == [140, 20, 40]
    assert sorted(np.concatenate([train.inputs, valid.inputs, test.inputs])[:, 0]) == list(range(200))
    assert all((np.bincount(split.labels) == len(split.labels) // 4).all() for split in (train, valid, test))
    again = three_splits(whole, None, None)
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip((train, valid, test), again, strict=True))
    _, given, _ = three_splits(whole, Split(whole.inputs[:3], labels[:3]), whole)
    assert len(given.labels) == 3


def test_standardize_by_the_training_split() -> None:
    inputs = np.random.default_rng(0).integers(0, 255, (100, 4, 4, 3), np.uint8)
    inputs[..., 2] = 7  # a constant channel
    split = Split(inputs, np.zeros(100, np.int32))
    spec = Dataset.of("noise", "a", split, split, split).spec
    assert all(map(np.array_equal, (spec.mean, spec.std), statistics(split)))
    out = np.asarray(spec.standardize(inputs))
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1, 2)), [1, 1, 0], atol=1e-5)


def test_a_spec_tells_a_network_what_the_data_is(digits: Dataset) -> None:
    """Its statistics are leaves, all else is structure; it is read as it was written, to the bit."""
    spec = digits.spec
    assert (spec.shape, spec.dtype, spec.classes) == ((8, 8, 1), "uint8", tuple("0123456789"))
    assert (spec.label_shape, spec.label_dtype, spec.outputs) == ((), "int32", 10)
    assert [leaf.dtype for leaf in jax.tree.leaves(spec)] == [np.float32] * 3
    read = cache.read_spec(json.loads(json.dumps(cache.describe_spec(spec))))
    assert jax.tree.structure(read) == jax.tree.structure(spec)
    assert [a.tobytes() for a in jax.tree.leaves(read)] == [a.tobytes() for a in jax.tree.leaves(spec)]
    numbers = Dataset.of("numbers", (), Split(np.zeros((20, 4, 1)), np.ones((20, 3), np.float32)))
    assert (numbers.spec.outputs, numbers.spec.label_shape, numbers.classes) == (3, (3,), ())
    assert [len(split.labels) for split in numbers[2:5]] == [14, 2, 4]


INPUTS, LABELS = np.zeros((20, 4, 1)), np.arange(20) % 2
SPOILT = np.where(np.arange(80).reshape(20, 4, 1) == 14, np.nan, INPUTS)


@pytest.mark.parametrize(
    ("classes", "train", "test", "message"),
    [
        ("ab", Split(INPUTS, LABELS[:19]), None, r"d: train: inputs \[20, 4, 1\], labels \[19\]: must be"),
        ("ab", Split(INPUTS[:0], LABELS[:0]), None, "at least one"),
        ("ab", Split(INPUTS, LABELS - 1), None, "d: train: example 0 has label -1: must be an integer from 0 to 1"),
        ("ab", Split(INPUTS, LABELS * 2), None, "example 1 has label 2"),
        ("ab", Split(INPUTS, LABELS / 2), None, "example 0 has label 0.0: must be an integer"),
        ("abc", Split(INPUTS, np.eye(20)), None, r"one column per class, \[examples, 3\]"),
        ("", Split(INPUTS.astype(object), LABELS), None, "d: train: inputs: dtype object: must be numbers"),
        (
            "ab",
            Split(INPUTS, LABELS),
            Split(INPUTS[:, :3], LABELS),
            r"d: test: inputs are float32\[20, 3, 1\]: must match the",
        ),
        ("ab", Split(INPUTS, LABELS), Split(INPUTS.astype(np.uint8), LABELS), "d: test: inputs are uint8"),
        ("ab", Split(SPOILT, LABELS), None, r"d: train: inputs\[3, 2, 0\] is nan: must be finite in float32"),
        ("ab", Split(INPUTS, LABELS), Split(SPOILT, LABELS), r"d: test: inputs\[3, 2, 0\] is nan: must be finite"),
        ("ab", Split(INPUTS - np.inf, LABELS), None, r"inputs\[0, 0, 0\] is -inf: must be finite in float32"),
        ("ab", Split(INPUTS + 1e300, LABELS), None, r"inputs\[0, 0, 0\] is 1e\+300: must be finite in float32"),
        ("", Split(INPUTS, SPOILT[:, :, 0]), None, r"d: train: labels\[3, 2\] is nan: must be finite in float32"),
        (
            "ab",
            Split(np.full((20, 4, 1), 2**40), LABELS),
            None,
            r"inputs\[0, 0, 0\] is 1099511627776: must be in the range of int32",
        ),
        ("ab", Split(INPUTS, LABELS + 2**32), None, r"labels\[0\] is 4294967296: must be in the range"),
        ("ab", Split([[1, 2], [3]], LABELS), None, "d: train: inputs: not an array: setting an array element"),
        ("ab", Split(INPUTS, LABELS[:, None]), None, r"one column per class, \[examples, 2\]"),
        ("ab", Split(INPUTS, LABELS), Split(INPUTS[:0], LABELS[:0]), r"d: test: inputs \[0, 4, 1\].* at least one"),
        ("ab", Split(INPUTS, LABELS), Split(INPUTS, LABELS.astype(np.int8)), "d: test: labels are int8"),
        (None, Split(INPUTS, LABELS), None, r"d: classes: None: must be class names, or \(\) if"),
        (2, Split(INPUTS, LABELS), None, "d: classes: 2: must be class names"),
    ],
)
def test_arrays_that_are_no_examples_are_refused(classes: Any, train: Split, test: Split | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.of("d", classes, train, None, test)


def test_arrays_of_jax_and_numbers_of_64_bits_are_taken() -> None:
    """In 32 bits, whatever the other splits have."""
    mine = Dataset.of(
        "d",
        "ab",
        Split(INPUTS, LABELS),
        Split(INPUTS.astype(np.float32), LABELS.astype(np.int32)),
        Split(jnp.zeros((5, 4, 1)), jnp.arange(5) % 2),
    )
    for split in (mine.train, mine.valid, mine.test):
        assert [(type(array), array.dtype.name) for array in split] == [(np.ndarray, "float32"), (np.ndarray, "int32")]
    assert (mine.spec.dtype, mine.spec.label_dtype) == ("float32", "int32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": LABELS.astype(np.int32) + 1}, "d: train: example 1 has label 2: must be an integer from 0 to 1"),
        ({"inputs": SPOILT.astype(np.float32)}, r"d: train: inputs\[3, 2, 0\] is nan"),
        ({"inputs": INPUTS.astype(np.float32)[:3]}, r"d: train: inputs \[3, 4, 1\], labels \[20\]"),
        (
            {"inputs": INPUTS},
            r"d: train: inputs are float64\[20, 4, 1\], but the spec says float32\['examples', 4, 1\]",
        ),
        ({"labels": LABELS.astype(np.uint8)}, "labels are int32.*: must match the training split"),
        ({"labels": LABELS.tolist()}, r"train: labels are int64\[20\], but the spec says int32"),
    ],
)
def test_a_data_set_that_was_changed_is_checked_before_it_is_used(changes: dict[str, Any], message: str) -> None:
    part = Split(INPUTS, LABELS)
    sound = Dataset.of("d", "ab", part, part, part)
    sound.check()
    spoilt = sound._replace(train=sound.train._replace(**changes))
    with pytest.raises(DataError, match=message):
        cnnjax.fit(TrainConfig(MLPConfig((2,)), epochs=1), spoilt)


# ------------------------------------------------------------------------- TFDS


def test_a_prepared_directory_is_read_exactly(tfds_dir: Path, tmp_path: Path) -> None:
    mnist = load("mnist", tfds_dir, tmp_path)
    assert mnist.name == "mnist:1.0.0"
    assert mnist.classes == tuple(map(str, range(10)))
    expected = {row["image"].tobytes(): row["label"] for row in images((28, 28, 1), 60, 1)}
    found = {image.tobytes(): label for image, label in zip(*mnist.test, strict=True)}
    assert found == expected
    assert [len(split.labels) for split in mnist[2:5]] == [270, 30, 60]


def test_the_second_start_reads_the_cache(tfds_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("mnist", tfds_dir, tmp_path)
    monkeypatch.setattr("cnnjax.data.tfds.read", None)  # would fail
    second = load("mnist:1.0.0", tfds_dir, tmp_path)
    for a, b in zip(jax.tree.leaves(first[1:]), jax.tree.leaves(second[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.name, first.classes) == (second.name, second.classes)
    assert jax.tree.structure(first.spec) == jax.tree.structure(second.spec)


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "facts", "flip"])
def test_a_damaged_cache_is_read_anew(tfds_dir: Path, tmp_path: Path, damage: str) -> None:
    first = load("mnist", tfds_dir, tmp_path)
    [folder] = tmp_path.iterdir()
    array = folder / "train-inputs.npy"
    if damage == "truncate":
        array.write_bytes(array.read_bytes()[:1000])
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "remove":
        array.unlink()
    elif damage == "flip":
        content = bytearray(array.read_bytes())
        content[5000] ^= 1
        array.write_bytes(content)
    else:
        (folder / "dataset.json").write_text("{")
    np.testing.assert_array_equal(load("mnist", tfds_dir, tmp_path).train.inputs, first.train.inputs)
    assert len(np.load(array)) == 270


def test_a_cache_that_cannot_be_written_is_done_without(tfds_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(load("mnist", tfds_dir, tmp_path / "file").train.labels) == 270


def test_a_changed_directory_is_read_anew(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    before = cache.fingerprint(folder)
    (folder / "extra").touch()
    assert cache.fingerprint(folder) != before


def test_the_highest_version_is_taken(tfds_dir: Path, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / version)
    from cnnjax.data.tfds import find

    assert find("mnist", tmp_path).name == "1.10.0"
    assert find("mnist:1.9.0", tmp_path).name == "1.9.0"


def test_missing_data_is_told_at_once(tfds_dir: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(
        DataError,
        match=rf"^data: 'fashion': no such file or folder, and not prepared in {tmp_path}/fashion/\*; prepare it with: python -m cnnjax prepare fashion --data-dir {tmp_path}",
    ):
        load("fashion", tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"mnist/2\.0\.0 \(only 1\.0\.0\); prepare it"):
        load("mnist:2.0.0", tfds_dir, tmp_path)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("name", ["", "../x", "/abs/mnist", "a b", "mnist:", "photos/"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="--data-dir sets its directory"):
        load(name, tmp_path, tmp_path)


def test_a_truncated_file_is_named(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    [file] = folder.glob("*train*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{file.name}: damaged: .*; copy or prepare the data set again"):
        load("mnist", tmp_path, tmp_path / "cache")


def test_damaged_facts_are_named(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    (folder / "features.json").write_text("{")
    with pytest.raises(DataError, match="not a valid TFDS directory"):
        load("mnist", tmp_path, tmp_path / "cache")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_info.json: damaged"):
        load("mnist", tmp_path, tmp_path / "cache")


def odd_one_out(shape: tuple[int, ...]) -> list[dict]:
    rows = images((12, 12, 1), 40)
    rows[17] = images(shape, 18)[17]
    return rows


@pytest.mark.parametrize("declared", [(12, 12, 1), (None, None, 1)])
def test_an_image_of_another_shape_is_named(tmp_path: Path, declared: tuple) -> None:
    """TFDS decodes it without a word, also where the declared shape is another."""
    rows = odd_one_out((12, 10, 1))
    if None not in declared:  # stored bytes are not checked against the declared shape
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(rows[17]["image"][..., 0]).save(buffer, "PNG")
        rows[17] = {**rows[17], "image": buffer.getvalue()}
    prepare(tmp_path, "odd", {"train": rows}, declared)
    with pytest.raises(DataError, match=r"odd-train.*: image \d+ is uint8\[12, 10, 1\], expected uint8\[12, 12, 1\]"):
        load("odd", tmp_path, tmp_path / "cache")


def in_tfrecord(folder: Path, shards: int = 2) -> list[Path]:
    """Converts a directory of array_record files to TFRECORD files, written by tensorboardX; returns those of train."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    writers = needs("tensorboardX.record_writer")
    facts = json.loads((folder / "dataset_info.json").read_text())
    facts["fileFormat"] = "tfrecord"
    for split in facts["splits"]:
        [file] = folder.glob(f"*-{split['name']}.array_record*")
        rows = ArrayRecordDataSource([str(file)])
        parts = np.array_split(np.arange(len(rows)), shards)
        for number, part in enumerate(parts):
            name = f"{facts['name']}-{split['name']}.tfrecord-{number:05}-of-{shards:05}"
            writer = writers.RecordWriter(str(folder / name))
            for row in part.tolist():
                writer.write(rows[row])
            writer.close()
        split["shardLengths"] = [str(len(part)) for part in parts]
        file.unlink()
    (folder / "dataset_info.json").write_text(json.dumps(facts))
    return sorted(folder.glob("*-train.tfrecord*"))


def test_tfrecord_gives_the_arrays_of_array_record(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    in_tfrecord(folder)
    found, expected = (load("mnist", path, tmp_path / "cache") for path in (tmp_path, tfds_dir))
    assert (found.name, found.classes) == (expected.name, expected.classes)
    for one, other in zip(jax.tree.leaves(found[1:5]), jax.tree.leaves(expected[1:5]), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert "tensorflow" not in sys.modules


def test_a_record_that_is_damaged_is_named(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    _, file = in_tfrecord(folder)
    content = file.read_bytes()
    starts = [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + 16 + int.from_bytes(content[starts[-1] : starts[-1] + 8], "little"))
    third = starts[3]

    def flipped(place: int) -> bytes:
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    for damaged, problem in (
        (flipped(third), "record 3 has a wrong CRC"),  # of its length
        (flipped(third + 9), "record 3 has a wrong CRC"),
        (flipped(third + 40), "record 3 has a wrong CRC"),
        (flipped(starts[4] - 1), "record 3 has a wrong CRC"),
        (gzip.compress(content), "record 0 has a wrong CRC"),
        (content[: third + 5], "record 3 is truncated"),
        (content[: starts[4] - 2], "record 3 is truncated"),
        (content[: starts[-2]], "record 149 is truncated"),
        (b"", "record 0 is truncated"),
        (content + content[: starts[1]], "more than 150 records"),
    ):
        file.write_bytes(damaged)
        message = f"{file}: damaged: {problem}; copy or prepare the data set again"
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            load("mnist", tmp_path, tmp_path / "cache")
    file.unlink()
    with pytest.raises(DataError, match=r"mnist-train.tfrecord.*: damaged: .*No such file"):
        load("mnist", tmp_path, tmp_path / "cache")


def test_another_format_is_refused_with_the_way_out(tfds_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "mnist" / "1.0.0")
    facts = folder / "dataset_info.json"
    facts.write_text(facts.read_text().replace('"array_record"', '"riegeli"'))
    with pytest.raises(
        DataError, match=r"stored as riegeli: must be array_record or tfrecord; prepare it again with: python"
    ):
        load("mnist", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "eval"])
def test_a_validation_split_is_known_by_its_usual_names(tmp_path: Path, name: str) -> None:
    splits = {"train": images((8, 8, 1), 60), name: images((8, 8, 1), 20, 1), "test": images((8, 8, 1), 20, 2)}
    prepare(tmp_path, "folders", splits, (8, 8, 1))
    data = load("folders", tmp_path, tmp_path / "cache")
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [60, 20, 20]
    assert {image.tobytes() for image in data.valid.inputs} == {row["image"].tobytes() for row in splits[name]}


def test_a_split_that_is_not_used_is_named(tmp_path: Path) -> None:
    splits = {name: images((8, 8, 1), 60) for name in ("train", "validation", "val", "extra")}
    prepare(tmp_path, "more", splits, (8, 8, 1))
    with pytest.warns(UserWarning, match=r"more/1\.0\.0: splits not used: extra, val; used: train, validation"):
        data = load("more", tmp_path, tmp_path / "cache")
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [48, 60, 12]


def test_a_label_that_is_no_class_is_refused(tmp_path: Path) -> None:
    rows = [{**row, "label": -1} for row in images((12, 12, 1), 20)]
    prepare(tmp_path, "bare", {"train": images((12, 12, 1), 40), "test": rows}, (12, 12, 1))
    with pytest.raises(
        DataError, match=r"bare-test.*: example 0 has label -1, which is not a class: is it unlabeled\?"
    ):
        load("bare", tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("name", [3, None, b"digits", Path("digits")])
def test_a_name_of_data_that_is_no_string_is_named(name: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"^name: {re.escape(repr(name))}: must be the name of a data set, such as 'digits'$"
    ):
        load(name)
