"""Whole runs in other code: a sweep in memory, and what scripts and other runs take from a run folder."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import script

import cnnjax
from cnnjax import SGD, CNNConfig, MLPConfig, SweepConfig, TrainConfig
from cnnjax.data import Dataset
from cnnjax.runs import read_metrics
from cnnjax.sweeps import compile_program, plan, trials
from cnnjax.training import Lanes

BASE = TrainConfig(CNNConfig(filters=(4,)), SGD(learning_rate=0.1), batch_size=32, epochs=4)
AXES = (("learning_rate", (0.003, 0.03, 0.1, 1e30)), ("filters", ((2,), (4,))))
TINY = ["digits", "--epochs", "2", "--filters", "4", "6", "--pack", "shapes", "--lanes", "1:1", "--quiet"]


def table(folder: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows of `trials.csv` by what the trials were."""
    rows = csv.DictReader((folder / "trials.csv").read_text().splitlines())
    return {(row["learning_rate"], row["filters"], row["seed"]): row for row in rows}


def test_a_sweep_in_memory_has_a_table_curves_and_states(small: Dataset) -> None:
    swept = cnnjax.sweep(SweepConfig(BASE, AXES, seeds=2), small, pack="one")
    rows = swept.table()
    assert [row["trial"] for row in rows] == list(range(16))
    assert [row["status"] for row in rows] == ["complete"] * 12 + ["diverged"] * 4
    assert {len(row) for row in rows} == {14}
    curves = swept.curves("valid_accuracy")
    assert curves.shape == (16, 4)
    assert np.isfinite(curves[:12]).all()
    assert np.isnan(curves[12:]).all()
    assert curves[:12, -1].tolist() == [row["valid_accuracy"] for row in rows[:12]]
    assert swept.states[0].params["blocks"][0]["convolutions"][0]["kernel"].shape[-1] == 2
    assert swept.states[2].params["blocks"][0]["convolutions"][0]["kernel"].shape[-1] == 4
    best = swept.points[0]
    assert set(swept.tests) == {result.trial.number for result in best.results}
    assert best.valid_metric.mean == max(point.valid_metric.mean for point in swept.points if point.complete)


def test_what_survives_halving_ends_as_in_the_whole_grid(small: Dataset) -> None:
    config = SweepConfig(BASE, AXES, seeds=2)
    whole, half = (
        cnnjax.sweep(replace(config, search=name, factor=2), small, pack="one") for name in ("all", "halving")
    )
    ended = [result.trial.number for result in half.results if result.status == "complete"]
    assert 0 < len(ended) < 12
    assert {result.status for result in half.results} == {"complete", "stopped", "diverged"}
    for number in ended:
        assert jax.tree.all(jax.tree.map(np.array_equal, whole.states[number], half.states[number]))
    lines = {json.dumps(row) for row in whole.rows}
    assert {json.dumps(row) for row in half.rows} < lines
    assert sum(row["trial"] in ended for row in half.rows) == 4 * len(ended)


@pytest.mark.slow
def test_networks_are_an_axis(small: Dataset) -> None:
    networks = (CNNConfig(filters=(2,)), MLPConfig(hidden=(4,)))
    swept = cnnjax.sweep(SweepConfig(BASE, (("network", networks),), seeds=1), small)
    assert [dict(result.trial.values)["network"] for result in swept.results] == list(networks)
    assert [str(network) for network in networks] == ["cnn filters=2", "mlp hidden=4"]


