"""Laws of the run loop: whatever the store and wherever it stops, a run ends as if it had not stopped."""

import ast
import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import needs, script
from test_faults import size, until, what_remains

import cnnjax
from cnnjax import SGD, Adam, CrossEntropy, InMemory, MLPConfig, SweepConfig, TrainConfig
from cnnjax.__main__ import COMMANDS
from cnnjax.commands.sweep import table
from cnnjax.data import Dataset
from cnnjax.planning import Execution
from cnnjax.runs import (
    CheckpointError,
    Compiled,
    Compiling,
    Epoch,
    Event,
    Finished,
    Opened,
    Planned,
    RecordError,
    RunFolder,
    Saved,
    Swept,
    Within,
    diff,
    events,
    recorded,
)

ONE = TrainConfig(MLPConfig(hidden=(4,)), SGD(learning_rate=0.1), batch_size=32, epochs=3)
AXES = (("learning_rate", (0.03, 0.1, 1e30)), ("hidden", ((3,), (4,))))
SWEEP = SweepConfig(ONE, AXES, seeds=2)
HALVING = replace(SWEEP, base=replace(ONE, epochs=4), search="halving", factor=2)
PATIENT = replace(  # lanes that stop early in different epochs, some that do not, and some that diverge
    SWEEP,
    base=replace(ONE, epochs=8, ema=0.9),
    axes=(("learning_rate", (0.03, 0.3, 1e30)), ("patience", (None, 1, 2))),
    seeds=1,
)
HOW = {"lanes": "1:1", "pack": "shapes"}


def same(one: Swept, other: Swept) -> bool:
    numbers = [result.trial.number for result in one.results]
    states = all(jax.tree.all(jax.tree.map(np.array_equal, one.states[n], other.states[n])) for n in numbers)
    return states and json.dumps(one.rows) == json.dumps(other.rows) and one.tests == other.tests


def happening(config: Any, data: Dataset, store: Any, **options: Any) -> Any:
    return events(config, data, lambda: nullcontext(store), Execution(**HOW, save_seconds=0), **options)


def timeless(events: Iterable[Any]) -> list[type]:
    """The kinds of events but for those that come by the clock."""
    return [type(event) for event in events if not isinstance(event, Compiling | Within)]


def test_events_say_what_happens_in_order(small: Dataset) -> None:
    *before, saved, finished = happening(ONE, small, InMemory())
    assert timeless([*before, saved, finished]) == [Opened, Planned, Compiled, *[Epoch, Saved] * 3, Finished]
    assert saved.ended
    assert saved.step == 3 * 5
    within = [event for event in before if isinstance(event, Within)]
    assert within[0].step == 1  # so that an epoch that takes long is seen to proceed
    assert [event.share for event in within] == [event.step % 5 / 5 for event in within]


def test_results_print_in_a_few_lines_without_their_arrays(small: Dataset) -> None:
    swept = list(happening(SWEEP, small, InMemory()))[-1].swept
    lines = str(swept).splitlines()
    assert len(lines) <= 7
    assert lines[1].endswith("6 points of learning_rate, hidden, 2 seeds: 8 complete, 4 diverged")
    assert lines[-1].split() == ["where", "memory"]
    trained = swept.trained()
    lines = str(trained).splitlines()
    assert lines[0] == "Trained"
    assert [line.split()[0] for line in lines[1:]] == ["network", "parameters", "data", "accuracy", "where"]
    assert lines[2].split()[1] == f"{swept.parameters}"
    assert lines[4].endswith(f"test {100 * trained.test[0]:.2f} % after 3 epochs")
    last = {row["trial"]: row["train_accuracy"] for row in swept.rows}  # None where it diverged
    for row in swept.table():
        hidden = row["hidden"][0]
        assert row["parameters"] == 64 * hidden + hidden + hidden * 10 + 10
        assert row["train_accuracy"] == last[row["trial"]]
        assert (row["train_accuracy"] is None) is (row["status"] == "diverged")


