"""Figures of texts: the words that activate units, and texts below one another."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cnnjax.pictures.drawing import headline, paper
from cnnjax.pictures.values import short, wrapped

_COLUMNS, _LONGEST = 4, 32  # n-grams in a line, and characters of each
_LINE = 0.17  # height of a line in inches
_WIDTH = 106  # characters of a line of a text


def ngrams(found: Mapping[str, Sequence[tuple[str, float]]], title: str, *sentences: str) -> Figure:
    """Draws words with activations, in rows of units.

    Args:
      found: by the name of a unit, the words and activations, in descending order.
      title: the title.
      sentences: more about the units, below the title.
    """
    lines = [-(-len(entries) // _COLUMNS) for entries in found.values()]
    width = 2.45 * _COLUMNS
    figure, axis = _sheet(0.7 + width, _LINE * (sum(lines) + 0.6 * len(lines)))
    top = 0.0
    for (name, entries), count in zip(found.items(), lines, strict=True):
        axis.text(0, top + _LINE, name, fontsize=8)
        for number, (words, value) in enumerate(entries):
            row, column = divmod(number, _COLUMNS)
            left, base = 0.7 + 2.45 * column, top + (row + 1) * _LINE
            axis.text(left + 0.33, base, f"{value:.3g}", fontsize=7, ha="right", color="0.4")
            axis.text(left + 0.4, base, short(words, _LONGEST), fontsize=7.5)
        top += (count + 0.6) * _LINE
        axis.axhline(top - 0.15 * _LINE, color="0.88", linewidth=0.6)
    headline(figure, title, *sentences)
    return figure


def passages(texts: Sequence[str], names: Sequence[str], title: str, *sentences: str) -> Figure:
    """Draws texts below one another, each beside its name.

    Args:
      texts: the texts.
      names: a few words about each.
      title: the title.
      sentences: more about the texts, below the title.
    """
    wrap = [wrapped(text.replace("$", r"\$"), _WIDTH) for text in texts]
    names = [wrapped(name.replace("$", r"\$"), 24) for name in names]
    lines = [max(text.count("\n"), name.count("\n")) + 1.7 for text, name in zip(wrap, names, strict=True)]
    figure, axis = _sheet(8.4, _LINE * sum(lines))
    style: dict[str, Any] = {"va": "top", "linespacing": 1.35}
    top = 0.0
    for text, name, count in zip(wrap, names, lines, strict=True):
        axis.text(0, top, name, fontsize=7.5, color="0.35", **style)
        axis.text(1.3, top, text, fontsize=8, **style)
        top += count * _LINE
        axis.axhline(top - 0.35 * _LINE, color="0.88", linewidth=0.6)
    headline(figure, title, *sentences)
    return figure


def _sheet(width: float, height: float) -> Any:
    """Creates a figure with an axis in inches, whose second dimension points down."""
    figure, [[axis]] = paper(1, 1, width + 0.2, height + 0.2)
    axis.set(xlim=(0, width), ylim=(height, 0))
    axis.set_axis_off()
    return figure, axis
