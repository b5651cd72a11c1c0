"""Figures of attributions, and of what remains of them in networks with random layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num
from matplotlib.figure import Figure

from cnnjax.pictures.drawing import STYLES, headline, legend, paper, series
from cnnjax.pictures.sheet import SIGNED, Place, Sheet, as_map
from cnnjax.pictures.values import wrapped

_LARGE = 0.99  # quantile of the absolute values of an attribution that has the strongest color


def attributions(
    examples: Sequence[Num[np.ndarray, "*shape"]],
    names: Sequence[str],
    found: Mapping[str, Sequence[Float[np.ndarray, "*spatial"]]],
    limits: Any,
    title: str,
    *sentences: str,
) -> Figure:
    """Draws attributions of examples: a row for each example, a column for each method.

    An attribution is scaled to its largest absolute values: red raises the output, blue lowers it. Attributions of
    series are colors behind the curve.

    Args:
      examples: the inputs.
      names: a line or two for each example.
      found: by method, an attribution for each example, without channels; it may be coarser than the input.
      limits: the values of black and white in the inputs.
      title: the title.
      sentences: more about the attributions, below the title.
    """
    curve = examples[0].ndim < 3
    sheet = Sheet(len(examples) + 0.25, 1 + len(found), *((1.6, 0.8) if curve else (0.95, 0.95)))
    sheet.above(Place(0.25, 0), "input", size=8)
    for row, (example, name) in enumerate(zip(examples, names, strict=True)):
        sheet.left(row + 0.25, name, size=8)
        sheet.example(Place(row + 0.25, 0), example, limits)
    for column, (method, maps) in enumerate(found.items(), 1):
        sheet.above(Place(0.25, column), wrapped(method, 12), size=8)
        for row, values in enumerate(maps):
            place, image = Place(row + 0.25, column), as_map(values)
            largest = np.quantile(abs(image), _LARGE) or abs(image).max() or 1.0
            shades: dict[str, Any] = {"cmap": SIGNED, "vmin": -largest, "vmax": largest}
            if curve:
                sheet.stretched(place, image, alpha=0.7, **shades)
                sheet.example(place, examples[row], limits)
            else:
                size = examples[row].shape[-3:-1]
                sheet.image(place, _enlarged(image, size), **shades)
    return sheet.finish(title, *sentences)


def _enlarged(image: Float[np.ndarray, "height width"], size: tuple[int, ...]) -> Float[np.ndarray, "height width"]:
    """Enlarges a coarse map to the size of the input, with linear interpolation between its middles."""
    for axis, cells in enumerate(size):
        if (old := image.shape[axis]) != cells:
            places = (np.arange(cells) + 0.5) * old / cells - 0.5
            lines = np.moveaxis(image, axis, -1)
            image = np.moveaxis(np.array([np.interp(places, np.arange(old), line) for line in lines]), -1, axis)
    return image


def randomization(
    layers: Sequence[str], correlations: Mapping[str, Sequence[float]], criterion: float, title: str, *sentences: str
) -> Figure:
    """Draws how much attributions change as layers are randomized one after another, from the output down.

    Args:
      layers: the layers in the order in which they are randomized.
      correlations: by method, the rank correlation with the attribution of the trained network after each layer.
      criterion: a method fails if its last correlation is larger.
      title: the title.
      sentences: more about the check, below the title.
    """
    figure, [[axis]] = paper(1, 1, max(4.6, 1.6 + 0.42 * len(layers)), 3.2)
    for number, values in enumerate(correlations.values()):
        color, line, marker = STYLES[number]
        style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.4}
        axis.plot(range(len(layers) + 1), [1, *values], **style)
    axis.axhline(criterion, color="0.4", linewidth=0.8)
    beside: dict[str, Any] = {"ha": "right", "color": "0.3", "fontsize": "x-small"}
    axis.text(0.99, criterion + 0.02, "criterion", transform=axis.get_yaxis_transform(), **beside)
    axis.axhline(0, color="0.8", linewidth=0.8)
    axis.set(ylabel="rank correlation", ylim=(min(-0.3, np.nanmin([*correlations.values()]) - 0.05), 1.05))
    axis.set_xticks(range(len(layers) + 1), ["none", *layers], fontsize="small", rotation=30, ha="right")
    axis.set_xlabel("randomized down to this layer")
    axis.spines[["top", "right"]].set_visible(False)
    legend(figure, [series(number) for number in range(len(correlations))], [*correlations])
    headline(figure, title, *sentences)
    return figure
