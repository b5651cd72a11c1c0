"""What each layer of a network puts out, by its path."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from cnnjax.networks import Network, Variables
from cnnjax.options import choose


class Layer(NamedTuple):
    """A layer as one call of it: what it is, and what it puts out for an example."""

    kind: str
    """Name of its class."""
    shape: tuple[int, ...]
    """Of its output, without the batch: [*spatial, channels] or [units]."""
    maps: bool
    """Whether that is maps: as many spatial dimensions as the network's input has, at least one."""

    @property
    def units(self) -> int:
        """Its channels, or its dense units."""
        return self.shape[-1]


def outline(network: Network, variables: Variables, inputs: Float[Array, "batch *shape"]) -> dict[str, Layer]:
    """The layers of a network by path, in the order in which they are called. It computes nothing.

    A layer is a submodule that is called and puts out an array of floats. Its path joins attributes and
    numbers in lists by dots. Where a network calls a layer again, the path of the second call ends in `:2`.

    >>> list(look.outline(network, variables, images))
    ['c1', 's2', 'activation', 'c3', 's4', 'activation:2', 'dense.0', 'activation:3', ...]

    Args:
      network: as `cnnjax.functional` returns it.
      variables: of the network.
      inputs: a batch, as the network takes it; only its shape and type matter.
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
    """What layers put out for a batch, in evaluation mode, in the order in which they are called.

    >>> maps = look.activations(network, variables, images)["blocks.0.convolutions.0"]  # [batch, *spatial, channels]

    Args:
      network, variables, inputs: as in `outline`.
      layers: paths, as `outline` lists them; by default all.

    Raises:
      ValueError: the network has no such layer; the message suggests one.
    """
    known = outline(network, variables, inputs)
    for name in layers or ():
        choose("layer", name, known)
    names = tuple(name for name in known if layers is None or name in layers)
    return dict(zip(names, outputs_of(network, names, variables, inputs), strict=True))


@partial(jax.jit, static_argnames=("network", "layers"))
def outputs_of(network: Network, layers: tuple[str, ...], variables: Variables, inputs: Array) -> tuple[Array, ...]:
    """What layers that exist put out, as one program."""
    found = captured(network, variables, inputs)[1]
    return tuple(found[name] for name in layers)


def captured(
    network: Network,
    variables: Variables,
    inputs: Array,
    changes: Mapping[str, Array] | None = None,
    kinds: dict[str, str] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The network's output, and that of every layer by name, by `nnx.capture`.

    Args:
      network, variables, inputs: as in `outline`.
      changes: added to the outputs of layers, by name: the gradient by one is that by the layer's output.
      kinds: receives the name of each layer's class, by path.
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
    """A subclass whose calls sow what they put out, also where the class inherits its `__call__`.

    `nnx.capture(method_outputs=...)` does not see inherited methods, keeps no order of calls, and adds no change.
    """

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
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
    """Where a layer keeps what one of its calls puts out."""
    return f"output:{name.partition(':')[2] or 1}"


def _name(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))
