"""The base of network configurations, and `functional`, which turns Flax NNX modules into pure functions."""

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
    """The base class of network configurations: the arguments of an NNX module.

    A subclass either sets `module`, a class that takes `(input_shape, outputs, **fields, rngs=rngs)`,
    or overrides `build`. Number fields may be tracers when the module is built.

    >>> @config
    ... class LinearConfig(NetworkConfig):
    ...     def build(self, rngs, example, outputs):
    ...         return nnx.Linear(example.shape[-1], outputs, rngs=rngs)
    >>> LinearConfig().build(nnx.Rngs(0), jax.numpy.zeros((8, 4)), outputs=3).kernel.shape
    (4, 3)
    """

    module: ClassVar[Any] = None
    widths: ClassVar[tuple[str, ...]] = ()
    """The names of the fields that count channels or units per layer. Networks that differ only in these
    form a family, whose narrow members can be embedded in wide ones (see `cnnjax.sweeps.embedding`)."""

    for_text: ClassVar[bool] = False
    """Whether the inputs are the tokens of texts, [batch, length]. `module` then takes the number of tokens instead of
    `input_shape`, and `build_for_text` takes the place of `build`."""

    @property
    def per_example(self) -> bool:
        """Whether each output depends only on its own input, apart from the statistics of `nnx.BatchNorm`.

        If true, a batch can be sharded over devices or computed in parts. A network with dropout is
        not per-example, because it draws its noise for the whole batch.
        """
        return False

    def build(self, rngs: nnx.Rngs, example: Array, outputs: int) -> nnx.Module:
        """Builds the module for inputs like `example`.

        Args:
          rngs: the streams `params`, `dropout` and a default stream, each with its own key.
          example: a batch of inputs, [batch, *shape]; the module may depend only on its shape and dtype.
          outputs: the number of outputs per example, such as one logit per class.
        """
        return self._module("build(rngs, example, outputs)", example.shape[1:], outputs, rngs)

    def build_for_text(self, rngs: nnx.Rngs, example: Array, outputs: int, tokens: int) -> nnx.Module:
        """Builds the module for texts, if the class says `for_text`.

        Args:
          rngs: as in `build`.
          example: a batch of tokens, int32[batch, length]; a text that is shorter ends with padding, 0.
          outputs: the number of outputs per example.
          tokens: the number of tokens, with padding and the unknown token; all are below it.
        """
        return self._module("build_for_text(rngs, example, outputs, tokens)", tokens, outputs, rngs)

    def _module(self, method: str, inputs: Any, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
        if self.module is None:
            raise NotImplementedError(f"{type(self).__name__}: set `module`, or implement {method}")
        arguments = {name: getattr(self, name) for name in kinds(type(self))}
        return self.module(inputs, outputs, **arguments, rngs=rngs)

    def built(self, rngs: nnx.Rngs, example: Array, outputs: int, tokens: int = 0) -> nnx.Module:
        """Builds the module for data that have `tokens` tokens if they are texts, and 0 if not.

        Raises:
          ValueError: if the network is not for data of this kind.
        """
        if self.for_text and not tokens:
            raise ValueError(f"network: {self.kind()}: is for text, and the data are numbers: use another, such as cnn")
        if tokens and not self.for_text:
            raise ValueError(f"network: {self.kind()}: is not for text: use another, such as text-cnn")
        return self.build_for_text(rngs, example, outputs, tokens) if tokens else self.build(rngs, example, outputs)


class WithDropout:
    """A base class of network configurations with a field `dropout`: they are `per_example` while it is None."""

    dropout: float | None

    @property
    def per_example(self) -> bool:
        """True without dropout."""
        return self.dropout is None


class Variables(NamedTuple):
    """The variables of a network, as pure trees of arrays without Flax types.

    `params` are trained by gradient descent; `stats` are running averages, such as those of BatchNorm.
    """

    params: PyTree
    stats: PyTree


class Network(Protocol):
    """A network as a pair of pure functions; `functional` creates one from an NNX module."""

    def init(self, key: Key[Array, ""], example: Array) -> Variables:
        """Returns the initial variables for inputs like `example`."""

    def apply(
        self, variables: Variables, inputs: Array, *, train: bool, key: Key[Array, ""]
    ) -> tuple[Float[Array, "batch *outputs"], PyTree]:
        """Returns the outputs and the new `stats`; `key` seeds noise in training, such as dropout."""

    def module(self, variables: Variables, inputs: Array) -> nnx.Module:
        """Returns the module with these variables, in evaluation mode."""


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
        module = self._filled(variables, inputs, jax.random.key(0))
        module.eval()
        return module

    def _filled(self, variables: Variables, inputs: Array, key: Key[Array, ""]) -> nnx.Module:
        # A fresh module draws its noise from the key. Its initial values are overwritten, so XLA
        # removes their computation.
        module = self.build(_rngs(key), inputs)
        nnx.update(module, *map(_fitted, ("params", "stats"), _variables(module), variables))
        return module


def _rngs(key: Key[Array, ""]) -> nnx.Rngs:
    """Returns a separate stream for each kind of draw, so that adding dropout changes no initial value."""
    default, params, dropout = jax.random.split(key, 3)
    return nnx.Rngs(default, params=params, dropout=dropout)


def _variables(module: nnx.Module) -> Variables:
    _, *states = nnx.split(module, nnx.Param, (nnx.RngState, nnx.Intermediate), nnx.Variable, ...)
    params, _, stats, _ = states
    return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def _fitted(path: str, own: PyTree, given: PyTree) -> PyTree:
    """Returns the given arrays under the module's keys, whether they are integers or strings."""
    if not isinstance(own, Mapping):
        if isinstance(given, Mapping) or jax.numpy.shape(given) != own.shape:
            found = f"entries {', '.join(map(str, given))}" if isinstance(given, Mapping) else jax.numpy.shape(given)
            raise ValueError(f"{path}: the network expects an array of shape {own.shape}, not {found}")
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"{path}: the network expects entries {', '.join(map(str, own))}, not {type(given).__name__}")
    entries = {str(name): value for name, value in given.items()}
    names = {str(name): name for name in own}
    for name in names:
        if name not in entries:
            raise ValueError(f"{path}.{name}: missing: the network needs it")
    for name in entries:
        if name not in names:
            raise ValueError(
                f"{path}.{name}: not a variable of the network, which has {', '.join(names) or 'none'} here"
            )
    return {names[name]: _fitted(f"{path}.{name}", own[names[name]], value) for name, value in entries.items()}