WRONG: dict[str, Callable[[], Any]] = {
    "axes": lambda: SweepConfig(ONE, axes={"learning_rate": (0.1,)}),  # type: ignore[arg-type]
    "axes: ('learning_rate', 0.1)": lambda: SweepConfig(ONE, (("learning_rate", 0.1),)),  # type: ignore[arg-type]
    "seeds": lambda: replace(SWEEP, seeds="3"),  # type: ignore[arg-type]
    "seeds: 1.5": lambda: replace(SWEEP, seeds=1.5),  # type: ignore[arg-type]
    "shard": lambda: replace(SWEEP, shard=3),  # type: ignore[arg-type]
    "search": lambda: replace(SWEEP, search=["all"]),  # type: ignore[arg-type]
    "zipped": lambda: replace(SWEEP, zipped=None),  # type: ignore[arg-type]
    "zip: momentum: must be an axis": lambda: replace(SWEEP, zipped=(("learning_rate", "momentum"),)),
    "pack": lambda: cnnjax.fit(ONE, pack=["one"]),
    "plan_from": lambda: cnnjax.fit(ONE, plan_from=3),
    "foo: no such argument": lambda: cnnjax.fit(ONE, foo=1),
    "save_second: no such argument: did you mean 'save_seconds'": lambda: cnnjax.fit(ONE, save_second=1),
    "extend: None": lambda: cnnjax.sweep(SWEEP, extend=None),  # type: ignore[arg-type]
    "extend: 3": lambda: cnnjax.sweep(SWEEP, extend=3),  # type: ignore[arg-type]
    "classes": lambda: cnnjax.load_run("nowhere", classes=MLPConfig),  # type: ignore[arg-type]
    "folder": lambda: cnnjax.load_run(3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_type_is_named_with_its_field(field: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(field)}") as error:
        WRONG[field]()
    assert "\n" not in str(error.value)


def test_a_single_run_is_written_for_tensorboard(small: Dataset, tmp_path: Path) -> None:
    needs("tensorboardX")
    list(events(ONE, small, lambda: RunFolder(tmp_path / "r"), Execution(**HOW), tensorboard=True))
    [run] = (tmp_path / "r" / "tensorboard").iterdir()
    assert next(run.iterdir()).stat().st_size > 500


@pytest.mark.slow
@pytest.mark.parametrize("config", [SWEEP, HALVING, PATIENT], ids=["all", "halving", "patient"])
def test_wherever_a_run_is_dropped_it_ends_the_same(config: SweepConfig, small: Dataset) -> None:
    """Its events are no longer asked for, as after an exception in a notebook, and it is resumed from memory."""
    *before, finished = happening(config, small, InMemory())
    assert isinstance(finished, Finished)
    assert len(before) > 10
    for count in range(1, len(before), 3):
        store = InMemory()
        dropped = happening(config, small, store)
        told = timeless(next(dropped) for _ in range(count))
        assert told == timeless(before)[: len(told)]
        dropped.close()
        *_, again = happening(config, small, store)
        assert same(again.swept, finished.swept)


def stopped_after(count: int) -> Any:
    """A `stop` that is true from the count-th question on."""
    asked = iter([False] * count)
    return lambda: next(asked, True)


@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_a_run_that_is_stopped_saves_and_is_resumed(folder: bool, small: Dataset, tmp_path: Path) -> None:
    whole = cnnjax.sweep(SWEEP, small, **HOW)
    store: Any = tmp_path / "r" if folder else InMemory()
    for count in (0, 1, 4):
        with pytest.raises(KeyboardInterrupt, match="continue with resume=True"):
            cnnjax.sweep(SWEEP, small, store=store, resume=True, stop=stopped_after(count), **HOW)
    assert same(cnnjax.sweep(SWEEP, small, store=store, resume=True, **HOW), whole)
    assert same(cnnjax.sweep(SWEEP, small, store=store, resume=True, **HOW), whole)  # nothing is left to train


def test_a_folder_has_what_memory_has_and_its_tables(small: Dataset, tmp_path: Path) -> None:
    memory, folder = (cnnjax.sweep(SWEEP, small, store=store, **HOW) for store in (InMemory(), str(tmp_path / "r")))
    assert same(memory, folder)
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names >= {"summary.json", "trials.csv", "winner", "plan.json", "metrics.jsonl", "figures", "checkpoints"}
    loaded = cnnjax.load_run(tmp_path / "r")
    assert np.array_equal(loaded.logits(small.test.inputs), memory.trained().logits(small.test.inputs))
    assert loaded.rows == memory.trained().rows


def test_a_store_that_has_a_run_is_neither_overwritten_nor_taken_for_another(small: Dataset, tmp_path: Path) -> None:
    store = InMemory()
    cnnjax.fit(ONE, small, store=store)
    with pytest.raises(FileExistsError, match="memory: already contains a run: continue it with resume=True"):
        cnnjax.fit(ONE, small, store=store)
    with pytest.raises(ValueError, match=r"memory was started with other settings: epochs 3 there, 4 here"):
        cnnjax.fit(replace(ONE, epochs=4), small, store=store, resume=True)
    cnnjax.fit(ONE, small, store=tmp_path / "r")
    with pytest.raises(FileExistsError, match=r"run folder .*/r exists"):
        cnnjax.fit(ONE, small, store=tmp_path / "r")


def test_a_plan_that_was_followed_is_not_needed_again(small: Dataset, tmp_path: Path) -> None:
    """The run has its own; so the same command resumes it after the other run was removed."""
    cnnjax.fit(ONE, small, store=tmp_path / "first", lanes="1:1")
    followed = shutil.move(tmp_path / "first" / "plan.json", tmp_path / "plan.json")
    with pytest.raises(KeyboardInterrupt):
        cnnjax.fit(ONE, small, store=tmp_path / "r", plan_from=followed, stop=lambda: True)
    Path(followed).unlink()
    again = cnnjax.fit(ONE, small, store=tmp_path / "r", plan_from=followed, resume=True)
    assert again.rows == cnnjax.load_run(tmp_path / "r").rows


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), "float32[2, 8, 8, 1]"),
        (np.zeros((2, 8, 9, 1), np.uint8), "uint8[2, 8, 9, 1]"),
        (np.zeros((2, 8, 8, 3), np.uint8), "uint8[2, 8, 8, 3]"),
        (np.zeros((8, 8, 1), np.uint8), "uint8[8, 8, 1]"),
        (np.uint8(3), "uint8[]"),
        ([[[[0] * 1] * 8] * 8], "int64[1, 8, 8, 1]"),
    ],
)
def test_a_trained_network_takes_inputs_as_they_are_stored(small: Dataset, images: Any, found: str) -> None:
    message = f"images: {found}: must be as stored in the data set, uint8[batch, 8, 8, 1]"
    with pytest.raises(ValueError, match=re.escape(message)):
        cnnjax.fit(ONE, small).logits(images)


