"""Trains one network and records the run."""

from command_line import Clock, digits, run
from conduct import conduct, opened
from execution import Options
from plans import show_plan, swept
from presets import Preset

from cnnjax import pictures
from cnnjax.config import TrainConfig


def main(config: TrainConfig, options: Options, preset: Preset) -> None:
    if options.plan:
        show_plan(swept(config), options, preset)
        return
    clock, metric = Clock(), config.metric
    with opened(config, options, preset) as (dataset, folder):
        outcome = conduct(swept(config), dataset, folder, options)
        [result] = outcome.results
        tested, loss = outcome.tests.get(0, (None, None))
        summary = {
            "status": result.status,
            f"test_{metric.name}": tested,
            "test_loss": loss,
            f"valid_{metric.name}": result.valid_metric,
            "valid_loss": result.valid_loss,
            "parameters": outcome.parameters,
            "seconds": clock.seconds(),
        }
        pictures.learning_curves(outcome.rows, folder.figures / "curves.png", metric)
        folder.write_json("summary.json", summary)
    if tested is None:
        rate = getattr(config.optimizer, "learning_rate", None)
        lower = "a lower --learning-rate" + ("" if rate is None else f" than {rate:g}")
        print(f"diverged after {result.step} steps: try {lower}")
    else:
        unit, name = " %" if metric.percent else "", metric.kind().replace("-", " ")
        print(f"test {name} {digits(tested, metric)}{unit}, loss {loss:.4f} ({len(dataset.test.labels)} examples)")
    print(f"{outcome.parameters:,} parameters; {clock}")
    print(folder.path)


if __name__ == "__main__":
    run(main, __doc__)
