"""Optimizers: Optax transformations whose numbers may be tracers, so that each lane can have its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax
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
