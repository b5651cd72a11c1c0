"""Packing: chooses which widths share a program, by compilation time saved and work added by padding."""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
from jax.tree_util import PyTreeDef

from cnnjax.config import TrainConfig
from cnnjax.data import Dataset, Spec
from cnnjax.devices import agreed, threads
from cnnjax.networks import NetworkConfig, functional
from cnnjax.planning.timing import _compiled, step_seconds
from cnnjax.planning.ways import in_cache
from cnnjax.sweeps import PACKS, Program, Trial, plan
from cnnjax.training import Lanes


class Packing(NamedTuple):
    """The chosen packing, and the predicted times."""

    pack: str
    seconds: Mapping[str, float]
    """The predicted seconds of each packing; empty if there was no choice."""


def pack_of(trials: Sequence[Trial], data: Dataset, lanes: Lanes | None = None) -> Packing:
    """Chooses the packing with the lowest predicted time.

    Fewer programs save compilation time, but padding adds work. To predict both, the programs with the
    widest networks are compiled, one on each core, and the widest is timed. Every other program is
    assumed to compile in the same time, and to take time per step in proportion to the floating-point
    operations of its forward pass. The compiled programs are reused if `shapes` is chosen.
    """
    planned = {pack: plan(trials, lanes, pack, spec=data.spec, strict=False) for pack in PACKS}
    if len(planned["one"]) == len(planned["shapes"]):
        return Packing("shapes", {})
    ways = {pack: [in_cache(program, data.spec) for program in programs] for pack, programs in planned.items()}
    of = {p: _operations(p.config, data.spec) for programs in ways.values() for p in programs}
    ready = sorted(ways["shapes"], key=lambda program: -of[program])[: os.cpu_count() or 1]
    with threads(len(ready)) as pool:
        compiled = list(pool.map(lambda program: _compiled(program, data), ready))
    run, compile_s = compiled[0]
    [seconds] = step_seconds([run])
    per_epoch = seconds * run.steps / len(ready[0].trials) / of[ready[0]]

    def expected(programs: Sequence[Program]) -> float:
        compilations = len(set(programs) - set(ready))
        work = sum(len(p.trials) * p.config.epochs * of[p] for p in programs)
        return work * per_epoch + compile_s * compilations / max(1, min(compilations, os.cpu_count() or 1))

    found = {pack: round(expected(programs), 2) for pack, programs in ways.items()}
    packs = list(found)
    return Packing(packs[agreed(packs.index(min(packs, key=lambda pack: found[pack])))], found)


def _operations(config: TrainConfig, spec: Spec) -> float:
    """Returns the number of floating-point operations of a forward pass."""
    numbers, kind = jax.tree.flatten(config.network)
    return _counted(kind, tuple(numbers), spec.standardized, spec.outputs, spec.tokens)


@lru_cache(maxsize=256)
def _counted(
    kind: PyTreeDef, numbers: tuple[float, ...], inputs: jax.ShapeDtypeStruct, outputs: int, tokens: int
) -> float:
    network: NetworkConfig = jax.tree.unflatten(kind, numbers)
    pure, key = functional(lambda rngs, example: network.built(rngs, example, outputs, tokens)), jax.random.key(0)
    variables = jax.eval_shape(pure.init, key, inputs)
    costs = jax.jit(partial(pure.apply, train=True, key=key)).lower(variables, inputs).cost_analysis()
    assert costs
    return float(costs["flops"])
