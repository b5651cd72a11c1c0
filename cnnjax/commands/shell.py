"""Formats the command of this process as a shell command."""

import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


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


def continuing(folder: Path) -> str:
    """Returns the command that continues the run of this process in `folder`."""
    words = sys.argv[1:]
    given = {_name(word) for word in words if word.startswith("--")}
    named = [] if given & {"name", "resume"} else ["--name", folder.name]
    return line([*words, *named, *([] if "resume" in given else ["--resume"])])


def _name(option: str) -> str:
    return option[2:].partition("=")[0].replace("-", "_")
