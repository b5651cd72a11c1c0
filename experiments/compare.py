"""Compares a network with convolution to one without, at equal parameters, multiply-adds and training time.

python experiments/compare.py [PRESET] [--sizes 100 1000 all] [--shifts 0 1 2] [--seeds 5]

The network of the preset is compared with multilayer perceptrons of one hidden layer: one with as many parameters, one
with as many multiply-adds per example, and the first of them again, trained for as many epochs as take the time of the
preset's network. They are trained on subsets of the training split, and tested on images shifted in all directions.
"""

import csv
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student  # type: ignore[import-untyped]

import cnnjax
from cnnjax import Accuracy, Dataset, MLPConfig, Preset, Spec, Split, SweepConfig, TrainConfig, load_preset
from cnnjax.commands import shell
from cnnjax.commands.command_line import run_form
from cnnjax.commands.errors import fail, usage
from cnnjax.data.dataset import cut
from cnnjax.descriptions import describe
from cnnjax.look.costs import multiply_adds
from cnnjax.options import has, kinds
from cnnjax.pictures.drawing import STYLES, headline, legend, paper, series
from cnnjax.pictures.scale import Quantity, Scale
from cnnjax.planning.timing import step_seconds
from cnnjax.planning.ways import in_cache
from cnnjax.reports.page import Section, Shown, save, write
from cnnjax.runs import describe_data, differences, plain, waiting
from cnnjax.runs.printed import describe_inputs
from cnnjax.runs.records import readable
from cnnjax.sweeps import (
    Program,
    Result,
    Trial,
    compile_program,
    measure_test_of,
    rank,
    shown,
    summarize,
)
from cnnjax.training import Lanes, TrainState, make_task, validate

SIZES = (100, 1000)
RATES = (0.3, 1, 3)  # times that of the preset
BYTES = 2**26  # of repeated subsets, at most
METRIC = Accuracy()


@dataclass(frozen=True)
class Arguments:
    """What to compare."""

    preset: Annotated[str, tyro.conf.Positional] = "digits"
    """name of a preset, or the path to a file or run folder, whose network has convolutions"""
    sizes: tuple[str, ...] = ()
    """numbers of training examples, and all; by default 100, 1000 and all, without those above half of all"""
    shifts: tuple[int, ...] = ()
    """shifts of test images, in pixels; by default 0 and 1, and 2 for images of 16 pixels or more"""
    seeds: int = 5
    """number of seeds, each with its own subset of the training examples"""
    rates: tuple[float, ...] = ()
    """learning rates to choose from; by default 0.3, 1 and 3 times that of the preset"""
    epochs: int | None = None
    """epochs of the network with convolution; by default those of the preset"""
    name: str | None = None
    """name of the folder; by default compare, the preset and the time"""
    runs_dir: Path = Path("runs")
    """directory of run folders"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data; by default TFDS_DATA_DIR or ~/tensorflow_datasets"""
    resume: bool = False
    """continue the comparison given by --name, or start it if it does not exist"""
    compilation_cache: bool = True
    """keep compiled programs in the user's cache directory"""
    debug: bool = False
    """show full tracebacks"""


class Count(NamedTuple):
    """What a network needs."""

    parameters: int
    multiply_adds: int
    """Multiply-adds of convolutions and matrix products for one example, without those of gradients."""
    convolutions: int


class Contender(NamedTuple):
    """A network of the comparison."""

    name: str
    config: TrainConfig
    needs: Count
    seconds: float
    """Seconds of a training step, measured side by side with the other networks."""

    @property
    def label(self) -> str:
        """The name in tables, such as `mlp, equal parameters`."""
        return f"mlp, equal {self.name}" if self.name in MATCHED else self.name


MATCHED = ("parameters", "multiply-adds", "time")


class Gap(NamedTuple):
    """The mean difference over seeds, and its 95 % interval."""

    mean: float
    low: float
    high: float


