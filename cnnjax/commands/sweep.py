"""Trains the points of a sweep under several seeds, ranks them, and compares them with the best."""

import contextlib
import dataclasses
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cnnjax.commands import shell
from cnnjax.commands.arguments import parse
from cnnjax.commands.command_line import carried_out, exit_if_all_diverged, run_command, times
from cnnjax.commands.options import Options
from cnnjax.commands.plan import show_plan
from cnnjax.commands.tables import aligned
from cnnjax.config import Range, SweepConfig
from cnnjax.metrics import Metric
from cnnjax.options import resolve, text
from cnnjax.presets import Preset
from cnnjax.runs import RunFolder, Swept, counted
from cnnjax.sweeps import Compared, Ranked, digits, edges, shown, summarize, variance_shares

_OF_ONE_RUN = {"name", "resume", "extend", "plan", "plan_from", "allow_changes"}


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
    for line in judged(swept, compared, folder):
        print(line)
    counts = counted(result.status for result in swept.results)
    print(f"{len(swept.results)} trials: {counts}; {times(folder)}")
    print(folder.path)


def table(swept: Swept, compared: Sequence[Compared]) -> str:
    """Formats the points, best first, as aligned columns: mean and standard deviation over seeds."""
    metric = swept.metric
    rows = [["rank", *swept.axes, f"valid {_words(metric)}", "behind the best", "seeds"]]
    for rank, each in enumerate(compared, 1):
        point = each.point
        healthy = sum(result.status != "diverged" for result in point.results)
        ended = max(result.epochs for result in point.results)
        seeds = f"{healthy}/{len(point.results)}" + (f", stopped after {ended} epochs" if _stopped(point) else "")
        values = [text(point.values[axis]) if axis in point.values else "-" for axis in swept.axes]
        rows.append([str(rank), *values, shown(point.valid_metric, metric), _behind(each, metric), seeds])
    return aligned(rows)


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


def judged(swept: Swept, compared: Sequence[Compared], folder: RunFolder) -> Iterator[str]:
    """Yields the lines below the table: points as good as the best, shares of the variance, commands to run next."""
    config, ends, parts = swept.config, edges(swept.config, swept.winner), variance_shares(swept.points)
    if swept.tests:
        tested = summarize([score for score, _ in swept.tests.values()])
        over = f" over {tested.n} seeds" if tested.n > 1 else ""
        yield f"The best point has a test {_words(swept.metric)} of {shown(tested, swept.metric)}{over}."
    if config.more_seeds:
        yield "Points have different seeds: ranks and gaps are adjusted for seed effects."
    if level := [each.point for each in compared if each.verdict in ("equal", "undecided")]:
        yield f"Not significantly different from the best: {_some(level)}."
    undecided = sum(each.verdict == "undecided" for each in compared)
    if undecided and config.search == "all" and not config.shard:
        more = seeds_command(folder, max(2, config.seeds))
        yield f"{undecided} undecided; to train more seeds for these and the best: {more}"
    if unstable := [each.point for each in compared if each.verdict == "unstable"]:
        why = "a seed is no better than guessing, or the spread over seeds is unusually large"
        yield f"Unstable ({why}), ranked last and not compared: {_some(unstable)}."
    if parts:
        yield "Shares of the variance: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items()) + "."
    if not swept.winner.complete:
        yield "warning: every point has a diverged seed: try lower learning rates"
    if config.shard:
        yield f"Shard {config.shard}: `cnnjax merge` joins all shards, ranks their points and tests the best."
    elif ends:
        which = ", ".join(f"{edge.name} {text(edge.value)} is the {edge.side} value" for edge in ends)
        grid = {edge.name: edge.proposed for edge in ends}
        known = config.search == "all" and not config.points  # then the next sweep has some of the same points
        command = next_command(grid, folder, config) + (f" --extend {shlex.quote(str(folder.path))}" if known else "")
        yield f"warning: the best point is on the edge of the grid ({which}); a grid around it: {command}"


def _some(points: Sequence[Ranked], most: int = 5) -> str:
    """Lists the names of the first few points."""
    names = "; ".join(point.name for point in points[:most])
    return names + (f"; and {len(points) - most} more" if len(points) > most else "")


def seeds_command(folder: RunFolder, count: int) -> str:
    """Returns the command that trains more seeds for the best point and the undecided points of a sweep."""
    kept = {field.name for field in dataclasses.fields(Options)} - _OF_ONE_RUN
    words = shell.without(sys.argv[1:], lambda name: name.removeprefix("no_") not in kept)
    preset = [word for word in _positional() if word.endswith(".py")]
    named = ["--preset", *preset] if preset else []
    words = [str(folder.path), "--add-seeds", str(count), *named, *words[len(_positional()) :]]
    return shell.line(words, _script())


def _positional() -> list[str]:
    """Returns the arguments before the first option of the current command."""
    return shell.without(sys.argv[1:], lambda name: True)


def _script() -> str:
    """Returns the name of the current command, with `sweep` in place of `merge`."""
    return sys.argv[0].replace("merge", "sweep") if sys.argv[0].endswith("cnnjax merge") else sys.argv[0]


def next_command(grid: Mapping[str, Any], folder: RunFolder, config: SweepConfig) -> str:
    """Returns the command of a sweep with other values; after a merge, it starts from the merged run folder."""
    script, given = _script(), sys.argv[1:]
    if script != sys.argv[0]:
        preset = shell.without(given, lambda name: name != "preset")[len(_positional()) :][:2]
        given = [str(folder.path), *preset]
    replaced = {config.paths[name] for name in grid}

    def dropped(name: str) -> bool:
        with contextlib.suppress(ValueError):
            if resolve(name, config.known) in replaced:
                return True
        return name in {*_OF_ONE_RUN, "add_seeds"}

    words = shell.without(given, dropped)
    for name, values in grid.items():
        words += [f"--{name.replace('_', '-')}", *map(text, (values,) if isinstance(values, Range) else values)]
    return shell.line(words, script)


def command() -> None:
    """Runs `cnnjax sweep`."""
    run_command(main, partial(parse, __doc__ or "", several=True))
