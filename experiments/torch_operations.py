"""Single convolutions in PyTorch, for `operations.py`. Nothing here imports JAX."""

from collections.abc import Callable, Mapping
from typing import Any

import quiet
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name in PyTorch code

_cases: dict[str, Callable[[], None]] = {}


def add(name: str, operation: Mapping[str, Any], channels_last: bool, steps: int) -> None:
    """Prepares an operation, given as the fields of `operations.Operation`, in one of the layouts."""
    spatial = len(operation["size"])
    convolution = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    layouts = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    layout = layouts[spatial - 1] if channels_last else torch.contiguous_format
    window = operation["window"]
    each = operation["channels"] // operation["groups"]
    generator = torch.Generator().manual_seed(0)

    def operand(*shape: int) -> Any:
        return torch.randn(shape, generator=generator).contiguous(memory_format=layout).requires_grad_()

    x = operand(operation["images"], operation["channels"], *operation["size"])
    kernel = operand(operation["filters"], each, *[window] * spatial)
    padding = 0 if operation["valid"] else operation["dilation"] * (window - 1) // 2
    arguments = (operation["stride"], padding, operation["dilation"], operation["groups"])

    def run() -> None:
        for _ in range(steps):
            y = convolution(x, kernel, None, *arguments)
            torch.autograd.grad(y, (x, kernel), y.detach())

    _cases[name] = run


def turn(name: str, calls: int, steps: int) -> quiet.Turn:
    """Times a turn of so many calls of a case."""
    return quiet.timed(_cases[name], calls, steps)


def drop(name: str) -> None:
    """Removes a case."""
    _cases.pop(name, None)
