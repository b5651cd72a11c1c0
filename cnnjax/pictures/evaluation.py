"""Figures of the predictions of a classifier, and of its features in two dimensions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from cnnjax.look import Calibration, PerClass
from cnnjax.pictures.drawing import STYLES, headline, legend, paper, series
from cnnjax.pictures.sheet import gallery
from cnnjax.pictures.values import short

_NUMBERED = 20  # largest number of classes with numbers in the cells of a confusion matrix
_NAMED = 40  # largest number of classes with names on an axis


def confusion(
    counts: Int[np.ndarray, "classes classes"], classes: Sequence[str], title: str, *sentences: str
) -> Figure:
    """Draws a confusion matrix: labels in rows, predictions in columns; colors are shares of the row.

    Args:
      counts: the number of examples of each label and prediction.
      classes: the names of the classes.
      title: the title.
      sentences: more about the matrix, below the title.
    """
    numbered = len(classes) <= _NUMBERED
    side = max(2.6, (0.42 if numbered else 0.09) * len(classes))
    figure, [[axis]] = paper(1, 1, side + 1.2, side + 0.35)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # The square root shows the few mistakes of a good classifier.
    drawn = axis.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    if numbered:
        for row, column in np.argwhere(counts):
            ink = "w" if shares[row, column] > 0.35 else "k"
            axis.text(column, row, counts[row, column], ha="center", va="center", color=ink, fontsize=8)
    _class_ticks(axis, classes)
    axis.set(xlabel="predicted", ylabel="label")
    bar = figure.colorbar(drawn, ax=axis, shrink=0.8, ticks=np.sqrt([0, 0.01, 0.1, 0.5, 1]))
    bar.ax.set_yticklabels(["0", "1", "10", "50", "100 %"], fontsize="small")
    bar.set_label("of the label's examples", fontsize="small")
    headline(figure, title, *sentences)
    return figure


def _class_ticks(axis: Any, classes: Sequence[str]) -> None:
    every = math.ceil(len(classes) / _NAMED)
    places = range(0, len(classes), every)
    words = [short(classes[place]) for place in places]
    long = max(map(len, words)) > 2
    axis.set_xticks(places, words, fontsize="small", rotation=90 if long else 0)
    axis.set_yticks(places, words, fontsize="small")


def per_class(found: PerClass, classes: Sequence[str], title: str, *sentences: str) -> Figure:
    """Draws precision and recall of each class as dots, the class with the lowest F1 at the top.

    Args:
      found: the values, as returned by `cnnjax.look.per_class`; at most the 40 lowest are drawn.
      classes: the names of the classes.
      title: the title.
      sentences: more about the values, below the title.
    """
    order = np.argsort(np.nan_to_num(found.f1), kind="stable")[:_NAMED]
    figure, [[axis]] = paper(1, 1, 5.2, 0.8 + 0.24 * len(order))
    rows = np.arange(len(order))
    precision, recall = 100 * found.precision[order], 100 * found.recall[order]
    axis.hlines(rows, np.minimum(precision, recall), np.maximum(precision, recall), color="0.75", linewidth=2)
    dots: dict[str, Any] = {"zorder": 3, "clip_on": False}
    axis.scatter(precision, rows, s=60, facecolors="none", edgecolors=STYLES[0][0], linewidths=1.8, **dots)
    axis.scatter(recall, rows, s=22, color=STYLES[3][0], marker="D", **dots)
    axis.set_yticks(rows, [f"{short(classes[i])} ({found.support[i]})" for i in order], fontsize="small")
    low = float(np.nanmin([*precision, *recall, 100]))
    axis.set(xlim=(max(0, math.floor(low / 5) * 5 - 5), 100), ylim=(len(order) - 0.5, -0.5), xlabel="%")
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [series(0), series(3)]
    handles[0].set(linestyle="", markerfacecolor="none", markersize=7, markeredgewidth=1.8)
    handles[1].set(linestyle="")
    legend(figure, handles, ["precision", "recall"])
    headline(figure, title, *sentences)
    return figure


def calibration(found: Calibration, title: str, *sentences: str) -> Figure:
    """Draws a reliability diagram: the accuracy of predictions by confidence, and below it their number.

    Args:
      found: the bins, as returned by `cnnjax.look.calibration`.
      title: the title.
      sentences: more about the bins, below the title.
    """
    figure, axes = paper(1, 2, 4.4, 2.4, sharex=True, height_ratios=[3, 1])
    upper, lower = axes[:, 0]
    middles, width = 100 * (found.edges[1:] + found.edges[:-1]) / 2, 100 * np.diff(found.edges)
    accuracy, confidence = 100 * np.nan_to_num(found.accuracy), 100 * np.nan_to_num(found.confidence)
    filled = found.examples > 0
    upper.bar(middles, accuracy, 0.94 * width, color=STYLES[0][0], label="accuracy")
    gap = {"color": "none", "edgecolor": STYLES[3][0], "hatch": "////", "linewidth": 1}
    bottom, height = np.minimum(accuracy, confidence), abs(confidence - accuracy)
    upper.bar(middles[filled], height[filled], 0.94 * width[filled], bottom[filled], label="gap to confidence", **gap)
    upper.plot([0, 100], [0, 100], color="0.4", linewidth=1, linestyle="--", label="perfect calibration")
    upper.set(ylabel="accuracy (%)", ylim=(0, 102), xlim=(0, 100))
    lower.bar(middles, 100 * found.examples / max(1, found.examples.sum()), 0.94 * width, color="0.6")
    for middle, count in zip(middles[filled], found.examples[filled], strict=True):
        height = 100 * count / found.examples.sum()
        lower.text(middle, height + 2, f"{count}", ha="center", va="bottom", fontsize=6.5)
    lower.set(xlabel="confidence (%)", ylabel="predictions (%)", ylim=(0, 125), yticks=[0, 50, 100])
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    legend(figure, *upper.get_legend_handles_labels())
    headline(figure, title, *sentences)
    return figure


def mistakes(
    examples: Sequence[Num[np.ndarray, "*shape"]], names: Sequence[str], limits: Any, title: str, *sentences: str
) -> Figure:
    """Draws examples in rows of six, each below its name of up to three lines.

    Args:
      examples: the inputs.
      names: a line or two above each.
      limits: the values of black and white.
      title: the title.
      sentences: more about the examples, below the title.
    """
    cell = (1.6, 0.8) if examples[0].ndim < 3 else (1.1, 1.0)
    return gallery(examples, names, limits, 6, cell, space=0.5, size=7.5).finish(title, *sentences)


def embedding(
    places: dict[str, Float[np.ndarray, "examples 2"]],
    labels: Num[np.ndarray, " examples"],
    classes: Sequence[str],
    title: str,
    *sentences: str,
) -> Figure:
    """Draws examples in two dimensions, colored by class or by the value of the label.

    Args:
      places: the positions of the examples, by method.
      labels: the class of each example, or a number.
      classes: the names of the classes; empty if the labels are numbers.
      title: the title.
      sentences: more about the positions, below the title.
    """
    named = max(map(len, classes), default=0) > 3 and len(classes) <= _NUMBERED
    figure, axes = paper(len(places), 1, 4.0, 3.8)
    for axis, (method, points) in zip(axes[0], places.items(), strict=True):
        axis.set(title=method, xticks=[], yticks=[])
        axis.spines[:].set_color("0.8")
        if not classes:
            dots = axis.scatter(*points.T, c=labels, s=14, cmap="viridis", linewidths=0)
            continue
        for number in np.unique(labels):
            group = points[labels == number]
            color, marker = color_of(number, len(classes)), STYLES[number % len(STYLES)][2] if named else "o"
            name = short(classes[number])
            axis.scatter(*group.T, color=color, marker=marker, s=14, alpha=0.75, linewidths=0, label=name)
            if not named:
                edge = [withStroke(linewidth=2.5, foreground="w")]
                middle = np.median(group, axis=0)
                axis.text(*middle, name, ha="center", va="center", weight="bold", path_effects=edge)
    if not classes:
        figure.colorbar(dots, ax=list(axes[0]), label="label")
    elif named:
        legend(figure, *axes[0, 0].get_legend_handles_labels())
    headline(figure, title, *sentences)
    return figure


def color_of(number: int, count: int) -> Any:
    """Returns the color of a class: a style's color if there are few classes, otherwise one of a circle of hues."""
    return (
        STYLES[number][0]
        if count <= len(STYLES)
        else colormaps["hsv" if count > 10 else "tab10"](number / count if count > 10 else number)
    )
