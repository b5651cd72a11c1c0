"""Writes TensorBoard files: a run for each trial, with its curves and its hyperparameters."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cnnjax.metrics import Accuracy, Metric
from cnnjax.options import text

FILE = "events.out.tfevents.0000000000.cnnjax"
_ACCURACY = Accuracy()


def curves(metric: Metric = _ACCURACY) -> tuple[str, ...]:
    """Returns the columns of `metrics.jsonl` that are written as curves."""
    return tuple(f"{split}_{quantity}" for split in ("train", "valid") for quantity in ("loss", metric.name))


def columns(metric: Metric = _ACCURACY) -> tuple[str, ...]:
    """Returns the columns of a trial's last row in the HParams table."""
    return f"valid_{metric.name}", "valid_loss"


def write(
    folder: Path,
    trials: Mapping[int, Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
    metric: Metric = _ACCURACY,
) -> None:
    """Writes a folder for each trial, and replaces existing ones.

    The files depend only on the trials and rows: events have no time. The HParams table shows the last
    loss and metric of a trial; a trial whose last row lacks a value is marked as failed.

    Args:
      folder: the folder for `tensorboard --logdir FOLDER`.
      trials: the swept values and other values for the table, by trial number. A trial may lack values.
      rows: lines of `metrics.jsonl`; nulls and non-finite numbers are left out.
      metric: the metric of the sweep.

    Raises:
      ModuleNotFoundError: if tensorboardX is not installed.
    """
    from tensorboardX import RecordWriter

    found: dict[int, list[Mapping[str, Any]]] = {number: [] for number in trials}
    for row in rows:
        if row["trial"] in found:
            found[row["trial"]].append(row)
    digits = len(str(max(trials, default=0)))
    compared = _comparable(trials)
    every: dict[str, Any] = {}
    for values in compared.values():
        every |= {name: value for name, value in values.items() if name not in every}
    for number, values in compared.items():
        path = folder / _run_name(f"{number:0{digits}}", values)
        path.mkdir(parents=True, exist_ok=True)
        with closing(RecordWriter(str(path / FILE))) as writer:
            for event in _events(values, every, found[number], metric):
                writer.write(event)


def _comparable(trials: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Converts values so that each column has one type: booleans, numbers or text."""

    def kind(value: Any) -> str:
        if isinstance(value, bool):
            return "boolean"
        return "number" if isinstance(value, (int, float)) else "text"

    kinds: dict[str, set[str]] = {}
    for values in trials.values():
        for name, value in values.items():
            kinds.setdefault(name, set()).add(kind(value))
    return {
        number: {k: value if kinds[k] in ({"boolean"}, {"number"}) else text(value) for k, value in values.items()}
        for number, values in trials.items()
    }


def _run_name(number: str, values: Mapping[str, Any]) -> str:
    """Returns the name of a folder, such as `07 learning_rate=0.1 filters=8,16 seed=2`, with portable characters."""
    name = " ".join([number, *(f"{name}={text(value)}" for name, value in values.items())])
    return re.sub(r"[^\w.,=+ -]+", "_", name, flags=re.ASCII)[:120].strip()


def _events(
    values: dict[str, Any], every: dict[str, Any], rows: Sequence[Mapping[str, Any]], metric: Metric
) -> Iterator[bytes]:
    """Yields the events of a trial in order; `every` has a value for each column of the table."""
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
    from tensorboardX.summary import Summary, hparams

    yield Event(file_version="brain.Event:2").SerializeToString()
    failed = not rows or len(_numbers(rows[-1], metric)) < len(curves(metric))
    measured = dict.fromkeys(columns(metric))
    experiment, *_ = hparams(every, measured)
    for summary in (experiment, *hparams(values, measured)[1:]):
        plugin = summary.value[0].metadata.plugin_data
        info = HParamsPluginData.FromString(plugin.content)
        if failed and info.HasField("session_end_info"):
            info.session_end_info.status = Status.Value("STATUS_FAILURE")
        plugin.content = info.SerializeToString(deterministic=True)  # sorted, because maps have no order
        yield Event(summary=summary).SerializeToString()
    for row in rows:
        if scalars := [Summary.Value(tag=name, simple_value=value) for name, value in _numbers(row, metric).items()]:
            yield Event(step=row["step"], summary=Summary(value=scalars)).SerializeToString()


def _numbers(row: Mapping[str, Any], metric: Metric) -> dict[str, float]:
    return {name: row[name] for name in curves(metric) if row[name] is not None and math.isfinite(row[name])}
