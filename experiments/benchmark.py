"""Times one training step of LeNet-5 (batch 128) as it is here and as stock Flax computes it.

Each at the top level of a jitted program and inside `lax.scan`; the variants take turns in one
process, so that ratios hold where the machine's speed drifts.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from command_line import fail
from flax import nnx
from jax import Array, lax

from cnnjax import Hparams, LeNet5, functional
from cnnjax.data import Split
from cnnjax.losses import cross_entropy
from cnnjax.optimizers import SCHEDULES, SGD
from cnnjax.training import Task, TrainState, init, step

BATCH = 128
HPARAMS = Hparams(learning_rate=0.01, steps=10_000)


class StockLeNet5(nnx.Module):
    """LeNet-5 of `nnx.Conv` and `nnx.max_pool` alone."""

    def __init__(self, rngs: nnx.Rngs):
        self.c1 = nnx.Conv(1, 6, (5, 5), padding=2, rngs=rngs)
        self.c3 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        sizes = (400, 120, 84, 10)
        self.dense = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairwise(sizes)])

    def __call__(self, inputs: Array) -> Array:
        """Logits of a batch of images."""
        x = inputs
        for convolution in (self.c1, self.c3):
            x = nnx.max_pool(nnx.relu(convolution(x)), (2, 2), strides=(2, 2))
        c5, f6, output = self.dense
        return output(nnx.relu(f6(nnx.relu(c5(x.reshape(x.shape[0], -1))))))


def _ours(rngs: nnx.Rngs, example: Array) -> nnx.Module:
    return LeNet5(example.shape[1:], 10, rngs=rngs)


def _stock(rngs: nnx.Rngs, example: Array) -> nnx.Module:
    return StockLeNet5(rngs)


def _identity(key: Array, inputs: Array, hparams: Hparams, *, train: bool) -> Array:
    return inputs


@dataclass(frozen=True)
class Arguments:
    rounds: int = 9
    """turns of every variant; medians are printed"""
    steps: int = 20
    """steps a turn; a tenth of them where a step is slow"""
    json: Path | None = None
    """also write the figures to this file"""

    def __post_init__(self) -> None:
        if min(self.rounds, self.steps) < 1:
            fail(f"rounds, steps: {self.rounds}, {self.steps}: must be at least 1", 2)
        if self.json and not self.json.parent.is_dir():
            fail(f"json: {self.json}: there is no such folder", 1)


Variant = tuple[Callable[[TrainState], TrainState], TrainState, int]


def variants(steps: int) -> dict[str, Variant]:
    """By name: a function that takes some steps, the state to start from, and how many steps."""
    inputs = jax.random.normal(jax.random.key(1), (BATCH, 28, 28, 1))
    batch = Split(inputs, jnp.arange(BATCH) % 10)
    found: dict[str, Variant] = {}
    for name, build in (("cnnjax", _ours), ("stock flax", _stock)):
        optimizer = SGD(SCHEDULES["cosine"])
        task = Task(functional(build), _identity, cross_entropy, optimizer, BATCH)
        state = init(task, jax.random.key(0), HPARAMS, inputs)
        one = jax.jit(lambda state, batch, task=task: step(task, jax.random.key(0), state, batch, HPARAMS)[0])

        @partial(jax.jit, static_argnums=2)
        def scanned(state: TrainState, batch: Split, n: int, one: Any = one) -> TrainState:
            return lax.scan(lambda state, _: (one(state, batch), None), state, None, length=n)[0]

        def top(state: TrainState, n: int, one: Any = one) -> TrainState:
            for _ in range(n):
                state = one(state, batch)
            return state

        n = max(2, steps // 10) if name == "stock flax" else steps
        found[f"{name}, top level"] = (partial(top, n=n), state, n)
        found[f"{name}, in scan"] = (partial(lambda state, n, f: f(state, batch, n), n=n, f=scanned), state, n)
    return found


def main(arguments: Arguments) -> None:
    runs = variants(arguments.steps)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(arguments.rounds + 1):
        for name, (function, state, n) in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(function(state))
            if turn:  # the first compiles
                times[name].append(1e3 * (time.perf_counter() - began) / n)
    medians = {name: statistics.median(values) for name, values in times.items()}
    device = jax.devices()[0]
    where = f"{device.platform}, jax {jax.__version__}"
    print(f"LeNet-5, batch {BATCH}, ms a training step, {arguments.rounds} turns; {where}")
    for name, values in times.items():
        print(f"  {name:24s} median {medians[name]:7.2f}  min {min(values):7.2f}  max {max(values):7.2f}")

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))

    ratios = {
        "cnnjax in scan / cnnjax top level": ratio("cnnjax, in scan", "cnnjax, top level"),
        "stock top level / cnnjax top level": ratio("stock flax, top level", "cnnjax, top level"),
        "stock in scan / cnnjax in scan": ratio("stock flax, in scan", "cnnjax, in scan"),
    }
    for name, value in ratios.items():
        print(f"  {name:36s} {value:6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"ms": times, "medians": medians, "ratios": ratios}, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
