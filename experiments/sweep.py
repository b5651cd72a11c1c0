"""Trains the points of a sweep under several seeds, ranks them, and reports how far the ranking can be trusted."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from command_line import Clock, run, shown
from conduct import Outcome, conduct, opened, point_name
from execution import Options
from inherit import winner_folder
from plans import aligned, show_plan
from presets import Preset

from cnnjax import pictures, tensorboard
from cnnjax.config import Range, SweepConfig
from cnnjax.metrics import Metric
from cnnjax.options import text
from cnnjax.runs import RunFolder, trial_rows
from cnnjax.sweeps import Edge, Ranked, Summary, edges, effects, summarize, ties, variance_shares


def main(config: SweepConfig, options: Options, preset: Preset) -> None:
    if options.plan:
        show_plan(config, options, preset)
        return
    clock, metric = Clock(), config.base.metric
    axes = [name for name, _ in config.axes]
    with opened(config, options, preset) as (dataset, folder):
        outcome = conduct(config, dataset, folder, options)
        rows = trial_rows(outcome.results, outcome.tests, metric, axes)
        folder.write_csv("trials.csv", rows, again=options.resume)
        score, loss = tested(outcome)
        equal, ends = ties(outcome.points), edges(config, outcome.winner)
        best = {
            "point": outcome.winner.values,
            f"valid_{metric.name}": outcome.winner.valid_metric._asdict(),
            "valid_loss": outcome.winner.valid_loss._asdict(),
            f"test_{metric.name}": score._asdict(),
            "test_loss": loss._asdict(),
            "parameters": outcome.parameters,
            "ties": [point.values for point in equal],
            "edges": [edge._asdict() for edge in ends],
        }
        statuses = [result.status for result in outcome.results]
        counts = {status: statuses.count(status) for status in ("complete", "stopped", "diverged")}
        means = {
            name: {value: summary._asdict() for value, summary in values.items()}
            for name, values in effects(outcome.points).items()
        }
        parts = variance_shares(outcome.points)
        draw(outcome, folder, metric)
        if outcome.state is not None:
            first = next(result.trial for result in outcome.winner.results if result.status == "complete")
            winner_folder(folder, first, outcome.state, outcome.rows, dataset)
        if options.tensorboard:
            trials = {r.trial.number: {**dict(r.trial.values), "seed": r.trial.config.seed} for r in outcome.results}
            tensorboard.write(folder.path / "tensorboard", trials, outcome.rows, metric)
        summary = {"best": best, "trials": counts, "effects": means, "shares": parts, "seconds": clock.seconds()}
        folder.write_json("summary.json", summary)
    print(table(outcome, score, axes, metric))
    for line in judged(config, outcome, equal, ends, parts, str(folder.path)):
        print(line)
    print(f"{len(statuses)} trials: {', '.join(f'{count} {status}' for status, count in counts.items())}; {clock}")
    print(folder.path)


def draw(outcome: Outcome, folder: RunFolder, metric: Metric) -> None:
    """The sweep's pictures."""
    trials = {point_name(point): [result.trial.number for result in point.results] for point in outcome.points}
    scores = [(point.values, point.valid_metric) for point in outcome.points]
    pictures.compare_curves(outcome.rows, trials, folder.figures / "curves.png", metric)
    pictures.grid(scores, folder.figures / "grid.png", metric)
    pictures.rate_curves([(point.values, point.valid_loss) for point in outcome.points], folder.figures / "rates.png")
    pictures.parallel_coordinates(scores, folder.figures / "parallel.png", metric)


def tested(outcome: Outcome) -> tuple[Summary, Summary]:
    """Test metric and loss of the winner over its seeds."""
    score, loss = (summarize([pair[i] for pair in outcome.tests.values()]) for i in (0, 1))
    return score, loss


def table(outcome: Outcome, tested: Summary, axes: Sequence[str], metric: Metric) -> str:
    """The points, best first, as aligned columns: mean and standard deviation over seeds."""
    name = metric.kind().replace("-", " ")
    rows = [["rank", *axes, f"valid {name}", f"test {name}", "seeds"]]
    for rank, point in enumerate(outcome.points, 1):
        healthy = sum(result.status != "diverged" for result in point.results)
        ended = max(result.epochs for result in point.results)
        seeds = f"{healthy}/{len(point.results)}" + (f", stopped after {ended} epochs" if _stopped(point) else "")
        test = shown(tested, metric) if rank == 1 else ""
        values = [text(point.values[axis]) if axis in point.values else "-" for axis in axes]
        rows.append([str(rank), *values, shown(point.valid_metric, metric), test, seeds])
    return aligned(rows)


def _stopped(point: Ranked) -> bool:
    return any(result.status == "stopped" for result in point.results)


def judged(
    config: SweepConfig,
    outcome: Outcome,
    equal: Sequence[Ranked],
    ends: Sequence[Edge],
    parts: Mapping[str, float] | None,
    folder: str,
) -> Iterator[str]:
    """What the table does not say: ties, effects, and where to look next."""
    seeds = len(outcome.winner.results)
    if equal and seeds == 1:
        yield "one seed separates no point from the best: give more --seeds"
    elif equal:
        names = "; ".join(point_name(point) for point in equal)
        yield f"not significantly different from the best ({seeds} seeds, paired t-tests at 5 % by Holm): {names}"
    if parts:
        yield "variance: " + ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    if not outcome.winner.complete:
        yield "warning: every point has a seed that diverged: try lower learning rates"
    if ends:
        which = ", ".join(f"{edge.name} {text(edge.value)} is the {edge.side}" for edge in ends)
        grid = {edge.name: edge.proposed for edge in ends}
        known = config.search == "all" and not config.points  # so that points come again
        command = next_command(grid) + (f" --extend {shlex.quote(folder)}" if known else "")
        yield f"warning: the best lies on the edge of its grid: {which}; next: {command}"


def next_command(grid: Mapping[str, Any]) -> str:
    """The command of this run with other values."""
    words: list[str] = []
    dropped = {"name", "resume", "extend", "plan_from", "allow_changes", *grid}
    skipping = False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            skipping = word[2:].split("=")[0].replace("-", "_") in dropped
        if not skipping:
            words.append(shlex.quote(word))
    for name, values in grid.items():
        words += [f"--{name.replace('_', '-')}", *map(text, (values,) if isinstance(values, Range) else values)]
    return " ".join(["python", shlex.quote(sys.argv[0]), *words])


if __name__ == "__main__":
    run(main, __doc__, several=True)
