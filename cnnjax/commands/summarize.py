"""Prints what each layer of a network costs: output, parameters, multiply-adds, activations, receptive field.

python -m cnnjax summarize PRESET [--field value ...] [--input-shape 32,32,3] [--outputs 10] [--format text]

The fields are those of `train`. Without --input-shape, the data of the preset give the shape and the number of outputs.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from cnnjax.commands import terminal
from cnnjax.commands.arguments import Parsed, parse
from cnnjax.commands.errors import reported, usage
from cnnjax.config import TrainConfig
from cnnjax.look import Costs, summarize
from cnnjax.options import choose

FORMATS = ("text", "markdown", "json")


def formatted(costs: Costs, kind: str) -> str:
    """Returns costs as a table of text or Markdown, or as JSON."""
    if kind == "json":
        return json.dumps(costs.as_dict(), indent=2)
    if kind == "text":
        return str(costs)
    head, *rows = (f"| {' | '.join(row)} |" for row in costs.rows())
    return "\n".join([head, "|" + "---|" * len(costs.rows()[0]), *rows])


def _counts(name: str, words: str) -> tuple[int, ...]:
    try:
        sizes = tuple(map(int, words.split(",")))
    except ValueError:
        sizes = ()
    if min(sizes, default=0) < 1:
        raise ValueError(f"{name}: {words}: must be positive integers, such as 32,32,3")
    return sizes


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, Parsed]:
    """Parses a command line: the options of this command, and those of `train`."""
    form = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--input-shape", "--outputs", "--format"):
        form.add_argument(name)
    with usage("--debug" in argv):
        try:
            own, rest = form.parse_known_args(argv)
        except argparse.ArgumentError as error:
            raise ValueError(f"{error.argument_name}: {error.message}") from None
        own.format = own.format or "text"
        choose("format", own.format, dict.fromkeys(FORMATS))
        own.input_shape = _counts("input_shape", own.input_shape) if own.input_shape else ()
        own.outputs = _counts("outputs", own.outputs or "10")[0]
    return own, parse(__doc__ or "", rest, several=False)


def main(argv: Sequence[str]) -> None:
    """Prints the costs of the network of a command line."""
    own, (config, options, preset) = read(argv)
    assert isinstance(config, TrainConfig)
    shape, outputs, tokens = own.input_shape, own.outputs, 0
    if not shape:
        spec = preset.dataset(config.data, options.data_dir, config.loading).spec
        shape, outputs, tokens = spec.shape, spec.outputs, spec.tokens
    with usage(options.debug):
        costs = summarize(config.network, shape, outputs, tokens=tokens)
    print(formatted(costs, own.format))


def command() -> None:
    """Runs `cnnjax summarize`."""
    terminal.use()
    with reported("--debug" in sys.argv):
        main(sys.argv[1:])
