"""Draws what the network of a run has learned: filters, feature maps, units, attributions, and mistakes.

The pictures are written to `figures/`, with a page that explains them, `look.html`, and the printed numbers as
`look.json`. Only validation examples are used.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import fail, usage
from cnnjax.commands.opened import RunArguments, check_folder, open_run, trial_of
from cnnjax.data import Dataset
from cnnjax.runs import Trained, plain, read_record, waiting
from cnnjax.runs.trained import winner_of
from cnnjax.sweeps import digits


@dataclass(frozen=True)
class Arguments(RunArguments):
    """The run, and what to examine."""

    layer: tuple[str, ...] = ()
    """paths of the layers whose feature maps and units are drawn; by default a choice of up to 6 convolutions"""
    unit: tuple[int, ...] = ()
    """numbers of the units to draw in each of these layers; by default a choice of up to 8"""
    examples: int = 3000
    """number of validation examples in which to search for those that activate units most"""
    seed: int = 0
    """seed of the maximization, of random layers and of t-SNE"""

    def check(self) -> None:
        """Raises ValueError if a value is out of range."""
        check_folder(self.run)
        if self.examples < 1:
            raise ValueError(f"examples: {self.examples}: must be at least 1")


def main(arguments: Arguments) -> None:
    """Draws the pictures, prints the numbers, and writes both with a page."""
    from cnnjax.commands import chapters, text_chapters  # Matplotlib takes half a second
    from cnnjax.commands.subject import Subject

    with usage(arguments.debug):
        arguments.check()
        trained, data = open_run(arguments)
        name = _name(arguments, trained)
        subject = Subject(trained, data, name, arguments.examples, arguments.layer, arguments.unit, arguments.seed)
    if not np.isfinite(subject.logits).all():
        fail(f"{arguments.run}: the outputs of the network are not finite: the run may have diverged", 1)
    standing = _standing(arguments, trained, data, subject.logits)
    print(f"{name}: {standing}")
    folder = _folder(arguments, trained)
    folder.mkdir(parents=True, exist_ok=True)
    found: list[chapters.Chapter] = []
    for chapter in text_chapters.CHAPTERS if trained.spec.tokens else chapters.CHAPTERS:
        with waiting(f"drawing {chapter.__name__.removeprefix('of_').replace('_', ' ')}"):
            found.append(chapter(subject))
            for picture in found[-1].pictures:
                picture.figure.savefig(folder / f"{picture.name}.png")
    for line in (line for part in found for line in part.lines):
        print(line)
    omitted = [entry for part in found for entry in part.omitted]
    if omitted:
        print(f"left out: {'; '.join(f'{names}: {reason}' for names, reason in omitted)}")
    _write_numbers(folder / "look.json", arguments, trained, found)
    print(_write_page(folder, name, standing, found, omitted))


def _name(arguments: Arguments, trained: Trained) -> str:
    """Returns the name of the run in titles."""
    folder = arguments.run.resolve()
    name = f"{folder.parent.name}/{folder.name}" if folder.name.startswith("winner") else folder.name
    return f"{name}, trial {trial_of(arguments, trained)}" if _is_sweep(arguments.run) else name


def _standing(arguments: Arguments, trained: Trained, data: Dataset, logits: np.ndarray) -> str:
    """Describes the network: its data, size and validation metric, and whether the run has finished."""
    metric = trained.config.metric
    outputs = logits.reshape(len(logits), *((-1,) if trained.classes else trained.spec.label_shape or (1,)))
    value = digits(float(np.mean(metric(jnp.asarray(outputs), jnp.asarray(data.valid.labels)))), metric)
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.variables.params))
    unit = " %" if metric.percent else ""
    facts = f"trained on {trained.config.data}, {count:,} parameters, validation {metric.name} {value}{unit}"
    ended = (arguments.run / "summary.json").is_file() or not (arguments.run / "command").is_file()
    return facts + ("" if ended else "; the run has not finished: this is its most recent checkpoint")


def _is_sweep(run: Path) -> bool:
    return "axes" in read_record(run / "config.json")


def _folder(arguments: Arguments, trained: Trained) -> Path:
    """Returns the folder of the pictures: that of the run, of the winner of a sweep, or of another trial."""
    if not _is_sweep(arguments.run):
        return arguments.run / "figures"
    trial = trial_of(arguments, trained)
    winners = sorted(arguments.run.glob("winner*/plan.json"), key=lambda path: path.stat().st_mtime)
    if winners and trial == winner_of(arguments.run / "trials.csv"):
        return winners[-1].parent / "figures"
    return arguments.run / "figures" / f"trial-{trial}"


def _write_numbers(path: Path, arguments: Arguments, trained: Trained, found: Sequence[Any]) -> None:
    facts: dict[str, Any] = {"trial": trial_of(arguments, trained), "seed": arguments.seed}
    for part in found:
        facts |= part.facts or {}
    path.write_text(json.dumps(plain(facts), indent=2) + "\n", encoding="utf-8")


def _write_page(
    folder: Path, name: str, standing: str, found: Sequence[Any], omitted: Sequence[tuple[str, str]]
) -> Path:
    """Writes the page; returns its path."""
    from cnnjax.reports import Section, Shown, write

    sections = [
        Section(
            part.title,
            part.text,
            [Shown(folder / f"{drawn.name}.png", drawn.title, drawn.text, drawn.alt) for drawn in part.pictures],
        )
        for part in found
        if part.pictures
    ]
    if omitted:
        reasons = "\n\n".join(f"{names[:1].upper()}{names[1:]}: {reason}." for names, reason in omitted)
        sections.append(Section("Left out", reasons))
    text = f"{standing[:1].upper()}{standing[1:]}. All examples are from the validation split."
    return write(folder / "look.html", f"Inside {name}", text, sections)


def command() -> None:
    """Runs `cnnjax look`."""
    run_form(main, Arguments, __doc__)
