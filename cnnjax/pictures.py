"""Matplotlib figures of what a run recorded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import text
from cnnjax.judgement import Summary

CURVES = 6
SPAN = 5.0


def _subplots(columns: int) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(4.6 * columns, 3.6), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def learning_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy of one trial over epochs, on the training and the validation split.

    Args:
      rows: lines of `metrics.jsonl`.
      path: of the PNG.
    """
    figure, axes = _subplots(2)
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for split in ("train", "valid"):
            _curve(axis, [[row[f"{split}_{quantity}"] for row in rows]], split)
        axis.set(xlabel="epoch", ylabel=quantity)
    axes[1].legend()
    _save(figure, path)


def compare_curves(rows: Sequence[Mapping[str, Any]], points: Mapping[str, Sequence[int]], path: Path) -> None:
    """Validation loss and accuracy over epochs, a curve for each point with one deviation around it.

    Args:
      rows: lines of `metrics.jsonl`.
      points: trials by the name of their point; the first `CURVES` are drawn.
      path: of the PNG.
    """
    figure, axes = _subplots(2)
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for name, trials in list(points.items())[:CURVES]:
            _curve(axis, [[row[f"valid_{quantity}"] for row in rows if row["trial"] == t] for t in trials], name)
        axis.set(xlabel="epoch", ylabel=f"validation {quantity}")
    if len(points) > 1:
        axes[1].legend(fontsize="small", title=f"best {CURVES} of {len(points)}" if len(points) > CURVES else None)
    _save(figure, path)


def _curve(axis: Any, runs: Sequence[Sequence[float | None]], label: str) -> None:
    """A mean over runs, which may end early, with one standard deviation around it."""
    length = max(map(len, runs))
    values = np.array([[*run, *[None] * (length - len(run))] for run in runs], float)
    epochs, mean = np.arange(1, length + 1), values.mean(0)
    axis.plot(epochs, mean, label=label, linewidth=1.2, marker="o" if length == 1 else None)
    if len(runs) > 1:
        std = values.std(0, ddof=1)
        axis.fill_between(epochs, mean - std, mean + std, alpha=0.15, linewidth=0)
    axis.grid(alpha=0.3)


def grid(
    points: Sequence[tuple[Mapping[str, Any], Summary]], path: Path, quantity: str = "validation accuracy"
) -> None:
    """A map of one quantity over the first two swept fields: columns, then rows.

    Colours span the best `SPAN` percent points, so that a bad corner does not hide the rest.

    Args:
      points: values by field, and mean and deviation of the quantity as a share of 1; a NaN is
        marked `diverged`. Of points that differ only in further fields the best is shown.
      path: of the PNG.
      quantity: what the numbers are; drawn in percent.
    """
    names = [*points[0][0]][:2]
    columns, rows = ([_ordered(values[name] for values, _ in points) for name in names] + [[""], [""]])[:2]
    table = np.full((len(rows), len(columns)), np.nan)
    words = {}
    for values, summary in points:
        column, row = ([order.index(values[n]) for order, n in zip((columns, rows), names, strict=False)] + [0, 0])[:2]
        if (row, column) not in words or 100 * summary.mean > np.nan_to_num(table[row, column], nan=-1):
            table[row, column] = 100 * summary.mean
            words[row, column] = "diverged" if math.isnan(summary.mean) else f"{100 * summary.mean:.2f}"
            if not math.isnan(summary.std):
                words[row, column] += f"\n± {100 * summary.std:.2f}"
    figure, axis = _subplots(1)
    best = np.nanmax(table) if np.isfinite(table).any() else 100.0
    picture = axis.imshow(table, aspect="auto", cmap="viridis", vmin=best - SPAN, vmax=best)
    for (row, column), word in words.items():
        number = table[row, column]
        dark = number < best - SPAN / 3  # False for NaN
        weight = "bold" if number == best else "normal"
        axis.text(column, row, word, ha="center", va="center", color="w" if dark else "k", weight=weight)
    axis.set_xticks(range(len(columns)), [text(value) for value in columns])
    axis.set_yticks(range(len(rows)), [text(value) for value in rows])
    axis.set(**{f"{letter}label": name.replace("_", " ") for letter, name in zip("xy", names, strict=False)})
    figure.colorbar(picture, label=f"{quantity} (%)", extend="min")
    _save(figure, path)


def _ordered(values: Iterable[Any]) -> list[Any]:
    return sorted(set(values), key=lambda value: (isinstance(value, str), value))
