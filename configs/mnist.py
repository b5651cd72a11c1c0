"""LeNet-5 on MNIST (28x28x1, from a prepared TFDS directory).

python experiments/train.py mnist --data-dir DIR
python experiments/sweep.py mnist --data-dir DIR

Training takes about a minute on two cores and reaches a test accuracy of about 99.2 %.
"""

from cnnjax import SGD, LeNet5Config, SweepConfig, TrainConfig

train = TrainConfig(
    data="mnist",
    network=LeNet5Config(),
    optimizer=SGD(learning_rate=0.05, momentum=0.9, weight_decay=5e-4),
    batch_size=128,
    epochs=15,
)
sweep = SweepConfig(
    train,
    axes=(("learning_rate", (0.01, 0.03, 0.1)), ("filters", ((6, 16), (12, 32)))),
    seeds=3,
)
