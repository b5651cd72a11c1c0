"""The scripts, run as a user runs them: every preset, shrunk, and every mistake."""

import csv
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import BAD_INPUT, ROOT, images, mistake, script
from PIL import Image

from cnnjax import CNNConfig, SweepConfig, TrainConfig, augmentation
from cnnjax.data import Dataset
from cnnjax.sweeps import compile_program, plan, trials
from cnnjax.training import Lanes

PRESETS = sorted(path.stem.replace("_", "-") for path in (ROOT / "configs").glob("*.py"))
SMALL = {
    "digits": ["--epochs", "1", "--filters", "4,8"],
    "mnist": ["--epochs", "1", "--batch-size", "100"],
    "mnist-mlp": ["--epochs", "1", "--hidden", "16"],
    "folder": ["--data", "photos", "--epochs", "1", "--filters", "4,4"],
    "gun-point": ["--epochs", "1", "--filters", "4,4"],
    "italy-power": ["--epochs", "1", "--filters", "4,4"],
    "cifar10": ["--epochs", "1", "--filters", "4,4", "--convolutions", "1"],
    "movie-review": ["--data", "reviews.csv", "--epochs", "1", "--embedding", "4", "--filters", "2"],
}


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def programs_of(folder: Path) -> list[dict]:
    return json.loads((folder / "plan.json").read_text())["programs"]


def test_every_preset_has_its_shrunk_form() -> None:
    assert sorted(SMALL) == PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset: str, tfds_dir: Path, tmp_path: Path) -> None:
    if preset == "folder":
        for i, row in enumerate(images((20, 20, 3), 100)):
            (place := tmp_path / "photos" / str(row["label"])).mkdir(parents=True, exist_ok=True)
            Image.fromarray(row["image"]).save(place / f"{i}.png")
    (tmp_path / "reviews.csv").write_text("text,label\n" + "a good film,1\na bad film,0\n" * 60)
    done = script("train", preset, *SMALL[preset], "--data-dir", tfds_dir, "--name", "r", cwd=tmp_path)
    folder = tmp_path / "runs" / "r"
    assert done.stdout.splitlines()[-1] == "runs/r"
    assert "test accuracy" in done.stdout
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "env.json",
        "data.json",
        "checkpoints",
        ".lock",
        "plan.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "figures",
        "command",
        "log.txt",
    }
    assert (folder / "figures" / "curves.png").stat().st_size > 5000
    [row] = lines(folder)
    assert list(row) == ["trial", "epoch", "step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy"]
    found = summary(folder)
    assert found["valid_accuracy"] == row["valid_accuracy"]
    assert 0 <= found["test_accuracy"] <= 1
    assert list(found["seconds"]) == ["compile", "train", "total"]


