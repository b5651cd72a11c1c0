"""The run folder."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest

from cnnjax import (
    SGD,
    Adam,
    CNNConfig,
    Cosine,
    Flip,
    Metric,
    MLPConfig,
    Step,
    SweepConfig,
    TrainConfig,
    config,
    load_run,
)
from cnnjax.data import Dataset
from cnnjax.descriptions import configuration, describe
from cnnjax.options import text, with_values
from cnnjax.runs import (
    FORMAT,
    RecordError,
    RunFolder,
    describe_data,
    differences,
    plain,
    read_record,
    trial_rows,
)
from cnnjax.runs.begin import begin
from cnnjax.runs.environment import environment
from cnnjax.runs.records import readable
from cnnjax.sweeps import Result, trials

TRAIN = TrainConfig(CNNConfig(filters=(8, 16)), SGD(learning_rate=0.03))


def test_a_run_folder_is_never_overwritten(tmp_path: Path) -> None:
    with RunFolder.within(tmp_path, "mine") as folder:
        folder.write_json("a.json", {})
        with pytest.raises(FileExistsError):
            folder.write_json("a.json", {})
    with pytest.raises(FileExistsError, match=f"run folder {tmp_path}/mine exists: choose another --name"):
        RunFolder.within(tmp_path, "mine")


def test_runs_of_one_second_get_different_names(tmp_path: Path) -> None:
    paths = set()
    for _ in range(5):
        with RunFolder.within(tmp_path, None, "digits") as folder:
            paths.add(folder.path)
    assert len(paths) == 5
    assert all(path.name.startswith("digits-") for path in paths)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "/abs", ""])
def test_a_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="give a plain folder name"):
        RunFolder.within(tmp_path / "runs", name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"no run folder in {tmp_path}/file: File exists: choose another --runs-dir"):
        RunFolder.within(tmp_path / "file", None)


def test_what_does_not_exist_is_null_or_empty(tmp_path: Path) -> None:
    row = {"trial": 0, "filters": (8, 16), "loss": math.nan, "rate": 0.1, "none": None}
    with RunFolder.within(tmp_path, "r") as folder:
        folder.append_metrics([row])
        folder.append_metrics([{"trial": 1, "loss": math.inf}])
        folder.write_csv("t.csv", [row])
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"trial": 0, "filters": "8,16", "loss": None, "rate": 0.1, "none": None},
        {"trial": 1, "loss": None},
    ]
    [found] = csv.DictReader((tmp_path / "r" / "t.csv").read_text().splitlines())
    assert found == {"trial": "0", "filters": "8,16", "loss": "", "rate": "0.1", "none": ""}


def test_a_configuration_is_written_whole() -> None:
    sweep = SweepConfig(TRAIN, (("filters", ((8, 16), (4, 4))),), 2)
    written = json.loads(json.dumps(plain(describe(sweep))))
    assert written["axes"] == {"filters": [[8, 16], [4, 4]]}
    assert written["seeds"] == 2
    assert written["base"]["class"] == "cnnjax.TrainConfig"
    assert written["base"]["network"]["class"] == "cnnjax.CNNConfig"
    assert written["base"]["network"]["filters"] == [8, 16]
    assert written["base"]["network"]["dropout"] is None
    assert written["base"]["optimizer"]["learning_rate"] == 0.03
    assert written["base"]["optimizer"]["schedule"] == {"class": "cnnjax.Cosine", "warmup": 0.0}
    assert written["base"]["loss"] == {"class": "cnnjax.CrossEntropy", "label_smoothing": 0.0, "class_weight": None}
    assert written["base"]["epochs"] == 10


def test_environment_tells_versions_and_commit(tmp_path: Path) -> None:
    found, root = environment(), Path(__file__).parents[1]
    assert found["packages"]["jax"]
    assert found["device"].startswith("cpu")
    assert (found["commit"] is not None) == (root / ".git").exists()


def test_the_source_s_digest_covers_what_decides_and_leaves_out_what_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = shutil.copytree(Path(__file__).parents[1] / "cnnjax", tmp_path / "cnnjax")
    monkeypatch.setattr("cnnjax.runs.environment.__file__", str(package / "runs" / "environment.py"))
    before = environment()
    assert before["commit"] is None  # not a checkout
    for room, same in (("commands/sweep.py", True), ("pictures/grids.py", True), ("runs/runner.py", False)):
        with (package / room).open("a") as file:
            file.write("\n")
        assert (environment() == before) is same, room


def test_values_read_as_on_the_command_line() -> None:
    values = ((8, 16), 0.1, 1e30, "relu", 3, None, (), text, SGD(momentum=0.5), (Flip(),))
    words = ["8,16", "0.1", "1e+30", "relu", "3", "none", "none", "text", "sgd momentum=0.5", "flip"]
    assert [text(value) for value in values] == words


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": math.nan}, "learning_rate: nan: must be finite"),
        ({"learning_rate": math.inf}, "learning_rate: inf: must be finite"),
        ({"momentum": 1.0}, "momentum: 1.0: must be at least 0 and below 1"),
        ({"epochs": 0}, "epochs: 0: must be at least 1"),
        ({"seed": -1}, "seed: -1: must be at least 0 and below 4294967296"),
        ({"learning_rate": 1e300}, "learning_rate: 1e\\+300: must be at least 0 and at most 3.4e\\+38"),
        ({"epochs": 10**400}, "epochs: 1.*: must be at least 1 and at most 2147483647"),
        ({"epochs": "x"}, "epochs: 'x': must be of type int, such as 10"),
        ({"filters": 8}, r"filters: 8: must be a tuple of integers, such as 16,32"),
        ({"filters": (8.0,)}, r"filters: \(8.0,\): must be a tuple of integers"),
        ({"dropout": 1}, "dropout: 1.0: must be at least 0 and below 1"),
        ({"clip_norm": "x"}, "clip_norm: 'x': must be a number or None"),
        ({"learning_rate": None}, "learning_rate: None: must be a number"),
        ({"batch_norm": 1}, "batch_norm: 1: must be of type bool"),
        ({"kernel": 0}, "kernel: 0"),
        ({"filter": (8,)}, "filter: no such option: did you mean 'filters'. use one of activation, "),
    ],
)
def test_a_value_out_of_range_is_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_values(TRAIN, values)


@pytest.mark.parametrize(
    ("axes", "seeds", "message"),
    [
        ((("learning_rate", ()),), 1, "learning_rate: give at least one value"),
        ((("filters", ((8,), (8,))),), 1, "filters: 8 8: duplicate value"),
        ((), 0, "seeds: 0: must be at least 1"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(axes: tuple, seeds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(TRAIN, axes, seeds)


# ------------------------------------------------------------------------- going on


def test_a_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = CNNConfig(filters=(8, 16), padding=1, dense=(), dropout=0.2)
    train = TrainConfig(network, SGD(learning_rate=0.03, schedule=Cosine(warmup=0.1)), batch_size=32, seed=7)
    axes = (("filters", ((8, 16), (4, 4))), ("padding", ("SAME", 1)), ("optimizer", (SGD(), Adam(clip_norm=1.0))))
    sweep = SweepConfig(train, axes, 2)
    with RunFolder.within(tmp_path, "r") as folder:
        for i, config in enumerate((train, sweep, TrainConfig(MLPConfig(hidden=())))):
            folder.write_json(f"{i}.json", describe(config))
            assert configuration(folder.read_json(f"{i}.json")) == config


def test_a_configuration_of_an_earlier_release_has_the_defaults_of_what_is_new() -> None:
    train = TrainConfig(MLPConfig(), SGD(schedule=Step(warmup=0.1)))
    described = describe(train)
    for name in ("ema", "patience"):
        del described[name]
    for name in ("first", "second", "drop"):
        del described["optimizer"]["schedule"][name]
    assert configuration(described) == train
    assert list(differences({**described, "optimizer": 0}, {**describe(train), "optimizer": 0})) == []


@pytest.mark.parametrize(
    "described",
    [
        1,
        [],
        None,
        {},
        {"network": {}},
        {"class": "cnnjax.SGD"},
        {"class": "cnnjax.TrainConfig"},
        {"axes": {}, "base": 1},
    ],
)
def test_what_is_no_configuration_is_refused(described: object) -> None:
    with pytest.raises(ValueError, match="not a configuration"):
        configuration(described)


def test_a_configuration_out_of_range_is_refused() -> None:
    described = json.loads(json.dumps(plain(describe(TRAIN))))
    described["optimizer"]["momentum"] = 2
    with pytest.raises(ValueError, match=r"momentum: 2\.0: must be at least 0 and below 1"):
        configuration(described)


# ------------------------------------------------------------------------- formats


def test_every_record_bears_its_format(tmp_path: Path) -> None:
    with RunFolder.within(tmp_path, "r") as folder:
        folder.write_json("a.json", {"b": 1})
        folder.write_json("a.json", {"b": 2}, again=True)
        assert json.loads((folder.path / "a.json").read_text()) == {"format": FORMAT, "b": 2}
        assert folder.read_json("a.json") == read_record(folder.path / "a.json") == {"b": 2}
        assert folder.read_json("none.json") is None


def test_a_folder_of_the_first_format_is_refused_with_the_version_that_reads_it() -> None:
    folder = Path(__file__).parent / "data" / "format-1"
    with pytest.raises(RecordError, match=r"config\.json: format 1, written by cnnjax 0\.1: ") as error:
        load_run(folder)
    assert str(folder / "config.json") in str(error.value)
    assert "\n" not in str(error.value)
    for name in ("config", "env", "data", "plan", "summary"):
        with pytest.raises(
            RecordError, match=rf"{name}\.json: format 1, written by cnnjax 0\.1: read it with that version"
        ):
            read_record(folder / f"{name}.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged: "),
        ("[1]", "damaged: must be a JSON object, not list"),
        ("{}", "format 1, written by cnnjax 0.1"),
        (
            '{"format": 3}',
            "format 3, written by another version: read it with that version; this version reads format 2",
        ),
        ('{"format": "2"}', "format 2, written by another version"),
        ('{"format": [1]}', "written by another version"),
        ('{"format": null}', "format None, written by another version"),
        ("[" * 100_000, "damaged: nested too deeply"),
    ],
)
def test_a_record_of_another_format_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=message) as error:
        read_record(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_records_are_json_with_a_line_for_each_entry_that_holds_no_other() -> None:
    value = {"a": [], "b": {"c": [1, 2, 3], "d": [{"e": "[x]", "f": None}, {"g": [[4, 5]]}]}, "h": {}}
    assert json.loads(readable(value)) == value
    assert readable({}) == "{}"
    lines = [line.strip().rstrip(",") for line in readable(value).splitlines()]
    assert {'"a": []', '"c": [1, 2, 3]', '{"e": "[x]", "f": null}', "[4, 5]"} <= set(lines)


@config
class SquaredDistance(Metric):
    higher_is_better = False


def test_the_table_has_the_columns_of_its_metric_and_of_all_axes(tmp_path: Path) -> None:
    """What a trial's parts lack is empty, what is off is `none`."""
    base = TrainConfig(CNNConfig(), metric=SquaredDistance())
    axes = (("optimizer", (Adam(), SGD())), ("momentum", (0.5, 0.9)), ("dropout", (None, 0.3)))
    sweep = SweepConfig(base, axes, seeds=1)
    found = [Result(trial, "complete", 5, 1, 0.1, 0.2, 0.3) for trial in trials(sweep)]
    with RunFolder.within(tmp_path, "r") as folder:
        rows = trial_rows(found, {1: (0.4, 0.5)}, base.metric, [name for name, _ in axes])
        folder.write_csv("t.csv", rows)
    lines = [*csv.DictReader((tmp_path / "r" / "t.csv").read_text().splitlines())]
    swept = [(line["optimizer"], line["momentum"], line["dropout"]) for line in lines]
    assert swept == [
        ("adam", "", "none"),
        ("adam", "", "0.3"),
        ("sgd", "0.5", "none"),
        ("sgd", "0.5", "0.3"),
        ("sgd", "0.9", "none"),
        ("sgd", "0.9", "0.3"),
    ]
    assert [line["valid_squared_distance"] for line in lines] == ["0.3"] * 6
    assert [line["test_squared_distance"] for line in lines] == ["", "0.4", "", "", "", ""]
    assert [line["test_loss"] for line in lines] == ["", "0.5", "", "", "", ""]