# ------------------------------------------------------------------------- what networks need


def count(config: TrainConfig, spec: Spec) -> Count:
    """Counts what the network of a configuration needs."""
    network = make_task(config, spec).functions
    inputs = jax.eval_shape(spec.standardize, spec.example)
    variables = jax.eval_shape(network.init, jax.random.key(0), inputs)

    def outputs(variables: Any, inputs: jax.Array) -> jax.Array:
        return network.apply(variables, inputs, train=False, key=jax.random.key(0))[0]

    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    return Count(parameters, *multiply_adds(jax.make_jaxpr(outputs)(variables, inputs).jaxpr))


def width(target: int, measure: Callable[[int], int]) -> int:
    """Returns the width at which a measure, which is linear in the width, is closest to a target."""
    first, second = measure(1), measure(2)
    return max(1, 1 + round((target - first) / (second - first)))


def contenders(train: TrainConfig, data: Dataset, seconds: Sequence[float] = ()) -> list[Contender]:
    """Returns the network of a configuration, and the networks without convolution that match it.

    Args:
      train: the configuration of the network with convolution.
      data: the data set.
      seconds: the seconds of a step of the first three networks; by default they are measured.
    """
    common: dict[str, Any] = {name: getattr(train.network, name, None) for name in kinds(MLPConfig) if name != "hidden"}
    common = {name: value for name, value in common.items() if value is not None}

    def perceptron(hidden: int) -> TrainConfig:
        return replace(train, network=MLPConfig(hidden=(hidden,), **common))

    own = count(train, data.spec)
    found = [(train.network.kind(), train)]
    for name, measure in (
        ("parameters", lambda hidden: count(perceptron(hidden), data.spec).parameters),
        ("multiply-adds", lambda hidden: count(perceptron(hidden), data.spec).multiply_adds),
    ):
        target = own.parameters if name == "parameters" else own.multiply_adds
        found.append((name, perceptron(width(target, measure))))
    seconds = seconds or times([config for _, config in found], data)
    longer = max(1, round(train.epochs * seconds[0] / seconds[1]))
    found.append(("time", replace(found[1][1], epochs=longer)))
    return [
        Contender(name, config, count(config, data.spec), each)
        for (name, config), each in zip(found, [*seconds, seconds[1]], strict=True)
    ]


def times(configs: Sequence[TrainConfig], data: Dataset) -> list[float]:
    """Measures the seconds of a training step of each configuration on one device, in turns."""
    programs = [in_cache(Program((Trial(0, 0, (), config),), Lanes()), data.spec) for config in configs]
    return step_seconds([compile_program(program, data) for program in programs], budget=0.5)


# ------------------------------------------------------------------------- data


def draws(
    data: Dataset, size: int, rows: int, train: TrainConfig, passes: int, seeds: int
) -> Iterator[tuple[TrainConfig, int, Dataset]]:
    """Yields configurations with the number of their seeds, and their data, in which the test split is hidden.

    Each seed draws its own subset, with the same fraction of each class. Subsets are repeated, so that networks see as
    many examples for any size, and one program trains on them all.

    Args:
      data: the data set.
      size: the number of training examples.
      rows: the number of examples of an epoch, if they are a subset.
      train: the configuration.
      passes: the number of epochs of `train` that become one, if they are of a subset.
      seeds: the number of seeds.
    """
    hidden = data._replace(test=data.valid)
    if size == len(data.train.labels):
        yield train, seeds, hidden
        return
    train = replace(train, epochs=round(train.epochs / passes))
    for seed in range(train.seed, train.seed + seeds):
        drawn, _ = cut(data.train, size, seed=seed)
        again = np.arange(rows * passes) % size
        part = Split(*(array[again] for array in drawn))
        yield replace(train, seed=seed), 1, hidden._replace(train=part)


