"""Reads image files as network inputs, with the shape, dtype and range of values of a data set."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

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
    trim: Literal["auto"] | float | None = "auto"
    """Crops an image whose border has a single color to its content, with this margin as a share of the side. `auto`
    uses the margin of the training images if they are drawings, unless the image has about that margin."""
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
        if not (self.trim is None or self.trim == "auto" or 0 <= self.trim < 0.5):
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
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid metadata, and of the size, which is checked below
            with Image.open(path) as image:
                if image.width * image.height > LARGEST:
                    raise Image.DecompressionBombError
                pixels = _fitted(_upright(image, MODES[spec.shape[-1]], how.background), spec, how)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: has more than {LARGEST // 10**6} megapixels: reduce its size first") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not an image that Pillow can read") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or f'cannot be read: {reason(error)}'}") from None
    except Exception as error:  # decoders raise many types for damaged files
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    low, high = value_range(spec, how)
    found = low + (255 - pixels if how.invert else pixels) / np.float32(255) * (high - low)
    return (found if np.dtype(spec.dtype).kind == "f" else np.round(found)).astype(spec.dtype)


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


def _fitted(image: Any, spec: Spec, how: Reading) -> UInt8[np.ndarray, "height width channels"]:
    """Returns the pixels of an image in the size of the inputs."""
    from PIL import Image, ImageOps

    height, width, channels = spec.shape
    border = _border(np.asarray(image).reshape(image.height, image.width, channels))
    paper = np.median(border, 0).astype(np.uint8)
    plain = bool(np.mean(np.abs(border - paper.astype(float)).max(1) < 26) > 0.9)
    filling = tuple(paper.tolist()) if channels > 1 else int(paper[0])
    if plain:
        image = _trimmed(image, filling, spec, how)
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
    return np.asarray(image).reshape(spec.shape)


def _trimmed(image: Any, filling: Any, spec: Spec, how: Reading) -> Any:
    """Returns a drawing with the margin that `how.trim` asks for."""
    from PIL import ImageOps

    trim = spec.margin if how.trim == "auto" else how.trim
    if trim is None:
        return image
    drawn = image.crop(box := _drawn(image, filling))
    if how.trim == "auto" and _like_training(box, image.size, trim, max(spec.shape[:2])):
        return image
    return ImageOps.expand(drawn, round(max(drawn.size) * trim / (1 - 2 * trim)), filling)


def _like_training(box: Sequence[int], size: Sequence[int], margin: float, side: int) -> bool:
    """Returns whether content is as large as in training images, and about in the middle, along its longer side.

    Training images are often centered by mass, so half a margin of displacement is usual.
    """
    ends = max(((box[i] / size[i], 1 - box[i + 2] / size[i]) for i in (0, 1)), key=lambda ends: -sum(ends))
    return abs(sum(ends) / 2 - margin) * side < 1 and abs(ends[0] - ends[1]) / 2 * side < 1 + margin * side / 2


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
    """Returns the files with one of the suffixes, recursively, and the skipped entries: hidden and other files."""
    found, rest = list[Path](), list[Path]()
    for place, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        rest += [Path(place, name) for name in hidden]
        for name in files:
            usable = not name.startswith(".") and Path(name).suffix.lower() in suffixes
            (found if usable else rest).append(Path(place, name))
    return sorted(found), sorted(rest)
