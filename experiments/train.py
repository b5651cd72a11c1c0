"""Trains one network and records the run."""

from command_line import Clock, Options, run
from conduct import conduct, opened
from plans import show_plan, swept

from cnnjax import pictures
from cnnjax.config import TrainConfig


def main(config: TrainConfig, options: Options, preset: str) -> None:
    if options.plan:
        show_plan(swept(config), options)
        return
    clock = Clock()
    with opened(config, options, preset) as (dataset, folder):
        outcome = conduct(swept(config), dataset, folder, options)
        [result] = outcome.results
        accuracy, loss = outcome.tests.get(0, (None, None))
        summary = {
            "status": result.status,
            "test_accuracy": accuracy,
            "test_loss": loss,
            "valid_accuracy": result.valid_accuracy,
            "valid_loss": result.valid_loss,
            "parameters": outcome.parameters,
            "seconds": clock.seconds(),
        }
        pictures.learning_curves(outcome.rows, folder.figures / "curves.png")
        folder.write_json("summary.json", summary)
    if accuracy is None:
        print(f"diverged after {result.step} steps: try a lower --learning-rate than {config.hparams.learning_rate:g}")
    else:
        print(f"test accuracy {100 * accuracy:.2f} %, loss {loss:.4f} ({len(dataset.test.labels)} images)")
    print(f"{outcome.parameters:,} parameters; {clock}")
    print(folder.path)


if __name__ == "__main__":
    run(main, __doc__)
