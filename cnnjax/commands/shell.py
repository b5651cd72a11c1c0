"""The command that was typed, as a line for a shell."""

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def line(words: Sequence[str] | None = None, script: str | None = None) -> str:
    """The command that was typed; with other words, or of another script."""
    words, script = sys.argv[1:] if words is None else words, script or sys.argv[0]
    started = ["python", script] if script.endswith(".py") else script.split()  # `cnnjax sweep` is one word of argv
    return shlex.join([*started, *words])


def without(words: Iterable[str], dropped: Callable[[str], bool]) -> list[str]:
    """The words but for the options that are dropped, by their names as `learning_rate`, and their values."""
    kept, skipping = list[str](), False
    for word in words:
        if word.startswith("--"):
            skipping = dropped(_name(word))
        if not skipping:
            kept.append(word)
    return kept


def continuing(folder: Path) -> str:
    """The command that continues the run that was typed, which may have been given its name."""
    words = sys.argv[1:]
    given = {_name(word) for word in words if word.startswith("--")}
    named = [] if given & {"name", "resume"} else ["--name", folder.name]
    return line([*words, *named, *([] if "resume" in given else ["--resume"])])


def _name(option: str) -> str:
    return option[2:].partition("=")[0].replace("-", "_")
