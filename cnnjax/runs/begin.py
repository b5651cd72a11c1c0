"""The start of a run: writes its records, or compares a resumed run with them."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import completed, describe
from cnnjax.planning import parse_lanes
from cnnjax.runs.environment import changes, environment
from cnnjax.runs.records import data_differences, describe_data, differences, plain
from cnnjax.runs.store import RunFolder, Store

_POINTS = {field.name for field in dataclasses.fields(SweepConfig)} - {"base", "equal_within"}


_COMPARED: Mapping[str, Callable[..., Iterable[str]]] = {
    "config": differences,
    "env": changes,
    "data": data_differences,
}


class Start(NamedTuple):
    """The start of a run."""

    complete: bool
    """Whether the run has a summary and nothing has changed."""
    replaced: dict[str, Any]
    """Changed records, which `accept` writes once the states in the store are known to fit them."""


def begin(
    store: Store,
    config: TrainConfig | SweepConfig,
    data: Dataset,
    code: Mapping[str, Any] | None = None,
    *,
    allow_changes: bool = False,
) -> Start:
    """Writes the configuration, environment and data of a run, or compares them with the records in the store.

    Args:
      store: the store of the run.
      config: the configuration.
      data: the data set.
      code: path and SHA-256 of the user's preset; compared only if both sides have one.
      allow_changes: whether a resumed run may differ from its records.

    Raises:
      ValueError: if a resumed run differs from its records.
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
        there = completed(known[name]) if name == "config" else known[name]
        if there is None:
            store.write_json(f"{name}.json", here)
            continue
        here = json.loads(json.dumps(plain(here)))
        found = list(_COMPARED[name](there, here))
        if name == "config":
            found += orders(there, here)
        if name == "config" and found and any(_ordered(there, field) != _ordered(here, field) for field in _POINTS):
            raise ValueError(
                f"resume: {store.name} has other trials: {'; '.join(found)}: use another --name, and "
                f"--extend {store.name} to reuse the trials that both have"
            )
        changed += found
    ended = store.read_json("summary.json") is not None
    if not ended and (needed := _devices(store.read_json("plan.json"))) > (count := jax.device_count()):
        changed.append(f"devices {needed} there, {count} here (plan.json)")
    if changed and not allow_changes:
        raise ValueError(
            f"resume: {store.name} was started with other settings: {'; '.join(changed)}: "
            "use --allow-changes (allow_changes=True) to continue anyway"
        )
    return Start(not changed and ended, facts if changed else {})


def _devices(plan: Any) -> int:
    """Returns the number of devices that a plan needs; 0 if there is no valid plan."""
    try:
        return max(parse_lanes(str(entry["lanes"])).all_devices for entry in plan["programs"])
    except (TypeError, KeyError, ValueError):
        return 0


def _check_kind(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> None:
    kinds = ["a sweep" if "axes" in value else "a single run" for value in (there, here)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"resume: {name} is {kinds[0]}, but this is {kinds[1]}: use another --name")


def _ordered(config: Mapping[str, Any], field: str) -> str:
    """Returns a field as JSON; it keeps the order of the axes, which determines the numbers of the trials."""
    return json.dumps(config.get(field))


def orders(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns a difference if the axes have another order, which changes the numbers of the trials."""
    old, new = (list(config.get("axes", ())) for config in (there, here))
    if old == new or sorted(old) != sorted(new):
        return []
    return [f"the order of the axes {', '.join(old)} there, {', '.join(new)} here"]


def accept(store: Store, start: Start) -> None:
    """Writes the changed records; renames an earlier summary to `summary-before.json`."""
    if not start.replaced:
        return
    if isinstance(store, RunFolder) and (summary := store.path / "summary.json").exists():
        before = (store.path / f"summary-before{number}.json" for number in ("", *range(2, 10**6)))
        summary.rename(next(path for path in before if not path.exists()))
    for name, here in start.replaced.items():
        store.write_json(f"{name}.json", here, again=True)
