"""Trials as few programs: what shares one, and which networks are embedded in a wider one.

Trials whose configurations have the same tree structure, so that they differ only in numbers and
seeds, are lanes of one compiled program. Networks of one family that differ in their widths can be
lanes of one program too: `plan` packs them, by `embedding`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
from jax.tree_util import PyTreeDef

from cnnjax.config import TrainConfig
from cnnjax.data import Spec
from cnnjax.networks import NetworkConfig
from cnnjax.sweeps import embedding
from cnnjax.sweeps.trials import Trial
from cnnjax.training import Lanes, can_share

_LEAST_EXAMPLES = 32  # of a batch on a device, where devices share it


class Program(NamedTuple):
    """One compiled shape and the trials that are its lanes."""

    trials: tuple[Trial, ...]
    lanes: Lanes
    micro_batch: int = 0
    """See `training.Task`."""
    wide: NetworkConfig | None = None
    """The network in which those of the trials are embedded, where their widths differ."""
    after: int = 0
    """Epochs that the trials have behind them."""
    until: int = 0
    """Epoch after which the program ends; 0 is the last."""
    spare: int = 0
    """Inactive lanes, besides those of the trials."""

    @property
    def config(self) -> TrainConfig:
        """What the trials share; numbers and seed are those of the first."""
        return self.config_of(self.trials[0])

    def config_of(self, trial: Trial) -> TrainConfig:
        """A trial's configuration in this program: in the wide network, where there is one."""
        config = trial.config
        return replace(config, network=embedding.as_wide(config.network, self.wide)) if self.wide else config

    @property
    def end(self) -> int:
        """Epoch after which it ends."""
        return self.until or self.config.epochs

    @property
    def rows(self) -> list[int]:
        """The lane of each trial, in order; where some are inactive, evenly spread over the devices."""
        count = len(self.trials)
        return [i * (count + self.spare) // count for i in range(count)]


def structure(config: TrainConfig) -> PyTreeDef:
    """What trials must share to be lanes of one program: all but numbers and seed."""
    return jax.tree.structure(replace(config, seed=0))


def batch_split(config: TrainConfig, devices: int) -> int:
    """How many of so many CPU devices are worth sharing a batch: 1 unless each has enough examples of its own."""
    most = min(devices, config.batch_size // _LEAST_EXAMPLES)
    return max([1, *(n for n in range(2, most + 1) if can_share(config, n))])


def default_lanes(config: TrainConfig, count: int) -> Lanes:
    """One lane after the other on CPU, all side by side elsewhere, over all devices.

    Where there are more CPU devices than lanes, those that are left share batches.
    """
    devices = min(jax.device_count(), count)
    if jax.default_backend() != "cpu":
        return Lanes(0, devices)
    return Lanes(1, devices, batch_split(config, jax.device_count() // devices))


PACKS: Mapping[str, Callable[[NetworkConfig], NetworkConfig]] = {
    "shapes": lambda network: network,
    "buckets": embedding.rounded,
    "one": embedding.family,
}


def plan(
    trials: Sequence[Trial],
    lanes: Lanes | None = None,
    pack: str = "shapes",
    *,
    spec: Spec | None = None,
    strict: bool = True,
    capacity: int = 0,
) -> tuple[Program, ...]:
    """Groups trials into programs: one for all that differ only in numbers and seed.

    Args:
      trials: what is to be trained.
      lanes: how they are lifted; by default `default_lanes`.
      pack: which widths share a program, the narrow networks embedded in the widest: those that are
        equal (`shapes`), that have the same powers of two above them (`buckets`), or all (`one`).
      spec: what the data is; needed where widths are packed.
      capacity: lanes of every program, so that a later one of the same shape with other trials need
        not be compiled; fewer where inactive lanes cost time (see `spare_lanes`).
      strict: whether a network that cannot be embedded is an error; else it has a program of its own.

    Raises:
      ValueError: networks of several widths are to be packed that cannot be.
    """
    groups: dict[PyTreeDef, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(structure(trial.config), []).append(trial)
    if pack != "shapes":
        groups = _packed(groups, pack, spec, strict)
    programs = []
    for group in groups.values():
        lifted = lanes or default_lanes(group[0].config, max(len(group), capacity))
        spare = spare_lanes(lifted, len(group), capacity)
        wide = _widest([trial.config.network for trial in group])
        programs.append(Program(tuple(group), lifted, wide=wide, spare=spare))
    return tuple(programs)


def _packed(
    groups: Mapping[PyTreeDef, Sequence[Trial]], pack: str, spec: Spec | None, strict: bool
) -> dict[PyTreeDef, list[Trial]]:
    """Groups of equal structure, merged where networks can be embedded in a wider one."""
    families: dict[PyTreeDef, list[PyTreeDef]] = {}
    for key, (first, *_) in groups.items():
        family = replace(first.config, network=embedding.family(first.config.network))
        families.setdefault(structure(family), []).append(key)
    merged: dict[PyTreeDef, list[Trial]] = {}
    for keys in families.values():
        config = groups[keys[0]][0].config
        why = len(keys) > 1 and embedding.obstacle(config.network, config.optimizer, spec)
        if why and strict:
            raise ValueError(f"pack: {pack}: {why}: use auto, which embeds where it can, or shapes")
        for key in keys:
            config = groups[key][0].config
            shape = key if why else structure(replace(config, network=PACKS[pack](config.network)))
            merged.setdefault(shape, []).extend(groups[key])
    return {shape: sorted(members) for shape, members in merged.items()}


def spare_lanes(lanes: Lanes, trials: int, capacity: int) -> int:
    """Inactive lanes beside those of trials, so that few numbers of lanes are compiled.

    Where lanes run one after the other, inactive ones cost nothing: up to the capacity. Where they
    run side by side: up to a power of two.
    """
    if lanes.width == 1 or capacity <= trials:
        return max(0, capacity - trials)
    return min(capacity, max(lanes.devices, 1 << (trials - 1).bit_length())) - trials


def _widest(networks: Sequence[NetworkConfig]) -> NetworkConfig | None:
    return embedding.widest(networks) if len(set(map(embedding.widths, networks))) > 1 else None


def compact(program: Program, trials: Sequence[Trial], after: int, until: int) -> Program:
    """The program in which some of its trials continue; the lanes of the others are inactive, or dropped."""
    spare = spare_lanes(program.lanes, len(trials), len(program.trials) + program.spare)
    return program._replace(trials=tuple(trials), after=after, until=until, spare=spare)


def proceed(trials: Iterable[Trial], trained: Sequence[Program], after: int, until: int) -> tuple[Program, ...]:
    """The programs in which trials continue that trained in some of these before."""
    members = homes([trial.number for trial in trials], trained)
    return tuple(compact(trained[place], members[place], after, until) for place in sorted(members))


def homes(trials: Collection[int], trained: Sequence[Program]) -> dict[int, list[Trial]]:
    """The places of the programs in which trials, by number, trained last, and which of them in each."""
    wanted, found = set(trials), dict[int, list[Trial]]()
    for place in reversed(range(len(trained))):
        if members := [trial for trial in trained[place].trials if trial.number in wanted]:
            wanted -= {trial.number for trial in members}
            found[place] = members
    return found
