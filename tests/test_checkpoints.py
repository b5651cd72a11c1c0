"""Laws of checkpoints: what is restored is what was saved, to the bit, or one line says why not."""

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import (
    SGD,
    Adam,
    AdamW,
    CNNConfig,
    Constant,
    Cosine,
    Flip,
    Linear,
    Lion,
    MLPConfig,
    Muon,
    OneCycle,
    RMSprop,
    Shift,
    SquaredError,
    Step,
    SweepConfig,
    TrainConfig,
)
from cnnjax.data import Dataset
from cnnjax.runs import CheckpointError, Checkpoints, kept, load
from cnnjax.sweeps import Program, compile_program, plan, state_of, trials
from cnnjax.training import Lanes, parts

Figure = Callable[..., None]
STATE = {
    "weights": np.arange(600, dtype=np.float32).reshape(20, 30),
    "step": np.asarray([3, 4], np.int32),
    "diverged": np.asarray([True, False]),
    "half": jnp.asarray([1.5, -2.0], jnp.bfloat16),
}
LIKE = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), STATE)


def same(a: object, b: object) -> bool:
    def bits(x: np.ndarray, y: np.ndarray) -> bool:
        x, y = np.asarray(x), np.asarray(y)
        return (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())

    return jax.tree.structure(a) == jax.tree.structure(b) and all(map(bits, jax.tree.leaves(a), jax.tree.leaves(b)))


def saved(folder: Path, steps: tuple[int, ...] = (10, 20)) -> None:
    """A folder with a checkpoint for each step."""
    with Checkpoints(folder, "c", latest=len(steps)) as store:
        for step in steps:
            store.save(step, {**STATE, "step": np.asarray([step, step], np.int32)})


def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    poisoned = {**STATE, "weights": np.full((20, 30), np.nan, np.float32)}
    with Checkpoints(tmp_path / "c", "config") as store:
        assert store.restore(LIKE) is None
        store.save(7, STATE, 0.5)
        store.save(9, poisoned, math.nan)
    found = Checkpoints(tmp_path / "c", "config").restore(LIKE)
    assert (found.step, found.metric) == (9, None)
    assert same(found.state, jax.tree.map(np.asarray, poisoned))
    assert same(load(tmp_path / "c" / "7", LIKE).state, jax.tree.map(np.asarray, STATE))


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "FATAL"])
def test_the_caller_logs_as_before(tmp_path: Path, level: str) -> None:
    """With absl, which Orbax logs with; also after states were written and read at the same time."""
    from absl import logging

    before, level = logging.get_verbosity(), getattr(logging, level)
    logging.set_verbosity(level)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(saved, [tmp_path / str(n) for n in range(4)]))
            read = list(pool.map(lambda n: load(tmp_path / str(n % 4) / "20", LIKE), range(8)))
        assert len(read) == 8
        assert logging.get_verbosity() == level
    finally:
        logging.set_verbosity(before)


def test_a_large_state_is_written_while_the_caller_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnjax.runs.checkpoints.LARGE", 1)
    with Checkpoints(tmp_path / "c", "c") as store:
        store.save(1, STATE)
        assert not (tmp_path / "c" / "1").exists()
    assert load(tmp_path / "c" / "1", LIKE).step == 1


def test_an_error_of_a_write_in_the_background_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnjax.runs.checkpoints.LARGE", 1)
    (tmp_path / "c").touch()
    store = Checkpoints(tmp_path / "c", "c")
    store.save(1, STATE)
    with pytest.raises(CheckpointError, match=f"{tmp_path}/c/1: cannot be written: .*File exists"), store:
        pass


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "c", "c") as store:
        store.save(1, STATE)
        store.save(1, {**STATE, "weights": STATE["weights"] + 1})
        assert store.restore(LIKE).state["weights"][0, 0] == 1
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1"]


