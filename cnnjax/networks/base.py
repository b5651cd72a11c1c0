"""Networks as configurations, and the one seam where Flax NNX modules become functions of arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from flax import nnx
from jax import Array
from jaxtyping import Float, Key, PyTree

from cnnjax.options import Config, config, kinds


@config
class NetworkConfig(Config):
    """The base of networks: the arguments of an NNX module, as a value.

    A subclass either names a `module` that takes `(input_shape, outputs, **fields, rngs=rngs)`, or
    overrides `build`. Its numbers may be tracers when the module is built.
    """

    module: ClassVar[Any] = None
    widths: ClassVar[tuple[str, ...]] = ()
    """The fields that count channels or units, layer by layer: networks that differ in these only are a
    family, whose narrow ones are parts of the wide ones (`cnnjax.sweeps.embedding`)."""

    @property
    def per_example(self) -> bool:
        """Whether an output depends on its own input alone, and on others by `nnx.BatchNorm` only.

        Then devices may share a batch, and it can be computed in parts. A network that draws noise in
        training, as dropout, is not: its noise is drawn for a whole batch.
        """
        return False

    def build(self, rngs: nnx.Rngs, example: Array, outputs: int) -> nnx.Module:
        """The module for inputs like `example`.

        Args:
          rngs: with the streams `params`, `dropout` and a default one, each from a key of its own.
          example: [batch, *shape]; only its shape and type may matter.
          outputs: numbers that the network puts out for an example, as one logit a class.
        """
        if self.module is None:
            raise NotImplementedError(f"{type(self).__name__}: a network names its `module`, or implements build")
        arguments = {name: getattr(self, name) for name in kinds(type(self))}
        return self.module(example.shape[1:], outputs, **arguments, rngs=rngs)


class Variables(NamedTuple):
    """What a network holds: pure trees of arrays, without any Flax type in them.

    `params` is learned by gradient descent; `stats` are running averages, as of BatchNorm.
    """

    params: PyTree
    stats: PyTree


class Network(Protocol):
    """A pair of pure functions, and the module between them. `functional` makes one of an NNX module."""

    def init(self, key: Key[Array, ""], example: Array) -> Variables: ...

    def apply(
        self, variables: Variables, inputs: Array, *, train: bool, key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch *outputs"], PyTree]: ...

    def module(self, variables: Variables, inputs: Array) -> nnx.Module: ...


@dataclass(frozen=True)
class _Functional:
    build: Callable[[nnx.Rngs, Array], nnx.Module]
    axis: str | None

    def init(self, key: Key[Array, ""], example: Array) -> Variables:
        return _variables(self.build(_rngs(key), example))

    def apply(
        self, variables: Variables, inputs: Array, *, train: bool, key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch *outputs"], PyTree]:
        module = self._filled(variables, inputs, key)
        if train:
            module.train()
            if self.axis:
                module.set_attributes(nnx.BatchNorm, axis_name=self.axis, raise_if_not_found=False)
        else:
            module.eval()
        outputs = module(inputs)
        return outputs, _variables(module).stats

    def module(self, variables: Variables, inputs: Array) -> nnx.Module:
        """The module with these variables, in evaluation mode: for functions that look inside, under `jax.jit`."""
        module = self._filled(variables, inputs, jax.random.key(0))
        module.eval()
        return module

    def _filled(self, variables: Variables, inputs: Array, key: Key[Array, ""]) -> nnx.Module:
        # A fresh module seeds its noise from the key. Its initial values are overwritten here and
        # never computed: XLA drops what nothing reads.
        module = self.build(_rngs(key), inputs)
        nnx.update(module, *map(_fitted, ("params", "stats"), _variables(module), variables))
        return module


def _rngs(key: Key[Array, ""]) -> nnx.Rngs:
    """A stream for each kind of draw, so that a layer that draws noise changes no initial value."""
    default, params, dropout = jax.random.split(key, 3)
    return nnx.Rngs(default, params=params, dropout=dropout)


def _variables(module: nnx.Module) -> Variables:
    _, *states = nnx.split(module, nnx.Param, (nnx.RngState, nnx.Intermediate), nnx.Variable, ...)
    params, _, stats, _ = states
    return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def _fitted(path: str, own: PyTree, given: PyTree) -> PyTree:
    """The given arrays under the module's own keys; those that became text on their way through a file are found."""
    if not isinstance(own, Mapping):
        if isinstance(given, Mapping) or jax.numpy.shape(given) != own.shape:
            found = f"entries {', '.join(map(str, given))}" if isinstance(given, Mapping) else jax.numpy.shape(given)
            raise ValueError(f"{path}: the network has an array of shape {own.shape} here, not {found}")
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: the network has entries {', '.join(map(str, own))} here, not {type(given).__name__}")
    entries = {str(name): value for name, value in given.items()}
    names = {str(name): name for name in own}
    for name in names:
        if name not in entries:
            raise ValueError(f"{path}.{name}: missing, and the network needs it")
    for name in entries:
        if name not in names:
            raise ValueError(f"{path}.{name}: left over: the network has {', '.join(names) or 'nothing'} here")
    return {names[name]: _fitted(f"{path}.{name}", own[names[name]], value) for name, value in entries.items()}


def functional(build: Callable[[nnx.Rngs, Array], nnx.Module], axis: str | None = None) -> Network:
    """Turns an NNX module into pure functions `init` and `apply`.

    >>> network = functional(lambda rngs, example: LeNet5(example.shape[1:], 10, rngs=rngs))
    >>> variables = network.init(jax.random.key(0), images)
    >>> logits, stats = network.apply(variables, images, train=False, key=jax.random.key(1))

    `apply` needs every variable, in its shape: a ValueError names the first that is missing, left over
    or of another shape. Keys of a list may be text, as Orbax and msgpack give them back.

    Args:
      build: `build(rngs, example)` returns the module; `example` is a batch of inputs (only its
        shape and type may matter). The module needs a plain `__call__(inputs)`; it is put in
        train or evaluation mode and given its noise here.
      axis: name of a mapped axis over which batches are sharded: in training, BatchNorm takes
        its statistics over all of it.
    """
    return _Functional(build, axis)
