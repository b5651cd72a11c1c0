"""A sheet of cells on one axis, for many small images and curves; an axis for each would take seconds to lay out."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num
from matplotlib.patches import Rectangle

from cnnjax.pictures.drawing import STYLES, Picture, headline, paper

BLANK = 0.88  # gray of cells outside of an input
SIGNED = "RdBu_r"  # blue is negative, red is positive
COLORS = ("blue", "orange", "green", "red", "light blue", "pink", "black", "gray")
"""The names of the colors of `STYLES`."""
_CURVES = len(COLORS)
_NARROWEST = 5.0  # width of a figure in inches


class Place(NamedTuple):
    """A row of a sheet, a column, and how many columns are covered."""

    row: float
    column: float
    span: int = 1


class Sheet:
    """An axis in inches that is divided into cells; rows are counted from the top.

    Args:
      rows, columns: the number of cells.
      width, height: the size of a cell, including the gap.
      gap: the distance between cells.
    """

    def __init__(self, rows: float, columns: float, width: float = 0.62, height: float = 0.62, gap: float = 0.06):
        self.width, self.height, self.gap = width, height, gap
        self.figure: Picture
        self.figure, [[self.axis]] = paper(1, 1, width * columns + 0.2, height * rows + 0.2)
        self.axis.set(xlim=(0, width * columns), ylim=(height * rows + 0.05, 0))
        self.axis.set_aspect("equal", anchor="NW")
        self.axis.set_axis_off()

    def box(self, place: Place) -> tuple[float, float, float, float]:
        """Returns the left and upper edge, the width and the height of cells without the gap, in inches."""
        left, top = place.column * self.width + self.gap / 2, place.row * self.height + self.gap / 2
        return left, top, place.span * self.width - self.gap, self.height - self.gap

    def image(self, place: Place, values: Num[np.ndarray, "height width *rgb"], **options: Any) -> None:
        """Draws an image in cells, with square pixels; a pixel that is NaN is gray."""
        _, _, width, height = self.box(place)
        scale = min(width / values.shape[1], height / values.shape[0])
        share = values.shape[1] * scale / width, values.shape[0] * scale / height
        self.stretched(place, values, share, **options)

    def stretched(
        self, place: Place, values: Num[np.ndarray, "..."], share: tuple[float, float] = (1.0, 1.0), **options: Any
    ) -> None:
        """Draws an image that fills a share of the width and of the height of cells, in their middle."""
        left, top, width, height = self.box(place)
        x, y = left + width * (1 - share[0]) / 2, top + height * (1 - share[1]) / 2
        if values.ndim == 3:
            values = np.where(np.isnan(values), BLANK, values)
        extent = (x, x + share[0] * width, y + share[1] * height, y)
        drawn = self.axis.imshow(values, extent=extent, **({"interpolation": "nearest"} | options))
        drawn.set_cmap(drawn.get_cmap().with_extremes(bad=(BLANK,) * 3))

    def curves(
        self,
        place: Place,
        values: Float[np.ndarray, "steps channels"],
        limits: tuple[float, float],
        **options: Any,
    ) -> None:
        """Draws a curve for each channel in cells, at most eight; `limits` are the values at their edges."""
        low, high = limits if limits[1] > limits[0] else (limits[0] - 0.5, limits[0] + 0.5)
        left, top, width, height = self.box(place)
        across = left + width * (np.arange(len(values)) + 0.5) / len(values)
        self.frame(place)
        for channel, curve in enumerate(np.asarray(values, float).T[:_CURVES]):
            shares = np.clip((curve - low) / (high - low), -0.05, 1.05)
            style = {"color": STYLES[channel][0], "linewidth": 0.9, "marker": "." if len(values) < 30 else ""}
            self.axis.plot(across, top + height * (0.95 - 0.9 * shares), markersize=2, **(style | options))

    def example(self, place: Place, value: Num[np.ndarray, "*shape"], limits: Any) -> None:
        """Draws an input: an image if it has at least two spatial dimensions, otherwise curves.

        Args:
          place: where.
          value: the input.
          limits: the values of black and white, or at the edges; each a number, or one for each channel.
        """
        if value.ndim > 2:
            self.image(place, as_image(value, limits), cmap="gray", vmin=0, vmax=1)
        else:
            self.curves(place, as_curves(value, limits), (0, 1))

    def marked(self, place: Place, start: float, stop: float, color: str = "#FFE9B8") -> None:
        """Shades a part of the width of cells, from and to a share of it; call it before drawing a curve."""
        left, top, width, height = self.box(place)
        self.axis.add_patch(Rectangle((left + start * width, top), (stop - start) * width, height, color=color, lw=0))

    def frame(self, place: Place, color: str = "#C8C8C8", linewidth: float = 0.6) -> None:
        """Draws the edge of cells."""
        left, top, *size = self.box(place)
        self.axis.add_patch(Rectangle((left, top), *size, fill=False, edgecolor=color, linewidth=linewidth))

    def left(self, row: float, text: str, size: float = 7.5) -> None:
        """Writes text to the left of a row."""
        self.axis.text(-0.08, (row + 0.5) * self.height, text, ha="right", va="center", fontsize=size)

    def above(self, place: Place, text: str, size: float = 7.5, **options: Any) -> None:
        """Writes text above cells."""
        left, top, width, _ = self.box(place)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "linespacing": 1.1, "fontsize": size}
        self.axis.text(left + width / 2, top - 0.02, text, **(style | options))

    def finish(self, title: str, *sentences: str) -> Picture:
        """Makes room for the text on the left, adds a title and sentences, and returns the figure."""
        ends = [text.get_window_extent().x1 for text in self.axis.texts if text.get_ha() == "right"]
        starts = [text.get_window_extent().x0 for text in self.axis.texts if text.get_ha() == "right"]
        if starts:
            self.figure.set_figwidth(self.figure.get_figwidth() + (max(ends) - min(starts)) / self.figure.dpi + 0.1)
        self.figure.set_figwidth(max(self.figure.get_figwidth(), _NARROWEST))
        headline(self.figure, title, *sentences)
        return self.figure


def as_image(value: Num[np.ndarray, "*spatial channels"], limits: Any) -> Float[np.ndarray, "height width *rgb"]:
    """Scales an input to an image with values from 0 to 1: gray, or RGB for three channels.

    Args:
      value: an input with at least two spatial dimensions; of three, the middle slice is returned. Other numbers
        of channels than 1 and 3 are averaged.
      limits: the values of black and white, each a number, or one for each channel.
    """
    low, high = (np.asarray(limit, float) for limit in limits)
    scaled = np.clip((np.asarray(value, float) - low) / np.where(high > low, high - low, 1), 0, 1)
    while scaled.ndim > 3:
        scaled = scaled[len(scaled) // 2]
    return scaled if scaled.shape[-1] == 3 else scaled.mean(-1)


def as_curves(value: Num[np.ndarray, "steps *channels"], limits: Any) -> Float[np.ndarray, "steps channels"]:
    """Scales a series so that its limits are 0 and 1; each is a number, or one for each channel.

    >>> as_curves(np.array([[0, 10], [5, 20]]), ([0, 0], [10, 20])).tolist()
    [[0.0, 0.5], [0.5, 1.0]]
    """
    low, high = (np.asarray(limit, float) for limit in limits)
    steps = np.asarray(value, float).reshape(len(value), -1)
    return (steps - low) / np.where(high > low, high - low, 1)


def as_map(values: Float[np.ndarray, "*spatial"]) -> Float[np.ndarray, "height width"]:
    """Returns a map as an image: a row for one spatial dimension, the middle slice of three."""
    values = np.asarray(values, float)
    while values.ndim > 2:
        values = values[len(values) // 2]
    return values if values.ndim == 2 else values.reshape(1, -1)


def note(shape: Sequence[int]) -> str:
    """Returns a sentence on how inputs of a shape are drawn; empty if they are gray or RGB images, or one curve."""
    *spatial, channels = shape
    if len(spatial) < 2:
        if not spatial or channels == 1:
            return ""
        shown = ", ".join(f"{number} {color}" for number, color in enumerate(COLORS[:channels], 1))
        first = f" (the first {_CURVES} of {channels})" if channels > _CURVES else ""
        return f"Channels{first}: {shown}; each has its own scale."
    parts = ["the middle slice"] if len(spatial) > 2 else []
    parts += [f"the mean over {channels} channels"] if channels not in (1, 3) else []
    return f"Inputs are drawn as {' and '.join(parts)}." if parts else ""


def gallery(
    inputs: Sequence[Num[np.ndarray, "*shape"]],
    names: Sequence[str],
    limits: Any,
    most: int,
    cell: tuple[float, float],
    space: float,
    size: float,
) -> Sheet:
    """Draws inputs in rows on a new sheet, each below its name.

    Args:
      inputs: the inputs.
      names: the lines above each.
      limits: the values of black and white.
      most: the largest number of inputs in a row.
      cell: the width and the height of a cell in inches.
      space: the height of the names, in cells.
      size: the font size of the names, in points.
    """
    columns = min(most, len(inputs))
    pitch = 1 + space
    sheet = Sheet(pitch * math.ceil(len(inputs) / columns), columns, *cell)
    for number, (value, name) in enumerate(zip(inputs, names, strict=True)):
        row, column = divmod(number, columns)
        place = Place(pitch * row + space, column)
        sheet.example(place, value, limits)
        sheet.above(place, name, size=size)
    return sheet
