"""The report of a run, `report.html`: gathers what it shows from the results and the files of the run folder."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import reports
from cnnjax.data import Dataset, Split
from cnnjax.metrics import Metric
from cnnjax.options import options, text
from cnnjax.reports import Column, Curves, Remark, Report, Shown, Stat, Table
from cnnjax.runs.checkpoints import CheckpointError
from cnnjax.runs.findings import Commands, findings
from cnnjax.runs.printed import describe_inputs
from cnnjax.runs.records import counted, read_record
from cnnjax.runs.swept import Swept
from cnnjax.runs.trained import Trained
from cnnjax.sweeps import Summary, Trial, digits, summarize, trials

BATCH, MISTAKES = 256, 24
POINTS = 40_000
"""About how many points the curves of one quantity have in all."""
BYTES = 3_200_000
"""How large all pictures may be; the report refers to further ones by their files."""

Network = Callable[[int], Trained]
"""A function that returns the trained network of a trial."""


def write_report(
    folder: Path,
    swept: Swept,
    single: bool,
    commands: Commands,
    network: Network,
    data: Dataset | None = None,
    seconds: Mapping[str, float] | None = None,
    missing: str = "",
) -> Path:
    """Writes `report.html`, from results and from what the run folder has; returns its path.

    Args:
      folder: the run folder.
      swept: the results.
      single: whether it is a single run.
      commands: the commands that follow the run.
      network: a function that returns the trained network of a trial, such as `swept.trained`.
      data: the data, for the mistakes on its validation split; None to leave them out.
      seconds: the seconds that each part of the run took; None for a run that has not finished.
      missing: why there are no data.

    Raises:
      OSError, RecordError: if a file cannot be read or written, or is damaged.
    """
    omitted, mistakes = missing, None
    if data is not None:
        mistakes, omitted = _mistakes(swept, network, data)
    pictures, links = _pictures(folder)
    report = Report(
        title=f"{folder.resolve().name}: {'training' if single else 'sweep'} on {swept.config.base.data}",
        lead=_lead(swept, single),
        stats=list(_stats(swept, single, seconds)),
        remarks=[] if single else [Remark(*finding) for finding in findings(swept, folder, commands)],
        trials=_trials(swept, single),
        points=None if single else _points(swept),
        main=f"valid_{swept.metric.name}",
        higher_is_better=swept.metric.higher_is_better,
        curves=_curves(swept),
        pictures=pictures,
        links=[*_links(folder), *links],
        mistakes=mistakes,
        omitted=omitted,
        configuration=_configuration(swept),
        environment=_environment(folder),
        commands=list(_commands(folder, swept, single, commands, finished=seconds is not None)),
        unfinished="" if seconds is not None else _unfinished(swept),
    )
    return reports.write_run(folder / "report.html", report)


# ------------------------------------------------------------------------- the answer


def _words(metric: Metric) -> str:
    return metric.kind().replace("-", " ")


def _lead(swept: Swept, single: bool) -> str:
    base, best = swept.config.base, swept.winner
    what = f"Network: {type(base.network).__name__}. Data: {describe_inputs(base.data, swept.spec)}."
    if single:
        ended = {"complete": "Trained", "stopped": "Stopped", "diverged": "Diverged"}[best.results[0].status]
        return f"{what} {ended} after {_counted(best.results[0].epochs, 'epoch')}."
    values = ", ".join(f"{name.replace('_', ' ')} {text(value)}" for name, value in best.values.items())
    return f"Best of {_counted(len(swept.points), 'point')}: {values}. {what}" if swept.axes else what


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _stats(swept: Swept, single: bool, seconds: Mapping[str, float] | None) -> Iterator[Stat]:
    best, metric = swept.winner, swept.metric
    every = {"test": swept.tests, "averaged test": swept.ema_tests}
    columns = {name: list(zip(*tests.values(), strict=True)) for name, tests in every.items() if tests}
    scores, losses = ({name: summarize(pair[i]) for name, pair in columns.items()} for i in (0, 1))
    for split, score in {**scores, "validation": best.valid_metric}.items():
        unit = " %" if metric.percent else ""
        yield _spread(f"{split} {_words(metric)}", score, lambda value: digits(value, metric), unit, best.repeated)
    for split, loss in {**losses, "validation": best.valid_loss}.items():
        yield _spread(f"{split} loss", loss, "{:.4g}".format, "", best.repeated)
    yield Stat("parameters", f"{swept.parameters:,}", "" if single else "of the best point")
    if not single:
        yield Stat("trials", f"{len(swept.results):,}", counted(result.status for result in swept.results))
    if seconds:
        parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if name != "total")
        yield Stat("time", _duration(seconds["total"]), parts)


def _spread(label: str, summary: Summary, write: Callable[[float], str], unit: str, repeated: str) -> Stat:
    """Describes a mean, with its standard deviation over what is `repeated`, such as seeds."""
    mean, std, count = summary
    note = f"± {write(std)} over {count} {repeated}" if math.isfinite(std) else ""
    return Stat(label, f"{write(mean)}{unit}" if math.isfinite(mean) else "-", note)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _unfinished(swept: Swept) -> str:
    """Describes how much of a run is recorded."""
    if all(result.status != "stopped" for result in swept.results) and len(swept.config.axes) == 0:
        return (
            "All epochs are trained, but there is no test result: this run was stopped just before its end, or it is "
            "the winner of a sweep, whose report has the result."
        )
    ended = sum(result.status != "stopped" for result in swept.results)
    planned = [trial.config.epochs for trial in trials(swept.config)] if swept.config.search == "all" else []
    epochs = sum(result.epochs for result in swept.results)
    whole = f" of {sum(planned):,}" if planned else ""
    many = f"{ended:,} of {len(planned):,} trials have ended" if len(planned) > 1 else "Results are preliminary"
    return (
        f"This run has not finished, or is still in progress. {many}, and {epochs:,}{whole} epochs are recorded. The "
        "test split has not been read."
    )


# ------------------------------------------------------------------------- tables and curves


def _plain(value: Any) -> Any:
    """Converts a value to a number, to text, or to None if it is missing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if math.isfinite(value) else None
    return text(value) if not isinstance(value, str) else value


