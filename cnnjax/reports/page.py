"""Renders pages from the templates of this package.

A page is a single file: it opens offline, adapts to phones, print and dark mode, and loads nothing.
"""

import base64
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

_TYPES = {b"\x89PNG": "image/png", b"GIF8": "image/gif", b"<svg": "image/svg+xml"}


class Shown(NamedTuple):
    """A picture on a page."""

    picture: Any
    """A Matplotlib figure, or the bytes of a PNG, GIF or SVG file, or the path of such a file."""
    title: str
    text: str
    """What the picture shows, in a sentence or two, below it."""
    alt: str
    """What the picture shows, for those who cannot see it."""


class Section(NamedTuple):
    """A part of a page, with a heading."""

    title: str
    text: str = ""
    """Paragraphs, separated by empty lines."""
    pictures: Sequence[Shown] = ()


def write(path: Path, title: str, text: str, sections: Sequence[Section]) -> Path:
    """Writes a page of sections; returns its path.

    Args:
      path: the file.
      title: the title of the page.
      text: paragraphs below the title.
      sections: the parts of the page, in order; with more than two, a table of contents precedes them.
    """
    return save(path, render("sections.html", title=title, text=text, sections=sections))


def save(path: Path, page: str) -> Path:
    """Writes a page; a page that exists is replaced at once, so that a reader never sees half of it."""
    part = path.with_name(f".{path.name}")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


def render(template: str, **values: Any) -> str:
    """Renders a template of this package; all values are escaped.

    Args:
      template: the name of a file in `templates/`.
      values: the values of its variables; each must be used by name, and none may be missing.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("cnnjax.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"embedded": embedded, "paragraphs": _paragraphs, "json": as_json}
    found.globals["file"] = _file
    return found


def embedded(picture: Any) -> str:
    """Returns a picture as a data URI, for the `src` of an image.

    Args:
      picture: as in `Shown`.

    Raises:
      ValueError: if the bytes are not of a PNG, GIF or SVG file.
    """
    data = _contents(picture)
    kind = next((kind for start, kind in _TYPES.items() if data.startswith(start)), "")
    if not kind:
        raise ValueError(f"picture: starts with {data[:4]!r}: must be a PNG, GIF or SVG file")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _contents(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, Path):
        return picture.read_bytes()
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png")
    return buffer.getvalue()


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def as_json(value: Any) -> str:
    """Formats a value as JSON that cannot end the element that contains it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
