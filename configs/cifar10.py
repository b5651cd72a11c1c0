"""A CNN of three blocks with batch normalization on CIFAR-10 (32x32x3, from a prepared TFDS directory).

python experiments/train.py cifar10 --data-dir DIR
"""

from cnnjax import SGD, CNNConfig, Cosine, SweepConfig, TrainConfig

train = TrainConfig(
    data="cifar10",
    network=CNNConfig(filters=(32, 64, 128), batch_norm=True, dropout=0.3),
    optimizer=SGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule=Cosine(warmup=0.05)),
    batch_size=128,
    epochs=10,
)
sweep = SweepConfig(
    train,
    axes=(("learning_rate", (0.03, 0.1, 0.3)), ("filters", ((16, 32, 64), (32, 64, 128)))),
    seeds=3,
)
