"""What differs between two runs."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnjax.runs.records import Row, differences, read_metrics, read_record

_OF_NO_RESULT = ("trial", "status", "epochs", "steps", "train_loss", "valid_", "test_")


def diff(first: str | Path, second: str | Path) -> dict[str, list[str]]:
    """What differs between two run folders, a line each: `configuration`, `environment`, `data`, `results`.

    Trials are compared by their values and seed: whether every number of every epoch is the same,
    and where not, by how much the last ones differ.

    Raises:
      OSError, RecordError: a record is not there, or damaged.
    """
    folders = Path(first), Path(second)

    def records(name: str) -> list[Any]:
        return [read_record(folder / name) for folder in folders]

    found = {
        title: list(differences(*records(name)))
        for title, name in (("configuration", "config.json"), ("environment", "env.json"), ("data", "data.json"))
    }
    return {**found, "results": list(_results(*map(_trials, folders)))}


def _trials(folder: Path) -> dict[str, list[Row]]:
    """The epochs of each trial, by its values and seed."""
    names = _names(folder)
    found: dict[str, list[Row]] = {}
    for row in read_metrics(folder / "metrics.jsonl"):
        rest = {name: value for name, value in row.items() if name != "trial"}
        found.setdefault(names.get(row["trial"], f"trial {row['trial']}"), []).append(rest)
    return found


def _names(folder: Path) -> Mapping[int, str]:
    path = folder / "trials.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {
            int(row["trial"]): ", ".join(
                f"{name} {value}" for name, value in row.items() if value and not name.startswith(_OF_NO_RESULT)
            )
            for row in csv.DictReader(file)
        }


def _results(there: Mapping[str, list[Row]], here: Mapping[str, list[Row]]) -> Iterator[str]:
    both = [name for name in there if name in here]
    unlike = [name for name in both if there[name] != here[name]]
    for missing, where in ((there.keys() - here.keys(), "first"), (here.keys() - there.keys(), "second")):
        if missing:
            yield f"{len(missing)} trials in the {where} alone"
    if unlike:
        yield f"{len(both) - len(unlike)} of {len(both)} trials have the same numbers in every epoch"
    for name in unlike:
        one, other = there[name][-1], here[name][-1]
        yield f"{name}: " + "; ".join(differences(one, other))
