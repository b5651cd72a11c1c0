"""The figures of `explain.py`: arrays in, Matplotlib figures out.

All figures are drawn on a board, whose coordinates are inches from its upper left corner.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from cnnjax.pictures.drawing import DPI, STYLES, Picture

Gray = Float[np.ndarray, "height width"]
Colors = Float[np.ndarray, "height width 3"]

WIDTH = 8.0
ROUNDING = 1e-5
"""Differences below this are not shown."""
BLUE, ORANGE, GREEN, RED = (STYLES[number][0] for number in (0, 1, 2, 3))
_INK, _FRAME = "#222222", "#888888"
_SIGNED = colormaps["RdBu_r"]


def board(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Creates an empty figure, and its axes with coordinates in inches from the upper left corner."""
    figure = Picture((width, height), dpi=DPI, facecolor="white")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axis.set_axis_off()
    return figure, axis


def gray(values: Gray, most: float = 1.0) -> Colors:
    """Returns the colors of gray levels from 0 (black) to `most` (white)."""
    return np.repeat(np.clip(values / most, 0, 1)[..., None], 3, -1)


def signed(values: Gray, limit: float | None = None) -> Colors:
    """Returns colors from blue (-limit) over white (0) to red; the default limit is the largest magnitude."""
    limit = max(float(np.abs(values).max()) if limit is None else limit, ROUNDING)
    colors = _SIGNED(0.5 + 0.42 * values / limit)[..., :3]  # the ends of the color map are nearly black
    return np.minimum(colors / _SIGNED(0.5)[:3], 1)  # and its middle is not quite white


def tinted(values: Gray, channel: int) -> Colors:
    """Returns the colors of a channel alone, as red, green or blue from black."""
    return values[..., None] * np.eye(3)[channel]


def put(axis: Axes, colors: Colors, x: float, y: float, cell: float, title: str = "", layer: int = 0) -> None:
    """Draws an image with cells of a size at a position, a frame around it, and a title above it."""
    height, width = np.multiply(colors.shape[:2], cell)
    edges = (x, x + width, y + height, y)
    smooth = "nearest" if cell > 0.05 else "auto"
    axis.imshow(np.clip(colors, 0, 1), extent=edges, aspect="auto", interpolation=smooth, zorder=layer)
    axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=_FRAME, linewidth=0.6, zorder=layer))
    if title:
        say(axis, x + width / 2, y - 0.06, title, va="bottom")


def say(axis: Axes, x: float, y: float, text: str, **options: Any) -> None:
    """Writes text, by default centered, in 8 points."""
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": _INK}
    axis.text(x, y, text, **style | options)


def number(value: float, digits: int = 0) -> str:
    """Formats a number with a minus sign; a rounded zero has none."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def fill(axis: Axes, values: Gray, colors: Colors, x: float, y: float, cell: float, digits: int = 0) -> None:
    """Writes a number into each cell of an image drawn by `put`; NaN stays empty."""
    texts = {place: number(value, digits) for place, value in np.ndenumerate(values) if np.isfinite(value)}
    size = min(11.0, 72 * cell * min(0.5, 1.25 / max(map(len, texts.values()))))
    for (row, column), text in texts.items():
        ink = "white" if colors[row, column] @ (0.3, 0.6, 0.1) < 0.5 else "black"
        say(axis, x + (column + 0.5) * cell, y + (row + 0.52) * cell, text, fontsize=size, color=ink)


def grid(axis: Axes, shape: Sequence[int], x: float, y: float, cell: float) -> None:
    """Draws lines between cells."""
    height, width = np.multiply(shape[:2], cell)
    lines: dict[str, Any] = {"colors": _FRAME, "linewidth": 0.4}
    axis.vlines(x + cell * np.arange(1, shape[1]), y, y + height, **lines)
    axis.hlines(y + cell * np.arange(1, shape[0]), x, x + width, **lines)


def outline(axis: Axes, x: float, y: float, width: float, height: float, **options: Any) -> None:
    """Draws the outline of a window."""
    style: dict[str, Any] = {"fill": False, "edgecolor": ORANGE, "linewidth": 2.5, "zorder": 4}
    axis.add_patch(Rectangle((x, y), width, height, **style | options))


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws an arrow."""
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": _FRAME, "linewidth": 1.2})


