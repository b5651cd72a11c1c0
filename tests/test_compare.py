"""The comparison of networks with and without convolution: what is counted, matched, drawn and tested."""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, experiment, mistake, script
from PIL import Image
from scipy.stats import ttest_rel

from cnnjax import CNNConfig, Dataset, LeNet5Config, MLPConfig, Split, TrainConfig, conv_general_dilated, load_preset


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return experiment("compare")


def like(shape: tuple[int, ...], count: int = 40, classes: int = 10) -> Dataset:
    split = Split(np.random.default_rng(0).normal(size=(count, *shape)), np.arange(count) % classes)
    return Dataset.of("noise", "0123456789"[:classes], split, split, split)


# ------------------------------------------------------------------------- what networks need


def test_parameters_and_multiply_adds_are_those_of_the_layers(compare: ModuleType) -> None:
    images = like((28, 28, 1)).spec
    layers = 28 * 28 * 25 * 6, 10 * 10 * 25 * 6 * 16, 400 * 120, 120 * 84, 84 * 10
    assert compare.count(TrainConfig(LeNet5Config()), images) == (61_706, sum(layers), 2)
    assert compare.count(TrainConfig(MLPConfig(hidden=(300,))), images) == (238_510, 300 * (784 + 10), 0)
    series = like((20, 3)).spec
    grouped = CNNConfig(filters=(4, 8), kernel=5, groups=2, batch_norm=True, dropout=0.5)
    layers = 20 * 5 * 3 * 4, 10 * 5 * (4 // 2) * 8, 5 * 8 * 10
    assert compare.count(TrainConfig(grouped), series)[1:] == (sum(layers), 2)


def test_multiply_adds_are_those_that_xla_counts(compare: ModuleType) -> None:
    """XLA counts two operations for each, and leaves out products with padding."""
    x, kernel = jnp.ones((3, 9, 8, 4)), jnp.ones((3, 2, 2, 6))
    matrix, repeat = jnp.ones((6, 6)), 5

    def plain(x, convolution):
        y = convolution(x, kernel, (2, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
        return y @ matrix

    traced = jax.make_jaxpr(lambda x: plain(x, conv_general_dilated))(x).jaxpr
    assert compare.multiply_adds(traced) == compare.multiply_adds(
        jax.make_jaxpr(lambda x: plain(x, jax.lax.conv_general_dilated))(x).jaxpr
    )
    flops = jax.jit(lambda x: plain(x, jax.lax.conv_general_dilated)).lower(x).cost_analysis()["flops"]
    assert compare.multiply_adds(traced) == (flops / 2, 1)
    looped = jax.make_jaxpr(lambda x: jax.lax.scan(lambda x, _: (x @ matrix, None), x, length=repeat))(jnp.ones(6))
    assert compare.multiply_adds(looped.jaxpr) == (repeat * 36, 0)


def test_networks_match(compare: ModuleType, digits: Dataset) -> None:
    train = load_preset("digits").train
    own, parameters, adds, time = compare.contenders(train, digits, [3.1, 1.0, 2.0])
    assert own.config == train
    assert parameters.needs.parameters == pytest.approx(own.needs.parameters, rel=0.02)
    assert adds.needs.multiply_adds == pytest.approx(own.needs.multiply_adds, rel=0.02)
    assert time.config == replace(parameters.config, epochs=93)
    assert time.seconds == parameters.seconds
    for width in (1, 7, 500):
        target = compare.count(replace(train, network=MLPConfig(hidden=(width,))), digits.spec).parameters
        assert compare.width(target, lambda hidden: 75 * hidden + 10) == width
    assert compare.width(3, lambda hidden: 75 * hidden + 10) == 1
    other = replace(train, network=CNNConfig(activation="tanh", dropout=0.2))
    for contender in compare.contenders(other, digits, [1, 1, 1]):
        assert (contender.config.network.activation, contender.config.network.dropout) == ("tanh", 0.2)


@pytest.mark.slow
def test_steps_are_timed(compare: ModuleType, small: Dataset) -> None:
    train = replace(load_preset("digits").train, batch_size=32)
    assert min(compare.times([train, replace(train, network=MLPConfig(hidden=(4,)))], small)) > 0


# ------------------------------------------------------------------------- data


@pytest.mark.parametrize("shape", [(7, 5, 2), (9, 1)])
@pytest.mark.parametrize("cells", [1, 2])
def test_a_shift_moves_every_cell(compare: ModuleType, shape: tuple[int, ...], cells: int) -> None:
    split = like(shape, 12).test
    ways = compare.directions(len(shape) - 1)
    found = compare.in_all_directions(split, cells)
    assert len(ways) == len(set(ways)) == 3 ** (len(shape) - 1) - 1
    assert (found.labels == np.tile(split.labels, len(ways))).all()
    for way, moved in zip(ways, np.split(found.inputs, len(ways)), strict=True):
        for place in itertools.product(*map(range, shape[:-1])):
            source = [
                np.clip(cell - cells * step, 0, side - 1) for cell, step, side in zip(place, way, shape, strict=False)
            ]
            assert (moved[(slice(None), *place)] == split.inputs[(slice(None), *source)]).all()
    assert compare.in_all_directions(split, 0) is split


def test_a_seed_draws_its_own_stratified_subset(compare: ModuleType, digits: Dataset) -> None:
    train = load_preset("digits").train
    drawn = [list(compare.draws(digits, 100, 315, config, 1, 3)) for config in (train, replace(train, epochs=7))]
    for (config, seeds, part), (_, _, again) in zip(*drawn, strict=True):
        assert seeds == 1
        assert config.epochs == train.epochs
        assert part.test is digits.valid
        assert np.array_equal(part.train.inputs, again.train.inputs)  # the same for each network
        assert len(part.train.labels) == 315
        assert np.array_equal(part.train.inputs[:100], part.train.inputs[100:200])
        counts, whole = (np.bincount(labels) for labels in (part.train.labels[:100], digits.train.labels))
        assert np.abs(counts / 100 - whole / whole.sum()).max() < 0.01
    assert [config.seed for config, *_ in drawn[0]] == [0, 1, 2]
    assert not np.array_equal(drawn[0][0][2].train.inputs, drawn[0][1][2].train.inputs)
    [(config, seeds, part)] = compare.draws(digits, 1257, 315, train, 1, 3)
    assert (config, seeds, part.train) == (train, 3, digits.train)
    long, *_ = compare.draws(digits, 100, 315, replace(train, epochs=65), 2, 3)
    assert long[0].epochs * len(long[2].train.labels) == 32 * 2 * 315


def test_sizes_are_sorted_and_have_defaults(compare: ModuleType, digits: Dataset) -> None:
    assert compare.sizes_of((), digits) == [100, 1257]
    assert compare.sizes_of((), like((4, 4, 1), 2000)) == [100, 1000, 2000]
    assert compare.sizes_of(("all", "1000", "10", "1257"), digits) == [10, 1000, 1257]


def test_a_gap_has_the_interval_of_a_paired_t_test(compare: ModuleType) -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 6))
    found, interval = compare.gap(first, second), ttest_rel(first, second).confidence_interval(0.95)
    np.testing.assert_allclose(found, (np.mean(first - second), *interval))
    assert compare.gap([1, 1], [0, 0]) == (1, 1, 1)


# ------------------------------------------------------------------------- bad input


def test_what_cannot_be_compared_is_refused(compare: ModuleType, digits: Dataset, tmp_path: Path) -> None:
    preset, given = load_preset("digits"), compare.Arguments
    mlp = preset._replace(train=replace(preset.train, network=MLPConfig()))
    for arguments, of, data, message in (
        (given(), mlp, digits, "network: mlp: has no convolution"),
        (given(), preset, like((8,)), r"inputs of shape \[8\] have no spatial dimensions"),
        (given(sizes=("5",)), preset, digits, "sizes: 5: must be from 10, the number of classes, to 1247, or all"),
        (given(sizes=("1258",)), preset, digits, "sizes: 1258: must be from 10"),
        (given(sizes=("few",)), preset, digits, "sizes: few: must be a number of training examples, or all"),
        (given(shifts=(8,)), preset, digits, "shifts: 8: must be at least 0 and below 8"),
        (given(shifts=(-1,)), preset, digits, "shifts: -1: must be at least 0"),
        (given(seeds=1), preset, digits, "seeds: 1: must be at least 2"),
        (given(epochs=0), preset, digits, "epochs: 0: must be at least 1"),
        (given(rates=(-1.0,)), preset, digits, "learning_rate: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.prepared(arguments, of, data)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("")
    for name, resume, message in (
        ("a/b", False, "name: 'a/b': give a plain folder name"),
        ("there", False, "exists: choose another --name"),
        ("there", True, "exists: choose another --name"),
        (None, True, "resume: give the --name"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.opened(given(name=name, runs_dir=tmp_path, resume=resume), preset, {})


def test_a_mistake_takes_one_line(tmp_path: Path) -> None:
    mistake("compare", "--seeds", "1", cwd=tmp_path, code=2, message="seeds: 1: must be at least 2")
    angle = ROOT / "tests" / "presets" / "angle.py"
    mistake("compare", angle, cwd=tmp_path, code=2, message="data: bars: has no classes")
    mistake("compare", "digit", cwd=tmp_path, code=2, message="unknown preset 'digit': did you mean 'digits'?")


# ------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_a_comparison_is_written_and_continued(tmp_path: Path) -> None:
    few = ["--sizes", "20", "--seeds", "2", "--epochs", "1", "--rates", "0.03", "0.1", "--name", "c"]
    done = script("compare", "digits", *few, cwd=tmp_path)
    folder = tmp_path / "runs" / "c"
    assert done.stdout.splitlines()[-1] == "runs/c/compare.png"
    assert done.stdout.count("percentage points (95 % interval, paired over 2 seeds), and") == 3
    record = json.loads((folder / "compare.json").read_text())
    rows = list(csv.DictReader((folder / "compare.csv").read_text().splitlines()))
    assert len(rows) == 4 * 2 * 2  # networks, shifts, seeds
    for each in record["gaps"]:
        of = [row for row in rows if row["shift"] == str(each["shift"])]
        means = [
            np.mean([float(row["test_accuracy"]) for row in of if row["network"] == n]) for n in ("cnn", each["equal"])
        ]
        assert each["mean"] == pytest.approx(means[0] - means[1])
    with Image.open(folder / "compare.png") as picture:
        assert picture.size[0] > 1000
    assert "data:image/png" in (folder / "compare.html").read_text()

    del record["cells"]["20"]["parameters"]  # as if it had been interrupted
    (folder / "compare.json").write_text(json.dumps(record))
    again = script("compare", "digits", *few, "--resume", cwd=tmp_path)
    assert again.stdout == done.stdout
    few[few.index("2")] = "3"
    mistake(
        "compare", "digits", *few, "--resume", cwd=tmp_path, code=2, message="other settings: seeds 2 there, 3 here"
    )


@pytest.mark.slow
def test_a_network_and_data_of_one_s_own_are_compared(tmp_path: Path) -> None:
    preset = ROOT / "tests" / "presets" / "squeeze.py"
    few = ["--sizes", "all", "--seeds", "2", "--epochs", "1", "--rates", "0.003", "--shifts", "0"]
    done = script("compare", preset, *few, "--name", "own", cwd=tmp_path)
    assert "se-net" in done.stdout
    assert "shifted" not in done.stdout
    assert (tmp_path / "runs" / "own" / "compare.png").stat().st_size > 5000