@pytest.mark.parametrize("there", [False, True])
def test_a_run_is_loaded_and_resumed_with_64_bits_switched(small: Dataset, tmp_path: Path, there: bool) -> None:
    """The numbers are sound: loading converts them, resuming names the switch and goes on where that is allowed."""
    config = replace(ONE, optimizer=Adam(learning_rate=0.1))
    images = small.test.inputs
    with jax.enable_x64(there), pytest.raises(KeyboardInterrupt):
        cnnjax.fit(config, small, store=tmp_path / "r", stop=lambda: True)
    with jax.enable_x64(there):
        logits = cnnjax.load_run(tmp_path / "r").logits(images)
    with jax.enable_x64(not there):
        np.testing.assert_allclose(cnnjax.load_run(tmp_path / "r").logits(images), logits, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match=rf"switches\.jax_enable_x64 {there} there, {not there} here"):
            cnnjax.fit(config, small, store=tmp_path / "r", resume=True)
        ended = cnnjax.fit(config, small, store=tmp_path / "r", resume=True, allow_changes=True)
    assert [row["epoch"] for row in ended.rows] == [1, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_warned_of(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    reason = re.escape(os.strerror(number))
    with pytest.warns(UserWarning, match=rf"run folder .*/r: its file system has no locks \({reason}\): do not start"):
        assert cnnjax.fit(ONE, small, store=tmp_path / "r").test is not None


def test_a_folder_that_is_refused_what_it_asks_for_leaves_its_name_free(small: Dataset, tmp_path: Path) -> None:
    other = replace(SWEEP, axes=AXES[:1], seeds=1)
    cnnjax.sweep(other, small, store=tmp_path / "other", **HOW)
    config = replace(SWEEP, axes=(("learning_rate", (0.5,)),))
    with pytest.raises(ValueError, match="has finished none of the 2 trials of this run"):
        cnnjax.sweep(config, small, store=tmp_path / "r", extend=tmp_path / "other")
    assert not (tmp_path / "r").exists()
    with pytest.raises(ValueError, match="was started with other settings"):
        cnnjax.sweep(replace(other, base=replace(ONE, epochs=9)), small, store=tmp_path / "other", resume=True)
    assert (tmp_path / "other" / "summary.json").exists()


def test_sources_may_have_the_same_trials(small: Dataset, tmp_path: Path) -> None:
    """The first counts; a source that adds nothing is no mistake."""
    config = replace(SWEEP, axes=AXES[:1], seeds=1)
    cnnjax.sweep(config, small, store=tmp_path / "one", **HOW)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    sources = [tmp_path / "one", tmp_path / "two", tmp_path / "one"]
    more = cnnjax.sweep(replace(config, seeds=2), small, store=tmp_path / "more", extend=sources, **HOW)
    assert len(more.rows) == 14  # 2 of 3 epochs of 2 rates, and the first of the one that diverges, for two seeds
    assert len({(row["trial"], row["epoch"]) for row in more.rows}) == 14


def test_memory_is_as_strict_as_a_folder(small: Dataset) -> None:
    """A state of another network or optimizer is not gone on with, whatever is allowed."""
    for changes in (
        {"network": MLPConfig(hidden=(5,))},
        {"optimizer": Adam(learning_rate=0.1)},
    ):
        store = InMemory()
        with pytest.raises(KeyboardInterrupt):
            cnnjax.fit(ONE, small, store=store, stop=lambda: True)
        with pytest.raises(CheckpointError, match=r"memory: .* in the checkpoint, .* in this run"):
            cnnjax.fit(replace(ONE, **changes), small, store=store, resume=True, allow_changes=True)


@pytest.mark.slow
def test_a_difference_with_a_run_that_has_not_ended(small: Dataset, tmp_path: Path) -> None:
    whole = cnnjax.sweep(SWEEP, small, store=tmp_path / "whole", **HOW)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "trials.csv").unlink()
    assert diff(tmp_path / "whole", tmp_path / "cut")["results"] == []
    for name, other in (
        ("fewer", replace(SWEEP, axes=AXES[:1], seeds=1)),
        ("turned", replace(SWEEP, axes=AXES[::-1])),  # numbers its trials otherwise
    ):
        cnnjax.sweep(other, small, store=tmp_path / name, **HOW)
        [line] = diff(tmp_path / "cut", tmp_path / name)["results"]
        assert line == f"not compared: {tmp_path / 'cut'} has not finished, and the runs have different trials"
    with pytest.raises(KeyError, match="trial 99: this sweep has trials 0, 1, 2"):
        whole.states[99]
    with pytest.raises(KeyError, match="foo: use one of epoch, "):
        whole.curves("foo")


def test_a_run_on_data_of_its_own_is_no_preset_without_it(small: Dataset, tmp_path: Path) -> None:
    """Its configuration may call it digits."""
    cnnjax.fit(ONE, small, store=tmp_path / "r")
    with pytest.raises(RecordError, match="r: was trained on user-defined data small: give the preset that defines it"):
        cnnjax.load_preset(str(tmp_path / "r"))


def test_a_preset_that_has_changed_is_loaded_anew(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    for epochs in (5, 7):
        file.write_text(f"from cnnjax import *\ntrain = TrainConfig(MLPConfig(), epochs={epochs})\n")
        assert cnnjax.load_preset(str(file)).train.epochs == epochs
    first = cnnjax.load_preset(str(file))
    assert cnnjax.load_preset(str(file)).classes == first.classes
    file.write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"mine\.py: SystemExit: 3"):
        cnnjax.load_preset(str(file))


def test_axes_in_another_order_are_other_trials(small: Dataset) -> None:
    """Trials are numbered by them."""
    store = InMemory()
    with pytest.raises(KeyboardInterrupt):
        cnnjax.sweep(SWEEP, small, store=store, stop=lambda: True, **HOW)
    other = replace(SWEEP, axes=AXES[::-1])
    message = "memory has other trials: the order of the axes learning_rate, hidden there, hidden, learning_rate here"
    with pytest.raises(ValueError, match=message):
        cnnjax.sweep(other, small, store=store, resume=True, allow_changes=True, **HOW)


def test_a_change_that_is_refused_leaves_the_run_as_it_was(small: Dataset, tmp_path: Path) -> None:
    cnnjax.fit(ONE, small, store=tmp_path / "r")
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"epochs: 2: must be at least \d+: .* is of epoch"):
        cnnjax.fit(replace(ONE, epochs=2), small, store=tmp_path / "r", resume=True, allow_changes=True)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before
    assert cnnjax.fit(ONE, small, store=tmp_path / "r", resume=True).rows == cnnjax.load_run(tmp_path / "r").rows


