"""Laws of cross-validation: what the folds of a data set are, and a sweep over them."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import mistake, script
from sklearn.model_selection import KFold, StratifiedKFold

import cnnjax
from cnnjax import SGD, InMemory, Loading, MLPConfig, SweepConfig, TrainConfig, load_run
from cnnjax.data import DataError, Dataset, Split, folds
from cnnjax.runs import RunFolder, Swept, diff, recorded
from cnnjax.runs.records import describe_data, plain, read_record
from cnnjax.sweeps import plan, rank, trials
from cnnjax.sweeps.ranking import cost_table

BASE = TrainConfig(MLPConfig(hidden=(4,)), SGD(learning_rate=0.1), batch_size=32, epochs=1)
SWEEP = SweepConfig(BASE, (("learning_rate", (0.01, 0.1)),), seeds=2, folds=3)
HOW: dict[str, Any] = {"lanes": "1:1", "pack": "shapes"}


@pytest.fixture(scope="module")
def numbered() -> Dataset:
    """50 examples of 3 unequal classes, whose only input is their number: training first, then validation and test."""
    labels = np.array([0] * 25 + [1] * 15 + [2] * 10)
    order = np.random.default_rng(0).permutation(50)
    inputs = np.arange(50, dtype=np.float32)[:, None]
    train, valid, test = (
        Split(inputs[part], labels[order][part]) for part in (slice(30), slice(30, 41), slice(41, None))
    )
    return Dataset.of("numbered", "abc", train, valid, test)


@pytest.fixture(scope="module")
def kept(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Swept, Path]:
    folder = tmp_path_factory.mktemp("folds") / "run"
    return cnnjax.sweep(SWEEP, small, store=folder, **HOW), folder


def numbers(split: Split) -> list[int]:
    return sorted(map(int, split.inputs.ravel()))


@pytest.mark.parametrize("count", [3, 4, 10])
def test_every_example_is_tested_once_and_validated_once(numbered: Dataset, count: int) -> None:
    found = list(folds(numbered, count))
    assert len(found) == count
    for splits in zip(*((fold.valid, fold.test) for fold in found), strict=True):
        assert sorted(number for split in splits for number in numbers(split)) == list(range(50))
    for fold, after in zip(found, [*found[1:], found[0]], strict=True):
        assert numbers(fold.valid) == numbers(after.test)
        apart = [set(numbers(split)) for split in (fold.train, fold.valid, fold.test)]
        assert sum(map(len, apart)) == len(set.union(*apart)) >= 48
    assert len({len(fold.train.labels) for fold in found}) == 1


@pytest.mark.parametrize("kind", [StratifiedKFold, KFold])
def test_the_rule_is_that_of_scikit_learn(numbered: Dataset, kind: Any) -> None:
    every = [np.concatenate(arrays) for arrays in zip(numbered.train, numbered.valid, numbered.test, strict=True)]
    data = numbered
    if kind is KFold:
        splits = (Split(split.inputs, split.labels.astype(np.float32)) for split in numbered[2:5])
        data = Dataset.of("numbered", (), *splits)
    parts = [rows.tolist() for _, rows in kind(5, shuffle=True, random_state=0).split(*every)]
    assert [numbers(fold.test) for fold in folds(data, 5)] == parts


def test_folds_are_stratified_and_have_statistics_of_their_own(numbered: Dataset) -> None:
    for fold in folds(numbered, 5):
        assert np.bincount(fold.test.labels).tolist() == np.bincount(fold.valid.labels).tolist() == [5, 3, 2]
        alone = Dataset.of("numbered", "abc", *fold[2:5])
        for name in ("mean", "std", "counts"):
            np.testing.assert_array_equal(getattr(fold.spec, name), getattr(alone.spec, name))
        assert fold.spec.counts is not None
        assert fold.spec.counts.tolist() == [15, 9, 6]
        fold.check()


def test_a_fold_is_loaded_by_its_name(digits: Dataset) -> None:
    one = cnnjax.load("digits", loading=Loading(fold="2/3"))
    np.testing.assert_array_equal(one.test.inputs, [*folds(digits, 3)][1].test.inputs)


def test_a_trial_is_every_seed_in_every_fold_and_a_program_has_one_fold() -> None:
    found = trials(SWEEP)
    assert [(t.number, t.point, t.fold, t.config.seed) for t in found[:7]] == [
        (0, 0, "1/3", 0), (1, 0, "1/3", 1), (2, 0, "2/3", 0), (3, 0, "2/3", 1), (4, 0, "3/3", 0), (5, 0, "3/3", 1),
        (6, 1, "1/3", 0),
    ]  # fmt: skip
    assert [{t.fold for t in program.trials} for program in plan(found)] == [{"1/3"}, {"2/3"}, {"3/3"}]
    more = trials(replace(SWEEP, more_seeds=((1, 1),)))
    assert more[:12] == found
    assert [(t.number, t.point, t.fold, t.config.seed) for t in more[12:]] == [
        (12, 1, "1/3", 2), (13, 1, "2/3", 2), (14, 1, "3/3", 2),
    ]  # fmt: skip


def test_a_trial_is_the_single_run_on_its_fold(kept: tuple[Swept, Path], small: Dataset) -> None:
    swept, folder = kept
    every = list(folds(small, 3))
    tested = {result.trial.number for result in swept.winner.results}
    assert set(swept.tests) == tested
    for trial in [swept.results[number].trial for number in sorted(tested)[::2]]:
        data = every[trial.repeat["fold"] - 1]
        fitted = cnnjax.fit(trial.config, data, **HOW)
        for network in (swept.trained(trial.number), load_run(folder, trial.number)):
            for one, other in zip(jax.tree.leaves(fitted.variables), jax.tree.leaves(network.variables), strict=True):
                np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(network.logits(data.test.inputs), fitted.logits(data.test.inputs))
        assert swept.tests[trial.number] == fitted.test
        row = swept.table()[trial.number]
        assert row["valid_loss"] == fitted.rows[-1]["valid_loss"]
        assert (row["fold"], row["seed"]) == (trial.repeat["fold"], trial.config.seed)


def test_points_are_ranked_by_their_mean_over_folds_and_seeds(kept: tuple[Swept, Path]) -> None:
    swept, _ = kept
    rows = swept.table()
    for point in swept.points:
        scores = [row["valid_accuracy"] for row in rows if row["learning_rate"] == point.values["learning_rate"]]
        assert len(scores) == point.valid_metric.n == 6
        assert point.valid_metric.mean == pytest.approx(np.mean(scores))
        assert point.repeated == "trials"
    assert swept.points[0].valid_metric.mean >= swept.points[1].valid_metric.mean
    assert cost_table(rank(swept.results), BASE.metric).shape == (2, 6)  # each seed in each fold is a block


def test_the_folder_tells_the_folds(kept: tuple[Swept, Path], small: Dataset) -> None:
    _, folder = kept
    with (folder / "trials.csv").open(newline="") as file:
        assert [row["fold"] for row in csv.DictReader(file)] == [*"112233"] * 2
    assert recorded(folder).table()[0]["fold"] == 1
    assert not any(diff(folder, folder).values())
    winner = load_run(folder / "winner")
    np.testing.assert_array_equal(winner.spec.mean, next(folds(small, 3)).spec.mean)
    assert winner.config.loading.fold == "1/3"
    assert read_record(folder / "winner/data.json") == plain(describe_data(next(folds(small, 3))))


def test_a_sweep_that_is_stopped_in_a_fold_ends_the_same(kept: tuple[Swept, Path], small: Dataset) -> None:
    store, swept = InMemory(), kept[0]
    for resume in (False, True):
        calls = itertools.count()
        with pytest.raises(KeyboardInterrupt):
            cnnjax.sweep(SWEEP, small, store=store, resume=resume, stop=lambda c=calls: next(c) > 0, **HOW)
    resumed = cnnjax.sweep(SWEEP, small, store=store, resume=True, **HOW)
    assert resumed.rows == swept.rows
    assert resumed.tests == swept.tests
    assert resumed.table() == swept.table()


def test_more_seeds_and_points_reuse_the_trials_of_their_folds(kept: tuple[Swept, Path], small: Dataset) -> None:
    swept, folder = kept
    wider = replace(SWEEP, axes=(("learning_rate", (0.01, 0.1, 0.3)),))
    extended = cnnjax.sweep(wider, small, extend=folder, **HOW)
    for one, other in zip(extended.results, swept.results, strict=False):
        assert one[1:] == other[1:]
    with pytest.raises(ValueError, match=r"extend: .*: its trials cannot be reused: it has folds 3, this .* has 4"):
        cnnjax.sweep(replace(SWEEP, folds=4), small, extend=folder, **HOW)


@pytest.mark.slow
def test_halving_and_shards_keep_all_folds_of_a_point(kept: tuple[Swept, Path], small: Dataset, tmp_path: Path) -> None:
    halving = replace(SWEEP, base=replace(BASE, epochs=2), search="halving", factor=2)
    halved = cnnjax.sweep(halving, small, **HOW)
    assert sorted(r.status for r in halved.results) == ["complete"] * 6 + ["stopped"] * 6
    assert len(halved.tests) == 6
    parts = [tmp_path / "a", tmp_path / "b"]
    for number, part in enumerate(parts, 1):
        cnnjax.sweep(replace(SWEEP, shard=f"{number}/2"), small, store=part, **HOW)
    joined = cnnjax.sweep(SWEEP, small, store=tmp_path / "whole", extend=parts, **HOW)
    assert joined.table() == kept[0].table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 2}, "folds: 2: must be at least 3"),
        ({"folds": 2.5}, "folds: 2.5: must be an integer"),
        (
            {"base": replace(BASE, loading=Loading(valid_share=0.2))},
            "valid_share: 0.2: cannot be combined with folds, which split the data: omit it",
        ),
        ({"base": replace(BASE, loading=Loading(fold="1/3"))}, "fold: 1/3: cannot be combined with folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SWEEP, **change)


def test_a_class_with_fewer_examples_than_folds_is_named(numbered: Dataset) -> None:
    with pytest.raises(DataError, match="folds: 11: class c of numbered has only 10 examples, and each fold needs one"):
        next(folds(numbered, 11))
    with pytest.raises(DataError, match="folds: 2: must be at least 3"):
        next(folds(numbered, 2))
    with pytest.raises(DataError, match="fold: '4/3': give a part and the number of parts"):
        cnnjax.load("digits", loading=Loading(fold="4/3"))


@pytest.mark.slow
def test_the_commands_take_folds(tmp_path: Path) -> None:
    mistake("sweep", "digits", "--folds", "2", cwd=tmp_path, code=2, message="folds: 2: must be at least 3")
    mistake("sweep", "digits", "--folds", "200", cwd=tmp_path, code=1, message="folds: 200: class 8 of digits has only")
    mistake("train", "digits", "--fold", "x", cwd=tmp_path, code=1, message="fold: 'x': give a part and the number")
    short = ["--filters", "4", "--learning-rate", "0.1", "--epochs", "1"]
    done = script("sweep", "digits", *short, "--folds", "3", "--seeds", "1", "--name", "a", cwd=tmp_path)
    assert "over 3 folds." in done.stdout
    alone = script("train", "digits", *short, "--fold", "1/3", "--name", "b", cwd=tmp_path)
    with (tmp_path / "runs/a/trials.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    with RunFolder(tmp_path / "runs/b", resume=True) as folder:
        assert float(first["test_loss"]) == folder.read_json("summary.json")["test_loss"]
    assert alone.returncode == 0
    for name in ("a", "a/winner"):
        assert "report.html" in script("report", f"runs/{name}", cwd=tmp_path).stdout
