"""Times training in cnnjax, PyTorch and stock Flax in turns.

For each net (a: digits, b: LeNet-5, c: six convolutions on 32x32x3, d: ResNet-20) and number of
models, every variant runs training steps with momentum, weight decay, a cosine schedule and batches of
data on the device. The variants run in turns, so that ratios hold even if the speed of the machine
drifts. Each library has its own process. `sweep` times whole processes. `augmentations` times the steps of a
linear model on batches of 128, with and without each augmentation. `operations` times single convolutions.
"""

import itertools
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import operations
import tyro
from flax import nnx
from jax import Array, lax
from tqdm import tqdm

from cnnjax import (
    SGD,
    Accuracy,
    Affine,
    AlternatingFlip,
    Augmentation,
    CNNConfig,
    ColorJitter,
    CrossEntropy,
    CutMix,
    Cutout,
    Flip,
    Jitter,
    LeNet5Config,
    Mixup,
    MLPConfig,
    ResNetConfig,
    Scaling,
    Shift,
    SweepConfig,
    TrainConfig,
    WindowSlice,
    conv_general_dilated,
    data,
    max_pool,
    planning,
    sweeps,
    training,
)
from cnnjax.commands.errors import fail, usage
from cnnjax.data import DataError, Dataset, Split
from cnnjax.networks import NetworkConfig
from cnnjax.options import config
from cnnjax.presets import load_preset
from cnnjax.sweeps import shown
from cnnjax.training import TrainState, init, make_task, programs, step

Layers = tuple[tuple[Any, ...], ...]


class Net(NamedTuple):
    """A net of the benchmark, as a configuration for cnnjax and as layers for the peers."""

    title: str
    data: str
    shape: tuple[int, int, int]
    batch: int
    config: NetworkConfig
    layers: Layers | None
    """None for ResNet-20, which the peers define themselves."""
    turn: int
    """The number of steps per turn."""
    rate: float
    steps: int
    """The number of training steps before accuracies are compared, rounded up to full epochs."""


def _pair(filters: int) -> Layers:
    return (("conv", filters, 3, 1), ("conv", filters, 3, 1), ("pool",))


HERE = Path(__file__).parent
NETS = {
    "a": Net(
        "digits 8x8x1, 16, 32",
        "digits",
        (8, 8, 1),
        64,
        CNNConfig(filters=(16, 32)),
        (("conv", 16, 3, 1), ("pool",), ("conv", 32, 3, 1), ("pool",), ("dense", 10)),
        200,
        0.03,
        570,
    ),
    "b": Net(
        "LeNet-5 28x28x1",
        "mnist",
        (28, 28, 1),
        128,
        LeNet5Config(),
        (("conv", 6, 5, 2), ("pool",), ("conv", 16, 5, 0), ("pool",), ("dense", 120), ("dense", 84), ("dense", 10)),
        32,
        0.03,
        300,
    ),
    "c": Net(
        "CIFAR 32x32x3, 2x32, 2x64, 2x128",
        "cifar10",
        (32, 32, 3),
        128,
        CNNConfig(filters=(32, 64, 128), convolutions=2),
        (*_pair(32), *_pair(64), *_pair(128), ("dense", 10)),
        8,
        0.03,
        150,
    ),
    "d": Net("ResNet-20 32x32x3", "cifar10", (32, 32, 3), 128, ResNetConfig(), None, 8, 0.1, 100),
}


@dataclass(frozen=True)
class Arguments:
    what: tuple[Literal["a", "b", "c", "d", "sweep", "memory", "augmentations", "operations"], ...] = (
        "a",
        "b",
        "c",
        "d",
        "sweep",
    )
    """nets to time, the whole sweep, the memory of a sweep with and without donated states, each augmentation, and
    single convolutions"""
    operations: tuple[str, ...] = tuple(operations.OPERATIONS)
    """the convolutions of `operations`"""
    models: tuple[int, ...] = (1, 16)
    """numbers of models to train at once"""
    peers: tuple[Literal["torch", "compile", "func", "stock"], ...] = ("torch", "compile", "func", "stock")
    """peers: PyTorch eager, torch.compile, torch.func.vmap, stock Flax"""
    rounds: int = 7
    """number of turns of each variant (only one if a turn takes over 20 s); medians are printed"""
    steps: int | None = None
    """number of steps of a turn, over all models; by default that of the net"""
    seeds: int = 3
    """number of seeds per library for the comparison of accuracies (0: no comparison)"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data, mnist and cifar10; synthetic images if they are missing"""
    json: Path | None = None
    """file for the results as JSON"""
    figure: Path | None = None
    """file for a plot of the results"""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            fail(f"steps: {self.steps}: must be at least 1", 2)
        if self.rounds < 1 or self.seeds < 0 or not self.models or min(self.models) < 1:
            fail(f"rounds, models, seeds: {self.rounds}, {self.models}, {self.seeds}: must be at least 1, 1 and 0", 2)
        if unknown := [name for name in self.operations if name not in operations.OPERATIONS]:
            fail(f"operations: {unknown[0]}: must be one of {', '.join(operations.OPERATIONS)}", 2)
        for path in (self.json, self.figure):
            if path and not path.parent.is_dir():
                fail(f"{path}: its folder does not exist", 1)


