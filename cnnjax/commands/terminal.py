"""The output of a command: terminals and files of any encoding, and the log of a run."""

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
    """Replaces characters that the output encoding lacks, and shows user warnings without their source location."""
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
    """Exits silently if the reader of standard output closes the pipe in the block, as `head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a failure of Python's own flush at exit would be reported
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


class Log:
    """A log of the output of a command with times; lines are buffered until the log has a file."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._kept: list[str] = []

    def __call__(self, line: str) -> None:
        """Adds a line; errors are ignored, because a run must not fail due to its log."""
        self._kept.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
        self._write()

    def _write(self) -> None:
        if self._path:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.writelines(self._kept)
            self._kept.clear()

    def follow(self, path: Path) -> None:
        """Writes the buffered and all further lines to a file."""
        self._path = path
        self._write()

    @contextlib.contextmanager
    def copying(self) -> Iterator[None]:
        """Copies standard output and standard error to the log."""
        with (
            contextlib.redirect_stdout(_Copied(sys.stdout, self)),
            contextlib.redirect_stderr(_Copied(sys.stderr, self)),
        ):
            yield


class _Copied:
    """A stream that logs each line that remains on the screen; a carriage return discards the text before it."""

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
