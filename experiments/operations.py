"""The map of single convolutions: the output and both gradients, in cnnjax, PyTorch and stock JAX.

`benchmark.py --what operations` prints it. A step computes the output, and both gradients with the output as
the cotangent; steps follow each other in one `lax.scan`, as in training. cnnjax runs on one device, and on all
with a share of the batch each; the faster counts, as training chooses by measurement too. PyTorch uses all
cores in both of its layouts; the faster counts. Stock JAX is `jax.lax` in the same scan on one device.
"""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import quiet
from jax import Array, lax
from jax.sharding import AxisType, PartitionSpec

from cnnjax import conv_general_dilated, devices

LAYOUTS = ("torch nchw", "torch channels_last")

_SECONDS = 0.3  # of a turn: processor time is counted in ticks of 10 ms
_SLOW = 1.0  # seconds of a step from which on a case has only one turn


class Operation(NamedTuple):
    """A convolution of the map."""

    title: str
    images: int
    size: tuple[int, ...]
    channels: int
    filters: int
    window: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    valid: bool = False

    @property
    def output(self) -> tuple[int, ...]:
        """The size of the output."""
        reach = (self.window - 1) * self.dilation * self.valid
        return tuple(-(-(n - reach) // self.stride) for n in self.size)

    @property
    def gflop(self) -> float:
        """The operations of the direct form of a step."""
        sums = self.images * math.prod(self.output) * self.filters
        return 3 * 2 * sums * self.window ** len(self.size) * self.channels / self.groups / 1e9

    @property
    def gigabytes(self) -> float:
        """What a step reads and writes at least: the output, both gradients and their operands, in float32."""
        x = self.images * math.prod(self.size) * self.channels
        y = self.images * math.prod(self.output) * self.filters
        return 3 * 4 * (x + y) / 1e9


OPERATIONS = {
    "depthwise-3": Operation("depthwise 3x3, 32x32x32", 64, (32, 32), 32, 32, 3, groups=32),
    "depthwise-5": Operation("depthwise 5x5, 16x16x64", 64, (16, 16), 64, 64, 5, groups=64),
    "depthwise-7": Operation("depthwise 7x7, 14x14x96", 32, (14, 14), 96, 96, 7, groups=96),
    "groups": Operation("4 groups 3x3, 32x32x32", 64, (32, 32), 32, 32, 3, groups=4),
    "1x1": Operation("1x1, 32x32x64", 64, (32, 32), 64, 64, 1),
    "stride": Operation("3x3 stride 2, 32x32, 32 to 64", 64, (32, 32), 32, 64, 3, 2),
    "alexnet": Operation("11x11 stride 4, 64x64x3 to 64", 32, (64, 64), 3, 64, 11, 4),
    "resnet": Operation("7x7 stride 2, 64x64x3 to 64", 32, (64, 64), 3, 64, 7, 2),
    "dilation": Operation("3x3 dilation 2, 32x32x32", 64, (32, 32), 32, 32, 3, dilation=2),
    "1-d-5": Operation("1-D k5, 150x128 to 256", 16, (150,), 128, 256, 5),
    "1-d-3": Operation("1-D k3, 150x256 to 128", 16, (150,), 256, 128, 3),
    "text": Operation("text k5, 50x128 to 100", 64, (50,), 128, 100, 5, valid=True),
    "3-d": Operation("3-D 3x3x3, 16x16x16, 8 to 16", 16, (16, 16, 16), 8, 16, 3),
    "3x3-32": Operation("3x3, 32x32x32", 64, (32, 32), 32, 32, 3),
    "3x3-64": Operation("3x3, 16x16x64", 64, (16, 16), 64, 64, 3),
}

# ------------------------------------------------------------------------- in a process of JAX

_cases: dict[str, Callable[[], Any]] = {}


def _steps(operation: Operation, convolution: Any, count: int, axis: str | None) -> Callable[..., Any]:
    """Returns a function of input and kernel that takes `count` steps, over the shards of an axis if there is one."""
    spatial = len(operation.size)
    letters = "DHW"[3 - spatial :]
    forward = partial(
        convolution,
        window_strides=(operation.stride,) * spatial,
        padding="VALID" if operation.valid else "SAME",
        rhs_dilation=(operation.dilation,) * spatial,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=operation.groups,
    )

    def step(state: tuple[Array, Array], x: Array) -> tuple[Array, Array]:
        kernel, before = state
        kernel = kernel + 1e-30 * before.ravel()[0]  # each step needs the one before it, so none is left out
        y, pull = jax.vjp(forward, x, kernel)
        inputs, kernels = pull(y)
        return kernel - 1e-12 * (lax.psum(kernels, axis) if axis else kernels), inputs

    def run(x: Array, kernel: Array) -> Any:
        return lax.scan(lambda state, _: (step(state, x), None), (kernel, jnp.zeros_like(x)), length=count)[0]

    return run


def add(name: str, operation: Operation, stock: bool, shared: bool, count: int) -> None:
    """Prepares a case: `jax.lax` or cnnjax, on one device or with all devices sharing the batch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(operation.images, *operation.size, operation.channels)).astype(np.float32)
    window = (operation.window,) * len(operation.size)
    kernel = rng.normal(size=(*window, operation.channels // operation.groups, operation.filters)).astype(np.float32)
    convolution = lax.conv_general_dilated if stock else conv_general_dilated
    run = _steps(operation, convolution, count, "batch" if shared else None)
    number = jax.device_count() if shared else 1
    arguments = (jnp.asarray(x), jnp.asarray(kernel))
    if shared:
        mesh = jax.make_mesh((number,), ("batch",), (AxisType.Auto,))
        batch, whole = PartitionSpec("batch"), PartitionSpec()
        run = jax.shard_map(run, mesh=mesh, in_specs=(batch, whole), out_specs=(whole, batch), check_vma=False)
        places = [jax.sharding.NamedSharding(mesh, spec) for spec in (batch, whole)]
        arguments = tuple(map(jax.device_put, arguments, places))
    options = {} if stock else devices.compiler_options(once=False, devices=number)
    program = devices.compiled(jax.jit(run).lower(*arguments), options)
    _cases[name] = lambda: jax.block_until_ready(program(*arguments))


def turn(name: str, calls: int, steps: int) -> quiet.Turn:
    """Times a turn of so many calls of a case."""
    return quiet.timed(_cases[name], calls, steps)


def drop(name: str) -> None:
    """Removes a case and its arrays."""
    _cases.pop(name, None)


def add_limits(size: int = 2048, values: int = 2**24) -> tuple[float, float]:
    """Prepares what bounds an operation; returns GFLOP of a matrix product and GB of an addition."""
    a, b = jnp.ones((size, size)), jnp.ones(values)
    product, plus = jax.jit(jnp.matmul), jax.jit(lambda b: b + 1)
    _cases["product"] = lambda: jax.block_until_ready(product(a, a))
    _cases["addition"] = lambda: jax.block_until_ready(plus(b))
    return 2 * size**3 / 1e9, 2 * 4 * values / 1e9


# ------------------------------------------------------------------------- the map

_STEPS = 10  # of a call


class Case(NamedTuple):
    """A way to compute an operation, and the process that does."""

    name: str
    workers: ProcessPoolExecutor
    module: Any
    """The module with the functions `turn` and `drop`."""
    steps: int = _STEPS

    def turn(self, calls: int) -> quiet.Turn:
        """Times a turn."""
        taken: quiet.Turn = self.workers.submit(self.module.turn, self.name, calls, self.steps).result()
        return taken


def _time(cases: Sequence[Case], rounds: int) -> dict[str, quiet.Summary]:
    """Times cases in turns, after one that allocates memory and one that tells how many calls make a turn."""
    for case in cases:
        case.turn(1)
    first = [case.turn(1) for case in cases]
    turns: list[list[quiet.Turn]] = [[] for _ in cases]
    for number, (case, once, taken) in itertools.product(range(rounds), zip(cases, first, turns, strict=True)):
        if number == 0 or once.seconds / once.steps < _SLOW:
            taken.append(case.turn(math.ceil(_SECONDS / once.seconds)))
    return {case.name: quiet.summarize(taken) for case, taken in zip(cases, turns, strict=True)}


def _row(operation: Operation, times: dict[str, quiet.Summary], least: float) -> dict[str, Any]:
    """Prints a line of the map; `least` is what a step takes at the rate that bounds it, in seconds."""
    ours = min((times[name] for name in times if name.startswith("cnnjax")), key=lambda found: found.seconds)
    layouts = [times[name] for name in times if name in LAYOUTS]
    peer = min(layouts, key=lambda found: found.seconds) if layouts else None
    stock = times["lax"]
    counted = [ours, stock, *([peer] if peer else [])]
    void = any(found.void for found in counted)
    milliseconds = "".join(f" {1e3 * found.seconds:9.2f}" if found else f" {'-':>9s}" for found in (ours, peer, stock))
    ratios = [f"{found.seconds / ours.seconds:.2f}" if found else "-" for found in (peer, stock)]
    shares = ["void"] * 3 if void else [*ratios, f"{100 * least / ours.seconds:.0f} %"]
    title = f"{operation.title} [{operation.images}]"
    print(
        f"  {title:38s}{milliseconds}  {''.join(f'{share:>10s}' for share in shares)}"
        f"  {sum(found.dropped for found in counted)} of {sum(found.turns for found in counted)}"
    )
    return {
        "ms": {name: 1e3 * found.seconds for name, found in times.items()},
        "dropped": {name: [found.dropped, found.turns] for name, found in times.items()},
        "void": void,
        "least_ms": 1e3 * least,
    }


def table(
    names: Sequence[str], rounds: int, alone: ProcessPoolExecutor, sharded: ProcessPoolExecutor, torch: Any
) -> dict[str, Any]:
    """Prints the map of operations; `torch` is PyTorch's process, or None."""
    this = sys.modules[__name__]
    amounts = sharded.submit(add_limits).result()
    limits = _time([Case(name, sharded, this, 1) for name in ("product", "addition")], rounds)
    gflops, bandwidth = (amount / limits[name].seconds for amount, name in zip(amounts, limits, strict=True))
    print(f"\noperations, a matrix product: {gflops:.0f} GFLOP/s, an addition: {bandwidth:.1f} GB/s")
    print("  dropped: turns during which other processes used the processor; void: over a fifth of them")
    heads = [f"{head:>9s}" for head in ("cnnjax ms", "PyTorch", "lax")]
    print(f"  {'[batch], output and both gradients':38s} {' '.join(heads)}   PyTorch /     lax / of limit  dropped")
    found: dict[str, Any] = {"gflops": gflops, "gigabytes_per_second": bandwidth}
    for name in names:
        operation = OPERATIONS[name]
        cases = [Case("cnnjax, one", sharded, this), Case("cnnjax, shared", sharded, this), Case("lax", alone, this, 2)]
        for case in cases:
            stock, shared = case.name == "lax", case.name == "cnnjax, shared"
            case.workers.submit(add, case.name, operation, stock, shared, case.steps).result()
        if torch is not None:
            import torch_operations

            for layout in LAYOUTS:
                torch.submit(torch_operations.add, layout, operation._asdict(), layout == LAYOUTS[1], _STEPS).result()
                cases.append(Case(layout, torch, torch_operations))
        times = _time(cases, rounds)
        for case in cases:
            case.workers.submit(case.module.drop, case.name).result()
        found[name] = _row(operation, times, max(operation.gflop / gflops, operation.gigabytes / bandwidth))
    return found