def _swept_column(name: str, values: Sequence[Any]) -> Column:
    numeric = all(isinstance(value, int | float) for value in values if value not in (None, "none"))
    return Column(name, name.replace("_", " "), "number" if numeric else "text", swept=True)


def _trials(swept: Swept, single: bool) -> Table:
    """Returns a row for each trial, with the rank of its point, and metrics in percent where they are fractions."""
    metric, rows = swept.metric, swept.table()
    ranks = {r.trial.number: rank for rank, point in enumerate(swept.points, 1) for r in point.results}
    if not single:
        rows = [{"trial": row["trial"], "rank": ranks[row["trial"]], **row} for row in rows]
    table = [{name: _plain(value) for name, value in row.items()} for row in rows]
    labels = {"train": "training", "valid": "validation", "test": "test"}
    columns: list[Column] = []
    for name in table[0]:
        split, _, rest = name.removeprefix("ema_").partition("_")
        what = "averaged " if name.startswith("ema_") else ""
        values = [row[name] for row in table]
        if name in swept.axes:
            columns.append(_swept_column(name, values))
        elif split in labels and rest == metric.name and metric.percent:
            columns.append(Column(name, f"{what}{labels[split]} {_words(metric)} (%)", "percent"))
            for row in table:
                row[name] = None if row[name] is None else 100 * row[name]
        elif split in labels:
            columns.append(Column(name, f"{what}{labels[split]} {rest.replace('_', ' ')}", "number"))
        else:
            columns.append(Column(name, name, "text" if name == "status" else "count"))
    kept = [column for column in columns if any(row[column.name] is not None for row in table)]
    return Table(kept, [[row[column.name] for column in kept] for row in table])


