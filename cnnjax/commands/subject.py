"""What `look` examines: a trained network, its initial variables, and validation examples."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax import Array

from cnnjax import look
from cnnjax.data import Dataset, Split
from cnnjax.data.dataset import cut
from cnnjax.networks import Variables
from cnnjax.options import choose, text
from cnnjax.runs import Trained
from cnnjax.training import begin, make_task

BATCH = 250
LAYERS, UNITS, ATTRIBUTED = 6, 8, 16
"""The largest number of layers and of units of each that are examined, and of examples with attributions."""


class Subject:
    """A trained network with validation examples; what several pictures need is computed once.

    Args:
      trained: the trained network.
      data: its data.
      name: the name of the run in titles.
      examples: the number of validation examples to search; all if there are fewer.
      layers: the paths of the layers to examine; empty for a choice of convolutions, or of dense layers.
      units: the units to examine in each of these layers; empty for an even choice.
      seed: seeds maximization, randomization and t-SNE.

    Raises:
      ValueError: if a layer or a unit does not exist, or an output is not finite.
    """

    def __init__(
        self,
        trained: Trained,
        data: Dataset,
        name: str,
        examples: int,
        layers: Sequence[str] = (),
        units: Sequence[int] = (),
        seed: int = 0,
    ):
        self.trained, self.data, self.name, self.seed = trained, data, name, seed
        self.variables, self.spec = trained.variables, trained.spec
        task = make_task(trained.config, trained.spec)
        self.network = task.functions
        self.key = jax.random.key(seed)
        started = begin(task, jax.random.key(trained.config.seed))
        self.initial = Variables(started.params, started.stats)
        self.outline = look.outline(self.network, self.variables, self.spec.standardize(self.spec.example))
        self.valid = data.valid
        found = data.valid
        if examples < len(found.labels):
            found, _ = cut(found, examples, bool(data.classes))
        self.batches, self.searched = _batches(found)
        self.given = tuple(dict.fromkeys(layers))
        for layer in self.given:
            choose("layer", layer, self.outline)
        self.chosen_units = tuple(dict.fromkeys(units))
        for layer, unit in ((layer, unit) for layer in self.layers for unit in self.chosen_units):
            if not 0 <= unit < self.outline[layer].units:
                raise ValueError(
                    f"unit: {unit}: must be from 0 to {self.outline[layer].units - 1} in layer {layer!r}"
                    + ("" if self.given else ": give the layer with --layer")
                )

    # ------------------------------------------------------------------------- layers

    @cached_property
    def kernels(self) -> dict[str, Array]:
        """The kernels of the convolutions, by path."""
        return look.kernels(self.network, self.variables, self.inputs(self.searched.inputs[:1]))

    @cached_property
    def weighted(self) -> list[str]:
        """The layers with weights, in the order of their calls."""
        leaves = jax.tree.leaves_with_path(self.variables.params)
        names = {jax.tree_util.keystr(path[:-1], simple=True, separator=".") for path, leaf in leaves if leaf.ndim > 1}
        return [name for name in self.outline if name in names]

    @cached_property
    def output(self) -> str | None:
        """The layer whose output is that of the network; None if there is none."""
        last = [*self.outline][-1:]
        return next((name for name in last if self.outline[name].shape == (self.spec.outputs,)), None)

    @cached_property
    def layers(self) -> list[str]:
        """The layers whose units are examined: convolutions, or else hidden dense layers; an even choice of many."""
        if self.given:
            return [*self.given]
        convolutions = [name for name in self.kernels if self.outline[name].maps or self.spec.tokens]
        hidden = [name for name in self.weighted if name != self.output and self.outline[name].kind != "Embed"]
        return evenly(convolutions or hidden, LAYERS)

    def units(self, layer: str) -> list[int]:
        """The units of a layer that are drawn."""
        return [*self.chosen_units] or evenly(range(self.outline[layer].units), UNITS)

    @cached_property
    def maps(self) -> list[str]:
        """The layers with feature maps."""
        return [name for name, layer in self.outline.items() if layer.maps]

    @cached_property
    def fields(self) -> dict[str, look.ReceptiveField]:
        """The receptive fields of the layers with feature maps."""
        return look.receptive_fields(self.network, self.inputs(self.searched.inputs[:1])) if self.maps else {}

    # ------------------------------------------------------------------------- examples

    def inputs(self, stored: Any) -> Array:
        """Standardizes stored inputs."""
        return self.spec.standardize(jax.numpy.asarray(stored))

    def stored(self, inputs: Any) -> np.ndarray:
        """Converts standardized inputs back to the scale in which they are stored."""
        return np.asarray(inputs) * np.asarray(self.spec.std) + np.asarray(self.spec.mean)

    @cached_property
    def standardized(self) -> list[Array]:
        """The batches of examples to search."""
        return [self.inputs(batch) for batch in self.batches]

    @cached_property
    def limits(self) -> tuple[Any, Any]:
        """The values of black and white: the range of the training data, or else of the examples.

        Colors have one range together, as have features without an order in space; other channels one each.
        """
        axes = tuple(range(self.searched.inputs.ndim - 1))
        low = self.spec.low or self.searched.inputs.min(axes)
        high = self.spec.high or self.searched.inputs.max(axes)
        spatial = len(self.spec.shape) - 1
        together = not spatial or (spatial > 1 and self.spec.shape[-1] == 3)
        return (np.min(low), np.max(high)) if together else (np.asarray(low, float), np.asarray(high, float))

    @cached_property
    def bounds(self) -> tuple[Array, Array]:
        """The smallest and the largest value of each cell in the standardized examples."""
        low, high = self.searched.inputs.min(0), self.searched.inputs.max(0)
        return self.inputs(low[None])[0], self.inputs(high[None])[0]

    @cached_property
    def logits(self) -> np.ndarray:
        """The outputs for all validation examples, [examples, outputs]."""
        stored = np.asarray(self.valid.inputs)
        found = self.over(self.trained.logits, stored)
        return found.reshape(len(found), -1)

    def over(self, function: Callable[[Any], Any], stored: np.ndarray) -> np.ndarray:
        """Computes a function of stored inputs in batches of one size; the last one is padded."""
        size = min(BATCH, len(stored))
        parts = []
        for start in range(0, len(stored), size):
            batch = stored[start : start + size]
            padded = np.concatenate([batch, np.repeat(batch[:1], size - len(batch), 0)])
            parts.append(np.asarray(function(padded))[: len(batch)])
        return np.concatenate(parts)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probabilities of the classes for all validation examples, as float64."""
        logits = np.asarray(self.logits, np.float64)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    @cached_property
    def labels(self) -> np.ndarray:
        """The classes of all validation examples, or their labels in a regression."""
        return self.classes_of(self.valid)

    def classes_of(self, split: Split) -> np.ndarray:
        """Returns the class of each example, or the labels of a regression."""
        labels = np.asarray(split.labels)
        return labels.argmax(1) if self.spec.classes and labels.ndim > 1 else labels

    @cached_property
    def attributed(self) -> Split:
        """Examples of as many classes as possible, whose attributions are computed."""
        labels = self.classes_of(self.searched)
        if self.spec.classes:
            firsts = [np.flatnonzero(labels == number)[:1] for number in range(len(self.spec.classes))]
            first = np.concatenate(firsts).astype(int)
        else:
            first = np.zeros(0, int)
        rest = np.setdiff1d(np.arange(len(labels)), first)
        rows = np.concatenate([first, rest])[:ATTRIBUTED]
        return Split(np.asarray(self.searched.inputs)[rows], np.asarray(self.searched.labels)[rows])

    @cached_property
    def targets(self) -> np.ndarray:
        """The output whose attribution is computed for each of these examples: the predicted class, or the first."""
        outputs = self.over(self.trained.logits, self.attributed.inputs)
        return outputs.argmax(1) if self.spec.classes else np.zeros(len(outputs), int)

    def class_name(self, number: int) -> str:
        """Returns the name of an output."""
        return text(self.spec.classes[number]) if self.spec.classes else f"output {number}"


def _batches(split: Split) -> tuple[list[np.ndarray], Split]:
    """Cuts examples into batches of one size, and leaves out the few that remain; returns them and all in them."""
    inputs, total = np.asarray(split.inputs), len(split.labels)
    count = math.ceil(total / BATCH)
    size = total // count
    kept = Split(inputs[: count * size], np.asarray(split.labels)[: count * size])
    return [inputs[start : start + size] for start in range(0, count * size, size)], kept


def evenly(values: Sequence[Any], count: int) -> list[Any]:
    """Returns values at even distances, the first and the last included; all if there are at most `count`.

    >>> evenly("abcdefg", 3)
    ['a', 'd', 'g']
    """
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in places]
