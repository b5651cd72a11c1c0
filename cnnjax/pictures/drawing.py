"""Elements that all figures share: title, legend, the style of a series, and markers of diverged trials."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cnnjax.pictures.values import LINE, fields, labels, wrapped
from cnnjax.sweeps import Ranked

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
"""Color, line style and marker of each series: the colors of Okabe and Ito (2008), with gray instead of yellow."""
DPI = 120
_STACKED = 8  # maximum height of a stack of crosses
_STEP = 0.035


class Picture(Figure):
    """A figure that notebooks display, independent of pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer)
        return buffer.getvalue()


def paper(columns: int = 1, rows: int = 1, width: float = 4.6, height: float = 3.4, **options: Any) -> Any:
    """Creates a figure; returns it and its axes [rows, columns], whose width and height are in inches."""
    figure = Picture((width * columns, height * rows), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def headline(figure: Figure, title: str, *sentences: str) -> None:
    """Adds a title and sentences about its content to a figure; call it last, when the width is final."""
    beside = sum(legend.get_window_extent().width / figure.dpi for legend in figure.legends)
    width = int((figure.get_figwidth() - beside - 0.2) * 72 / 4.9)
    lines = [line for line in (title, " ".join(filter(None, sentences))) if line]
    text = "\n".join(wrapped(line.replace("$", r"\$"), width) for line in lines)
    figure.set_figheight(figure.get_figheight() + 0.16 * (1 + text.count("\n")))
    figure.suptitle(text, x=0.01, ha="left", fontsize=9)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], title: str = "") -> None:
    """Adds a legend to the right of all axes, and enlarges the figure for it."""
    texts = [wrapped(label, LINE) for label in labels]
    head = "\n".join(wrapped(line, LINE) for line in title.splitlines())
    longest = max(len(line) for text in [head, *texts] for line in text.splitlines())
    lines = sum(text.count("\n") + 1 for text in [head, *texts])
    figure.set_figwidth(figure.get_figwidth() + 0.7 + 0.07 * longest)
    figure.set_figheight(max(figure.get_figheight(), 0.5 + 0.19 * lines))
    small: dict[str, Any] = {"fontsize": "small", "title_fontsize": "small"}
    figure.legend(handles, texts, title=head, loc="outside right upper", alignment="left", **small)


def series(number: int) -> Line2D:
    """Returns the legend handle of a series."""
    color, line, marker = STYLES[number]
    return Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4, linewidth=1.2)


def seeds_of(points: Sequence[Ranked]) -> str:
    """Formats the number of seeds of points, such as `5 seeds`, `3 to 8 seeds` or `10 folds`."""
    counts = sorted({len(point.results) for point in points})
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{many} {points[0].repeated}" if many != "1" else "one seed"


def diverged(point: Ranked) -> int:
    """Returns how many trials of a point diverged."""
    return sum(result.status == "diverged" for result in point.results)


def stopped(point: Ranked) -> bool:
    """Returns whether a trial of a point was stopped early, and none diverged."""
    return not diverged(point) and any(result.status == "stopped" for result in point.results)


def remark(point: Ranked) -> str:
    """Describes an incomplete point, such as `2 of 5 diverged`; empty for a complete one."""
    lost, all = diverged(point), len(point.results)
    if lost:
        return "diverged" if lost == all else f"{lost} of {all} diverged"
    return f"stopped at epoch {max(result.epochs for result in point.results)}" if stopped(point) else ""


def described(points: Sequence[Ranked]) -> tuple[str, list[str]]:
    """Returns the names of the fields that vary, and a line for each point with its values and `remark`."""
    names, lines = labels(points, fields(points))
    return names, [f"{line} ({remark(p)})" if remark(p) else line for line, p in zip(lines, points, strict=True)]


def crosses(axis: Axes, across: Sequence[float], colors: Sequence[Any], top: bool) -> None:
    """Marks diverged trials with crosses at the upper or lower edge; crosses at the same position are stacked."""
    here = Counter[float]()
    levels = []
    for place in across:
        levels.append(0.02 + _STEP * (here[place] % _STACKED))
        here[place] += 1
    heights = 1 - np.array(levels) if top else np.array(levels)
    if levels:
        edge = axis.get_xaxis_transform()
        axis.scatter(across, heights, c=colors, marker="x", s=25, transform=edge, clip_on=False, zorder=5)


def room(across: Sequence[float]) -> float:
    """Returns the fraction of an axis that `crosses` at these positions need."""
    most = max(Counter(across).values(), default=0)
    return 0.03 + _STEP * min(most, _STACKED) if most else 0.0


def spread(points: Sequence[Ranked], of: str, drawn: str) -> str:
    """Returns the sentence that explains the standard deviation in a figure."""
    of, seeds = of[:1].upper() + of[1:], seeds_of(points)
    return f"{of} of one seed." if seeds == "one seed" else f"{of}, mean {drawn} one standard deviation over {seeds}."
