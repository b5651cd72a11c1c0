"""What is written for TensorBoard is what TensorBoard reads."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import needs

from cnnjax import SGD, Accuracy, Adam, Metric, config
from cnnjax.tensorboard import columns, curves, write

CURVES = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
METRICS = ("valid_accuracy", "valid_loss")

TRIALS = {
    number: {
        "learning_rate": (0.01, 1)[number % 2],
        "filters": (8, 16 * (number + 1)),
        "nesterov": number == 3,
        "padding": "SAME" if number < 8 else 1,
        "schedule": "a/b c" * 50 if number == 9 else "cosine",
        "seed": number,
    }
    for number in range(11)
}
NAMES = [f"{number:02} learning_rate={(0.01, 1)[number % 2]} filters=8,{16 * (number + 1)}" for number in TRIALS]


def row(trial: int, epoch: int, number: float | None) -> dict[str, Any]:
    return {"trial": trial, "epoch": epoch, "step": 5 * epoch, **dict.fromkeys(CURVES, number)}


ROWS = [row(trial, epoch, trial + epoch / 8) for epoch in (1, 2, 3) for trial in TRIALS if trial != 7]
ROWS += [row(4, 4, None), row(5, 4, math.nan), row(99, 1, 0.5), {**row(6, 4, 0.25), "train_loss": None}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    needs("tensorboardX")
    write(tmp_path / "tb", TRIALS, ROWS)
    return tmp_path / "tb"


def read(path: Path) -> Any:
    accumulator = needs("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(path))
    found.Reload()
    return found


def table(path: Path) -> tuple[Any, Any, Any]:
    """What the HParams page reads of a trial: the experiment, how it started and how it ended."""
    metadata = needs("tensorboard.plugins.hparams.metadata")
    content = read(path).summary_metadata
    held = {
        tag: entry.plugin_data.content for tag, entry in content.items() if entry.plugin_data.plugin_name == "hparams"
    }
    return (
        metadata.parse_experiment_plugin_data(held.pop(metadata.EXPERIMENT_TAG)),
        metadata.parse_session_start_info_plugin_data(held.pop(metadata.SESSION_START_INFO_TAG)),
        metadata.parse_session_end_info_plugin_data(held.pop(metadata.SESSION_END_INFO_TAG)),
    )


def test_a_trial_is_one_run(folder: Path) -> None:
    runs = sorted(folder.iterdir())
    assert len(runs) == len(TRIALS)
    assert all(run.name.startswith(name) for run, name in zip(runs, NAMES, strict=True))
    assert runs[0].name.endswith("nesterov=False padding=SAME schedule=cosine seed=0")
    assert all(len([*run.iterdir()]) == 1 for run in runs)


def test_the_curves_are_read_back_and_what_is_no_number_is_left_out(folder: Path) -> None:
    for number, run in enumerate(sorted(folder.iterdir())):
        found = read(run)
        for name in CURVES if number != 7 else ():
            steps = [(event.step, event.value) for event in found.Scalars(name)]
            last = [(20, 0.25)] if number == 6 and name != "train_loss" else []
            assert steps == [(5 * epoch, number + epoch / 8) for epoch in (1, 2, 3)] + last


def test_the_table_holds_what_was_swept(folder: Path) -> None:
    for number, run in enumerate(sorted(folder.iterdir())):
        experiment, start, end = table(run)
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        expected = {**TRIALS[number], "filters": f"8,{16 * (number + 1)}", "padding": "SAME" if number < 8 else "1"}
        assert values == expected
        assert {name: type(value) for name, value in values.items()} == {
            "learning_rate": float,
            "filters": str,
            "nesterov": bool,
            "padding": str,
            "schedule": str,
            "seed": float,
        }
        assert [info.name.tag for info in experiment.metric_infos] == [*METRICS]
        assert [info.name for info in experiment.hparam_infos] == [*TRIALS[0]]
        failed = end.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_name["STATUS_FAILURE"].number
        assert (end.status == failed) == (number in (4, 5, 6, 7))


@config
class SquaredDistance(Metric):
    higher_is_better = False


def test_the_curves_and_columns_are_those_of_the_metric(tmp_path: Path) -> None:
    needs("tensorboardX")
    assert (curves(), columns()) == (curves(Accuracy()), columns(Accuracy())) == (CURVES, METRICS)
    named = [name.replace("accuracy", "squared_distance") for name in CURVES]
    rows = [{"trial": trial, "epoch": 1, "step": 5, **dict.fromkeys(named, 0.5)} for trial in (0, 1)]
    write(tmp_path / "tb", {0: {"seed": 0}, 1: {"seed": 1}}, rows, SquaredDistance())
    for run in sorted((tmp_path / "tb").iterdir()):
        assert sorted(read(run).Tags()["scalars"]) == sorted(named)
        experiment, _, end = table(run)
        assert [info.name.tag for info in experiment.metric_infos] == ["valid_squared_distance", "valid_loss"]
        assert end.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[end.status].name == "STATUS_SUCCESS"


def test_what_a_trial_lacks_is_empty_and_what_is_off_is_none(tmp_path: Path) -> None:
    """Every run knows all columns, since the page takes them from any of them."""
    needs("tensorboardX")
    trials: dict[int, dict[str, Any]] = {
        0: {"optimizer": Adam(), "clip_norm": None, "activation": "relu", "seed": 0},
        1: {"optimizer": SGD(), "clip_norm": 0.5, "momentum": 0.5, "activation": read, "seed": 0},
        2: {"optimizer": SGD(), "clip_norm": 0.5, "momentum": 0.9, "activation": "relu", "seed": 0},
    }
    write(tmp_path / "tb", trials, ROWS)
    runs = sorted((tmp_path / "tb").iterdir())
    assert [run.name for run in runs] == [
        "0 optimizer=adam clip_norm=none activation=relu seed=0",
        "1 optimizer=sgd clip_norm=0.5 momentum=0.5 activation=read seed=0",
        "2 optimizer=sgd clip_norm=0.5 momentum=0.9 activation=relu seed=0",
    ]
    for number, run in enumerate(runs):
        experiment, start, _ = table(run)
        names = [info.name for info in experiment.hparam_infos]
        assert names == ["optimizer", "clip_norm", "activation", "seed", "momentum"]
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        assert values == {
            "optimizer": "sgd" if number else "adam",
            "clip_norm": "0.5" if number else "none",
            "activation": "read" if number == 1 else "relu",
            "seed": 0.0,
        } | ({"momentum": trials[number]["momentum"]} if number else {})


def test_written_again_it_is_the_same(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "half", TRIALS, ROWS[:9])
    for other in ("half", "new"):
        write(tmp_path / other, TRIALS, iter(ROWS))
        files = [path.relative_to(tmp_path / other) for path in (tmp_path / other).rglob("*")]
        assert sorted(files) == sorted(path.relative_to(folder) for path in folder.rglob("*"))
        for path in folder.rglob("events*"):
            assert (tmp_path / other / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_the_bytes_do_not_hang_on_the_process(folder: Path) -> None:
    """Maps of a protocol buffer come in no given order unless it is asked for."""
    parsed = needs("tensorboardX.proto.event_pb2")
    loader = needs("tensorboard.backend.event_processing.event_file_loader")
    path = next(iter(sorted(folder.rglob("events*"))))
    events = [parsed.Event.FromString(record) for record in loader.RawEventFileLoader(str(path)).Load()]
    start = events[2].summary.value[0].metadata.plugin_data.content
    places = [start.index(name.encode()) for name in sorted(TRIALS[0])]
    assert places == sorted(places)
    assert all(event.wall_time == 0 for event in events)


def test_without_tensorboardx_the_import_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="tensorboardX"):
        write(tmp_path / "tb", TRIALS, ROWS)
    assert not (tmp_path / "tb").exists()
