"""Joins the shards of a sweep into one run, ranks its points, and tests the winner."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from cnnjax.commands.arguments import Parsed
from cnnjax.commands.command_line import carried_out, exit_if_all_diverged, run_command
from cnnjax.commands.errors import usage
from cnnjax.commands.options import Options
from cnnjax.commands.parser import parse_words
from cnnjax.commands.sweep import report
from cnnjax.config import SweepConfig
from cnnjax.presets import Preset, load_preset
from cnnjax.runs import configuration_of


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The shards to join, and the new run folder."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run folders of the shards"""
    name: str | None = None
    """name of the run folder; by default `merged` and the time"""
    runs_dir: Path = Path("runs")
    """directory of run folders"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data"""
    preset: Path | None = None
    """file that defines the user-defined parts of the shards"""
    resume: bool = False
    """continue a stopped merge"""
    allow_changes: bool = False
    """join even if versions, source or preset differ"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    quiet: bool = False
    """print only the result"""
    debug: bool = False
    """show full tracebacks"""


def _read(argv: list[str]) -> Parsed:
    given = parse_words(Arguments, __doc__ or "", argv)
    with usage(given.debug):
        if not given.runs:
            raise ValueError("merge: give the run folders of the shards")
        for folder in given.runs:
            if not (folder / "config.json").is_file():
                raise ValueError(f"merge: {folder}: is not a run folder")
        first = given.runs[0]
        classes = load_preset(str(given.preset)).classes if given.preset else ()
        config = configuration_of(first, classes)
        if not isinstance(config, SweepConfig):
            raise ValueError(f"merge: {first}: must be a sweep, not a single run")
        config = dataclasses.replace(config, shard=None)
        preset = load_preset(str(first), given.preset)._replace(name="merged", sweep=config)
        rest = {name: value for name, value in vars(given).items() if name != "runs"}
        options = Options(**rest, extend=given.runs)
        options.check()
    return Parsed(config, options, preset)


def main(config: SweepConfig, options: Options, preset: Preset) -> None:
    """Joins the shards, and prints the result."""
    swept, folder = carried_out(config, options, preset, only_extend=True)
    report(swept, folder)
    exit_if_all_diverged(folder)


def command() -> None:
    """Runs `cnnjax merge`."""
    run_command(main, _read)
