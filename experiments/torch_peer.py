"""The nets and the sweep of the benchmark in careful PyTorch.

`benchmark.py` imports this module for the nets, and runs it as a process for the sweep:
`torch_peer.py sweep` trains all trials sequentially, `torch_peer.py trial THREADS RATE FILTERS SEED`
trains one of them. Nothing here imports JAX.
"""

import itertools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name in PyTorch code

Layers = Sequence[tuple[Any, ...]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# The values of the digits preset in `configs/`.
RATES, FILTERS, SEEDS = (0.01, 0.03, 0.1, 0.3), ((8, 16), (16, 32), (32, 64)), 5
BATCH, EPOCHS = 64, 30


class Block(nn.Module):
    """A residual block of ResNet-20 with a shortcut of option A."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Any) -> Any:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.extra:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return F.relu(x + y)


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32x3."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    widths = [16] * 4 + [32] * 3 + [64] * 3
    layers += [Block(i, o, 2 if i != o else 1) for i, o in itertools.pairwise(widths)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def network(layers: Layers, shape: tuple[int, ...]) -> nn.Module:
    """Builds a network from the layers of `benchmark.py`; ReLU follows all layers except the last."""
    size, channels, flat = shape[0], shape[-1], False
    built: list[nn.Module] = []
    for i, (kind, *numbers) in enumerate(layers):
        if kind == "pool":
            built.append(nn.MaxPool2d(2))
            size //= 2
            continue
        if kind == "conv":
            filters, kernel, padding = numbers
            built.append(nn.Conv2d(channels, filters, kernel, padding=padding))
            size, channels = size + 2 * padding - kernel + 1, filters
        else:
            if not flat:
                built.append(nn.Flatten())
                channels, flat = channels * size * size, True
            built.append(nn.Linear(channels, numbers[0]))
            channels = numbers[0]
        if i < len(layers) - 1:
            built.append(nn.ReLU())
    return nn.Sequential(*built)


def initialized(module: nn.Module, seed: int) -> nn.Module:
    """Initializes a module as Flax does: kernels truncated normal with variance 1 / fan-in, biases zero."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std = 1 / math.sqrt(layer.weight[0].numel()) / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module.to(DEVICE)


def trainer(module: nn.Module, rate: float, decay: float, steps: int) -> tuple[Any, Any]:
    """Creates SGD with momentum, weight decay of kernels only, and a cosine schedule."""
    kernels = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def step(model: Callable[[Any], Any], optimizer: Any, schedule: Any, x: Any, y: Any) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    schedule.step()


def batches(count: int, size: int, generator: Any) -> Iterator[Any]:
    """Yields batches of indices endlessly, epoch by epoch."""
    while True:
        yield from torch.randperm(count, generator=generator)[: count // size * size].split(size)


# ------------------------------------------------------------------------- timed in turns

_cases: dict[str, Callable[[int], float]] = {}


def images(x: np.ndarray, channels_last: bool) -> Any:
    """Converts NHWC arrays to PyTorch tensors on the device."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=order).to(DEVICE)


def add_case(name: str, layers: Layers | None, x: np.ndarray, y: np.ndarray, size: int, models: int, how: str) -> str:
    """Prepares a case: `how` is nchw, channels_last, compile or vmap. Returns an error message, or ""."""
    shape, channels_last = x.shape[1:], how != "nchw"
    if how == "vmap" and layers is None:
        return "torch.func.vmap does not take BatchNorm's running averages"
    inputs, labels = images(x, channels_last), torch.from_numpy(y).long().to(DEVICE)
    order = batches(len(y), size, torch.Generator().manual_seed(0))

    def build(seed: int) -> nn.Module:
        module = initialized(network(layers, shape) if layers else resnet20(), seed)
        return module.to(memory_format=torch.channels_last) if channels_last else module

    try:
        if how == "vmap":
            one = _vmapped([build(seed) for seed in range(models)], inputs, labels)
        else:
            runs = []
            for seed in range(models):
                module = build(seed)
                forward = torch.compile(module) if how == "compile" else module
                runs.append((forward, *trainer(module, 0.01, 5e-4, 100_000)))

            def one(rows: Any) -> None:
                for run in runs:
                    step(*run, inputs[rows], labels[rows])

        def timed(steps: int) -> float:
            began = time.perf_counter()
            for rows in itertools.islice(order, steps):
                one(rows)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            return 1e3 * (time.perf_counter() - began) / steps / models

        timed(2)
    except Exception as error:  # a case that fails is reported and left out
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    _cases[name] = timed
    return ""


def _vmapped(modules: list[nn.Module], inputs: Any, labels: Any) -> Callable[[Any], None]:
    params, _ = torch.func.stack_module_state(modules)  # type: ignore[arg-type]
    params = {name: value.detach() for name, value in params.items()}
    velocity = {name: torch.zeros_like(value) for name, value in params.items()}
    base, count = modules[0].to("meta"), itertools.count()

    def loss(params: Any, x: Any, y: Any) -> Any:
        return F.cross_entropy(torch.func.functional_call(base, params, (x,)), y)

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None))

    def one(rows: Any) -> None:
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * next(count) / 100_000))
        for name, gradient in gradients(params, inputs[rows], labels[rows]).items():
            decay = 5e-4 if params[name].ndim > 2 else 0.0
            velocity[name].mul_(0.9).add_(gradient).add_(params[name], alpha=decay)
            params[name].sub_(velocity[name], alpha=rate)

    return one


def turn(name: str, steps: int) -> float:
    """Runs one turn of a case; returns milliseconds per model and step."""
    return _cases[name](steps)


def drop(name: str) -> None:
    """Removes a case."""
    _cases.pop(name, None)


def describe() -> str:
    """Describes the version, threads and device."""
    return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}"


# ------------------------------------------------------------------------- accuracy


def train(
    module: nn.Module, data: Sequence[Any], size: int, rate: float, decay: float, steps: int, seed: int, every: int = 0
) -> list[float]:
    """Trains a module; returns its test accuracy after each `every` steps, and at the end.

    `data` is (x, y, test x, test y).
    """
    optimizer, schedule = trainer(module, rate, decay, steps)
    x, y, test_x, test_y = data
    order = batches(len(y), size, torch.Generator().manual_seed(seed))
    found = []
    for i, rows in enumerate(itertools.islice(order, steps), 1):
        step(module, optimizer, schedule, x[rows], y[rows])
        if i == steps or (every and i % every == 0):
            module.eval()
            with torch.no_grad():
                pairs = zip(test_x.split(512), test_y.split(512), strict=True)
                hits = sum((module(a).argmax(1) == b).sum().item() for a, b in pairs)
            module.train()
            found.append(hits / len(test_y))
    return found


def accuracies(
    layers: Layers | None, arrays: Sequence[np.ndarray], size: int, rate: float, steps: int, seeds: int
) -> list[float]:
    """Returns the test accuracy after a number of steps for each seed; `arrays` are x, y, test x, test y."""
    x, y, test_x, test_y = arrays
    data = (images(x, True), torch.from_numpy(y).long().to(DEVICE))
    data += (images(test_x, True), torch.from_numpy(test_y).long().to(DEVICE))
    found = []
    for seed in range(seeds):
        module = initialized(network(layers, x.shape[1:]) if layers else resnet20(), seed)
        module = module.to(memory_format=torch.channels_last)
        found.append(train(module, data, size, rate, 5e-4, steps, seed)[-1])
    return found


# ------------------------------------------------------------------------- the sweep


def digits() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns the training and validation digits, with split sizes as in cnnjax."""
    package = util.find_spec("sklearn")
    assert package
    assert package.origin
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.float32, delimiter=",")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    x, y = rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1].astype(np.int64)
    x = (x - x[:1257].mean()) / x[:1257].std()
    return (images(x[:1257], True), torch.from_numpy(y[:1257]).to(DEVICE)), (
        images(x[1257:1437], True),
        torch.from_numpy(y[1257:1437]).to(DEVICE),
    )


def trial(rate: float, filters: Sequence[int], seed: int, data: Any) -> float:
    """Trains a trial of the digits sweep, evaluated after each epoch; returns its last validation accuracy."""
    (x, y), (valid_x, valid_y) = data
    layers = [layer for count in filters for layer in (("conv", count, 3, 1), ("pool",))] + [("dense", 10)]
    module = initialized(network(layers, (8, 8, 1)), seed).to(memory_format=torch.channels_last)
    epoch = len(y) // BATCH
    return train(module, (x, y, valid_x, valid_y), BATCH, rate, 5e-4, EPOCHS * epoch, seed, epoch)[-1]


def main(words: Sequence[str]) -> None:
    if words[0] == "trial":
        torch.set_num_threads(int(words[1]))
        print(trial(float(words[2]), [int(n) for n in words[3].split(",")], int(words[4]), digits()))
        return
    torch.set_num_threads(os.cpu_count() or 1)
    data = digits()
    table = {
        (rate, filters): statistics.mean(trial(rate, filters, seed, data) for seed in range(SEEDS))
        for rate in RATES
        for filters in FILTERS
    }
    best = max(table, key=lambda point: table[point])
    print(f"best {best}: {100 * table[best]:.2f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
