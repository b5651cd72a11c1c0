"""Loss and metric over epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnjax.metrics import Accuracy, Metric
from cnnjax.pictures.drawing import (
    STYLES,
    crosses,
    described,
    diverged,
    headline,
    legend,
    paper,
    room,
    series,
    spread,
)
from cnnjax.pictures.scale import LOSS, Quantity, Scale
from cnnjax.sweeps import Ranked

CURVES = 6
_SPLITS = {"train": "training", "valid": "validation"}

Rows = Sequence[Mapping[str, Any]]


def learning_curves(rows: Rows, metric: Metric = Accuracy(), title: str = "") -> Figure:  # noqa: B008 - a frozen value
    """Plots the loss and the metric of one trial over epochs, on the training and the validation split.

    Args:
      rows: lines of `metrics.jsonl`.
      metric: the metric, which the rows must have.
      title: the title of the figure.
    """
    figure, axes = paper(2)
    for axis, quantity in zip(axes[0], (LOSS, Quantity.of(metric)), strict=True):
        runs = [_runs(rows, [rows[0]["trial"]], split, quantity) for split in _SPLITS]
        _curves(axis, runs, quantity)
        axis.set(xlabel="epoch", ylabel=quantity.label)
    legend(figure, [series(0), series(1)], list(_SPLITS.values()))
    gone = np.isinf(runs[0]).any()
    headline(figure, title, "× The trial diverged in this epoch." if gone else "")
    return figure


def compare_curves(
    rows: Rows,
    points: Sequence[Ranked],
    metric: Metric = Accuracy(),  # noqa: B008 - a frozen value
    title: str = "",
) -> Figure:
    """Plots the loss and the metric of the best points over epochs, for training and validation.

    A curve is the mean over seeds.

    Args:
      rows: lines of `metrics.jsonl`.
      points: the points, best first, as returned by `rank`; the first `CURVES` are shown.
      metric: the metric, which the rows must have.
      title: the title of the figure.
    """
    drawn = points[:CURVES]
    figure, axes = paper(2, 2, 4, 2.5, sharex=True)
    for row, quantity in zip(axes, (LOSS, Quantity.of(metric)), strict=True):
        for axis, split in zip(row, _SPLITS, strict=True):
            trials = [[result.trial.number for result in point.results] for point in drawn]
            _curves(axis, [_runs(rows, numbers, split, quantity) for numbers in trials], quantity)
        row[0].set_ylabel(quantity.label)
    for axis, split in zip(axes[0], _SPLITS.values(), strict=True):
        axis.set_title(split, fontsize="medium")
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    names, lines = described(points)
    most = f"(best {CURVES} of {len(points)} points)" if len(points) > CURVES else ""
    if len(points) > 1:
        legend(figure, [series(i) for i in range(len(drawn))], lines[:CURVES], f"{names}\n{most}")
    gone = "× A trial diverged in this epoch." if any(map(diverged, drawn)) else ""
    headline(figure, title, spread(drawn, f"loss and {Quantity.of(metric).words}", "and a band of"), gone)
    return figure


def _runs(rows: Rows, trials: Sequence[int], split: str, quantity: Quantity) -> np.ndarray:
    """Returns a quantity of trials over epochs; NaN after the end of a trial, infinite when it diverged."""
    found = [[row.get(f"{split}_{quantity.name}", np.nan) for row in rows if row["trial"] == trial] for trial in trials]
    values = np.full((len(found), max(map(len, found))), np.nan)
    for line, run in zip(values, found, strict=True):
        line[: len(run)] = [np.inf if value is None else quantity.factor * value for value in run]
    return values


def _curves(axis: Axes, lines: Sequence[np.ndarray], quantity: Quantity) -> None:
    """Draws the mean of each array over its runs, with a band of one standard deviation."""
    scale = Scale(quantity, np.concatenate([np.ravel(runs) for runs in lines]))
    gone, seen = [], []
    for number, runs in enumerate(lines):
        color, line, marker = STYLES[number]
        there = np.isfinite(runs)
        count = there.sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(there, runs, 0).sum(0) / count
            std = np.sqrt((np.where(there, runs - mean, 0) ** 2).sum(0) / (count - 1))
        epochs = np.arange(1, len(mean) + 1)
        apart = max(1, len(mean) // 10)
        axis.plot(epochs, mean, color=color, ls=line, lw=1.2, marker=marker, markersize=4, markevery=apart)
        if len(runs) > 1:
            low, high = scale.clip(mean - std), scale.clip(mean + std)
            axis.fill_between(epochs, low, high, alpha=0.15, linewidth=0, color=color)
            seen += [*low, *high]
        gone += [(float(epoch + 1), color) for epoch in np.nonzero(np.isposinf(runs))[1]]
    places = [epoch for epoch, _ in gone]
    scale.on(axis, seen, room=room(places))
    crosses(axis, places, [color for _, color in gone], top=not quantity.higher_is_better)
    longest = max(runs.shape[1] for runs in lines)
    margin = max(0.2, 0.05 * (longest - 1))
    axis.set_xlim(1 - margin, longest + margin)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
