"""Matplotlib figures of the loss on a plane of parameters, and of the paths of gradient descent on it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

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
    for axis, path in zip(axes, paths or [None], strict=True):
        shades = _contours(axis, x, y, loss)
        axis.set(xlabel=labels[0], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
        if path is None:
            axis.plot(0, 0, "*", color=PATH, markeredgecolor=EDGE, markersize=14)
        else:
            axis.set_title(path.name, fontsize=10)
            _path(axis, path)
    axes[0].set_ylabel(labels[1])
    _bar(figure, axes, shades)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _contours(axis: Any, x: Any, y: Any, loss: Any) -> Any:
    """Filled contours and fine lines between them; returns what a color bar is made of."""
    from matplotlib.colors import LogNorm, Normalize

    shown = np.ma.masked_invalid(loss)
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    if low > 0:
        low = max(low, high * 10.0**-_DECADES)
        norm, levels = LogNorm(low, high), np.geomspace(low, high, LEVELS)
    else:
        norm, levels = Normalize(low, high), np.linspace(low, high, LEVELS)
    shades = axis.contourf(x, y, shown.clip(low, high), levels, cmap="viridis", norm=norm)
    axis.contour(x, y, shown.clip(low, high), levels, colors="k", linewidths=0.3, alpha=0.4)
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
    axis.plot(across[:1], up[:1], "o", **{**marks, "color": EDGE, "markeredgecolor": PATH}, markersize=7)
    dots = [i for i in path.marked if i < len(path.places) - 1]
    axis.plot(across[dots], up[dots], "o", **marks, markersize=6)
    axis.plot(across[-1:], up[-1:], "*", **marks, markersize=14)
