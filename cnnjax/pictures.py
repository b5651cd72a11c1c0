"""Matplotlib figures of what a run recorded."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cnnjax.config import text
from cnnjax.judgement import Summary

CURVES = 6
COMBINATIONS = 8
SPAN = 5.0
_FEW = 8  # values of a number that all have a label
_LINE = 40  # characters of a line in a legend

Points: TypeAlias = Sequence[tuple[Mapping[str, Any], Summary]]
"""Values by field, and what they came to."""


def _subplots(columns: int, width: float = 4.6, height: float = 3.6) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(width * columns, height), layout="constrained")


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


def grid(points: Points, path: Path, quantity: str = "validation accuracy") -> None:
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
    axis.set(**{f"{letter}label": _name(name) for letter, name in zip("xy", names, strict=False)})
    figure.colorbar(picture, label=f"{quantity} (%)", extend="min")
    _save(figure, path)


def rate_curves(points: Points, path: Path) -> None:
    """Validation loss over the learning rate, a curve for each combination of the other swept fields.

    Without several learning rates the first number that has several values takes their place;
    without one nothing is drawn. Where most combinations have a single value of it, as those of
    points drawn at random do, points stand alone, coloured by the first of the other fields.

    Args:
      points: values by field, and mean and deviation of the loss. The deviation is a bar, a NaN a
        cross at the upper edge. Of combinations the best `COMBINATIONS` are drawn.
      path: of the PNG.
    """
    fields = {name: [values[name] for values, _ in points] for name in points[0][0]}
    fields = {name: column for name, column in fields.items() if len(_ordered(column)) > 1}
    numbers = [name for name, column in fields.items() if _numeric(column)]
    if not numbers:
        return
    rate = "learning_rate" if "learning_rate" in numbers else numbers[0]
    others = [name for name in fields if name != rate]
    groups = _grouped(points, others)
    if alone := 2 * sum(len(group) == 1 for group in groups) > len(groups):
        others = others[:1]
        groups = _grouped(points, others)
    figure, axis = _subplots(1)
    if alone and others[0] in numbers:
        colours = _shades(axis, others[0], fields[others[0]])
    else:
        colours = _kinds(axis, {name: fields[name] for name in others}, groups)
    across, ticks = _places(fields[rate], 0.09, log=rate == "learning_rate" or None)
    if not alone:
        groups = [sorted(group, key=lambda i: across[i]) for group in groups[:COMBINATIONS]]
        for group in groups:
            axis.plot(across[group], [points[i][1].mean for i in group], color=colours[group[0]], linewidth=1.2)
    shown = [i for group in groups for i in group]
    _losses(axis, across[shown], [points[i][1] for i in shown], colours[shown])
    axis.set_xticks(*zip(*ticks, strict=True))
    axis.set(xlabel=_name(rate), ylabel="validation loss", xlim=(-0.05, 1.05))
    axis.grid(alpha=0.3)
    _save(figure, path)


def _grouped(points: Points, names: Sequence[str]) -> list[list[int]]:
    """The points, by index, that agree in the named fields; the group with the least loss first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, (values, _) in enumerate(points):
        groups.setdefault(tuple(text(values[name]) for name in names), []).append(i)

    def least(group: list[int]) -> float:
        return min((points[i][1].mean for i in group if math.isfinite(points[i][1].mean)), default=math.inf)

    return sorted(groups.values(), key=least)


def _shades(axis: Any, name: str, values: Sequence[float]) -> Any:
    """A colour for each number, and a bar that tells them."""
    from matplotlib.cm import ScalarMappable

    axis.figure.set_figwidth(axis.figure.get_figwidth() + 0.8)
    shades = ScalarMappable(cmap="viridis")
    shades.set_clim(0, 1)
    places, ticks = _places(values, 0.05)
    at, labels = zip(*ticks, strict=True)
    axis.figure.colorbar(shades, ax=axis, label=_name(name)).set_ticks(at, labels=labels)
    return shades.to_rgba(places)