def directions(spatial: int) -> list[tuple[int, ...]]:
    """Returns all directions along the axes and diagonals, such as 8 for images."""
    return [each for each in itertools.product((-1, 0, 1), repeat=spatial) if any(each)]


def shifted(inputs: np.ndarray, cells: Sequence[int]) -> np.ndarray:
    """Shifts inputs [examples, *spatial, channels] by a number of cells along each axis, and repeats their border."""
    for axis, move in enumerate(cells, 1):
        rows = np.arange(inputs.shape[axis]) - move
        inputs = inputs.take(rows.clip(0, inputs.shape[axis] - 1), axis)
    return inputs


def in_all_directions(split: Split, cells: int) -> Split:
    """Returns the examples of a split, shifted by a number of cells in each direction."""
    if not cells:
        return split
    ways = directions(split.inputs.ndim - 2)
    inputs = [shifted(split.inputs, [cells * step for step in way]) for way in ways]
    return Split(np.concatenate(inputs), np.concatenate([split.labels] * len(ways)))


# ------------------------------------------------------------------------- training


def measured(
    contender: Contender, data: Dataset, size: int, rows: int, epochs: int, arguments: Arguments
) -> dict[str, Any]:
    """Trains a network under each rate and seed, chooses the rate on the validation split, and tests it.

    Args:
      contender: the network.
      data: the data set.
      size: the number of training examples.
      rows: the number of examples of an epoch, if they are a subset.
      epochs: the number of epochs of the network with convolution.
      arguments: the arguments of the command.

    Returns:
      The rate, and the accuracy of each seed: `valid`, and `test` by shift.
    """
    axes = (("learning_rate", arguments.rates),) if arguments.rates else ()
    results: list[Result] = []
    states: dict[int, TrainState] = {}
    example = data.train.inputs[:1].nbytes
    passes = max(1, min(contender.config.epochs // epochs, BYTES // (rows * example)))
    for config, seeds, part in draws(data, size, rows, contender.config, passes, arguments.seeds):
        short = seeds == 1 and jax.default_backend() == "cpu"  # choosing by measurement would not pay
        lanes = f"1:{min(jax.device_count(), len(arguments.rates) or 1)}" if short else "auto"
        swept = cnnjax.sweep(SweepConfig(config, axes, seeds=seeds), part, pack="shapes", lanes=lanes)
        found = swept.states.of(result.trial.number for result in swept.results)
        for result in swept.results:
            trial = result.trial
            number = trial.point * arguments.seeds + trial.config.seed - contender.config.seed
            states[number] = found[trial.number]
            results.append(result._replace(trial=trial._replace(number=number)))
    best = rank(results, METRIC)[0]
    trials = [result.trial for result in best.results]
    if not best.complete:
        fail(f"{contender.label}: {size} examples: diverged under every rate: use lower --rates", 1)
    accuracies = {
        str(cells): [measure[0] for _, measure in sorted(_tested(trials, states, data, cells).items())]
        for cells in arguments.shifts
    }
    return {
        "rate": best.values.get("learning_rate"),
        "valid": [result.valid_metric for result in best.results],
        "test": accuracies,
    }


def _tested(
    trials: Sequence[Trial], states: Mapping[int, TrainState], data: Dataset, cells: int
) -> dict[int, tuple[float, float]]:
    return measure_test_of(trials, states, data._replace(test=in_all_directions(data.test, cells)))


def gap(first: Sequence[float], second: Sequence[float]) -> Gap:
    """Returns by how much the first values exceed the second ones, which are paired, and Student's 95 % interval."""
    apart = np.subtract(first, second)
    half = float(student.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / math.sqrt(len(apart)))
    mean = float(apart.mean())
    return Gap(mean, mean - half, mean + half)


# ------------------------------------------------------------------------- results


class Compared(NamedTuple):
    """The results so far."""

    networks: Sequence[Contender]
    sizes: Sequence[int]
    shifts: Sequence[int]
    cells: dict[str, dict[str, Any]]
    """The results of `measured` by size and name of the network."""

    def tested(self, size: int, name: str, cells: int) -> list[float]:
        """Returns the test accuracy of each seed under a shift."""
        accuracies: list[float] = self.cells[str(size)][name]["test"][str(cells)]
        return accuracies

    def gap(self, size: int, name: str, cells: int) -> Gap:
        """Returns by how much the network with convolution is more accurate than another one."""
        return gap(self.tested(size, self.networks[0].name, cells), self.tested(size, name, cells))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields a row for each size, network, shift and seed."""
        for size, network, cells in itertools.product(self.sizes, self.networks, self.shifts):
            cell = self.cells[str(size)][network.name]
            for seed, (valid, test) in enumerate(
                zip(cell["valid"], self.tested(size, network.name, cells), strict=True), network.config.seed
            ):
                yield {
                    "examples": size,
                    "network": network.name,
                    "rate": cell["rate"],
                    "shift": cells,
                    "seed": seed,
                    "valid_accuracy": valid,
                    "test_accuracy": test,
                }

    def gaps(self) -> Iterator[dict[str, Any]]:
        """Yields the gap for each size, match and shift."""
        for size, network, cells in itertools.product(self.sizes, self.networks[1:], self.shifts):
            found = self.gap(size, network.name, cells)
            yield {"examples": size, "equal": network.name, "shift": cells, **found._asdict()}


def interval(found: Gap) -> str:
    """Formats a gap in percentage points, such as `1.50 [0.90, 2.10]`."""
    mean, low, high = (round(100 * value, 2) + 0.0 for value in found)  # no negative zero
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def verdict(compared: Compared, name: str) -> str:
    """Describes the gap to the network that is matched by `name`, for the most examples."""
    size, far = compared.sizes[-1], max(compared.shifts)
    found = compared.gap(size, name, 0)
    better = "more accurate" if found.low > 0 else "less accurate" if found.high < 0 else "not clearly more accurate"
    seeds = len(compared.tested(size, name, 0))
    equal = "training time" if name == "time" else name
    sentence = (
        f"With {size:,} training examples and equal {equal}, the network with convolution is {better}: the gap is "
        f"{interval(found)} percentage points (95 % interval, paired over {seeds} seeds)"
    )
    if not far:
        return f"{sentence}."
    return f"{sentence}, and {interval(compared.gap(size, name, far))} on images shifted by {pixels(far)}."


def pixels(cells: int) -> str:
    """Formats a shift."""
    return f"{cells} pixel" if cells == 1 else f"{cells} pixels"


def header(compared: Compared) -> str:
    """Returns the header of the table."""
    far = max(compared.shifts)
    return f"{'examples':>9}  {'network':<26}{'rate':<8}{'test accuracy':<17}{'gap':<22}" + (
        f"{f'shifted by {far}':<17}gap" if far else ""
    )


def line(compared: Compared, size: int, name: str) -> str:
    """Returns a line of the table."""
    [network] = [network for network in compared.networks if network.name == name]
    rate = compared.cells[str(size)][name]["rate"]
    words = f"{size:>9,}  {network.label:<26}{'-' if rate is None else f'{rate:g}':<8}"
    for cells in dict.fromkeys((0, max(compared.shifts))):
        between = interval(compared.gap(size, name, cells)) if network is not compared.networks[0] else ""
        words += f"{shown(summarize(compared.tested(size, name, cells)), METRIC):<17}{between:<22}"
    return words.rstrip()


def picture(compared: Compared, title: str, sentence: str) -> Figure:
    """Plots accuracy over the number of examples, the gaps, and accuracy over the shift."""
    size, far = compared.sizes[-1], max(compared.shifts)
    figure, [axes] = paper(3 if far else 2, 1, 4.3, 3.4)
    sizes = [f"{each:,}" for each in compared.sizes]
    names = [network.name for network in compared.networks]
    lines = [[compared.tested(each, name, 0) for each in compared.sizes] for name in names]
    _accuracies(axes[0], lines, sizes, "training examples")
    for number, name in enumerate(names[1:], 1):
        found = [compared.gap(each, name, 0) for each in compared.sizes]
        _gaps(axes[1], found, number, len(names) - 1)
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set_xticks(range(len(sizes)), sizes)
    axes[1].set(
        xlabel="training examples",
        ylabel="gap (percentage points)\nabove 0: better with convolution",
        xlim=(-0.5, len(sizes) - 0.5),
    )
    axes[1].grid(alpha=0.3, axis="y")
    if far:
        lines = [[compared.tested(size, name, cells) for cells in compared.shifts] for name in names]
        label = f"shift (pixels), {size:,} training examples"
        _accuracies(axes[2], lines, list(map(str, compared.shifts)), label, linear=True)
    legend(figure, [series(number) for number in range(len(names))], [network.label for network in compared.networks])
    dots = "A dot for each seed; lines connect means. Bars are 95 % intervals of the gaps."
    headline(figure, title, sentence, dots)
    return figure


def _accuracies(
    axis: Axes,
    lines: Sequence[Sequence[Sequence[float]]],
    ticks: Sequence[str],
    label: str,
    linear: bool = False,
) -> None:
    """Draws a line for each network: at each tick, a dot for each seed, and the mean."""
    values = 100 * np.array(lines)  # [networks, ticks, seeds]
    for number, line in enumerate(values):
        color, style, marker = STYLES[number]
        places = np.arange(len(ticks)) + 0.06 * (number - (len(values) - 1) / 2)
        axis.plot(np.repeat(places, line.shape[1]), line.ravel(), ".", color=color, markersize=4, alpha=0.6)
        axis.plot(places, line.mean(1), color=color, linestyle=style, marker=marker, markersize=4, linewidth=1.2)
    if not linear:
        Scale(Quantity.of(METRIC), values.ravel()).on(axis)
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set(xlabel=label, ylabel="test accuracy (%)", xlim=(-0.5, len(ticks) - 0.5))
    axis.grid(alpha=0.3, axis="y")


def _gaps(axis: Axes, gaps: Sequence[Gap], number: int, count: int) -> None:
    color, _, marker = STYLES[number]
    places = np.arange(len(gaps)) + 0.16 * (number - (count + 1) / 2)
    means, lows, highs = 100 * np.array(gaps).T
    axis.errorbar(
        places, means, [means - lows, highs - means], color=color, fmt=marker, markersize=4, linewidth=1.2, capsize=2
    )


# ------------------------------------------------------------------------- the command


def prepared(arguments: Arguments, preset: Preset, data: Dataset) -> tuple[Arguments, TrainConfig, list[int]]:
    """Fills in the defaults; returns the arguments, the configuration of the network with convolution, and the sizes.

    Raises:
      ValueError: if networks cannot be compared, or an argument is out of range.
    """
    train = replace(preset.train, metric=METRIC, epochs=arguments.epochs or preset.train.epochs)
    if not data.classes:
        raise ValueError(f"data: {data.name}: has no classes: use a preset of a classification")
    if len(data.spec.shape) < 2:
        raise ValueError(f"data: {data.name}: inputs of shape {list(data.spec.shape)} have no spatial dimensions")
    if arguments.epochs is not None and arguments.epochs < 1:
        raise ValueError(f"epochs: {arguments.epochs}: must be at least 1")
    if arguments.seeds < 2:
        raise ValueError(f"seeds: {arguments.seeds}: must be at least 2, because one seed has no interval")
    validate(make_task(train, data.spec), data)
    if not count(train, data.spec).convolutions:
        raise ValueError(
            f"network: {train.network.kind()}: has no convolution: use a preset of a network with one, such as digits"
        )
    side = min(data.spec.shape[:-1])
    shifts = tuple(dict.fromkeys((0, *sorted(arguments.shifts)))) if arguments.shifts else (0, 1, 2)[: 2 + (side >= 16)]
    for cells in shifts:
        if not 0 <= cells < side:
            raise ValueError(f"shifts: {cells}: must be at least 0 and below {side}, the side of an image")
    rates = arguments.rates
    if not rates and has(train, ("optimizer", "learning_rate")):
        peak = train.optimizer.learning_rate  # type: ignore[attr-defined]
        rates = tuple(float(f"{factor * peak:.3g}") for factor in RATES)
    if rates:
        SweepConfig(train, (("learning_rate", rates),))  # raises ValueError for rates out of range
    return replace(arguments, shifts=shifts, rates=rates), train, sizes_of(arguments.sizes, data)


def sizes_of(given: Sequence[str], data: Dataset) -> list[int]:
    """Returns the numbers of training examples in ascending order.

    Raises:
      ValueError: if a number is no number, or too small or too large for subsets with all classes.
    """
    whole, classes = len(data.train.labels), len(data.classes)
    if not given:
        return [*(size for size in SIZES if classes <= size <= whole / 2), whole]
    found = set()
    for word in given:
        if word != "all" and not word.isdecimal():
            raise ValueError(f"sizes: {word}: must be a number of training examples, or all")
        size = whole if word == "all" else int(word)
        if size != whole and not classes <= size <= whole - classes:
            raise ValueError(
                f"sizes: {size}: must be from {classes}, the number of classes, to {whole - classes}, or all ({whole})"
            )
        found.add(size)
    return sorted(found)


def opened(arguments: Arguments, preset: Preset, settings: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Creates or reopens the folder; returns it with the results so far.

    Raises:
      ValueError: if the name is no folder name, the folder exists, or was started with other settings.
    """
    name = arguments.name or f"compare-{preset.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if Path(name).name != name or name.startswith("."):
        raise ValueError(f"name: {name!r}: give a plain folder name; --runs-dir sets the parent folder")
    if arguments.resume and not arguments.name:
        raise ValueError("resume: give the --name of the comparison to continue")
    folder = arguments.runs_dir.expanduser() / name
    path = folder / "compare.json"
    if folder.exists() and not (arguments.resume and (path.is_file() or not any(folder.iterdir()))):
        raise ValueError(f"name: {folder} exists: choose another --name, or continue a comparison with --resume")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        return folder, {"settings": settings, "seconds": [], "cells": {}}
    record = json.loads(path.read_text())
    if changed := list(differences(record["settings"], settings)):
        raise ValueError(f"resume: {folder} was started with other settings: {'; '.join(changed)}: use another --name")
    return folder, record


def described(network: Contender, first: Contender) -> str:
    """Formats what a network needs, and how well it matches the first."""

    def match(name: str) -> str:
        own, other = (getattr(each.needs, name) for each in (network, first))
        equal = network is not first and network.name.replace("-", "_") == name
        return f"{own:,}" + (f" ({own / other - 1:+.1%})" if equal else "")

    seconds = network.seconds * network.config.epochs
    units = getattr(network.config.network, "hidden", ("",))[0] if network is not first else ""
    spent = f"{network.config.epochs} ({seconds / (first.seconds * first.config.epochs) - 1:+.1%} time)"
    return (
        f"{network.label:<26}{units:<8}{match('parameters'):<18}{match('multiply_adds'):<20}"
        f"{1e3 * network.seconds:<13.3g}{spent if network.name == 'time' else network.config.epochs}"
    )


def main(arguments: Arguments) -> None:
    """Trains and tests all networks, prints the table, and writes the results."""
    with usage(arguments.debug):
        preset = load_preset(arguments.preset)
        with waiting(f"loading {preset.train.data}"):
            data = preset.dataset(data_dir=arguments.data_dir)
        arguments, train, sizes = prepared(arguments, preset, data)
        settings: dict[str, Any] = {"preset": preset.name, "config": describe(train), "data": describe_data(data)}
        settings |= {"code": preset.facts(train), "sizes": sizes, "shifts": list(arguments.shifts)}
        settings |= {"seeds": arguments.seeds, "rates": list(arguments.rates)}
        folder, record = opened(arguments, preset, json.loads(json.dumps(plain(settings))))
        try:
            with waiting("measuring the time of training steps"):
                networks = contenders(train, data, record["seconds"])
            compared = Compared(networks, sizes, arguments.shifts, record["cells"])
            record["seconds"] = [network.seconds for network in networks[:3]]
            print(f"{describe_inputs(data.name, data.spec)}, {len(data.train.labels):,} training examples")
            print(f"{'network':<26}{'hidden':<8}{'parameters':<18}{'multiply-adds':<20}{'ms per step':<13}epochs")
            for network in networks:
                print(described(network, networks[0]))
            finish(folder, compared, record, data, arguments)
        except KeyboardInterrupt:
            print(
                f"interrupted: {folder}: continue with: {shell.Typed.now().continued(folder, sweep=True)}",
                file=sys.stderr,
            )
            raise SystemExit(130) from None
        written(folder, compared, record, data.name)


def finish(folder: Path, compared: Compared, record: dict[str, Any], data: Dataset, arguments: Arguments) -> None:
    """Trains and tests the networks that are not in the record yet, and prints a line for each."""
    print(f"\n{header(compared)}", flush=True)
    first, whole = compared.networks[0].config, len(data.train.labels)
    rows = max(math.ceil(whole / 4), first.batch_size, *(size for size in compared.sizes if size < whole))
    for size, network in itertools.product(compared.sizes, compared.networks):
        cells = compared.cells.setdefault(str(size), {})
        if network.name not in cells:
            with waiting(f"training {network.label} on {size:,} examples", visible=sys.stderr.isatty()):
                cells[network.name] = measured(network, data, size, rows, first.epochs, arguments)
            save(folder / "compare.json", readable(plain(record)) + "\n")
        print(line(compared, size, network.name), flush=True)


def written(folder: Path, compared: Compared, record: dict[str, Any], name: str) -> None:
    """Prints the verdicts, and writes the results, the picture and the page."""
    sentences = [verdict(compared, match) for match in MATCHED]
    print()
    for sentence in sentences:
        print(sentence)
    if ends := at_ends(compared, record["settings"]["rates"]):
        cases = len(compared.sizes) * len(compared.networks)
        print(f"In {ends} of {cases} cases the chosen rate is at an end of the grid: other --rates may do better.")
    record["networks"] = [
        {"name": each.name, "network": str(each.config.network), **each.needs._asdict(), "epochs": each.config.epochs}
        for each in compared.networks
    ]
    record |= {"gaps": list(compared.gaps()), "verdict": sentences}
    save(folder / "compare.json", readable(plain(record)) + "\n")
    with (folder / "compare.csv").open("w", newline="") as file:
        rows = list(compared.rows())
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure = picture(compared, f"{name}: with and without convolution", sentences[0])
    figure.savefig(folder / "compare.png")
    shown = Shown(figure, "Accuracy and gaps", "Values of each seed: compare.csv.", " ".join(sentences))
    write(
        folder / "compare.html",
        f"{name}: with and without convolution",
        "\n\n".join(sentences),
        [Section("Results", "", [shown])],
    )
    print(folder / "compare.png")


def at_ends(compared: Compared, rates: Sequence[float]) -> int:
    """Returns how many of the chosen rates are the smallest or largest of the grid."""
    chosen = [cell["rate"] for cells in compared.cells.values() for cell in cells.values()]
    return sum(len(rates) > 1 and rate in (min(rates), max(rates)) for rate in chosen)


if __name__ == "__main__":
    run_form(main, Arguments, __doc__, cores=True)