def test_what_a_killed_process_left_is_ignored_and_cleared(tmp_path: Path) -> None:
    saved(tmp_path / "c", (10,))
    shutil.copytree(tmp_path / "c" / "10", tmp_path / "c" / ".20")
    (tmp_path / "c" / ".20" / "manifest.json").unlink()
    with Checkpoints(tmp_path / "c", "c") as store:
        assert store.restore(LIKE).step == 10
        store.save(30, STATE)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["10", "30"]


def test_best_and_latest_are_kept(figure: Figure) -> None:
    figure("random sequences of metrics with NaN and infinities keep best and latest", 1000)
    rng = np.random.default_rng(0)
    special = [math.nan, math.inf, -math.inf, None]
    for _ in range(1000):
        latest, best = rng.integers(1, 4), rng.integers(0, 3)
        on_disk: dict[int, float | None] = {}
        seen: dict[int, float | None] = {}
        for step in range(1, rng.integers(2, 30)):
            metric = special[rng.integers(4)] if rng.random() < 0.4 else round(float(rng.random()), 1)
            on_disk[step] = seen[step] = metric
            for gone in on_disk.keys() - kept(on_disk, latest, best):
                del on_disk[gone]
            assert {*sorted(seen)[-latest:]} <= on_disk.keys()
            finite = {s: m for s, m in seen.items() if m is not None and math.isfinite(m)}
            winners = sorted(finite, key=lambda s: (finite[s], s))[::-1][:best]
            assert set(winners) <= on_disk.keys()
            assert len(on_disk) <= latest + best


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            {**LIKE, "weights": jax.ShapeDtypeStruct((20, 31), np.float32)},
            r"weights is float32\[20, 30\] in the checkpoint, float32\[20, 31\] in this run",
        ),
        (
            {**LIKE, "weights": jax.ShapeDtypeStruct((20, 30), np.float16)},
            r"weights is float32\[20, 30\] in the checkpoint, float16\[20, 30\] in this run",
        ),
        (
            {**LIKE, "more": jax.ShapeDtypeStruct((1,), np.float32)},
            r"more is missing in the checkpoint, float32\[1\] in this run",
        ),
    ],
)
def test_a_state_of_another_kind_is_refused(tmp_path: Path, like: dict, message: str) -> None:
    saved(tmp_path / "c", (10,))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "c" / "10", like)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "c", (10,))
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/c: none of the 1 checkpoints can be used: "):
        Checkpoints(tmp_path / "c", "other").restore(LIKE)


# ------------------------------------------------------------------------- damage


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def outcome(folder: Path) -> str:
    """What comes of a damaged newest checkpoint: `older`, `failed`, or `exact`; anything else is silent damage."""
    lines: list[str] = []
    try:
        found = Checkpoints(folder, "c", report=lines.append).restore(LIKE)
    except CheckpointError as error:
        return "failed" if "\n" not in str(error) else "many lines"
    expected = {**STATE, "step": np.asarray([found.step] * 2, np.int32)}
    assert same(found.state, jax.tree.map(np.asarray, expected)), "silent"
    if found.step == 20:
        assert not lines
        return "exact"
    assert found.step == 10
    assert len(lines) == 1
    assert str(folder / "20") in lines[0]
    assert "\n" not in lines[0]
    return "older"


@pytest.mark.slow
def test_no_flipped_bit_is_silent(tmp_path: Path, figure: Figure) -> None:
    saved(tmp_path / "sound")
    rng = np.random.default_rng(0)
    found = []
    for i in range(200):
        folder = shutil.copytree(tmp_path / "sound", tmp_path / "damaged")
        path = files(folder / "20")[i % len(files(folder / "20"))]
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        found.append(outcome(folder))
        shutil.rmtree(folder)
    figure("bits flipped in checkpoints: the one before was restored, none was silent", 200)
    assert found.count("older") == 200