def functional(build: Callable[[nnx.Rngs, Array], nnx.Module], axis: str | None = None) -> Network:
    """Turns an NNX module into a pair of pure functions, `init` and `apply`.

    >>> images = jax.numpy.zeros((8, 28, 28, 1))
    >>> network = functional(lambda rngs, example: nnx.Conv(1, 6, (5, 5), rngs=rngs))
    >>> variables = network.init(jax.random.key(0), images)
    >>> outputs, stats = network.apply(variables, images, train=False, key=jax.random.key(1))
    >>> outputs.shape
    (8, 28, 28, 6)

    `apply` needs every variable of the module: it raises a ValueError that names the first variable that
    is missing, unknown or of another shape. The keys of lists may be strings, as Orbax and msgpack
    return them.

    Args:
      build: a function `build(rngs, example)` that returns the module. `example` is a batch of inputs;
        the module may depend only on its shape and dtype. The module needs a method `__call__(inputs)`;
        `apply` sets its training or evaluation mode and its random streams.
      axis: the name of the mapped axis over which batches are sharded, if any. In training, BatchNorm
        computes its statistics over the whole axis.

    Returns:
      A `Network`: `init(key, example)` returns the initial `Variables`, and `apply(variables, inputs,
      train=..., key=...)` returns the outputs and the new `stats`.
    """
    return _Functional(build, axis)