# ------------------------------------------------------------------------- data


def images(net: Net, data_dir: Path | None) -> tuple[list[np.ndarray], str]:
    """Returns standardized inputs and labels for training and test, [x, y, test x, test y], and their source."""
    try:
        found = data.load(net.data, data_dir)
        source = net.data
    except DataError:
        found, source = made(net), f"synthetic, because {net.data} is missing"
    x, y = (np.asarray(array[: 64 * net.batch]) for array in found.train)
    test_x, test_y = (np.asarray(array[:2048]) for array in found.test)
    x, test_x = (np.asarray(found.spec.standardize(jnp.asarray(a))) for a in (x, test_x))
    return [x, y.astype(np.int32), test_x, test_y.astype(np.int32)], source


def made(net: Net) -> Dataset:
    """Creates synthetic data: ten random patterns with noise, as ten classes."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(10, *net.shape))

    def split(count: int) -> Split:
        labels = rng.integers(0, 10, count).astype(np.int32)
        noisy = 128 + 12 * patterns[labels] + 50 * rng.normal(size=(count, *net.shape))
        return Split(noisy.clip(0, 255).astype(np.uint8), labels)

    return Dataset.of("made", tuple(map(str, range(10))), split(64 * net.batch), split(2048), split(2048))


def _dataset(arrays: Sequence[np.ndarray]) -> Dataset:
    x, y, test_x, test_y = arrays
    test = Split(test_x, test_y)
    return Dataset.of("benchmark", tuple(map(str, range(10))), Split(x, y), test, test)


# ------------------------------------------------------------------------- variants in JAX


class StockNet(nnx.Module):
    """A net of `nnx.Conv`, max pooling and `nnx.Linear`; by default entirely stock Flax."""

    def __init__(
        self,
        layers: Layers,
        shape: tuple[int, int, int],
        convolution: Any = lax.conv_general_dilated,
        pool: Any = nnx.max_pool,
        *,
        rngs: nnx.Rngs,
    ):
        size, channels, flat = shape[0], shape[-1], False
        built: list[Any] = []
        for kind, *numbers in layers:
            if kind == "conv":
                filters, kernel, padding = numbers
                window = (kernel, kernel)
                built.append(
                    nnx.Conv(channels, filters, window, padding=padding, conv_general_dilated=convolution, rngs=rngs)
                )
                size, channels = size + 2 * padding - kernel + 1, filters
            elif kind == "pool":
                built.append(partial(pool, window_shape=(2, 2), strides=(2, 2)))
                size //= 2
            else:
                channels, flat = (channels if flat else channels * size * size), True
                built.append(nnx.Linear(channels, numbers[0], rngs=rngs))
                channels = numbers[0]
        self.layers = nnx.List(built)

    def __call__(self, x: Array) -> Array:
        for i, layer in enumerate(self.layers):
            if isinstance(layer, nnx.Linear):
                x = x.reshape(x.shape[0], -1)
            x = layer(x)
            if isinstance(layer, nnx.Conv | nnx.Linear) and i < len(self.layers) - 1:
                x = nnx.relu(x)
        return x


@config
class Stock(NetworkConfig):
    """The configuration of a `StockNet`."""

    layers: Layers
    shape: tuple[int, int, int]
    drop_in: bool = False
    """Whether convolution and pooling are those of cnnjax."""

    def build(self, rngs: nnx.Rngs, example: Array, outputs: int) -> nnx.Module:
        operations = (conv_general_dilated, max_pool) if self.drop_in else ()
        return StockNet(self.layers, self.shape, *operations, rngs=rngs)


OPTIMIZER = SGD(learning_rate=0.01, momentum=0.9, weight_decay=5e-4)

_LONG = 20_000  # milliseconds; a variant with longer turns has only one turn

_cases: dict[str, Callable[[int], float]] = {}


def _timed(function: Callable[[int], Any], models: int) -> Callable[[int], float]:
    def timed(steps: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(function(steps))
        return 1e3 * (time.perf_counter() - began) / steps / models

    return timed


def add_ours(name: str, net: Net, arrays: Sequence[np.ndarray], models: int) -> str:
    """Prepares cnnjax for a number of models, executed as `planning` finds fastest; returns a description."""
    base = TrainConfig(net.config, OPTIMIZER, data="benchmark", batch_size=net.batch, epochs=1000)
    [program] = sweeps.plan(sweeps.trials(SweepConfig(base, (), models)))
    prepared = _dataset(arrays)
    (program,), timed = planning.tune((program,), prepared)
    run = sweeps.compile_program(program, prepared)

    def steps_from_the_start(steps: int) -> Any:
        state = jax.tree.map(jnp.copy, run.state)  # a copy, because `advance` donates it
        for done in range(0, steps, run.steps):  # `advance` stops at the end of an epoch
            state = run.advance(state, min(run.steps, steps - done))
        return state.step

    _cases[name] = _timed(steps_from_the_start, models)
    tried = ", ".join(f"{t.lanes} {t.micro_batch or 'whole'} {t.ms:.3g} ms" for t in timed)
    return f"lanes {program.lanes}, micro-batch {program.micro_batch or 'whole'}; tried {tried}"


def add_stock(name: str, net: Net, arrays: Sequence[np.ndarray], models: int, how: str) -> str:
    """Prepares stock Flax: a jitted step in a loop, a scan of steps, the same with our operations, or vmap."""
    assert net.layers is not None
    prepared = _dataset(arrays)
    network = Stock(net.layers, net.shape, how == "drop-in")
    task = make_task(TrainConfig(network, OPTIMIZER, CrossEntropy(), batch_size=net.batch), prepared.spec)
    train = jax.device_put(prepared.train)
    keys = jnp.stack([jax.random.key(seed) for seed in range(models)])
    order = np.random.default_rng(0).permutation(len(train.labels)).astype(np.int32)
    rows = jnp.asarray(order[: len(order) // net.batch * net.batch].reshape(-1, net.batch))
    batches = list(rows)

    def one(key: Array, state: TrainState, rows: Array) -> TrainState:
        return step(task, key, 100_000, state, Split(train.inputs[rows], train.labels[rows]))[0]

    start = partial(init, task)
    if how == "vmap":
        state = jax.jit(jax.vmap(start))(keys)
        jitted = jax.jit(jax.vmap(one, in_axes=(0, 0, None)))

        def run(steps: int) -> Any:
            now = state
            for i in range(steps):
                now = jitted(keys, now, batches[i % len(batches)])
            return now.step

    elif how in ("scan", "drop-in"):
        state = jax.jit(start)(keys[0])

        @partial(jax.jit, static_argnums=1)
        def scanned(state: TrainState, steps: int) -> Any:
            return lax.scan(lambda s, i: (one(keys[0], s, rows[i % len(rows)]), None), state, jnp.arange(steps))[0].step

        def run(steps: int) -> Any:
            return scanned(state, steps)

    else:
        states = [jax.jit(start)(key) for key in keys]
        jitted = jax.jit(one)

        def run(steps: int) -> Any:
            now = list(states)
            for i in range(steps):
                for k, key in enumerate(keys):
                    now[k] = jitted(key, now[k], batches[i % len(batches)])
            return [state.step for state in now]

    _cases[name] = _timed(run, models)
    return ""


def add_peak(name: str) -> str:
    """Prepares a matrix product of size 2048, whose turn returns GFLOP per second."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)

    def rate(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(3):
            out = product(a, a)
        jax.block_until_ready(out)
        return 3 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9

    rate(1)
    _cases[name] = rate
    return ""


def turn(name: str, steps: int) -> float:
    """Runs one turn of a case; returns milliseconds per model and step."""
    return _cases[name](steps)


def drop(name: str) -> None:
    """Removes a case and its arrays on the device."""
    _cases.pop(name, None)


def gflop(net: Net) -> float:
    """Returns the floating-point operations of a step: the output and both gradients of every product."""
    size, channels, total, first = net.shape[0], net.shape[-1], 0.0, True

    def product(outputs: int, inputs: int) -> None:
        nonlocal total, first
        total += 2 * outputs * inputs * net.batch * (2 if first else 3) / 1e9  # images need no gradient
        first = False

    if net.layers is None:
        product(32 * 32 * 16, 9 * 3)
        for size, inputs, outputs in (
            [(32, 16, 16)] * 3 + [(16, 16, 32)] + [(16, 32, 32)] * 2 + [(8, 32, 64)] + [(8, 64, 64)] * 2
        ):
            product(size * size * outputs, 9 * inputs)
            product(size * size * outputs, 9 * outputs)
        product(10, 64)
        return total
    flat = False
    for kind, *numbers in net.layers:
        if kind == "conv":
            filters, kernel, padding = numbers
            size += 2 * padding - kernel + 1
            product(size * size * filters, kernel * kernel * channels)
            channels = filters
        elif kind == "pool":
            size //= 2
        else:
            product(numbers[0], channels if flat else channels * size * size)
            channels, flat = numbers[0], True
    return total


def accuracies(net: Net, arrays: Sequence[np.ndarray], seeds: int) -> list[float]:
    """Returns the test accuracy of cnnjax after the net's number of steps, for each seed."""
    length = len(arrays[1]) // net.batch
    config = TrainConfig(
        net.config,
        SGD(learning_rate=net.rate, momentum=0.9, weight_decay=5e-4),
        data="benchmark",
        batch_size=net.batch,
        epochs=-(-net.steps // length),
    )
    [program] = sweeps.plan(sweeps.trials(SweepConfig(config, (), seeds)))
    prepared = sweeps.compile_program(program, _dataset(arrays))
    *_, last = training.train(prepared)
    return [float(a) for a in last.valid.metric]


def start_jax(devices: int) -> None:
    """Sets the number of CPU devices of a process, before JAX starts."""
    jax.config.update("jax_num_cpu_devices", devices)
    sys.path.insert(0, str(Path(__file__).parent))


def describe_jax() -> str:
    return f"{jax.default_backend()}, jax {jax.__version__}, {jax.device_count()} device(s), {os.cpu_count()} cores"


# ------------------------------------------------------------------------- turns


@dataclass
class Case:
    name: str
    workers: Any
    module: Any
    ms: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ms)


@dataclass
class Bench:
    """The processes of the benchmark, and the variants that are missing."""

    arguments: Arguments
    alone: ProcessPoolExecutor
    """JAX with one device, for stock Flax."""
    sharded: ProcessPoolExecutor
    """JAX with one device per core, for cnnjax."""
    torch: ProcessPoolExecutor | None
    missing: list[str] = field(default_factory=list)

    def cases(self, net: Net, arrays: list[np.ndarray], models: int) -> list[Case]:
        """Prepares all variants that work; the first one is cnnjax."""
        wanted, found = self.arguments.peers, []

        def add(name: str, workers: Any, module: Any, function: Any, *rest: Any) -> None:
            note = workers.submit(function, name, *rest).result()
            if module is not None and note:
                self.missing.append(f"{net.title}, {models} model(s), {name}: {note}")
            else:
                found.append(Case(name, workers, module, note=note))

        add("cnnjax", self.sharded, None, add_ours, net, arrays, models)
        if self.torch is not None:
            import torch_peer

            layouts = ["nchw", "channels_last"] if "torch" in wanted else []
            layouts += ["compile"] if "compile" in wanted and models == 1 else []
            layouts += ["vmap"] if "func" in wanted and models > 1 else []
            for how in layouts:
                x, y = arrays[:2]
                add(
                    f"torch {how}",
                    self.torch,
                    torch_peer,
                    torch_peer.add_case,
                    net.layers,
                    x,
                    y,
                    net.batch,
                    models,
                    how,
                )
        if "stock" in wanted and net.layers is not None:
            for how in ("loop", "scan", "drop-in") if models == 1 else ("loop", "vmap"):
                name = "flax scan, drop-in" if how == "drop-in" else f"stock flax {how}"
                add(name, self.alone, None, add_stock, net, arrays, models, how)
        return found

    def time(self, net: Net, models: int, arrays: list[np.ndarray], bar: Any) -> tuple[list[Case], list[float]]:
        """Times all cases in turns, and a matrix product in each round."""
        cases = self.cases(net, arrays, models)
        peaks = []
        for round in range(self.arguments.rounds + 1):  # the first round compiles and does not count
            peaks.append(self.alone.submit(turn, "peak", 1).result())
            for case in cases:
                steps = 2 if case.name == "stock flax scan" else max(1, (self.arguments.steps or net.turn) // models)
                if round > 1 and case.ms[0] * steps * models > _LONG:
                    continue
                function = turn if case.module is None else case.module.turn
                ms = case.workers.submit(function, case.name, steps).result()
                if round:
                    case.ms.append(ms)
            bar.update()
        for case in cases:
            case.workers.submit(drop if case.module is None else case.module.drop, case.name).result()
        return cases, peaks


def ratio(others: Sequence[Case], ours: Case) -> float | None:
    """Returns the time of the fastest peer over the time of cnnjax: the median over rounds."""
    if not others:
        return None
    best = min(others, key=lambda case: case.median)
    return statistics.median(a / b for a, b in zip(best.ms, ours.ms, strict=False))


def net_table(bench: Bench, letter: str) -> dict[str, Any]:
    """Times one net, and prints the results."""
    net, arguments = NETS[letter], bench.arguments
    arrays, source = images(net, arguments.data_dir)
    work = gflop(net)
    print(f"\n({letter}) {net.title}, batch {net.batch}, {work:.3g} GFLOP a step; data: {source}")
    result: dict[str, Any] = {"gflop": work, "data": source, "models": {}}
    for models in arguments.models:
        with tqdm(total=arguments.rounds + 1, leave=False, desc=f"({letter}) {models} models") as bar:
            cases, peaks = bench.time(net, models, arrays, bar)
        ours, peak = cases[0], statistics.median(peaks)
        print(f"  {models} model(s): {ours.note}")
        for case in cases:
            rate = work / case.median * 1e3
            print(
                f"    {case.name:22s} {case.median:9.3f} ms a model-step  ({min(case.ms):.3f} to {max(case.ms):.3f})  "
                f"{rate:6.1f} GFLOP/s  {100 * rate / peak:5.1f} % of a matrix product"
            )
        torches = [c for c in cases if c.name in ("torch nchw", "torch channels_last")]
        stocks = [c for c in cases if c.name.startswith("stock")]
        ratios = {"PyTorch / cnnjax": ratio(torches, ours), "stock Flax / cnnjax": ratio(stocks, ours)}
        for case in cases[1:]:
            ratios[f"{case.name} / cnnjax"] = ratio([case], ours)
        for name in ("PyTorch / cnnjax", "stock Flax / cnnjax"):
            if ratios[name] is not None:
                print(f"    {name:22s} {ratios[name]:9.2f}")
        result["models"][models] = {
            "ms": {case.name: case.ms for case in cases},
            "peak": peaks,
            "ratios": ratios,
            "plan": ours.note,
        }
    if arguments.seeds:
        result["accuracy"] = compare_accuracy(bench, net, arrays)
    return result


def compare_accuracy(bench: Bench, net: Net, arrays: list[np.ndarray]) -> dict[str, list[float]]:
    """Compares the test accuracies of both libraries after the same number of steps."""
    seeds = bench.arguments.seeds
    found = {"cnnjax": bench.sharded.submit(accuracies, net, arrays, seeds).result()}
    steps = -(-net.steps // (len(arrays[1]) // net.batch)) * (len(arrays[1]) // net.batch)
    if bench.torch is not None:
        import torch_peer

        found["PyTorch"] = bench.torch.submit(
            torch_peer.accuracies, net.layers, arrays, net.batch, net.rate, steps, seeds
        ).result()
    for name, values in found.items():
        mean = shown(sweeps.summarize(values), Accuracy())
        print(f"  test accuracy after {steps} steps, {seeds} seed(s), {name}: {mean}")
    return found


# ------------------------------------------------------------------------- the whole sweep


def sweep_table(arguments: Arguments) -> dict[str, Any]:
    """Times the digits sweep of 60 trials as whole processes, in seconds from start to table."""
    import tempfile

    results: dict[str, Any] = {}
    print("\ndigits sweep, 60 trials, whole processes, seconds")

    def report(name: str, seconds: float, note: str = "") -> None:
        results[name] = seconds
        print(f"  {name:48s} {seconds:7.1f}  {note}")

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "CNNJAX_CACHE_DIR": f"{folder}/cache"}
        script = [sys.executable, str(HERE / "sweep.py"), "digits", "--runs-dir", folder, "--quiet"]
        for name in ("cnnjax, empty cache", "cnnjax, warm cache"):
            began = time.perf_counter()
            out = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout
            report(name, time.perf_counter() - began, out.splitlines()[-2])
    if "torch" not in arguments.peers or not util.find_spec("torch"):
        return results
    peer = [sys.executable, str(HERE / "torch_peer.py")]
    began = time.perf_counter()
    out = subprocess.run([*peer, "sweep"], capture_output=True, text=True, check=True).stdout
    report("PyTorch, one process", time.perf_counter() - began, out.strip())
    config = load_preset("digits").sweep
    waiting = [
        [*peer, "trial", "1", str(rate), ",".join(map(str, filters)), str(seed)]
        for rate, filters in itertools.product(*(values for _, values in config.axes if isinstance(values, tuple)))
        for seed in range(config.seeds)
    ]
    began = time.perf_counter()
    running: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            running.append(subprocess.Popen(waiting.pop(), env=environment, stdout=subprocess.DEVNULL))
        running[0].wait()
        if any(process.poll() for process in running):
            fail("a PyTorch trial failed", 1)
        running = [process for process in running if process.poll() is None]
    report(f"PyTorch, a process a trial, {os.cpu_count()} at once", time.perf_counter() - began)
    for name in list(results)[2:]:
        ratios = [results[name] / results[ours] for ours in list(results)[:2]]
        print(f"  {name} / cnnjax: {ratios[0]:.2f} (warm cache {ratios[1]:.2f})")
    return results


# ------------------------------------------------------------------------- memory


def peak_memory(donated: bool, lanes: int) -> tuple[float, float]:
    """Returns the memory of a sweep of LeNet-5 in MiB: reported by the compiler, and the peak of the process."""
    if not donated:
        programs._advance = jax.jit(programs._advance.__wrapped__, static_argnums=0)  # type: ignore[attr-defined]
    images = np.random.default_rng(0).integers(0, 255, (1024, 28, 28, 1), np.uint8)
    split = Split(images, np.arange(1024, dtype=np.int32) % 10)
    data = Dataset.of("benchmark", tuple("0123456789"), split)
    base = TrainConfig(LeNet5Config(), OPTIMIZER, data="benchmark", batch_size=128, epochs=2)
    [program] = sweeps.plan(sweeps.trials(SweepConfig(base, (), lanes)))
    run = sweeps.compile_program(program, data)
    for _ in training.parts(run, run.state):
        pass
    return run.memory / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def memory_table(lanes: int = 256) -> dict[str, tuple[float, float]]:
    """Prints the memory of a sweep of LeNet-5 with and without donated states."""
    found = {}
    print(f"\nmemory of a sweep of {lanes} LeNet-5, MiB: on a device as reported by the compiler, and of the process")
    for name, donated in (("donated", True), ("not donated", False)):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), start_jax, (os.cpu_count() or 1,)) as worker:
            found[name] = worker.submit(peak_memory, donated, lanes).result()
        print(f"  {name:12s} {found[name][0]:8.0f} {found[name][1]:8.0f}")
    return found


