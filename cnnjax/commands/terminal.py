"""What a command writes on: any terminal or file, whatever letters it has."""

import codecs
import io
import sys
import warnings
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