@pytest.mark.slow
@pytest.mark.parametrize("lanes", ["1:2", "1:1:2"])
def test_a_run_on_two_devices_is_resumed_on_more_and_where_allowed_on_fewer(tmp_path: Path, lanes: str) -> None:
    """Reading it, or taking it over, asks for no device."""
    code = (
        "import sys, jax, cnnjax; from cnnjax import *; jax.config.update('jax_num_cpu_devices', int(sys.argv[1]))\n"
        "config = SweepConfig(TrainConfig(MLPConfig((4,)), epochs=2), (), seeds=2)\n"
        "name, stop, allow = sys.argv[2], sys.argv[3] == 'stop', sys.argv[3] == 'allow'\n"
        f"how = {{'lanes': {lanes!r}}} if stop else {{'allow_changes': allow}}\n"
        "how |= {'extend': 'r'} if name == 'more' else {'resume': True}\n"
        "print(cnnjax.sweep(config, store=name, stop=lambda: stop, **how).rows[-1])\n"
        "cnnjax.load_run(name)"
    )

    def ran(devices: int, name: str, how: str) -> tuple[dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(devices), name, how],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        return ast.literal_eval(done.stdout or "{}"), done.stderr.splitlines()[-1] if done.stderr else ""

    assert ran(2, "r", "stop")[1].startswith("KeyboardInterrupt")
    shutil.copytree(tmp_path / "r", tmp_path / "fewer")
    assert ran(1, "r", "")[1] == (
        "ValueError: resume: r was started with other settings: devices 2 there, 1 here (plan.json): "
        "use --allow-changes (allow_changes=True) to continue anyway"
    )
    whole, _ = ran(3, "r", "")
    assert (whole["trial"], whole["epoch"]) == (1, 2)
    assert ran(1, "fewer", "allow")[0] == pytest.approx(whole, rel=1e-4)
    assert ran(1, "r", "")[0] == whole
    assert ran(1, "more", "")[0] == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": SWEEP}, "config: SweepConfig: must be a TrainConfig: cnnjax.sweep takes a SweepConfig"),
        ({"config": 3}, "config: int: must be a TrainConfig"),
        ({"config": cnnjax.load_preset("digits")}, "config: Preset: must be a TrainConfig: give its .train"),
        ({"data": "digits"}, "data: str: must be a Dataset, as returned by cnnjax.load"),
        ({"store": 3}, "store: 3: must be the path of a run folder, a RunFolder, or InMemory()"),
        ({"store": InMemory}, "must be the path of a run folder"),
        ({"resume": "yes"}, "resume: 'yes': must be True or False"),
        ({"allow_changes": "no"}, "allow_changes: 'no': must be True or False"),
        ({"resume": True}, "resume: True: needs a store"),
        ({"progress": "yes"}, "progress: 'yes': must be True, False, or a function that takes an event"),
        ({"stop": True}, "stop: True: must be a function without arguments"),
        ({"lanes": 1}, "lanes: 1: must be a string, such as 'auto' or '1:2'"),
        ({"save_seconds": "5"}, "save_seconds: '5': must be a number"),
        ({"keep_latest": 1.5}, "keep_latest: 1.5: must be an integer"),
        ({"memory": True}, "memory: True: must be a number"),
        ({"plan_from": "nowhere.json"}, "plan: nowhere.json: No such file"),
    ],
    ids=str,
)
def test_an_argument_of_another_kind_is_named(arguments: dict, message: str, small: Dataset) -> None:
    given = {"config": ONE, "data": small, **arguments}
    with pytest.raises((TypeError, ValueError, OSError), match=re.escape(message)):
        cnnjax.fit(**given)


