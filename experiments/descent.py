"""Gradient descent on a bowl: two weights, three learning rates, and an animated picture.

python experiments/descent.py [--file descent.gif] [--steps 24]

A linear neuron w1 x1 + w2 x2 is fitted to 64 examples by least squares, with three learning rates that are lanes of
one program. This takes about ten seconds on two cores. The loss starts at 1.09. After the last step it is 0.65 with a
rate of 0.03, which creeps; 0.008 with 0.7, which arrives; and 1.08 with 1.15, which overshoots the valley, from side
to side.
"""

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from PIL import Image

from cnnjax import SGD, Constant, Dataset, Loss, Metric, NetworkConfig, Split, TrainConfig, config, make_task
from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import fail
from cnnjax.look import Plane, spaced, surface, trajectory
from cnnjax.options import with_values
from cnnjax.pictures.surface import Descent, descent_frames
from cnnjax.sweeps import Program, Trial, compile_program
from cnnjax.training import Lanes

RATES = {"creeps": 0.03, "arrives": 0.7, "overshoots": 1.15}
START, TEACHER, SIDE = (-1.0, 2.7), (0.6, 0.4), 3.0
MILLISECONDS = 350


class Neuron(nnx.Module):
    """A weighted sum of its inputs."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.weights = nnx.Param(jnp.array(START))

    def __call__(self, inputs: Array) -> Array:
        return inputs @ self.weights[...]


@config
class NeuronConfig(NetworkConfig):
    """A neuron with two weights, initialized to `START`."""

    per_example = True

    def build(self, rngs: nnx.Rngs, example: Array, outputs: int) -> nnx.Module:
        """The neuron."""
        return Neuron(rngs=rngs)


@config
class LeastSquares(Loss):
    """1/2 (target - output)^2."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        return 0.5 * jnp.square(labels - logits)


@config
class AbsoluteError(Metric):
    """|target - output|."""

    higher_is_better = False

    def __call__(self, logits: Array, labels: Array) -> Array:
        return jnp.abs(labels - logits)


def examples(count: int = 64) -> Dataset:
    """Returns two correlated inputs, and their weighted sum with noise."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(count, 1)), rng.normal(size=(count, 2))
    inputs = (common + 0.5 * own).astype(np.float32)
    labels = inputs @ TEACHER + 0.1 * rng.normal(size=count)
    split = Split(inputs, labels.astype(np.float32))
    return Dataset.of("two inputs", (), split, split, split)


def descents(data: Dataset, steps: int) -> tuple[TrainConfig, list[Descent]]:
    """Returns the paths of full-batch gradient descent, one for each rate."""
    base = TrainConfig(
        NeuronConfig(),
        SGD(learning_rate=1.0, momentum=0.0, schedule=Constant()),
        loss=LeastSquares(),
        metric=AbsoluteError(),
        data=data.name,
        batch_size=len(data.train.labels),
        epochs=steps,
    )
    configs = [with_values(base, {"learning_rate": rate}) for rate in RATES.values()]
    trials = tuple(Trial(number, number, (), config) for number, config in enumerate(configs))
    run = compile_program(Program(trials, Lanes()), data)
    points = [(state.params["weights"], np.asarray(run.evaluate(state).loss)) for _, state in trajectory(run, 1)]
    places, losses = (np.stack(column, 1) for column in zip(*points, strict=True))
    names = [f"rate {rate:g}: {name}" for name, rate in RATES.items()]
    return base, [Descent(*each) for each in zip(names, places, [()] * 3, losses, strict=True)]


@dataclass(frozen=True)
class Arguments:
    """The picture."""

    file: Path = Path("descent.gif")
    """file of the picture"""
    steps: int = 24
    """number of steps of gradient descent"""
    points: int = 61
    """number of points along each side of the grid"""
    debug: bool = False
    """show full tracebacks"""


def main(arguments: Arguments) -> None:
    """Trains with each rate, prints the losses, and writes the picture."""
    for name, least in (("steps", 1), ("points", 3)):
        if getattr(arguments, name) < least:
            fail(f"{name}: {getattr(arguments, name)}: must be at least {least}", 2)
    data = examples()
    base, paths = descents(data, arguments.steps)
    axes = [{"weights": jnp.array(vector)} for vector in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))]
    axis = spaced(-SIDE, SIDE, arguments.points)
    task = make_task(base, data.spec)
    loss = np.asarray(surface(task, {}, Plane(*axes), axis, axis, data.train, Lanes()).loss)
    print(
        f"loss of the start {paths[0].losses[0]:.4f}, least on the grid {loss.min():.4f}; after {arguments.steps} steps"
    )
    for path in paths:
        print(f"  {path.name:20s} {path.losses[-1]:.4f}")
    frames = [Image.fromarray(frame) for frame in descent_frames(axis, axis, loss, ("w1", "w2"), paths)]
    colors = frames[-1].quantize(255)
    first, *rest = (frame.quantize(palette=colors, dither=Image.Dither.NONE) for frame in frames)
    pauses = [MILLISECONDS] * len(rest) + [8 * MILLISECONDS]
    first.save(arguments.file, save_all=True, append_images=rest, duration=pauses, loop=0)
    print(arguments.file)


if __name__ == "__main__":
    run_form(main, Arguments, __doc__)
