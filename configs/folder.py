"""A CNN of three blocks with batch normalization on a folder of images, with a folder for each class.

python experiments/train.py folder --data DIR
python experiments/sweep.py folder --data DIR

Images are cropped and scaled to 64x64 (`--image-size`, `--fit`), and flipped at random. A tenth of them is
cut for validation and a fifth for the test, unless DIR has `train`, `valid` and `test` folders. This is a
start for some hundred images or more of each class: with fewer, the test accuracy says little. It is
trained from nothing, so large networks that were trained on other photographs will do better.
"""

from cnnjax import SGD, CNNConfig, Cosine, Flip, Loading, SweepConfig, TrainConfig

train = TrainConfig(
    data="",
    loading=Loading(image_size=64),
    network=CNNConfig(filters=(16, 32, 64), batch_norm=True, head="global", dropout=0.2),
    optimizer=SGD(learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule=Cosine(warmup=0.05)),
    augment=(Flip(),),
    batch_size=32,
    epochs=20,
)
sweep = SweepConfig(train, axes=(("learning_rate", (0.03, 0.1, 0.3)),), seeds=3)
