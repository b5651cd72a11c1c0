"""Names, units and axis scales of losses and metrics."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.ticker import MaxNLocator

from cnnjax.metrics import Metric
from cnnjax.pictures.values import name_of
from cnnjax.sweeps import Ranked, Summary

_OFFSET = 0.1  # percent: keeps a perfect accuracy on the axis


class Quantity(NamedTuple):
    """The loss or a metric, as figures show it."""

    name: str
    percent: bool = False
    higher_is_better: bool = False

    @classmethod
    def of(cls, metric: Metric) -> "Quantity":
        """Returns the quantity of a metric."""
        return cls(metric.name, metric.percent, metric.higher_is_better)

    @property
    def words(self) -> str:
        """The name in a sentence."""
        return name_of(self.name)

    @property
    def label(self) -> str:
        """The name with its unit, such as `accuracy (%)`."""
        return self.words + (" (%)" if self.percent else "")

    @property
    def factor(self) -> float:
        """The factor from recorded to displayed values."""
        return 100 if self.percent else 1

    def summary(self, point: Ranked) -> Summary:
        """Returns the summary of a point in displayed units."""
        mean, std, n = point.valid_loss if self == LOSS else point.valid_metric
        return Summary(self.factor * mean, self.factor * std, n)

    def write(self, value: float, digits: int = 4) -> str:
        """Formats a displayed value, with two decimals in percent, else with `digits` significant digits."""
        return f"{value:.2f}" if self.percent else f"{value:.{digits}g}"


LOSS = Quantity("loss")


class Scale:
    """The axis scale of a quantity.

    Percentages are placed at the logarithm of their distance from perfect, -log(100.1 - accuracy): 98 is as far from
    99 as 96 from 98, and the scale is nearly linear if all are low. Positive values that span more than a decade are
    placed at their logarithm, others on a linear scale.

    Args:
      quantity: the quantity.
      values: values in displayed units; values that are not finite are ignored.
    """

    def __init__(self, quantity: Quantity, values: Iterable[float]):
        self.quantity = quantity
        self.values = np.array(sorted(value for value in values if math.isfinite(value)))
        self.logarithmic = quantity.percent or bool(len(self.values) and 0 < self.values[0] < self.values[-1] / 10)
        self._offset = _OFFSET if quantity.percent else 0.0
        self._mirrored = quantity.percent and quantity.higher_is_better

    def place(self, values: Any) -> Any:
        """Returns the positions of values, which increase with the values."""
        if not self.logarithmic:
            return np.asarray(values, float)
        logs = np.log(np.maximum(self._rest(np.asarray(values, float)) + self._offset, 1e-30))
        return -logs if self._mirrored else logs

    def value(self, places: Any) -> Any:
        """Returns the values at positions; the inverse of `place`."""
        places = np.asarray(places, float)
        if not self.logarithmic:
            return places
        return self._rest(np.exp(-places if self._mirrored else places) - self._offset)

    def _rest(self, values: Any) -> Any:
        """Converts a percentage to its distance from perfect, and back."""
        return 100 - values if self._mirrored else values

    def clip(self, values: Any) -> Any:
        """Clips percentages to [0, 100]; on a logarithmic scale, raises small values to half the minimum."""
        if self.quantity.percent:
            return np.clip(values, 0, 100)
        return np.maximum(values, self.values[0] / 2) if self.logarithmic else values

    def cost(self, values: Any) -> Any:
        """Returns positions with the sign for which lower is better."""
        return -self.place(values) if self.quantity.higher_is_better else self.place(values)

    def marks(self, low: float, high: float, gap: float = 0.12) -> list[float]:
        """Returns round values in a range that are at least `gap` apart, a fraction of the axis."""
        ends = sorted(float(self._rest(end)) for end in (low, high))
        ratio = (ends[1] + self._offset) / max(ends[0] + self._offset, 1e-30) if self.logarithmic else 1
        if ratio < 4:
            even = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            return [float(mark) for mark in even if low <= mark <= high]
        decades = range(math.floor(math.log10(max(ends[0], self._offset))), math.ceil(math.log10(ends[1])) + 1)
        series = [[digit * 10.0**decade for decade in decades] for digit in (1, 5, 2, 3, 7)]
        candidates = [self._rest(0.0), *(self._rest(each) for group in series for each in group)]
        span, found = float(self.place(high) - self.place(low)), [math.nan] * 0
        for mark in (round(float(candidate), 9) for candidate in candidates if low <= candidate <= high):
            if all(abs(self.place(mark) - self.place(other)) >= gap * span for other in found):
                found.append(mark)
        return sorted(found)

    def on(self, axis: Axes, values: Any = (), room: float = 0.0, along: str = "y") -> None:
        """Applies the scale to an axis.

        Args:
          axis: the Matplotlib axes.
          values: further values that must be visible.
          room: the fraction of the axis that is left free at the worse end, for the crosses of diverged trials.
          along: `y` or `x`.
        """
        finite = np.array([*self.values, *(value for value in np.ravel(values) if math.isfinite(value))])
        if not finite.size:
            axis.set(**{f"{along}lim": (0, 1), f"{along}ticks": []})
            return
        low, high = self.place(self.clip(finite)).min(), self.place(self.clip(finite)).max()
        margin = 0.06 * (high - low) or 0.05 * abs(low) or 0.05
        extra = (high - low + 2 * margin) * room / (1 - room)
        worse_is_low = self.quantity.higher_is_better
        low, high = low - margin - extra * worse_is_low, high + margin + extra * (not worse_is_low)
        getattr(axis, f"set_{along}scale")("function", functions=(self.place, self.value))
        ends = self.value([low, high])
        marks = self.marks(*self.clip(ends)) if self.quantity.percent else self.marks(*ends)
        axis.set(**{f"{along}lim": ends})
        getattr(axis, f"set_{along}ticks")(marks, [f"{mark:g}" for mark in marks], minor=False)

    def shades(self) -> ScalarMappable:
        """Returns the color map: the best value is brightest; the darkest is twice as far from it as the median.

        Worse values have the darkest color too, so a few bad values do not hide the differences between the others.
        """
        costs = np.sort(self.cost(self.values)) if len(self.values) else np.zeros(1)
        best, worst = float(costs[0]), float(costs[-1])
        end = min(best + 2 * (float(np.median(costs)) - best), worst)
        end = end if end > best else worst if worst > best else best + (abs(best) / 20 or 1.0)
        higher = self.quantity.higher_is_better
        low, high = self.value(sorted((-best, -end) if higher else (best, end)))
        shades = ScalarMappable(cmap="viridis" if higher else "viridis_r")
        shades.set_norm(FuncNorm((self.place, self.value), float(low), float(high)))
        return shades

    def bar(self, axes: Sequence[Axes]) -> None:
        """Adds a color bar beside axes, unless there are no values."""
        if not len(self.values):
            return
        shades = self.shades()
        low, high = shades.get_clim()
        extend = "min" if self.quantity.higher_is_better else "max"
        bar = axes[0].figure.colorbar(shades, ax=axes, label=f"validation {self.quantity.label}", extend=extend)
        marks = self.marks(low, high)
        bar.set_ticks(marks, labels=[f"{mark:g}" for mark in marks])
        bar.ax.minorticks_off()
