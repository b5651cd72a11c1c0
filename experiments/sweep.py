"""Trains every combination of the given values under several seeds, and ranks the points."""

from collections.abc import Iterator
from typing import Any

from command_line import Clock, Options, percent, run
from conduct import Outcome, aligned, conduct, opened, point_name, show_plan

from cnnjax import pictures
from cnnjax.config import SweepConfig, text
from cnnjax.judgement import Summary, summarize


def main(config: SweepConfig, options: Options, preset: str) -> None:
    if options.plan:
        show_plan(config, options)
        return
    clock = Clock()
    with opened(config, options, preset) as (dataset, folder):
        outcome = conduct(config, dataset, folder, options)
        folder.write_csv("trials.csv", trial_rows(outcome), again=options.resume)
        accuracy, loss = tested(outcome)
        best = {
            "point": outcome.winner.values,
            "valid_accuracy": outcome.winner.valid_accuracy._asdict(),
            "valid_loss": outcome.winner.valid_loss._asdict(),
            "test_accuracy": accuracy._asdict(),
            "test_loss": loss._asdict(),
            "parameters": outcome.parameters,
        }
        statuses = [result.status for result in outcome.results]
        counts = {status: statuses.count(status) for status in ("complete", "stopped", "diverged")}
        trials = {point_name(point): [result.trial.number for result in point.results] for point in outcome.points}
        pictures.compare_curves(outcome.rows, trials, folder.figures / "curves.png")
        pictures.grid([(point.values, point.valid_accuracy) for point in outcome.points], folder.figures / "grid.png")
        folder.write_json("summary.json", {"best": best, "trials": counts, "seconds": clock.seconds()})
    print(table(outcome, accuracy))
    print(f"{len(statuses)} trials; {clock}")
    print(folder.path)


def tested(outcome: Outcome) -> tuple[Summary, Summary]:
    """Test accuracy and loss of the winner over its seeds."""
    accuracy, loss = (summarize([pair[i] for pair in outcome.tests.values()]) for i in (0, 1))
    return accuracy, loss


def trial_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """The rows of `trials.csv`; only the winner's trials have test columns."""
    for result in outcome.results:
        accuracy, loss = outcome.tests.get(result.trial.number, (None, None))
        yield {
            "trial": result.trial.number,
            "status": result.status,
            "seed": result.trial.config.seed,
            **dict(result.trial.values),
            "epochs": result.epochs,
            "train_loss": result.train_loss,
            "valid_loss": result.valid_loss,
            "valid_accuracy": result.valid_accuracy,
            "test_loss": loss,
            "test_accuracy": accuracy,
        }


def table(outcome: Outcome, test_accuracy: Summary) -> str:
    """The points, best first, as aligned columns: mean and standard deviation over seeds."""
    rows = [["rank", *outcome.winner.values, "valid accuracy", "test accuracy", "seeds"]]
    for rank, point in enumerate(outcome.points, 1):
        complete = sum(result.status == "complete" for result in point.results)
        test = percent(test_accuracy) if rank == 1 else ""
        values = [text(value) for value in point.values.values()]
        rows.append([str(rank), *values, percent(point.valid_accuracy), test, f"{complete}/{len(point.results)}"])
    return aligned(rows)


if __name__ == "__main__":
    run(main, __doc__, several=True)
