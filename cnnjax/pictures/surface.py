"""Matplotlib figures of the loss on a plane of parameters, and of the paths of gradient descent on it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

LEVELS = 24
PATH, EDGE = "#D55E00", "white"
_DECADES = 6  # that a logarithmic scale spans at most


class Descent(NamedTuple):
    """A path of gradient descent on a plane."""

    name: str
    """Above its picture."""
    places: Float[np.ndarray, "points 2"]
    marked: Sequence[int] = ()
    """Points at which epochs end."""
    losses: Sequence[float] = ()
    """Of each point."""


def loss_surface(
    x: Float[np.ndarray, " columns"],
    y: Float[np.ndarray, " rows"],
    loss: Float[np.ndarray, "rows columns"],
    title: str,
    labels: tuple[str, str],
    paths: Sequence[Descent] = (),
) -> Any:
    """Contours of the loss on a plane, on a logarithmic scale where all losses are positive.

    Args:
      x, y: coordinates of the grid.
      loss: at each point; what is not finite stays blank.
      title: what was measured.
      labels: of the two axes.
      paths: side by side, each over the same contours: a dot where an epoch ends, a star at the last point.

    Returns:
      A Figure.
    """
    from matplotlib.figure import Figure

    count = max(1, len(paths))
    figure = Figure((0.9 + 4.4 * count, 4.6), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, sharex=True, sharey=True)[0]
    for axis, path in zip(axes, paths or [Descent("", np.zeros((1, 2)))], strict=True):
        shades = _contours(axis, x, y, loss)
        axis.set(xlabel=labels[0], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        axis.locator_params(nbins=5)
        axis.set_title(path.name, fontsize=10)
        _path(axis, path)
    axes[0].set_ylabel(labels[1])
    _bar(figure, axes, shades)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _scale(loss: Any) -> tuple[Any, Any, Any]:
    """A loss within what is shown, the scale of its colors, and the levels of its contours."""
    from matplotlib.colors import LogNorm, Normalize

    shown = np.ma.masked_invalid(loss)
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    if low <= 0:
        return shown, Normalize(low, high), np.linspace(low, high, LEVELS)
    low = max(low, high * 10.0**-_DECADES)
    return shown.clip(low, high), LogNorm(low, high), np.geomspace(low, high, LEVELS)


def _contours(axis: Any, x: Any, y: Any, loss: Any) -> Any:
    """Filled contours and fine lines between them; returns what a color bar is made of."""
    shown, norm, levels = _scale(loss)
    shades = axis.contourf(x, y, shown, levels, cmap="viridis", norm=norm)
    axis.contour(x, y, shown, levels, colors="k", linewidths=0.3, alpha=0.4)
    return shades


def _bar(figure: Any, axes: Any, shades: Any) -> None:
    """A bar that tells the colors, with round numbers beside it."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    log = isinstance(shades.norm, LogNorm)
    wide = log and shades.norm.vmax / shades.norm.vmin > 1000
    bar = figure.colorbar(shades, ax=list(axes), label="loss (log scale)" if log else "loss", pad=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)) if log else MaxNLocator(6))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _path(axis: Any, path: Descent) -> None:
    """A path as a line with a light edge, a ring at its start, dots at its marks, and a star at its end."""
    across, up = path.places.T
    axis.plot(across, up, color=EDGE, linewidth=3)
    axis.plot(across, up, color=PATH, linewidth=1.5)
    marks = {"color": PATH, "markeredgecolor": EDGE, "linestyle": ""}
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
    """The steps of paths side by side: above as a ball in a bowl, below from above; a frame for each point.

    Args:
      x, y: coordinates of the grid.
      loss: at each point; heights are its logarithm.
      labels: of the two axes.
      paths: of equal length, with losses; they may leave the grid, and come back.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((3.2 * len(paths), 6.4), dpi=100, layout="constrained")
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
            bowl.set_title(path.name, fontsize=11)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


_PARTS = (slice(None), slice(None), slice(-1, None))  # of a path: its edge, its steps, and where it is


def _bowl(figure: Any, column: int, count: int, x: Any, y: Any, loss: Any) -> Any:
    """The loss as a surface in space, and the empty lines of a path on it."""
    axis = figure.add_subplot(2, count, 1 + column, projection="3d", computed_zorder=False)
    colors = {"cmap": "viridis", "norm": _scale(loss)[1]}
    axis.plot_surface(*np.meshgrid(x, y), loss, **colors, rcount=40, ccount=40, linewidth=0, zorder=1)
    axis.view_init(35, -75)
    axis.set_box_aspect((1, 1, 0.9), zoom=1.3)
    axis.set_axis_off()
    _empty(axis, zorder=2)
    return axis


def _flat(figure: Any, column: int, count: int, x: Any, y: Any, loss: Any, labels: tuple[str, str]) -> Any:
    """Contours of the loss, and the empty lines of a path on them."""
    axis = figure.add_subplot(2, count, count + 1 + column)
    _contours(axis, x, y, loss)
    axis.set(xlabel=labels[0], ylabel=labels[1], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    _empty(axis, zorder=3)
    return axis


def _empty(axis: Any, zorder: int) -> None:
    """The lines of a path as long as it has no points, one for each of `_PARTS`."""
    nothing: list[list[float]] = [[]] * (3 if hasattr(axis, "zaxis") else 2)
    axis.plot(*nothing, color=EDGE, linewidth=3, zorder=zorder)
    axis.plot(*nothing, color=PATH, linewidth=1.5, marker="o", markersize=3, zorder=zorder)
    axis.plot(*nothing, "o", color=PATH, markeredgecolor=EDGE, markersize=10, zorder=zorder)
