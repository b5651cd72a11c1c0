"""Explains convolution with an image of your own, on a page that can be printed.

python experiments/explain.py [IMAGE] [--run RUN] [--out DIR]

Everything on the page is computed from the image with the operations of this package. Without an image, a photograph
that scikit-learn contains is used. The learned filters are those of the first convolution of a run; without a run, a
small network is trained on the digits of scikit-learn, which takes a few seconds.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Annotated

import explain_sections as sections
import tyro
from explain_sections import Chapter, Learned, Subject

from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import usage
from cnnjax.reports import Section, write


@dataclass(frozen=True)
class Arguments:
    """The image and the page."""

    image: Annotated[Path | None, tyro.conf.Positional] = None
    """an image file of any size and mode; by default a photograph of a flower from scikit-learn"""
    out: Path | None = None
    """folder for the page and its pictures; by default explain-NAME"""
    run: Path | None = None
    """run folder whose first filters are shown; by default a small network is trained"""
    trial: int | None = None
    """number of a trial of a sweep; by default that of the winner"""
    preset: Path | None = None
    """file that defines the user-defined parts of the run"""
    debug: bool = False
    """show full tracebacks"""


def flower() -> Path:
    """Returns the path of a photograph that scikit-learn contains."""
    package = util.find_spec("sklearn")
    assert package  # a dependency of cnnjax
    assert package.origin
    return Path(package.origin).parent / "datasets" / "images" / "flower.jpg"


def prepared(arguments: Arguments) -> tuple[Path, Path, Subject, Learned]:
    """Returns the image file, the new folder, the image, and the learned filters."""
    path = arguments.image or flower()
    out = arguments.out or Path(f"explain-{path.stem}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out}: exists: choose another folder with --out, or remove it first")
    for name in ("trial", "preset"):
        if arguments.run is None and getattr(arguments, name) is not None:
            raise ValueError(f"{name}: {getattr(arguments, name)}: needs --run RUN")
    if arguments.run and not (arguments.run / "config.json").is_file():
        raise ValueError(f"run: {arguments.run}: is not a run folder")
    subject = sections.read(path)
    return path, out, subject, sections.learned(arguments.run, arguments.trial, arguments.preset)


def saved(out: Path, chapters: Sequence[Chapter]) -> list[Section]:
    """Writes all pictures to a folder, and returns the sections with their files."""
    written, number = [], 0
    for section, _ in chapters:
        files = []
        for shown in section.pictures:
            number += 1
            ending = "gif" if isinstance(shown.picture, bytes) else "png"
            words = re.sub(r"\W+", "-", shown.title.lower().removesuffix(" (animated)"))
            path = out / f"{number:02d}-{words}.{ending}"
            if isinstance(shown.picture, bytes):
                path.write_bytes(shown.picture)
            else:
                shown.picture.savefig(path)
            files.append(shown._replace(picture=path))
        written.append(section._replace(pictures=files))
    return written


def main(arguments: Arguments) -> None:
    """Writes the pictures and the page, and prints the main numbers."""
    with usage(arguments.debug):
        path, out, subject, found = prepared(arguments)
    chapters = [
        sections.introduction(subject),
        sections.sliding(subject),
        sections.volumes(subject),
        sections.geometry(subject),
        sections.equivariance(subject),
        sections.nonlinearity(subject),
        sections.pooling(subject),
        sections.filters(subject, found),
        sections.parameters(),
    ]
    out.mkdir(parents=True, exist_ok=True)
    title = f"Convolution explained with {path.name}"
    lead = (
        "A convolutional layer looks at an image through small windows, with the same few weights everywhere. This "
        "page shows what that means with one image: every picture and number is computed from it."
    )
    page = write(out / "index.html", title, lead, saved(out, chapters))
    for chapter in chapters:
        print(*chapter.lines, sep="\n", end="\n" if chapter.lines else "")
    print(page)


if __name__ == "__main__":
    run_form(main, Arguments, __doc__, cores=True)
