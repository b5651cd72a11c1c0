"""The command `look`: what it draws, prints and writes, for every kind of network and data, and what it refuses."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import ROOT, Process, mistake, script

import cnnjax
from cnnjax import SGD, CNNConfig, Dataset, Loss, Metric, MLPConfig, Split, SweepConfig, TrainConfig, load_run
from cnnjax.commands import chapters, checks
from cnnjax.commands.look import Arguments, main
from cnnjax.commands.subject import Subject, evenly
from cnnjax.look import Calibration, PerClass, ReceptiveField
from cnnjax.pictures import attributions, evaluation, layers, units
from cnnjax.pictures.sheet import Place, Sheet, as_curves, as_image, as_map, note
from cnnjax.sweeps import Program, Trial, compile_program
from cnnjax.training import Lanes

TRAIN = TrainConfig(CNNConfig(filters=(4,)), SGD(learning_rate=0.1), data="digits", epochs=2)
PICTURES = {
    *("filters", "feature-maps", "receptive-fields", "units-blocks.0.convolutions.0", "outputs", "dead-units"),
    *("attributions", "randomization", "features", "confusion", "per-class", "calibration", "mistakes"),
}


@cnnjax.config
class Squared(Loss):
    def __call__(self, logits: Any, labels: Any) -> Any:
        return (logits[:, 0] - labels) ** 2


@cnnjax.config
class AbsoluteError(Metric):
    higher_is_better = False

    def __call__(self, logits: Any, labels: Any) -> Any:
        return abs(logits[:, 0] - labels)


@pytest.fixture(scope="module")
def swept(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose second trial wins."""
    folder = tmp_path_factory.mktemp("runs") / "swept"
    cnnjax.sweep(SweepConfig(TRAIN, (("learning_rate", (1e-6, 0.1)),), seeds=1), digits, store=folder, lanes="1:1")
    return folder


@pytest.fixture(scope="module")
def subject(swept: Path, digits: Dataset) -> Subject:
    return Subject(load_run(swept), digits, "swept", examples=50)


def series(count: int, seed: int, channels: int = 2) -> Split:
    """Series [count, 24, channels] of one of two frequencies."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 2).astype(np.int32)
    waves = np.sin(np.linspace(0, 6, 24) * (1 + 2 * labels[:, None]))
    return Split((waves[..., None] + rng.normal(0, 0.2, (count, 24, channels))).astype(np.float32), labels)


def told(capsys: pytest.CaptureFixture[str], run: Path, **arguments: Any) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, and standard error of `look`."""
    try:
        main(Arguments(run, compilation_cache=False, **arguments))
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


# ------------------------------------------------------------------------- the command


@pytest.mark.slow
def test_a_sweep_s_winner_is_drawn_explained_and_measured(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, tmp_path / "run")
    code, lines, _ = told(capsys, tmp_path / "run", examples=100)
    assert code == 0
    figures = tmp_path / "run" / "winner" / "figures"
    assert {path.stem for path in figures.glob("*.png")} == PICTURES
    assert lines[-1] == str(figures / "look.html")
    page = (figures / "look.html").read_text()
    assert page.count("<figure>") == page.count("<img ") == len(PICTURES)
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert len((figures / "look.html").read_bytes()) < 5e6
    for caption in re.findall(r"<figcaption>(.*?)</figcaption>", page):
        assert len(re.findall(r"\.(?=[ <]|$)", caption)) >= 3  # a title and two sentences
    assert [line.split()[0] for line in lines if line.startswith(("spectral", "activation", "rank"))] == [
        *("spectral", "activation", "rank")
    ]
    facts = json.loads((figures / "look.json").read_text())
    assert facts["trial"] == 1
    assert set(facts["smoothness"]) == {"blocks.0.convolutions.0"}
    assert len(facts["reached"]["units"]) <= checks.FIXED
    assert facts["randomization"]["layers"] == ["dense.0", "blocks.0.convolutions.0"]
    recall = facts["recall"]
    worst = min(recall, key=lambda name: recall[name])
    assert lines[-2].startswith(
        f"recall on 180 validation examples: lowest {100 * recall[worst]:.2f} % (class {worst}, "
    )
    assert lines[-2].endswith(f" examples), mean of the classes {100 * np.mean([*recall.values()]):.2f} %")
    assert lines[-3] == f"methods that fail the check (above 0.5 with all layers random): {_failed(facts)}"


