"""The page that explains convolution with an image: its numbers, its pictures, and what it refuses."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from conftest import ROOT, mistake, script
from jax import lax
from PIL import Image
from scipy.signal import correlate2d

import cnnjax
from cnnjax import CNNConfig, Dataset, MLPConfig, TrainConfig
from cnnjax.reports import write


@pytest.fixture(scope="module")
def sections() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "experiments")
        import explain_sections
    return explain_sections


@pytest.fixture(scope="module")
def subject(sections: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An image of noise, which has no symmetry that could hide a mistake."""
    path = tmp_path_factory.mktemp("image") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)).save(path)
    return sections.read(path)


def test_an_entry_of_the_map_is_the_sum_of_the_products(sections: ModuleType, subject: Any) -> None:
    slide = sections.Sliding(subject.shades, sections.PREWITT, sections.mapped(subject.shades, sections.PREWITT))
    assert slide.map.shape == (10, 10)
    for place in np.ndindex(*slide.map.shape):
        assert slide.at(*place)[1].sum() == slide.map[place]
    np.testing.assert_array_equal(slide.map, correlate2d(subject.shades, sections.PREWITT, "valid"))
    known = slide.so_far(3, 4)
    assert np.isfinite(known).sum() == 35
    assert known[3, 4] == slide.map[3, 4]
    frames = sections.figures.frames(slide)
    assert (next(frames) != next(frames)).any()


def test_the_numbers_of_the_layers_are_those_of_their_arrays(sections: ModuleType) -> None:
    layer, output = sections.convolution()
    assert output == (28, 28, 6)
    assert sections.count(layer) == 5 * 5 * 3 * 6 + 6 == 456
    assert sections.count(sections.convolution(3)[0]) == 5 * 5 * 6 + 6
    full, local, shared = sections.layer_costs()
    assert (full.parameters, full.multiplications) == (14_455_392, 3072 * 4704)
    assert (shared.parameters, shared.multiplications) == (456, 28 * 28 * 6 * 75)
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 3, 32, 32), (6, 75, 28, 28))]
    found = jax.eval_shape(lambda x, w: lax.conv_general_dilated_local(x, w, (1, 1), "VALID", (5, 5)), *shapes)
    assert found.shape == (1, 6, 28, 28)
    assert local.multiplications == shapes[1].size
    assert local.parameters == shapes[1].size + 28 * 28 * 6


def test_the_formula_gives_the_size_of_each_map(sections: ModuleType, subject: Any) -> None:
    cases = list(sections.cases(subject.shades))
    assert [len(case.map) for case in cases] == [10, 12, 14, 5, 6, 8]
    for case in cases:
        inner, stride, last, size = re.fullmatch(
            r"floor\(\((.*)\) / (\d)\) \+ (\d) = (\d+)", case.formula(12, 3)
        ).groups()  # type: ignore[union-attr]
        plus, minus = inner.split("\N{MINUS SIGN}")
        total = sum(map(int, plus.split("+"))) - int(minus)
        assert total // int(stride) + int(last) == int(size) == len(case.map)


def test_a_shift_of_the_image_shifts_the_map(sections: ModuleType, subject: Any) -> None:
    chapter = sections.equivariance(subject)
    [line] = chapter.lines
    assert re.match(r"shift by 2 rows and 3 columns: the map shifts equally, largest difference ", line)
    assert float(line.split()[-1]) < 1e-6
    before, after = (sections.edges(image) for image in (subject.image, sections.shifted(subject.image, 2, 3)))
    np.testing.assert_allclose(after[2:, 3:], before[:-2, :-3], atol=1e-6)
    assert abs(after - before).max() > 0.01


def test_six_filters_give_six_maps(sections: ModuleType, subject: Any) -> None:
    kernel = np.stack([*sections.bank().values()], -1)
    maps = sections.convolved(subject.image, kernel)
    assert maps.shape == (28, 28, 6)
    for i in range(6):
        expected = sum(correlate2d(subject.image[..., c], kernel[:, :, c, i], "valid") for c in range(3))
        np.testing.assert_allclose(maps[..., i], expected, rtol=1e-4, atol=1e-3)
    assert all(abs(kernel[..., i].sum()) == (75 if i == 5 else 0) for i in range(6))