def test_a_sweep_ranks_records_and_draws(tmp_path: Path) -> None:
    arguments = ["--epochs", "2", "--learning-rate", "0.001", "0.1", "1e30", "--filters", "4,8", "6,8", "--seeds", "2"]
    done = script("sweep", "digits", *arguments, "--pack", "shapes", "--name", "s", "--quiet", cwd=tmp_path)
    table = done.stdout.splitlines()
    assert "undecided" in table[2]
    assert re.fullmatch(r"The best point has a test accuracy of [\d.]+ ± [\d.]+ % over 2 seeds\.", table[7])
    assert table[8].startswith("Not significantly different from the best: learning_rate 0.1 filters 4,8")
    assert re.search("^[123] undecided; .*experiments/sweep.py runs/s --add-seeds 2 --pack shapes --quiet$", table[9])
    assert table[10].startswith("Unstable (a seed is no better than guessing, ")
    assert table[10].endswith(": learning_rate 0.001 filters 4,8; learning_rate 0.001 filters 6,8.")
    assert table[11].startswith("warning: the best point is on the edge of the grid (filters ")
    assert "experiments/sweep.py digits --epochs 2 " in table[11]
    assert table[11].endswith(" --extend runs/s")
    assert table[12].startswith("12 trials: 8 complete, 4 diverged; compile ")
    assert [row.split()[-1] for row in table[1:7]] == ["2/2"] * 4 + ["0/2"] * 2
    assert table[1].split()[1] == "0.1"
    assert all(row.split()[1] == "1e+30" for row in table[5:7])
    folder = tmp_path / "runs" / "s"
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    names = (
        "trial,status,seed,learning_rate,filters,epochs,steps,parameters,train_loss,train_accuracy,valid_loss,"
        "valid_accuracy,test_loss,test_accuracy"
    )
    assert list(rows[0]) == names.split(",")
    assert [row["trial"] for row in rows] == [str(i) for i in range(12)]
    assert sum(row["test_accuracy"] != "" for row in rows) == 2  # the winner's seeds
    assert {row["status"] for row in rows if row["learning_rate"] == "1e+30"} == {"diverged"}
    found = summary(folder)
    assert found["trials"] == {"complete": 8, "stopped": 0, "diverged": 4}
    assert found["best"]["point"]["learning_rate"] == 0.1
    assert found["best"]["test_accuracy"]["n"] == 2
    best = [float(row["valid_accuracy"]) for row in rows if row["test_accuracy"]]
    assert found["best"]["valid_accuracy"]["mean"] == pytest.approx(sum(best) / 2)
    assert [len(program["trials"]) for program in programs_of(folder)] == [6, 6]
    for program in programs_of(folder):  # whose reader needs no other file
        for trial in program["trials"]:
            there = program["values"][str(trial)]
            assert {name: rows[trial][name] for name in there} == {name: str(value) for name, value in there.items()}
    assert len(lines(folder)) == 8 * 2 + 4
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "curves.png",
        "gaps.png",
        "grid.png",
        "rates.png",
        "parallel.png",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["axes"]["filters"] == [[4, 8], [6, 8]]


@pytest.mark.slow
def test_the_same_sweep_gives_the_same_numbers_and_a_wild_rate_changes_none(tmp_path: Path) -> None:
    common = ["--epochs", "2", "--filters", "4", "--seeds", "2", "--quiet"]
    for name, rate in (("wild", "1e30"), ("tame", "0.05")):
        script("sweep", "digits", "--learning-rate", "0.01", rate, "0.1", *common, "--name", name, cwd=tmp_path)
    wild, tame = (
        {(row["trial"], row["epoch"]): row for row in lines(tmp_path / "runs" / name)} for name in ("wild", "tame")
    )
    assert [trial for trial, epoch in tame if epoch == 2] == [0, 1, 2, 3, 4, 5]
    assert all(wild[key] == row for key, row in tame.items() if key[0] in (0, 1, 4, 5))
    assert all(wild[trial, 1]["train_loss"] is None for trial in (2, 3))


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    words = ["train", "digits", "--filters", "2", "--learning-rate", "1e30", "--epochs", "2", "--name", "r", "--resume"]
    done = script(*words, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "diverged after 1 steps: try a lower --learning-rate than 1e+30" in done.stdout
    folder = tmp_path / "runs" / "r"
    assert summary(folder)["status"] == "diverged"
    assert summary(folder)["test_accuracy"] is None
    command = shlex.join(["python", str(ROOT / "experiments" / "train.py"), *words[1:]])
    assert (folder / "command").read_text() == f"{command}\n"
    log = (folder / "log.txt").read_text()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in log.splitlines())
    assert [line[21:] for line in log.splitlines()] == [f"$ {command}", *done.stdout.splitlines()]
    again = script(*words, cwd=tmp_path, check=False)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (1, "runs/r is complete")
    assert (folder / "log.txt").read_text() == log


