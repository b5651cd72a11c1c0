"""The layers of a network and their outputs, by path."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.devices import jit
from cnnjax.networks import Network, Variables
from cnnjax.options import choose


class Layer(NamedTuple):
    """One call of a layer: the class of the layer and the shape of its output."""

    kind: str
    """The name of its class."""
    shape: tuple[int, ...]
    """The shape of its output for one example: [*spatial, channels] or [units]."""
    maps: bool
    """Whether the output consists of feature maps, with as many spatial dimensions as the input of the network."""

    @property
    def units(self) -> int:
        """The number of channels or dense units."""
        return self.shape[-1]


def outline(network: Network, variables: Variables, inputs: Float[Array, "batch *shape"]) -> dict[str, Layer]:
    """Lists the layers of a network by path, in the order of their calls, without computing their outputs.

    A layer is a submodule whose call returns an array of floats. Its path consists of attribute names and list
    indices, joined by dots. If a layer is called repeatedly, the path of its second call ends in `:2`.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> for path, layer in look.outline(network, variables, images).items():
    ...     print(path, layer.kind, layer.shape)
    blocks.0.convolutions.0 Conv (8, 8, 4)
    blocks.0.pool Pool (4, 4, 4)
    blocks.0.activation Activation (4, 4, 4)
    blocks.0 Block (4, 4, 4)
    dense.0 LinearGeneral (3,)

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      inputs: a batch of inputs; only its shape and dtype are used.
    """
    kinds: dict[str, str] = {}

    def outputs(variables: Variables, inputs: Array) -> tuple[Array, ...]:
        found = captured(network, variables, inputs, kinds=kinds)[1]
        kinds.update({name: kinds[name.split(":")[0]] for name in found})
        names.extend(found)
        return tuple(found.values())

    names: list[str] = []
    shapes = jax.eval_shape(outputs, variables, inputs)
    return {
        name: Layer(kinds[name], output.shape[1:], output.ndim == inputs.ndim > 2)
        for name, output in zip(names, shapes, strict=True)
    }


def activations(
    network: Network,
    variables: Variables,
    inputs: Float[Array, "batch *shape"],
    layers: Sequence[str] | None = None,
) -> dict[str, Float[Array, "batch *output"]]:
    """Computes the outputs of layers for a batch, in evaluation mode.

    >>> import jax
    >>> from cnnjax import CNN, functional, look
    >>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
    >>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    >>> variables = network.init(jax.random.key(1), images)
    >>> look.activations(network, variables, images, ["blocks.0"])["blocks.0"].shape
    (6, 4, 4, 4)

    Args:
      network: a network, as returned by `cnnjax.functional`.
      variables: its variables.
      inputs: a batch of inputs of the network, [batch, *shape].
      layers: the paths of layers, as listed by `outline`; by default all.

    Returns:
      The output of each layer by path, in the order of calls.

    Raises:
      ValueError: if the network has no such layer.
    """
    known = outline(network, variables, inputs)
    for name in layers or ():
        choose("layer", name, known)
    names = tuple(name for name in known if layers is None or name in layers)
    return dict(zip(names, outputs_of(network, names, variables, inputs), strict=True))


@partial(jit, static_argnames=("network", "layers"))
def outputs_of(network: Network, layers: tuple[str, ...], variables: Variables, inputs: Array) -> tuple[Array, ...]:
    """Computes the outputs of existing layers in one program."""
    found = captured(network, variables, inputs)[1]
    return tuple(found[name] for name in layers)


def captured(
    network: Network,
    variables: Variables,
    inputs: Array,
    changes: Mapping[str, Array] | None = None,
    kinds: dict[str, str] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Computes the output of the network and of every layer, with `nnx.capture`.

    Args:
      network, variables, inputs: as in `activations`.
      changes: arrays to add to the outputs of layers, by path. The gradient with respect to such an array is the
        gradient with respect to the layer's output.
      kinds: if given, is filled with the class name of each layer by path.
    """
    module = network.module(variables, inputs)
    layers: Any = [(path, layer) for path, layer in nnx.iter_modules(module) if path and callable(layer)]
    for path, layer in layers:
        if kinds is not None:
            kinds[_name(path)] = layer.__class__.__name__
        layer.__class__, layer.look_path = _tapped(layer.__class__), _name(path)
    paths = {layer.look_path: path for path, layer in layers}
    init: dict[Any, Any] = {}
    for name, change in (changes or {}).items():
        node = init
        for step in paths[name.split(":")[0]]:
            node = node.setdefault(step, {})
        node[_call(name)] = nnx.Perturbation(change)
    calls: list[str] = []
    token = _CALLS.set(calls)
    try:
        outputs, state = nnx.capture(module, nnx.Intermediate, init=nnx.State(init))(inputs)
    finally:
        _CALLS.reset(token)
    sown = {_name(path): value for path, value in nnx.to_flat_state(state)}
    return outputs, {name: sown[f"{name.split(':')[0]}.{_call(name)}"][0] for name in calls}


_CALLS: ContextVar[list[str]] = ContextVar("calls")


@cache
def _tapped(cls: Any) -> Any:
    """Returns a subclass whose calls sow their outputs, even if the class inherits its `__call__`.

    `nnx.capture(method_outputs=...)` ignores inherited methods, does not record the order of calls, and cannot
    add changes.
    """

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        with jax.named_scope(self.look_path):
            output = cls.__call__(self, *args, **kwargs)
        if not (isinstance(output, Array) and jnp.issubdtype(output.dtype, jnp.floating)):
            return output
        calls = _CALLS.get()
        before = sum(name.split(":")[0] == self.look_path for name in calls)
        name = f"{self.look_path}:{before + 1}" if before else self.look_path
        calls.append(name)
        output = self.perturb(_call(name), output)
        self.sow(nnx.Intermediate, _call(name), output)
        return output

    return type(cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__})


def _call(name: str) -> str:
    """Returns the name of the variable that holds the output of a call."""
    return f"output:{name.partition(':')[2] or 1}"


def _name(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))
