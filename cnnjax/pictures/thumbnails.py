"""Small pictures of single inputs."""

import io

import numpy as np
from jaxtyping import Num
from PIL import Image

from cnnjax.data import Spec
from cnnjax.pictures.drawing import STYLES, paper
from cnnjax.pictures.sheet import as_curves


def thumbnail(values: Num[np.ndarray, "..."], spec: Spec) -> bytes | None:
    """Draws an input: an image as a PNG file with a pixel for each of its pixels, a series as curves over time.

    Values are scaled from the range of the training data, or from that of the input if it is not recorded; each
    channel of a series has its own scale. Images with other than 1 or 3 channels show the mean of the channels.
    Returns None for inputs with more dimensions.

    Args:
      values: the input as the data set stores it, [height, width, channels] or [time, channels].
      spec: the specification of the data.
    """
    buffer = io.BytesIO()
    values = np.nan_to_num(np.asarray(values, np.float32))
    if values.ndim == 2:
        figure, [[axis]] = paper(1, 1, 1.6, 1.0)
        scaled = as_curves(values, (spec.low or values.min(0), spec.high or values.max(0)))
        for channel, (color, line, _) in zip(scaled.T, STYLES * len(values.T), strict=False):
            axis.plot(channel, color=color, linestyle=line, linewidth=1)
        axis.set(ylim=(-0.05, 1.05))
        axis.set_axis_off()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()
    if values.ndim != 3:
        return None
    low, high = (np.array(end) if end else each for end, each in ((spec.low, values.min()), (spec.high, values.max())))
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    if scaled.shape[-1] != 3:
        scaled = scaled.mean(-1)
    Image.fromarray((255 * scaled).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