def _failed(facts: dict[str, Any]) -> str:
    found = facts["randomization"]["correlations"].items()
    return ", ".join(name for name, values in found if values[-1] is not None and values[-1] > 0.5) or "none"


@pytest.mark.slow
def test_another_trial_and_other_units_are_drawn(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(swept, tmp_path / "run")
    code, lines, _ = told(capsys, tmp_path / "run", trial=0, layer=("dense.0", "blocks.0"), unit=(3,), examples=30)
    assert code == 0
    figures = tmp_path / "run" / "figures" / "trial-0"
    assert lines[-1] == str(figures / "look.html")
    assert {path.stem for path in figures.glob("units-*.png")} == {"units-dense.0", "units-blocks.0"}
    assert not (tmp_path / "run" / "winner" / "figures" / "look.html").exists()


@pytest.mark.slow
def test_a_run_in_progress_is_drawn(tmp_path: Path) -> None:
    run = Process(
        "train", "digits", "--epochs", "20000", "--filters", "4", "--save-seconds", "1", "--name", "r", cwd=tmp_path
    )
    try:
        for _ in range(600):
            if run.poll() is not None or list(tmp_path.glob("runs/r/checkpoints/0/*/manifest.json")):
                break
            time.sleep(0.1)
        done = script("look", "runs/r", "--examples", "50", cwd=tmp_path)
    finally:
        run.kill()
        run.communicate()
    assert "the run has not finished: this is its most recent checkpoint" in done.stdout
    assert (tmp_path / "runs" / "r" / "figures" / "look.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "data", "omitted"),
    [
        ("series", CNNConfig(filters=(4,), kernel=5), (("slow", "fast"), series(60, 0)), set()),
        (
            "dense",
            MLPConfig(hidden=(8,)),
            (("slow", "fast"), series(60, 0, 9)),
            {"filters", "receptive fields", "Grad-CAM"},
        ),
        (
            "values",
            MLPConfig(hidden=()),
            ((), Split(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32), np.arange(60.0))),
            {"filters", "receptive fields", "Grad-CAM", "occlusion", "confusion matrix"},
        ),
    ],
)
def test_what_a_network_lacks_is_left_out_and_said(
    name: str, config: Any, data: Any, omitted: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes, split = data
    loss = {} if classes else {"loss": Squared(), "metric": AbsoluteError()}
    train = TrainConfig(config, SGD(learning_rate=0.01), data=name, epochs=1, batch_size=8, **loss)
    known = Dataset.of(name, classes, split)
    trained = cnnjax.fit(train, known, store=tmp_path / "run", lanes="1:1")
    subject = Subject(trained, known, name, examples=20)
    found = [chapter(subject) for chapter in chapters.CHAPTERS]
    told = {names.split(",")[0]: reason for part in found for names, reason in part.omitted}
    assert set(told) == omitted
    drawn = {picture.name for part in found for picture in part.pictures}
    assert {"feature-maps", "outputs", "attributions", "randomization", "features"} <= drawn
    assert ("filters" in drawn) == ("filters" not in omitted)
    assert ("confusion" in drawn) == bool(classes)


@pytest.mark.slow
def test_a_network_of_one_s_own_is_drawn(tmp_path: Path) -> None:
    preset = ROOT / "tests" / "presets" / "squeeze.py"
    script("train", preset, "--epochs", "1", "--name", "own", cwd=tmp_path)
    done = script("look", "runs/own", "--preset", preset, "--examples", "40", cwd=tmp_path)
    assert "left out" not in done.stdout
    figures = tmp_path / "runs" / "own" / "figures"
    assert {"units-convolutions.0", "units-convolutions.1", "confusion"} <= {path.stem for path in figures.iterdir()}


# ------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"run": Path("nowhere")}, 2, "run: nowhere: no such run folder"),
        ({"run": ROOT}, 2, "is not a run folder"),
        ({"trial": 7}, 2, "trial: 7: must be a trial of"),
        ({"layer": ("blocks.0.convolution.0",)}, 2, "did you mean 'blocks.0.convolutions.0'?"),
        ({"unit": (4,)}, 2, "unit: 4: must be from 0 to 3 in layer 'blocks.0.convolutions.0': give the layer with --layer"),
        ({"layer": ("dense.0",), "unit": (2, 10)}, 2, "unit: 10: must be from 0 to 9 in layer 'dense.0'"),
        ({"unit": (-1,)}, 2, "unit: -1: must be from 0 to 3"),
        ({"examples": 0}, 2, "examples: 0: must be at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(
    arguments: dict[str, Any], code: int, message: str, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, error = told(capsys, **{"run": swept, **arguments})
    assert found == code
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (swept / "winner" / "figures" / "look.html").exists()


@pytest.mark.slow
def test_a_run_without_checkpoint_or_with_a_diverged_network_is_refused(swept: Path, tmp_path: Path) -> None:
    shutil.copytree(swept / "winner", tmp_path / "none")
    shutil.rmtree(tmp_path / "none" / "checkpoints")
    mistake("look", "none", cwd=tmp_path, code=1, message="has no checkpoint in none/checkpoints/0")
    high = ["--learning-rate", "1e9", "--filters", "4", "--epochs", "1", "--name", "r"]
    script("train", "digits", *high, cwd=tmp_path, check=False)
    shutil.rmtree(tmp_path / "runs" / "r" / "figures", ignore_errors=True)
    done = script("look", "runs/r", "--examples", "10", cwd=tmp_path, check=False)
    assert done.returncode in (0, 1)  # a diverged run keeps its last finite parameters
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------- numbers


def test_the_initial_filters_are_those_that_training_began_with(subject: Subject, digits: Dataset) -> None:
    run = compile_program(Program((Trial(0, 0, (), subject.trained.config),), Lanes()), digits)
    started = jax.tree.map(lambda array: np.asarray(array[0]), run.state.params)
    assert jax.tree.all(jax.tree.map(np.array_equal, started, subject.initial.params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, started, subject.variables.params))


def test_only_validation_examples_are_used(subject: Subject, digits: Dataset) -> None:
    valid = {row.tobytes() for row in np.asarray(digits.valid.inputs)}
    assert all(row.tobytes() in valid for row in subject.searched.inputs)
    assert len(subject.searched.labels) == 50
    np.testing.assert_allclose(subject.logits, subject.trained.logits(digits.valid.inputs), rtol=1e-4, atol=1e-5)
    recorded = subject.trained.rows[-1]["valid_accuracy"]
    assert np.mean(subject.logits.argmax(1) == subject.labels) == pytest.approx(recorded)


def test_sixteen_fixed_units_lie_at_even_distances(subject: Subject) -> None:
    assert checks.fixed_units(subject) == {"blocks.0.convolutions.0": [0, 1, 2, 3]}
    assert evenly(range(22), 16) == [0, 1, 3, 4, 6, 7, 8, 10, 11, 13, 14, 15, 17, 18, 20, 21]
    assert evenly([], 4) == []
    assert evenly("ab", 4) == ["a", "b"]


def test_the_activation_reached_is_compared_with_the_largest_in_the_data(subject: Subject) -> None:
    layer = "blocks.0.convolutions.0"
    top = cnnjax.look.Top(np.array([[2.0], [-1.0], [4.0], [0.0]]), np.zeros((4, 1), int), np.zeros((4, 1, 2), int))
    found = {
        layer: checks.Searched(
            [0, 1, 2, 3], cnnjax.look.Maximized(np.zeros((4, 8, 8, 1)), np.array([1.0, 5, 12, 3])), top
        )
    }
    assert checks.reached(subject, found) == {f"{layer}/0": 0.5, f"{layer}/2": 3.0}
    line, facts = chapters._reached(subject, found)
    assert (
        "4 units, 2 of them positive for no example and left out: min 0.50, quartiles 1.12 1.75 2.38, max 3.00" in line
    )
    assert facts["quartiles"] == [0.5, 1.125, 1.75, 2.375, 3.0]


def test_a_method_that_ignores_the_parameters_fails_the_check(subject: Subject) -> None:
    shape = subject.attributed.inputs.shape
    rng = np.random.default_rng(0)
    methods = {
        "the input": lambda variables: subject.attributed.inputs,
        "noise": lambda variables: rng.normal(size=shape),
        "nothing": lambda variables: np.zeros(shape),
    }
    trained = {name: np.asarray(method(subject.variables)) for name, method in methods.items()}
    found = checks.randomization(subject, trained, methods)
    assert found.layers == ["dense.0", "blocks.0.convolutions.0"]
    assert found.failed == ["the input"]
    assert found.correlations["the input"] == pytest.approx([1, 1])
    assert np.abs(found.correlations["noise"]).max() < 0.2
    assert np.isnan(found.correlations["nothing"]).all()


def test_examples_with_attributions_are_of_every_class(subject: Subject) -> None:
    assert sorted(set(subject.classes_of(subject.attributed)[:10].tolist())) == list(range(10))
    assert len(subject.attributed.labels) == len(subject.targets) == 16


# ------------------------------------------------------------------------- pictures


def test_inputs_of_any_shape_are_images_or_curves() -> None:
    gray = as_image(np.array([[[0.0], [8.0]], [[16.0], [20.0]]]), (0, 16))
    np.testing.assert_array_equal(gray, [[0, 0.5], [1, 1]])
    assert as_image(np.zeros((4, 5, 3)), (0, 1)).shape == (4, 5, 3)
    many = as_image(np.stack([np.zeros((2, 2)), np.full((2, 2), 8)], -1), (np.array([0, 0]), np.array([1, 16])))
    np.testing.assert_array_equal(many, np.full((2, 2), 0.25))
    assert as_image(np.zeros((3, 4, 5, 1)), (0, 1)).shape == (4, 5)
    assert [as_map(np.zeros(shape)).shape for shape in ((4,), (2, 3), (3, 4, 5))] == [(1, 4), (2, 3), (4, 5)]
    assert note((8, 8, 1)) == note((8, 8, 3)) == note((24, 1)) == note((5,)) == ""
    assert note((8, 8, 2)) == "Inputs are drawn as the mean over 2 channels."
    assert note((3, 8, 8, 1)) == "Inputs are drawn as the middle slice."
    assert note((24, 2)) == "Channels: 1 blue, 2 orange; each has its own scale."
    assert note((24, 9)).startswith("Channels (the first 8 of 9): 1 blue, 2 orange, ")


def test_a_sheet_places_images_in_their_cells() -> None:
    sheet = Sheet(2, 3, 1.0, 1.0, gap=0.0)
    sheet.image(Place(1, 2), np.zeros((2, 4)))
    sheet.stretched(Place(0, 0, 3), np.zeros((1, 4)))
    sheet.curves(Place(0, 1), np.array([[0.0], [1.0]]), (0, 1))
    assert [list(image.get_extent()) for image in sheet.axis.images] == [[2, 3, 1.75, 1.25], [0, 3, 1, 0]]
    np.testing.assert_allclose(sheet.axis.lines[0].get_xydata(), [[1.25, 0.95], [1.75, 0.05]])
    sheet.left(0, "a long name of a layer")
    before = sheet.figure.get_figwidth()
    sheet.finish("title")
    assert sheet.figure.get_figwidth() > before + 1


def test_each_channel_of_a_series_has_its_own_scale() -> None:
    series = np.array([[0.0, -50.0], [1.0, 50.0]])
    data = Dataset.of("two", "ab", Split(np.stack([series] * 40), np.arange(40) % 2))
    drawn = as_curves(series, (data.spec.low, data.spec.high))
    np.testing.assert_allclose(drawn, [[0, 0], [1, 1]])
    sheet = Sheet(1, 1)
    sheet.example(Place(0, 0), series, (np.array(data.spec.low), np.array(data.spec.high)))
    first, second = (line.get_xydata() for line in sheet.axis.lines)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("steps", "size"), [(40, 5), (40, 20), (12, 5)])
def test_the_shaded_part_of_a_window_is_the_receptive_field(steps: int, size: int) -> None:
    inputs, field = np.arange(3.0 * steps).reshape(3, steps, 1), ReceptiveField((size,), (2,), (-2,))
    around, marked = chapters._around(field, (steps, 1))
    assert around
    assert marked
    places = np.array([[0], [3], [(steps - 1) // 2]])
    wide = chapters._patches(inputs, around, places)
    start, stop = (round(share * wide.shape[1]) for share in marked)
    np.testing.assert_array_equal(wide[:, start:stop], chapters._patches(inputs, field, places))
    assert wide.shape[1] <= min(3 * size, steps)


def test_what_has_no_steps_around_it_is_not_shaded() -> None:
    whole, all_of_it = ReceptiveField((12,), (1,), (0,)), ReceptiveField((5,), (0,), (0,))
    image = ReceptiveField((3, 3), (1, 1), (0, 0))
    for field, shape in ((None, (12, 1)), (whole, (12, 1)), (all_of_it, (40, 1)), (image, (8, 8, 1))):
        assert chapters._around(field, shape) == (field, None)


def _images(count: int, *shape: int) -> list[np.ndarray]:
    return [*np.random.default_rng(0).random((count, *shape))]


IMAGE = {"gray": (8, 8, 1), "color": (8, 8, 3), "channels": (8, 8, 4), "series": (24, 2), "volume": (4, 8, 8, 1)}


@pytest.mark.parametrize("shape", IMAGE.values(), ids=IMAGE)
def test_every_kind_of_input_is_drawn(shape: tuple[int, ...]) -> None:
    space, limits = len(shape) - 1, (0.0, 1.0)
    [example] = _images(1, *shape)
    kernels = np.random.default_rng(0).normal(size=(2, *(3,) * space, shape[-1], 5))
    maps = {"a": np.ones((*(4,) * space, 20)), "b": np.arange(7.0)}
    field = ReceptiveField((3,) * space, (2,) * space, (-1,) * space)
    outside = np.full(shape, np.nan)
    unit = units.Unit(3, example, 1.5, [example, outside], [2.0, 1.0])
    figures = [
        layers.filters(*kernels, "title"),
        layers.feature_maps(example, maps, limits, "title"),
        layers.receptive_fields(example, {"a": field}, {"a": (1,) * space}, limits, "title"),
        units.units([unit, unit], limits, "title"),
        units.units([unit._replace(starts=[0, 7])], limits, "title", marked=(0.25, 0.75)),
        units.maximized([example] * 6, ["a"] * 6, limits, "title"),
        attributions.attributions(
            [example], ["a"], {"one": [example[..., 0]], "two": [np.zeros((2,) * space)]}, limits, "title"
        ),
        evaluation.mistakes([example] * 7, ["a\nb"] * 7, limits, "title"),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert figure.get_suptitle() == "title"


def test_evaluations_are_drawn() -> None:
    few, many = ("a", "b", "c"), tuple(f"class {number}" for number in range(50))
    rng = np.random.default_rng(0)
    found: list[Callable[[], Any]] = []
    for classes in (few, many):
        counts, values = rng.integers(0, 9, (len(classes),) * 2), rng.random((3, len(classes)))
        values[0, 0] = np.nan
        labels = np.arange(60) % len(classes)
        found += [
            lambda classes=classes, counts=counts: evaluation.confusion(counts, classes, "title"),
            lambda classes=classes, values=values: evaluation.per_class(
                PerClass(*values, np.ones(len(classes), int)), classes, "title"
            ),
            lambda classes=classes, labels=labels: evaluation.embedding(
                {"PCA": rng.random((60, 2))}, labels, classes, "title"
            ),
        ]
    empty = Calibration(np.linspace(0, 1, 4), np.array([0, 1, 3]), *np.array([[np.nan, 0.5, 0.9]] * 2), 0.0)
    found += [
        lambda: evaluation.calibration(empty, "title"),
        lambda: evaluation.embedding({"PCA": rng.random((60, 2))}, rng.random(60), (), "title"),
        lambda: layers.dead_units({"a": np.array([True, False])}, "title"),
        lambda: attributions.randomization(["a", "b"], {"one": [0.4, np.nan], "two": [0.9, 0.8]}, 0.5, "title"),
    ]
    for draw in found:
        figure = draw()
        figure.canvas.draw()
        assert figure.get_suptitle().startswith("title")
