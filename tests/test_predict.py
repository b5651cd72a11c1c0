"""Predictions for image files of any size and mode, for series, and for files that cannot be read."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, script
from PIL import Image

import cnnjax
from cnnjax import SGD, Dataset, Loss, Metric, MLPConfig, Spec, Split, SweepConfig, TrainConfig, config
from cnnjax.commands import predict
from cnnjax.commands.predict import Arguments
from cnnjax.data import DataError, arrays, ucr
from cnnjax.data.cache import read_spec
from cnnjax.data.images import Fit, Reading, image_files, looks_inverted, read_image, value_range
from cnnjax.data.series import read_series
from cnnjax.runs import CheckpointError, Trained, load_run

TRAIN = TrainConfig(MLPConfig((32,)), SGD(learning_rate=0.1), data="digits", epochs=3)


@pytest.fixture(scope="session")
def swept(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose second trial wins."""
    folder = tmp_path_factory.mktemp("runs") / "swept"
    cnnjax.sweep(SweepConfig(TRAIN, (("learning_rate", (1e-6, 0.1)),), seeds=1), digits, store=folder, lanes="1:1")
    return folder


@pytest.fixture(scope="session")
def run(swept: Path) -> Path:
    return swept / "winner"


@pytest.fixture(scope="session")
def trained(run: Path) -> Trained:
    return load_run(run)


@pytest.fixture(scope="session")
def ten(digits: Dataset, trained: Trained) -> np.ndarray:
    """Of each class the digit that the network is most sure of, [10, 8, 8, 1]."""
    sure = np.asarray(trained.probabilities(digits.test.inputs)).argmax(0)
    return np.asarray(digits.test.inputs[sure])


def gray(digit: np.ndarray) -> Image.Image:
    """A digit, 0 to 16, as a picture."""
    return Image.fromarray(np.round(digit[..., 0] / 16 * 255).astype(np.uint8))


def told(capsys: pytest.CaptureFixture[str], **arguments: Any) -> tuple[int, list[str], list[str]]:
    """Exit code and lines of standard output and standard error of `predict`."""
    try:
        predict.main(Arguments(compilation_cache=False, **arguments))
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


# ------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("resampling", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC], ids=lambda r: r.name)
@pytest.mark.parametrize("size", [8, 9, 11, 16, 28, 50, 97, 200])
def test_a_digit_of_any_size_has_its_class(
    size: int, resampling: Image.Resampling, trained: Trained, ten: np.ndarray, tmp_path: Path
) -> None:
    for number, digit in enumerate(ten):
        gray(digit).resize((size, size), resampling).save(tmp_path / f"{number}.png")
    read = np.stack([read_image(tmp_path / f"{number}.png", trained.spec) for number in range(10)])
    assert trained.logits(read).argmax(-1).tolist() == list(range(10))


def test_a_smaller_picture_has_the_mean_of_its_pixels(trained: Trained, tmp_path: Path) -> None:
    """Single pixels are not picked."""
    checkers = np.indices((97, 97)).sum(0) % 2 * 255
    read = read_image(written(Image.fromarray(checkers.astype(np.uint8)), tmp_path / "a.png"), trained.spec)
    assert set(read.ravel().tolist()) == {8}


