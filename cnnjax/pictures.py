"""Matplotlib figures of what a run recorded."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cnnjax.metrics import Accuracy, Metric
from cnnjax.options import text
from cnnjax.sweeps import Summary

CURVES = 6
COMBINATIONS = 8
STYLES: tuple[tuple[str, Any, str], ...] = (
    ("#0072B2", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#D55E00", ":", "D"),
    ("#56B4E9", (0, (8, 2)), "v"),
    ("#CC79A7", (0, (3, 1, 1, 1)), "P"),
    ("#000000", (0, (1, 1)), "*"),
    ("#7F7F7F", (0, (8, 2, 2, 2)), "h"),
)
"""Color, line style and marker of each series: the colors of Okabe and Ito (2008), and gray for their yellow."""
SPAN = 5.0
_FEW = 8  # values of a number that all have a label
_LINE = 40  # characters of a line in a legend

Points: TypeAlias = Sequence[tuple[Mapping[str, Any], Summary]]
"""Values by field, and what they came to. A point lacks the fields that its parts do not have."""


class _Lacking:
    """In place of a value that a point lacks."""

    def __str__(self) -> str:
        return "-"


_LACKING = _Lacking()
_ACCURACY = Accuracy()


def _fields(points: Points) -> dict[str, list[Any]]:
    """The swept fields with a value for each point; in the order of the points, each after what precedes it there."""
    names: list[str] = []
    for values, _ in points:
        place = 0
        for name in values:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return {name: [values.get(name, _LACKING) for values, _ in points] for name in names}


def _cost(metric: Metric, mean: float) -> float:
    """Less is better; infinite where there is no value."""
    return math.inf if math.isnan(mean) else metric.cost(mean)


class _Scale:
    """How values of a metric are shown: in percent or as they are, and from which to which there are colours."""

    def __init__(self, metric: Metric, means: Iterable[float]):
        self.metric, self.factor = metric, 100 if metric.percent else 1
        self.quantity = _name(metric.name)
        self.label = f"validation {self.quantity}" + (" (%)" if metric.percent else "")
        costs = sorted(self.cost(mean) for mean in means if math.isfinite(mean))
        self.best, self.span = (costs[0], self._span(costs)) if costs else (metric.cost(self.factor), SPAN)

    def _span(self, costs: Sequence[float]) -> float:
        """`SPAN` percent points; else twice the way from the best to the median: a few bad values hide nothing."""
        best, worst = costs[0], costs[-1]
        if self.metric.percent:
            return SPAN
        return min(2 * (float(np.median(costs)) - best), worst - best) or worst - best or abs(best) / 20 or 1.0

    def colours(self) -> Any:
        """A colour for each value, the brightest for the best."""
        from matplotlib.cm import ScalarMappable

        higher = self.metric.higher_is_better
        ends = [self.metric.cost(cost) for cost in (self.best, self.best + self.span)]  # a cost's cost is its value
        shades = ScalarMappable(cmap="viridis" if higher else "viridis_r")
        shades.set_clim(min(ends), max(ends))
        return shades

    def bar(self, axis: Any, shades: Any) -> None:
        """A bar that tells the colours."""
        axis.figure.colorbar(shades, ax=axis, label=self.label, extend="min" if self.metric.higher_is_better else "max")

    def cost(self, mean: float) -> float:
        """As `_cost`, in the numbers that are shown."""
        return _cost(self.metric, self.factor * mean)

    def write(self, value: float, digits: int = 4) -> str:
        """A value with two places in percent, else with so many digits."""
        return f"{self.factor * value:.2f}" if self.metric.percent else f"{value:.{digits}g}"


def _subplots(columns: int, width: float = 4.6, height: float = 3.6) -> Any:
    """A figure and its axes, without pyplot, whose backend and open figures are the caller's."""
    from matplotlib.figure import Figure

    figure = Figure((width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def learning_curves(rows: Sequence[Mapping[str, Any]], path: Path, metric: Metric = _ACCURACY) -> None:
    """Loss and metric of one trial over epochs, on the training and the validation split.

    Args:
      rows: lines of `metrics.jsonl`.
      path: of the PNG.
      metric: whose columns the rows have.
    """
    figure, axes = _subplots(2)
    for axis, quantity in zip(axes, ("loss", metric.name), strict=True):
        for number, split in enumerate(("train", "valid")):
            _curve(axis, [[row[f"{split}_{quantity}"] for row in rows]], split, number)
        axis.set(xlabel="epoch", ylabel=_name(quantity))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=120)


def compare_curves(
    rows: Sequence[Mapping[str, Any]], points: Mapping[str, Sequence[int]], path: Path, metric: Metric = _ACCURACY
) -> None:
    """Validation loss and metric over epochs, a curve for each point with one deviation around it.

    Args:
      rows: lines of `metrics.jsonl`.
      points: trials by the name of their point; the first `CURVES` are drawn.
      path: of the PNG.
      metric: whose columns the rows have.
    """
    figure, axes = _subplots(2)
    for axis, quantity in zip(axes, ("loss", metric.name), strict=True):
        for number, (name, trials) in enumerate(list(points.items())[:CURVES]):
            runs = [[row[f"valid_{quantity}"] for row in rows if row["trial"] == trial] for trial in trials]
            _curve(axis, runs, name, number)
        axis.set(xlabel="epoch", ylabel=f"validation {_name(quantity)}")
    if len(points) > 1:
        title = f"best {CURVES} of {len(points)}" if len(points) > CURVES else None
        figure.set_figheight(figure.get_figheight() + 0.2 * (min(len(points), CURVES) + 1))
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left", fontsize="small", title=title)
    figure.savefig(path, dpi=120)


def _curve(axis: Any, runs: Sequence[Sequence[float | None]], label: str, number: int) -> None:
    """A mean over runs, which may end early, with one standard deviation around it, in the style of a number."""
    length = max(map(len, runs))
    values = np.array([[*run, *[None] * (length - len(run))] for run in runs], float)
    epochs, mean = np.arange(1, length + 1), values.mean(0)
    color, line, marker = STYLES[number]
    style = {"linestyle": line, "marker": marker, "markersize": 4, "markevery": math.ceil(length / 10)}
    axis.plot(epochs, mean, label=label, linewidth=1.2, color=color, **style)
    if len(runs) > 1:
        std = values.std(0, ddof=1)
        axis.fill_between(epochs, mean - std, mean + std, alpha=0.15, linewidth=0, color=color)
    axis.grid(alpha=0.3)


def grid(points: Points, path: Path, metric: Metric = _ACCURACY) -> None:
    """A map of a metric over the first two swept fields: columns, then rows.

    Colours span the best `SPAN` percent points (of a metric that is no share: twice the way from the
    best value to the median), so that a bad corner does not hide the rest. Fields that a point lacks
    are `-`.

    Args:
      points: values by field, and mean and deviation of the metric; a NaN is marked `diverged`. Of
        points that differ only in further fields the best is shown.
      path: of the PNG.
      metric: what the numbers are.
    """
    fields = list(_fields(points).items())[:2]
    ordered = [{_key(value): value for value in _ordered(column)} for _, column in fields] + [{"": ""}] * 2
    columns, rows = ([*order] for order in ordered[:2])
    places = [[_key(value) for value in column] for _, column in fields] + [[""] * len(points)] * 2
    best: dict[tuple[int, int], Summary] = {}
    for (_, summary), column, row in zip(points, *places[:2], strict=True):
        cell = rows.index(row), columns.index(column)
        if cell not in best or _cost(metric, summary.mean) < _cost(metric, best[cell].mean):
            best[cell] = summary
    scale = _Scale(metric, [summary.mean for summary in best.values()])
    table = np.full((len(rows), len(columns)), np.nan)
    for cell, summary in best.items():
        table[cell] = scale.factor * summary.mean
    words = [[textwrap.wrap(_label(value, _LINE), 16) for value in order.values()] for order in ordered[:2]]
    figure, axis = _subplots(1)
    shades = scale.colours()
    axis.imshow(table, aspect="auto", cmap=shades.cmap, norm=shades.norm)
    means = ["diverged" if math.isnan(mean) else scale.write(mean) for mean, *_ in best.values()]
    stds = ["" if math.isnan(std) else f"\n± {scale.write(std, 2 if std < 100 else 4)}" for _, std, _ in best.values()]
    longest = max(map(len, means + stds))
    font = {"ha": "center", "va": "center", "fontsize": max(5, min(10, 320 / len(columns) / longest))}
    for (row, column), summary, mean, std in zip(best, best.values(), means, stds, strict=True):
        cost = scale.cost(summary.mean)
        dark = scale.best + scale.span / 3 < cost < math.inf
        weight = "bold" if cost == scale.best else "normal"
        axis.text(column, row, mean + std, color="w" if dark else "k", weight=weight, **font)
    axis.set_xticks(range(len(columns)), ["\n".join(lines) for lines in words[0]])
    axis.set_yticks(range(len(rows)), ["\n".join(lines) for lines in words[1]])
    axis.set(**{f"{letter}label": _name(name) for letter, (name, _) in zip("xy", fields, strict=False)})
    scale.bar(axis, shades)
    figure.savefig(path, dpi=120)


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
    # A field with a single value that some points lack goes with the part that has it.
    fields = {name: column for name, column in _fields(points).items() if len(_ordered(_had(column))) > 1}
    numbers = [name for name, column in fields.items() if _numeric(column)]
    if not numbers:
        return
    rate = next((name for name in numbers if name.split(".")[-1] == "learning_rate"), numbers[0])
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
    across, ticks = _places(fields[rate], 0.09, log=rate.endswith("learning_rate") or None)
    if not alone:
        groups = [sorted(group, key=lambda i: across[i]) for group in groups[:COMBINATIONS]]
        for group, (color, line, _) in zip(groups, STYLES, strict=False):
            losses = [points[i][1].mean for i in group]
            axis.plot(across[group], losses, color=color, linestyle=line, linewidth=1.2)
    shown = [i for group in groups for i in group]
    _losses(axis, across[shown], [points[i][1] for i in shown], colours[shown])
    axis.set_xticks(*zip(*ticks, strict=True))
    axis.set(xlabel=_name(rate), ylabel="validation loss", xlim=(-0.05, 1.05))
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _grouped(points: Points, names: Sequence[str]) -> list[list[int]]:
    """The points, by index, that agree in the named fields; the group with the least loss first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, (values, _) in enumerate(points):
        groups.setdefault(tuple(_key(values.get(name, _LACKING)) for name in names), []).append(i)

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
        color, line, _ = STYLES[number]
        colours[group] = to_rgba(color)
        handles.append(Line2D([], [], color=color, linestyle=line, marker="o", markersize=4))
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


def parallel_coordinates(points: Points, path: Path, metric: Metric = _ACCURACY) -> None:
    """A line for each point through an axis for each swept field, to its validation metric, whose best is on top.

    Colours span all points as `grid` its cells; the best point is thick, and one that diverged is dashed and grey.
    Without a swept field nothing is drawn.

    Args:
      points: values by field, and mean and deviation of the metric; of equal ones the first is the best.
      path: of the PNG.
      metric: what the numbers are.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    fields = _fields(points)
    if not fields:
        return
    scale = _Scale(metric, [summary.mean for _, summary in points])
    means = np.array([summary.mean for _, summary in points])
    costs = np.array([scale.cost(mean) for mean in means])
    finite = np.isfinite(costs)
    order = [i for i in np.argsort(costs, kind="stable")[::-1] if finite[i]]  # the best is drawn last
    columns = [_places(column, 0.05) for column in fields.values()]
    last = np.full(len(points), -0.1)
    log = False if metric.percent or metric.higher_is_better else None
    last[finite], ticks = _places((scale.factor * means[finite]).tolist(), 0.05, log=log)
    if not metric.higher_is_better:
        last[finite], ticks = 1 - last[finite], [(1 - height, label) for height, label in ticks]
    for best in order[-1:]:
        ticks = [tick for tick in ticks if tick[0] < last[best] - 0.05] + [(last[best], scale.write(means[best]))]
    columns.append((last, ticks if finite.all() else [(-0.1, "diverged"), *ticks]))
    figure, axis = _subplots(1, max(4.6, 1.2 * len(columns) + 1), 4)
    shades = scale.colours()
    colours = shades.to_rgba(scale.factor * means)
    lines = np.stack([[(place, height) for height in heights] for place, (heights, _) in enumerate(columns)], 1)
    width, alpha = (1.5, 1.0) if len(order) < 100 else (0.9, 0.6)
    axis.add_collection(LineCollection([*lines[~finite]], colors="0.6", linestyles="dashed", linewidths=0.7))
    axis.add_collection(LineCollection([*lines[order]], colors=colours[order], linewidths=width, alpha=alpha))
    for best in order[-1:]:
        outline = [withStroke(linewidth=4.5, foreground="k")]
        axis.plot(*lines[best].T, color=colours[best], linewidth=3, solid_capstyle="round", path_effects=outline)
    box = {"facecolor": "w", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
    small = {"va": "center", "fontsize": "x-small", "bbox": box, "zorder": 5}
    for place, (name, (_, ticks)) in enumerate(zip([*fields, scale.label], columns, strict=True)):
        axis.vlines(place, 0, 1, color="k", linewidth=0.8, zorder=4)
        axis.text(place, 1.06, _name(name).replace(" ", "\n"), ha="center", va="bottom", fontsize="small")
        for height, label in ticks:
            axis.plot(place, height, "_k", markersize=5, zorder=4)
            axis.annotate(label, (place, height), (4, 0), textcoords="offset points", **small)
    axis.set_axis_off()
    axis.set(xlim=(-0.1, len(fields) + 0.1), ylim=(-0.05 if finite.all() else -0.15, 1.05))
    scale.bar(axis, shades)
    figure.savefig(path, dpi=120)


def _places(values: Sequence[Any], gap: float, log: bool | None = None) -> tuple[Any, list[tuple[float, str]]]:
    """Where values lie between 0 and 1, and labels for some places there, at least a gap apart.

    What is no number lies by its order. Numbers from zero up lie by their logarithm, with zero a
    little below the others, if that is asked for, or if they span over a decade and crowd at its
    lower end. What is off or lacking lies below the numbers.
    """
    below = [value for value in _ordered(values) if not isinstance(value, Real)] if _numeric(values) else []
    if not below:
        return _spread(values, gap, log)
    step = min(0.15, 0.5 / len(below))
    start = step * len(below)  # where the numbers begin
    here = {_key(value): step * i for i, value in enumerate(below)}
    ticks = [(step * i, _label(value)) for i, value in enumerate(below)]
    inner, marks = _spread([value for value in values if _key(value) not in here], gap / (1 - start), log)
    if len(marks) == 1:
        inner, marks = np.ones(len(inner)), [(1.0, marks[0][1])]
    above = iter(start + (1 - start) * inner)
    places = [here[_key(value)] if _key(value) in here else next(above) for value in values]
    return np.array(places), ticks + [(start + (1 - start) * at, label) for at, label in marks]


def _spread(values: Sequence[Any], gap: float, log: bool | None) -> tuple[Any, list[tuple[float, str]]]:
    """The places of values all of which are numbers, or none need be."""
    different = _ordered(values)
    if not different:
        return np.zeros(0), []
    if numeric := _numeric(values):
        numbers = np.array([*values], float)
        marks = [(float(value), _label(value)) for value in different]
    else:
        ranks = {_key(value): rank for rank, value in enumerate(different)}
        numbers = np.array([ranks[_key(value)] for value in values], float)
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
    """Whether there are numbers, and nothing else but what is off or lacking."""
    rest = [value for value in values if value is not None and value is not _LACKING]
    finite = (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) for value in rest)
    return bool(rest) and all(finite)


def _had(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if value is not _LACKING]


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


def _key(value: Any) -> str:
    """What tells values of a field apart."""
    return "" if value is _LACKING else text(value)


def _ordered(values: Iterable[Any]) -> list[Any]:
    """Each value once: what is lacking or off, then numbers, tuples, words and whatever else there is."""

    def order(value: Any) -> tuple[int, Any]:
        if value is None or value is _LACKING:
            return -1, value is None
        if isinstance(value, Real):
            return 0, value
        return (1, [order(entry) for entry in value]) if isinstance(value, tuple) else (2, text(value))

    return sorted({_key(value): value for value in values}.values(), key=order)