def test_what_cannot_be_carried_out_leaves_nothing(small: Dataset, tmp_path: Path) -> None:
    for config, how, message in (
        (replace(ONE, batch_size=1000), {}, "batch_size: 1000: must be at most 160"),
        (ONE, {"memory": -1}, "memory: -1: must be above 0"),
        (ONE, {"pack": "al"}, "pack: 'al'"),
        (ONE, {"lanes": "x"}, "lanes: 'x': give auto"),
    ):
        with pytest.raises(ValueError, match=message):
            cnnjax.fit(config, small, store=tmp_path / "r", **how)
    assert not (tmp_path / "r").exists()


def test_a_fit_is_a_network_its_curve_and_its_test(small: Dataset) -> None:
    shown: list[Event] = []
    trained = cnnjax.fit(ONE, small, progress=shown.append)
    assert [event.epoch for event in shown if isinstance(event, Epoch)] == [1, 2, 3]
    assert [row["epoch"] for row in trained.rows] == [1, 2, 3]
    accuracy = float((trained.logits(small.test.inputs).argmax(-1) == small.test.labels).mean())
    assert trained.test is not None
    assert trained.test[0] == pytest.approx(accuracy)
    assert trained.result is not None
    assert trained.result.status == "complete"


def test_a_fit_that_diverged_has_the_network_before(small: Dataset) -> None:
    trained = cnnjax.fit(replace(ONE, optimizer=SGD(learning_rate=1e30)), small)
    assert trained.result is not None
    assert trained.result.status == "diverged"
    assert trained.test is None
    assert trained.rows[-1]["valid_loss"] is None


# ------------------------------------------------------------------------- early stopping and moving averages


def patient_rows(rows: Sequence[dict[str, Any]], patience: int | None) -> list[dict[str, Any]]:
    """The lines of a trial up to the epoch in which it runs out of patience, by the definition."""
    for count in range(1, len(rows) + 1):
        scores = [row["valid_accuracy"] for row in rows[:count]]
        if None in scores or (patience is not None and count - 1 - scores.index(max(scores)) >= patience):
            return list(rows[:count])
    return list(rows)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", ["1:1", pytest.param("0:2", marks=pytest.mark.slow)])
def test_a_trial_without_patience_is_cut_where_it_stops_improving(lanes: str, small: Dataset, tmp_path: Path) -> None:
    """Bit for bit: lanes that have stopped change no others, and keep the state in which they stopped."""
    swept = cnnjax.sweep(PATIENT, small, store=tmp_path / "r", lanes=lanes, pack="shapes")
    plain = replace(PATIENT, axes=PATIENT.axes[:1])
    whole = cnnjax.sweep(plain, small, lanes=lanes, pack="shapes")
    counts = set()
    for result in swept.results:
        values = dict(result.trial.values)
        [other] = [r.trial for r in whole.results if all(values[name] == value for name, value in r.trial.values)]
        every = [row for row in whole.rows if row["trial"] == other.number]
        rows = [row for row in swept.rows if row["trial"] == result.trial.number]
        expected = patient_rows(every, values["patience"])
        for row, known in zip(rows, expected, strict=True):
            assert {**row, "trial": 0, "best_epoch": 0} == {**known, "trial": 0, "best_epoch": 0}
        assert result.status == ("diverged" if values["learning_rate"] == 1e30 else "complete")
        assert result.early is (result.status == "complete" and len(rows) < 8)
        assert swept.states[result.trial.number].step == result.step
        if not result.early:
            assert jax.tree.all(
                jax.tree.map(np.array_equal, swept.states[result.trial.number], whole.states[other.number])
            )
        counts.add(len(rows))
    assert len(counts) > 3
    loaded = cnnjax.load_run(tmp_path / "r")
    assert np.array_equal(loaded.logits(small.test.inputs), swept.trained().logits(small.test.inputs))
    assert "stopped early after" in table(swept, swept.compared)