def written(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def covered(image: Image.Image, mode: str, color: Any) -> Image.Image:
    """A picture that is seen through its alpha channel alone."""
    ink = Image.new(mode, image.size, color)
    ink.putalpha(image)
    return ink


def exif(orientation: int) -> Image.Exif:
    entries = Image.Exif()
    entries[0x0112] = orientation
    return entries


def palette(image: Image.Image, shift: int) -> Image.Image:
    """The shades in an order of their own, so that indices are no shades."""
    found = Image.fromarray(((np.asarray(image).astype(int) + shift) % 256).astype(np.uint8), "L").convert("P")
    found.putpalette([shade for index in range(256) for shade in 3 * [(index - shift) % 256]])
    return found


PICTURES: dict[str, tuple[Callable[[Image.Image, Path], Path], Reading]] = {
    "gray": (lambda i, p: written(i, p / "a.png"), Reading()),
    "colors": (lambda i, p: written(i.convert("RGB"), p / "a.png"), Reading()),
    "palette": (lambda i, p: written(palette(i, 77), p / "a.png"), Reading()),
    "transparent entry of a palette": (
        lambda i, p: written(palette(i, 77), p / "a.png", transparency=77),
        Reading(background="black"),
    ),
    "16 bits": (lambda i, p: written(Image.fromarray(np.asarray(i).astype(np.uint16) * 257), p / "a.png"), Reading()),
    "16 bits, big-endian": (
        lambda i, p: written(Image.fromarray((np.asarray(i).astype(np.uint16) * 257).astype(">u2")), p / "a.tif"),
        Reading(),
    ),
    "white ink on nothing": (
        lambda i, p: written(covered(i, "RGB", "white"), p / "a.png"),
        Reading(background="black"),
    ),
    "black ink on nothing": (lambda i, p: written(covered(i, "L", 0), p / "a.png"), Reading(invert=True)),
    "print": (lambda i, p: written(i.convert("RGB").convert("CMYK"), p / "a.tif"), Reading()),
    "JPEG": (lambda i, p: written(i, p / "a.jpg", quality=100), Reading()),
    "JPEG for print": (lambda i, p: written(i.convert("RGB").convert("CMYK"), p / "a.jpg", quality=100), Reading()),
    "turned by EXIF": (
        lambda i, p: written(i.transpose(Image.Transpose.ROTATE_90), p / "a.png", exif=exif(6)),
        Reading(),
    ),
    "animated": (
        lambda i, p: written(i, p / "a.gif", save_all=True, append_images=[i.point(lambda v: 255 - v)]),
        Reading(),
    ),
    "dark on light": (lambda i, p: written(i.point(lambda v: 255 - v), p / "a.png"), Reading(invert=True)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_digit_in_any_mode_is_itself(name: str, trained: Trained, ten: np.ndarray, tmp_path: Path) -> None:
    write, how = PICTURES[name]
    for digit in ten:
        read = read_image(write(gray(digit), tmp_path), trained.spec, how)
        assert (read.dtype, read.shape) == (digit.dtype, digit.shape)
        assert np.abs(read.astype(int) - digit).max() <= ("JPEG" in name)


def test_colors_keep_their_channels_and_gray_becomes_all(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (50, 4, 6, 3), np.uint8)
    spec = Dataset.of("colors", "a", Split(colors, np.zeros(50, np.int32))).spec
    read = read_image(written(Image.fromarray(colors[0]), tmp_path / "a.png"), spec)
    np.testing.assert_array_equal(read, colors[0])
    read = read_image(written(Image.fromarray(colors[0, ..., 0]), tmp_path / "b.png"), spec)
    np.testing.assert_array_equal(read, colors[0, ..., :1].repeat(3, -1))


def test_other_proportions_are_cropped_padded_or_stretched(trained: Trained, ten: np.ndarray, tmp_path: Path) -> None:
    digit, spec = ten[3], trained.spec
    wide = np.full((8, 16, 1), 4)
    wide[:, 4:12] = digit
    drawing = wide.copy()
    drawing[[0, -1]] = drawing[:, [0, -1]] = 4
    read: dict[tuple[str, str], np.ndarray] = {}
    for name, picture in (("wide", wide), ("drawing", drawing)):
        path = written(gray(picture), tmp_path / f"{name}.png")
        read |= {(name, fit): read_image(path, spec, Reading(fit=fit, trim=None)) for fit in get_args(Fit)}
    np.testing.assert_array_equal(read["wide", "crop"], digit)
    assert (read["drawing", "pad"][[0, 1, 6, 7]] == 4).all()
    assert (read["drawing", "pad"][2:6] != 4).any()
    assert not np.array_equal(read["wide", "stretch"], read["wide", "crop"])
    np.testing.assert_array_equal(read["drawing", "auto"], read["drawing", "pad"])
    np.testing.assert_array_equal(read["wide", "auto"], read["wide", "crop"])


@pytest.mark.parametrize("paper", [0, 40, 255])
def test_trimmed_a_drawing_is_the_same_wherever_it_lies(paper: int, trained: Trained, tmp_path: Path) -> None:
    drawn = np.full((20, 10), 255 - paper, np.uint8)
    drawn[5:15, 3:7] = paper
    read = {}
    for height, width, top, left in ((22, 14, 1, 2), (60, 90, 30, 5), (300, 200, 10, 180)):
        canvas = np.full((height, width), paper, np.uint8)
        canvas[top : top + 20, left : left + 10] = drawn
        path = written(Image.fromarray(canvas), tmp_path / "a.png")
        for margin in (0, 0.25):
            read.setdefault(margin, []).append(read_image(path, trained.spec, Reading(trim=margin)))
    shade = round(paper / 255 * 16)
    for first, *others in read.values():
        assert all(np.array_equal(first, other) for other in others)
    assert (read[0][0][:, [0, 1, 6, 7]] == shade).all()  # it is half as wide as it is high
    assert (read[0][0][[0, 7], 3:5] != shade).all()
    assert (read[0.25][0][[0, 7]] == shade).all()
    ink = np.abs(read[0.25][0][:, 3:5, 0] - float(shade)).min(1)
    assert (ink > ink.max() / 2).tolist() == [False, False, True, True, True, True, False, False]


def test_black_and_white_are_the_range_of_the_training_images(tmp_path: Path) -> None:
    def spec_of(*values: float, dtype: str) -> Spec:
        inputs = np.resize(np.array(values, dtype), (50, 4, 4, 1))
        return Dataset.of("made", "a", Split(inputs, np.zeros(50, np.int32))).spec

    path = written(Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)), tmp_path / "a.png")
    for spec, how, range_ in (
        (spec_of(0, 16, dtype="uint8"), Reading(), (0, 16)),
        (spec_of(20, 200, dtype="uint8"), Reading(), (0, 255)),
        (spec_of(-2.5, 3, dtype="float32"), Reading(), (-2.5, 3)),
        (spec_of(0, 16, dtype="float32"), Reading(range=(0, 1)), (0, 1)),
    ):
        assert tuple(float(value[0]) for value in value_range(spec, how)) == range_
        read = read_image(path, replace(spec, shape=(2, 2, 1)), how)
        assert (read.dtype, read.min(), read.max()) == (spec.dtype, *range_)


def test_a_record_without_the_range_needs_it_named(run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "data.json").read_text())
    assert (record["low"], record["high"]) == ([0.0], [16.0])
    spec = read_spec({name: value for name, value in record.items() if name not in ("low", "high")})
    with pytest.raises(ValueError, match="give --range LOW HIGH"):
        read_image(tmp_path / "a.png", spec)
    with pytest.raises(ValueError, match="low: 2, high: 1 numbers"):
        read_spec({**record, "low": [0, 0]})
    assert record["margin"] == 0
    assert read_spec({name: value for name, value in record.items() if name != "margin"}).margin is None
    with pytest.raises(ValueError, match=r"margin: 0\.5"):
        read_spec({**record, "margin": 0.5})


