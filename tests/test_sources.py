"""Sources: image folders, arrays and TFDS features, whole and damaged, and what a run does with them."""

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, images, mistake, prepare, script
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.utils.class_weight import compute_class_weight
from test_pages import commands, fences

import cnnjax
from cnnjax import CrossEntropy, Loading, MLPConfig, TrainConfig
from cnnjax.data import DataError, Dataset, Split, existing, load, summary
from cnnjax.data.images import Reading, fit_pixels, read_image
from cnnjax.runs import Opened

NOISE = np.random.default_rng(0)


def picture(shade: int, width: int = 10, height: int = 10) -> Image.Image:
    """An RGB image that is brighter on the left, and unlike any other."""
    pixels = NOISE.integers(0, 30, (height, width, 3), np.uint8) + np.uint8(shade)
    pixels[:, : width // 2] += 40
    return Image.fromarray(pixels)


def save(path: Path, image: Image.Image | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or picture(100)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten PNG files, 10x10."""
    for i in range(10):
        save(tmp_path / "pets" / "cat" / f"{i}.png", picture(30 + i))
        save(tmp_path / "pets" / "dog" / f"{i}.png", picture(130 + i))
    return tmp_path / "pets"


def read(path: Path, **loading: Any) -> Dataset:
    return load(str(path), cache_dir=path.parent / "cache", loading=Loading(**loading))


# ------------------------------------------------------------------------- image folders


def test_a_folder_has_a_folder_for_each_class(folder: Path) -> None:
    pets = read(folder)
    assert (pets.name, pets.classes, pets.spec.shape, pets.spec.dtype) == ("pets", ("cat", "dog"), (10, 10, 3), "uint8")
    stored = {
        (np.asarray(Image.open(path)).tobytes(), label)
        for label, name in enumerate(pets.classes)
        for path in (folder / name).iterdir()
    }
    splits = pets.train, pets.valid, pets.test
    assert {(image.tobytes(), label) for split in splits for image, label in zip(*split, strict=True)} == stored
    assert list(summary(pets)) == [
        "pets: train 14, valid 2 (cut from train), test 4 (cut from train)",
        "2 classes, training examples: cat 7, dog 7",
    ]
    assert (pets.spec.low, pets.spec.high) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("valid", ["valid", "val"])
def test_splits_may_lie_above_the_classes(tmp_path: Path, valid: str) -> None:
    for split, count in (("train", 4), (valid, 1), ("test", 2), ("more", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                save(tmp_path / "pets" / split / name / f"{i}.png", picture(i))
    pets = read(tmp_path / "pets")
    told, _, skipped = summary(pets)
    assert told == "pets: train 8, valid 2, test 4"
    assert skipped.startswith("skipped, images outside of the class folders: more/cat/0.png, more/cat/1.png")
    assert skipped.endswith("and 1 more")


def test_any_mode_and_size(tmp_path: Path) -> None:
    """Each is read as Pillow shows it: 16 bits as 8, transparent on white, rotated as EXIF says."""
    rgb = picture(100, 30, 20)
    deep = Image.fromarray(np.full((20, 30), 200 * 257, np.uint16))
    clear = rgb.convert("RGBA")
    clear.putalpha(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, Callable[[Path], Any]] = {
        "rgb.png": lambda path: rgb.save(path),
        "gray.png": lambda path: rgb.convert("L").save(path),
        "palette.gif": lambda path: rgb.quantize(16).save(path),
        "cmyk.jpg": lambda path: rgb.convert("CMYK").save(path),
        "deep.png": lambda path: deep.save(path),
        "clear.webp": lambda path: clear.save(path, lossless=True),
        "turned.jpg": lambda path: rgb.rotate(90, expand=True).save(path, exif=exif, quality=95),
        "plain.bmp": lambda path: rgb.save(path),
    }
    for name in ("a", "b"):
        (tmp_path / "mix" / name).mkdir(parents=True)
        for file, write in kinds.items():
            write(tmp_path / "mix" / name / file)
    mix = read(tmp_path / "mix")
    assert mix.spec.shape == (20, 30, 3)
    found = np.concatenate([split.inputs for split in (mix.train, mix.valid, mix.test)]).astype(int)

    def is_there(expected: np.ndarray, within: float) -> bool:
        return bool((np.abs(found - expected).mean((1, 2, 3)) <= within).sum() >= 2)

    colors = np.asarray(rgb).astype(int)
    assert is_there(colors, 0)
    assert is_there(np.asarray(rgb.convert("L"))[..., None], 0)
    assert is_there(np.full((20, 30, 3), 200), 0)
    assert is_there(np.full((20, 30, 3), 255), 0)
    near = np.abs(found - colors).mean((1, 2, 3))
    assert (near < 25).sum() == 12  # all but gray (near, but counted below), 16 bits and transparent
    assert read(tmp_path / "mix", image_size=16).spec.shape == (16, 16, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_images_of_mixed_sizes_need_a_size(folder: Path, fit: str) -> None:
    wide = picture(60, 40, 20)
    save(folder / "cat" / "wide.png", wide)
    message = "images have 2 different sizes, such as 10x10 and 40x20: give .*, such as --image-size 16$"
    with pytest.raises(DataError, match=message):
        read(folder)
    pets = read(folder, image_size=12, fit=fit)
    expected = fit_pixels(np.asarray(wide), (12, 12, 3), Reading(fit)).tobytes()  # type: ignore[arg-type]
    assert expected in {
        image.tobytes() for image in np.concatenate([pets.train.inputs, pets.valid.inputs, pets.test.inputs])
    }


def test_images_are_gray_if_all_are(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert read(folder).spec.shape == (10, 10, 1)
    save(folder / "cat" / "color.png")
    assert read(folder).spec.shape == (10, 10, 3)


def bomb(path: Path) -> None:
    """A PNG that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


def test_what_is_no_image_is_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "short.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "empty.png").touch()
    (folder / "dog" / "text.png").write_text("not an image")
    bomb(folder / "dog" / "bomb.png")
    (folder / "dog" / ".hidden").touch()
    (folder / "notes.txt").write_text("notes")
    save(folder / "dog" / "A.PNG", picture(5))
    save(folder / "dog" / "a.png", picture(6))
    save(tmp_path / "elsewhere" / "far.png")
    (folder / "dog" / "far.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "dog" / "near.png").symlink_to(folder / "dog" / "1.png")
    (folder / "dog" / "loop.png").symlink_to("loop.png")
    (folder / "dog" / "gone.png").symlink_to(tmp_path / "gone.png")
    pets = read(folder)
    assert sum(len(split.labels) for split in (pets.train, pets.valid, pets.test)) == 23
    *notes, short = (note for note in pets.notes if "equal" not in note)
    assert notes == [
        "skipped, hidden: dog/.hidden",
        "skipped, not image files: notes.txt",
        "skipped, links to folders, or out of the folder: linked, dog/far.png, dog/gone.png",
        "names that differ only in case, all used: dog/A.PNG, dog/a.png",
        "skipped cat/empty.png: is not an image that Pillow can read",
        "skipped dog/bomb.png: has more than 40 megapixels: reduce its size first",
        "skipped dog/loop.png: Too many levels of symbolic links",
        "skipped dog/text.png: is not an image that Pillow can read",
    ]
    assert short.startswith("skipped cat/short.png: cannot be read: ")
    assert read(folder).notes == pets.notes  # from the cache


def test_many_damaged_files_take_a_few_lines(folder: Path) -> None:
    for i in range(30):
        (folder / "cat" / f"x{i}.png").touch()
    notes = read(folder).notes
    assert len(notes) == 21
    assert notes[-1] == "skipped 10 more files that cannot be read"


def nothing(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def one_class(folder: Path) -> None:
    for path in (folder / "dog").iterdir():
        path.unlink()
    (folder / "dog").rmdir()


def one_image(folder: Path) -> None:
    for path in sorted((folder / "dog").iterdir())[1:]:
        path.unlink()


def no_classes(folder: Path) -> None:
    for name in ("cat", "dog"):
        for path in (folder / name).iterdir():
            path.rename(folder / f"{name}-{path.name}")
        (folder / name).rmdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nothing, "pets: has no images: put the images of each class into a folder of its name"),
        (no_classes, "pets: has 20 images but no class folders: put the images of each class"),
        (one_class, "pets: only one class, cat: at least two are needed"),
        (
            one_image,
            "pets: class dog has 1 example: at least 3 are needed, to cut the splits that the data do not have: "
            "add some, or remove the class",
        ),
        (
            lambda folder: (folder / "bird").mkdir(),
            r"pets/bird: has no images \(.bmp, .*\): add some, or remove the folder",
        ),
        (lambda folder: save(folder / "Dog" / "1.png"), "pets: classes (dog and Dog|Dog and dog) differ only in case"),
        (lambda folder: [p.write_bytes(b"") for p in folder.rglob("*.png")], "none of its image files can be read"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(folder: Path, change: Callable[[Path], Any], message: str) -> None:
    change(folder)
    with pytest.raises(DataError, match=message):
        read(folder)


def test_images_that_do_not_fit_in_memory_are_refused(folder: Path) -> None:
    message = r"^image_size: 20 images of 10000000x10000000 take 5,587,935 GiB of memory: give a smaller size$"
    with pytest.raises(DataError, match=message):
        read(folder, image_size=10**7)


def test_a_class_that_is_missing_from_a_split_is_named(tmp_path: Path) -> None:
    for split, names in (("train", "abc"), ("valid", "abc"), ("test", "ab")):
        for name in names:
            save(tmp_path / "d" / split / name / "0.png", picture(9))
    with pytest.raises(DataError, match=r"d: class c has no example in test \(it has train 1, valid 1\): add some$"):
        read(tmp_path / "d")
    save(tmp_path / "d" / "test" / "z" / "0.png")
    save(tmp_path / "d" / "test" / "c" / "0.png")
    with pytest.raises(DataError, match=r"d: class z has no example in train \(it has test 1\): add some$"):
        read(tmp_path / "d")


def test_examples_of_the_test_that_are_in_train_are_counted(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("valid", 6), ("test", 3)):
        for name in "ab":
            for i in range(first, first + 4):
                save(tmp_path / "d" / split / name / f"{i}.png", Image.new("RGB", (4, 4), (i, ord(name), 0)))
    assert read(tmp_path / "d").notes == ("2 of 8 test examples are equal to a training example",)


def test_a_changed_folder_or_option_is_read_anew(folder: Path) -> None:
    assert len(read(folder, test_share=0.5).test.labels) == 10
    assert len(read(folder).test.labels) == 4
    save(folder / "cat" / "new.png", picture(77))
    data = read(folder)
    assert sum(len(split.labels) for split in (data.train, data.valid, data.test)) == 21


def test_a_folder_is_no_tfds_directory(tfds_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TFDS name is not read as a folder where its directory is the current one."""
    monkeypatch.chdir(tfds_dir)
    assert existing("mnist") is None
    assert load("mnist", tfds_dir).spec.shape == (28, 28, 1)
    monkeypatch.chdir(folder.parent)
    assert existing("pets") == Path("pets")
    assert load("pets").name == "pets"


# ------------------------------------------------------------------------- shares


def test_shares_that_are_cut_are_stratified() -> None:
    digits = load("digits", loading=Loading(valid_share=0.25, test_share=0.25))
    sizes = [len(split.labels) for split in (digits.train, digits.valid, digits.test)]
    assert sizes == [897, 450, 450]
    assert np.ptp(np.bincount(digits.test.labels) / np.bincount(np.concatenate([s.labels for s in digits[2:5]]))) < 0.01


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        ({"image_size": 32}, "image_size: 32: does not apply to the data digits, which use valid_share, test_share"),
        ({"label_key": "y"}, "label_key: y: does not apply to the data digits"),
        ({"test_share": 0.0}, "digits: test_share: 0: must be above 0 and below 1"),
        ({"test_share": 0.6, "valid_share": 0.4}, "digits: valid_share 0.4 and test_share 0.6: must leave examples"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(loading: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("digits", loading=Loading(**loading))


@pytest.mark.parametrize(
    ("loading", "message"),
    [
        (Loading(image_size=0), "image_size: 0: must be at least 1"),
        (Loading(image_size="8"), "image_size: '8': must be of type int . None$"),  # type: ignore[arg-type]
        (Loading(fit="zoom"), "fit: 'zoom': use one of crop, pad, stretch$"),  # type: ignore[arg-type]
        ({"image_size": 8}, r"loading: {'image_size': 8}: must be a Loading, such as Loading\(image_size=32\)"),
    ],
)
def test_loading_that_is_out_of_range_is_refused(folder: Path, loading: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load(str(folder), loading=loading)


def test_a_share_of_a_split_that_exists_is_refused(tfds_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mnist:1.0.0: test_share: 0.3: the data have a test split: omit it"):
        load("mnist", tfds_dir, tmp_path, loading=Loading(test_share=0.3))


# ------------------------------------------------------------------------- arrays


X, Y = NOISE.normal(size=(40, 6, 2)), np.arange(40) % 4


@pytest.mark.parametrize("keys", ["x_train y_train", "train_inputs train_labels", "inputs labels", "x y"])
def test_arrays_by_their_usual_names(tmp_path: Path, keys: str) -> None:
    x, y = keys.split()
    np.savez(tmp_path / "a.npz", **{x: X, y: Y})  # type: ignore[arg-type]
    data = read(tmp_path / "a.npz")
    assert (data.name, data.spec.shape, data.spec.dtype, data.classes) == ("a.npz", (6, 2), "float32", tuple("0123"))
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [28, 4, 8]


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ([7, 3, -2, 900], ("-2", "3", "7", "900")),
        (["rose", "iris", "tulip", "lily"], ("iris", "lily", "rose", "tulip")),
        ([b"d", b"c", b"b", b"a"], tuple("abcd")),
    ],
)
def test_labels_are_names_or_integers_that_start_anywhere(tmp_path: Path, names: list, classes: tuple) -> None:
    labels = np.asarray(names)[Y]
    np.savez(tmp_path / "a.npz", x_train=X, y_train=labels, x_test=X[:9] + 1, y_test=labels[:9])
    data = read(tmp_path / "a.npz")
    assert data.classes == classes
    of = {
        tuple(example.ravel().tolist()): str(name)
        for example, name in zip(
            X.astype(np.float32), np.char.decode(labels) if labels.dtype.kind == "S" else labels, strict=True
        )
    }
    for split in (data.train, data.valid):
        assert [data.classes[label] for label in split.labels] == [of[tuple(e.ravel().tolist())] for e in split.inputs]
    assert [data.classes[label] for label in data.test.labels] == [
        of[tuple(e.ravel().tolist())] for e in X[:9].astype(np.float32)
    ]


def test_names_of_classes_and_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y, classes=np.array(["n", "e", "s", "w"]), extra=Y)
    named = read(tmp_path / "a.npz")
    assert (named.classes, named.notes) == (tuple("nesw"), ("arrays that are not used: extra",))
    np.savez(tmp_path / "b.npz", x=X, y=X[:, 0, :])
    assert (read(tmp_path / "b.npz").classes, read(tmp_path / "b.npz").spec.label_shape) == ((), (2,))
    np.savez(tmp_path / "c.npz", x=X, y=Y.astype(float))
    assert read(tmp_path / "c.npz").notes == (
        "y are float64, so they are numbers and not classes: save classes as integers",
    )
    gray = NOISE.integers(0, 255, (40, 5, 7), np.uint8)
    np.savez(tmp_path / "d.npz", x=gray, y=Y)
    assert read(tmp_path / "d.npz").spec.shape == (5, 7, 1)


SPOILT = X.copy()
SPOILT[3, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": SPOILT, "y_train": Y}, r"a.npz: x_train\[3, 2, 1\] is nan: must be finite in float32"),
        ({"x_train": X, "y_train": Y, "x_test": SPOILT, "y_test": Y}, r"a.npz: x_test\[3, 2, 1\] is nan"),
        ({"x_train": X.astype("U4"), "y_train": Y}, "a.npz: x_train: dtype <U4: must be numbers"),
        ({"x_train": X + 1j, "y_train": Y}, "a.npz: x_train: dtype complex128: must be numbers"),
        ({"x_train": X, "y_train": Y + 1j}, "a.npz: y_train: dtype complex128: must be names, integers or floats"),
        (
            {"x_train": X, "y_train": np.array([None] * 40)},
            "a.npz: y_train: holds Python objects, such as series of unequal length",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1},
            "a.npz: y_test: example 3 has label 4, which is not in y_train: add examples of it there, or remove it",
        ),
        (
            {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y.astype(str)},
            "a.npz: y_test: dtype <U21: must be as y_train, int64",
        ),
        ({"x_train": X, "y_train": Y[1:]}, r"a.npz: x_train and y_train: \[40, 6, 2\] and \[39\]: must have an entry"),
        ({"x_train": X}, "a.npz: x_train: the labels that belong to it are missing: use x_train and y_train"),
        ({"xtrain": X, "y": Y}, "a.npz: y: the inputs that belong to it are missing"),
        (
            {"xtrain": X, "ytrain": Y},
            "a.npz: arrays xtrain, ytrain: did you mean 'x_train'\\? must be x_train and y_train",
        ),
        ({"x_train": X, "y_train": Y * 0}, "a.npz: only one class, 0: at least two are needed"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, "a.npz: test: inputs are float32"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.npz")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    content = (tmp_path / "a.npz").read_bytes()
    np.save(tmp_path / "array.npy", X)
    whole = (tmp_path / "array.npy").read_bytes()
    for spoilt in (b"", b"text", whole, content[: len(content) // 2], content[:500] + b"?" + content[501:]):
        (tmp_path / "b.npz").write_bytes(spoilt)
        with pytest.raises(DataError, match=r"b.npz: .*is not a valid .npz file"):
            read(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"c.npz: no such file"):
        load(str(tmp_path / "c.npz"))
    (tmp_path / "d.txt").write_text("text")
    with pytest.raises(DataError, match=r"d.txt: must be a folder of images, or an .npz, .csv, .tsv or .ts file"):
        load(str(tmp_path / "d.txt"))


# ------------------------------------------------------------------------- TFDS


def features(folder: Path, kinds: Callable[[Any], dict[str, Any]], rows: list[dict[str, Any]]) -> Path:
    """A TFDS directory with features of any kind."""
    import tensorflow_datasets as tfds

    class Any_(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # noqa: N801
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder
        name = "any"

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds(tfds.features)))

        def _split_generators(self, manager):
            return {"train": enumerate(rows)}

        def _generate_examples(self):
            raise NotImplementedError

    Any_(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_features_by_key(tmp_path: Path) -> None:
    """Series of one and of several channels; labels that are classes, integers, names and numbers."""
    rows = [
        {
            "wave": X[i, :, 0].astype(np.float32),
            "pair": X[i].astype(np.float32),
            "kind": int(Y[i]),
            "year": 1990 + int(Y[i]),
            "name": "nesw"[Y[i]],
            "load": np.float32(X[i, 0, 0]),
        }
        for i in range(40)
    ]

    def kinds(of: Any) -> dict[str, Any]:
        return {
            "wave": of.Tensor(shape=(6,), dtype=np.float32),
            "pair": of.Tensor(shape=(6, 2), dtype=np.float32),
            "kind": of.ClassLabel(names=["p", "q", "r", "s"]),
            "year": of.Scalar(dtype=np.int64),
            "name": of.Text(),
            "load": of.Scalar(dtype=np.float32),
        }

    features(tmp_path, kinds, rows)

    def of(**loading: Any) -> Dataset:
        return load("any", tmp_path, tmp_path / "cache", loading=Loading(**loading))

    with pytest.raises(
        DataError, match=r"one image, array or text and one class label per example, .*give --input-key and"
    ):
        of()
    waves = of(input_key="wave")
    assert (waves.spec.shape, waves.classes, waves.spec.dtype) == ((6, 1), tuple("pqrs"), "float32")
    assert {tuple(wave.ravel()) for wave in waves.test.inputs} <= {tuple(row["wave"]) for row in rows}
    assert of(input_key="pair").spec.shape == (6, 2)
    assert of(input_key="pair", label_key="year").classes == ("1990", "1991", "1992", "1993")
    assert of(input_key="pair", label_key="name").classes == tuple("ensw")
    assert of(input_key="pair", label_key="load").classes == ()
    for key, message in (
        ("wav", "input_key: wav: .* has the features kind, load, name, pair, wave, year"),
        ("year", "input_key: year: is a feature of kind Scalar in .*: must be an image, array or text"),
    ):
        with pytest.raises(DataError, match=message):
            of(input_key=key)
    letters = of(input_key="name")
    assert (set(letters.vocabulary[2:]), letters.spec.shape, letters.classes) == (set("nesw"), (1,), tuple("pqrs"))
    assert [letters.vocabulary[token] for token in letters.test.inputs[:, 0]] == [
        "nesw"[i] for i in letters.test.labels
    ]
    with pytest.raises(DataError, match=r"max_length: 8: does not apply to the data .*any/1.0.0, feature pair"):
        of(input_key="pair", max_length=8)
    with pytest.raises(DataError, match=r"image_size: 8: does not apply to the data .*any/1.0.0, feature name"):
        of(input_key="name", image_size=8)
    with pytest.raises(DataError, match=r"image_size: 8: does not apply to the data .*any/1.0.0, feature pair"):
        of(input_key="pair", image_size=8)


def test_images_of_tfds_in_mixed_sizes(tmp_path: Path) -> None:
    rows = images((12, 12, 1), 40)
    rows[17] = images((12, 10, 1), 18)[17]
    prepare(tmp_path, "odd", {"train": rows}, (None, None, 1))
    with pytest.raises(DataError, match="give --image-size, such as --image-size 64"):
        load("odd", tmp_path, tmp_path / "cache")
    found = load("odd", tmp_path, tmp_path / "cache", loading=Loading(image_size=12, test_share=0.25, valid_share=0.25))
    assert found.spec.shape == (12, 12, 1)
    stored = {row["image"].tobytes() for i, row in enumerate(rows) if i != 17}
    every = np.concatenate([found.train.inputs, found.valid.inputs, found.test.inputs])
    assert sum(image.tobytes() in stored for image in every) == 39


# ------------------------------------------------------------------------- class weights


def test_balanced_weights_are_those_of_scikit_learn(small: Dataset) -> None:
    labels = small.train.labels
    weights = CrossEntropy(class_weight="balanced").weights(small.spec)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(10), y=labels), rtol=1e-6)
    logits = jnp.asarray(NOISE.normal(size=(len(labels), 10)), jnp.float32)
    plain = CrossEntropy(label_smoothing=0.1)
    weighted = CrossEntropy(label_smoothing=0.1, class_weight="balanced")
    np.testing.assert_allclose(
        weighted.on(small.spec)(logits, labels), plain(logits, labels) * weights[labels], rtol=1e-6
    )
    mixed = jax.nn.one_hot(labels, 10)
    np.testing.assert_allclose(
        weighted.on(small.spec)(logits, mixed), weighted.on(small.spec)(logits, labels), rtol=1e-6
    )
    np.testing.assert_array_equal(weighted.for_evaluation()(logits, labels), CrossEntropy()(logits, labels))
    absent = Dataset.of("two of three", "abc", Split(X, Y % 2), Split(X, Y % 2), Split(X, Y % 2)).spec
    np.testing.assert_array_equal(CrossEntropy(class_weight="balanced").weights(absent), [1, 1, 0])


@pytest.mark.slow
def test_a_run_with_equal_weights_is_one_without(small: Dataset) -> None:
    """And with others it is another one, whose validation loss has no weights."""
    config = TrainConfig(MLPConfig((4,)), loss=CrossEntropy(), batch_size=32, epochs=1)
    runs = [
        cnnjax.fit(cnnjax.options.with_values(config, {"class_weight": weights}), small)
        for weights in (None, (1.0,) * 10, (2.0,) * 10)
    ]
    plain, same, double = (run.rows[-1] for run in runs)
    assert plain == same
    assert abs(double["train_loss"] / plain["train_loss"] - 2) < 0.2
    assert abs(double["valid_loss"] - plain["valid_loss"]) < 0.2 * plain["valid_loss"]


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0,) * 9 + (-1.0,)])
def test_weights_that_are_not_one_for_each_class_are_refused(small: Dataset, weights: tuple[float, ...]) -> None:
    config = TrainConfig(MLPConfig((4,)), loss=CrossEntropy(class_weight=weights), batch_size=32, epochs=1)
    with pytest.raises(
        ValueError, match=r"class_weight: 1.0,.*: must be balanced or 10 weights of at least 0, one for each"
    ):
        cnnjax.fit(config, small)


# ------------------------------------------------------------------------- runs


def test_a_run_folder_without_loading_is_read(tmp_path: Path, small: Dataset) -> None:
    """As before there was any: it is resumed, and its data are compared without the counts."""

    def as_before(event: Any) -> None:
        if isinstance(event, Opened):
            config, data = (event.store.read_json(f"{name}.json") for name in ("config", "data"))
            del config["loading"], config["loss"]["class_weight"], data["counts"]
            event.store.write_json("config.json", config, again=True)
            event.store.write_json("data.json", data, again=True)

    config = TrainConfig(MLPConfig((4,)), batch_size=32, epochs=1)
    before = cnnjax.fit(config, small, store=tmp_path / "r", progress=as_before)
    (tmp_path / "r" / "summary.json").unlink()
    again = cnnjax.fit(config, small, store=tmp_path / "r", resume=True)
    assert again.rows == before.rows == cnnjax.load_run(tmp_path / "r").rows
    other = cnnjax.options.with_values(config, {"test_share": 0.5})
    with pytest.raises(ValueError, match=r"other settings: loading.test_share None there, 0.5 here: use"):
        cnnjax.fit(other, small, store=tmp_path / "r", resume=True)


def test_options_of_loading_cannot_be_swept() -> None:
    with pytest.raises(ValueError, match="image_size: cannot be swept: all points have the same data"):
        cnnjax.SweepConfig(TrainConfig(MLPConfig()), (("image_size", (8, 16)),))


def photographs(folder: Path, count: int) -> Path:
    """Patches of scikit-learn's two photographs as two classes, in mixed sizes and modes."""
    rng = np.random.default_rng(0)
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for i in range(count):
            side, width, height = (int(n) for n in rng.integers((60, 20, 20), (250, 400, 400)))
            y, x = (int(rng.integers(0, length - side)) for length in pixels.shape[:2])
            image = Image.fromarray(pixels[y : y + side, x : x + side]).resize((width, height))
            exif = Image.Exif()
            exif[0x0112] = 6
            ways: list[tuple[str, Image.Image, dict[str, Any]]] = [
                ("jpg", image, {}),
                ("png", image.convert("L"), {}),
                ("gif", image.quantize(64), {}),
                ("webp", image.convert("RGBA"), {}),
                ("jpeg", image.convert("CMYK"), {}),
                ("jpg", image.rotate(90, expand=True), {"exif": exif}),
            ]
            kind, mode, options = ways[i % len(ways)]
            save(folder / name / f"{i:03}.{kind}", mode, **options)
    (folder / "temple" / "text.png").write_text("text")
    return folder


@pytest.mark.slow
def test_a_folder_of_photographs_is_trained_swept_and_found_again(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 60)
    few = ["--data", "photos", "--image-size", "16", "--fit", "pad", "--filters", "4,8", "--epochs", "2"]
    done = script("train", "folder", *few, "--name", "r", cwd=tmp_path)
    assert "photos: train 84, valid 12 (cut from train), test 24 (cut from train)" in done.stdout
    assert "skipped temple/text.png: is not an image that Pillow can read" in done.stdout
    for command in (
        [
            "sweep",
            "folder",
            *few,
            "--class-weight",
            "none",
            "balanced",
            "--learning-rate",
            "0.1",
            "--seeds",
            "2",
            "--name",
            "s",
        ],
        ["train", "runs/s/winner", "--resume", "--epochs", "3", "--allow-changes"],
        ["sweep", "runs/s", "--class-weight", "none", "balanced", "0.5,1", "--extend", "runs/s", "--name", "t"],
    ):
        assert script(*command, cwd=tmp_path).stdout.splitlines()[-1].startswith("runs/")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert "as recorded" in script("surface", "../runs/r", "--points", "3", cwd=elsewhere).stdout
    one = script("predict", "runs/r", "photos/temple/005.jpg", cwd=tmp_path).stdout
    assert "fit pad" in one
    trained = cnnjax.load_run(tmp_path / "runs" / "r")
    assert trained.config.loading == Loading(image_size=16, fit="pad")
    data = load(trained.config.data, loading=trained.config.loading)
    image = read_image(tmp_path / "photos" / "temple" / "005.jpg", trained.spec, Reading("pad"))
    every = np.concatenate([data.train.inputs, data.valid.inputs, data.test.inputs])
    assert image.tobytes() in {other.tobytes() for other in every}


@pytest.mark.slow
def test_mistakes_take_one_line(folder: Path, tmp_path: Path) -> None:
    given = ["folder", "--data", str(folder)]
    for extra, code, message in (
        (["--image-size", "0"], 2, "error: image_size: 0: must be at least 1"),
        (
            ["--batch-size", "15"],
            2,
            "error: batch_size: 15: must be at most 14, the number of training examples of pets",
        ),
        (["--valid-share", "1"], 2, "error: valid_share: 1.0: must be at least 0 and below 1"),
        (
            ["--class-weight", "1", "--batch-size", "8"],
            2,
            "error: loss CrossEntropy: class_weight: 1.0: must be balanced or 2 weights",
        ),
        (["--input-key", "x"], 1, "error: input_key: x: does not apply to the data"),
    ):
        mistake("train", *given, *extra, cwd=tmp_path, code=code, message=message)
    mistake("train", "folder", cwd=tmp_path, code=1, message="error: data: '': no such file or folder: give one")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_page_on_data_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "data.md"
    monkeypatch.chdir(tmp_path)
    photos, waves, bumps, reviews, vocabulary, ring, thinned = fences(page, "python")
    for block in (photos, waves, bumps, reviews):
        exec(block, {})
    (tmp_path / "ring.py").write_text(ring)
    told = fences(page, "text")[1].splitlines()[:2]
    done = {
        words[-1]: script(name, *words, cwd=tmp_path).stdout for name, words in commands(page) if "DIR" not in words
    }
    assert "\n".join(told) in done["photos"]
    assert "2 classes, training examples: sine" in done["waves"]
    assert "Bumps: train 180, valid 20 (cut from train), test 100" in done["bumps"]
    assert "Bumps/Bumps_TEST.tsv:100: " in done["Bumps/Bumps_TEST.tsv"]
    assert done["runs/bumps"].endswith("runs/bumps/figures/look.html\n")
    assert fences(page, "text")[2].splitlines()[2] in done["reviews"]
    exec(vocabulary, {})
    assert "test accuracy" in script("train", "ring.py", cwd=tmp_path).stdout
    capsys.readouterr()
    exec(thinned.replace("epochs=20", "epochs=1"), {})
    printed, shown = (re.sub(r"[\d. ]", "", text) for text in (capsys.readouterr().out, fences(page, "text")[-1]))
    assert sorted(printed.split()) == sorted(shown.split())
