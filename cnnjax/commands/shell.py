"""Formats commands of this process, or of the one that started a run, as shell commands."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.commands.options import Options
from cnnjax.config import Range, SweepConfig
from cnnjax.options import resolve, text

_OF_ONE_RUN = {"name", "resume", "extend", "plan", "plan_from", "allow_changes"}


def line(words: Sequence[str] | None = None, script: str | None = None) -> str:
    """Returns the command of this process as a shell command, optionally with other words or another script."""
    words, script = sys.argv[1:] if words is None else words, script or sys.argv[0]
    started = ["python", script] if script.endswith(".py") else script.split()  # argv[0] may be `cnnjax sweep`
    return shlex.join([*started, *words])


def without(words: Iterable[str], dropped: Callable[[str], bool]) -> list[str]:
    """Removes options and their values; `dropped` takes the name of an option, such as `learning_rate`."""
    kept, skipping = list[str](), False
    for word in words:
        if word.startswith("--"):
            skipping = dropped(_name(word))
        if not skipping:
            kept.append(word)
    return kept


def _name(option: str) -> str:
    return option[2:].partition("=")[0].replace("-", "_")


class Typed(NamedTuple):
    """A command that was typed, and the commands that follow from it; see `cnnjax.runs.Commands`."""

    script: str
    """The script, or `python -m cnnjax sweep`."""
    words: Sequence[str]
    """The arguments."""

    @classmethod
    def now(cls) -> "Typed":
        """Returns the command of this process."""
        return cls(sys.argv[0], sys.argv[1:])

    @classmethod
    def recorded(cls, line: str) -> "Typed":
        """Reads a command that `line` formatted."""
        words = shlex.split(line)
        if words[0] == "python" and words[1].endswith(".py"):
            return cls(words[1], words[2:])
        length = 4 if words[0] == "python" else 2
        return cls(" ".join(words[:length]), words[length:])

    def continued(self, folder: Path, sweep: bool) -> str:
        """Returns the command that continues the run in `folder`."""
        given = {_name(word) for word in self.words if word.startswith("--")}
        named = [] if given & {"name", "resume"} else ["--name", folder.name]
        return line([*self.words, *named, *([] if "resume" in given else ["--resume"])], self.script)

    def further(self, folder: Path, epochs: int) -> str:
        """Returns the command that trains the single run in `folder` for more epochs in all."""
        more = ["--resume", "--epochs", str(epochs), "--allow-changes"]
        return line([str(folder), *self._rest(), *more], self._named("train"))

    def seeds(self, folder: Path, count: int) -> str:
        """Returns the command that trains more seeds for the best point and the undecided points of a sweep."""
        return line([str(folder), "--add-seeds", str(count), *self._rest()], self._named("sweep"))

    def grid(self, values: Mapping[str, Any], folder: Path, config: SweepConfig, extend: bool) -> str:
        """Returns the command of a sweep with other values; after a merge, it starts from the merged run folder."""
        given = [str(folder), *self._preset()] if self._command() == "merge" else self.words
        replaced = {config.paths[name] for name in values}

        def dropped(name: str) -> bool:
            with contextlib.suppress(ValueError):
                if resolve(name, config.known) in replaced:
                    return True
            return name in {*_OF_ONE_RUN, "add_seeds"}

        words = without(given, dropped)
        for name, several in values.items():
            words += [f"--{name.replace('_', '-')}", *map(text, (several,) if isinstance(several, Range) else several)]
        return line([*words, *(["--extend", str(folder)] if extend else [])], self._named("sweep"))

    def _command(self) -> str:
        return Path(self.script.split()[-1]).stem

    def _named(self, command: str) -> str:
        """Returns the script of another command."""
        before, name, after = self.script.rpartition(self._command())
        return f"{before}{command}{after}" if name in ("train", "sweep", "merge") else self.script

    def _positional(self) -> list[str]:
        return without(self.words, lambda name: True)

    def _preset(self) -> list[str]:
        """Returns the option that names the user's preset, if there is one."""
        files = [word for word in self._positional() if word.endswith(".py")]
        given = without(self.words, lambda name: name != "preset")[len(self._positional()) :]
        return ["--preset", *files[:1]] if files else given[:2]

    def _rest(self) -> list[str]:
        """Returns the options that any command on the same run takes."""
        kept = {field.name for field in fields(Options)} - _OF_ONE_RUN - {"preset"}
        words = without(self.words, lambda name: name.removeprefix("no_") not in kept)
        return [*self._preset(), *words[len(self._positional()) :]]
