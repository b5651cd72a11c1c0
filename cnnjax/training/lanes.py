"""How a function of one run becomes a function of many."""

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
    """How a function of one trial becomes a function of many: a `training.Lift`.

    Lanes are distributed over `devices`, the last of them repeated where their number does not
    divide. On a device, `width` of them at a time run side by side under `vmap`, which fills an
    accelerator, and the groups one after the other inside the program, which is fastest on CPU;
    width 0 is all at once. A lane sees nothing of another. With `split`, each of the `devices` is
    that many, which share the batches of a lane (see `training.Task`).
    """

    width: int = 1
    devices: int = 1
    split: int = 1

    def __post_init__(self) -> None:
        if self.width < 0 or min(self.devices, self.split) < 1:
            raise ValueError(f"lanes: {self}: give 0 or more lanes side by side, and 1 or more devices, as 1:1")

    def check(self) -> None:
        """ValueError where JAX has fewer devices."""
        if self.all_devices > (count := jax.device_count()):
            there = f"{count} device" + ("" if count == 1 else "s")
            raise ValueError(
                f"lanes: {self}: {self.all_devices} devices, and JAX has {there}: on a CPU JAX_NUM_CPU_DEVICES="
                f"{self.all_devices} makes as many"
            )

    def __str__(self) -> str:
        return f"{self.width}:{self.devices}" + (f":{self.split}" if self.split != 1 else "")

    @property
    def all_devices(self) -> int:
        return self.devices * self.split

    def on(self, count: int) -> "Lanes":
        """These lanes, or where they need more than so many devices, on those and with each batch on one."""
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
        """Where the arrays of so many lanes lie; None for the default device."""
        if self.all_devices == 1:
            return None
        return NamedSharding(self.mesh, PartitionSpec() if count % self.devices else PartitionSpec("lanes"))

    def place(self, data: Dataset) -> Dataset:
        """The data whose training and validation splits lie on every device that lanes run on."""
        if self.all_devices == 1:
            train, valid = jax.device_put((data.train, data.valid))
        else:
            train, valid = jax.device_put((data.train, data.valid), NamedSharding(self.mesh, PartitionSpec()))
        return data._replace(train=train, valid=valid)