# ------------------------------------------------------------------------- the subject


def subject(photo: Colors, image: Colors, shades: Gray) -> Figure:
    """Draws an image in the three sizes that are used."""
    figure, axis = board(2.75)
    small = gray(shades, 9)
    for x, colors, use in (
        (0.2, photo, "for large pictures"),
        (2.85, image, "a small network's input"),
        (5.5, small, ""),
    ):
        channels = "{} x {} x 3: " if use else "{} x {} gray levels, from 0 to 9"
        put(axis, colors, x, 0.3, 2.3 / len(colors), channels.format(*colors.shape) + use)
    fill(axis, shades, small, 5.5, 0.3, 2.3 / len(shades))
    return figure


# ------------------------------------------------------------------------- a filter slides


class Sliding(NamedTuple):
    """A filter that slides over an image of gray levels from 0 to 9."""

    image: Gray
    kernel: Gray
    map: Gray

    def at(self, row: int, column: int) -> tuple[Gray, Gray]:
        """Returns the patch at a position, and its products with the filter."""
        patch = self.image[row : row + len(self.kernel), column : column + len(self.kernel)]
        return patch, patch * self.kernel

    def so_far(self, row: int, column: int) -> Gray:
        """Returns the map up to a position; later entries are NaN."""
        known = np.arange(self.map.size).reshape(self.map.shape) <= row * self.map.shape[1] + column
        return np.where(known, self.map, np.nan)

    @property
    def limit(self) -> float:
        """The largest magnitude of a product."""
        return 9 * float(np.abs(self.kernel).max())


def _map_colors(values: Gray, limit: float) -> Colors:
    """Returns the colors of a map; unknown entries are light gray."""
    return np.where(np.isfinite(values)[..., None], signed(np.nan_to_num(values), limit), 0.93)


class Equation(NamedTuple):
    """Where patch x filter = products, and their sum, are drawn: a position, the size of cells, and the gaps."""

    x: float
    y: float
    cell: float
    gap: float

    def around(self, axis: Axes, slide: Sliding) -> None:
        """Draws what is the same at every position."""
        side, kernel = self.cell * len(slide.kernel), signed(slide.kernel)
        for i, title in enumerate(("patch", "filter", "products")):
            left = self.x + i * (side + self.gap)
            say(axis, left + side / 2, self.y - 0.06, title, va="bottom")
            sign = "\N{MULTIPLICATION SIGN}=\N{RIGHTWARDS ARROW}"[i]
            say(axis, left + side + self.gap / 2, self.y + side / 2, sign, fontsize=14)
        self._array(axis, slide.kernel, kernel, self.x + side + self.gap)
        say(axis, self.x + 3 * (side + self.gap) + 0.22, self.y + side / 2 - 0.24, "sum")

    def at(self, axis: Axes, slide: Sliding, place: tuple[int, int]) -> None:
        """Draws what changes with the position."""
        patch, products = slide.at(*place)
        side = self.cell * len(patch)
        self._array(axis, patch, gray(patch, 9), self.x)
        self._array(axis, products, signed(products, slide.limit), self.x + 2 * (side + self.gap))
        outline(axis, self.x, self.y, side, side)
        end = self.x + 3 * (side + self.gap) + 0.22
        say(axis, end, self.y + side / 2 + 0.03, number(products.sum()), fontsize=15, weight="bold")

    def _array(self, axis: Axes, values: Gray, colors: Colors, x: float) -> None:
        put(axis, colors, x, self.y, self.cell)
        grid(axis, values.shape, x, self.y, self.cell)
        fill(axis, values, colors, x, self.y, self.cell)


