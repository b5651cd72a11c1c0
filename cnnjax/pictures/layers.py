"""Figures of the layers of a network: filters, feature maps, receptive fields, and dead units."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnnjax.look import ReceptiveField
from cnnjax.pictures.drawing import STYLES, headline, legend, paper, series
from cnnjax.pictures.sheet import BLANK, SIGNED, Place, Sheet, as_curves, as_image, as_map

FILTERS, MAPS, STRIP = 64, 12, 128
"""The largest number of filters, of feature maps of a layer, and of dense units in a figure."""


def filters(
    before: Float[np.ndarray, "*window channels filters"],
    after: Float[np.ndarray, "*window channels filters"],
    title: str,
    *sentences: str,
) -> Figure:
    """Draws the filters of a convolution before and after training side by side, each scaled to its largest weight.

    Filters of three channels are colors; of other numbers of channels, the mean is drawn. Filters of one spatial
    dimension are curves.

    Args:
      before, after: kernels of one shape; at most the first 64 filters are drawn.
      title: the title.
      sentences: more about the filters, below the title.
    """
    count = min(before.shape[-1], FILTERS)
    columns = math.ceil(math.sqrt(count))
    side = min(1.0, max(0.62, 5 / (2 * columns)))
    sheet = Sheet(math.ceil(count / columns) + 0.2, 2 * columns + 0.5, 1.0 if before.ndim == 3 else side, side)
    for start, kernel, name in ((0, before, "before training"), (columns + 0.5, after, "after training")):
        for number in range(count):
            row, column = divmod(number, columns)
            _filter(sheet, Place(row + 0.2, start + column), np.asarray(kernel[..., number], float))
        sheet.above(Place(0.2, start, columns), name, size=9)
    return sheet.finish(title, *sentences)


def _filter(sheet: Sheet, place: Place, weights: Float[np.ndarray, "*window channels"]) -> None:
    largest = abs(weights).max() or 1.0
    if weights.ndim == 2:
        sheet.curves(place, weights, (-largest, largest))
    elif weights.shape[-1] == 3:
        sheet.image(place, as_image(weights, (-largest, largest)))
    else:
        mean = as_map(weights.mean(-1))
        largest = abs(mean).max() or 1.0
        sheet.image(place, mean, cmap=SIGNED, vmin=-largest, vmax=largest)


def feature_maps(
    example: Num[np.ndarray, "*shape"],
    maps: Mapping[str, Float[np.ndarray, "*output"]],
    limits: Any,
    title: str,
    *sentences: str,
) -> Figure:
    """Draws the outputs of layers for one input, a row for each layer.

    Args:
      example: the input, in the scale of `limits`.
      maps: outputs by layer, [*spatial, channels] or [units]. Of two spatial dimensions, the first twelve maps are
        drawn; of one, all channels as the rows of an image; of none, the first 128 units as a strip.
      limits: the values of black and white in the input.
      title: the title.
      sentences: more about the maps, below the title.
    """
    sheet = Sheet(len(maps) + 1, MAPS, 0.66, 0.66)
    sheet.example(Place(0, 0, 1 if example.ndim > 2 else MAPS), example, limits)
    sheet.left(0, "input")
    for row, (name, output) in enumerate(maps.items(), 1):
        sheet.left(row, f"{name}\n{' x '.join(map(str, output.shape))}")
        if output.ndim > 2:
            shades: dict[str, Any] = {"cmap": "viridis", "vmin": output.min(), "vmax": output.max()}
            for column in range(min(MAPS, output.shape[-1])):
                sheet.image(Place(row, column), as_map(output[..., column]), **shades)
        else:
            strip = output.T if output.ndim == 2 else output[None, :STRIP]
            sheet.stretched(Place(row, 0, MAPS), strip, (1, 1 if output.ndim == 2 else 0.4), cmap="viridis")
    return sheet.finish(title, *sentences)


def receptive_fields(
    example: Num[np.ndarray, "*spatial channels"],
    fields: Mapping[str, ReceptiveField],
    middles: Mapping[str, tuple[int, ...]],
    limits: Any,
    title: str,
    *sentences: str,
) -> Figure:
    """Draws the receptive field of one unit of each layer on an input; at most eight layers.

    Args:
      example: an input of one or two spatial dimensions; of three, the last two are drawn.
      fields: the receptive fields by layer.
      middles: the position of a unit in the map of each layer.
      limits: the values of black and white in the input.
      title: the title.
      sentences: more about the fields, below the title.
    """
    line = example.ndim == 2
    figure, [[axis]] = paper(1, 1, 5.0 if line else 3.8, 2.6 if line else 3.8)
    if line:
        for channel, curve in enumerate(as_curves(example, limits).T[: len(STYLES)]):
            axis.plot(curve, color="0.45", linewidth=1, linestyle=STYLES[channel][1])
        axis.set(ylim=(-0.05, 1 + 0.12 * (len(fields) + 1)), yticks=[])
        axis.set_xlabel("step", fontsize="small")
        axis.tick_params(labelsize="small")
    else:
        axis.imshow(as_image(example, limits), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    names, corners = [], [np.zeros(example.ndim - 1), np.array(example.shape[:-1])]
    for number, (name, field) in enumerate(fields.items()):
        start = np.array(field.offset) + np.array(field.stride) * np.array(middles[name])
        corners += [start, start + field.size]
        color, style, _ = STYLES[number]
        if line:
            ends, level = [start[0] - 0.5, start[0] + field.size[0] - 0.5], 1 + 0.12 * (number + 0.7)
            axis.plot(ends, [level, level], color=color, linewidth=4, solid_capstyle="butt")
        else:
            edge: dict[str, Any] = {"edgecolor": color, "linestyle": style, "linewidth": 2, "fill": False}
            axis.add_patch(Rectangle((start[-1] - 0.5, start[-2] - 0.5), field.size[-1], field.size[-2], **edge))
        names.append(f"{name}: {' x '.join(map(str, field.size))}")
    least, most = np.min(corners, 0) - 1, np.max(corners, 0)
    axis.set(xlim=(least[-1], most[-1]))
    if not line:
        axis.set(ylim=(most[-2], least[-2]))
        axis.set_facecolor((BLANK,) * 3)
    axis.spines[:].set_visible(False)
    handles = [series(number) for number in range(len(names))]
    for handle in handles:
        handle.set(marker="", linewidth=4 if line else 2, **({"linestyle": "-"} if line else {}))
    legend(figure, handles, names, "layer: receptive field")
    headline(figure, title, *sentences)
    return figure


def dead_units(dead: Mapping[str, Bool[np.ndarray, " units"]], title: str, *sentences: str) -> Figure:
    """Draws the share of dead units of each layer as bars.

    Args:
      dead: which units are dead, by layer.
      title: the title.
      sentences: more about the units, below the title.
    """
    figure, [[axis]] = paper(1, 1, 6.0, 0.9 + 0.26 * len(dead))
    rows = np.arange(len(dead))
    shares = [100 * float(np.mean(units)) for units in dead.values()]
    axis.barh(rows, 100, color="0.93")
    axis.barh(rows, shares, color=STYLES[3][0])
    for row, units in enumerate(dead.values()):
        count = int(np.sum(units))
        axis.text(101, row, f"{count} of {len(units)}", va="center", fontsize="small", weight="bold" if count else None)
    axis.set_yticks(rows, [*dead], fontsize="small")
    axis.set(xlim=(0, 100), ylim=(len(dead) - 0.4, -0.6), xlabel="dead units (%)")
    axis.spines[["top", "right"]].set_visible(False)
    headline(figure, title, *sentences)
    return figure
