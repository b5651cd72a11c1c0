"""The network of Kim (2014, CNN-rand) on sentences of movie reviews (from a prepared TFDS directory).

python experiments/train.py movie-review --data-dir DIR
python experiments/sweep.py movie-review --data-dir DIR

The task is to tell positive from negative sentences. Training takes about three minutes on two cores and reaches a
test accuracy of about 77 %; Kim reports 76.1 % over ten folds. The embedding starts at random: word vectors from
other texts, which the paper has as well, are not read.
"""

from cnnjax import Adam, SweepConfig, TextCNNConfig, TrainConfig

train = TrainConfig(
    data="movie_review",
    network=TextCNNConfig(),
    optimizer=Adam(learning_rate=0.001),
    batch_size=50,
    epochs=5,
)
sweep = SweepConfig(train, axes=(("learning_rate", (0.0003, 0.001, 0.003)),), seeds=3)
