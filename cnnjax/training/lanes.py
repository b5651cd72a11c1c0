"""Lanes: turn a function of one run into a function of many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from cnnjax.data import Dataset
from cnnjax.training.core import AXIS


@dataclass(frozen=True)
class Lanes:
    """Turns a function of one trial into a function of many lanes; a `training.Lift`.

    Lanes are sharded over `devices`; the last lane is repeated if their number does not divide evenly.
    On each device, `width` lanes at a time run in parallel under `vmap`, which fills an accelerator;
    the groups run sequentially inside the program. Width 1 is the fastest on CPU; width 0 runs all
    lanes in parallel. Lanes are independent of each other. With `split` above 1, that many devices take
    the place of each device and share the batches of a lane (see `training.Task`).
    """

    width: int = 1
    devices: int = 1
    split: int = 1

    def __post_init__(self) -> None:
        if self.width < 0 or min(self.devices, self.split) < 1:
            raise ValueError(f"lanes: {self}: give 0 or more parallel lanes and 1 or more devices, such as 1:1")

    def check(self) -> None:
        """Raises ValueError if JAX has too few devices."""
        if self.all_devices > (count := jax.device_count()):
            there = f"{count} device" + ("" if count == 1 else "s")
            raise ValueError(
                f"lanes: {self}: needs {self.all_devices} devices, but JAX has {there}: on CPU, set "
                f"JAX_NUM_CPU_DEVICES={self.all_devices}"
            )

    def __str__(self) -> str:
        return f"{self.width}:{self.devices}" + (f":{self.split}" if self.split != 1 else "")

    @property
    def all_devices(self) -> int:
        return self.devices * self.split

    def on(self, count: int) -> "Lanes":
        """Returns lanes on at most `count` devices; if that takes fewer devices, each batch stays on one device."""
        return self if self.all_devices <= count else Lanes(self.width, min(self.devices, count))

    @property
    def mesh(self) -> Mesh:
        self.check()
        shape, devices = (self.devices, self.split), jax.devices()[: self.all_devices]
        return jax.make_mesh(shape, ("lanes", AXIS), (AxisType.Auto,) * 2, devices=devices)

    def __call__(self, function: Callable[..., Any], *shared: Any) -> Callable[..., Any]:
        def mapped(lanes: PyTree, shared: PyTree) -> PyTree:
            if self.width == 0:
                return jax.vmap(lambda *lane: function(*lane, *shared))(*lanes)
            together = self.width if self.width > 1 else None
            return lax.map(lambda lane: function(*lane, *shared), lanes, batch_size=together)

        if self.all_devices == 1:
            return lambda *lanes: mapped(lanes, shared)

        spec = PartitionSpec("lanes")
        sharded = jax.shard_map(
            mapped, mesh=self.mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
        )

        def distributed(*lanes: PyTree) -> PyTree:
            count = jax.tree.leaves(lanes)[0].shape[0]
            if count % self.devices == 0:
                return sharded(lanes, shared)
            rows = jnp.minimum(jnp.arange(-(-count // self.devices) * self.devices), count - 1)
            repeated = jax.tree.map(lambda array: array[rows], lanes)
            return jax.tree.map(lambda array: array[:count], sharded(repeated, shared))

        return distributed

    def sharding(self, count: int) -> NamedSharding | None:
        """Returns the sharding of arrays with `count` lanes; None for the default device."""
        if self.all_devices == 1:
            return None
        return NamedSharding(self.mesh, PartitionSpec() if count % self.devices else PartitionSpec("lanes"))

    def place(self, data: Dataset) -> Dataset:
        """Copies the training and validation splits to all devices of the lanes."""
        if self.all_devices == 1:
            train, valid = jax.device_put((data.train, data.valid))
        else:
            train, valid = jax.device_put((data.train, data.valid), NamedSharding(self.mesh, PartitionSpec()))
        return data._replace(train=train, valid=valid)
