"""Parses command lines with tyro: optional values accept `none`, and errors take one line."""

import contextlib
import dataclasses
import io
import os
import re
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from cnnjax.commands.errors import fail

T = TypeVar("T")

_registry = ConstructorRegistry()


def parse_words(form: type[T], description: str, words: Sequence[str] | None = None, prog: str | None = None) -> T:
    """Parses a command line, by default that of the process, to a dataclass; exits with code 2 on an error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _uncolored() if os.environ.get("NO_COLOR") else contextlib.nullcontext():
            return tyro.cli(
                form,
                prog=prog or Path(sys.argv[0]).name,
                description=description,
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
                registry=_registry,
            )
    except SystemExit as ended:
        if not said.getvalue():  # after --help
            raise
        fail(_one_line(said.getvalue()), 2)
        raise ended from None


def _uncolored() -> contextlib.AbstractContextManager[Any]:
    """Disables the colors of tyro, which ignores NO_COLOR but checks whether standard output is a terminal."""
    plain = types.SimpleNamespace(write=sys.stdout.write, flush=sys.stdout.flush, encoding=sys.stdout.encoding)
    plain.isatty = lambda: False
    return contextlib.redirect_stdout(plain)


def _one_line(box: str) -> str:
    """Converts an error box of tyro to one line: the error, and the suggestion if there is one."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()]
    framed = lines[0].startswith("╭")  # otherwise the first part is a title above a rule
    parts: list[list[str]] = [[]]
    for line in lines[1:-1] if framed else lines:
        if line and not line.strip("─-"):
            parts.append([])
        elif line:
            parts[-1].append(line)
    mistake, *rest = parts if framed else parts[1:]
    words = " ".join(mistake).removeprefix("Error parsing ").rstrip(".")
    for title, *found in filter(None, rest):
        if found and title.startswith("Perhaps you meant"):
            words += f": did you mean {found[0].split()[0]}?"
        elif found and title.startswith("Argument helptext"):
            words += f": give {found[0]}"
    return words


@_registry.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Reads an optional type: its values, or `none`."""
    plain = [entry for entry in typing.get_args(info.type) if entry is not type(None)]
    union = info.type_origin in (typing.Union, types.UnionType)
    if not union or len(plain) != 1 or type(None) not in typing.get_args(info.type):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(plain[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None
    return dataclasses.replace(
        inner,
        instance_from_str=lambda words: None if words == ["none"] else inner.instance_from_str(words),
        is_instance=lambda value: value is None or inner.is_instance(value),
        str_from_instance=lambda value: ["none"] if value is None else inner.str_from_instance(value),
        choices=(*inner.choices, "none") if inner.choices else None,
        metavar=f"{{{','.join(inner.choices)},none}}" if inner.choices else inner.metavar,
    )


@_registry.primitive_rule
def _several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Reads any number of values of a type, such as `FLOAT ...`."""
    if info.type_origin is not tuple or typing.get_args(info.type)[1:] != (...,):
        return None
    inner = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(typing.get_args(info.type)[0], info.markers))
    if not isinstance(inner, PrimitiveConstructorSpec):
        return None

    def read(words: list[str]) -> tuple[Any, ...]:
        for word in words:
            if inner.choices and word not in inner.choices:
                raise ValueError(repr(word))
        return tuple(inner.instance_from_str([word]) for word in words)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{inner.metavar} ...",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: (
            [word for entry in value for word in inner.str_from_instance(entry)] or ["none"]
        ),
    )