@pytest.mark.slow
def test_a_sweep_in_which_everything_diverges_keeps_its_records(tmp_path: Path) -> None:
    words = ["--learning-rate", "1e30", "--filters", "4", "--seeds", "2", "--name", "s"]
    assert script("sweep", "digits", *words, cwd=tmp_path, check=False).returncode == 1
    found = summary(tmp_path / "runs" / "s")
    assert found["trials"] == {"complete": 0, "stopped": 0, "diverged": 2}
    assert found["best"]["test_accuracy"] == {"mean": None, "std": None, "n": 0}


@pytest.mark.slow
def test_a_sweep_starts_from_its_own_base(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import replace\n"
        "from cnnjax import CNNConfig, SweepConfig, TrainConfig\n"
        "train = TrainConfig(CNNConfig(filters=(2,)), epochs=9)\n"
        "sweep = SweepConfig(replace(train, epochs=1), axes=(('stride', (1, 2)),), seeds=1)\n"
    )
    script("sweep", mine, "--name", "s", "--stride", "1", "--padding", "1", "SAME", cwd=tmp_path)
    rows = lines(tmp_path / "runs" / "s")
    assert [row["epoch"] for row in rows] == [1, 1]
    assert rows[0]["valid_loss"] == rows[1]["valid_loss"]  # a cell of padding is SAME for 3x3