# ------------------------------------------------------------------------- lines


LINE = {
    "trial": 0,
    "epoch": 1,
    "step": 19,
    "train_loss": 0.5,
    "train_accuracy": 0.9,
    "valid_loss": 0.6,
    "valid_accuracy": 0.8,
}


def test_a_run_that_recorded_less_of_its_data_is_resumed(small: Dataset, tmp_path: Path) -> None:
    one = TrainConfig(MLPConfig((4,)), data="small")
    with RunFolder.within(tmp_path, "r") as folder:
        begin(folder, one, small)
        earlier = {name: value for name, value in folder.read_json("data.json").items() if name != "margin"}
        folder.write_json("data.json", earlier, again=True)
        assert begin(folder, one, small).replaced == {}
        folder.write_json("data.json", {**earlier, "sha256": "0"}, again=True)
        with pytest.raises(ValueError, match="sha256 0 there"):
            begin(folder, one, small)


def test_a_closed_folder_is_read_but_not_written(tmp_path: Path) -> None:
    with RunFolder.within(tmp_path, "r") as folder:
        folder.write_json("a.json", {"b": 1})
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert folder.read_json("a.json") == {"b": 1}
    assert folder.metrics() == []
    for write in (
        lambda: folder.write_json("a.json", {}, again=True),
        lambda: folder.write_csv("a.csv", [{"b": 1}]),
        lambda: folder.append("command", "a"),
        lambda: folder.append_metrics([LINE]),
        lambda: folder.cut_metrics(0),
        lambda: folder.drop_states(0, 0),
    ):
        with pytest.raises(ValueError, match=r"r: closed: open it with RunFolder\(path, resume=True\) to write"):
            write()
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_a_folder_is_gone_on_with_only_where_asked(tmp_path: Path) -> None:
    with RunFolder.within(tmp_path, "r", resume=True) as folder:
        folder.append_metrics([LINE])
        with pytest.raises(BlockingIOError, match="used by another process"):
            RunFolder.within(tmp_path, "r", resume=True)
    with RunFolder.within(tmp_path, "r", resume=True) as folder:
        assert folder.metrics() == [LINE]
    with pytest.raises(FileExistsError, match="continue it with --resume"):
        RunFolder.within(tmp_path, "r")