def truncate(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def swap(path: Path, rng: np.random.Generator) -> None:
    others = [other for other in files(path.parents[1]) if other != path and other.read_bytes() != path.read_bytes()]
    other = others[rng.integers(len(others))]
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


DAMAGE: dict[str, Callable[[Path, np.random.Generator], object]] = {
    "truncated": truncate,
    "missing": lambda path, rng: path.unlink(),
    "emptied": lambda path, rng: path.write_bytes(b""),
    "swapped": swap,
    "longer": lambda path, rng: path.write_bytes(path.read_bytes() + b"\0"),
    "a link": lambda path, rng: path.rename(path.parents[3] / "moved") and path.symlink_to(path.parents[3] / "moved"),
    "a folder": lambda path, rng: path.unlink() or path.mkdir(),
    "one more": lambda path, rng: (path.parent / "more").write_bytes(b"x"),
}


@pytest.mark.slow
def test_no_damage_of_files_is_silent(tmp_path: Path, figure: Figure) -> None:
    saved(tmp_path / "sound")
    rng = np.random.default_rng(0)
    found = []
    for damage in DAMAGE.values():
        for i in range(len(files(tmp_path / "sound" / "20"))):
            folder = shutil.copytree(tmp_path / "sound", tmp_path / "damaged")
            damage(files(folder / "20")[i], rng)
            found.append(outcome(folder))
            shutil.rmtree(folder)
            (tmp_path / "moved").unlink(missing_ok=True)
    for emptied in ("20", "10"):
        folder = shutil.copytree(tmp_path / "sound", tmp_path / "damaged")
        shutil.rmtree(folder / emptied)
        (folder / emptied).mkdir()
        found.append(outcome(folder))
        shutil.rmtree(folder)
    assert len(found) >= 40
    assert "many lines" not in found
    figure("files of checkpoints truncated, missing, emptied, swapped, ...: none was silent", len(found))


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: {**manifest, "step": 21},
        lambda manifest: {**manifest, "schema": 2},
        lambda manifest: {**manifest, "files": {"../../outside": {"size": 1, "sha256": ""}}},
        lambda manifest: {
            **manifest,
            "arrays": {"weights": {"shape": [10**9, 10**9], "dtype": "float32", "sha256": ""}},
        },
        lambda manifest: [],
        lambda manifest: "x",
    ],
)
def test_a_manifest_that_was_edited_is_not_believed(tmp_path: Path, edit: Callable) -> None:
    """Its digest made to fit, where it has one."""
    from cnnjax.runs import digest

    saved(tmp_path / "c")
    path = tmp_path / "c" / "20" / "manifest.json"
    edited = edit({k: v for k, v in json.loads(path.read_text()).items() if k != "sha256"})
    path.write_text(json.dumps({**edited, "sha256": digest(edited)} if isinstance(edited, dict) else edited))
    assert outcome(tmp_path / "c") == "older"


def test_arrays_that_do_not_match_the_manifest_are_refused(tmp_path: Path) -> None:
    """Files that hash as the manifest says, and hold other values: only the digests of the arrays can tell."""
    from cnnjax.runs import digest

    saved(tmp_path / "c")
    old, new = (json.loads((tmp_path / "c" / step / "manifest.json").read_text()) for step in ("10", "20"))
    shutil.rmtree(tmp_path / "c" / "20" / "state")
    shutil.copytree(tmp_path / "c" / "10" / "state", tmp_path / "c" / "20" / "state")
    del new["sha256"]
    new["files"] = old["files"]
    (tmp_path / "c" / "20" / "manifest.json").write_text(json.dumps({**new, "sha256": digest(new)}))
    with pytest.raises(CheckpointError, match="array step does not match its manifest"):
        load(tmp_path / "c" / "20", LIKE)


# ------------------------------------------------------------------------- exact resume