def test_a_program_ends_when_all_of_its_trials_have_stopped(small: Dataset, tmp_path: Path) -> None:
    patient = replace(ONE, epochs=50, patience=1)
    store = RunFolder(tmp_path / "r")
    *_, saved, finished = happening(patient, small, store)
    store.close()
    assert saved.ended
    assert saved.step == finished.swept.results[0].step < 50 * 5
    swept = finished.swept
    assert len(swept.rows) == swept.results[0].epochs
    assert swept.rows[-1]["best_epoch"] == len(swept.rows) - 1
    further = cnnjax.fit(
        replace(patient, patience=None), small, store=store.path, resume=True, allow_changes=True, **HOW
    )
    assert same_params(further.variables.params, cnnjax.fit(replace(ONE, epochs=50), small, **HOW).variables.params)


def same_params(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.slow
def test_a_trial_that_stopped_early_cannot_go_on_behind_the_others(small: Dataset) -> None:
    config, store = replace(SWEEP, base=replace(ONE, epochs=8, patience=1)), InMemory()
    cnnjax.sweep(config, small, store=store, **HOW)
    other = replace(config, base=replace(config.base, patience=None))
    with pytest.raises(ValueError, match=r"^patience: None: trial \d+ has stopped early, while other trials of its"):
        cnnjax.sweep(other, small, store=store, resume=True, allow_changes=True, **HOW)


def test_patience_and_halving_are_refused_together() -> None:
    for changes in ({"base": replace(HALVING.base, patience=2)}, {"axes": (("patience", (None, 2)),)}):
        with pytest.raises(ValueError, match="patience: cannot be combined with halving"):
            replace(HALVING, **changes)


@pytest.mark.slow
def test_averages_are_in_every_table(small: Dataset, tmp_path: Path) -> None:
    config = replace(SWEEP, axes=(("ema", (None, 0.0, 0.9)),), seeds=1)
    swept = cnnjax.sweep(config, small, store=tmp_path / "r", **HOW)
    none, zero, some = (swept.trained(number) for number in range(3))
    assert none.averaged is None
    assert "ema_valid_loss" not in none.rows[0]
    for row in zero.rows:  # a decay of zero is the last step
        assert (row["ema_valid_loss"], row["ema_valid_accuracy"]) == (row["valid_loss"], row["valid_accuracy"])
    averaged = cnnjax.load_run(tmp_path / "r", trial=2).averaged
    assert averaged is not None
    assert averaged.averaged is None
    logits = averaged.logits(small.valid.inputs)
    accuracy = float((logits.argmax(-1) == small.valid.labels).mean())
    assert averaged.rows[-1]["valid_accuracy"] == some.rows[-1]["ema_valid_accuracy"] == pytest.approx(accuracy)
    assert not np.array_equal(logits, some.logits(small.valid.inputs))
    curves = swept.curves("ema_valid_loss")
    assert np.isnan(curves[0]).all()
    assert np.isfinite(curves[1:]).all()
    assert [row["ema_valid_loss"] for row in swept.table()][1:] == curves[1:, -1].tolist()
    assert "averaged" in table(swept, swept.compared).splitlines()[0]
    alone = cnnjax.fit(replace(ONE, ema=0.9), small, store=tmp_path / "one", **HOW)
    assert alone.averaged is not None
    assert alone.averaged.test is not None
    losses = CrossEntropy()(alone.averaged.logits(small.test.inputs), small.test.labels)
    assert alone.averaged.test[1] == pytest.approx(float(losses.mean()), rel=1e-5)
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert (summary["ema_test_accuracy"], summary["ema_test_loss"]) == alone.averaged.test
    assert summary["ema_valid_loss"] == alone.rows[-1]["ema_valid_loss"]
    assert "averaged" in str(alone)
    assert recorded(tmp_path / "one").ema_tests == {0: alone.averaged.test}
    assert swept.ema_tests.keys() == swept.tests.keys() & {1, 2}
    assert recorded(tmp_path / "r").ema_tests == swept.ema_tests


# ------------------------------------------------------------------------- shards


def shards(config: SweepConfig, count: int, data: Dataset, folder: Path) -> Sequence[Path]:
    paths = [folder / f"s{part}" for part in range(1, count + 1)]
    for part, path in enumerate(paths, 1):
        swept = cnnjax.sweep(replace(config, shard=f"{part}/{count}"), data, store=path, **HOW)
        assert swept.tests == {}  # which one is the best is not known yet
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("config", [SWEEP, PATIENT], ids=["all", "patient"])
def test_shards_joined_are_the_whole_sweep(config: SweepConfig, small: Dataset, tmp_path: Path) -> None:
    whole = cnnjax.sweep(config, small, store=tmp_path / "whole", **HOW)
    paths = shards(config, 4, small, tmp_path)
    joined = cnnjax.sweep(config, small, store=tmp_path / "joined", extend=paths, **HOW)
    assert [(tmp_path / name / "trials.csv").read_text() for name in ("joined",)] == [
        (tmp_path / "whole" / "trials.csv").read_text()
    ]
    assert [jax.tree.leaves(joined.states[n].params)[0].tolist() for n in joined.states] == [
        jax.tree.leaves(whole.states[n].params)[0].tolist() for n in whole.states
    ]
    assert same(cnnjax.sweep(config, small, store=tmp_path / "joined", resume=True, **HOW), joined)
    assert diff(tmp_path / "whole", tmp_path / "joined")["results"] == []


def test_every_trial_is_in_one_shard() -> None:
    parts = [cnnjax.sweeps.trials(replace(SWEEP, shard=f"{part}/4")) for part in (1, 2, 3, 4)]
    assert sorted(trial.number for part in parts for trial in part) == list(range(12))
    assert {trial for part in parts for trial in part} == set(cnnjax.sweeps.trials(SWEEP))
    with pytest.raises(ValueError, match="shard: 7/7: use fewer shards: the sweep has only 6 points"):
        cnnjax.sweeps.trials(replace(SWEEP, shard="7/7"))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(ValueError, match=f"shard: '{shard}': give a part and the number of parts, such as 2/8"):
        replace(SWEEP, shard=shard)


def test_halving_has_no_shards() -> None:
    with pytest.raises(ValueError, match="shard: 1/2: halving needs all points: use --search all"):
        replace(HALVING, shard="1/2")


@pytest.mark.slow
def test_shards_on_the_command_line(tmp_path: Path) -> None:
    sweep = ["digits", "--epochs", "2", "--filters", "4", "6", "--seeds", "2", "--lanes", "1:1", "--pack", "shapes"]
    script("sweep", *sweep, "--name", "whole", "--quiet", cwd=tmp_path)
    for part in "1234":
        done = script("sweep", *sweep, "--shard", f"{part}/4", "--name", f"s{part}", "--quiet", cwd=tmp_path)
        assert f"Shard {part}/4: `cnnjax merge` joins all shards" in done.stdout
    runs = [f"runs/s{part}" for part in "1234"]
    missing = command("merge", *runs[:3], "--name", "some", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.splitlines()[-1]) == (
        2,
        "error: merge: 4 trials are in none of these runs, such as learning_rate 0.03, filters 6, seed 0: also train "
        "and merge their shards",
    )
    assert command("merge", *runs, "--name", "merged", cwd=tmp_path).returncode == 0
    whole, merged = (tmp_path / "runs" / name for name in ("whole", "merged"))
    assert (whole / "trials.csv").read_bytes() == (merged / "trials.csv").read_bytes()
    for words, message in {
        ("merge", "runs/s1", "runs/s1"): "merge: runs/s1 is given twice",
        ("merge", "runs/s1", "runs"): "merge: runs: is not a run folder",
        ("merge", "runs/s1", "runs/other"): "merge: runs/other is of another sweep: base.epochs 1 there, 2 here",
        ("sweep", "digits", "--shard", ""): "shard: '': give a part and the number of parts, such as 2/8",
        (
            "swep",
            "digits",
        ): f"swep: no such command: did you mean 'sweep'? use one of {', '.join(COMMANDS)}",
    }.items():
        if "runs/other" in words:
            other = [word if word != "2" else "1" for word in sweep[:3]] + sweep[3:]
            script("sweep", *other, "--shard", "2/4", "--name", "other", "--quiet", cwd=tmp_path)
        done = command(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, f"error: {message}\n")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"whole", "merged", "other", "s1", "s2", "s3", "s4"}
    lines = command("diff", whole, merged, cwd=tmp_path).stdout.splitlines()
    assert lines == ["configuration: the same", "environment: the same", "data: the same", "results: the same"]