def _kinds(axis: Any, fields: Mapping[str, Sequence[Any]], groups: Sequence[Sequence[int]]) -> Any:
    """A colour for each point by its group, grey after the first `COMBINATIONS`, and a legend of the fields."""
    from matplotlib.colors import to_rgba
    from matplotlib.lines import Line2D

    colours = np.tile(to_rgba("0.8"), (1 + max(map(max, groups)), 1))
    handles, labels = [], []
    for number, group in enumerate(groups[:COMBINATIONS]):
        colours[group] = to_rgba(f"C{number}")
        handles.append(Line2D([], [], color=f"C{number}", marker="o", markersize=4))
        label = " / ".join(_label(column[group[0]], max(16, _LINE // len(fields))) for column in fields.values())
        labels.append(textwrap.fill(label, _LINE))
    if fields:
        title = textwrap.fill(" / ".join(_name(name).replace(" ", "\N{NO-BREAK SPACE}") for name in fields), _LINE)
        if len(groups) > COMBINATIONS:
            title += f"\n(best {COMBINATIONS} of {len(groups)})"
        longest = max(len(line) for label in [title, *labels] for line in label.splitlines())
        axis.figure.set_figwidth(axis.figure.get_figwidth() + 0.6 + 0.07 * longest)
        small = {"fontsize": "small", "title_fontsize": "small"}
        axis.figure.legend(handles, labels, title=title, loc="outside right upper", **small)
    return colours


def _losses(axis: Any, across: Any, losses: Sequence[Summary], colours: Any) -> None:
    """Losses as dots with a deviation around them; those that do not exist as crosses at the upper edge."""
    mean, std = np.array([(loss.mean, loss.std) for loss in losses], float).T
    finite, std = np.isfinite(mean), np.nan_to_num(std)
    low, high = mean[finite].min(initial=math.inf), mean[finite].max(initial=-math.inf)
    log = 0 < low < high / 10
    bottom = np.where(log & (mean - std <= 0), low / 2, mean - std)
    here, levels = Counter[float](), []
    for place in across[~finite]:
        levels.append(0.035 * (here[place] % COMBINATIONS))  # crosses of one place stand below each other
        here[place] += 1
    axis.vlines(across[finite], bottom[finite], (mean + std)[finite], colors=colours[finite], linewidth=1, alpha=0.5)
    over = np.flatnonzero(finite)[::-1]  # the best group over the others
    axis.scatter(across[over], mean[over], c=colours[over], s=16 if len(losses) < 200 else 9, zorder=3)
    low, high = axis.get_ylim()
    if log:
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high := high * (high / low) ** max(levels, default=0))
        marks = _round(low, high, True)
        axis.set_yticks(marks, [f"{mark:g}" for mark in marks])
        axis.yaxis.set_minor_formatter("")
    elif finite.any():
        axis.set_ylim(low, high + (high - low) * max(levels, default=0))
    else:
        axis.set_yticks([])
    if levels:
        style = {"marker": "x", "s": 25, "transform": axis.get_xaxis_transform(), "clip_on": False, "zorder": 3}
        axis.scatter(across[~finite], 1 - np.array(levels), c=colours[~finite], **style)
        axis.set_title("× diverged", fontsize="small", loc="right")


def parallel_coordinates(points: Points, path: Path) -> None:
    """A line for each point through an axis for each swept field, to its validation accuracy.

    Colours span the best `SPAN` percent points, as in `grid`; the best point is thick, and one that
    diverged is dashed and grey. Without a swept field nothing is drawn.

    Args:
      points: values by field, and mean and deviation of the accuracy as a share of 1; of equal
        ones the first is the best.
      path: of the PNG.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    names = [*points[0][0]]
    if not names:
        return
    accuracy = np.array([100 * summary.mean for _, summary in points])
    finite = np.isfinite(accuracy)
    order = [i for i in np.argsort(-accuracy, kind="stable")[::-1] if finite[i]]  # the best is drawn last
    columns = [_places([values[name] for values, _ in points], 0.05) for name in names]
    last = np.full(len(points), -0.1)
    last[finite], ticks = _places(accuracy[finite].tolist(), 0.05, log=False)
    for best in order[-1:]:
        ticks = [tick for tick in ticks if tick[0] < last[best] - 0.05] + [(last[best], f"{accuracy[best]:.2f}")]
    columns.append((last, ticks if finite.all() else [(-0.1, "diverged"), *ticks]))
    figure, axis = _subplots(1, max(4.6, 1.2 * len(columns) + 1), 4)
    shades = ScalarMappable(cmap="viridis")
    highest = accuracy[order[-1]] if order else 100.0
    shades.set_clim(highest - SPAN, highest)
    colours = shades.to_rgba(accuracy)
    lines = np.stack([[(place, height) for height in heights] for place, (heights, _) in enumerate(columns)], 1)
    width, alpha = (1.5, 1.0) if len(order) < 100 else (0.9, 0.6)
    axis.add_collection(LineCollection([*lines[~finite]], colors="0.6", linestyles="dashed", linewidths=0.7))
    axis.add_collection(LineCollection([*lines[order]], colors=colours[order], linewidths=width, alpha=alpha))
    for best in order[-1:]:
        outline = [withStroke(linewidth=4.5, foreground="k")]
        axis.plot(*lines[best].T, color=colours[best], linewidth=3, solid_capstyle="round", path_effects=outline)
    box = {"facecolor": "w", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
    small = {"va": "center", "fontsize": "x-small", "bbox": box, "zorder": 5}
    for place, (name, (_, ticks)) in enumerate(zip([*names, "validation accuracy (%)"], columns, strict=True)):
        axis.vlines(place, 0, 1, color="k", linewidth=0.8, zorder=4)
        axis.text(place, 1.06, _name(name).replace(" ", "\n"), ha="center", va="bottom", fontsize="small")
        for height, label in ticks:
            axis.plot(place, height, "_k", markersize=5, zorder=4)
            axis.annotate(label, (place, height), (4, 0), textcoords="offset points", **small)
    axis.set_axis_off()
    axis.set(xlim=(-0.1, len(names) + 0.1), ylim=(-0.05 if finite.all() else -0.15, 1.05))
    figure.colorbar(shades, ax=axis, label="validation accuracy (%)", extend="min")
    _save(figure, path)


def _places(values: Sequence[Any], gap: float, log: bool | None = None) -> tuple[Any, list[tuple[float, str]]]:
    """Where values lie between 0 and 1, and labels for some places there, at least a gap apart.

    What is no number lies by its order. Numbers from zero up lie by their logarithm, with zero a
    little below the others, if that is asked for, or if they span over a decade and crowd at its
    lower end.
    """
    different = _ordered(values)
    if not different:
        return np.zeros(0), []
    if numeric := _numeric(values):
        numbers = np.array([*values], float)
        marks = [(float(value), _label(value)) for value in different]
    else:
        ranks = {text(value): rank for rank, value in enumerate(different)}
        numbers = np.array([ranks[text(value)] for value in values], float)
        marks = [(rank, _label(value)) for rank, value in enumerate(different)]
    low, high = numbers.min(), numbers.max()
    least = numbers[numbers > 0].min(initial=math.inf)
    if log is None:
        log = numeric and high > 10 * least and np.median(numbers) < high / 2.5
    log = log and 0 <= low < high and least < high
    if numeric and len(marks) > _FEW:
        marks = [(mark, f"{mark:g}") for mark in _round(least if log else low, high, log)]
        if log and low == 0:
            marks.insert(0, (0.0, "0"))

    def place(number: Any) -> Any:
        if not log:
            return (number - low) / (high - low) if high > low else 0 * number + 0.5
        bottom = low or least * (least / high) ** 0.2
        return np.log(np.maximum(number, bottom) / bottom) / np.log(high / bottom)

    ticks: list[tuple[float, str]] = []
    for mark, label in marks:
        at = float(place(mark))
        if ticks and at - ticks[-1][0] < gap:
            if mark != marks[-1][0] or len(ticks) == 1:
                continue
            ticks.pop()  # the last has its label rather than the one before it
        ticks.append((at, label))
    return place(numbers), ticks


def _round(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers from the one to the other."""
    from matplotlib.ticker import MaxNLocator

    if logarithmic:
        digits = (1, 2, 5) if high < 100 * low else (1, 3) if high < 1e4 * low else (1,)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [digit * 10.0**decade for decade in decades for digit in digits]
    else:
        marks = list(MaxNLocator(5).tick_values(low, high))
    return [float(mark) for mark in marks if low <= mark <= high]


def _numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in values)


def _name(field: str) -> str:
    return field.replace("_", " ")


def _label(value: Any, longest: int = 16) -> str:
    """A value in few characters, none of which Matplotlib takes for mathematics."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        return f"{float(value):.4g}"
    word = " ".join(text(value).split())
    if len(word) > longest:
        word = f"{word[: longest - 6]}…{word[-5:]}"
    return word.replace("$", r"\$")


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers, then tuples, then words and whatever else there is."""

    def order(value: Any) -> tuple[int, Any]:
        if isinstance(value, Real):
            return 0, value
        return (1, [order(entry) for entry in value]) if isinstance(value, tuple) else (2, text(value))

    return sorted({text(value): value for value in values}.values(), key=order)
