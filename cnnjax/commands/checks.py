"""The numbers that `look` prints: smoothness of filters, activations reached by maximization, and randomization."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from cnnjax import look
from cnnjax.commands.subject import Subject, evenly
from cnnjax.networks import Variables

FIXED, STAGES, STEPS, COUNT = 16, 8, 32, 8
"""The number of units whose maximization is measured, of randomized networks, of steps of integrated gradients, and
of examples for each unit."""
CRITERION = 0.5
"""An attribution fails if its rank correlation with all layers randomized is larger."""

Method = Callable[[Variables], Array]


class Searched(NamedTuple):
    """The units of a layer: the inputs found by maximization, and the examples that activate each most."""

    units: list[int]
    maximized: look.Maximized
    top: look.Top
    """Of all units of the layer."""

    def at(self, unit: int) -> int:
        """Returns the index of a unit among those that were maximized."""
        return self.units.index(unit)


class Randomized(NamedTuple):
    """The rank correlations of attributions after layers were randomized."""

    layers: list[str]
    """The last layer that is random, for each network."""
    correlations: dict[str, list[float]]
    """By method, the mean over the examples for each network."""
    failed: list[str]
    """The methods whose last correlation is above `CRITERION`."""


def smoothness(subject: Subject) -> dict[str, tuple[float, float]]:
    """Returns the mean spectral smoothness of the filters of each convolution, before and after training."""
    example = subject.inputs(subject.searched.inputs[:1])
    before = look.kernels(subject.network, subject.initial, example)
    return {
        layer: (float(look.smoothness(before[layer]).mean()), float(look.smoothness(kernel).mean()))
        for layer, kernel in subject.kernels.items()
        if max(kernel.shape[:-2]) > 1
    }


def fixed_units(subject: Subject) -> dict[str, list[int]]:
    """Returns the units whose maximization is measured: sixteen at even distances over the examined layers."""
    every = [(layer, unit) for layer in subject.layers for unit in range(subject.outline[layer].units)]
    found: dict[str, list[int]] = {layer: [] for layer in subject.layers}
    for layer, unit in evenly(every, FIXED):
        found[layer].append(unit)
    return found


def searched(subject: Subject) -> dict[str, Searched]:
    """Maximizes the units of each examined layer, and finds the examples that activate them most."""
    fixed = fixed_units(subject)
    low, high = subject.bounds
    found = {}
    for layer in subject.layers:
        units = sorted({*fixed[layer], *subject.units(layer)})
        maximized = look.maximize(subject.network, subject.variables, subject.key, layer, units, low, high)
        top = look.top_examples(subject.network, subject.variables, subject.standardized, layer, COUNT)
        found[layer] = Searched(units, *(_plain(part) for part in (maximized, top)))
    return found


def _plain(found: Any) -> Any:
    return type(found)(*map(np.asarray, found))


def reached(subject: Subject, found: dict[str, Searched]) -> dict[str, float]:
    """Returns the activation reached by maximization over the largest one in the data, for the fixed units.

    A unit that is positive for no example is left out.
    """
    ratios = {}
    for layer, units in fixed_units(subject).items():
        for unit in units:
            largest = found[layer].top.values[unit, 0]
            if largest > 0:
                ratios[f"{layer}/{unit}"] = float(found[layer].maximized.values[found[layer].at(unit)] / largest)
    return ratios


def methods(subject: Subject) -> dict[str, Method]:
    """Returns the attributions that the network allows, as functions of its variables."""
    inputs, targets = subject.inputs(subject.attributed.inputs), subject.targets
    cells = inputs.shape[1:-1]
    used: dict[str, Callable[..., Array]] = {
        "gradient": look.gradient,
        "gradient x input": look.gradient_times_input,
        "integrated gradients": partial(look.integrated_gradients, steps=STEPS),
    }
    if subject.maps:
        used["Grad-CAM"] = look.grad_cam
    if cells:
        size, stride = ([max(1, round(share * count)) for count in cells] for share in (0.25, 0.125))
        used["occlusion"] = partial(look.occlusion, size=size, stride=stride)
    return {name: partial(method, subject.network, inputs=inputs, targets=targets) for name, method in used.items()}


def randomization(subject: Subject, trained: dict[str, np.ndarray], used: dict[str, Method]) -> Randomized:
    """Measures how much attributions change as layers are randomized from the output down.

    Args:
      subject: the network and its examples.
      trained: the attributions of the trained network, by method.
      used: the methods.
    """
    example = subject.inputs(subject.searched.inputs[:1])
    stages = evenly([*look.randomized(subject.network, subject.variables, subject.key, example)], STAGES)
    correlations = {
        name: [_correlation(trained[name], np.asarray(method(variables))) for _, variables in stages]
        for name, method in used.items()
    }
    failed = [name for name, values in correlations.items() if values[-1] > CRITERION]
    return Randomized([layer or "other parameters" for layer, _ in stages], correlations, failed)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the mean rank correlation over the examples for which it is defined; NaN if there are none."""
    found = look.rank_correlation(first, second)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else float("nan")


def quartiles(values: Sequence[float]) -> list[float]:
    """Returns the minimum, the quartiles and the maximum."""
    return np.quantile([*values], [0, 0.25, 0.5, 0.75, 1]).tolist()