# ------------------------------------------------------------------------- augmentations

AUGMENTED: dict[tuple[str, tuple[int, ...]], tuple[Augmentation, ...]] = {
    ("images", (32, 32, 3)): (
        Flip(),
        AlternatingFlip(),
        Shift(),
        Cutout(),
        Affine(),
        ColorJitter(),
        Mixup(),
        CutMix(),
    ),
    ("series", (150, 1)): (Jitter(), Scaling(), WindowSlice()),
}
"""The augmentations of each kind of inputs, with the shape of one."""


def augmentation_table(rounds: int, steps: int, batch: int = 128) -> dict[str, list[float]]:
    """Prints the milliseconds of a step of a linear model without and with each augmentation, timed in turns."""
    found: dict[str, list[float]] = {}
    for (kind, shape), augmentations in AUGMENTED.items():
        rng = np.random.default_rng(0)
        split = Split(rng.normal(size=(batch * steps, *shape)), np.arange(batch * steps) % 10)
        data = Dataset.of("benchmark", tuple("0123456789"), split, split, split)
        runs = {}
        for parts in ((), *((part,) for part in augmentations)):
            config = TrainConfig(MLPConfig(hidden=()), OPTIMIZER, augment=parts, batch_size=batch)
            run = programs.compile_run(make_task(config, data.spec), jax.random.key(0), data, rounds + 1)
            runs[parts[0].kind() if parts else "none"] = run
        ms: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, run in runs.items():
                state = jax.tree.map(jnp.copy, run.state)  # a copy, because `advance` donates it
                ms[name].append(_timed(partial(run.advance, state), 1)(steps))
        medians = {name: statistics.median(times[1:]) for name, times in ms.items()}
        print(f"\n{kind} {'x'.join(map(str, shape))}, batch {batch}, linear model: ms a step, and more than without")
        for name, median in medians.items():
            print(f"  {name:18s} {median:7.3f}  {median - medians['none']:+7.3f}")
        found |= {f"{kind}, {name}": times[1:] for name, times in ms.items()}
    return found


