"""Compares two runs."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnjax.descriptions import completed
from cnnjax.runs.records import RecordError, Row, differences, read_metrics, read_record

_SIDES = ("first", "second")


def diff(first: str | Path, second: str | Path) -> dict[str, list[str]]:
    """Compares two run folders: configuration, environment, data and results.

    Trials are matched by their values and seed, and their numbers are compared in every epoch. For
    trials that differ, the numbers of the last epoch are reported. A single run is compared with the
    base of a sweep.

    Args:
      first: a run folder.
      second: another run folder.

    Returns:
      The differences, one per line, under `configuration`, `environment`, `data` and `results`.

    Raises:
      OSError: if a record is missing.
      RecordError: if a record is damaged.
    """
    folders = Path(first), Path(second)

    def records(name: str) -> list[Any]:
        return [read_record(folder / name) for folder in folders]

    def apart(first: Any, second: Any) -> list[str]:
        return list(differences(first, second, sides=_SIDES))

    found = {title: apart(*records(name)) for title, name in (("environment", "env.json"), ("data", "data.json"))}
    configs = [completed(config) for config in records("config.json")]
    kinds = ["a sweep" if "axes" in config else "a single run" for config in configs]
    unlike = [f"the first is {kinds[0]}, the second {kinds[1]}"] if kinds[0] != kinds[1] else []
    bases = [config.get("base", config) if unlike else config for config in configs]
    results = ["not compared"] if unlike else _compared(folders, configs)
    return {"configuration": [*unlike, *apart(*bases)], **found, "results": list(results)}


def _compared(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compares trials by their values and seed, or by number if a run has not finished and the points are equal."""
    names = [_names(folder) for folder in folders]
    if not all(names):
        if _points(configs[0]) != _points(configs[1]):
            unended = ", ".join(str(folder) for folder, found in zip(folders, names, strict=True) if not found)
            return [f"not compared: {unended} has not finished, and the runs have different trials"]
        names = [{}, {}]
    return list(_results(*map(_trials, folders, names)))


def _points(config: Mapping[str, Any]) -> str:
    """Returns the fields that determine the numbers of the trials, as JSON; equal for all single runs."""
    return json.dumps({name: value for name, value in config.items() if "axes" in config and name != "base"})


def _trials(folder: Path, names: Mapping[int, str]) -> dict[str, list[Row]]:
    """Returns the epochs of each trial, by its values and seed."""
    found: dict[str, list[Row]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        rest = {name: value for name, value in row.items() if name != "trial"}
        found.setdefault(names.get(row["trial"], f"trial {row['trial']}"), []).append(rest)
    return found


def _names(folder: Path) -> Mapping[int, str]:
    """Returns values and seed of the trials of a finished sweep, by number."""
    path = folder / "trials.csv"
    if not path.is_file():
        return {}
    config = read_record(folder / "config.json")
    axes = [*config.get("axes", ()), *(["fold"] if config.get("folds") else []), "seed"]
    try:
        with path.open(newline="") as file:
            return {
                int(row["trial"]): ", ".join(f"{name} {row[name]}" for name in axes if row[name])
                for row in csv.DictReader(file)
            }
    except (LookupError, TypeError, ValueError, csv.Error) as error:
        raise RecordError(f"{path}: damaged: {type(error).__name__}: {error}") from None


def _results(there: Mapping[str, list[Row]], here: Mapping[str, list[Row]]) -> Iterator[str]:
    both = [name for name in there if name in here]
    unlike = [name for name in both if there[name] != here[name]]
    for missing, side in ((there.keys() - here.keys(), _SIDES[0]), (here.keys() - there.keys(), _SIDES[1])):
        if missing:
            yield f"{len(missing)} trial{'s' if len(missing) > 1 else ''} only in the {side}"
    if unlike:
        yield f"{len(both) - len(unlike)} of {len(both)} trials have the same numbers in every epoch"
    for name in unlike:
        yield f"{name}: " + "; ".join(differences(there[name][-1], here[name][-1], sides=_SIDES))
