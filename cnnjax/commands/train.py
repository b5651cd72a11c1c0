"""Trains one network and records the run."""

from functools import partial

from cnnjax.commands.arguments import parse
from cnnjax.commands.command_line import carried_out, exit_if_all_diverged, run_command, times
from cnnjax.commands.options import Options
from cnnjax.commands.plan import show_plan
from cnnjax.config import TrainConfig
from cnnjax.presets import Preset
from cnnjax.runs import as_sweep
from cnnjax.sweeps import digits


def main(config: TrainConfig, options: Options, preset: Preset) -> None:
    """Trains a network, and prints the result."""
    if options.plan:
        show_plan(as_sweep(config), options, preset)
        return
    swept, folder = carried_out(config, options, preset)
    [result], metric = swept.results, swept.metric
    if result.early:
        epochs = f"{config.patience} epoch" + "s" * (config.patience != 1)
        print(
            f"stopped after {result.epochs} of {config.epochs} epochs: no better validation {metric.name} in {epochs}"
        )
    if 0 not in swept.tests:
        rate = getattr(config.optimizer, "learning_rate", None)
        lower = "a lower --learning-rate" + ("" if rate is None else f" than {rate:g}")
        print(f"diverged after {result.step} steps: try {lower}")
    else:
        tested, loss = swept.tests[0]
        unit, name = " %" if metric.percent else "", metric.kind().replace("-", " ")
        examples = folder.read_json("data.json")["examples"]["test"]
        print(f"test {name} {digits(tested, metric)}{unit}, loss {loss:.4f} ({examples} examples)")
        for averaged, loss in swept.ema_tests.values():
            print(f"with averaged parameters: test {name} {digits(averaged, metric)}{unit}, loss {loss:.4f}")
    print(f"{swept.parameters:,} parameters; {times(folder)}")
    print(folder.path)
    exit_if_all_diverged(folder)


def command() -> None:
    """Runs `cnnjax train`."""
    run_command(main, partial(parse, __doc__ or "", several=False))
