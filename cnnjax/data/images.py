"""Reads image files as network inputs, with the shape, dtype and range of values of a data set."""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8

from cnnjax.data.dataset import DataError, Spec
from cnnjax.options import reason

Fit = Literal["auto", "crop", "pad", "stretch"]
Background = Literal["white", "black"]

LARGEST = 40_000_000
"""The largest number of pixels that `read_image` accepts; a decoded pixel takes up to four bytes."""
MODES: Mapping[int, str] = MappingProxyType({1: "L", 3: "RGB"})
"""Pillow's mode for each number of channels: gray (ITU-R 601 luma) and RGB."""


@dataclass(frozen=True)
class Reading:
    """How an image is converted to an input.

    `fit` applies to images with other proportions than the inputs. `crop` cuts both ends of the longer side; `pad`
    extends the shorter side with the median color of the border; `stretch` changes the proportions. `auto` pads an
    image whose border has a single color, such as a drawing, and crops any other, such as a photograph.
    """

    fit: Fit = "auto"
    trim: float | None = None
    """Crops an image whose border has a single color to its content, with this margin as a share of the side."""
    background: Background = "white"
    """The color behind transparent pixels."""
    invert: bool = False
    """Whether to swap dark and light."""
    range: tuple[float, float] | None = None
    """The input values of black and white; `value_range` gives the default."""

    def check(self, spec: Spec) -> None:
        """Raises a ValueError if images cannot be converted to inputs of this specification."""
        if len(spec.shape) != 3 or spec.shape[-1] not in MODES:
            raise ValueError(
                f"inputs are {list(spec.shape)}: images need [height, width, channels] with 1 (gray) or 3 (RGB)"
            )
        if self.trim is not None and not 0 <= self.trim < 0.5:
            raise ValueError(f"trim: {self.trim}: must be at least 0 and below 0.5")
        if self.range is None and not spec.low:
            raise ValueError("range: the run does not record the range of its inputs: give --range LOW HIGH")
        least, most = _limits(spec)
        low, high = self.range or (least, most)
        if not least <= low < high <= most:
            raise ValueError(f"range: {low:g} {high:g}: must be two values of {spec.dtype}, in ascending order")


def _limits(spec: Spec) -> tuple[float, float]:
    """Returns the smallest and the largest value of the dtype."""
    kind = np.dtype(spec.dtype)
    if kind.kind == "b":
        return 0, 1
    limits: Any = (np.finfo if kind.kind == "f" else np.iinfo)(kind)
    return float(limits.min), float(limits.max)


DEFAULT = Reading()


def read_image(path: Path, spec: Spec, how: Reading = DEFAULT) -> Num[np.ndarray, "height width channels"]:
    """Reads an image file as one input.

    The EXIF orientation is applied, and the first frame of an animation is used.

    Args:
      path: a file in any format that Pillow reads; 16-bit gray is reduced to 8 bits.
      spec: the specification of the data set.
      how: the conversion to its size, channels and range.

    Raises:
      DataError: if the file is missing, damaged, not an image, or has more than `LARGEST` pixels.
      ValueError: as in `Reading.check`.
    """
    how.check(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid metadata, and of the size, which is checked below
        pixels = read_pixels(path, spec.shape, how)
    low, high = value_range(spec, how)
    found = low + (255 - pixels if how.invert else pixels) / np.float32(255) * (high - low)
    return (found if np.dtype(spec.dtype).kind == "f" else np.round(found)).astype(spec.dtype)


def read_pixels(
    path: Path, shape: tuple[int, ...], how: Reading = DEFAULT
) -> UInt8[np.ndarray, "height width channels"]:
    """Reads the pixels of an image file in a shape; Pillow may warn. Arguments and DataError as in `read_image`."""
    with _opened(path) as image:
        return _fitted(_upright(image, MODES[shape[-1]], how.background), shape, how)


def fit_pixels(
    pixels: UInt8[np.ndarray, "rows columns channels"], shape: tuple[int, ...], how: Reading = DEFAULT
) -> UInt8[np.ndarray, "height width channels"]:
    """Returns decoded pixels, gray or RGB, in the size of a shape."""
    from PIL import Image

    return _fitted(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), shape, how)


class Header(NamedTuple):
    """The upright size of an image, and whether its mode is gray."""

    height: int
    width: int
    gray: bool


