"""Trains the points of a sweep under several seeds, ranks them, and compares them with the best."""

import math
from collections.abc import Sequence
from functools import partial

from cnnjax.commands.arguments import parse
from cnnjax.commands.command_line import carried_out, exit_if_all_diverged, run_command, times
from cnnjax.commands.options import Options
from cnnjax.commands.plan import show_plan
from cnnjax.commands.shell import Typed
from cnnjax.commands.tables import aligned
from cnnjax.config import SweepConfig
from cnnjax.metrics import Metric
from cnnjax.options import text
from cnnjax.presets import Preset
from cnnjax.runs import RunFolder, Swept, counted, findings
from cnnjax.sweeps import Compared, Ranked, digits, shown, summarize


def main(config: SweepConfig, options: Options, preset: Preset) -> None:
    """Trains a sweep and prints its results."""
    if options.plan:
        show_plan(config, options, preset)
        return
    swept, folder = carried_out(config, options, preset)
    report(swept, folder)
    exit_if_all_diverged(folder)


def report(swept: Swept, folder: RunFolder) -> None:
    """Prints the results of a sweep."""
    compared = swept.compared
    print(table(swept, compared))
    for finding in findings(swept, folder.path, Typed.now()):
        print(finding)
    counts = counted(result.status for result in swept.results)
    print(f"{len(swept.results)} trials: {counts}; {times(folder)}")
    print(folder.path)


def table(swept: Swept, compared: Sequence[Compared]) -> str:
    """Formats the points, best first, as aligned columns: mean and standard deviation over seeds."""
    metric = swept.metric
    averaged = any(result.trial.config.ema is not None for result in swept.results)
    extra = ["averaged"] if averaged else []
    rows = [["rank", *swept.axes, f"valid {_words(metric)}", *extra, "behind the best", swept.winner.repeated]]
    last = {row["trial"]: row for row in swept.rows}
    for rank, each in enumerate(compared, 1):
        point = each.point
        values = [text(point.values[axis]) if axis in point.values else "-" for axis in swept.axes]
        averages = [last[result.trial.number].get(f"ema_valid_{metric.name}") for result in point.results]
        known = summarize([value for value in averages if value is not None])
        extra = [shown(known, metric)] if averaged else []
        rows.append(
            [str(rank), *values, shown(point.valid_metric, metric), *extra, _behind(each, metric), _seeds(point)]
        )
    return aligned(rows)


def _seeds(point: Ranked) -> str:
    """Formats how many seeds did not diverge, and after how many epochs seeds were stopped."""
    healthy = sum(result.status != "diverged" for result in point.results)
    ended = max(result.epochs for result in point.results)
    early = sorted(result.epochs for result in point.results if result.early)
    words = f"{healthy}/{len(point.results)}" + (f", stopped after {ended} epochs" if _stopped(point) else "")
    if not early:
        return words
    epochs = str(early[0]) if early[0] == early[-1] else f"{early[0]} to {early[-1]}"
    return f"{words}, {len(early)} stopped early after {epochs} epochs"


def _words(metric: Metric) -> str:
    return metric.kind().replace("-", " ")


def _behind(compared: Compared, metric: Metric) -> str:
    """Formats the gap to the best, its simultaneous interval and the verdict."""
    if compared.verdict in ("best", "incomplete"):
        return ""
    if math.isinf(compared.high) or math.isnan(compared.gap):
        return compared.verdict
    gap, low, high = (digits(value, metric) for value in compared[1:4])
    return f"{gap} [{low}, {high}] {compared.verdict}"


def _stopped(point: Ranked) -> bool:
    return any(result.status == "stopped" for result in point.results)


def command() -> None:
    """Runs `cnnjax sweep`."""
    run_command(main, partial(parse, __doc__ or "", several=True))
