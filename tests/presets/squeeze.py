"""A squeeze-and-excitation network on patterns in noise: every part is defined here.

python experiments/sweep.py squeeze.py --gamma 0 1 2 --seeds 2
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from cells import patterns
from flax import nnx

from cnnjax import (
    Adam,
    Augmentation,
    Dataset,
    Dropout,
    Loss,
    Metric,
    NetworkConfig,
    Optimizer,
    Shift,
    Split,
    SweepConfig,
    TrainConfig,
    config,
    conv_general_dilated,
    number,
    static,
)


class SENet(nnx.Module):
    """Convolutions whose maps are each scaled by a gate that sees the mean of all (Hu et al. 2018)."""

    def __init__(self, input_shape, classes, *, filters, reduction, gate, dropout, rngs):
        self.convolutions, self.squeezes, self.excitations = nnx.List(), nnx.List(), nnx.List()
        channels, self.gate = input_shape[-1], gate
        for count in filters:
            self.convolutions.append(
                nnx.Conv(channels, count, (3, 3), conv_general_dilated=conv_general_dilated, rngs=rngs)
            )
            self.squeezes.append(nnx.Linear(count, count // reduction, rngs=rngs))
            self.excitations.append(nnx.Linear(count // reduction, count, rngs=rngs))
            channels = count
        self.dropout = None if dropout is None else Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, x):
        for convolution, squeeze, excite in zip(self.convolutions, self.squeezes, self.excitations, strict=True):
            x = nnx.relu(convolution(x))
            scale = nnx.sigmoid(excite(nnx.relu(squeeze(x.mean((1, 2))))))
            x = x * (1 + self.gate * (scale - 1))[:, None, None]
        x = x.mean((1, 2))
        return self.head(x if self.dropout is None else self.dropout(x))


@config
class SENetConfig(NetworkConfig):
    """The arguments of `SENet`."""

    module = SENet
    filters: tuple[int, ...] = static((8, 16), "channels of each convolution")
    reduction: int = static(4, "channels for each unit of a gate", least=1)
    gate: float = number(1.0, "strength of the gates; 0 leaves maps as they are", least=0, most=1)
    dropout: float | None = number(None, "fraction of the head's inputs set to zero", least=0, below=1)


@config
class FocalLoss(Loss):
    """Cross-entropy in which what is known counts less: times (1 - p)^gamma (Lin et al. 2017)."""

    gamma: float = number(2.0, "how much less; 0 is cross-entropy", least=0)

    def __call__(self, logits, labels):
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
        return -jnp.power(jnp.clip(1 - jnp.exp(log_p), 1e-6, 1), self.gamma) * log_p

    def for_evaluation(self):
        """Cross-entropy, so that losses compare under every gamma."""
        return FocalLoss(gamma=0.0)


@config
class Signs(Optimizer):
    """Steps of one size, along the signs of the gradient's moving mean."""

    learning_rate: float = number(0.003, "size of a step", least=0)
    decay: float = number(0.9, "decay of the mean", least=0, below=1)

    def __call__(self, steps):
        return optax.chain(optax.ema(self.decay), optax.scale_by_sign(), optax.scale(-1.0 * self.learning_rate))


@config
class Noise(Augmentation):
    """Adds normal noise to the inputs."""

    scale: float = number(0.1, "its standard deviation", least=0)

    def __call__(self, key, batch):
        return batch._replace(inputs=batch.inputs + self.scale * jax.random.normal(key, batch.inputs.shape))


@config
class TopTwo(Metric):
    """The share of examples whose label has one of the two largest logits."""

    percent = True

    def __call__(self, logits, labels):
        own = jnp.take_along_axis(logits, labels[:, None], 1)
        return ((logits > own).sum(1) < 2).astype(jnp.float32)


def data() -> Dataset:
    """Four patterns in noise, from arrays."""
    inputs, labels = patterns(600, np.random.default_rng(0))
    return Dataset.of("patterns", ("cross", "ring", "bar", "dot"), Split(inputs, labels))


train = TrainConfig(
    network=SENetConfig(),
    optimizer=Adam(learning_rate=0.01),
    loss=FocalLoss(),
    augment=(Shift(cells=1.0), Noise()),
    batch_size=32,
    epochs=3,
)
sweep = SweepConfig(train, axes=(("gamma", (0.0, 2.0)),), seeds=2)