def read_header(path: Path) -> Header:
    """Reads the header of an image file; Pillow may warn. DataError as in `read_image`."""
    with _opened(path) as image:
        height, width = image.height, image.width
        # To look for the orientation, Pillow would decode a PNG file that does not start with it.
        if (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112, 1) > 4:
            height, width = width, height
        return Header(height, width, image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an image file; any error in the block becomes a DataError that names the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > LARGEST:
                raise Image.DecompressionBombError
            yield image
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more than {LARGEST // 10**6} megapixels: reduce its size first") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not an image that Pillow can read") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or f'cannot be read: {reason(error)}'}") from None
    except Exception as error:  # decoders raise many types for damaged files
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None


def value_range(spec: Spec, how: Reading = DEFAULT) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of black and white in each channel, by default the range of the training examples.

    Unsigned integers with a value in the upper half of their dtype have its full range, as 0 to 255 for uint8.
    """
    if how.range is not None:
        low, high = (np.full(spec.shape[-1], value, np.float32) for value in how.range)
        return low, high
    low, high = np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32)
    if np.dtype(spec.dtype).kind == "u" and high.max() > (most := _limits(spec)[1]) / 2:
        return np.zeros_like(low), np.full_like(high, most)
    return low, high


def _upright(image: Any, mode: str, background: Background) -> Any:
    """Returns an upright, opaque image in one of `MODES`."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip
        numbers = np.asarray(image)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError("its integers do not fit 16 bits")
        image = Image.fromarray(np.round(numbers / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point images have no defined range: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB").convert(mode)  # through RGB, because not every mode converts to gray


def _fitted(image: Any, shape: tuple[int, ...], how: Reading) -> UInt8[np.ndarray, "height width channels"]:
    """Returns the pixels of an image in the size of the inputs."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    border = _border(np.asarray(image).reshape(image.height, image.width, channels))
    paper = np.median(border, 0).astype(np.uint8)
    plain = bool(np.mean(np.abs(border - paper.astype(float)).max(1) < 26) > 0.9)
    filling = tuple(paper.tolist()) if channels > 1 else int(paper[0])
    if plain and how.trim is not None:
        image = image.crop(_drawn(image, filling))
        margin = round(max(image.size) * how.trim / (1 - 2 * how.trim))
        image = ImageOps.expand(image, margin, filling)
    # HAMMING is between BOX, which is exact for integer ratios only, and the smoother BILINEAR.
    shrinks = image.width * image.height > width * height
    resampling = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    fit = how.fit if how.fit != "auto" else "pad" if plain else "crop"
    if fit == "pad":
        image = ImageOps.pad(image, (width, height), resampling, color=filling)
    elif fit == "crop":
        image = ImageOps.fit(image, (width, height), resampling)
    else:
        image = image.resize((width, height), resampling)
    return np.asarray(image).reshape(shape)


def _border(image: np.ndarray) -> np.ndarray:
    """Returns the outermost pixels, [pixels, channels]."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _drawn(image: Any, paper: Any) -> Any:
    """Returns the bounding box of pixels that differ from the paper by at least a quarter of the largest difference."""
    from PIL import Image, ImageChops

    differences = ImageChops.difference(image, Image.new(image.mode, image.size, paper))
    ink: Any = reduce(ImageChops.lighter, differences.split())
    least = ink.getextrema()[1] / 4
    return ink.point(lambda value: 255 * (value >= least)).getbbox()


def looks_inverted(
    image: Num[np.ndarray, "height width channels"], spec: Spec, how: Reading = DEFAULT
) -> Literal["", "dark on light", "light on dark"]:
    """Describes an input in which dark and light seem to be swapped; empty for any other.

    If the training examples are dark on average, it is an input that is light on average and lighter still at its
    border; if they are light, the reverse. If they are neither, as photographs, the result is always empty.
    """
    low, high = value_range(spec, how)
    scale = np.where(high > low, high - low, 1)
    usual = float(np.mean((spec.mean - low) / scale))
    if abs(usual - 0.5) < 0.1:
        return ""
    shades = ((image - low) / scale).mean(-1, keepdims=True)
    shades = shades if usual < 0.5 else 1 - shades
    border, mean = float(np.median(_border(shades))), float(shades.mean())
    if not 0.5 < mean < border:
        return ""
    return "dark on light" if usual < 0.5 else "light on dark"


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the image files in a folder and its subfolders, by extension, and the entries that are skipped."""
    from PIL import Image

    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return files_below(folder, known)


def files_below(folder: Path, suffixes: set[str]) -> tuple[list[Path], list[Path]]:
    """Returns the files with one of the suffixes, recursively, and what is skipped: hidden, linked and other."""
    found, rest = list[Path](), list[Path]()
    for place, folders, files in os.walk(folder):
        passed = [name for name in folders if name.startswith(".") or Path(place, name).is_symlink()]
        folders[:] = sorted(set(folders) - set(passed))
        rest += [Path(place, name) for name in passed]
        for name in files:
            usable = not name.startswith(".") and Path(name).suffix.lower() in suffixes
            (found if usable else rest).append(Path(place, name))
    return sorted(found), sorted(rest)


def named(folder: Path, rest: Sequence[Path], most: int = 5) -> str:
    """Lists the first few paths, relative to the folder."""
    names = [str(path.relative_to(folder)) for path in rest]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
