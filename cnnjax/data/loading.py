"""How data are read and split: a part of the configuration of a run."""

import dataclasses
from collections.abc import Collection
from typing import Literal

from cnnjax.data.dataset import DataError
from cnnjax.options import Config, config, static, text


@config
class Loading(Config):
    """How data are read and split.

    Each kind of data uses some of the fields; another value of the others is an error.

    >>> from cnnjax import load
    >>> digits = load("digits", loading=Loading(test_share=0.5))
    >>> len(digits.train.labels), len(digits.valid.labels), len(digits.test.labels)
    (718, 180, 899)
    """

    image_size: int | None = static(None, "height and width of images in pixels; none keeps their size", least=1)
    fit: Literal["crop", "pad", "stretch"] = static(
        "crop", "how images of other proportions are fitted to --image-size"
    )
    input_key: str | None = static(None, "TensorFlow Datasets feature, or column of texts, with the inputs")
    label_key: str | None = static(None, "TensorFlow Datasets feature, or column, with the labels")
    max_length: int | None = static(
        None,
        "steps of series of unequal length: longer ones are cut, shorter ones repeat their last value; words of a text",
        least=1,
    )
    min_count: int = static(2, "times that the training texts must have a word, else it is unknown", least=1)
    valid_share: float | None = static(
        None, "share of all examples to cut for validation (default: 0.1, at most 5,000)", least=0, below=1
    )
    test_share: float | None = static(
        None, "share of all examples to cut for the test (default: 0.2)", least=0, below=1
    )
    fold: str | None = static(None, "fold of a cross-validation to use, such as 3/10 for the third of ten")

    def check_used(self, name: str, used: Collection[str]) -> None:
        """Raises DataError for a field with a value of its own that data of this kind do not use."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in used and value != field.default:
                words = f"which use {', '.join(used)}" if used else "which are read as they are"
                raise DataError(f"{field.name}: {text(value)}: does not apply to the data {name}, {words}")