def steps(slide: Sliding, places: Sequence[tuple[int, int]]) -> Figure:
    """Draws a few positions of a filter, one below the other, with the map up to each."""
    height, cell = 1.72, 1.45 / len(slide.image)
    figure, axis = board(0.22 + height * len(places))
    size, limit = len(slide.kernel), float(np.abs(slide.map).max())
    for i, (row, column) in enumerate(places):
        y = 0.24 + height * i
        step = row * slide.map.shape[1] + column + 1
        put(axis, gray(slide.image, 9), 0.18, y, cell, f"step {step}")
        outline(axis, 0.18 + column * cell, y + row * cell, size * cell, size * cell)
        equation = Equation(1.95, y + 0.28, 0.9 / size, 0.34)
        equation.around(axis, slide)
        equation.at(axis, slide, (row, column))
        values = slide.so_far(row, column)
        colors = _map_colors(values, limit)
        left, top = 6.55, y + 0.12
        put(axis, colors, left, top, cell, "map")
        grid(axis, colors.shape, left, top, cell)
        outline(axis, left + column * cell, top + row * cell, cell, cell, linewidth=1.8)
    return figure


@contextlib.contextmanager
def _stamped(axis: Axes) -> Iterator[None]:
    """Draws what the block adds onto a canvas that is drawn already, and removes it from the axes again."""
    before = set(axis.get_children())
    yield
    added = [artist for artist in axis.get_children() if artist not in before]
    for artist in sorted(added, key=lambda artist: artist.zorder):
        axis.draw_artist(artist)
        artist.remove()


