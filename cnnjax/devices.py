"""Devices: free memory, compiler options, JAX's settings, and decisions that all processes share."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import jax
import jaxlib.version
import numpy as np

_SHARE = 0.8  # fraction of the free memory that a program may use
SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""JAX's settings that affect results."""
FAULTY = jaxlib.version.__version__ == "0.10.2"
"""Whether YNNPACK fusions with reductions may give wrong results."""
_Function = TypeVar("_Function", bound=Callable[..., Any])
_thread = threading.local()


def compiler_options(*, once: bool, devices: int) -> dict[str, str | int]:
    """Returns the XLA options for a program on CPU; none on other devices.

    Programs that run once, such as initialization, are compiled without optimization, because random
    numbers compile slowly. A program on a single device keeps its convolutions away from YNNPACK, which
    runs them on one thread (jaxlib 0.10), whereas Eigen uses all threads. With a device per core, one
    thread per convolution is enough.

    In jaxlib 0.10.2, YNNPACK fusions with reductions give wrong results
    (https://github.com/jax-ml/jax/issues/39103). For this version, YNNPACK computes only single matrix
    products and, on several devices, single convolutions.

    Args:
      once: whether the program runs only once.
      devices: the number of devices of the program.
    """
    if jax.default_backend() != "cpu":
        return {}
    options: dict[str, str | int] = {}
    if FAULTY or (devices == 1 and not once):
        kinds = ["INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION" if devices > 1 else "", "" if FAULTY else "REDUCE"]
        types = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds if kind)
        options = {"xla_cpu_experimental_ynn_fusion_type": types}
    if once:
        options |= {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return options


def jit(function: _Function, **how: Any) -> _Function:
    """Returns `jax.jit(function, **how)`, compiled without fusions that give wrong results (see `compiler_options`).

    Inside of another transformation, the options are those of the outermost program.
    """
    plain: Any = jax.jit(function, **how)
    if not FAULTY:
        return plain

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((arguments, named)))
        return (plain if traced else right())(*arguments, **named)

    @cache
    def right() -> Any:  # JAX may start when it is first called, and not before
        return jax.jit(function, compiler_options=compiler_options(once=False, devices=1), **how)

    return call  # type: ignore[return-value]


def compiled(lowered: jax.stages.Lowered, options: dict[str, str | int]) -> jax.stages.Compiled:
    """Compiles a program with those options that this version of XLA supports."""
    try:
        return lowered.compile(options)  # type: ignore[arg-type]
    except jax.errors.JaxRuntimeError as error:
        known = {
            name: value for name, value in options.items() if f"No such compile option: '{name}'" not in str(error)
        }
        if known == options:
            raise
        return compiled(lowered, known)


def switches() -> dict[str, Any]:
    """Returns the current values of JAX's settings in this thread, by name."""
    return {name: getattr(jax.config, name) for name in SWITCHES}


def threads(count: int) -> ThreadPoolExecutor:
    """Creates a thread pool with JAX's settings of this thread, since `with jax.enable_x64():` affects one thread."""
    return ThreadPoolExecutor(count, initializer=_switch, initargs=(switches(),))


def _switch(settings: dict[str, Any]) -> None:
    _thread.settings = ExitStack()  # never closed: the settings last as long as the thread
    for name, value in settings.items():
        _thread.settings.enter_context(getattr(jax, name.removeprefix("jax_"))(value))


def free_memory(devices: int) -> int:
    """Returns the bytes that a program on `devices` devices may use on each: a fraction of the free memory."""
    statistics_of = jax.devices()[0].memory_stats()
    if statistics_of and "bytes_limit" in statistics_of:
        free = statistics_of["bytes_limit"] - statistics_of["bytes_in_use"]
    else:
        free = _host_memory() // devices
    return agreed(int(_SHARE * free) >> 10) << 10  # in KiB, to fit into 32 bits


def _host_memory() -> int:
    """Returns the available memory of the host in bytes, including reclaimable file caches."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def agreed(value: int) -> int:
    """Returns the value of the first process, so that all processes take the same decision."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