BASE = TrainConfig(MLPConfig(hidden=(8,)), SGD(learning_rate=0.05, momentum=0.9), batch_size=32, epochs=4)
MATRIX = {
    "batch norm": replace(BASE, network=CNNConfig(filters=(4,), batch_norm=True)),
    "dropout": replace(BASE, network=MLPConfig(hidden=(8,), dropout=0.4)),
    "constant": replace(BASE, optimizer=SGD(schedule=Constant())),
    "cosine": replace(BASE, optimizer=SGD(schedule=Cosine(warmup=0.2))),
    "step": replace(BASE, optimizer=SGD(schedule=Step())),
    "momentum": replace(BASE, optimizer=SGD(momentum=0.95, nesterov=True)),
    "squared error": replace(BASE, loss=SquaredError(label_smoothing=0.1)),
    "adam": replace(BASE, optimizer=Adam(clip_norm=1.0)),
    "adamw": replace(BASE, optimizer=AdamW()),
    "lion": replace(BASE, optimizer=Lion(schedule=Linear())),
    "rmsprop": replace(BASE, optimizer=RMSprop(momentum=0.5)),
    "muon": replace(BASE, network=CNNConfig(filters=(4,)), optimizer=Muon(schedule=OneCycle())),
    "augmented": replace(BASE, augment=(Flip(), Shift())),
    "moving average": replace(BASE, network=CNNConfig(filters=(4,), batch_norm=True), ema=0.9),
    "shared batch": replace(BASE, network=CNNConfig(filters=(4,), batch_norm=True), batch_size=64),
}
STOPS = (1, 5, 7, 13)  # of epochs of 5 steps: in the first, at an end, in the middle, in the third


def copied(state: Any) -> Any:
    """A state that may be donated, or of one that is."""
    return jax.tree.map(jnp.array, state)


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRIX)
def test_a_resumed_run_equals_the_uninterrupted(name: str, small: Dataset, tmp_path: Path, figure: Figure) -> None:
    lanes = Lanes(1, 1, 2) if name == "shared batch" else Lanes(1, 2)
    sweep = SweepConfig(MATRIX[name], (("learning_rate", (0.01, 0.1)),), 1)
    [program] = plan(trials(sweep), lanes)
    run = compile_program(program, small)
    every = [run.state]
    for _ in range(run.epochs * run.steps):
        every.append(run.advance(copied(every[-1]), 1))
    assert not same(every[-1].params, every[-2].params)
    for stop in (min(stop, len(every) - 4) for stop in STOPS):
        with Checkpoints(tmp_path / str(stop), "c") as store:
            store.save(stop, every[stop])
        jax.clear_caches()
        again = compile_program(program, small)
        found = Checkpoints(tmp_path / str(stop), "c").restore(state_of(program, small.spec))
        going_on = parts(again, again.place(found.state), found.step, seconds=0)
        further = {step: copied(state) for step, state in going_on}
        assert len(further) >= 3
        assert all(same(state, every[step]) for step, state in further.items())
    figure(f"stops of the resume matrix ({len(MATRIX)} kinds of run x 4) bit-identical to the last step", len(STOPS))


def test_a_state_without_an_average_has_the_arrays_that_it_always_had(small: Dataset, tmp_path: Path) -> None:
    """So that checkpoints of runs before there were averages are read, and others are refused by name."""
    without, averaged = (
        state_of(Program(trials(SweepConfig(replace(BASE, ema=ema), (), 1)), Lanes()), small.spec)
        for ema in (None, 0.9)
    )
    with Checkpoints(tmp_path / "c", "c") as store:
        store.save(1, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), without))
    names = json.loads((tmp_path / "c" / "1" / "manifest.json").read_text())["arrays"]
    assert {name.split(".")[0] for name in names} == {"step", "params", "optimizer", "epoch_metrics", "diverged"}
    assert store.restore(without) is not None
    with pytest.raises(CheckpointError, match=r"array average\.params\..* is missing in the checkpoint"):
        store.restore(averaged)


def test_a_program_s_state_is_known_without_computing_it(small: Dataset) -> None:
    [program] = plan(trials(SweepConfig(MATRIX["batch norm"], (), 3)), Lanes(1, 1))
    shapes = jax.tree.map(
        lambda a: (a.shape, a.dtype), (state_of(program, small.spec), compile_program(program, small).state)
    )
    assert shapes[0] == shapes[1]
    assert isinstance(program, Program)