def frames(slide: Sliding) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yields a frame for each position of a filter: the image, the equation, and the map up to here."""
    cell, left, top = 0.29, 0.25, 0.34
    size, limit, (height, width) = len(slide.kernel), float(np.abs(slide.map).max()), slide.map.shape
    side, image = cell * len(slide.image), gray(slide.image, 9)
    right, middle, low = WIDTH - left - cell * width, top + cell * (size - 1) / 2, top + side + 0.42
    figure, axis = board(low + 1.4)
    canvas = FigureCanvasAgg(figure)
    put(axis, image, left, top, cell, "image, {} x {} gray levels".format(*slide.image.shape))
    fill(axis, slide.image, image, left, top, cell)
    put(axis, np.full((height, width, 3), 0.93), right, middle, cell, f"map, {height} x {width}")
    arrow(axis, (right + cell * width / 2, low + 0.2), (right + cell * width / 2, middle + cell * height + 0.12))
    equation = Equation(0.75, low, 0.42, 0.5)
    equation.around(axis, slide)
    canvas.draw()
    for row, column in np.ndindex(height, width):
        x, y = right + column * cell, middle + row * cell
        with _stamped(axis):
            entry = slide.map[row : row + 1, column : column + 1]
            put(axis, signed(entry, limit), x, y, cell)
            fill(axis, entry, signed(entry, limit), x, y, cell)
        plain = canvas.copy_from_bbox(figure.bbox)
        with _stamped(axis):
            equation.at(axis, slide, (row, column))
            outline(axis, left + column * cell, top + row * cell, size * cell, size * cell)
            outline(axis, x, y, cell, cell)
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
        canvas.restore_region(plain)


# ------------------------------------------------------------------------- volumes


def sheets(axis: Axes, images: Sequence[Colors], x: float, y: float, cell: float, shift: float) -> None:
    """Draws images as a stack of sheets, the first in front; each lies a shift to the right of and above the last."""
    for i in reversed(range(len(images))):
        put(axis, images[i], x + i * shift, y - i * shift, cell, layer=10 + len(images) - i)


def channels(image: Colors, kernel: Float[np.ndarray, "rows columns 3"], parts: Colors, total: Gray) -> Figure:
    """Draws how one filter spans all channels: each channel with its slice of the filter, and the sum of the maps."""
    figure, axis = board(5.1)
    limit = max(float(np.abs(parts).max()), float(np.abs(total).max()))
    for x, title in (
        (0.95, "channel"),
        (2.55, "slice of the filter"),
        (4.15, "its map"),
        (6.65, "sum of the three maps"),
    ):
        say(axis, x, 0.15, title, weight="bold")
    for i, name in enumerate(("red", "green", "blue")):
        y = 0.35 + 1.6 * i
        put(axis, tinted(image[..., i], i), 0.25, y, 1.4 / len(image))
        say(axis, 0.16, y + 0.7, name, rotation=90)
        say(axis, 1.8, y + 0.7, "*", fontsize=16)
        weights, colors = kernel[..., i], signed(kernel[..., i], float(np.abs(kernel).max()))
        put(axis, colors, 2.0, y + 0.15, 1.1 / len(kernel))
        fill(axis, weights, colors, 2.0, y + 0.15, 1.1 / len(kernel))
        say(axis, 3.28, y + 0.7, "=", fontsize=14)
        put(axis, signed(parts[..., i], limit), 3.5, y + 0.07, 1.25 / len(parts))
        arrow(axis, (4.85, y + 0.7), (5.45, 2.65 + 0.35 * (i - 1)))
    put(axis, signed(total, limit), 5.6, 1.6, 2.1 / len(total), "plus, in a network, a bias")
    return figure


def volume(image: Colors, kernels: Mapping[str, Colors], maps: Float[np.ndarray, "rows columns filters"]) -> Figure:
    """Draws a volume of channels, filters with a slice for each channel, and the volume of their maps."""
    figure, axis = board(6.0)
    rows, gap = len(kernels), 0.93
    say(axis, 1.1, 0.15, "input", weight="bold")
    say(axis, 3.7, 0.15, f"{rows} filters", weight="bold")
    say(axis, 5.5, 0.15, f"{rows} maps", weight="bold")
    say(axis, 7.1, 0.15, "output", weight="bold")
    sheets(axis, [tinted(image[..., i], i) for i in range(3)], 0.25, 2.4, 1.4 / len(image), 0.16)
    shown = [signed(maps[..., i]) for i in range(rows)]
    for i, (name, kernel) in enumerate(kernels.items()):
        y = 0.4 + gap * i
        for j in range(3):
            put(axis, signed(kernel[..., j], float(np.abs(kernel).max())), 3.02 + 0.5 * j, y + 0.12, 0.44 / len(kernel))
        say(axis, 3.74, y + 0.66, name, fontsize=7.5)
        put(axis, shown[i], 5.1, y, 0.8 / len(maps))
        arrow(axis, (2.2, 3.1 + 0.14 * (i - 2.5)), (2.9, y + 0.34))
        arrow(axis, (4.56, y + 0.34), (5.0, y + 0.34))
        arrow(axis, (6.0, y + 0.4), (6.32, 3.05 + 0.14 * (i - 2.5)))
    sheets(axis, shown, 6.4, 2.8, 0.9 / len(maps), 0.12)
    shapes = [" x ".join(map(str, shape)) for shape in (image.shape, next(iter(kernels.values())).shape, maps.shape)]
    say(axis, 1.1, 4.0, shapes[0], weight="bold")
    say(axis, 3.74, 5.9, f"each {shapes[1]}", weight="bold")
    say(axis, 7.1, 4.0, shapes[2], weight="bold")
    return figure


def groups(
    links: Sequence[tuple[str, Float[np.ndarray, "channels filters"], int]], maps: Sequence[np.ndarray]
) -> Figure:
    """Draws which filter sees which channel, and the maps; each row has a name, its links and its parameters."""
    figure, axis = board(1.65 * len(links))
    for i, ((name, seen, count), values) in enumerate(zip(links, maps, strict=True)):
        y = 0.42 + 1.65 * i
        say(axis, 0.15, y - 0.24, f"{name}: {count} parameters", ha="left", weight="bold")
        for place, on in np.ndenumerate(seen):
            color = ("#C0392B", GREEN, BLUE)[place[0]] if on else "#e4e4e4"
            outline(
                axis,
                0.75 + 0.25 * place[1],
                y + 0.1 + 0.25 * place[0],
                0.22,
                0.22,
                fill=True,
                facecolor=color,
                linewidth=0,
            )
        for j, channel in enumerate(("red", "green", "blue")):
            say(axis, 0.68, y + 0.21 + 0.25 * j, channel, ha="right", fontsize=7.5)
        say(axis, 1.5, y + 1.0, "filters 1 to 6", fontsize=7.5)
        for j in range(values.shape[-1]):
            put(axis, signed(values[..., j]), 2.55 + 0.9 * j, y, 0.84 / len(values))
            say(axis, 2.97 + 0.9 * j, y + 1.0, f"map {j + 1}", fontsize=7.5)
    return figure


# ------------------------------------------------------------------------- sizes


class Case(NamedTuple):
    """A convolution of an image of gray levels: its arguments, its padding in cells, and its map."""

    name: str
    stride: int
    dilation: int
    padding: tuple[int, int]
    map: Gray

    def formula(self, size: int, window: int) -> str:
        """Writes how the size of the map follows from the size of the image."""
        reach = (window - 1) * self.dilation + 1
        inner = f"{size} + {sum(self.padding)} − {reach}"
        return f"floor(({inner}) / {self.stride}) + 1 = {len(self.map)}"


def sizes(image: Gray, window: int, cases: Sequence[Case]) -> Figure:
    """Draws convolutions with their padding, the first two windows, and the maps in the same scale."""
    rows, cell = -(-len(cases) // 2), 0.105
    height = 2.4
    figure, axis = board(height * rows - 0.25)
    for i, case in enumerate(cases):
        x, y = 0.15 + 4.0 * (i % 2), 0.55 + height * (i // 2)
        low, high = case.padding
        padded = np.full((len(image) + low + high, image.shape[1] + low + high, 3), (0.8, 0.87, 0.95))
        padded[low : low + len(image), low : low + image.shape[1]] = gray(image, 9)
        say(axis, x, y - 0.38, case.name, ha="left", weight="bold")
        say(axis, x, y - 0.17, case.formula(len(image), window), ha="left")
        put(axis, padded, x, y, cell)
        grid(axis, padded.shape, x, y, cell)
        for j, color in ((1, BLUE), (0, ORANGE)):
            for tap in np.ndindex(window, window):
                left = x + cell * (case.stride * j + case.dilation * tap[1])
                outline(axis, left, y + cell * case.dilation * tap[0], cell, cell, edgecolor=color, linewidth=1.1)
        start = x + cell * 17.2
        arrow(axis, (start, y + 0.6), (start + 0.3, y + 0.6))
        put(axis, signed(case.map), start + 0.4, y, cell)
        grid(axis, case.map.shape, start + 0.4, y, cell)
        for j, color in ((1, BLUE), (0, ORANGE)):
            outline(axis, start + 0.4 + cell * j, y, cell, cell, edgecolor=color, linewidth=1.6)
    return figure


# ------------------------------------------------------------------------- shifts


def equivariance(rows: Sequence[tuple[str, Colors, Gray]], moved: Gray, difference: Gray, largest: str) -> Figure:
    """Draws an image and a shifted one with their maps, the first map shifted, and the difference of the maps."""
    figure, axis = board(4.95)
    limit = max(float(np.abs(values).max()) for _, _, values in rows)
    for i, (name, image, values) in enumerate(rows):
        y = 0.4 + 2.4 * i
        put(axis, image, 0.25, y, 2.0 / len(image), name)
        arrow(axis, (2.35, y + 1.0), (2.85, y + 1.0))
        put(axis, signed(values, limit), 2.95, y + 0.1, 1.8 / len(values), "its map")
    put(axis, _map_colors(moved, limit), 5.75, 0.5, 1.8 / len(moved), "the upper map, shifted as well")
    put(axis, _map_colors(difference, limit), 5.75, 2.9, 1.8 / len(difference), "difference to the lower map")
    arrow(axis, (4.85, 1.4), (5.65, 1.4))
    arrow(axis, (4.85, 3.8), (5.65, 3.8))
    say(axis, 6.65, 4.82, largest)
    return figure


class Pooled(NamedTuple):
    """A map before and after a shift of the image."""

    name: str
    before: Gray
    after: Gray

    @property
    def change(self) -> float:
        """The norm of the difference, divided by the norm of the map before."""
        return float(np.linalg.norm(self.after - self.before)) / max(float(np.linalg.norm(self.before)), ROUNDING)


def shifts(rows: Sequence[Pooled]) -> Figure:
    """Draws maps before and after a shift of the image by a pixel, side by side, and what changed."""
    figure, axis = board(1.6 * len(rows) + 0.3)
    for x, title in ((2.35, "before"), (4.1, "after"), (5.85, "difference")):
        say(axis, x, 0.15, title, weight="bold")
    for i, row in enumerate(rows):
        y, limit = 0.3 + 1.6 * i, float(np.abs(row.before).max())
        say(axis, 0.15, y + 0.75, f"{row.name}\n{row.before.shape[0]} x {row.before.shape[1]}", ha="left")
        for x, values in ((1.6, row.before), (3.35, row.after), (5.1, row.after - row.before)):
            put(axis, signed(values, limit), x, y, 1.5 / len(values))
        say(axis, 6.85, y + 0.75, f"changes by\n{row.change:.0%}", ha="left")
    return figure


# ------------------------------------------------------------------------- functions of a map


def pooling(values: Gray, pooled: Mapping[str, Gray]) -> Figure:
    """Draws a map with its windows, and the results of pooling, in numbers."""
    figure, axis = board(3.35)
    limit, cell = float(np.abs(values).max()), 0.27
    put(axis, signed(values, limit), 0.2, 0.45, cell, "map, {} x {}".format(*values.shape))
    fill(axis, values, signed(values, limit), 0.2, 0.45, cell)
    for place in np.ndindex(*np.floor_divide(values.shape, 2)):
        y, x = 0.45 + 2 * cell * place[0], 0.2 + 2 * cell * place[1]
        outline(axis, x, y, 2 * cell, 2 * cell, linewidth=0.9, edgecolor="#555555")
    for x, (name, part) in zip((3.35, 5.8), pooled.items(), strict=True):
        colors, size = signed(part, limit), 2.0 / len(part)
        put(axis, colors, x, 0.75, size, "{} pooling, {} x {}".format(name, *part.shape))
        grid(axis, part.shape, x, 0.75, size)
        fill(axis, part, colors, x, 0.75, size, 0 if (part == np.round(part)).all() else 1)
        outline(axis, x, 0.75, size, size)
    outline(axis, 0.2, 0.45, 2 * cell, 2 * cell)
    return figure


def repeated(rows: Mapping[str, Sequence[Gray]]) -> Figure:
    """Draws maps that are pooled several times, a row for each kind of pooling."""
    figure, axis = board(2.25 * len(rows))
    for i, (name, maps) in enumerate(rows.items()):
        y, limit = 0.32 + 2.25 * i, float(np.abs(maps[0]).max())
        say(axis, 0.14, y + 0.9, name, rotation=90, weight="bold")
        for j, values in enumerate(maps):
            put(axis, signed(values, limit), 0.3 + 1.94 * j, y, 1.83 / len(values), "{} x {}".format(*values.shape))
    return figure


def activations(values: Gray, results: Mapping[str, Gray], curves: Mapping[str, np.ndarray], x: np.ndarray) -> Figure:
    """Draws the distribution of a map and activation functions, and the maps that they return."""
    height, side = 3.7, 1.65
    figure, axis = board(height)
    share, edges = np.histogram(values, 40, (x[0], x[-1]))
    shown = {"values of the map": values, **results}
    for i, (name, result) in enumerate(shown.items()):
        left = 0.28 + 1.98 * i
        panel = figure.add_axes((left / WIDTH, 2.2 / height, side / WIDTH, 1.2 / height))
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7, length=2, pad=2)
        panel.spines[["top", "right"]].set_visible(False)
        put(axis, signed(result, float(np.abs(curves[name]).max()) if i else None), left, 1.9, side / len(values))
        if not i:
            panel.stairs(share, edges, fill=True, color=BLUE, alpha=0.6)
            panel.set_yticks([])
            continue
        panel.axhline(0, color=_FRAME, linewidth=0.6)
        panel.axvline(0, color=_FRAME, linewidth=0.6)
        panel.plot(x, curves[name], color=RED, linewidth=2)
        panel.locator_params(nbins=4)
    return figure


# ------------------------------------------------------------------------- filters


class Filtered(NamedTuple):
    """A filter and its map."""

    name: str
    kernel: np.ndarray
    """[rows, columns], or [rows, columns, 3]."""
    map: Gray


def filters(parts: Mapping[str, Sequence[Filtered]]) -> Figure:
    """Draws filters with their maps, three in a row."""
    counts = [-(-len(part) // 3) for part in parts.values()]
    figure, axis = board(sum(0.35 + 1.95 * count for count in counts))
    y = 0.0
    for title, part in parts.items():
        say(axis, 0.15, y + 0.17, title, ha="left", weight="bold", fontsize=9)
        for i, each in enumerate(part):
            x, top = 0.15 + 2.62 * (i % 3), y + 0.5 + 1.95 * (i // 3)
            _filter(axis, each.kernel, x, top + 0.35)
            put(axis, signed(each.map), x + 0.92, top, 1.6 / len(each.map))
            say(axis, x, top - 0.06, each.name, ha="left", va="bottom", fontsize=7.5)
        y += 0.35 + 1.95 * -(-len(part) // 3)
    return figure


def _filter(axis: Axes, kernel: np.ndarray, x: float, y: float) -> None:
    """Draws a filter: in signed colors with numbers, or as a color image around gray."""
    cell = 0.84 / max(kernel.shape[:2])
    if kernel.ndim == 3:
        put(axis, 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1), x, y, cell)
        return
    colors = signed(kernel)
    put(axis, colors, x, y, cell)
    if max(kernel.shape) <= 5:
        fill(axis, kernel, colors, x, y, cell, 0 if (kernel == np.round(kernel)).all() else 1)


# ------------------------------------------------------------------------- costs


class Cost(NamedTuple):
    """What a layer costs."""

    name: str
    parameters: int
    multiplications: int


def costs(layers: Sequence[Cost]) -> Figure:
    """Draws how layers connect inputs to outputs, and their parameters and multiplications on a logarithmic scale."""
    figure, axis = board(4.9)
    for i, (layer, reach) in enumerate(zip(layers, (7, 1, 1), strict=True)):
        _connections(axis, 0.35 + 2.6 * i, reach, shared=i == 2)
        say(axis, 1.4 + 2.6 * i, 0.17, layer.name, weight="bold", fontsize=9)
    panel = figure.add_axes((1.35 / WIDTH, 0.45 / 4.9, 5.2 / WIDTH, 2.35 / 4.9))
    for i, layer in enumerate(layers):
        for j, (count, color, word) in enumerate(
            ((layer.parameters, BLUE, "parameters"), (layer.multiplications, ORANGE, "multiplications"))
        ):
            panel.barh(i + 0.36 * j, count, 0.34, color=color)
            panel.text(count * 1.25, i + 0.36 * j, f"{count:,} {word}", va="center", fontsize=8.5)
    panel.set_yticks(np.arange(len(layers)) + 0.18, [layer.name for layer in layers], fontsize=9)
    panel.set(xscale="log", xlim=(30, layers[0].parameters * 3), xlabel="number, on a logarithmic scale")
    panel.xaxis.label.set_fontsize(8)
    panel.tick_params(axis="x", labelsize=8)
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
    return figure


def _connections(axis: Axes, x: float, reach: int, shared: bool) -> None:
    """Draws seven inputs below five outputs, and the weights between them; equal colors are equal weights."""
    links = [(source, output) for output in range(5) for source in range(7) if abs(source - output - 1) <= reach]
    for number, (source, output) in enumerate(links):
        color: Any = (BLUE, ORANGE, GREEN)[source - output] if shared else colormaps["turbo"](number / len(links))
        ends = [x + 0.35 * source, x + 0.35 * (output + 1)], [1.5, 0.55]
        axis.add_line(Line2D(*ends, color="#777777" if reach > 1 else color, linewidth=0.5 if reach > 1 else 1.8))
    for y, places in ((1.5, range(7)), (0.55, range(1, 6))):
        axis.plot(
            x + 0.35 * np.array(places), [y] * len(places), "o", color="white", markeredgecolor=_INK, markersize=9
        )
