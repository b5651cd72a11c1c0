"""What becomes of runs that are killed, interrupted, damaged, or out of space: real processes, with figures."""

import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import BAD_INPUT, ROOT, Process, images, mistake, prepare, script
from PIL import Image

import cnnjax
from cnnjax.runs import CheckpointError

pytestmark = pytest.mark.slow

Figure = Callable[..., None]
ONE = ["--lanes", "1:1", "--save-seconds", "0", "--quiet"]
TRAIN = ["train", "digits", "--filters", "4,8", "--batch-norm", "--dropout", "0.1", "--epochs", "40", *ONE]
SWEEP = [
    *["sweep", "digits", "--filters", "4", "6", "--learning-rate", "0.01", "0.1", "1e30", "--seeds", "4"],
    *["--epochs", "12", "--pack", "shapes", *ONE],
]


HALVING = [*SWEEP, "--search", "halving", "--pack", "one"]
PROPOSED = [
    *["sweep", "digits", "--learning-rate", "log:1e-3:1", "--filters", "4", "6", "--seeds", "2", "--search", "tpe"],
    *["--points", "12", "--batch-points", "4", "--epochs", "8", *ONE],
]


def until(condition: Callable[[], bool], process: Process | subprocess.Popen[str]) -> None:
    """Waits for a condition, or for the process to end."""
    while not condition() and process.poll() is None:
        time.sleep(0.01)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def what_remains(folder: Path) -> dict[str, object]:
    """All that a run leaves behind but clock times: records and tables as bytes, checkpoints by their digests."""
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    manifests = {
        str(path.relative_to(folder)): {
            name: json.loads(path.read_text())[name] for name in ("arrays", "step", "metric")
        }
        for path in folder.glob("checkpoints/*/*/manifest.json")
    }
    tables = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".jsonl", ".csv")}
    return {**tables, **manifests, "summary": summary, "config": (folder / "config.json").read_bytes()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[str]], dict[str, object]]]:
    """What remains of the run that nothing stopped."""
    known: dict[str, dict[str, object]] = {}

    def uninterrupted(arguments: list[str]) -> dict[str, object]:
        name = " ".join(arguments)
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            script(*arguments, "--name", "r", cwd=folder)
            known[name] = what_remains(folder / "runs" / "r")
        return known[name]

    return uninterrupted


def killed_and_resumed(arguments: list[str], kills: int, folder: Path, rng: random.Random, longest: float) -> Path:
    """Kills a run and goes on with it again and again, at random moments after it began to train; returns its folder."""
    run, done = folder / "runs" / "r", 0
    while True:
        process = Process(*arguments, "--name", "r", "--resume", cwd=folder)
        before = size(run / "metrics.jsonl")
        if done < kills:
            until(lambda before=before: size(run / "metrics.jsonl") > before, process)
            time.sleep(rng.uniform(0, longest))
            if process.poll() is None:
                process.kill()
                process.communicate()
                done += 1
                continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        if done == kills:
            return run
        shutil.rmtree(run)  # it ended before its kill: another


def seeds(count: int, once: int) -> list[object]:
    """Seeds of moments to kill at; those from `once` on repeat the test, for `-m soak`."""
    return [pytest.param(n, marks=[pytest.mark.soak] if n >= once else []) for n in range(count)]


@pytest.mark.parametrize("seed", seeds(10, once=4))
def test_training_that_was_killed_ends_as_if_it_was_not(
    seed: int, tmp_path: Path, reference: Callable[[list[str]], dict[str, object]], figure: Figure
) -> None:
    figure("SIGKILLs while training resumed bit-identical", 5)
    run = killed_and_resumed(TRAIN, 5, tmp_path, random.Random(seed), 0.8)
    assert what_remains(run) == reference(TRAIN)