def _points(swept: Swept) -> Table:
    """Returns a row for each point, best first."""
    metric = swept.metric
    factor, kind = (100, "percent") if metric.percent else (1, "number")
    unit = " (%)" if metric.percent else ""
    compared = swept.compared
    across: list[list[Any]] = [
        [_plain(each.point.values[axis]) if axis in each.point.values else None for each in compared]
        for axis in swept.axes
    ]
    columns = [
        Column("rank", "rank", "count"),
        *map(_swept_column, swept.axes, across),
        Column("mean", f"validation {_words(metric)}{unit}", kind),  # type: ignore[arg-type]
        Column("std", "± std", kind),  # type: ignore[arg-type]
        Column("gap", "behind the best", kind),  # type: ignore[arg-type]
        Column("interval", "95 % interval"),
        Column("verdict", "verdict"),
        Column("seeds", swept.winner.repeated),
    ]
    rows = []
    for rank, each in enumerate(compared, 1):
        mean, std, _ = each.point.valid_metric
        healthy = sum(result.status != "diverged" for result in each.point.results)
        bounded = math.isfinite(each.high) and each.verdict != "best"
        interval = f"{digits(each.low, metric)} to {digits(each.high, metric)}" if bounded else None
        numbers = [_plain(factor * value) for value in (mean, std, each.gap)]
        values = [column[rank - 1] for column in across]
        rows.append([rank, *values, *numbers, interval, each.verdict, f"{healthy}/{len(each.point.results)}"])
    kept = [i for i, column in enumerate(columns) if column.swept or any(row[i] is not None for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _curves(swept: Swept) -> Curves:
    """Returns the curves of all trials, with fewer epochs where there are many."""
    name, percent = swept.metric.name, swept.metric.percent
    longest = max(row["epoch"] for row in swept.rows)
    step = math.ceil(longest / max(10, min(300, POINTS // len(swept.results))))
    ends = {row["trial"]: row["epoch"] for row in swept.rows}
    some = sorted({*range(1, longest + 1, step), longest, *itertools.islice(sorted(set(ends.values())), 20)})
    values = {}
    for column in (f"train_{name}", "train_loss", f"valid_{name}", "valid_loss"):
        factor = 100 if percent and not column.endswith("_loss") else 1
        found = factor * swept.curves(column)[:, np.array(some) - 1].astype(float)
        values[column] = [[value if math.isfinite(value) else None for value in line] for line in found.tolist()]
    return Curves(some, values)


# ------------------------------------------------------------------------- pictures and mistakes

_KNOWN = {
    "curves": ("Curves", "Loss and metric over epochs. Crosses mark trials that diverged."),
    "gaps": ("Gaps", "How far each point is behind the best, with simultaneous 95 % intervals."),
    "grid": ("Grid", "The validation metric of each combination of two swept fields."),
    "rates": ("Rates", "The validation metric over the learning rate, with the spread over seeds."),
    "parallel": ("All fields", "A line for each point across the axes of all swept fields; the best are brightest."),
    "surface-random": ("Loss surface", "The loss on a plane of parameters through the trained network."),
    "surface-trajectory": (
        "Path of training",
        "The loss on the plane in which parameters changed most, with the path.",
    ),
    "filters": ("Filters", "The filters of the first convolution, before and after training."),
    "receptive-fields": ("Receptive fields", "The part of the input that a unit in each layer depends on."),
    "feature-maps": ("Feature maps", "The outputs of the layers for one validation example."),
    "outputs": ("Outputs", "Inputs found by gradient ascent on each output."),
    "dead-units": ("Dead units", "The units of each layer that no validation example activates."),
    "attributions": ("Attributions", "What raises and lowers the predicted logit of examples, by several methods."),
    "randomization": ("Randomized layers", "How attributions change as layers are randomized from the output down."),
    "features": ("Features", "The last hidden layer of validation examples in two dimensions."),
    "confusion": ("Confusion matrix", "How many validation examples of each class have each prediction."),
    "per-class": ("Precision and recall", "For each class, on the validation split."),
    "calibration": ("Calibration", "The accuracy of validation examples over the confidence of their predictions."),
    "mistakes": ("Mistakes", "The most confident wrong predictions on the validation split."),
}
_UNITS = "units-"  # followed by the path of a layer


def _pictures(folder: Path) -> tuple[list[Shown], list[tuple[str, str]]]:
    """Returns the pictures in `figures/`, and links to those that are damaged or for which a page has no room."""
    pictures, links, room, known = list[Shown](), list[tuple[str, str]](), BYTES, [*_KNOWN]
    files = [path for path in (folder / "figures").glob("*") if path.suffix in (".png", ".gif")]
    for path in sorted(files, key=lambda path: (known.index(path.stem) if path.stem in known else 99, path.name)):
        name = path.stem.replace("-", " ").replace("_", " ").capitalize()
        title, words = _KNOWN.get(path.stem, (name, f"The picture figures/{path.name}."))
        if path.stem.startswith(_UNITS):
            layer = path.stem.removeprefix(_UNITS)
            title, words = (
                f"Units of {layer}",
                "What activates each unit most.",
            )
        content = path.read_bytes()
        if len(content) <= room and content.startswith((b"\x89PNG", b"GIF8")):
            room -= len(content)
            pictures.append(Shown(content, title, words, words))
        else:
            links.append((title, f"figures/{path.name}"))
    return pictures, links


def _links(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields the pages that `look` has written."""
    for name in ("figures/look.html", "winner/figures/look.html"):
        if (folder / name).is_file():
            yield "What the network has learned", name


def _mistakes(swept: Swept, network: Network, data: Dataset) -> tuple[reports.Mistakes | None, str]:
    """Returns the mistakes of the winner's first trial on the validation split, or why there are none."""
    if not data.classes:
        return None, ""
    results = swept.winner.results
    usable = [result.trial for result in sorted(results, key=lambda r: r.status) if result.status != "diverged"]
    if not usable:
        return None, "All trials of the best point diverged, so there is no network to evaluate."
    try:
        trained = network(usable[0].number)
    except CheckpointError as error:
        return None, f"The network cannot be evaluated: {error}."
    data = data.at(usable[0].fold)
    found = _probabilities(trained, data.valid)
    if not np.isfinite(found).all():
        return None, "The outputs of the network are not finite."
    which = "" if len(swept.results) == 1 else f" of trial {usable[0].number} ({_repeat(usable[0])})"
    return _evaluated(found, data, which), ""


def _repeat(trial: Trial) -> str:
    """Formats the fold and the seed of a trial, such as `fold 1, seed 0`."""
    return ", ".join(f"{name} {value}" for name, value in trial.repeat.items())


def _probabilities(trained: Trained, split: Split) -> np.ndarray:
    """Returns the probabilities of all examples, in batches of one size, so that one program is compiled."""
    count = len(split.labels)
    size = min(BATCH, count)
    parts = []
    for start in range(0, count, size):
        batch = np.asarray(split.inputs[start : start + size])
        filled = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
        parts.append(np.asarray(trained.probabilities(filled))[: len(batch)])
    return np.concatenate(parts)


def _evaluated(found: np.ndarray, data: Dataset, which: str) -> reports.Mistakes:
    from cnnjax import look
    from cnnjax.data.texts import decode
    from cnnjax.pictures.thumbnails import thumbnail

    labels, names = np.asarray(data.valid.labels), data.classes
    wrong, classes = look.mistakes(found, labels), look.per_class(found, labels)
    error = look.calibration(found, labels).error
    pictures = []
    for example, label, predicted, sure in zip(*(column[:MISTAKES].tolist() for column in wrong), strict=True):
        words = decode(data.valid.inputs[example], data.vocabulary) if data.vocabulary else ""
        picture = b"" if words else thumbnail(data.valid.inputs[example], data.spec)
        if picture is not None:
            caption = f"{names[label]}, predicted {names[predicted]} ({sure:.1%})"
            alt = f"validation example {example}: class {names[label]}, predicted {names[predicted]}"
            pictures.append(Shown(picture, caption, words, alt))
    count = len(wrong.examples)
    summed = (
        f"The network{which} predicts a wrong class for {count:,} of the {len(labels):,} validation examples "
        f"({count / len(labels):.2%}). Its confidence and its accuracy differ by {error:.2%} on average (expected "
        "calibration error)."
    )
    columns = [Column("class", "class")]
    columns += [Column(name, f"{name} (%)", "percent") for name in ("precision", "recall", "f1")]
    columns += [Column("examples", "examples", "count")]
    percent = [[_plain(100 * value) for value in column.tolist()] for column in classes[:3]]
    rows = [list(row) for row in zip(names, *percent, classes.support.tolist(), strict=True)]
    matrix = look.confusion(found, labels).tolist()
    return reports.Mistakes(summed, names, matrix, Table(columns, rows), pictures)


# ------------------------------------------------------------------------- how it was made


def _configuration(swept: Swept) -> Table:
    """Returns a row for each field: its name, its value or its swept values, and what it is."""
    paths = swept.config.paths
    axes = {paths[name]: values for name, values in swept.config.axes}
    rows = []
    for option in options(swept.config.base):
        value = _several(axes.pop(option.path)) if option.path in axes else _value(option)
        rows.append([option.name, value, str(option.metadata.get("help", ""))])
    rows += [[".".join(path), _several(values), ""] for path, values in axes.items()]
    if swept.axes:
        rows.append(["seeds", str(swept.config.seeds), "trials of each point"])
        if swept.config.folds:
            rows.append(["folds", str(swept.config.folds), "data sets in which each seed is trained"])
        rows.append(["search", swept.config.search, "how points are chosen"])
    columns = [Column("field", "field"), Column("value", "value"), Column("help", "what it is")]
    return Table(columns, rows)


def _several(values: Any) -> str:
    return " | ".join(map(text, values)) if isinstance(values, tuple) else str(values)


def _value(option: Any) -> str:
    if not option.holds_parts:
        return text(option.value)
    parts = option.value if isinstance(option.value, tuple) else (option.value,)
    return ", ".join(type(part).__name__ for part in parts if part is not None) or "none"


def _environment(folder: Path) -> Table:
    facts = read_record(folder / "env.json")
    rows: list[list[Any]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += [[f"{name}: {key}", str(entry)] for key, entry in value.items() if not isinstance(entry, Mapping)]
        else:
            rows.append([name, str(value)])
    data = read_record(folder / "data.json")
    counts = ", ".join(f"{name} {count:,}" for name, count in data["examples"].items())
    rows += [["data: examples", counts], ["data: sha256", data["sha256"]]]
    written = f"{time.strftime('%Y-%m-%d %H:%M')}, cnnjax {metadata.version('cnnjax')}, jax {jax.__version__}"
    return Table([Column("name", "name"), Column("value", "value")], [*rows, ["report written", written]])


def _commands(folder: Path, swept: Swept, single: bool, commands: Commands, finished: bool) -> Iterator[Remark]:
    typed = folder / "command"
    if typed.is_file():
        for line in typed.read_text(encoding="utf-8", errors="replace").splitlines():
            yield Remark("Started or resumed with", line)
    else:
        yield Remark("Started from Python, with `cnnjax.fit` or `cnnjax.sweep`.")
    if not finished:
        yield Remark("To continue it", commands.continued(folder, not single))
        return
    longer = 2 * swept.winner.results[0].trial.config.epochs
    if swept.winner.results[0].early:
        yield Remark("It stopped early: to train further, switch `patience` off.")
    elif single:
        yield Remark("To train further", commands.further(folder, longer))
    elif (folder / "winner").is_dir():
        yield Remark("To train the winner's first trial further", commands.further(folder / "winner", longer))
    yield Remark("To load the network in Python", f"cnnjax.load_run({str(folder)!r})")
