"""Figures of what activates units: inputs found by maximization, and the examples with the largest activations."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num
from matplotlib.figure import Figure

from cnnjax.pictures.sheet import Place, Sheet, gallery


class Unit(NamedTuple):
    """A unit with an input found by maximization, and the parts of examples that activate it most."""

    number: int
    maximized: Num[np.ndarray, "*size channels"]
    reached: float
    """The activation of the maximized input."""
    patches: Sequence[Num[np.ndarray, "*size channels"]]
    """In descending order of activation; cells outside of the input are NaN."""
    values: Sequence[float]
    """Their activations."""
    starts: Sequence[int] = ()
    """Of series, the first steps of the receptive fields."""


def units(
    found: Sequence[Unit], limits: Any, title: str, *sentences: str, marked: tuple[float, float] | None = None
) -> Figure:
    """Draws units in rows: the maximized input on the left, then the examples that activate the unit most.

    Args:
      found: the units, with equal numbers of patches.
      limits: the values of black and white.
      title: the title.
      sentences: more about the units, below the title.
      marked: the part of each input that the unit depends on, from and to a share of the width; None for all of it.
    """
    count = len(found[0].patches)
    curve = found[0].maximized.ndim < 3
    sheet = Sheet(1.3 * len(found) + 0.2, count + 1.4, 1.15 if curve else 0.72, 0.62 if curve else 0.72)
    for number, unit in enumerate(found):
        row = 1.3 * number + 0.5
        sheet.left(row, f"unit {unit.number}", size=8)
        places = [Place(row, 0), *(Place(row, 1.4 + column) for column in range(count))]
        examples = (unit.maximized, *unit.patches)
        names = [f"{value:.3g}" for value in (unit.reached, *unit.values)]
        names[1:] = [f"{name} at {start}" for name, start in zip(names[1:], unit.starts, strict=False)] or names[1:]
        for place, example, name in zip(places, examples, names, strict=True):
            if marked:
                sheet.marked(place, *marked)
            sheet.example(place, example, limits)
            sheet.above(place, name, size=7)
    for place, name in ((Place(0.28, 0), "maximized"), (Place(0.28, 1.4, count), "largest activations in the data")):
        sheet.above(place, name, size=8.5)
    return sheet.finish(title, *sentences)


def maximized(
    inputs: Sequence[Num[np.ndarray, "*shape"]], names: Sequence[str], limits: Any, title: str, *sentences: str
) -> Figure:
    """Draws inputs found by maximization, each below its name; at most five in a row.

    Args:
      inputs: the inputs.
      names: a line or two above each.
      limits: the values of black and white.
      title: the title.
      sentences: more about the inputs, below the title.
    """
    cell = (1.5, 0.9) if inputs[0].ndim < 3 else (1.2, 1.2)
    return gallery(inputs, names, limits, 5, cell, space=0.3, size=8).finish(title, *sentences)
