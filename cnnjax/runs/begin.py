"""How a run begins: what it is is recorded, and of one that is resumed what has changed is refused."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.planning import parse_lanes
from cnnjax.runs.environment import changes, environment
from cnnjax.runs.records import describe_data, differences, plain
from cnnjax.runs.store import RunFolder, Store

_POINTS = {field.name for field in dataclasses.fields(SweepConfig)} - {"base", "equal_within"}


class Begun(NamedTuple):
    """How a run begins."""

    complete: bool
    """It has a summary, and nothing has changed."""
    replaced: dict[str, Any]
    """Records that `accept` is to write, once the states of the store are known to fit what has changed."""


def begin(
    store: Store,
    config: TrainConfig | SweepConfig,
    data: Dataset,
    code: Mapping[str, Any] | None = None,
    *,
    allow_changes: bool = False,
) -> Begun:
    """Records what a run is; of one that is resumed, refuses what has changed.

    Args:
      store: of the run.
      config: what is trained.
      data: on which.
      code: path and SHA-256 of code of one's own; where one side has none, it is not compared.
      allow_changes: whether changes are accepted.

    Raises:
      ValueError: something has changed.
    """
    env = environment()
    if code:
        env["preset"] = code
    facts = {"config": describe(config), "env": env, "data": describe_data(data)}
    known = {name: store.read_json(f"{name}.json") for name in facts}
    if known["config"] is not None:
        _check_kind(known["config"], facts["config"], store.name)
    changed: list[str] = []
    for name, here in facts.items():
        there = known[name]
        if there is None:
            store.write_json(f"{name}.json", here)
            continue
        here = json.loads(json.dumps(plain(here)))
        found = list((changes if name == "env" else differences)(there, here))
        if name == "config":
            found += orders(there, here)
        if name == "config" and found and any(_ordered(there, field) != _ordered(here, field) for field in _POINTS):
            raise ValueError(
                f"resume: {store.name} has other trials: {'; '.join(found)}: use another --name, with "
                f"--extend {store.name} to take over those that both have"
            )
        changed += found
    ended = store.read_json("summary.json") is not None
    if not ended and (needed := _devices(store.read_json("plan.json"))) > (count := jax.device_count()):
        changed.append(f"devices {needed} there, {count} here (plan.json)")
    if changed and not allow_changes:
        raise ValueError(
            f"resume: {store.name} was started with other settings: {'; '.join(changed)}: "
            "--allow-changes (allow_changes=True) continues all the same"
        )
    return Begun(not changed and ended, facts if changed else {})


def _devices(plan: Any) -> int:
    """How many a plan needs; 0 where there is none, or none that can be read."""
    try:
        return max(parse_lanes(str(entry["lanes"])).all_devices for entry in plan["programs"])
    except (TypeError, KeyError, ValueError):
        return 0


def _check_kind(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> None:
    kinds = ["a sweep" if "axes" in value else "a single run" for value in (there, here)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"resume: {name} is {kinds[0]}, and this is {kinds[1]}: use another --name")


def _ordered(config: Mapping[str, Any], field: str) -> str:
    """A field as JSON that keeps the order of axes, by which trials are numbered."""
    return json.dumps(config.get(field))


def orders(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What is to be said where the same axes come in another order, in which trials are numbered."""
    old, new = (list(config.get("axes", ())) for config in (there, here))
    if old == new or sorted(old) != sorted(new):
        return []
    return [f"the order of the axes {', '.join(old)} there, {', '.join(new)} here"]


def accept(store: Store, begun: Begun) -> None:
    """Writes the records that have changed; a summary from before keeps its numbers under another name."""
    if not begun.replaced:
        return
    if isinstance(store, RunFolder) and (summary := store.path / "summary.json").exists():
        before = (store.path / f"summary-before{number}.json" for number in ("", *range(2, 10**6)))
        summary.rename(next(path for path in before if not path.exists()))
    for name, here in begun.replaced.items():
        store.write_json(f"{name}.json", here, again=True)