# ------------------------------------------------------------------------- differences, processes


def command(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `python -m cnnjax` as a user does."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cnnjax", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=300,
    )


def test_a_difference_names_what_differs(small: Dataset, tmp_path: Path) -> None:
    cnnjax.sweep(SWEEP, small, store=tmp_path / "a", **HOW)
    other = replace(SWEEP, base=replace(ONE, optimizer=SGD(learning_rate=0.1, momentum=0.5)))
    cnnjax.sweep(replace(other, axes=(AXES[0], ("hidden", ((3,),)))), small, store=tmp_path / "b", **HOW)
    found = diff(tmp_path / "a", tmp_path / "b")
    assert "base.optimizer.momentum 0.9 first, 0.5 second" in found["configuration"]
    assert found["data"] == []
    assert found["results"][:2] == ["6 trials only in the first", "2 of 6 trials have the same numbers in every epoch"]
    assert found["results"][2].startswith("learning_rate 0.03, hidden 3, seed 0: train_loss ")


def test_a_difference_of_what_is_damaged_or_unlike(small: Dataset, tmp_path: Path) -> None:
    cnnjax.fit(ONE, small, store=tmp_path / "one")
    cnnjax.sweep(SWEEP, small, store=tmp_path / "many", **HOW)
    found = diff(tmp_path / "one", tmp_path / "many")
    assert found["configuration"] == ["the first is a single run, the second a sweep"]
    assert found["results"] == ["not compared"]
    for content in (b"trial,seed\nx,1\n", b"\xff\xfe", b"garbage\n1\n"):
        (tmp_path / "many" / "trials.csv").write_bytes(content)
        with pytest.raises(RecordError, match=r"many/trials\.csv: damaged: "):
            diff(tmp_path / "many", tmp_path / "many")


