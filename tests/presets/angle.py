"""Predicts the angle of a bar: regression, with a loss and a metric of its own.

python experiments/train.py angle.py
"""

import jax.numpy as jnp
import numpy as np

from cnnjax import SGD, CNNConfig, Dataset, Loss, Metric, Split, SweepConfig, TrainConfig, config


@config
class Turn(Loss):
    """1 - cos(2 (predicted - angle)): a bar looks the same after half a turn."""

    def __call__(self, logits, labels):
        return 1 - jnp.cos(2 * (logits[:, 0] - labels))


@config
class Degrees(Metric):
    """The angle between the predicted bar and the true one, from 0 to 90 degrees."""

    higher_is_better = False

    def __call__(self, logits, labels):
        apart = jnp.mod(logits[:, 0] - labels, jnp.pi)
        return jnp.degrees(jnp.minimum(apart, jnp.pi - apart))


def bars(count: int, seed: int) -> Split:
    """Images [count, 12, 12, 1] of a bar through the center under noise, and its angle in radians."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(0, np.pi, count).astype(np.float32)
    y, x = np.mgrid[-5.5:6.5, -5.5:6.5]
    off = np.cos(angles)[:, None, None] * y - np.sin(angles)[:, None, None] * x
    images = np.exp(-(off**2)) + rng.normal(0, 0.1, off.shape)
    return Split(images[..., None].astype(np.float32), angles)


data = Dataset.of("bars", (), bars(800, 0), bars(200, 1), bars(200, 2))
train = TrainConfig(
    network=CNNConfig(filters=(8, 16), dense=(32,)),
    optimizer=SGD(learning_rate=0.03),
    loss=Turn(),
    metric=Degrees(),
    batch_size=32,
    epochs=8,
)
sweep = SweepConfig(train, axes=(("learning_rate", (0.01, 0.03)),), seeds=2)
