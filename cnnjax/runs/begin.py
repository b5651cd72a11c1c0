"""How a run begins: what it is is written down, and of one that is resumed what has changed is refused."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.runs.environment import changes, environment
from cnnjax.runs.records import describe_data, differences, plain
from cnnjax.runs.store import RunFolder, Store

_POINTS = {field.name for field in dataclasses.fields(SweepConfig)} - {"base"}


def begin(
    store: Store,
    config: TrainConfig | SweepConfig,
    data: Dataset,
    code: Mapping[str, Any] | None = None,
    *,
    allow_changes: bool = False,
) -> bool:
    """Writes down what a run is; of one that is resumed, refuses what has changed since.

    Args:
      store: of the run.
      config: what is trained.
      data: on which.
      code: path and SHA-256 of code of one's own; where one side has none, it is not compared.
      allow_changes: whether changes are taken.

    Returns:
      Whether the run is complete: it has a summary, and nothing has changed.

    Raises:
      ValueError: something has changed.
    """
    env = environment()
    if code:
        env["preset"] = code
    facts = {"config": describe(config), "env": env, "data": describe_data(data)}
    changed: list[str] = []
    other_trials = False
    for name, here in facts.items():
        there = store.read_json(f"{name}.json")
        if there is None:
            store.write_json(f"{name}.json", here)
            continue
        here = json.loads(json.dumps(plain(here)))
        other_trials |= name == "config" and any(there.get(field) != here.get(field) for field in _POINTS)
        changed += (changes if name == "env" else differences)(there, here)
    _refuse(changed, store.name, other_trials, allow_changes)
    if changed:
        if isinstance(store, RunFolder) and (summary := store.path / "summary.json").exists():
            before = (store.path / f"summary-before{number}.json" for number in ("", *range(2, 10**6)))
            summary.rename(next(path for path in before if not path.exists()))
        for name, here in facts.items():
            store.write_json(f"{name}.json", here, again=True)
    return not changed and store.read_json("summary.json") is not None


def _refuse(changed: list[str], name: str, other_trials: bool, allow_changes: bool) -> None:
    if other_trials:
        raise ValueError(
            f"resume: {name} has other trials: {'; '.join(changed)}: --extend {name} and another "
            "--name take over those that both have"
        )
    if changed and not allow_changes:
        raise ValueError(
            f"resume: {name} was started with other settings: {'; '.join(changed)}: "
            "--allow-changes continues all the same"
        )
