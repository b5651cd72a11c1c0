"""The loss on a plane of parameters: its directions, its values, the paths on it, and the commands that draw it."""

import math
import shutil
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, experiment, mistake, script
from flax import nnx
from PIL import Image

import cnnjax
from cnnjax import Dataset, NetworkConfig, TrainConfig, load_run, make_task
from cnnjax.look.surface import (
    Plane,
    around,
    filter_normalized,
    project,
    random_plane,
    spaced,
    surface,
    trajectory_plane,
)
from cnnjax.look.surface import trajectory as followed
from cnnjax.pictures.surface import Descent, loss_surface
from cnnjax.runs import Trained
from cnnjax.sweeps import Program, Trial, compile_program
from cnnjax.training import Lanes


class Normalized(nnx.Module):
    """A network of one's own with running averages, which the points of a surface share."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(math.prod(shape), rngs=rngs)
        self.dense = nnx.Linear(math.prod(shape), classes, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.dense(self.norm(inputs.reshape(len(inputs), -1)))


@cnnjax.config
class NormalizedConfig(NetworkConfig):
    module = Normalized
    per_example = True


CONFIG = TrainConfig(NormalizedConfig(), data="small", batch_size=16, epochs=2)


@pytest.fixture(scope="module")
def trained(small: Dataset) -> Trained:
    return cnnjax.fit(CONFIG, small, lanes="1:1")


@pytest.fixture(scope="module")
def descent() -> ModuleType:
    return experiment("descent")


def tree(seed: int, *points: int) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 2, 4), "dense": (5, 6), "bias": (6,)}
    return {name: rng.normal(size=(*points, *shape)).astype(np.float32) for name, shape in shapes.items()}


# ------------------------------------------------------------------------- directions


def test_filters_of_a_direction_have_the_norms_of_the_network_s() -> None:
    params = tree(0)
    params["dense"][:, 2] = 0
    found = filter_normalized(tree(1), params)
    for name, axes in (("kernel", (0, 1, 2)), ("dense", (0,))):
        norms = [np.linalg.norm(each[name].reshape(-1, each[name].shape[-1]), axis=0) for each in (found, params)]
        np.testing.assert_allclose(*norms, rtol=1e-6, err_msg=str(axes))
    assert not found["bias"].any()
    assert np.isfinite(filter_normalized({"a": np.zeros((2, 2))}, {"a": np.ones((2, 2))})["a"]).all()


def test_random_directions_differ_and_are_drawn_from_a_key() -> None:
    first, again, other = (random_plane(jax.random.key(seed), tree(0)) for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, again))
    assert not np.array_equal(first.first["kernel"], other.first["kernel"])
    assert not np.array_equal(first.first["kernel"], first.second["kernel"])
    with pytest.raises(ValueError, match="no array of two or more axes"):
        random_plane(jax.random.key(0), {"weights": np.ones(2)})


def test_a_path_in_a_plane_is_reproduced_by_its_places() -> None:
    base, first, second = (tree(seed) for seed in range(3))
    turns = np.linspace(0, 5, 9)
    path = jax.tree.map(
        lambda a, b, c: np.stack([a + t * np.cos(t) * b + t * np.sin(t) * c for t in turns]), base, first, second
    )
    plane, shares = trajectory_plane(path)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] >= shares[1] > 0
    directions = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(each)]) for each in plane[1:]]
    np.testing.assert_allclose(np.inner(directions, directions), np.eye(2), atol=1e-6)
    for each in (plane, Plane(base, first, second)):  # the directions of the second are oblique
        places = project(each, path)
        found = jax.vmap(each.at)(*places.T.astype(np.float32))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, path)
    places = project(plane, path)
    np.testing.assert_allclose(places[-1], 0, atol=1e-6)
    assert places[0, 0] <= 0 <= places[0, 1]


def test_a_plane_needs_points_and_parameters() -> None:
    for path in ({"w": np.ones((2, 3))}, {"w": np.ones((4, 1))}):
        with pytest.raises(ValueError, match="a plane needs 3 points of 2"):
            trajectory_plane(path)
    with pytest.raises(ValueError, match="not finite"):
        trajectory_plane({"w": np.full((4, 3), np.nan)})


def test_a_grid_has_its_center() -> None:
    for low, high, points in ((-1, 1, 51), (-0.3, 2.9, 7), (-5, 0, 4), (-1, 1, 6)):
        axis = spaced(low, high, points)
        step = (high - low) / (points - 1)
        assert (axis == 0).sum() == 1
        np.testing.assert_allclose(np.diff(axis), step, rtol=1e-5)
        assert abs(axis[0] - low) <= 0.51 * step
    places = np.array([[-3, 8], [1, 2]])
    for axis, column in zip(around(places, 9), places.T, strict=True):
        assert axis[0] < column.min() <= column.max() < axis[-1]
        assert (axis == 0).any()
    with pytest.raises(ValueError, match="points: 2: must be at least 3"):
        spaced(-1, 1, 2)
    with pytest.raises(ValueError, match="must contain 0"):
        spaced(1, 2, 5)


# ------------------------------------------------------------------------- the surface


def test_the_surface_of_a_quadratic_is_exact(descent: ModuleType) -> None:
    data = descent.examples(23)  # no whole number of batches
    parts = {"loss": descent.LeastSquares(), "metric": descent.AbsoluteError()}
    task = make_task(TrainConfig(descent.NeuronConfig(), **parts, batch_size=8), data.spec)
    zero, first, second = ({"weights": jnp.array(vector)} for vector in ((0.0, 0.0), (1.0, 1.0), (0.0, 2.0)))
    x, y = spaced(-2, 2, 5), spaced(-1, 1, 3)
    found = surface(task, {}, Plane(zero, first, second), x, y, data.train, Lanes(2))
    inputs = (data.train.inputs - data.spec.mean) / data.spec.std
    across, up = np.meshgrid(x, y)
    outputs = inputs @ np.stack([across.ravel(), (across + 2 * up).ravel()])
    wanted = 0.5 * np.square(outputs - data.train.labels[:, None]).mean(0).reshape(3, 5)
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.metric, abs(outputs - data.train.labels[:, None]).mean(0).reshape(3, 5), rtol=1e-5)


@pytest.mark.parametrize("lanes", [Lanes(), Lanes(1, 2), pytest.param(Lanes(1, 1, 2), marks=pytest.mark.slow)], ids=str)
def test_the_center_has_the_recorded_loss(trained: Trained, small: Dataset, lanes: Lanes) -> None:
    plane = random_plane(jax.random.key(0), trained.variables.params)
    task = make_task(trained.config, trained.spec, split=lanes.split)
    axis = spaced(-1, 1, 3)
    found = surface(task, trained.variables.stats, plane, axis, axis, small.valid, lanes)
    assert float(found.loss[1, 1]) == trained.rows[-1]["valid_loss"]
    assert float(found.metric[1, 1]) == trained.rows[-1]["valid_accuracy"]
    assert len(np.unique(found.loss)) == 9


def test_a_run_that_is_trained_again_passes_through_its_parameters(trained: Trained, small: Dataset) -> None:
    run = compile_program(Program((Trial(0, 0, (), trained.config),), Lanes()), small)
    path = list(followed(run, 4))
    assert [step for step, _ in path] == [0, 4, 8, 10, 14, 18, 20]
    last = jax.tree.map(lambda array: array[0], path[-1][1])
    assert jax.tree.all(jax.tree.map(np.array_equal, last.params, trained.variables.params))
    assert jax.tree.all(jax.tree.map(np.array_equal, last.stats, trained.variables.stats))


# ------------------------------------------------------------------------- pictures and commands


def test_every_surface_is_drawn() -> None:
    axis, rng = np.linspace(-1, 1, 5), np.random.default_rng(0)
    positive = np.exp(rng.normal(size=(5, 5)))
    holed = np.where(np.eye(5) > 0, np.nan, 1e9 * positive**9)
    paths = [Descent("a", rng.normal(size=(4, 2)), [1, 3]), Descent("b", np.zeros((4, 2)))]
    for loss in (positive, -positive, holed, np.ones((5, 5)), np.full((5, 5), np.inf)):
        figure = loss_surface(axis, axis, loss, "title", ("x", "y"), paths)
        figure.canvas.draw()
        assert [each.get_title() for each in figure.axes[:2]] == ["a", "b"]
        scale = figure.axes[-1].get_ylabel()
        assert scale == ("loss (log scale)" if np.nanmin(loss) > 0 and np.isfinite(loss).any() else "loss")


@pytest.mark.slow
def test_the_descent_creeps_arrives_and_overshoots(descent: ModuleType, tmp_path: Path) -> None:
    done = script("descent", "--steps", "5", "--points", "5", cwd=tmp_path)
    head, *lines, file = done.stdout.splitlines()
    start = float(head.split()[4].strip(","))
    assert head.endswith("after 5 steps")
    assert [line.split()[2] for line in lines] == list(descent.RATES)
    slow, good, high = (float(line.split()[-1]) for line in lines)
    assert good < 0.5 * slow < slow < start
    assert high > 2 * good
    with Image.open(tmp_path / file) as picture:
        assert picture.n_frames == 6
    mistake("descent", "--steps", "0", cwd=tmp_path, code=2, message="steps: 0: must be at least 1")


def test_a_descent_s_steps_are_those_of_gradient_descent(descent: ModuleType) -> None:
    data = descent.examples(12)
    _, paths = descent.descents(data, 3)
    inputs = (data.train.inputs - data.spec.mean) / data.spec.std
    for path, rate in zip(paths, descent.RATES.values(), strict=True):
        weights = np.array(descent.START)
        for place in path.places:
            np.testing.assert_allclose(place, weights, rtol=1e-5)
            weights = weights - rate * inputs.T @ (inputs @ weights - data.train.labels) / 12


@pytest.mark.slow
def test_a_run_s_surface_is_written(tmp_path: Path) -> None:
    short = ["--epochs", "2", "--filters", "4", "--name", "r"]
    script("train", "digits", *short, cwd=tmp_path)
    done = script("surface", "runs/r", "--points", "5", "--examples", "50", cwd=tmp_path)
    assert "over the 180 validation examples, as recorded" in done.stdout
    assert done.stdout.splitlines()[-1] == "runs/r/figures/surface-random.png"
    more = ["--directions", "trajectory", "--points", "5", "--rates", "1e9", "--examples", "9999"]
    done = script("surface", "runs/r", *more, cwd=tmp_path)
    assert "other parameters" not in done.stdout
    assert "learning rate 1000000000.0 diverged" in done.stdout
    figures = tmp_path / "runs" / "r" / "figures"
    assert (figures / "surface-trajectory.png").stat().st_size > 5000
    with np.load(figures / "surface-trajectory.npz") as arrays:
        assert arrays["loss"].shape == arrays["accuracy"].shape == (5, 5)
        assert arrays["paths"].shape == (2, len(arrays["steps"]), 2)
        np.testing.assert_allclose(arrays["paths"][0, -1], 0, atol=1e-6)
        assert not np.allclose(arrays["paths"][1, -1], 0, atol=0.1)
        [center] = arrays["loss"][arrays["y"] == 0, arrays["x"] == 0]
    recorded = load_run(tmp_path / "runs" / "r").rows[-1]["valid_loss"]
    assert float(center) == recorded


@pytest.mark.slow
def test_what_cannot_be_drawn_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for arguments, message in (
        (["nowhere"], "run: nowhere: no such run folder"),
        ([ROOT], "is not a run folder"),
        ([".", "--points", "2"], "points: 2: must be at least 3"),
        ([".", "--examples", "0"], "examples: 0: must be at least 1"),
        ([".", "--radius", "0"], "radius: 0.0: must be above 0"),
        ([".", "--rates", "1"], "rates: needs --directions trajectory"),
    ):
        mistake("surface", *arguments, cwd=tmp_path, code=2, message=message)


@pytest.mark.slow
def test_what_a_run_lacks_is_said_in_a_line(small: Dataset, tmp_path: Path) -> None:
    cnnjax.fit(CONFIG, small, store=tmp_path / "own", lanes="1:1")
    mistake("surface", "own", cwd=tmp_path, code=1, message="give the preset that defines it with --preset FILE")
    script("train", "digits", "--epochs", "1", "--filters", "4", "--name", "r", cwd=tmp_path)
    shutil.rmtree(tmp_path / "runs" / "r" / "checkpoints")
    mistake("surface", "runs/r", cwd=tmp_path, code=1, message="has no checkpoint in runs/r/checkpoints/0")
    (tmp_path / "runs" / "r" / "plan.json").unlink()
    mistake("surface", "runs/r", cwd=tmp_path, code=1, message="plan.json: No such file or directory")


@pytest.mark.slow
def test_a_network_of_one_s_own_has_a_surface(tmp_path: Path) -> None:
    preset = ROOT / "tests" / "presets" / "squeeze.py"
    script("sweep", preset, "--epochs", "1", "--seeds", "1", "--name", "own", cwd=tmp_path)
    small = ["--points", "3", "--directions", "trajectory", "--rates", "0.1", "--trial", "1"]
    done = script("surface", "runs/own", "--preset", preset, *small, cwd=tmp_path)
    assert "over the 60 validation examples, as recorded" in done.stdout
    assert "other parameters" not in done.stdout
    with np.load(tmp_path / "runs" / "own" / "figures" / "surface-trajectory.npz") as arrays:
        assert arrays["loss"].shape == arrays["accuracy"].shape == (3, 3)