def test_lines_are_cut_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    rows = [{**LINE, "epoch": epoch} for epoch in (1, 2, 3)]
    with RunFolder.within(tmp_path, "r") as folder:
        folder.append_metrics(rows)
        path = folder.path / "metrics.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + whole[:9])
        assert folder.metrics() == rows
        folder.cut_metrics(3)
        assert path.read_bytes() == whole
        folder.cut_metrics(1)
        assert folder.metrics() == rows[:1]
        path.write_bytes(whole[:9] + b"\n" + whole)
        with pytest.raises(RecordError, match=rf"{path}: line 1 is damaged"):
            folder.metrics()
        for row in (
            {"trial": 0, "epoch": 1},
            {**LINE, "epoch": 1.0},
            {**LINE, "valid_accuracy": "x"},
            {**LINE, "valid_error": 0.1},
            {name: value for name, value in LINE.items() if name != "valid_accuracy"},
        ):
            path.write_text(json.dumps(row) + "\n")
            with pytest.raises(RecordError, match="line 1 is damaged: fields are missing or have the wrong type"):
                folder.metrics()


def test_lines_have_the_columns_of_their_metric(tmp_path: Path) -> None:
    row = {name.replace("accuracy", "squared_distance"): value for name, value in LINE.items()}
    with RunFolder.within(tmp_path, "r") as folder:
        folder.append_metrics([row])
        assert folder.metrics() == [row]


def test_differences_are_named(digits: Dataset) -> None:
    there = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    here = {"a": {"b": 2, "c": [1, 2]}, "e": "x" * 99}
    assert list(differences(there, here)) == [
        "a.b 1 there, 2 here",
        "d 1 there, None here",
        "e None there, xxxxxxxxxxxx... here",
    ]
    changed = digits.test.labels.copy()
    changed[0] += 1
    other = digits._replace(test=digits.test._replace(labels=changed))
    assert [line.split()[0] for line in differences(describe_data(digits), describe_data(other))] == ["sha256"]
