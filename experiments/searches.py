"""Compares packings, halving, Optuna and the predictions of --plan, by running whole sweep commands."""

import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

SWEEP = Path(__file__).parent / "sweep.py"
RATES = "0.01 0.03 0.1 0.3"
FILTERS = "4,8 6,12 8,16 12,24 16,32 20,40 24,48 32,64"
MNIST = "--batch-size 128 --momentum 0.9 --weight-decay 5e-4"


@dataclass(frozen=True)
class Arguments:
    """The comparisons to run."""

    what: tuple[Literal["packing", "halving", "optuna", "plan"], ...] = ("packing", "halving", "optuna", "plan")
    """comparisons to run (on two cores: minutes for packing and plan, a quarter of an hour each for the others)"""
    data_dir: Path | None = None
    """directory of prepared TensorFlow Datasets data (MNIST, for halving, optuna and plan)"""
    rounds: int = 3
    """number of timings of each packing, and of repeats of TPE and random search"""
    runs_dir: Path | None = None
    """directory to keep run folders in; by default they are removed"""


class Ran(NamedTuple):
    """The outcome of a sweep command."""

    seconds: float
    summary: dict[str, Any]
    trials: list[dict[str, str]]
    printed: str


def ran(name: str, arguments: str, runs: Path, data_dir: Path | None) -> Ran:
    """Runs `sweep.py`, and reads its records."""
    where = ["--data-dir", str(data_dir)] if data_dir else []
    command = [sys.executable, str(SWEEP), *arguments.split(), *where, "--runs-dir", str(runs), "--name", name]
    began = time.perf_counter()
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    if "--plan" in arguments:
        return Ran(seconds, {}, [], done.stdout)
    rows = list(csv.DictReader((runs / name / "trials.csv").read_text().splitlines()))
    return Ran(seconds, json.loads((runs / name / "summary.json").read_text()), rows, done.stdout)


def means(rows: Sequence[dict[str, str]], seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean validation accuracy of each point, and its standard error."""
    values = np.array([float(row["valid_accuracy"] or "nan") for row in rows]).reshape(-1, seeds)
    return values.mean(1), values.std(1, ddof=1) / np.sqrt(seeds)


def packing(runs: Path, rounds: int) -> None:
    """Times the packings in turns, and compares their results."""
    seconds: dict[str, list[float]] = {}
    found = {}
    for turn in range(rounds):
        for pack in ("shapes", "buckets", "one", "auto"):
            how = f"digits --learning-rate {RATES} --filters {FILTERS} --seeds 4 --pack {pack} --no-compilation-cache"
            found[pack] = ran(f"{pack}-{turn}", how, runs, None)
            seconds.setdefault(pack, []).append(found[pack].seconds)
    print(f"packing: 4 rates x 8 filter counts x 4 seeds on digits, 30 epochs, seconds in {rounds} turns (median)")
    wholes = {pack: means(ran.trials, 4) for pack, ran in found.items()}
    mean, error = wholes["shapes"]
    for pack, times in seconds.items():
        apart = np.abs(wholes[pack][0] - mean) / np.hypot(error, wholes[pack][1]).clip(1e-9)
        print(
            f"  {pack:8s} {np.median(times):6.1f} ({' '.join(f'{t:.1f}' for t in times)}); the means of {len(mean)} "
            f"points differ from those of shapes by at most {apart.max():.2f} standard errors"
        )


def halving(runs: Path, data_dir: Path | None) -> None:
    """Compares the winner and the work of halving with those of the full grid."""
    grid = "mnist --learning-rate 0.003 0.01 0.03 0.1 --filters 2,4 4,8 6,16 --epochs 9 --seeds 3 " + MNIST
    whole, half = (ran(name, f"{grid} --search {name}", runs, data_dir) for name in ("all", "halving"))
    best = {name: ran.summary["best"] for name, ran in (("all", whole), ("halving", half))}
    epochs = {name: sum(int(row["epochs"]) for row in ran.trials) for name, ran in (("all", whole), ("halving", half))}
    mean, spread = (best["all"]["valid_accuracy"][key] for key in ("mean", "std"))
    apart = (mean - best["halving"]["valid_accuracy"]["mean"]) / (spread / np.sqrt(3))
    print("halving: 4 rates x 3 filter counts x 3 seeds of LeNet-5 on MNIST, 9 epochs")
    for name, ran_ in (("all", whole), ("halving", half)):
        accuracy = best[name]["valid_accuracy"]
        print(
            f"  {name:8s} {best[name]['point']}: valid {100 * accuracy['mean']:.3f} ± {100 * accuracy['std']:.3f} %, "
            f"{epochs[name]} epochs ({epochs[name] / epochs['all']:.1%}), {ran_.seconds:.0f} s"
        )
    print(f"  the winner of halving is {apart:.2f} standard errors below that of the grid")


def optuna(runs: Path, data_dir: Path | None, rounds: int) -> None:
    """Compares TPE with random search on the same budget."""
    space = (
        "digits --data mnist --pool-size 4 --learning-rate log:1e-3:1 --momentum uniform:0:0.99 "
        "--weight-decay log:1e-6:1e-2 --filters 4,8 8,16 --epochs 1 --batch-size 128 --seeds 1 --points 64"
    )
    print("optuna: 64 points in batches of 16, two convolutions with 4x4 pooling on MNIST, one epoch, one seed")
    for turn in range(rounds):
        for name, how in (("tpe", "--search tpe --batch-points 16"), ("random", "--search all")):
            found = ran(f"{name}-{turn}", f"{space} {how} --seed {1000 * turn}", runs, data_dir)
            best = found.summary["best"]
            over = np.array([float(row["valid_accuracy"] or "nan") for row in found.trials])
            print(
                f"  {name:6s} repeat {turn}: best valid {100 * best['valid_accuracy']['mean']:.2f} %, its test "
                f"{100 * best['test_accuracy']['mean']:.2f} %, median of all {100 * np.nanmedian(over):.2f} %, "
                f"{found.seconds:.0f} s"
            )


def plan(runs: Path, data_dir: Path | None) -> None:
    """Compares the training time that `--plan` predicts with the measured one."""
    for name, arguments in (("digits", "digits"), ("mnist", f"mnist --epochs 3 --filters 6,16 {MNIST}")):
        predicted = ran(f"plan-{name}", f"{arguments} --pack shapes --plan", runs, data_dir)
        found = ran(f"plan-{name}", f"{arguments} --pack shapes", runs, data_dir)
        match = re.search(r"^training ([\d.]+) s", predicted.printed, re.MULTILINE)
        assert match
        seconds = found.summary["seconds"]["train"]
        print(f"plan: {name}: {match[1]} s predicted, {seconds} s of training, ratio {seconds / float(match[1]):.2f}")


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        runs = arguments.runs_dir or Path(folder)
        if "packing" in arguments.what:
            packing(runs, arguments.rounds)
        if "plan" in arguments.what:
            plan(runs, arguments.data_dir)
        if "halving" in arguments.what:
            halving(runs, arguments.data_dir)
        if "optuna" in arguments.what:
            optuna(runs, arguments.data_dir, arguments.rounds)


if __name__ == "__main__":
    main()
