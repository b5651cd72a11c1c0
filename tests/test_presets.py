"""Presets outside of the checkout, with parts and data of their own, through every script and from Python."""

import csv
import json
import re
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import BAD_INPUT, Process, mistake, script
from test_faults import size, what_remains

import cnnjax
from cnnjax.runs import RecordError

OWN = Path(__file__).parent / "presets"
SHORT = ["--epochs", "2", "--quiet"]
SWEEP = ["squeeze.py", "--gamma", "0", "2", "--filters", "4,4", "4,8", "--seeds", "2", *SHORT]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory with copies of the presets."""
    return Path(shutil.copytree(OWN, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `SWEEP` was run as `s`."""
    folder = Path(shutil.copytree(OWN, tmp_path_factory.mktemp("swept") / "own"))
    script("sweep", *SWEEP, "--name", "s", cwd=folder)
    return folder


def parts(folder: Path) -> dict:
    """What a preset defines, for use in Python."""
    sys.path.insert(0, str(folder))
    try:
        return runpy.run_path(str(folder / "squeeze.py"))
    finally:
        sys.path.remove(str(folder))


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "trials.csv").read_text().splitlines()))


@pytest.mark.slow
def test_numbers_of_one_s_own_are_lanes_and_the_rest_programs(swept: Path) -> None:
    run = swept / "runs" / "s"
    found = rows(run)
    assert [(row["gamma"], row["filters"]) for row in found[::2]] == [
        ("0.0", "4,4"),
        ("0.0", "4,8"),
        ("2.0", "4,4"),
        ("2.0", "4,8"),
    ]
    assert {row["status"] for row in found} == {"complete"}
    programs = json.loads((run / "plan.json").read_text())["programs"]
    assert [program["trials"] for program in programs] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert not list(swept.rglob("__pycache__"))


def test_a_run_of_one_s_own_is_loaded_with_its_classes(swept: Path) -> None:
    defined, run = parts(swept), swept / "runs" / "s"
    classes = [defined[name] for name in ("SENetConfig", "FocalLoss", "Noise")]
    with pytest.raises(RecordError, match=r"config.json: preset.squeeze.SENetConfig: .* classes=\[SENetConfig\]"):
        cnnjax.load_run(run)
    test = defined["data"]().test
    for folder, trial in ((run, None), (run / "winner", 0)):
        trained = cnnjax.load_run(folder, trial, classes=classes)
        accuracy = float((trained.logits(test.inputs).argmax(-1) == test.labels).mean())
        assert accuracy == pytest.approx(next(float(row["test_accuracy"]) for row in rows(run) if row["test_accuracy"]))


@pytest.mark.slow
def test_the_same_in_python(swept: Path) -> None:
    """In memory the same sweep ends with the same numbers as the script."""
    defined = parts(swept)
    train = cnnjax.options.with_values(defined["train"], {"epochs": 2, "data": "squeeze"})
    axes = (("gamma", (0.0, 2.0)), ("filters", ((4, 4), (4, 8))))
    found = cnnjax.sweep(cnnjax.SweepConfig(train, axes, seeds=2), defined["data"]())
    for row, there in zip(found.table(), rows(swept / "runs" / "s"), strict=True):
        assert row["valid_accuracy"] == pytest.approx(float(there["valid_accuracy"]), abs=0.05)
        assert row["train_loss"] == pytest.approx(float(there["train_loss"]), rel=1e-3)


@pytest.mark.slow
def test_every_part_of_one_s_own_is_a_choice(own: Path) -> None:
    arguments = [
        "--optimizer",
        "adam",
        "signs",
        "--decay",
        "0.8",
        "0.9",
        "--augment",
        "none",
        "flip,noise",
        "--scale",
        "0.2",
    ]
    done = script("sweep", "squeeze.py", *arguments, "--metric", "top-two", "--seeds", "1", *SHORT, cwd=own)
    table = done.stdout.splitlines()
    assert table[0].split()[:6] == ["rank", "gamma", "scale", "decay", "optimizer", "augment"]
    assert "valid top two" in table[0]
    [folder] = (own / "runs").iterdir()
    found = rows(folder)
    assert len(found) == 12  # 2 gammas x (Adam + 2 decays of Signs) x 2 augmentations
    assert {(row["optimizer"].split()[0], row["decay"] != "") for row in found} == {("adam", False), ("signs", True)}
    assert {(row["augment"] == "none", row["scale"] != "") for row in found} == {(True, False), (False, True)}
    assert "valid_top_two" in found[0]


