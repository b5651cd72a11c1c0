"""Optimizers: Optax transformations whose numbers may be tracers, so that each lane can have its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax
import optax.contrib
from jax import Array

from cnnjax.options import Config, config, number, part, static
from cnnjax.schedules import Cosine, Schedule


@config
class Optimizer(Config):
    """The base class of optimizers.

    A subclass implements `__call__(steps)`, which returns an Optax transformation for a run with that
    number of steps. `steps` and the number fields of the subclass may be tracers.
    """

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        raise NotImplementedError(f"{type(self).__name__}: an optimizer must implement __call__(steps)")


_CLIP = "maximum global norm; larger gradients are scaled down to it (Pascanu et al. 2013)"


def clipping(norm: Any) -> tuple[optax.GradientTransformation, ...]:
    """Returns the first transformations of a chain: clipping by the global norm, or none for None."""
    return () if norm is None else (optax.clip_by_global_norm(norm),)


def rate(optimizer: Any, steps: Any) -> Callable[[Array], Array]:
    """Returns the learning rate of an optimizer with a `schedule`, as a function of the step count."""
    return lambda count: optimizer.learning_rate * optimizer.schedule.factor(count, steps)


def kernels(params: Any) -> Any:
    """Returns a mask of the kernels: arrays with at least two dimensions, not biases or normalization scales."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


@config
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and coupled L2 weight decay.

    Weight decay adds `weight_decay * kernel` to the gradient before momentum. It does not apply to
    biases and normalization scales (arrays of one dimension).

    >>> transformation = SGD(learning_rate=0.1)(steps=100)  # an optax.GradientTransformation
    """

    learning_rate: float = number(0.1, "peak learning rate", least=0)
    momentum: float = number(0.9, "decay rate of the momentum", least=0, below=1)
    weight_decay: float = number(0.0, "coupled L2 weight decay of kernels", least=0)
    clip_norm: float | None = number(None, _CLIP, least=0)
    nesterov: bool = static(False, "whether to use Nesterov momentum")
    schedule: Schedule = part(Cosine(), "schedule of the learning rate")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, kernels)
        return optax.chain(*clipping(self.clip_norm), decay, optax.sgd(rate(self, steps), self.momentum, self.nesterov))


@config
class Adam(Optimizer):
    """The Adam optimizer (Kingma and Ba 2015)."""

    learning_rate: float = number(0.001, "peak learning rate", least=0)
    b1: float = number(0.9, "decay of the mean of gradients", least=0, below=1)
    b2: float = number(0.999, "decay of the mean of squared gradients", least=0, below=1)
    eps: float = number(1e-8, "constant added to the root mean square of gradients", least=1e-30)
    clip_norm: float | None = number(None, _CLIP, least=0)
    schedule: Schedule = part(Cosine(), "schedule of the learning rate")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        return optax.chain(*clipping(self.clip_norm), optax.adam(rate(self, steps), self.b1, self.b2, self.eps))


@config
class AdamW(Adam):
    """The AdamW optimizer: Adam with decoupled weight decay of kernels (Loshchilov and Hutter 2019)."""

    word = "adamw"
    weight_decay: float = number(1e-4, "decoupled weight decay of kernels, times the learning rate", least=0)

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        decay = {"weight_decay": self.weight_decay, "mask": kernels}
        adamw = optax.adamw(rate(self, steps), self.b1, self.b2, self.eps, **decay)
        return optax.chain(*clipping(self.clip_norm), adamw)


@config
class Lion(Optimizer):
    """The Lion optimizer: steps along the sign of a moving mean of gradients (Chen et al. 2023).

    All parameters take steps of the same size, so the rate is lower than for Adam, by a factor of 3 to 10.
    """

    learning_rate: float = number(3e-4, "peak learning rate", least=0)
    b1: float = number(0.9, "weight of the mean of gradients in a step", least=0, below=1)
    b2: float = number(0.99, "decay of the mean of gradients", least=0, below=1)
    weight_decay: float = number(1e-3, "decoupled weight decay of kernels, times the learning rate", least=0)
    clip_norm: float | None = number(None, _CLIP, least=0)
    schedule: Schedule = part(Cosine(), "schedule of the learning rate")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        decay = {"weight_decay": self.weight_decay, "mask": kernels}
        return optax.chain(*clipping(self.clip_norm), optax.lion(rate(self, steps), self.b1, self.b2, **decay))


@config
class RMSprop(Optimizer):
    """RMSprop: gradients divided by their root mean square (Tieleman and Hinton 2012), with momentum of the steps."""

    word = "rmsprop"
    learning_rate: float = number(0.001, "peak learning rate", least=0)
    decay: float = number(0.9, "decay of the mean of squared gradients", least=0, below=1)
    momentum: float = number(0.0, "decay rate of the momentum", least=0, below=1)
    eps: float = number(1e-8, "constant added to the root mean square of gradients", least=1e-30)
    clip_norm: float | None = number(None, _CLIP, least=0)
    schedule: Schedule = part(Cosine(), "schedule of the learning rate")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        how = {"eps_in_sqrt": False, "momentum": self.momentum}
        return optax.chain(*clipping(self.clip_norm), optax.rmsprop(rate(self, steps), self.decay, self.eps, **how))


@config
class Muon(Optimizer):
    """The Muon optimizer: orthogonalized momentum for kernels (Jordan et al. 2024), Adam for all other parameters.

    Kernels are the arrays named `kernel` of at least two dimensions, as those of convolutions and dense
    layers. A kernel [*inputs, outputs] is one matrix: all dimensions but the last are joined. Its step,
    an approximately orthogonal matrix, is multiplied by sqrt(max(1, outputs / inputs)). The two rates
    follow the same schedule.
    """

    learning_rate: float = number(0.02, "peak learning rate of kernels", least=0)
    momentum: float = number(0.95, "decay of the mean of gradients of kernels", least=0, below=1)
    weight_decay: float = number(0.0, "decoupled weight decay of kernels, times the learning rate", least=0)
    adam_learning_rate: float = number(0.001, "peak learning rate of all other parameters", least=0)
    b1: float = number(0.9, "decay of Adam's mean of gradients", least=0, below=1)
    b2: float = number(0.999, "decay of Adam's mean of squared gradients", least=0, below=1)
    eps: float = number(1e-8, "constant added to norms and root mean squares", least=1e-30)
    clip_norm: float | None = number(None, _CLIP, least=0)
    nesterov: bool = static(True, "whether to use Nesterov momentum, for Adam as well")
    iterations: int = static(5, "Newton-Schulz iterations of the orthogonalization", least=1)
    schedule: Schedule = part(Cosine(), "schedule of both learning rates")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        muon = optax.contrib.muon(
            rate(self, steps),
            ns_steps=self.iterations,
            beta=self.momentum,
            eps=self.eps,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_learning_rate=lambda count: self.adam_learning_rate * self.schedule.factor(count, steps),
            muon_weight_dimension_numbers=_as_matrices,
        )
        return optax.chain(*clipping(self.clip_norm), muon)


def _as_matrices(params: Any) -> Any:
    """Returns the input and output dimensions of each kernel, and None for every other parameter."""

    def matrix(path: tuple[Any, ...], array: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if array.ndim < 2 or jax.tree_util.keystr(path[-1:], simple=True) != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)

    return jax.tree.map_with_path(matrix, params)
