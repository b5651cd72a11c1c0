"""Predicts the classes of images, series or texts with a trained network, or the outputs of a regression.

Images are converted to the size, channels and range of the training data, and standardized as in training. Series are
.tsv or .ts files as for training, whose labels are not used, or CSV files: each row is a series, or, with several
channels, each file is one, with a row for each time step. A text is given as one argument, as a line of a file, or in
the column of texts of a .csv or .tsv file. An .npz file has inputs of any kind as an array.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from cnnjax.commands import terminal
from cnnjax.commands.command_line import use_compilation_cache
from cnnjax.commands.errors import reported, usage
from cnnjax.commands.opened import check_folder
from cnnjax.commands.parser import parse_words
from cnnjax.data import DataError, Spec, arrays, texts, ucr
from cnnjax.data.images import (
    Background,
    Fit,
    Reading,
    files_below,
    image_files,
    looks_inverted,
    named,
    read_image,
    value_range,
)
from cnnjax.data.series import read_series
from cnnjax.presets import load_preset
from cnnjax.runs import Trained, load_run
from cnnjax.runs.printed import describe_inputs

BATCH = 32
"""The batch size; the last batch is padded, so that a single program is compiled."""


@dataclass(frozen=True)
class Arguments:
    """The run, the files, and how to read them."""

    run: Annotated[Path, tyro.conf.Positional]
    """run folder; a sweep predicts with its winner"""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """files of images, series or texts, .npz files, and folders, which are searched recursively; or texts in quotation
    marks"""
    top: int = 3
    """number of classes to print, most probable first"""
    json: bool = False
    """print one JSON object per line"""
    trial: int | None = None
    """number of a trial of the sweep"""
    fit: Fit | None = None
    """how to fit images with other proportions: crop the longer side, pad the shorter side with the color of the
    border, or stretch; auto pads images with a border of a single color, such as drawings, and crops any other; by
    default as the training images, or auto if they were not fitted"""
    trim: Literal["auto"] | float | None = Reading.trim
    """crop a drawing to its content, with this margin as a share of the side; auto uses the margin of the training
    images if they are drawings, and none does not crop"""
    background: Background = Reading.background
    """color behind transparent pixels"""
    invert: bool = Reading.invert
    """swap dark and light"""
    range: tuple[float, float] | None = Reading.range
    """input values of black and white; by default the range of the training images"""
    preset: Path | None = None
    """file that defines the user-defined parts of the run"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    debug: bool = False
    """show full tracebacks"""


class Input(NamedTuple):
    """One input, or the reason why it cannot be read."""

    name: str
    value: np.ndarray | None = None
    note: str = ""
    """A warning about the input, or the error if `value` is None."""


def main(arguments: Arguments) -> None:
    """Predicts, and prints a line for each input; exits with code 1 if an input cannot be read."""
    with reported(arguments.debug):
        with usage(arguments.debug):
            trained, reading, search, read = _prepared(arguments)
        if not arguments.json:
            print(f"{arguments.run}: {describe_inputs(trained.config.data, trained.spec)}; {reading}")
        inputs = _inputs(arguments.files, trained.spec, search, read)
        failed = False
        while batch := list(islice(inputs, BATCH)):
            for found in _predicted(trained, batch, arguments.top):
                failed |= "error" in found
                _show(found, arguments.json)
    if failed:
        raise SystemExit(1)


Search = Callable[[Path], tuple[list[Path], list[Path]]]
Read = Callable[[Path], Iterator[Input]]


def _prepared(arguments: Arguments) -> tuple[Trained, str, Search, Read]:
    """Returns the network, a description of the conversion, and the functions that find and read inputs."""
    if arguments.top < 1:
        raise ValueError(f"top: {arguments.top}: must be at least 1")
    if not arguments.files:
        raise ValueError("predict: give files or folders after the run folder")
    check_folder(arguments.run)
    if arguments.compilation_cache:
        use_compilation_cache()
    classes = load_preset(str(arguments.preset)).classes if arguments.preset else ()
    trained = load_run(arguments.run, arguments.trial, classes)
    given = {field.name: getattr(arguments, field.name) for field in fields(Reading)}
    if len(trained.spec.shape) > 2:
        loading = trained.config.loading
        usual = loading.fit if loading.image_size else Reading.fit
        how = Reading(**{**given, "fit": arguments.fit or usual})
        how.check(trained.spec)
        return trained, _described(trained.spec, how), image_files, partial(_image, trained.spec, how)
    kind = "texts" if trained.spec.tokens else "series"
    usual_of = {**vars(Reading()), "fit": None}
    if unused := [name for name, value in given.items() if value != usual_of[name]]:
        raise ValueError(f"{unused[0]}: applies to images only, and the inputs of this run are {kind}")
    if trained.spec.tokens:
        return trained, kind, partial(files_below, suffixes={".txt", *texts.DIALECTS}), partial(_texts, trained)
    search = partial(files_below, suffixes={".csv", ".npz", *ucr.SUFFIXES})
    return trained, kind, search, partial(_series, trained.spec, trained.config.loading.max_length)