@pytest.mark.slow
def test_a_killed_sweep_of_one_s_own_ends_as_if_it_was_not(own: Path, figure: Callable[..., None]) -> None:
    arguments = ["sweep", *SWEEP, "--epochs", "12", "--lanes", "1:1", "--save-seconds", "0"]
    figure("SIGKILLs of a sweep with parts of its own: the same table", 3)
    script(*arguments, "--name", "whole", cwd=own)
    run, kills = own / "runs" / "r", 0
    while kills < 3:
        process = Process(*arguments, "--name", "r", "--resume", cwd=own)
        before = size(run / "metrics.jsonl")
        while size(run / "metrics.jsonl") <= before and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "ended before it was killed"
        process.kill()
        process.communicate()
        kills += 1
    script(*arguments, "--name", "r", "--resume", cwd=own)
    assert what_remains(run) == what_remains(own / "runs" / "whole")


@pytest.mark.slow
def test_a_sweep_of_one_s_own_is_extended_and_its_winner_continued(swept: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(swept, tmp_path / "own"))
    script("sweep", *SWEEP[:3], "1", *SWEEP[3:], "--name", "whole", cwd=own)
    script("sweep", *SWEEP[:3], "1", *SWEEP[3:], "--extend", "runs/s", "--name", "more", cwd=own)
    whole, more = (
        [
            {name: value for name, value in row.items() if not name.startswith("test")}
            for row in rows(own / "runs" / name)
        ]
        for name in ("whole", "more")
    )
    assert [row["gamma"] for row in more[::4]] == ["0.0", "1.0", "2.0"]
    for a, b in zip(whole, more, strict=True):
        assert a["filters"] == b["filters"]
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=1e-3)
    again = ["--resume", "--epochs", "3", "--allow-changes", "--quiet"]
    refused = script("train", "runs/s/winner", *again, cwd=own, check=False)
    assert refused.returncode == 1
    assert "not a part of cnnjax: give the preset that defines it with --preset FILE" in refused.stderr
    assert f"it was defined in {swept / 'squeeze.py'}" in refused.stderr
    script("train", "runs/s/winner", "--preset", "squeeze.py", *again, cwd=own)
    lines = (own / "runs" / "s" / "winner" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_data_of_a_preset_s_own_is_asked_for(own: Path) -> None:
    preset = cnnjax.load_preset(str(own / "squeeze.py"))
    with pytest.raises(ValueError, match=r"^data: 'squeeze' is defined by a preset: give preset.dataset\(\)"):
        cnnjax.fit(preset.train)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeeze.py", "cells.py"])
def test_a_preset_that_changed_is_noticed_and_one_that_moved_is_not(name: str, swept: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(swept, tmp_path / "moved"))
    (own / "runs" / "s" / "summary.json").unlink()
    with (own / name).open("a") as file:
        file.write("# changed\n")
    arguments = [*SWEEP, "--name", "s", "--resume"]
    done = script("sweep", *arguments, cwd=own, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"preset.{name} " in done.stderr
    shutil.copy(OWN / name, own / name)
    assert "runs/s" in script("sweep", *arguments, cwd=own).stdout


@pytest.mark.slow
def test_a_part_that_only_one_alternative_has_is_no_axis(own: Path) -> None:
    """Adam has a schedule, and the optimizer that it is compared with has none."""
    (own / "mine.py").write_text(
        "from cnnjax import MLPConfig, TrainConfig\nfrom squeeze import Signs, data\n"
        "train = TrainConfig(MLPConfig((4,)), Signs(), epochs=1)\n"
    )
    plan = ["mine.py", "--optimizer", "signs", "adam", "--plan"]
    without, given = (script("sweep", *plan, *more, cwd=own).stdout for more in ([], ["--schedule", "step", "cosine"]))
    assert "2 points" in without
    assert "schedule" not in without
    assert "3 points" in given
    assert "schedule: programs" in given


@pytest.mark.slow
def test_regression_is_ranked_by_a_metric_of_its_own(own: Path) -> None:
    done = script("sweep", "angle.py", "--learning-rate", "0.003", "0.03", "--name", "s", "--quiet", cwd=own)
    table = done.stdout.splitlines()
    assert "valid degrees" in table[0]
    assert table[1].split()[1] == "0.03"
    assert "%" not in table[1]
    found = rows(own / "runs" / "s")
    best = [float(row["test_degrees"]) for row in found if row["test_degrees"]]
    assert len(best) == 2
    assert max(best) < 10  # guessing is 45 degrees off
    summary = json.loads((own / "runs" / "s" / "summary.json").read_text())
    assert summary["best"]["test_degrees"]["mean"] == pytest.approx(sum(best) / 2)
    lines = (own / "runs" / "s" / "metrics.jsonl").read_text().splitlines()
    assert {"train_degrees", "valid_degrees"} < json.loads(lines[0]).keys()
    assert script("train", "angle.py", "--epochs", "1", cwd=own).stdout.count("test degrees") == 1


HEAD = (
    "import jax, numpy as np\nfrom functools import partial\nfrom cnnjax import *\nfrom cnnjax.options import Config\n"
)
TRAIN = "train = TrainConfig({}, epochs=1)\n"
NET = """
@config
class Net(NetworkConfig):
    value: {kind} = {value}
    module = CNN
    def build(self, rngs, example, outputs):
        return CNN(example.shape[1:], outputs, filters=(2,), rngs=rngs)
"""
BAD_PRESETS = {
    "no train": ("", "mine.py: `train` must be a cnnjax.TrainConfig"),
    "train is a class": ("train = TrainConfig", "mine.py: `train` must be a cnnjax.TrainConfig"),
    "a class for a part": (TRAIN.format("CNNConfig"), "mine.py: ValueError: network: the class CNNConfig: must be a"),
    "no part": (TRAIN.format("5"), "mine.py: ValueError: network: 5: must be a NetworkConfig"),
    "a module for a network": (TRAIN.format("CNN"), "network: the class CNN: must be a NetworkConfig"),
    "another part": (TRAIN.format("CNNConfig(), Cosine()"), "optimizer: Cosine(warmup=0.0): must be an Optimizer"),
    "undecorated": (
        "class Mine(CNNConfig):\n    more: int = 1\n" + TRAIN.format("Mine()"),
        "mine.py: TypeError: Mine: decorate the class with @cnnjax.config",
    ),
    "an array": (
        NET.format(kind="object", value="None") + TRAIN.format("Net(np.zeros(3))"),
        "value: an array float64[3]: a field must be a number (annotated as float) or static",
    ),
    "a lambda": (
        NET.format(kind="object", value="None") + TRAIN.format("Net(lambda x: x)"),
        "not a module-level function: a field must be a number",
    ),
    "a partial": (
        NET.format(kind="object", value="None") + TRAIN.format("Net(partial(max, 1))"),
        "not a module-level function: a field must be a number",
    ),
    "a dictionary": (
        NET.format(kind="object", value="None") + TRAIN.format("Net({'a': 1})"),
        "value: {'a': 1}: a field",
    ),
    "a number as an integer": (
        NET.format(kind="int", value="number(1)"),
        "Net.value: a number must be annotated as float",
    ),
    "a word for a number": (
        NET.format(kind="float", value="1.0") + TRAIN.format("Net('x')"),
        "value: 'x': must be a number",
    ),
    "a wrong signature": (
        "@config\nclass Mine(Loss):\n    def __call__(self, logits):\n        return logits.sum(-1)\n"
        + TRAIN.format("CNNConfig(), loss=Mine()"),
        "loss Mine: called with (logits, labels): TypeError: ",
    ),
    "a loss of the batch": (
        "@config\nclass Mine(Loss):\n    def __call__(self, logits, labels):\n        return logits.sum()\n"
        + TRAIN.format("CNNConfig(), loss=Mine()"),
        "loss Mine: called with (logits, labels): returned [], expected one number per example, [64]",
    ),
    "a network of another shape": (
        "from flax import nnx\nclass M(nnx.Module):\n"
        "    def __init__(self, shape, classes, *, rngs):\n        self.d = nnx.Linear(shape[-1], 3, rngs=rngs)\n"
        "    def __call__(self, x):\n        return self.d(x)\n"
        "@config\nclass Net(NetworkConfig):\n    module = M\n" + TRAIN.format("Net()"),
        "network Net: called with (inputs): returned [64, 8, 8, 3], expected an array [64, 10]",
    ),
    "data that is None": (
        "data = None\n" + TRAIN.format("CNNConfig()"),
        "mine.py: `data` is NoneType: must be a cnnjax.Dataset",
    ),
    "data that is none": (
        "data = 5\n" + TRAIN.format("CNNConfig()"),
        "mine.py: `data` is int: must be a cnnjax.Dataset, or a",
    ),
}


@pytest.mark.parametrize(
    "name", [n if n == "undecorated" else pytest.param(n, marks=pytest.mark.slow) for n in BAD_PRESETS]
)
def test_a_bad_preset_is_reported_in_one_line(name: str, tmp_path: Path, figure: Callable[..., None]) -> None:
    source, message = BAD_PRESETS[name]
    (tmp_path / "mine.py").write_text(HEAD + source)
    figure(BAD_INPUT, 1, mistake("train", "mine.py", cwd=tmp_path, code=2, message=message))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_data_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    for body, message in (
        ("    return 5\n", "mine.py: data() returned int: it must return a cnnjax.Dataset"),
        ("    return 1 / 0\n", "mine.py: data(): ZeroDivisionError: division by zero"),
        ("    return Dataset.of('d', 'ab', Split(np.zeros((9, 4, 1)), np.arange(9)))\n", "example 2 has label 2"),
    ):
        (tmp_path / "mine.py").write_text(HEAD + "def data():\n" + body + TRAIN.format("MLPConfig()"))
        mistake("train", "mine.py", cwd=tmp_path, code=1, message=message)


@pytest.mark.slow
def test_two_fields_of_one_name_are_written_with_their_paths(own: Path) -> None:
    (own / "two.py").write_text(
        HEAD
        + "@config\nclass Drop(Augmentation):\n    p: float = 0.1\n    def __call__(self, key, batch):\n        return batch\n"
        + "train = TrainConfig(CNNConfig(filters=(2,)), augment=(Flip(), Drop()), epochs=1)\n"
    )
    message = "p: ambiguous: use --augment.flip.p or --augment.drop.p"
    mistake("train", "two.py", "--p", "0.3", cwd=own, code=2, message=message)
    script("sweep", "two.py", "--flip.p", "0.3", "0.5", "--drop.p", "1", "--seeds", "1", "--name", "s", cwd=own)
    assert [row["augment.flip.p"] for row in rows(own / "runs" / "s")] == ["0.3", "0.5"]
    config = json.loads((own / "runs" / "s" / "config.json").read_text())
    assert config["base"]["augment"][1]["p"] == 1.0


HOSTILE = [
    "os:system",
    "os.system",
    "/tmp/evil.py",
    "subprocess.Popen",
    "cnnjax.runs.environment.subprocess",
    "posix.system",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_runs_nothing(name: str, tmp_path: Path, figure: Callable[..., None]) -> None:
    script("train", "digits", "--filters", "2", "--epochs", "1", "--name", "r", "--quiet", cwd=tmp_path)
    path = tmp_path / "runs" / "r" / "config.json"
    whole = json.loads(path.read_text())
    for described in (
        {"class": name, "command": "touch pwned"},
        {"function": name},
        {"enum": name, "name": "touch pwned"},
    ):
        path.write_text(json.dumps({**whole, "loss": described}))
        done = script("train", "runs/r", "--resume", cwd=tmp_path, check=False)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "runs/r/config.json: " in done.stderr
        with pytest.raises(RecordError):
            cnnjax.load_run(path.parent)
    assert not (tmp_path / "pwned").exists()
    figure("hostile configurations refused, running nothing", 3)


@pytest.mark.slow
def test_a_lane_of_one_s_own_equals_the_single_run(own: Path) -> None:
    from cnnjax.sweeps import compile_program, plan, trials
    from cnnjax.training import Lanes, fit_task, make_task
    from cnnjax.training import train as trained

    defined = parts(own)
    dataset = defined["data"]()
    train = cnnjax.options.with_values(defined["train"], {"epochs": 1, "filters": (4,), "dropout": 0.1})
    axes = (
        ("gamma", (0.5, 2.0)),
        ("gate", (0.3, 1.0)),
        ("scale", (0.1, 0.2)),
        ("dropout", (0.1, 0.4)),
        ("cells", (0.0, 1.0)),
    )
    zipped = (tuple(name for name, _ in axes),)
    [program] = plan(trials(cnnjax.SweepConfig(train, axes, 1, zipped)), Lanes(1, 1))
    [together] = trained(compile_program(program, dataset))
    for row, trial in enumerate(program.trials):
        [alone] = fit_task(make_task(trial.config, dataset.spec), jax.random.key(trial.config.seed), dataset, 1)
        for a, b in zip(jax.tree.leaves(together.state), jax.tree.leaves(alone.state), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[row], b)


def test_a_preset_is_named_by_a_string_or_a_path(own: Path) -> None:
    assert cnnjax.load_preset(own / "squeeze.py").name == "squeeze"
    for name in (3, None, b"digits"):
        with pytest.raises(TypeError, match=rf"^name: {re.escape(repr(name))}: must be the name of a preset or a path"):
            cnnjax.load_preset(name)  # type: ignore[arg-type]
