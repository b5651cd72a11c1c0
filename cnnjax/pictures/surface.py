"""Matplotlib figures of the loss on a plane of parameters, and of the paths of gradient descent on it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from cnnjax.pictures.drawing import STYLES, Picture, headline, paper

LEVELS = 24
PATH, EDGE = STYLES[3][0], "white"
_DECADES = 6  # maximum range of a logarithmic scale


class Descent(NamedTuple):
    """A path of gradient descent on a plane."""

    name: str
    """The title of its panel."""
    places: Float[np.ndarray, "points 2"]
    """The positions of its points."""
    marked: Sequence[int] = ()
    """The indices of points at which epochs end."""
    losses: Sequence[float] = ()
    """The loss at each point."""


def loss_surface(
    x: Float[np.ndarray, " columns"],
    y: Float[np.ndarray, " rows"],
    loss: Float[np.ndarray, "rows columns"],
    title: str,
    labels: tuple[str, str],
    paths: Sequence[Descent] = (),
) -> Figure:
    """Draws contours of the loss on a plane. The color scale is logarithmic if all losses are positive.

    Args:
      x, y: the coordinates of the grid.
      loss: the loss at each point of the grid; points where it is not finite are left blank.
      title: the title of the figure.
      labels: the labels of the two axes.
      paths: paths to draw, each in a panel of its own, with a dot at the end of each epoch and a star at the
        last point. Without paths, a star marks the center.
    """
    figure, [axes] = paper(max(1, len(paths)), width=5.2, height=4.2, sharex=True, sharey=True)
    for axis, path in zip(axes, paths or [Descent("", np.zeros((1, 2)))], strict=True):
        shades = _contours(axis, x, y, loss)
        axis.set(xlabel=labels[0], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        axis.locator_params(nbins=5)
        axis.set_title(path.name, fontsize=10)
        _path(axis, path)
    axes[0].set_ylabel(labels[1])
    _bar(figure, axes, shades)
    headline(figure, title)
    return figure


def _scale(loss: np.ndarray) -> tuple[np.ndarray, Normalize, np.ndarray]:
    """Returns the loss clipped to the range of the colors, the color scale, and the levels of the contours."""
    shown = np.ma.masked_invalid(loss)
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    if low <= 0:
        return shown, Normalize(low, high), np.linspace(low, high, LEVELS)
    low = max(low, high * 10.0**-_DECADES)
    return shown.clip(low, high), LogNorm(low, high), np.geomspace(low, high, LEVELS)


def _contours(axis: Axes, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> ContourSet:
    """Draws filled contours with fine lines between them; returns the filled ones."""
    shown, norm, levels = _scale(loss)
    shades = axis.contourf(x, y, shown, levels, cmap="viridis", norm=norm)
    axis.contour(x, y, shown, levels, colors="k", linewidths=0.3, alpha=0.4)
    return shades


def _bar(figure: Figure, axes: Sequence[Axes], shades: ContourSet) -> None:
    """Adds a color bar with round numbers."""
    log = isinstance(shades.norm, LogNorm)
    low, *_, high = shades.levels
    wide = log and high / low > 1000
    bar = figure.colorbar(shades, ax=list(axes), label="loss (log scale)" if log else "loss", pad=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)) if log else MaxNLocator(6))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _path(axis: Axes, path: Descent) -> None:
    """Draws a path: a line, a ring at the start, a dot at the end of each epoch, and a star at the end."""
    across, up = path.places.T
    axis.plot(across, up, color=EDGE, linewidth=3)
    axis.plot(across, up, color=PATH, linewidth=1.5)
    marks: dict[str, Any] = {"color": PATH, "markeredgecolor": EDGE, "linestyle": ""}
    if len(across) == 1:
        axis.plot(across, up, "*", **marks, markersize=14, label="the trained network")
    else:
        axis.plot(across[0], up[0], "o", color=EDGE, markeredgecolor=PATH, markersize=7, linestyle="", label="start")
        dots = [i for i in path.marked if i < len(path.places) - 1]
        if dots:
            axis.plot(across[dots], up[dots], "o", **marks, markersize=6, label="end of an epoch")
        axis.plot(across[-1:], up[-1:], "*", **marks, markersize=14, label="end of training")
    axis.legend(fontsize="small", facecolor="0.75", framealpha=0.8)


def descent_frames(
    x: Float[np.ndarray, " columns"],
    y: Float[np.ndarray, " rows"],
    loss: Float[np.ndarray, "rows columns"],
    labels: tuple[str, str],
    paths: Sequence[Descent],
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Draws paths side by side, each as a ball on a surface and as a line on contours; yields a frame for each step.

    Args:
      x, y: the coordinates of the grid.
      loss: the loss at each point of the grid.
      labels: the labels of the two axes.
      paths: paths with losses and equal numbers of points. Points outside the grid are not drawn on the surface.
    """
    figure = Picture((3.2 * len(paths), 6.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = [
        (_bowl(figure, column, len(paths), x, y, loss), _flat(figure, column, len(paths), x, y, loss, labels))
        for column in range(len(paths))
    ]
    for point in range(len(paths[0].places)):
        figure.suptitle(f"step {point}", x=0.01, ha="left", fontsize=11)
        for path, (bowl, flat) in zip(paths, panels, strict=True):
            across, up = path.places[: point + 1].T
            inside = (abs(across) <= x[-1]) & (abs(up) <= y[-1])
            height = np.where(inside, path.losses[: point + 1], np.nan)
            for line, part in zip(bowl.lines[-3:], _PARTS, strict=True):
                line.set_data_3d(across[part], up[part], height[part])
            for line, part in zip(flat.lines[-3:], _PARTS, strict=True):
                line.set_data(across[part], up[part])
            flat.set_title(f"loss {path.losses[point]:.4f}", fontsize=10)
            bowl.set_title(path.name, fontsize=11, y=0.9)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


_PARTS = (slice(None), slice(None), slice(-1, None))  # the points of each line of `_empty`


def _bowl(figure: Figure, column: int, count: int, x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> Any:
    """Draws the loss as a surface in three dimensions, with the empty lines of a path."""
    axis = figure.add_subplot(2, count, 1 + column, projection="3d", computed_zorder=False)
    colors = {"cmap": "viridis", "norm": _scale(loss)[1]}
    axis.plot_surface(*np.meshgrid(x, y), loss, **colors, rcount=40, ccount=40, linewidth=0, zorder=1)
    axis.view_init(45, -60)
    axis.set_box_aspect((1, 1, 0.8), zoom=1.15)
    axis.set_axis_off()
    _empty(axis, zorder=2)
    return axis


def _flat(
    figure: Figure, column: int, count: int, x: np.ndarray, y: np.ndarray, loss: np.ndarray, labels: tuple[str, str]
) -> Axes:
    """Draws contours of the loss, with the empty lines of a path."""
    axis = figure.add_subplot(2, count, count + 1 + column)
    _contours(axis, x, y, loss)
    axis.set(xlabel=labels[0], ylabel=labels[1], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    _empty(axis, zorder=3)
    return axis


def _empty(axis: Any, zorder: int) -> None:
    """Adds the lines of a path without points: its edge, its steps and its last point."""
    nothing: list[list[float]] = [[]] * (3 if hasattr(axis, "zaxis") else 2)
    axis.plot(*nothing, color=EDGE, linewidth=3, zorder=zorder)
    axis.plot(*nothing, color=PATH, linewidth=1.5, marker="o", markersize=3, zorder=zorder)
    axis.plot(*nothing, "o", color=PATH, markeredgecolor=EDGE, markersize=10, zorder=zorder)