TWO = """
import sys
import jax
number, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", 2, number)
from cnnjax.devices import agreed
print(jax.process_count(), [agreed(7 + number), agreed(number)])
"""


@pytest.mark.slow
def test_processes_decide_as_the_first_of_them(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen([sys.executable, "-c", TWO, str(number), port], stdout=subprocess.PIPE, text=True)
        for number in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0].splitlines()[-1] for process in started]
    assert said == ["2 [7, 0]"] * 2


def test_a_run_folder_is_one_process_s(small: Dataset, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r"), pytest.raises(BlockingIOError, match="used by another process"):
        cnnjax.fit(ONE, small, store=tmp_path / "r", resume=True)


@pytest.mark.slow
def test_the_notebook_runs_and_ends_as_it_says(tmp_path: Path) -> None:
    """Fit, sweep, a picture; resumed from a folder that the command line began, and the other way round."""
    book = Path(shutil.copy(Path(__file__).parents[1] / "docs" / "notebook.ipynb", tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", book],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
        env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"},
    )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(book.read_text())["cells"] if cell["cell_type"] == "code"]
    printed = [
        "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
        for cell in cells
    ]
    kinds = {kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert printed[2].splitlines()[-1].startswith("test accuracy 9")
    assert "exit code 143\n" in printed[5]
    assert printed[5].endswith("True\n")
    assert printed[6].startswith("stopped, and the state is saved: continue with resume=True\nrank ")
    assert printed[7] == "configuration: the same\nenvironment: the same\ndata: the same\nresults: the same\n"


@pytest.mark.slow
def test_the_wheel_alone_does_what_the_checkout_does(tmp_path: Path) -> None:
    """Installed into a folder of its own and run in another: a sweep, SIGKILL, resume, extend, load_run."""
    root, site, home = Path(__file__).parents[1], tmp_path / "site", tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, root], check=True)
    [wheel] = tmp_path.glob("cnnjax-*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "-t", site, wheel], check=True
    )
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", *words], capture_output=True, text=True, check=False, cwd=home, env=env
        )
        assert done.returncode == 0, done.stderr
        return done

    where = python("-c", "import cnnjax; print(cnnjax.__file__, cnnjax.__version__)").stdout.split()
    assert Path(where[0]).is_relative_to(site)
    assert where[1] in wheel.name
    assert "mnist-mlp" in python("-m", "cnnjax", "train", "--help").stdout
    sweep = ["digits", "--filters", "4", "--epochs", "8", "--seeds", "2", "--lanes", "1:1", "--save-seconds", "0"]
    whole = python("-m", "cnnjax", "sweep", *sweep, "--name", "whole", "--quiet").stdout
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnjax", "sweep", *sweep, "--name", "r", "--resume", "--quiet"], cwd=home, env=env
    )
    until(lambda: size(home / "runs" / "r" / "metrics.jsonl") > 0, process)
    process.kill()
    process.wait()
    assert not (home / "runs" / "r" / "summary.json").exists()
    again = python("-m", "cnnjax", "sweep", *sweep, "--name", "r", "--resume", "--quiet").stdout
    assert again.splitlines()[:5] == whole.splitlines()[:5]
    assert what_remains(home / "runs" / "r") == what_remains(home / "runs" / "whole")
    more = [*sweep, "--learning-rate", "0.01", "0.03", "0.1", "0.3", "0.05", "--extend", "runs/r", "--name", "more"]
    assert "10 trials: 10 complete" in python("-m", "cnnjax", "sweep", *more, "--quiet").stdout
    load = "import cnnjax; t = cnnjax.load_run('runs/more'); print(t.logits(cnnjax.load('digits').test.inputs).shape)"
    assert python("-c", load).stdout == "(360, 10)\n"