def test_the_edge_share_is_one_for_a_ramp_and_two_weights_for_noise(sections: ModuleType) -> None:
    noise = np.random.default_rng(0).normal(size=(3, 3, 1, 4000))
    known = np.stack([sections.PREWITT, sections.SOBEL, np.ones((3, 3))], -1)[:, :, None]
    np.testing.assert_allclose(sections.edge_share(known), [1, 8 / 9, 0], atol=1e-6)
    np.testing.assert_allclose(sections.edge_share(noise).mean(), 2 / 9, atol=0.01)
    assert sections.edge_share(np.ones((1, 1, 3, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "CMYK", "I;16", "one color"])
def test_an_image_of_any_mode_has_three_sizes(sections: ModuleType, mode: str, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").resize((40, 90))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "one color":
        image = Image.new("RGB", (1, 1), "teal")
    else:
        image = image.convert("RGB").convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    found = sections.read(path)
    assert [part.shape for part in found] == [(96, 96, 3), (32, 32, 3), (12, 12)]
    low, high = found.shades.min(), found.shades.max()
    assert (low, high) == (0, 9) if mode != "one color" else low == high
    assert np.isfinite(sections.standardized(found.photo)).all()


class Tags(HTMLParser):
    """The images of a page, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_section_of_the_page_has_its_numbers_and_describes_its_pictures(
    sections: ModuleType, subject: Any, tmp_path: Path
) -> None:
    chapters = [sections.parameters(), sections.equivariance(subject), sections.geometry(subject)]
    page = Tags(write(tmp_path / "page.html", "Title", "", [each.section for each in chapters]).read_text())
    for number in ("456", "14,455,392", "357,504", "352,800"):
        assert number in page.text
    assert "14,455,392 parameters" in page.images[0]["alt"]
    assert "floor((12 + 1 \N{MINUS SIGN} 3) / 2) + 1 = 6" in page.images[2]["alt"]
    assert all(image["src"].startswith("data:image/png") for image in page.images)


@pytest.mark.slow
def test_what_cannot_be_explained_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (8000, 6300)).save(tmp_path / "large.png")
    Image.new("L", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "explain-good").mkdir()
    (tmp_path / "explain-good" / "notes.txt").touch()
    for arguments, code, message in (
        (["text.png"], 1, "text.png: is not an image that Pillow can read"),
        (["large.png"], 1, "large.png: has more than 40 megapixels: reduce its size first"),
        (["none.png"], 1, "none.png: No such file or directory"),
        (["good.png"], 2, "out: explain-good: exists: choose another folder with --out, or remove it first"),
        (["good.png", "--out", "o", "--run", "nowhere"], 2, "run: nowhere: is not a run folder"),
        (["good.png", "--out", "o", "--trial", "1"], 2, "trial: 1: needs --run RUN"),
    ):
        mistake("explain", *arguments, cwd=tmp_path, code=code, message=message)
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_command_writes_a_page_and_its_pictures(tmp_path: Path) -> None:
    done = script("explain", cwd=tmp_path)
    *lines, file = done.stdout.splitlines()
    assert file == "explain-flower/index.html"
    shown = re.findall(r"^```text\n(.*?)^```", (ROOT / "docs" / "look.md").read_text(), re.DOTALL | re.MULTILINE)[-1]
    assert [line for line in lines if "shift" not in line] == [s for s in shown.splitlines()[:-1] if "shift" not in s]
    assert float(lines[1].split()[-1]) < 1e-6
    path = tmp_path / file
    assert path.stat().st_size < 3_000_000
    page = Tags(path.read_text())
    assert len(page.images) == 14
    assert len({image["alt"] for image in page.images}) == 14
    assert min(len(image["alt"]) for image in page.images) > 60
    pictures = sorted(each for each in path.parent.iterdir() if each != path)
    assert len(pictures) == 14
    for picture in pictures:
        with Image.open(picture) as image:
            assert getattr(image, "n_frames", 1) == (100 if picture.suffix == ".gif" else 1)
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    message = "out: explain-flower: exists: choose another folder with --out, or remove it first"
    mistake("explain", cwd=tmp_path, code=2, message=message)


@pytest.mark.slow
def test_the_learned_filters_are_those_of_a_run(small: Dataset, tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "image.png")
    for name, network in (("own", CNNConfig(filters=(4,), kernel=5)), ("flat", MLPConfig(hidden=(4,)))):
        cnnjax.fit(TrainConfig(network, epochs=1, data="digits"), small, store=tmp_path / name, lanes="1:1")
    script("explain", "image.png", "--run", "own", "--out", "page", cwd=tmp_path)
    text = Tags((tmp_path / "page" / "index.html").read_text()).text
    assert "those of own, which was trained on" in text
    assert "these 4 learned filters" in text
    message = "run: flat: its network has no convolution: choose another run"
    mistake("explain", "image.png", "--run", "flat", "--out", "other", cwd=tmp_path, code=2, message=message)


@pytest.mark.slow
def test_a_network_of_one_s_own_has_filters_too(tmp_path: Path) -> None:
    preset = ROOT / "tests" / "presets" / "squeeze.py"
    script("train", preset, "--epochs", "1", "--name", "own", cwd=tmp_path)
    Image.linear_gradient("L").save(tmp_path / "image.png")
    script("explain", "image.png", "--run", "runs/own", "--preset", preset, cwd=tmp_path)
    assert "those of own" in Tags((tmp_path / "explain-image" / "index.html").read_text()).text
