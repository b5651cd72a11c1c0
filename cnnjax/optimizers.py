"""Optimizers: Optax transformations built from numbers that may be tracers, so that each lane has its own."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array

from cnnjax.options import Config, config, number, part, static
from cnnjax.schedules import Cosine, Schedule


@config
class Optimizer(Config):
    """The base of optimizers.

    A subclass implements `__call__(steps)`, which returns an Optax transformation for a run of that
    many steps. `steps` and every number of the subclass may be a tracer.
    """

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        raise NotImplementedError(f"{type(self).__name__}: an optimizer implements __call__(steps)")


_CLIP = "global norm to which larger gradients are scaled down (Pascanu et al. 2013)"


def clipping(norm: Any) -> tuple[optax.GradientTransformation, ...]:
    """What to chain first: clipping by the global norm, or nothing for None."""
    return () if norm is None else (optax.clip_by_global_norm(norm),)


def rate(optimizer: Any, steps: Any) -> Callable[[Array], Array]:
    """The learning rate of an optimizer with a `schedule`, as a function of the steps taken so far."""
    return lambda count: optimizer.learning_rate * optimizer.schedule.factor(count, steps)


def kernels(params: Any) -> Any:
    """Which arrays are kernels: those of two or more dimensions, not biases or normalization scales."""
    return jax.tree.map(lambda array: array.ndim > 1, params)


@config
class SGD(Optimizer):
    """Stochastic gradient descent with momentum and coupled L2 decay.

    Decay adds `weight_decay * kernel` to the gradient before momentum; biases and normalization
    scales (arrays of one dimension) have none.
    """

    learning_rate: float = number(0.1, "peak learning rate", least=0)
    momentum: float = number(0.9, "share of the last update that is kept", least=0, below=1)
    weight_decay: float = number(0.0, "coupled L2 decay of kernels", least=0)
    clip_norm: float | None = number(None, _CLIP, least=0)
    nesterov: bool = static(False, "Nesterov's form of momentum")
    schedule: Schedule = part(Cosine(), "factor of the learning rate over training")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        decay = optax.add_decayed_weights(self.weight_decay, kernels)
        return optax.chain(*clipping(self.clip_norm), decay, optax.sgd(rate(self, steps), self.momentum, self.nesterov))


@config
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015)."""

    learning_rate: float = number(0.001, "peak learning rate", least=0)
    b1: float = number(0.9, "decay of the mean of gradients", least=0, below=1)
    b2: float = number(0.999, "decay of the mean of squared gradients", least=0, below=1)
    eps: float = number(1e-8, "added to the root of the mean square", least=1e-30)
    clip_norm: float | None = number(None, _CLIP, least=0)
    schedule: Schedule = part(Cosine(), "factor of the learning rate over training")

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        return optax.chain(*clipping(self.clip_norm), optax.adam(rate(self, steps), self.b1, self.b2, self.eps))


@config
class AdamW(Adam):
    """Adam with decoupled weight decay of kernels (Loshchilov and Hutter 2019)."""

    word = "adamw"
    weight_decay: float = number(1e-4, "decoupled decay of kernels, times the learning rate", least=0)

    def __call__(self, steps: Any) -> optax.GradientTransformation:
        decay = {"weight_decay": self.weight_decay, "mask": kernels}
        adamw = optax.adamw(rate(self, steps), self.b1, self.b2, self.eps, **decay)
        return optax.chain(*clipping(self.clip_norm), adamw)