@pytest.mark.parametrize("source", ["syntax error(", "train = 1", "from cnnjax import CNNConfig\nCNNConfig(filter=1)"])
def test_a_preset_that_fails_is_named(source: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    done = script("train", "mine.py", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mine.py: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_preset_of_one_s_own_from_any_directory(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        '"""Mine."""\n'
        "from cnnjax import CNNConfig, TrainConfig\n"
        "train = TrainConfig(CNNConfig(filters=(2,)), epochs=1)\n"
    )
    script("train", mine, cwd=tmp_path)
    [folder] = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("mine-")


MISTAKES = {
    "no preset": ([], 2, "usage: train.py PRESET"),
    "no such preset": (["mine/focal.py"], 2, "error: mine/focal.py: no such file"),
    "no such run": (["runs/r", "--resume"], 2, "error: runs/r: no such run folder"),
    "unknown preset": (["digitz"], 2, "unknown preset 'digitz': did you mean 'digits'?"),
    "unknown field": (["digits", "--learnin-rate", "0.1"], 2, "--learning-rate"),
    "not a number": (["digits", "--learning-rate", "nan"], 2, "learning_rate: nan: must be finite"),
    "momentum": (["digits", "--momentum", "1.5"], 2, "momentum: 1.5: must be at least 0 and below 1"),
    "no batch": (["digits", "--batch-size", "0"], 2, "batch_size: 0: must be at least 1"),
    "large batch": (
        ["digits", "--batch-size", "1258"],
        2,
        "batch_size: 1258: must be at most 1257, the number of training examples of digits",
    ),
    "no filters": (["digits", "--filters", "0,8"], 2, "filters: 0,8: every entry must be at least 1"),
    "words for filters": (["digits", "--filters", "a,8"], 2, "--filters"),
    "too deep": (
        ["digits", "--filters", "8,16,32,64,128"],
        2,
        "does not fit maps of 1x1: floor((1 + 0 - 2) / 2) + 1 = 0; maps so far: 8x8x1 -> 8x8x8",
    ),
    "epochs": (["digits", "--epochs", "-1"], 2, "epochs: -1: must be at least 1"),
    "activation": (["digits", "--activation", "rlu"], 2, "activation: 'rlu': did you mean 'relu'? use one of relu"),
    "a field it does not have": (["mnist-mlp", "--filters", "8"], 2, "Unrecognized options: --filters"),
    "missing data": (
        ["mnist", "--data-dir", "nowhere"],
        1,
        "not prepared in nowhere/mnist/*; prepare it with: python -m cnnjax prepare mnist --data-dir nowhere",
    ),
    "truncated data": (["mnist", "--data-dir", "truncated"], 1, "damaged: "),
    "taken name": (["digits", "--name", "taken"], 1, "run folder runs/taken exists"),
    "name outside": (["digits", "--name", "../up"], 2, "name: '../up': give a plain folder name"),
    "no folder": (["digits", "--runs-dir", "file"], 1, "no run folder in file: File exists"),
    "lanes": (["digits", "--lanes", "nonsense"], 2, "lanes: 'nonsense': give auto, or parallel lanes and devices"),
    "no plan": (["digits", "--plan-from", "nowhere.json"], 1, "nowhere.json"),
    "other plan": (["digits", "--plan-from", "file"], 2, "plan: file: not a plan: Expecting value"),
    "memory below 0": (["digits", "--memory", "-1"], 2, "memory: -1.0: must be above 0 and finite"),
    "no memory": (["digits", "--memory", "0"], 2, "memory: 0.0: must be above 0 and finite"),
    "memory not a number": (["digits", "--memory", "nan"], 2, "memory: nan: must be above 0 and finite"),
    "endless memory": (["digits", "--memory", "1e308"], 2, "memory: 1e+308: must be above 0 and finite"),
    "no device": (["digits", "--device", "tpu"], 2, "device: tpu: JAX finds no such device"),
}


QUICK = {"no preset", "unknown field", "not a number", "too deep", "missing data", "taken name", "no plan"}


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MISTAKES])
def test_a_mistake_is_told_in_one_line(name: str, tfds_dir: Path, tmp_path: Path, figure: Callable[..., None]) -> None:
    arguments, code, message = MISTAKES[name]
    (tmp_path / "file").touch()
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    folder = shutil.copytree(tfds_dir / "mnist" / "1.0.0", tmp_path / "truncated" / "mnist" / "1.0.0")
    [file] = folder.glob("*train*")
    os.truncate(file, file.stat().st_size // 2)
    figure(BAD_INPUT, 1, mistake("train", *arguments, cwd=tmp_path, code=code, message=message))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["taken"]


SWEEP_MISTAKES = {
    "no value": (["--learning-rate"], "learning_rate: give at least one value"),
    "twice": (["--learning-rate", "0.1", "0.1"], "learning_rate: 0.1 0.1: duplicate value"),
    "no seed": (["--seeds", "0"], "seeds: 0: must be at least 1"),
    "one bad value": (["--learning-rate", "0.1", "nan"], "learning_rate: nan: must be finite"),
    "one bad shape": (["--filters", "8", "8,8,8,8"], "does not fit"),
    "upside down": (
        ["--learning-rate", "log:1:1e-3", "--points", "8"],
        "learning_rate: log:1:0.001: the first end must be below the second",
    ),
    "a range and a value": (
        ["--learning-rate", "log:1e-3:1", "0.1", "--points", "8"],
        "give either one range or a list of values",
    ),
    "no range": (["--learning-rate", "linear:0:1", "--points", "8"], "give a range as log:LOW:HIGH"),
    "a range without points": (
        ["--learning-rate", "log:1e-3:1"],
        "log:0.001:1: give the number of random points with points",
    ),
    "a logarithm of zero": (
        ["--momentum", "log:0:0.9", "--points", "8"],
        "momentum: log:0:0.9: a logarithmic range must start above 0",
    ),
    "too many points": (["--points", "13"], "points: 13: must be at most 12, the number of different points"),
    "no such axis": (["--learning-rat", "0.1"], "--learning-rate"),
    "zipped apart": (
        ["--momentum", "0.5", "0.9", "--zip", "learning-rate,momentum"],
        "zip: learning_rate,momentum: must have the same number of values, not learning_rate 4, momentum 2",
    ),
    "zipped with nothing": (["--zip", "learning-rate,momentm"], "zip: momentm: did you mean"),
    "padding a sigmoid": (
        ["--pack", "one", "--activation", "sigmoid"],
        "pack: one: activation sigmoid: not known to be 0 at 0, so padding might not stay zero: use auto",
    ),
    "no points for Optuna": (["--search", "tpe"], "points: 0: give the number of points that tpe may try"),
    "halving and epochs": (["--search", "halving", "--epochs", "2", "4"], "epochs: cannot be swept with halving"),
    "a field of no network": (["--network", "mlp", "resnet", "--kernel", "4", "8"], "--kernel"),
    "a field of two parts": (["--augment", "flip", "--name", "s", "--augment.p", "1"], "--augment.p"),
    "a wrong part": (["--optimizer", "adm"], "optimizer: 'adm': did you mean 'adam'? use one of sgd, adam, adamw"),
    "a network that is none": (["--network", "cnn", "lenet"], "network: 'lenet': did you mean 'lenet5'?"),
    "off where nothing is": (["--momentum", "none"], "--momentum"),
    "extends nothing": (["--extend", "nowhere"], "nowhere/config.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEP_MISTAKES)
def test_a_sweep_s_mistake_is_told_in_one_line(name: str, tmp_path: Path, figure: Callable[..., None]) -> None:
    arguments, message = SWEEP_MISTAKES[name]
    code = 1 if name == "extends nothing" else 2
    figure(BAD_INPUT, 1, mistake("sweep", "digits", *arguments, cwd=tmp_path, code=code, message=message))
    assert not (tmp_path / "runs").exists()


SWEEP = ["sweep", "digits", "--epochs", "1", "--filters", "4", "--seeds", "3", "--learning-rate", "0.01", "0.1"]


@pytest.mark.slow
@pytest.mark.parametrize("lanes", ["1:1", "auto"])
def test_a_plan_carried_out_again_gives_the_same_bits(lanes: str, tmp_path: Path) -> None:
    first, again = tmp_path / "runs" / "first", tmp_path / "runs" / "again"
    script(*SWEEP, "--lanes", lanes, "--name", "first", cwd=tmp_path)
    script(*SWEEP, "--plan-from", first / "plan.json", "--name", "again", cwd=tmp_path)
    for name in ("trials.csv", "metrics.jsonl"):
        assert (first / name).read_text() == (again / name).read_text()
    assert programs_of(first) == programs_of(again)
    if lanes != "auto":
        [program] = programs_of(first)
        assert (program["lanes"], program["micro_batch"], program["trials"]) == (lanes, 0, list(range(6)))
        assert program["network"] == "cnn filters=4"
        assert program["values"]["3"] == {"learning_rate": 0.1, "filters": "4", "seed": 0}


@pytest.mark.slow
def test_a_winner_whose_seeds_lie_in_several_programs_is_tested_under_each(tmp_path: Path) -> None:
    script(*SWEEP, "--lanes", "1:1", "--name", "whole", cwd=tmp_path)
    parts = [{"lanes": "1:1", "micro_batch": 0, "trials": part} for part in ([5, 0], [1, 4, 3], [2])]
    (tmp_path / "parts.json").write_text(json.dumps({"programs": parts}))
    script(*SWEEP, "--plan-from", "parts.json", "--name", "parts", cwd=tmp_path)
    whole, apart = (
        list(csv.DictReader((tmp_path / "runs" / name / "trials.csv").read_text().splitlines()))
        for name in ("whole", "parts")
    )
    assert [row["trial"] for row in apart if row["test_accuracy"]] == ["3", "4", "5"]
    for a, b in zip(whole, apart, strict=True):
        for name in ("valid_accuracy", "test_accuracy"):
            assert float(a[name] or -1) == pytest.approx(float(b[name] or -1))


@pytest.mark.slow
def test_a_plan_of_micro_batches_is_refused_where_they_would_change_the_numbers(tmp_path: Path) -> None:
    entry = {"lanes": "1:1", "micro_batch": 32, "trials": [0]}
    (tmp_path / "plan.json").write_text(json.dumps({"programs": [entry]}))
    arguments = ["train", "digits", "--plan-from", "plan.json", "--filters", "4", "--dropout", "0.2"]
    done = script(*arguments, cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "plan: plan.json: micro_batch: 32: must divide the part of batch_size 64 on each device" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_memory_for_not_even_one_trial_is_told_in_one_line(tmp_path: Path) -> None:
    done = script("train", "digits", "--memory", "0.0001", "--filters", "4", cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: batch_size: 64: 1 trials need ")
    assert done.stderr.endswith(", or increase --memory\n")


@pytest.mark.slow
def test_trials_that_need_more_memory_train_in_chunks(digits: Dataset, tmp_path: Path) -> None:
    base = TrainConfig(CNNConfig(filters=(4,)), epochs=1)
    [program] = plan(trials(SweepConfig(base, axes=(("learning_rate", (0.01, 0.1)),))), Lanes(0, 1))
    some = str(0.6 * compile_program(program, digits).memory / 2**30)
    done = script(*SWEEP, "--lanes", "0:1", "--memory", some, "--name", "s", cwd=tmp_path)
    assert "\nmemory: 6 trials need " in done.stdout
    chunks = [entry["trials"] for entry in programs_of(tmp_path / "runs" / "s")]
    assert len(chunks) > 1
    assert [number for chunk in chunks for number in chunk] == list(range(6))
    assert done.stdout.count(" trials; best valid accuracy ") == len(chunks)
    assert summary(tmp_path / "runs" / "s")["trials"]["complete"] == 6
    assert summary(tmp_path / "runs" / "s")["best"]["test_accuracy"]["n"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp866", "utf-8"])
def test_a_terminal_of_few_letters(tmp_path: Path, encoding: str) -> None:
    arguments = ["--learning-rate", "0.1", "0.05", "--filters", "4", "--epochs", "1", "--seeds", "2", "--name", "é±"]
    command = [sys.executable, "-W", "error", "-m", "cnnjax", "sweep", "digits", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.decode(encoding)
    assert ("±" if encoding in ("latin-1", "utf-8") else " +- ") in table
    assert ("runs/é±" if encoding in ("latin-1", "utf-8") else "runs/?+-") in table
    assert (tmp_path / "runs" / "é±" / "summary.json").exists()


@pytest.mark.slow
def test_a_second_run_compiles_nothing_that_the_cache_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(folder: str, *more: str) -> set[str]:
        monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / folder))
        script("train", "digits", *SMALL["digits"], "--lanes", "1:1", *more, cwd=tmp_path)
        return {path.name for path in (tmp_path / folder).glob("xla-*/*")}

    first = entries("kept")
    assert any("advance" in name for name in first)
    assert entries("kept") == first
    assert entries("none", "--no-compilation-cache") == set()


@pytest.mark.slow
def test_a_compilation_cache_that_the_user_has_set_is_used(tmp_path: Path) -> None:
    env = {"CNNJAX_CACHE_DIR": str(tmp_path / "ours"), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")}
    command = [sys.executable, "-m", "cnnjax", "train", "digits", *SMALL["digits"], "--lanes", "1:1"]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, **env})
    assert not list((tmp_path / "ours").glob("xla-*"))
    assert (tmp_path / "mine").is_dir()


@pytest.mark.slow
def test_the_benchmark_compares_and_draws(tmp_path: Path) -> None:
    short = ["--models", "1", "2", "--rounds", "1", "--seeds", "1", "--steps", "4"]
    arguments = ["--what", "a", *short, "--peers", "stock", "torch"]
    done = script("benchmark", *arguments, "--json", "b.json", "--figure", "b.png", cwd=tmp_path)
    table = json.loads((tmp_path / "b.json").read_text())
    assert (tmp_path / "b.png").stat().st_size > 10_000
    assert table["sweep_seconds"] == {}
    a = table["nets"]["a"]
    assert set(a["models"]) == {"1", "2"}
    for models in a["models"].values():
        assert {"cnnjax", "stock flax loop"} < set(models["ms"])
        assert all(len(ms) == 1 and ms[0] > 0 for ms in models["ms"].values())
        assert models["ratios"]["stock Flax / cnnjax"] > 0
    assert a["accuracy"]["cnnjax"][0] > 0.9
    has_torch = importlib.util.find_spec("torch") is not None
    assert bool(table["missing"]) is not has_torch
    assert ("PyTorch is not installed" in done.stdout) is not has_torch
    assert ("PyTorch / cnnjax" in done.stdout) is has_torch


@pytest.mark.slow
def test_the_benchmark_times_each_augmentation(tmp_path: Path) -> None:
    done = script(
        "benchmark",
        "--what",
        "augmentations",
        "--rounds",
        "1",
        "--steps",
        "2",
        "--peers",
        "--json",
        "b.json",
        cwd=tmp_path,
    )
    found = json.loads((tmp_path / "b.json").read_text())["augmentations"]
    assert all(len(ms) == 1 and ms[0] > 0 for ms in found.values())
    names = {name.rpartition(", ")[2] for name in found}
    public = {value for value in vars(augmentation).values() if inspect.isclass(value)}
    assert names == {"none"} | {part.kind() for part in public - {augmentation.Augmentation, augmentation.TokenDropout}}
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [row[0] for row in rows] == [name.rpartition(", ")[2] for name in found]
    assert [float(row[2]) for row in rows if row[0] == "none"] == [0, 0]


@pytest.mark.slow
def test_the_benchmark_maps_single_convolutions(tmp_path: Path) -> None:
    short = ["--rounds", "1", "--operations", "text", "1-d-3"]
    done = script("benchmark", "--what", "operations", *short, "--json", "b.json", cwd=tmp_path)
    found = json.loads((tmp_path / "b.json").read_text())["operations"]
    assert "text k5, 50x128 to 100 [64]" in done.stdout
    assert found["gflops"] > 0 < found["gigabytes_per_second"]
    peers = {"torch nchw", "torch channels_last"} if importlib.util.find_spec("torch") else set()
    for name in ("text", "1-d-3"):
        assert set(found[name]["ms"]) == {"cnnjax, one", "cnnjax, shared", "lax"} | peers
        assert all(ms > 0 for ms in found[name]["ms"].values())
        assert all(turns == 1 for _, turns in found[name]["dropped"].values())
    wrong = script("benchmark", "--what", "operations", "--operations", "4x4", cwd=tmp_path, check=False)
    assert wrong.returncode == 2
    assert "operations: 4x4: must be one of depthwise-3, " in wrong.stderr


@pytest.mark.slow
def test_one_trial_trains_on_all_cores(tmp_path: Path) -> None:
    # a small rate: a large one makes differences of rounding grow from step to step
    short = ("train", "digits", "--epochs", "2", "--learning-rate", "0.01")
    for lanes in ("auto", "1:1"):
        script(*short, "--lanes", lanes, "--name", lanes[0], cwd=tmp_path)
    [auto], [one] = (programs_of(tmp_path / "runs" / name) for name in "a1")
    if len(os.sched_getaffinity(0)) > 1:
        assert auto["lanes"] == "1:1:2"
    assert one["lanes"] == "1:1"
    for a, b in zip(*(lines(tmp_path / "runs" / name) for name in "a1"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_help_names_every_field(tmp_path: Path) -> None:
    assert "mnist-mlp" in script("sweep", "--help", cwd=tmp_path).stdout
    shown = script("sweep", "digits", "--help", cwd=tmp_path).stdout
    assert all(option in shown for option in ("--learning-rate", "--filters", "--seeds", "--data-dir", "--runs-dir"))


def test_preparing_needs_tensorflow_and_says_so(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is here")
    done = script("prepare", "mnist", "--data-dir", tmp_path, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        'error: prepare: needs TensorFlow: pip install -e ".[prepare]"\n',
    )
