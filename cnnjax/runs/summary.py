"""Final files of a run folder: summary, table, figures, and the winner of a sweep as a separate run folder."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax import tensorboard
from cnnjax.config import SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.descriptions import describe
from cnnjax.planning import describe_plan
from cnnjax.runs.extend import save_end
from cnnjax.runs.findings import Commands
from cnnjax.runs.records import describe_data, read_record
from cnnjax.runs.report import write_report
from cnnjax.runs.store import RunFolder
from cnnjax.runs.swept import Swept
from cnnjax.sweeps import Program, Trial, assembled, edges, effects, margin_of, summarize, variance_shares
from cnnjax.training import Lanes


def summarize_run(
    folder: RunFolder,
    config: TrainConfig | SweepConfig,
    swept: Swept,
    data: Dataset,
    seconds: Mapping[str, float],
    commands: Commands,
) -> list[str]:
    """Writes the results of a run; `summary.json` comes last and marks the run as complete.

    A report that cannot be drawn costs no results: the run is complete without it.

    Args:
      folder: the run folder.
      config: the configuration of the single run or sweep.
      swept: the results.
      data: the data.
      seconds: the seconds that each part of the run took.
      commands: the commands that follow the run.

    Returns:
      Messages to show.
    """
    if isinstance(config, TrainConfig):
        _draw(folder, config, swept)
        summary = _of_one(swept)
    else:
        folder.write_csv("trials.csv", swept.table(), again=True)
        _draw(folder, config, swept)
        first = next((r.trial for r in swept.winner.results if r.status == "complete"), None)
        if first and not swept.config.shard:
            winner_folder(folder, first, swept, data)
        summary = _of_sweep(swept)
    notes = []
    try:
        single = isinstance(config, TrainConfig)
        write_report(folder.path, swept, single, commands, swept.trained, data, seconds)
    except Exception as error:  # whatever it is, the results are more important
        why = " ".join(f"{type(error).__name__}: {error}".split())
        notes.append(f"{folder.path / 'report.html'} was not written ({why}); `cnnjax report {folder.path}` writes it")
    folder.write_json("summary.json", {**summary, "seconds": dict(seconds)})
    return notes


def _of_one(swept: Swept) -> dict[str, Any]:
    [result] = swept.results
    tested, loss = swept.tests.get(0, (None, None))
    return {
        "status": result.status,
        f"test_{swept.metric.name}": tested,
        "test_loss": loss,
        f"valid_{swept.metric.name}": result.valid_metric,
        "valid_loss": result.valid_loss,
        **{name: values[0] for name, values in _of_average(swept).items()},
        "parameters": swept.parameters,
    }


def _of_sweep(swept: Swept) -> dict[str, Any]:
    winner, name = swept.winner, swept.metric.name
    score, loss = (summarize([pair[i] for pair in swept.tests.values()]) for i in (0, 1))
    statuses = [result.status for result in swept.results]
    means = effects(swept.points).items()
    return {
        "best": {
            "point": winner.values,
            f"valid_{name}": winner.valid_metric._asdict(),
            "valid_loss": winner.valid_loss._asdict(),
            f"test_{name}": score._asdict(),
            "test_loss": loss._asdict(),
            **{name: summarize(values)._asdict() for name, values in _of_average(swept).items()},
            "parameters": swept.parameters,
            "edges": [edge._asdict() for edge in edges(swept.config, winner)],
        },
        "trials": {status: statuses.count(status) for status in ("complete", "stopped", "diverged")},
        "equal_within": margin_of(swept.metric, swept.config.equal_within),
        "compared": [{**each._asdict(), "point": each.point.values} for each in swept.compared],
        "effects": {field: {value: mean._asdict() for value, mean in values.items()} for field, values in means},
        "shares": variance_shares(swept.points),
    }


def _of_average(swept: Swept) -> dict[str, list[float]]:
    """Returns the metrics of the moving averages of the best point, one value per seed; empty if it has none."""
    if not swept.ema_tests:
        return {}
    table = [row for row in swept.table() if row["trial"] in swept.ema_tests]
    return {name: [row[name] for row in table] for name in table[0] if name.startswith("ema_")}


def _draw(folder: RunFolder, config: TrainConfig | SweepConfig, swept: Swept) -> None:
    for name, figure in figures_of(config, swept).items():
        figure.savefig(folder.figures / f"{name}.png")


def figures_of(config: TrainConfig | SweepConfig, swept: Swept) -> dict[str, Any]:
    """Returns the Matplotlib figures of a run by name, without those that would be empty.

    Args:
      config: the configuration of the single run or sweep.
      swept: the results.
    """
    from cnnjax import pictures  # Matplotlib takes half a second

    base, metric, points = swept.config.base, swept.metric, swept.points
    one = isinstance(config, TrainConfig)
    what = f"seed {base.seed}" if one else f"{len(points)} points, {pictures.seeds_of(points)}"
    epochs = "" if "epochs" in swept.axes else f", {base.epochs} epoch" + "s" * (base.epochs > 1)
    title = f"{Path(swept.where).name}: {Path(base.data).name}, {what}{epochs}"
    if one:
        return {"curves": pictures.learning_curves(swept.rows, metric, title)}
    figures = {
        "curves": pictures.compare_curves(swept.rows, points, metric, title),
        "gaps": pictures.gaps_to_best(points, metric, title),
        "grid": pictures.grid(points, metric, title),
        "rates": pictures.rate_curves(points, metric, title),
        "parallel": pictures.parallel_coordinates(points, metric, title),
    }
    return {name: figure for name, figure in figures.items() if figure}


def write_tensorboard(folder: RunFolder, swept: Swept) -> None:
    """Writes a TensorBoard run for each trial to `tensorboard/`."""
    values = {r.trial.number: {**dict(r.trial.values), **r.trial.repeat} for r in swept.results}
    tensorboard.write(folder.path / "tensorboard", values, swept.rows, swept.metric)


def winner_folder(folder: RunFolder, trial: Trial, swept: Swept, data: Dataset) -> Path:
    """Writes a trial of a sweep as a separate run folder, which `cnnjax train --resume` can continue.

    Args:
      folder: the run folder of the sweep.
      trial: the trial, which must be complete.
      swept: the results of the sweep.
      data: the data.

    Returns:
      The new folder: `winner`, or `winner-2` and so on if it exists.
    """
    program = Program((trial._replace(number=0, point=0),), Lanes())
    names = ("winner", *(f"winner-{number}" for number in range(2, 10**6)))
    name = next(name for name in names if not _finished(folder.path / name))
    shutil.rmtree(folder.path / name, ignore_errors=True)  # from a process that was killed
    with RunFolder(folder.path / name) as winner:
        winner.write_json("config.json", describe(trial.config))
        winner.write_json("env.json", read_record(folder.path / "env.json"))
        of_fold = None if trial.fold is None or data.folds is None else describe_data(data.at(trial.fold))
        winner.write_json("data.json", of_fold or read_record(folder.path / "data.json"))
        winner.append_metrics({**row, "trial": 0} for row in swept.rows if row["trial"] == trial.number)
        save_end(winner, 0, program, assembled(program, {0: swept.states[trial.number]}, data.spec), data)
        winner.write_json("plan.json", describe_plan([program]))
    return winner.path


def _finished(winner: Path) -> bool:
    """Returns whether a folder was written completely, and may have been used since."""
    return (winner / "plan.json").exists()