def _described(spec: Spec, how: Reading) -> str:
    """Describes how images are converted."""
    low, high = value_range(spec, how)
    colors = "gray" if spec.shape[-1] == 1 else "RGB"
    trim = spec.margin if how.trim == "auto" else how.trim
    trimmed = "" if trim is None else f", trim {trim:g}"
    inverted = ", inverted" if how.invert else ""
    return f"images in {colors}, {low.min():g} to {high.max():g}, fit {how.fit}{trimmed}{inverted}"


def _image(spec: Spec, how: Reading, path: Path) -> Iterator[Input]:
    image, note = read_image(path, spec, how), ""
    if (image == image[0, 0]).all():
        note = "all pixels are equal: if the background is transparent, try another --background"
    elif seen := looks_inverted(read_image(path, spec, replace(how, trim=None)), spec, how):  # with its whole margin
        usual = seen.split()[0]
        change = "omit" if how.invert else "add"
        note = f"looks {seen}, but the training images are {usual} on average: if so, {change} --invert"
    yield Input(str(path), image, note)


def _series(spec: Spec, length: int | None, path: Path) -> Iterator[Input]:
    labeled = path.suffix.lower() in ucr.SUFFIXES
    return _rows(path, ucr.read_inputs(path, spec, length) if labeled else read_series(path, spec))


def _texts(trained: Trained, path: Path) -> Iterator[Input]:
    """Yields the texts of a file, or the argument itself if there is no such file and it does not look like one."""
    named = path.suffix.lower() in {".txt", *texts.DIALECTS} and not re.search(r"\s", str(path))
    is_file = named or os.path.isfile(path)  # noqa: PTH113
    found = texts.read_texts(path, trained.config.loading) if is_file else [str(path)]
    [length], known = trained.spec.shape, {*trained.vocabulary}
    for row, text in enumerate(found, 1):
        words = texts.words_of(text)
        unknown = [word for word in words if word not in known]
        note = f"is cut at {length} of its {len(words)} words" if len(words) > length else ""
        if 2 * len(unknown) > len(words):
            note = f"{len(unknown)} of {len(words)} words are not in the vocabulary: {', '.join(unknown[:5])}"
        [tokens] = trained.tokens([text])
        name = f"{path}:{row}" if len(found) > 1 else str(path)
        yield Input(name, tokens, note) if words else Input(name, note="has no words")


def _rows(path: Path, found: np.ndarray) -> Iterator[Input]:
    for row, value in enumerate(found, 1):
        yield Input(f"{path}:{row}" if len(found) > 1 else str(path), value)


def _inputs(paths: Sequence[Path], spec: Spec, search: Search, read: Read) -> Iterator[Input]:
    """Yields the inputs of files and folders, in order."""
    for path in paths:
        files = [path]
        if os.path.isdir(path):  # noqa: PTH112 - a text may be too long for Path.is_dir
            files, rest = search(path)
            if rest:
                print(f"note: {path}: skipped: {named(path, rest)}", file=sys.stderr)
            if not files:
                yield Input(str(path), note="contains no file to predict")
        for file in files:
            try:
                yield from _rows(file, arrays.read_inputs(file, spec)) if file.suffix.lower() == ".npz" else read(file)
            except DataError as error:
                yield Input(str(file), note=str(error).removeprefix(f"{file}: "))


def _predicted(trained: Trained, batch: Sequence[Input], top: int) -> Iterator[dict[str, Any]]:
    """Yields the result for each input as plain values."""
    values = np.zeros((BATCH, *trained.spec.shape), trained.spec.dtype)
    usable = [entry.value for entry in batch if entry.value is not None]
    values[: len(usable)] = usable or values[:0]
    compute = trained.probabilities if trained.classes else trained.logits
    outputs = iter(np.asarray(compute(values)).reshape(BATCH, -1) if usable else ())
    for entry in batch:
        named = {"file": entry.name}
        if entry.value is None:
            yield {**named, "error": entry.note}
        elif not np.isfinite(found := next(outputs)).all():
            yield {**named, "error": "the outputs of the network are not finite: the run may have diverged"}
        else:
            noted = {"warning": entry.note} if entry.note else {}
            yield {**named, **_answer(trained.classes, found.tolist(), top), **noted}


def _answer(classes: Sequence[str], found: Sequence[float], top: int) -> dict[str, Any]:
    """Returns the most probable classes, or the outputs of a regression."""
    if not classes:
        return {"outputs": found}
    ranked = sorted(zip(classes, found, strict=True), key=lambda entry: -entry[1])
    return {"classes": [{"class": name, "probability": value} for name, value in ranked[:top]]}


def _show(found: dict[str, Any], as_json: bool) -> None:
    """Prints a result, and any error or warning to standard error."""
    for kind in ("error", "warning"):
        if kind in found:
            print(f"{kind}: {found['file']}: {found[kind]}", file=sys.stderr)
    if as_json:
        print(json.dumps(found))
    elif "outputs" in found:
        print(f"{found['file']}: {', '.join(f'{value:.6g}' for value in found['outputs'])}")
    elif "classes" in found:
        ranked = [f"{entry['class']} ({100 * entry['probability']:.1f} %)" for entry in found["classes"]]
        print(f"{found['file']}: {', '.join(ranked)}")


def command() -> None:
    """Runs `cnnjax predict`."""
    terminal.use()
    with terminal.piped():
        main(parse_words(Arguments, __doc__ or ""))
