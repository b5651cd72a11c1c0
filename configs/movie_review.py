"""The network of Kim (2014, CNN-rand) on sentences of movie reviews (from a prepared TFDS directory).

python experiments/train.py movie-review --data-dir DIR
python experiments/sweep.py movie-review --data-dir DIR
"""

from cnnjax import Adam, SweepConfig, TextCNNConfig, TrainConfig

train = TrainConfig(
    data="movie_review",
    network=TextCNNConfig(),
    optimizer=Adam(learning_rate=0.001),
    batch_size=50,
    epochs=6,
)
sweep = SweepConfig(train, axes=(("learning_rate", (0.0003, 0.001, 0.003)),), seeds=3)
