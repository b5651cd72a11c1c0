"""Grouping of trials into compiled programs.

Trials whose configurations have the same tree structure differ only in numbers and seeds, and are
lanes of one compiled program. Networks of one family that differ in their widths can also share a
program: `plan` packs them with `embedding`.
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

_LEAST_EXAMPLES = 32  # minimum per device if devices share a batch


class Program(NamedTuple):
    """A compiled program and the trials that are its lanes."""

    trials: tuple[Trial, ...]
    lanes: Lanes
    micro_batch: int = 0
    """See `training.Task`."""
    wide: NetworkConfig | None = None
    """The network in which the networks of the trials are embedded, if their widths differ."""
    after: int = 0
    """The number of epochs that the trials have already trained."""
    until: int = 0
    """The epoch after which the program ends; 0 for the last one."""
    spare: int = 0
    """The number of inactive lanes."""

    @property
    def config(self) -> TrainConfig:
        """The shared configuration of the trials, with the numbers and the seed of the first trial."""
        return self.config_of(self.trials[0])

    def config_of(self, trial: Trial) -> TrainConfig:
        """Returns the configuration of a trial in this program, with the wide network if there is one."""
        config = trial.config
        return replace(config, network=embedding.as_wide(config.network, self.wide)) if self.wide else config

    @property
    def end(self) -> int:
        """The epoch after which the program ends."""
        return self.until or self.config.epochs

    @property
    def rows(self) -> list[int]:
        """The lane of each trial, in order; active lanes are spread evenly over the devices."""
        count = len(self.trials)
        return [i * (count + self.spare) // count for i in range(count)]


def structure(config: TrainConfig) -> PyTreeDef:
    """Returns the tree structure that lanes of one program share: all but numbers, the seed and patience."""
    return jax.tree.structure(replace(config, seed=0, patience=None))


def batch_split(config: TrainConfig, devices: int) -> int:
    """Returns how many CPU devices should share a batch: 1, unless each has enough examples."""
    most = min(devices, config.batch_size // _LEAST_EXAMPLES)
    return max([1, *(n for n in range(2, most + 1) if can_share(config, n))])


def default_lanes(config: TrainConfig, count: int) -> Lanes:
    """Returns the default lanes: sequential on CPU, parallel on other devices, sharded over all devices.

    If there are more CPU devices than lanes, several devices share the batches of each lane.
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
    """Groups trials into programs: trials that differ only in numbers and seed share one.

    Args:
      trials: the trials to train.
      lanes: the lanes of every program; by default `default_lanes`.
      pack: the widths that share a program, with narrow networks embedded in the widest one: equal
        widths (`shapes`), widths that round up to the same powers of two (`buckets`), or all (`one`).
      spec: the specification of the data; required to pack widths.
      strict: whether a network that cannot be embedded is an error; otherwise it gets its own program.
      capacity: the number of lanes of every program, so that later trials of the same structure need no
        compilation; fewer if inactive lanes cost time (see `spare_lanes`).

    Raises:
      ValueError: if `strict`, and networks of several widths cannot be embedded.
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
    """Merges groups of equal structure if their networks can be embedded in a wider one."""
    families: dict[PyTreeDef, list[PyTreeDef]] = {}
    for key, (first, *_) in groups.items():
        family = replace(first.config, network=embedding.family(first.config.network))
        families.setdefault(structure(family), []).append(key)
    merged: dict[PyTreeDef, list[Trial]] = {}
    for keys in families.values():
        config = groups[keys[0]][0].config
        why = len(keys) > 1 and embedding.obstacle(config.network, config.optimizer, spec)
        if why and strict:
            raise ValueError(f"pack: {pack}: {why}: use auto, which embeds networks if possible, or shapes")
        for key in keys:
            config = groups[key][0].config
            shape = key if why else structure(replace(config, network=PACKS[pack](config.network)))
            merged.setdefault(shape, []).extend(groups[key])
    return {shape: sorted(members) for shape, members in merged.items()}


def spare_lanes(lanes: Lanes, trials: int, capacity: int) -> int:
    """Returns the number of inactive lanes to add, which avoids compilations for many different numbers of lanes.

    Sequential lanes are filled up to the capacity, since inactive ones cost no time. Parallel lanes are
    filled up to a power of two.
    """
    if lanes.width == 1 or capacity <= trials:
        return max(0, capacity - trials)
    return min(capacity, max(lanes.devices, 1 << (trials - 1).bit_length())) - trials


def _widest(networks: Sequence[NetworkConfig]) -> NetworkConfig | None:
    return embedding.widest(networks) if len(set(map(embedding.widths, networks))) > 1 else None


def compact(program: Program, trials: Sequence[Trial], after: int, until: int) -> Program:
    """Returns a program that continues some of its trials; the other lanes become inactive or are dropped."""
    spare = spare_lanes(program.lanes, len(trials), len(program.trials) + program.spare)
    return program._replace(trials=tuple(trials), after=after, until=until, spare=spare)


def proceed(trials: Iterable[Trial], trained: Sequence[Program], after: int, until: int) -> tuple[Program, ...]:
    """Returns the programs that continue trials of earlier programs."""
    members = homes([trial.number for trial in trials], trained)
    return tuple(compact(trained[place], members[place], after, until) for place in sorted(members))


def homes(trials: Collection[int], trained: Sequence[Program]) -> dict[int, list[Trial]]:
    """Returns the most recent program of each trial: indices of programs, with their trials."""
    wanted, found = set(trials), dict[int, list[Trial]]()
    for place in reversed(range(len(trained))):
        if members := [trial for trial in trained[place].trials if trial.number in wanted]:
            wanted -= {trial.number for trial in members}
            found[place] = members
    return found
