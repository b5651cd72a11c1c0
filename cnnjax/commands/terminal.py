"""What a command writes on: any terminal or file, whatever letters it has, and the log of its run."""

import codecs
import contextlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_LETTERS = {"±": "+-", "×": "x", "…": "..."}
_format = warnings.formatwarning


def use() -> None:
    """Replaces letters that the output's encoding lacks, and shows our warnings without their place in the source."""
    codecs.register_error("cnnjax", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cnnjax")
    warnings.formatwarning = _one_line  # type: ignore[assignment]


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_LETTERS.get(letter, "?") for letter in letters), error.end


def _one_line(message: Warning | str, category: type[Warning], *place: Any) -> str:
    return f"warning: {message}\n" if category is UserWarning else _format(message, category, *place)


@contextlib.contextmanager
def piped() -> Iterator[None]:
    """Where the reader of standard output may leave, as `head` does: the process ends without a word."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, since Python's own flush at the end reports what fails
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


class Log:
    """The lines that a command says, with times, in a file; kept back until there is one."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._kept: list[str] = []

    def __call__(self, line: str) -> None:
        """Adds a line. What cannot be written is left out: a run must not fail for its log."""
        self._kept.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        self._write()

    def _write(self) -> None:
        if self._path:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(self._kept)
            self._kept.clear()

    def follow(self, path: Path) -> None:
        """Writes to a file from now on, after what was kept back."""
        self._path = path
        self._write()

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Has standard output and standard error copied to the log."""
        with (
            contextlib.redirect_stdout(_Copied(sys.stdout, self)),
            contextlib.redirect_stderr(_Copied(sys.stderr, self)),
        ):
            yield


class _Copied:
    """A stream of which each line that stays on the screen is logged: none that a carriage return takes back."""

    def __init__(self, stream: Any, log: Callable[[str], None]):
        self._stream, self._log, self._begun = stream, log, ""

    def write(self, words: str) -> int:
        count: int = self._stream.write(words)
        *lines, self._begun = (self._begun + words).split("\n")
        for line in lines:
            self._log(line.rpartition("\r")[2])
        self._begun = self._begun.rpartition("\r")[2]
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