@pytest.mark.parametrize("seed", seeds(2, once=1))
@pytest.mark.parametrize("arguments", [HALVING, PROPOSED], ids=["halving", "tpe"])
def test_a_search_that_was_killed_ends_as_if_it_was_not(
    arguments: list[str],
    seed: int,
    tmp_path: Path,
    reference: Callable[[list[str]], dict[str, object]],
    figure: Figure,
) -> None:
    figure("SIGKILLs of a sweep by halving or Optuna: the same table", 5)
    run = killed_and_resumed(arguments, 5, tmp_path, random.Random(seed), 0.8)
    assert what_remains(run) == reference(arguments)


@pytest.mark.parametrize("seed", seeds(5, once=2))
def test_a_killed_sweep_ends_with_the_same_table(
    seed: int, tmp_path: Path, reference: Callable[[list[str]], dict[str, object]], figure: Figure
) -> None:
    figure("SIGKILLs of a sweep of 24 trials: the same table, no trial missing or doubled", 4)
    run = killed_and_resumed(SWEEP, 4, tmp_path, random.Random(seed), 1.0)
    assert what_remains(run) == reference(SWEEP)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({(row["trial"], row["epoch"]) for row in rows}) == len(rows) == 16 * 12 + 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(
    number: signal.Signals, tmp_path: Path, reference: Callable[[list[str]], dict[str, object]], figure: Figure
) -> None:
    arguments, run = [*TRAIN, "--name", "r", "--resume"], tmp_path / "runs" / "r"
    taken = []
    for wait in (0.0, 0.3, 0.7):
        process = Process(*arguments, cwd=tmp_path)
        before = size(run / "metrics.jsonl")
        until(lambda before=before: size(run / "metrics.jsonl") > before, process)
        time.sleep(wait)
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate()
        taken.append(time.monotonic() - sent)
        assert process.returncode == 128 + number, errors
        assert errors.startswith("interrupted: runs/r: saved at step ")
        assert len(errors.splitlines()) == 1
        assert shlex.split(errors.partition("continue with: ")[2])[2:] == arguments[1:]
    script(*arguments, cwd=tmp_path)
    assert what_remains(run) == reference(TRAIN)
    figure("SIGINTs and SIGTERMs saved and ended with 128 + number, resumed bit-identical", 3, max(taken))