# ------------------------------------------------------------------------- the figure


def draw(tables: Mapping[str, Any], path: Path) -> None:
    """Plots the milliseconds per model-step of all variants, on a logarithmic axis."""
    from matplotlib.figure import Figure

    counts = list(dict.fromkeys(models for table in tables.values() for models in table["models"]))
    figure = Figure(figsize=(3.6 * len(tables), 2.4 * len(counts)), layout="constrained")
    axes = figure.subplots(len(counts), len(tables), squeeze=False)
    for (models, letter), axis in zip(itertools.product(counts, tables), axes.flat, strict=True):
        ms = tables[letter]["models"].get(models, {"ms": {}})["ms"]
        names = list(ms)[::-1]
        medians = [statistics.median(ms[name]) for name in names]
        colors = ["tab:blue" if name == "cnnjax" else "tab:gray" for name in names]
        axis.barh(names, medians, color=colors)
        for i, value in enumerate(medians):
            axis.text(value, i, f" {value:,.3g}" if value < 1000 else f" {value:,.0f}", va="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_xticks([])
        axis.set_xticks([], minor=True)
        if medians:
            axis.set_xlim(min(medians) / 2, 4 * max(medians))
        axis.set_title(f"({letter}) {models} model(s)", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("ms per model-step, logarithmic", fontsize=8)
    figure.savefig(path, dpi=110)


# ------------------------------------------------------------------------- the command


def main(arguments: Arguments) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share an accelerator
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1

    def workers(devices: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, start_jax, (devices,))

    with_torch = bool({"torch", "compile", "func"} & set(arguments.peers))
    has_torch = util.find_spec("torch") is not None
    tables: dict[str, Any] = {}
    with workers(1) as alone, workers(cores) as sharded, ProcessPoolExecutor(1, context) as torch_workers:
        bench = Bench(arguments, alone, sharded, torch_workers if with_torch and has_torch else None)
        print(f"{alone.submit(describe_jax).result()}; {sharded.submit(describe_jax).result()} for cnnjax")
        if with_torch and not has_torch:
            bench.missing.append("PyTorch is not installed: pip install -e '.[benchmark]'")
        if bench.torch is not None:
            import torch_peer

            print(bench.torch.submit(torch_peer.describe).result())
        alone.submit(add_peak, "peak").result()
        for letter in NETS:
            if letter in arguments.what:
                with usage():
                    tables[letter] = net_table(bench, letter)
        single = {}
        if "operations" in arguments.what:
            single = operations.table(arguments.operations, arguments.rounds, alone, sharded, bench.torch)
    sweep = sweep_table(arguments) if "sweep" in arguments.what else {}
    memory = memory_table() if "memory" in arguments.what else {}
    augmentations = (
        augmentation_table(arguments.rounds, steps=arguments.steps or 50) if "augmentations" in arguments.what else {}
    )
    for line in bench.missing:
        print(f"left out: {line}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    "nets": tables,
                    "sweep_seconds": sweep,
                    "memory": memory,
                    "augmentations": augmentations,
                    "operations": single,
                    "missing": bench.missing,
                },
                indent=2,
            )
        )
    if arguments.figure and tables:
        draw(tables, arguments.figure)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
