"""The one seam where Flax NNX modules become functions of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from flax import nnx
from jax import Array
from jaxtyping import Float, Key

from cnnjax.config import Hparams
from cnnjax.networks.layers import Dropout

_NONE = Hparams()


class Variables(NamedTuple):
    """What a network holds: pure trees of arrays, without any Flax type in them.

    `params` is learned by gradient descent; `stats` are running averages, as of BatchNorm.
    """

    params: Any
    stats: Any


class Network(Protocol):
    """A pair of pure functions. `functional` makes one of an NNX module; any such pair will do.

    It is a static argument of compiled programs, so it must hash, and be equal by value if a
    rebuilt network is to find its compiled program again.
    """

    def init(self, key: Key[Array, ""], example: Array) -> Variables: ...

    def apply(
        self, variables: Variables, inputs: Array, *, train: bool, key: Key[Array, ""], hparams: Hparams = ...
    ) -> tuple[Float[Array, "batch classes"], Any]: ...


@dataclass(frozen=True)
class _Functional:
    build: Callable[[nnx.Rngs, Array], nnx.Module]
    axis: str | None

    def init(self, key: Key[Array, ""], example: Array) -> Variables:
        return _variables(self.build(nnx.Rngs(key), example))

    def apply(
        self, variables: Variables, inputs: Array, *, train: bool, key: Key[Array, ""], hparams: Hparams = _NONE
    ) -> tuple[Float[Array, "batch classes"], Any]:
        # A fresh module seeds its noise from the key. Its initial values are overwritten here and
        # never computed: XLA drops what nothing reads.
        module = self.build(nnx.Rngs(key), inputs)
        nnx.update(module, variables.params, variables.stats)
        if train:
            module.train()
            if self.axis:
                module.set_attributes(nnx.BatchNorm, axis_name=self.axis, raise_if_not_found=False)
            if hparams.dropout_rate is not None:
                module.set_attributes(Dropout, rate=hparams.dropout_rate, raise_if_not_found=False)
        else:
            module.eval()
        logits = module(inputs)
        return logits, _variables(module).stats


def _variables(module: nnx.Module) -> Variables:
    _, params, _, stats = nnx.split(module, nnx.Param, (nnx.RngState, nnx.Intermediate), ...)  # type: ignore[misc]
    return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def functional(build: Callable[[nnx.Rngs, Array], nnx.Module], axis: str | None = None) -> Network:
    """Turns an NNX module into pure functions `init` and `apply`.

    >>> network = functional(lambda rngs, example: LeNet5(example.shape[1:], 10, rngs=rngs))
    >>> variables = network.init(jax.random.key(0), images)
    >>> logits, stats = network.apply(variables, images, train=False, key=jax.random.key(1))

    Args:
      build: `build(rngs, example)` returns the module; `example` is a batch of inputs (only its
        shape and type may matter). The module needs a plain `__call__(inputs)`; it is put in
        train or evaluation mode and given its noise here.
      axis: name of a mapped axis over which batches are dealt out: in training, BatchNorm takes
        its statistics over all of it.

    Returns:
      A network that is equal to another if their `build` and `axis` are equal.
    """
    return _Functional(build, axis)