def test_a_run_that_is_complete_is_left_alone(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--filters", "4", "--epochs", "1", "--name", "r", "--resume"]
    first = script(*arguments, cwd=tmp_path)
    assert "test accuracy" in first.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    assert script(*arguments, cwd=tmp_path).stdout == "loading digits\nruns/r is complete\n"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


def test_two_processes_on_one_folder(tmp_path: Path, figure: Figure) -> None:
    first = Process(*TRAIN, "--name", "r", cwd=tmp_path)
    until((tmp_path / "runs" / "r" / ".lock").exists, first)
    second = script(*TRAIN, "--name", "r", "--resume", cwd=tmp_path, check=False)
    assert (second.returncode, second.stderr) == (
        1,
        "error: run folder runs/r: used by another process: wait for it, or choose another --name\n",
    )
    first.kill()
    first.communicate()
    assert script(*TRAIN, "--name", "r", "--resume", cwd=tmp_path).returncode == 0
    figure("second processes on one folder refused in one line; the lock goes with its process")


# ------------------------------------------------------------------------- disks


def in_a_mount(commands: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs shell commands that may mount, in a namespace of their own."""
    own = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    done = subprocess.run([*own, "sh", "-c", commands], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert "unshare" not in done.stderr, f"these tests mount a small disk: {done.stderr}"
    return done


def command(*arguments: str) -> str:
    return " ".join([sys.executable, "-W", "error", str(ROOT / "experiments" / f"{arguments[0]}.py"), *arguments[1:]])


SHORT = ["train", "digits", "--filters", "4", "--epochs", "12", "--keep-latest", "99", *ONE, "--name", "r", "--resume"]


@pytest.mark.parametrize(
    ("before", "during", "after", "message"),
    [
        ("mount -t tmpfs -o size=300k tmpfs runs", "", "mount -o remount,size=64m runs", "No space left"),
        (
            "mount -t tmpfs tmpfs runs",
            "until [ -e runs/r/checkpoints/0/38 ]; do :; done; until mount -o remount,ro runs 2> /dev/null; do :; done",
            "mount -o remount,rw runs",
            "Read-only file system",
        ),
    ],
    ids=["full", "read-only"],
)
def test_a_disk_that_takes_no_more(
    before: str, during: str, after: str, message: str, tmp_path: Path, figure: Figure
) -> None:
    (tmp_path / "runs").mkdir()
    run, again = command(*SHORT), command(*SHORT)
    done = in_a_mount(
        f"{before} && {{ {run} & }}; {during or ':'}; wait $!; echo code $?; ls runs/r/checkpoints/0; {after} && {again} "
        "&& echo resumed && cp -r runs kept",
        tmp_path,
    )
    errors = done.stderr.splitlines()
    assert done.stdout.startswith("code 1\n"), done
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: runs/r/")
    assert message in errors[0]
    assert "resumed" in done.stdout, done
    script(*SHORT, cwd=tmp_path)
    assert what_remains(tmp_path / "kept" / "r") == what_remains(tmp_path / "runs" / "r")
    figure("disks that take no more (full, read-only): exit 1 naming the file, resumed bit-identical")


def test_a_folder_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    done = in_a_mount(f"mount -t tmpfs -o ro tmpfs runs; {command(*SHORT)}; echo code $?", tmp_path)
    assert done.stdout == "code 1\n"
    assert done.stderr.startswith(
        "error: no run folder in runs: runs/r: Read-only file system: choose another --runs-dir"
    )


def test_a_folder_that_is_removed_under_a_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    process = Process(*TRAIN, "--name", "r", cwd=tmp_path)
    until(lambda: size(run / "metrics.jsonl") > 0, process)
    run.rename(tmp_path / "elsewhere")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: runs/r/")
    assert len(errors.splitlines()) == 1
    assert all(map(json.loads, (tmp_path / "elsewhere" / "metrics.jsonl").read_text().splitlines()))


# ------------------------------------------------------------------------- a run in other code


def test_a_run_is_loaded_in_a_line(tmp_path: Path) -> None:
    """Its logits are those that `summary.json` was measured with."""
    script("sweep", "digits", *SWEEP[2:], "--name", "s", cwd=tmp_path)
    folder, test = tmp_path / "runs" / "s", cnnjax.load("digits").test
    summary = json.loads((folder / "summary.json").read_text())
    rows = {int(line.split(",")[0]): line for line in (folder / "trials.csv").read_text().splitlines()[1:]}
    trained = cnnjax.load_run(folder)
    winner = summary["best"]["point"]
    assert trained.config.network.filters == tuple(map(int, str(winner["filters"]).split(",")))
    assert trained.config.optimizer.learning_rate == winner["learning_rate"]
    assert trained.classes == tuple("0123456789")
    accuracy = float((trained.logits(test.inputs).argmax(-1) == test.labels).mean())
    tested = [float(row.split(",")[-1]) for row in rows.values() if row.split(",")[-1]]
    assert accuracy == pytest.approx(tested[0])
    other = cnnjax.load_run(folder, trial=0)
    assert other.config.network.filters == (4,)
    assert not np.allclose(other.logits(test.inputs), trained.logits(test.inputs))
    with pytest.raises(ValueError, match=r"trial: 24: must be a trial of .*, which has 0 to 23"):
        cnnjax.load_run(folder, trial=24)
    with pytest.raises(ValueError, match=r"images: float32\[1, 8, 8, 1\]: .* uint8\[batch, 8, 8, 1\]"):
        trained.logits(np.zeros((1, 8, 8, 1), np.float32))
    for manifest in folder.glob("checkpoints/*/*/manifest.json"):
        manifest.write_text("{}")
    with pytest.raises(CheckpointError), pytest.warns(UserWarning, match="manifest.json: damaged"):
        cnnjax.load_run(folder)


# ------------------------------------------------------------------------- bad input


BASE = ["digits", "--filters", "4", "--epochs", "2", *ONE, "--name", "r", "--resume"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that lacks its end."""
    folder = tmp_path_factory.mktemp("stopped")
    script("train", *BASE, cwd=folder)
    (folder / "runs" / "r" / "summary.json").unlink()
    return folder / "runs"


def edited(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        value = json.loads((run / name).read_text())
        for path, new in changes.items():
            *parents, last = path.split("__")
            inner = value
            for parent in parents:
                inner = inner[parent]
            inner[last] = new
        (run / name).write_text(json.dumps(value))

    return edit


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def write(run: Path) -> None:
        for path in filter(Path.is_file, run.glob(name)):
            path.write_bytes(content)

    return write


def twice(run: Path) -> None:
    first, *_ = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(first * 2)


def nothing(run: Path) -> None:
    """Leaves a run folder as it is."""


PICKLE = b"cos\nsystem\n(S'touch pwned'\ntR."
NESTED = b"[" * 100_000
DAMAGED: dict[str, tuple[Callable[[Path], object], list[str], int, str]] = {
    "another rate": (
        lambda run: None,
        ["--learning-rate", "0.2"],
        2,
        "runs/r was started with other settings: optimizer.learning_rate 0.1 there, 0.2 here",
    ),
    "more epochs": (nothing, ["--epochs", "3"], 2, "epochs 2 there, 3 here"),
    "other filters": (nothing, ["--filters", "8"], 2, "network.filters 4 there, 8 here"),
    "another format": (edited("config.json", format=1), [], 1, "config.json: format 1, written by cnnjax 0.1"),
    "a later format": (edited("data.json", format=9), [], 1, "data.json: format 9, written by another version"),
    "another version": (edited("env.json", packages__jax="0.1"), [], 2, "packages.jax 0.1 there"),
    "another source": (edited("env.json", source="0" * 64), [], 2, "source 000000000000... there"),
    "another device": (edited("env.json", device="gpu: A100"), [], 2, "device gpu: A100 there"),
    "other data": (edited("data.json", sha256="0" * 64), [], 2, "sha256 000000000000... there"),
    "no name": (nothing, ["--name", "none"], 2, "resume: give the --name of the run to continue"),
    "torn config": (written("config.json", b'{"data": "di'), [], 1, "runs/r/config.json: damaged"),
    "config of bytes": (written("config.json", PICKLE), [], 1, "runs/r/config.json: damaged"),
    "config too deep": (written("config.json", NESTED), [], 1, "runs/r/config.json: damaged"),
    "config of a number": (
        written("config.json", b"1"),
        [],
        1,
        "runs/r/config.json: damaged: must be a JSON object, not int",
    ),
    "torn env": (written("env.json", b"{"), [], 1, "runs/r/env.json: damaged"),
    "env of a list": (written("env.json", b"[]"), [], 1, "runs/r/env.json: damaged: must be a JSON object, not list"),
    "torn data": (written("data.json", b""), [], 1, "runs/r/data.json: damaged"),
    "torn plan": (written("plan.json", b'{"programs": ['), [], 1, "runs/r/plan.json: damaged"),
    "plan of pickles": (written("plan.json", PICKLE), [], 1, "runs/r/plan.json: damaged"),
    "plan too deep": (written("plan.json", NESTED), [], 1, "runs/r/plan.json: damaged"),
    "plan of others": (
        edited("plan.json", programs=[{"lanes": "1:1", "micro_batch": 0, "trials": [0, 1]}]),
        [],
        2,
        "not a plan of these 1 trials",
    ),
    "plan of no trial": (edited("plan.json", programs=[]), [], 2, "does not contain exactly the"),
    "plan of a giant": (
        edited("plan.json", programs=[{"lanes": "1:99999999999999999999", "micro_batch": 0, "trials": [0]}]),
        [],
        2,
        "plan.json",
    ),
    "a line that is none": (written("metrics.jsonl", b"x\n{}\n"), [], 1, "runs/r/metrics.jsonl: line 1 is damaged"),
    "no lines": (
        written("metrics.jsonl", b""),
        [],
        1,
        "runs/r/metrics.jsonl: lines of trial 0 before its checkpoint are missing",
    ),
    "lines of others": (
        written(
            "metrics.jsonl",
            b'{"trial": 7, "epoch": 1, "step": 19, "train_loss": 1, "train_accuracy": 1, "valid_loss": 1, "valid_accuracy": 1}\n',
        ),
        [],
        1,
        "lines of trial 0 before its checkpoint are missing",
    ),
    "a line twice": (twice, [], 1, "lines of trial 0 before its checkpoint are missing"),
    "a line of words": (
        written("metrics.jsonl", b'{"trial": 0, "epoch": "1"}\n'),
        [],
        1,
        "metrics.jsonl: line 1 is damaged: fields are missing or have the wrong type",
    ),
    "a summary of nothing": (
        lambda run: (run / "summary.json").write_bytes(b"null"),
        [],
        1,
        "runs/r/summary.json: damaged",
    ),
    "parts that do not divide": (
        edited("plan.json", programs=[{"lanes": "1:1", "micro_batch": 7, "trials": [0]}]),
        [],
        2,
        "plan.json: micro_batch: 7: must divide",
    ),
    "lines too deep": (written("metrics.jsonl", NESTED + b"\n1\n"), [], 1, "line 1 is damaged"),
    "no checkpoint is sound": (written("checkpoints/0/*/manifest.json", b"{}"), [], 1, "can be used: "),
    "manifests of pickles": (written("checkpoints/0/*/manifest.json", PICKLE), [], 1, "can be used: "),
    "manifests too deep": (written("checkpoints/0/*/manifest.json", NESTED), [], 1, "can be used: "),
    "arrays of pickles": (written("checkpoints/0/*/state/*", PICKLE), [], 1, "can be used: "),
    "metadata of pickles": (written("checkpoints/0/*/state/_METADATA", PICKLE), [], 1, "can be used: "),
    "checkpoints are a file": (
        lambda run: shutil.rmtree(run / "checkpoints") or (run / "checkpoints").touch(),
        [],
        1,
        "runs/r/checkpoints",
    ),
    "seconds below 0": (nothing, ["--save-seconds", "-1"], 2, "save_seconds: -1.0: must be at least 0"),
    "no seconds": (nothing, ["--save-seconds", "nan"], 2, "save_seconds: nan: must be at least 0"),
    "none kept": (nothing, ["--keep-latest", "0"], 2, "keep_latest: 0: must be at least 1"),
    "fewer kept": (nothing, ["--keep-best", "-1"], 2, "keep_best: -1: must be at least 0"),
}


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def giant() -> bytes:
    """A picture of a billion pixels in 122 kB: the header of one, over too little data."""
    size, kind = (32_000).to_bytes(4, "big") * 2, bytes([1, 0, 0, 0, 0])

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    lines = zlib.compress(bytes(4001) * 32_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + kind) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


PICTURES = {
    "truncated": lambda whole: whole[:-30],
    "emptied": lambda whole: b"",
    "text": lambda whole: b"not a picture",
    "pickle": lambda whole: PICKLE,
    "colours": lambda whole: png(np.zeros((28, 28, 3), np.uint8)),
    "wider": lambda whole: png(np.zeros((28, 30), np.uint8)),
    "a billion pixels": lambda whole: giant(),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_none_is_named(name: str, tmp_path: Path, figure: Figure) -> None:
    rows = images((28, 28, 1), 40)
    rows[7]["image"] = PICTURES[name](png(rows[7]["image"][..., 0]))
    prepare(tmp_path, "mnist", {"train": rows}, (28, 28, 1))
    arguments = ["mnist", "--data-dir", str(tmp_path), "--name", "r"]
    figure(BAD_INPUT, 1, mistake("train", *arguments, cwd=tmp_path, code=1, message="mnist-train"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", DAMAGED)
def test_a_run_folder_that_cannot_be_gone_on_with(name: str, stopped: Path, tmp_path: Path, figure: Figure) -> None:
    damage, more, code, message = DAMAGED[name]
    shutil.copytree(stopped, tmp_path / "runs")
    damage(tmp_path / "runs" / "r")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    seconds = mistake("train", *BASE, *more, cwd=tmp_path, code=code, message=message)
    assert not (tmp_path / "pwned").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before
    figure(BAD_INPUT, 1, seconds)


def test_changes_can_be_asked_for(stopped: Path, tmp_path: Path) -> None:
    """Of a run that is complete as well; what comes out is as sound as any."""
    shutil.copytree(stopped, tmp_path / "runs")
    script("train", *BASE, cwd=tmp_path)
    script("train", *BASE, "--epochs", "3", "--allow-changes", cwd=tmp_path)
    rows = (tmp_path / "runs" / "r" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
    assert json.loads((tmp_path / "runs" / "r" / "config.json").read_text())["epochs"] == 3
    assert cnnjax.load_run(tmp_path / "runs" / "r").config.epochs == 3
    assert script("train", *BASE, "--epochs", "3", cwd=tmp_path).stdout.endswith("runs/r is complete\n")


def test_fewer_epochs_than_trained_are_refused(stopped: Path, tmp_path: Path, figure: Figure) -> None:
    shutil.copytree(stopped, tmp_path / "runs")
    arguments, message = (
        [*BASE, "--epochs", "1", "--allow-changes"],
        "epochs: 1: must be at least 2: runs/r/checkpoints/0/38 is of epoch 2",
    )
    figure(BAD_INPUT, 1, mistake("train", *arguments, cwd=tmp_path, code=2, message=message))


def test_a_sweep_resumes_after_damage_with_less_memory_and_without_its_plan(
    tmp_path: Path, reference: Callable[[list[str]], dict[str, object]]
) -> None:
    """Its first program falls back, what came after is trained again, and that is killed once more."""
    run = tmp_path / "runs" / "r"
    script(*SWEEP, "--name", "r", cwd=tmp_path)
    (run / "summary.json").unlink()
    first = run / "checkpoints" / "0"
    newest = max(first.iterdir(), key=lambda path: int(path.name))
    (newest / "manifest.json").write_bytes(b"")
    process = Process(*SWEEP, "--name", "r", "--resume", cwd=tmp_path)
    until((run / "checkpoints" / "1" / "19").exists, process)
    process.kill()
    process.communicate()
    (run / "plan.json").unlink()
    script(*SWEEP, "--name", "r", "--resume", "--memory", "0.003", cwd=tmp_path)
    assert what_remains(run) == reference(SWEEP)
    assert [len(entry["trials"]) for entry in json.loads((run / "plan.json").read_text())["programs"]] == [12, 12]


def test_a_torn_last_line_is_repaired(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "runs")
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole + whole[: len(whole) // 3])
    script("train", *BASE, cwd=tmp_path)
    assert metrics.read_bytes() == whole


def test_a_damaged_checkpoint_costs_one_line_and_no_number(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path / "runs")
    run = tmp_path / "runs" / "r"
    whole = (run / "metrics.jsonl").read_bytes()
    newest = max((run / "checkpoints" / "0").iterdir(), key=lambda path: int(path.name))
    (newest / "manifest.json").write_bytes(b"")
    arguments = [argument for argument in BASE if argument != "--quiet"]
    done = script("train", *arguments, cwd=tmp_path)
    told = [line for line in done.stdout.splitlines() if "damaged" in line]
    assert told == [
        f"runs/r/checkpoints/0/{newest.name}/manifest.json: damaged: Expecting value: line 1 column 1 (char 0); using the one before it"
    ]
    assert (run / "metrics.jsonl").read_bytes() == whole


def test_a_damaged_cache_changes_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of data and of compiled programs."""
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    script("train", *BASE, cwd=tmp_path)
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    script("train", *BASE[:-3], "--name", "again", cwd=tmp_path)
    runs = tmp_path / "runs"
    assert (runs / "r" / "metrics.jsonl").read_bytes() == (runs / "again" / "metrics.jsonl").read_bytes()