def test_drawings_get_the_margin_of_the_training_images(digits: Dataset, tmp_path: Path) -> None:
    """In any size, and anywhere; a photograph stays as it is, and so does a drawing with about that margin."""
    rng = np.random.default_rng(0)
    labels = np.arange(50) % 5
    framed = np.full((50, 28, 28, 3), 250, np.uint8)
    framed[:, 4:24, 7:20] = rng.integers(0, 120, (50, 20, 13, 3))
    photographs = rng.integers(0, 256, (50, 28, 28, 3), np.uint8)
    drawings, photos = (Dataset.of("d", "abcde", Split(each, labels)).spec for each in (framed, photographs))
    assert (drawings.margin, photos.margin, digits.spec.margin) == (0.143, None, 0.0)
    assert Dataset.of("d", "abcde", Split(framed[..., 0, 0], labels)).spec.margin is None
    for color, paper in (("black", "white"), ("#ffe040", "#064020")):
        for side, corner in ((300, (10, 10)), (500, (60, 250)), (90, (5, 5))):
            length = 200 if side > 100 else 80
            image = Image.new("RGB", (side, side), paper)
            image.paste(color, (*corner, corner[0] + length // 2, corner[1] + length))
            path = written(image, tmp_path / "a.png")
            read = read_image(path, drawings)
            inked = np.abs(read.astype(int) - read[0, 0]).max(-1) > 100
            assert np.flatnonzero(inked.any(1)).tolist() == list(range(4, 24))
            assert np.flatnonzero(inked.any(0)).tolist() == list(range(9, 19))
            for spec, how in ((photos, Reading()), (drawings, Reading(trim=None))):
                np.testing.assert_array_equal(read_image(path, spec, how), read_image(path, photos, Reading(trim=None)))
    for number in range(3):
        path = written(Image.fromarray(framed[number]), tmp_path / "b.png")
        np.testing.assert_array_equal(read_image(path, drawings), framed[number])


def test_inverted_digits_look_so_and_others_do_not(digits: Dataset) -> None:
    inverted = 16 - digits.test.inputs
    assert {looks_inverted(image, digits.spec) for image in digits.test.inputs} == {""}
    assert {looks_inverted(image, digits.spec) for image in inverted} == {"dark on light"}
    for edge, within in ((0, 16), (16, 0), (10, 16)):  # a bold light digit, a frame, a light picture
        picture = np.full((8, 8, 1), edge)
        picture[1:-1, 1:-1] = within
        assert looks_inverted(picture, digits.spec) == ""
    light = replace(digits.spec, mean=16 - digits.spec.mean)
    assert {looks_inverted(image, light) for image in digits.test.inputs} == {"light on dark"}
    neither = replace(digits.spec, mean=np.float32([7]))
    assert {looks_inverted(image, neither) for image in inverted} == {""}


# ------------------------------------------------------------------------- the command


def test_many_files_and_folders_as_json(
    trained: Trained,
    run: Path,
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """More than a batch: each has the probabilities of its array, in the order of names."""
    monkeypatch.chdir(tmp_path)
    some, folder = digits.test.inputs[:40], Path("mine")
    for name in ("deep/er", ".git"):
        (folder / name).mkdir(parents=True)
    for number, digit in enumerate(some):
        gray(digit).save(folder / ("deep/er" if number % 2 else "") / f"{number:02d}.png")
    for name in (".hidden.png", ".git/a.png", "notes.txt"):
        (folder / name).touch()
    gray(16 - some[0]).save("light.bmp")
    disc = np.hypot(*(np.mgrid[:80, :80] - 40)) < 20
    Image.fromarray(np.where(disc, 0, 255).astype(np.uint8)).save("disc.png")  # dark, once its margin is cut off
    code, out, err = told(capsys, run=run, files=(folder, Path("light.bmp"), Path("disc.png")), json=True, top=2)
    found = [json.loads(line) for line in out]
    names = [*(f"mine/{n:02d}.png" for n in range(0, 40, 2)), *(f"mine/deep/er/{n:02d}.png" for n in range(1, 40, 2))]
    assert [line["file"] for line in found] == [*sorted(names), "light.bmp", "disc.png"]
    likely = np.exp(np.asarray(trained.logits(some), float))
    expected = likely / likely.sum(1, keepdims=True)
    for line in found[:-2]:
        row = expected[int(Path(line["file"]).stem)]
        first, second = line["classes"]
        assert [first["class"], second["class"]] == [str(i) for i in np.argsort(-row)[:2]]
        np.testing.assert_allclose([first["probability"], second["probability"]], -np.sort(-row)[:2], rtol=1e-4)
        assert list(line) == ["file", "classes"]
    assert all("add --invert" in line["warning"] for line in found[-2:])
    noted, warned, disc_warned = err
    assert code == 0
    assert noted == "note: mine: skipped: .git, .hidden.png, notes.txt"
    assert warned.startswith("warning: light.bmp: looks dark on light, but the training images are dark on average")
    assert disc_warned.startswith("warning: disc.png: looks dark on light, but the training images are dark on average")


def test_bad_files_are_named_and_the_others_predicted(
    run: Path, ten: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "folder"):
        Path(name).mkdir()
    Path("folder", "only.txt").touch()
    Path("text.png").write_text("Not a picture.")
    Image.new("1", (10_000, 5_000)).save("large.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    noise.save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:-1000])
    noise.save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:700])
    Image.fromarray(np.ones((8, 8), np.float32)).save("float.tif")
    gray(ten[7]).save("seven.png")
    bad = {
        "nowhere.png": "No such file or directory",
        "text.png": "is not an image that Pillow can read",
        "large.png": "has more than 40 megapixels: reduce its size first",
        "cut.png": "cannot be read: ",
        "cut.jpg": "cannot be read: ",
        "float.tif": "save it with 8 or 16 bits",
        "empty": "contains no file to predict",
        "folder": "contains no file to predict",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, out, err = told(capsys, run=run, files=(*map(Path, bad), Path("seven.png")))
    assert code == 1
    assert len(out) == 2
    assert out[1].startswith("seven.png: 7 (")
    assert err.pop(0) == "note: folder: skipped: only.txt"
    for line, (name, message) in zip(err, bad.items(), strict=True):
        assert line.startswith(f"error: {name}: ")
        assert message in line
    code, out, err = told(capsys, run=run, files=(Path("nowhere.png"),), json=True)
    assert (code, json.loads(out[0])) == (1, {"file": "nowhere.png", "error": "No such file or directory"})


MISTAKES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no class": ({"top": 0}, 2, "top: 0: must be at least 1"),
    "no file": ({"files": ()}, 2, "give files or folders after the run folder"),
    "no run": ({"run": Path("nowhere")}, 2, "run: nowhere: no such run folder"),
    "no trial": ({"trial": 3}, 2, "trial: 3: must be a trial of RUN, which has only trial 0"),
    "no preset": ({"preset": Path("mine.py")}, 2, "mine.py: no such file"),
    "upside down": ({"range": (1.0, 0.0)}, 2, "range: 1 0: must be two values of uint8, in ascending order"),
    "beyond the type": ({"range": (0.0, 300.0)}, 2, "range: 0 300: must be two values of uint8, in ascending order"),
    "no number": ({"range": (0.0, np.nan)}, 2, "range: 0 nan: must be two values of uint8, in ascending order"),
    "margin": ({"trim": 0.5}, 2, "trim: 0.5: must be at least 0 and below 0.5"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, code, message = MISTAKES[name]
    found, out, [line] = told(capsys, **{"run": run, "files": (Path("a.png"),), **given})
    assert (found, out) == (code, [])
    assert line.startswith("error: ")
    assert message.replace("RUN", str(run)) in line


def test_the_script_takes_files_and_options(tmp_path: Path) -> None:
    words = ["--top", "1", "--range", "0", "16", "--fit", "pad", "--trim", "0", "--invert", "--json"]
    done = script("predict", "nowhere", "a.png", "b.png", *words, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: run: nowhere: no such run folder\n")


def test_a_run_without_checkpoints_says_so(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("config", "data", "plan"):
        (tmp_path / f"{name}.json").write_bytes((run / f"{name}.json").read_bytes())
    with pytest.raises(CheckpointError, match="train it first"):
        load_run(tmp_path)
    assert told(capsys, run=tmp_path, files=(Path("a.png"),)) == (
        1,
        [],
        [f"error: trial 0 has no checkpoint in {tmp_path / 'checkpoints' / '0'}: train it first"],
    )


def test_a_sweep_s_winner_or_a_trial(
    swept: Path, run: Path, ten: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(gray(ten[5]), tmp_path / "a.png")
    answers = {trial: told(capsys, run=swept, files=(path,), trial=trial)[1][1] for trial in (None, 0, 1)}
    assert answers[None] == answers[1] != answers[0]
    assert told(capsys, run=run, files=(path,))[1][1] == answers[1]


def test_an_image_of_one_shade_is_doubted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(covered(Image.new("L", (9, 9), 200), "L", 255), tmp_path / "a.png")
    code, _, [line] = told(capsys, run=run, files=(path,))
    assert code == 0
    assert line == (
        f"warning: {path}: all pixels are equal: if the background is transparent, try another --background"
    )


@pytest.mark.slow
def test_a_network_of_one_s_own(tmp_path: Path) -> None:
    for name, words in (("squeeze", ["--filters", "4"]), ("angle", ["--filters", "4"])):
        preset = ROOT / "tests" / "presets" / f"{name}.py"
        script("train", preset, *words, "--epochs", "1", "--name", name, cwd=tmp_path)
        gray(np.arange(64).reshape(8, 8, 1) / 4).save(tmp_path / "a.png")
        refused = script("predict", f"runs/{name}", "a.png", cwd=tmp_path, check=False)
        assert refused.returncode == 1
        assert "--preset FILE" in refused.stderr
        done = script("predict", f"runs/{name}", "a.png", "--preset", preset, "--json", cwd=tmp_path)
        found = json.loads(done.stdout)
        if name == "squeeze":
            assert {entry["class"] for entry in found["classes"]} < {"cross", "ring", "bar", "dot"}
        else:
            assert len(found["outputs"]) == 1


# ------------------------------------------------------------------------- series and regression


@config
class Squares(Loss):
    """(output - label)^2."""

    def __call__(self, logits, labels):
        return jnp.square(logits[:, 0] - labels)


@config
class Apart(Metric):
    """|output - label|."""

    higher_is_better = False

    def __call__(self, logits, labels):
        return jnp.abs(logits[:, 0] - labels)


def spec_of(*shape: int, dtype: str = "float32") -> Spec:
    inputs = np.random.default_rng(0).integers(0, 100, (60, *shape)).astype(dtype)
    return Dataset.of("made", "ab", Split(inputs, np.arange(60) % 2)).spec


def test_a_row_is_a_series_or_a_file_is_one(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    path = tmp_path / "a.csv"
    rows = [",".join(map(repr, row)) for row in numbers.tolist()]
    for header in ([], ["a,b,c,d"], ["\ufeffa,b,c,d"]):
        path.write_text("\n".join([*header, *rows, "", ""]), encoding="utf-8")
        np.testing.assert_array_equal(read_series(path, spec_of(4, 1)), numbers[..., None])
        np.testing.assert_array_equal(read_series(path, spec_of(4)), numbers)
        np.testing.assert_array_equal(read_series(path, spec_of(3, 4)), numbers[None])


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "message"),
    [
        (b"1,2,3,4\n1,2,3\n", (4, 1), "float32", "row 2: columns: 3: must be 4, one for each time step"),
        (b"a,b,c,d\n1,2,x,4\n", (4, 1), "float32", "row 2, column 3: 'x': must be a finite float32"),
        (b"1,2,,4\n", (4, 1), "float32", "row 1, column 3: '': must be a finite"),
        (b"1,2,nan,4\n", (4, 1), "float32", "row 1, column 3: 'nan': must be a finite"),
        (b"1,2,1e99,4\n", (4, 1), "float32", "row 1, column 3: '1e99': must be a finite"),
        (b"1,2,0.5,4\n", (4, 1), "uint8", "row 1, column 3: '0.5': must be a finite uint8"),
        (b"1,2,256,4\n", (4, 1), "uint8", "row 1, column 3: '256': must be a finite uint8"),
        (b"", (4, 1), "float32", "rows: 0: must be at least 1"),
        (b"1,2,3\n4,5,6\n7,8,9", (3, 2), "float32", "row 1: columns: 3: must be 2, one for each channel"),
        (b"1,2\n3,4\n", (3, 2), "float32", "rows: 2: must be 3, one for each time step"),
        (b"\x89PNG\r\n\x1a\n", (4, 1), "float32", "is not a CSV file: "),
    ],
)
def test_a_bad_series_names_row_and_column(
    text: bytes, shape: tuple[int, ...], dtype: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(DataError) as raised:
        read_series(tmp_path / "a.csv", spec_of(*shape, dtype=dtype))
    assert str(raised.value).startswith(f"{tmp_path / 'a.csv'}: {message}")


def test_files_of_the_archives_and_arrays_are_inputs(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    rows = ["\t".join(map(repr, row)) for row in numbers.tolist()]
    (tmp_path / "a.tsv").write_text("".join(f"7\t{row}\n" for row in rows))
    np.testing.assert_array_equal(ucr.read_inputs(tmp_path / "a.tsv", spec_of(4, 1)), numbers[..., None])
    np.testing.assert_array_equal(ucr.read_inputs(tmp_path / "a.tsv", spec_of(2, 1), 2), numbers[:, :2, None])
    with pytest.raises(DataError, match=r"a.tsv: series 1: \[4, 1\]: must be \[5, 1\], \[steps, channels\]"):
        ucr.read_inputs(tmp_path / "a.tsv", spec_of(5, 1))
    dimensions = ":".join(",".join(map(repr, row)) for row in numbers.tolist())
    (tmp_path / "a.ts").write_text(f"@classLabel true a b\n@data\n{dimensions}:b\n")
    np.testing.assert_array_equal(ucr.read_inputs(tmp_path / "a.ts", spec_of(4, 3)), numbers.T[None])
    for names in (["x"], ["inputs", "more"], ["mine"]):
        np.savez(tmp_path / "a.npz", **dict.fromkeys(names, numbers))  # type: ignore[arg-type]
        np.testing.assert_array_equal(arrays.read_inputs(tmp_path / "a.npz", spec_of(4)), numbers)
        np.testing.assert_array_equal(arrays.read_inputs(tmp_path / "a.npz", spec_of(4, 1)), numbers[..., None])
    with pytest.raises(DataError, match=r"a.npz: mine: float32\[3, 4\]: must be float32\[examples, 5\]"):
        arrays.read_inputs(tmp_path / "a.npz", spec_of(5))
    with pytest.raises(DataError, match=r"a.npz: mine: float32\[3, 4\]: must be uint8\[examples, 4\]"):
        arrays.read_inputs(tmp_path / "a.npz", spec_of(4, dtype="uint8"))
    np.savez(tmp_path / "a.npz", one=numbers, two=numbers)
    with pytest.raises(DataError, match=r"a.npz: arrays one, two: must be one, or inputs or x"):
        arrays.read_inputs(tmp_path / "a.npz", spec_of(4))


def test_series_are_predicted_by_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression, whose outputs are printed as they are."""
    inputs = np.random.default_rng(0).normal(size=(60, 5, 1)).astype(np.float32)
    data = Dataset.of("sums", (), Split(inputs, inputs.sum((1, 2))))
    train = TrainConfig(MLPConfig(()), SGD(learning_rate=0.01), Squares(), Apart(), data="sums", batch_size=8, epochs=1)
    fitted = cnnjax.fit(train, data, store=tmp_path / "r", lanes="1:1")
    np.savetxt(tmp_path / "a.csv", inputs[:3, :, 0], delimiter=",", fmt="%.9g")
    mine = tmp_path / "mine.py"
    mine.write_text("from test_predict import TRAIN as train, Apart, Squares")
    code, out, err = told(capsys, run=tmp_path / "r", files=(tmp_path / "a.csv",), preset=mine)
    assert (code, err) == (0, [])
    for row, (line, wanted) in enumerate(zip(out[1:], np.asarray(fitted.logits(inputs[:3])), strict=True), 1):
        name, _, value = line.rpartition(": ")
        assert name == f"{tmp_path / 'a.csv'}:{row}"
        assert float(value) == pytest.approx(float(wanted[0]), rel=1e-4)
    np.savez(tmp_path / "b.npz", x=inputs[:3])
    np.savetxt(tmp_path / "c.tsv", np.c_[[1, 2, 3], inputs[:3, :, 0]], delimiter="\t", fmt="%.9g")
    for name in ("b.npz", "c.tsv"):
        _, again, _ = told(capsys, run=tmp_path / "r", files=(tmp_path / name,), preset=mine)
        assert again[1:] == [line.replace("a.csv", name) for line in out[1:]]
    with pytest.raises(ValueError, match="the labels are not classes"):
        fitted.probabilities(inputs[:3])
    code, _, err = told(capsys, run=tmp_path / "r", files=(tmp_path / "a.csv",), preset=mine, invert=True)
    assert (code, err) == (2, ["error: invert: applies to images only, and the inputs of this run are series"])


def test_extensions_of_images_are_those_that_pillow_reads(tmp_path: Path) -> None:
    for name in ("a.PNG", "b.jpeg", "c.webp", "d.csv", "e.py", "f"):
        (tmp_path / name).touch()
    found, rest = image_files(tmp_path)
    assert [path.name for path in found] == ["a.PNG", "b.jpeg", "c.webp"]
    assert [path.name for path in rest] == ["d.csv", "e.py", "f"]
