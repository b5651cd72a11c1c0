"""What a network and each of its layers cost: parameters, multiply-adds, activations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from cnnjax.look.layers import Layer, captured, outline
from cnnjax.look.receptive_fields import ReceptiveField, receptive_fields
from cnnjax.networks import Network, NetworkConfig, Variables, functional
from cnnjax.networks.layers import by_name

CONVOLUTIONS = ("convolution", "conv_general_dilated")
"""The primitives of cnnjax and of JAX."""
_NARROW = 4  # channels
_MOST = 2e10  # multiply-adds of a network times rows of its input, above which receptive fields are not measured


class Product(NamedTuple):
    """A convolution or a matrix product of a network, and the layers that would compute maps of the same shape."""

    layer: str
    """The path of the layer that computes it; empty for the network itself."""
    multiply_adds: int
    convolution: bool
    locally_connected: int
    """The parameters of a locally connected layer in its place, with biases."""
    dense: int
    """The parameters of a dense layer in its place, with biases."""


class LayerCost(NamedTuple):
    """What a layer costs for one example."""

    path: str
    kind: str
    """The name of its class."""
    shape: tuple[int, ...]
    """The shape of its output."""
    parameters: int
    multiply_adds: int
    """Multiply-adds of convolutions and matrix products, without those of gradients."""
    field: ReceptiveField | None
    """Its receptive field and its stride in the input; None if it has no feature maps, or measuring would take long."""
    locally_connected: int
    """The parameters without sharing: of a layer with its own weights at each position; 0 if not a convolution."""
    dense: int
    """The parameters without locality: of a layer that connects all inputs to all outputs; 0 if not a convolution."""

    @property
    def activations(self) -> int:
        """The bytes of its output, as float32."""
        return 4 * math.prod(self.shape)


class Costs(NamedTuple):
    """What a network costs for one example; `print` shows a table, one layer a line."""

    input_shape: tuple[int, ...]
    layers: tuple[LayerCost, ...]
    parameters: int
    """All parameters, with those that belong to no layer of the table."""
    multiply_adds: int

    @property
    def activations(self) -> int:
        """The bytes of the outputs of all layers of the table, as float32."""
        return sum(layer.activations for layer in self.layers)

    def rows(self) -> list[list[str]]:
        """Returns the table as text: names of columns, layers, totals."""
        head = ["layer", "kind", "output", "parameters", "multiply-adds", "KiB", "field", "stride"]
        shared = any(layer.dense for layer in self.layers)
        rows = [head + ["locally connected", "dense"] * shared]
        for layer in self.layers:
            field = ("", "") if layer.field is None else map(by_name, (layer.field.size, layer.field.stride))
            row = [layer.path, layer.kind, by_name(layer.shape), f"{layer.parameters:,}", f"{layer.multiply_adds:,}"]
            row += [f"{layer.activations / 1024:.1f}", *field]
            rows.append(row + [f"{n:,}" if n else "" for n in (layer.locally_connected, layer.dense)] * shared)
        total = ["total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", f"{self.activations / 1024:.1f}"]
        return [*rows, total + [""] * (len(rows[0]) - len(total))]

    def as_dict(self) -> dict[str, Any]:
        """Returns the numbers as values of JSON."""
        layers = [
            {
                **{name: value for name, value in layer._asdict().items() if name != "field"},
                "activations": layer.activations,
                "receptive_field": None if layer.field is None else layer.field.size,
                "stride": None if layer.field is None else layer.field.stride,
            }
            for layer in self.layers
        ]
        totals = {"parameters": self.parameters, "multiply_adds": self.multiply_adds, "activations": self.activations}
        return {"input_shape": self.input_shape, **totals, "layers": layers}

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def summarize(
    network: NetworkConfig | Network, input_shape: Sequence[int], outputs: int = 10, *, tokens: int = 0
) -> Costs:
    """Counts what a network and each of its layers cost for one example, without computing anything.

    >>> from cnnjax import LeNet5Config
    >>> costs = summarize(LeNet5Config(), (28, 28, 1))
    >>> costs.parameters, costs.multiply_adds
    (61706, 416520)

    Layers that consist of others are listed only if they have parameters of their own.

    Args:
      network: a configuration, or a network, as returned by `cnnjax.functional`.
      input_shape: the shape of one input: [*spatial, channels], or [length] for text.
      outputs: the number of outputs of a configuration, such as one logit per class.
      tokens: for text, the size of the vocabulary.

    Raises:
      ValueError: if the network does not take inputs of this shape.
    """
    config = network if isinstance(network, NetworkConfig) else None
    if isinstance(network, NetworkConfig):
        network = _functional(network, outputs, tokens)
    inputs: Any = jax.ShapeDtypeStruct((1, *input_shape), jnp.int32 if tokens else jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
    layers = outline(network, variables, inputs)
    own = _own_parameters(variables, layers)
    products = list(_products(jax.make_jaxpr(_scoped(network))(variables, inputs).jaxpr, layers))
    fields = {} if tokens else _fields(_functional(_narrow(config), outputs, 0) if config else network, inputs, layers)
    rows = []
    for path, layer in layers.items():
        if own.get(path) or not any(name.startswith(f"{path}.") for name in layers):
            ours = [product for product in products if product.layer == path]
            convolutions = [product for product in ours if product.convolution]
            savings = (sum(p.locally_connected for p in convolutions), sum(p.dense for p in convolutions))
            added = sum(product.multiply_adds for product in ours)
            rows.append(LayerCost(path, *layer[:2], own.get(path, 0), added, fields.get(path), *savings))
    total = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    return Costs(tuple(input_shape), tuple(rows), total, sum(product.multiply_adds for product in products))


def _functional(config: NetworkConfig, outputs: int, tokens: int) -> Network:
    return functional(lambda rngs, example: config.built(rngs, example, outputs, tokens))


def _narrow(config: NetworkConfig) -> NetworkConfig:
    """Returns a network with few channels, whose receptive fields are measured faster; they do not depend on widths."""
    widths = {name: getattr(config, name, ()) for name in ("filters", "dense")}
    return replace(
        config,
        **{
            name: tuple(min(count, _NARROW) for count in counts)
            for name, counts in widths.items()
            if counts and isinstance(counts, tuple)
        },
    )


def _fields(network: Network, inputs: Any, layers: Mapping[str, Layer]) -> dict[str, ReceptiveField]:
    """Returns the receptive fields of layers; empty if there are none, or measuring them would take long."""
    try:
        variables = jax.eval_shape(network.init, jax.random.key(0), inputs)
        added = multiply_adds(jax.make_jaxpr(_scoped(network))(variables, inputs).jaxpr)[0]
        if added * sum(inputs.shape[1:-1]) > _MOST or set(outline(network, variables, inputs)) != set(layers):
            return {}
        return receptive_fields(network, inputs)
    except ValueError:  # a narrow network that cannot be, or no layer has feature maps
        return {}


def multiply_adds(jaxpr: Any) -> tuple[int, int]:
    """Returns the multiply-adds of the convolutions and matrix products of a jaxpr, and the number of convolutions.

    Products with padding count. The body of a `while` loop counts once, and each branch of a `cond`.
    """
    products = list(_products(jaxpr, {}))
    return sum(product.multiply_adds for product in products), sum(product.convolution for product in products)


def _products(jaxpr: Any, layers: Mapping[str, Any], layer: str = "", repeats: int = 1) -> Iterator[Product]:
    """Yields the convolutions and matrix products of a jaxpr, with the layer whose scope they are in."""
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        scopes = str(equation.source_info.name_stack).split("/")
        where = next((scope for scope in reversed(scopes) if scope in layers), layer)
        size = math.prod(getattr(equation.outvars[0].aval, "shape", ())) if equation.outvars else 0
        shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        if name == "dot_general":
            contracted = parameters["dimension_numbers"][0][0]
            yield Product(where, repeats * size * math.prod(shapes[0][axis] for axis in contracted), False, 0, 0)
        elif name in CONVOLUTIONS:
            axis = -1 if name == CONVOLUTIONS[0] else parameters["dimension_numbers"].rhs_spec[0]
            weights = math.prod(shapes[1]) // shapes[1][axis]
            others = size * (weights + 1), size * (math.prod(shapes[0]) + 1)
            yield Product(where, repeats * size * weights, True, *others)
        for value in jax.tree.leaves(list(parameters.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _products(inner, layers, where, repeats * parameters.get("length", 1))


def _scoped(network: Network) -> Any:
    def outputs(variables: Variables, inputs: Array) -> Array:
        return captured(network, variables, inputs)[0]

    return outputs


def _own_parameters(variables: Variables, layers: Mapping[str, Any]) -> dict[str, int]:
    """Returns the number of parameters of each layer that are in none of its layers."""
    counts: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.params):
        steps = [str(step.key) for step in path]
        owners = (".".join(steps[:n]) for n in range(len(steps) - 1, 0, -1))
        owner = next((name for name in owners if name in layers), "")
        counts[owner] = counts.get(owner, 0) + leaf.size
    return counts