@pytest.mark.slow
def test_an_extended_sweep_trains_what_is_missing_only(tmp_path: Path) -> None:
    first = [*TINY, "--learning-rate", "0.01", "0.1", "--seeds", "2"]
    more = [*TINY, "--learning-rate", "0.03", "0.1", "1e30", "0.01", "--seeds", "3"]
    script("sweep", *first, "--name", "first", cwd=tmp_path)
    script("sweep", *more, "--name", "whole", cwd=tmp_path)
    script("sweep", *more, "--extend", "runs/first", "--name", "more", cwd=tmp_path)
    old, whole, new = (table(tmp_path / "runs" / name) for name in ("first", "whole", "more"))
    assert len(new) == 24
    for key, row in old.items():
        assert {name: new[key][name] for name in ("epochs", "steps", "train_loss", "valid_accuracy")} == {
            name: row[name] for name in ("epochs", "steps", "train_loss", "valid_accuracy")
        }
    assert {key: {**row, "test_loss": ""} for key, row in new.items()} == {
        key: {**row, "test_loss": ""} for key, row in whole.items()
    }
    plan = json.loads((tmp_path / "runs" / "more" / "plan.json").read_text())["programs"]
    assert sorted(len(program["trials"]) for program in plan) == [4, 4, 8, 8]
    lines = [(row["trial"], row["epoch"]) for row in read_metrics(tmp_path / "runs" / "more" / "metrics.jsonl")]
    assert len(lines) == len(set(lines)) == 18 * 2 + 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "shown"),
    [(["--search", "halving"], {"complete", "stopped"}), (["--search", "tpe", "--points", "5"], {"complete"})],
)
def test_a_searched_sweep_loads_and_its_winner_goes_on(search: list[str], shown: set[str], tmp_path: Path) -> None:
    arguments = ["digits", "--epochs", "4", "--filters", "4", "6", "--seeds", "2", "--pack", "one", "--quiet", *search]
    script("sweep", *arguments, "--name", "s", cwd=tmp_path)
    folder, test = tmp_path / "runs" / "s", cnnjax.load("digits").test
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == shown
    [first, second] = [row for row in rows if row["test_accuracy"]]
    for trained, row in (
        (cnnjax.load_run(folder), first),
        (cnnjax.load_run(folder, int(second["trial"])), second),
        (cnnjax.load_run(folder / "winner"), first),
    ):
        accuracy = float((trained.logits(test.inputs).argmax(-1) == test.labels).mean())
        assert accuracy == pytest.approx(float(row["test_accuracy"]))
        assert ",".join(map(str, trained.config.network.filters)) == row["filters"]
    for row in rows:  # of every status, in the shape of its own network
        trained = cnnjax.load_run(folder, int(row["trial"]))
        kernel = trained.variables.params["blocks"][0]["convolutions"][0]["kernel"]
        assert kernel.shape[-1] == trained.config.network.filters[0] == int(row["filters"])
    more = ["--resume", "--epochs", "6", "--allow-changes", "--quiet"]
    script("train", "runs/s/winner", *more, cwd=tmp_path)
    lines = read_metrics(folder / "winner" / "metrics.jsonl")
    assert [row["epoch"] for row in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[3]["valid_accuracy"] == float(first["valid_accuracy"])


@pytest.mark.slow
def test_a_plan_beforehand_trains_nothing(tmp_path: Path) -> None:
    done = script("sweep", *TINY, "--seeds", "2", "--plan", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "16 trials (8 points x 2 seeds), 32 epochs of training in all"
    assert "  learning_rate: lanes: a number" in lines
    assert "  filters: programs: it changes a shape or a function" in lines
    assert sum(line[0].isdigit() for line in lines[1:]) == 2
    assert lines[-1].startswith("training ")
    assert not (tmp_path / "runs").exists()
    packed = script("sweep", *TINY, "--pack", "one", "--seeds", "2", "--plan", cwd=tmp_path).stdout
    assert "  filters: lanes: widths, padded with zeros to the widest network of a program" in packed


@pytest.mark.slow
def test_packed_trials_that_need_more_memory_train_in_chunks(digits: Dataset, tmp_path: Path) -> None:
    arguments = ["digits", "--epochs", "1", "--filters", "4", "6", "--seeds", "2", "--pack", "one", "--lanes", "0:1"]
    base = TrainConfig(CNNConfig(), epochs=1)
    axes = (("learning_rate", (0.01, 0.03, 0.1, 0.3)), ("filters", ((4,), (6,))))
    [program] = plan(trials(SweepConfig(base, axes, seeds=2)), Lanes(0, 1), "one", spec=digits.spec)
    some = 0.6 * compile_program(program, digits).memory / 2**30
    done = script("sweep", *arguments, "--memory", str(some), cwd=tmp_path)
    assert "\nmemory: 16 trials need " in done.stdout
    assert "16 trials: 16 complete" in done.stdout
