"""The devices of this machine and of others: what is free on them, how XLA compiles for them, what they agree on."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jaxlib.version
import numpy as np

_SHARE = 0.8  # of free memory that a program may take
SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""JAX's settings on which numbers depend."""
_thread = threading.local()


def compiler_options(*, once: bool, devices: int) -> dict[str, str | int]:
    """XLA's options on CPU, for a program that runs once or many times, on so many devices.

    What runs once, as initialisation, is not optimised: drawing numbers compiles slowly. Steps of a
    program that has the processor to itself keep their convolutions from YNNPACK, which computes
    them on one thread (jaxlib 0.10); Eigen uses all. Lanes that occupy a core each want no other.
    In jaxlib 0.10.2 YNNPACK's fusions around a sum give wrong numbers
    (https://github.com/jax-ml/jax/issues/39103): there it computes single products, and on several
    devices single convolutions, and no fusion.
    """
    if jax.default_backend() != "cpu":
        return {}
    faulty = jaxlib.version.__version__ == "0.10.2"
    options: dict[str, str | int] = {}
    if faulty or (devices == 1 and not once):
        kinds = ["INDIVIDUAL_DOT", "INDIVIDUAL_CONVOLUTION" if devices > 1 else "", "" if faulty else "REDUCE"]
        types = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kinds if kind)
        options = {"xla_cpu_experimental_ynn_fusion_type": types}
    if once:
        options |= {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    return options


def compiled(lowered: jax.stages.Lowered, options: dict[str, str | int]) -> jax.stages.Compiled:
    """Compiles with those of the options that this version of XLA has."""
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
    """JAX's settings, by name, as they are here and now."""
    return {name: getattr(jax.config, name) for name in SWITCHES}


def threads(count: int) -> ThreadPoolExecutor:
    """Threads with the settings of this one, since `with jax.enable_x64():` and its like hold in one thread only."""
    return ThreadPoolExecutor(count, initializer=_switch, initargs=(switches(),))


def _switch(settings: dict[str, Any]) -> None:
    _thread.settings = ExitStack()  # never closed: they hold as long as the thread
    for name, value in settings.items():
        _thread.settings.enter_context(getattr(jax, name.removeprefix("jax_"))(value))


def free_memory(devices: int) -> int:
    """Bytes that a program on so many devices may take on each: a share of what is free now."""
    statistics_of = jax.devices()[0].memory_stats()
    if statistics_of and "bytes_limit" in statistics_of:
        free = statistics_of["bytes_limit"] - statistics_of["bytes_in_use"]
    else:
        free = _host_memory() // devices
    return agreed(int(_SHARE * free) >> 10) << 10  # a KiB is exact enough, and fits into 32 bits


def _host_memory() -> int:
    """Bytes that processes can still have, files that the system only keeps at hand not counted as taken."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def agreed(value: int) -> int:
    """A decision that hangs on a clock, a signal or the memory of a machine, as the first of all processes takes it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
