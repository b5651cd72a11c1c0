"""The results of a run folder, finished or not, from its records."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cnnjax.config import SweepConfig
from cnnjax.data.cache import read_spec
from cnnjax.runs.records import Counts, RecordError, read_folds, read_metrics, read_record, result_of
from cnnjax.runs.resume import as_sweep, configuration_of
from cnnjax.runs.swept import LastStates, Swept
from cnnjax.runs.trained import planned_trials, valid
from cnnjax.sweeps import Program, rank, state_of
from cnnjax.training import Lanes, TrainState, count_parameters


def recorded(folder: Path, classes: Iterable[Any] = ()) -> Swept:
    """Reads the results of a run folder. It may be unfinished: its trials have the results of their last epoch.

    Args:
      folder: the run folder.
      classes: user-defined classes, enumerations and functions that the configuration names.

    Returns:
      The results; `states` is empty, and `load_run` loads the network of a trial.

    Raises:
      OSError: if a record cannot be read.
      RecordError: if a record is damaged, or no epoch is recorded.
    """
    config = configuration_of(folder, classes)
    data = read_record(folder / "data.json")
    planned = valid(folder / "config.json", lambda: planned_trials(config, folder, data))
    spec = valid(folder / "data.json", lambda: read_spec(data))
    folds = valid(folder / "data.json", lambda: read_folds(data))
    counts = valid(folder / "data.json", lambda: Counts.recorded(data))
    rows = read_metrics(folder / "metrics.jsonl")
    last = {row["trial"]: row for row in rows}
    if not last:
        raise RecordError(f"{folder}: no epoch is recorded so far: wait for the first one, or resume the run")
    metrics, sweep = folder / "metrics.jsonl", as_sweep(config)
    results = valid(metrics, lambda: [result_of(planned[number], row, counts) for number, row in sorted(last.items())])
    points = rank(results, sweep.base.metric)
    parameters = count_parameters(state_of(Program((points[0].results[0].trial,), Lanes()), spec))
    tests, averages = (
        _tests(folder, isinstance(config, SweepConfig), sweep.base.metric.name, prefix) for prefix in ("", "ema_")
    )
    states = LastStates((), _unread, spec)
    words = tuple(map(str, data.get("vocabulary", ())))
    return Swept(points, rows, states, tests, parameters, sweep, spec, str(folder), averages, folds, words)


def _unread(program: int) -> TrainState:
    raise LookupError(program)  # never called, as there are no programs


def _tests(folder: Path, sweep: bool, metric: str, prefix: str) -> dict[int, tuple[float, float]]:
    """Returns the test metric and loss of the tested trials, with `ema_` of their averages; none before the end."""
    summary, table = folder / "summary.json", folder / "trials.csv"
    if not summary.is_file():
        return {}

    def read() -> dict[int, tuple[float, float]]:
        rows: list[Any] = [{"trial": 0, **read_record(summary)}]
        if sweep:
            with table.open(newline="") as file:
                rows = list(csv.DictReader(file))
        loss, score = f"{prefix}test_loss", f"{prefix}test_{metric}"
        tested = [row for row in rows if (row.get(loss) if prefix else row[loss]) not in (None, "")]
        return {int(row["trial"]): (float(row[score]), float(row[loss])) for row in tested}

    return valid(table if sweep else summary, read)
