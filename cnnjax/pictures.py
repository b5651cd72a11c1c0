"""Matplotlib figures of what a run recorded."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.config import text


def _subplots(columns: int) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(4.6 * columns, 3.6), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def learning_curves(rows: Sequence[Mapping[str, Any]], path: Path, labels: Mapping[int, str] | None = None) -> None:
    """Loss and accuracy over epochs: a curve for each label, with a band of one deviation.

    Args:
      rows: lines of `metrics.jsonl`.
      path: of the PNG.
      labels: by trial, what its curves are called; trials of one label are averaged. Without it
        the training and validation curves of the one trial are drawn.
    """
    figure, axes = _subplots(2)
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        if labels is None:
            curves = {split: {0: [r[f"{split}_{quantity}"] for r in rows]} for split in ("train", "valid")}
        else:
            curves = {}
            for row in rows:
                trials = curves.setdefault(labels[row["trial"]], {})
                trials.setdefault(row["trial"], []).append(row[f"valid_{quantity}"])
        for label, trials in curves.items():
            values = np.array([[math.nan if v is None else v for v in curve] for curve in trials.values()], float)
            epochs, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
            axis.plot(epochs, mean, label=label, linewidth=1.2)
            if len(values) > 1:
                std = values.std(0, ddof=1)
                axis.fill_between(epochs, mean - std, mean + std, alpha=0.15, linewidth=0)
        axis.set(xlabel="epoch", ylabel=quantity if labels is None else f"validation {quantity}")
        if quantity == "loss" and np.nanmin([line.get_ydata().min() for line in axis.lines], initial=math.inf) > 0:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    if len(axes[0].lines) <= 12:
        axes[1].legend(fontsize=7)
    _save(figure, path)


def grid(points: Sequence[tuple[Mapping[str, Any], float]], path: Path, quantity: str = "validation accuracy") -> None:
    """A map of one quantity over the first two swept fields: columns, then rows.

    Args:
      points: values by field, and the number; NaN is a gap marked `diverged`. Of points that
        differ only in further fields the largest number is shown.
      path: of the PNG.
      quantity: what the numbers are, as a share of 1; drawn in percent.
    """
    names = [*points[0][0]][:2]
    columns, rows = ([_ordered(values[name] for values, _ in points) for name in names] + [[""], [""]])[:2]
    table = np.full((len(rows), len(columns)), np.nan)
    for values, number in points:
        column, row = ([order.index(values[n]) for order, n in zip((columns, rows), names, strict=False)] + [0, 0])[:2]
        table[row, column] = np.fmax(table[row, column], 100 * number)
    figure, axis = _subplots(1)
    picture = axis.imshow(table, aspect="auto", cmap="viridis")
    best = np.nanargmax(table) if np.isfinite(table).any() else -1
    for index, number in enumerate(table.ravel()):
        row, column = divmod(index, len(columns))
        shown = "diverged" if math.isnan(number) else f"{number:.2f}"
        dark = not math.isnan(number) and picture.norm(number) < 0.6
        weight = "bold" if index == best else "normal"
        axis.text(column, row, shown, ha="center", va="center", color="w" if dark else "k", weight=weight)
    axis.set_xticks(range(len(columns)), [text(value) for value in columns])
    axis.set_yticks(range(len(rows)), [text(value) for value in rows])
    axis.set(**{f"{letter}label": name.replace("_", " ") for letter, name in zip("xy", names, strict=False)})
    figure.colorbar(picture, label=f"{quantity} (%)")
    _save(figure, path)


def _ordered(values: Iterable[Any]) -> list[Any]:
    return sorted(set(values), key=lambda value: (isinstance(value, str), value))
