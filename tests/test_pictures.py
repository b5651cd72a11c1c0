"""The pictures of a run: that they are drawn of whatever there is, show what was measured, and can be read."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from cnnjax import SGD, Adam, CNNConfig, Flip, Metric, MLPConfig, Shift, SweepConfig, TrainConfig, config, pictures
from cnnjax.metrics import Accuracy
from cnnjax.networks import ACTIVATIONS
from cnnjax.pictures.drawing import STYLES
from cnnjax.pictures.gaps import SHOWN
from cnnjax.pictures.rates import COMBINATIONS
from cnnjax.pictures.scale import LOSS, Quantity, Scale
from cnnjax.runs.summary import figures_of
from cnnjax.runs.swept import Swept
from cnnjax.sweeps import Ranked, Result, compare, rank
from cnnjax.sweeps.trials import Trial

BASE = TrainConfig(CNNConfig(), SGD(), data="digits", epochs=4)


@config
class Deviation(Metric):
    higher_is_better = False


@config
class ErrorRate(Metric):
    higher_is_better = False
    percent = True


@config
class Margin(Metric):
    pass


METRICS = [Accuracy(), ErrorRate(), Deviation(), Margin()]


def ranked(
    chosen: Sequence[dict[str, Any]],
    means: Sequence[float],
    metric: Metric = METRICS[0],
    std: float = 0.0,
    seeds: int = 1,
    losses: Sequence[float] | None = None,
    lost: Collection[tuple[int, int]] = (),
    stopped: Collection[int] = (),
) -> list[Ranked]:
    """Points of three seeds (or one) with means and a deviation; a NaN, or a pair of point and seed, has diverged."""
    results = []
    for number, (values, mean, loss) in enumerate(zip(chosen, means, losses or means, strict=True)):
        for seed in range(seeds):
            gone = math.isnan(mean) or (number, seed) in lost
            status = "diverged" if gone else "stopped" if number in stopped else "complete"
            off = std * (seed - (seeds - 1) / 2)
            trial = Trial(number * seeds + seed, number, tuple(values.items()), replace(BASE, seed=seed))
            score, cost = (math.nan if gone else value + off for value in (mean, loss))
            results.append(Result(trial, status, 8, 2 if number in stopped else 4, cost, cost, score))
    return rank(results, metric)


def rows(trials: int, epochs: int, metric: Metric = METRICS[0], lost: Collection[int] = ()) -> list[dict]:
    """Epochs of trials; those that are lost have nulls in their last."""
    return [
        {
            "trial": t,
            "epoch": e,
            "train_loss": None if gone else 1 / e,
            f"train_{metric.name}": None if gone else 0.5,
            "valid_loss": None if gone else 1 / e,
            f"valid_{metric.name}": None if gone else 0.1 * t,
        }
        for t in range(trials)
        for e in range(1, epochs + 1)
        for gone in [t in lost and e == epochs]
    ]


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch) -> Callable[[Figure], Figure]:
    """Draws a figure, with `written`: the words that were drawn and their boxes."""
    draw = Text.draw

    def drawing(text: Any, renderer: Any, *rest: Any, **more: Any) -> None:
        draw(text, renderer, *rest, **more)
        figure = text.get_figure(root=True)
        if text.get_text() and text.get_visible() and hasattr(figure, "written"):
            figure.written[text] = text.get_window_extent(renderer), figure.bbox.frozen()

    def rendered(figure: Any) -> Any:
        figure.written = {}
        FigureCanvasAgg(figure).draw()
        return figure

    monkeypatch.setattr(Text, "draw", drawing)
    return rendered


def assert_read(figure: Any) -> None:
    """Every word lies inside of the picture and on no other, and the legend on no axes."""
    words = [(text.get_text(), box) for text, (box, _) in figure.written.items()]
    assert words
    for text, (box, page) in figure.written.items():
        assert -1 <= box.x0 < box.x1 <= page.width + 1, f"{text.get_text()!r} is cut"
        assert -1 <= box.y0 < box.y1 <= page.height + 1, f"{text.get_text()!r} is cut"
    for (one, first), (other, second) in combinations(words, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), f"{one!r} lies on {other!r}"
    for legend, axis in product(figure.legends, figure.axes):
        assert not axis.get_window_extent().overlaps(legend.get_window_extent())


def saying(figure: Any) -> str:
    """The headline as one line."""
    return " ".join(figure.get_suptitle().split())


def crossed(axis: Any) -> list[tuple[float, float]]:
    """Where crosses are."""
    edges = axis.get_xaxis_transform(), axis.get_yaxis_transform()
    found = [each for each in axis.collections if each.get_offset_transform() in edges]
    return [(float(x), float(y)) for each in found for x, y in each.get_offsets()]


# ------------------------------------------------------------------------- scales


@pytest.mark.parametrize("quantity", [*map(Quantity.of, METRICS), LOSS], ids=lambda quantity: quantity.name)
def test_a_scale_and_its_inverse(quantity: Quantity) -> None:
    values = np.array([0.2, 1.0, 10.0, 50.0, 97.0, 99.9, 100.0])
    scale = Scale(quantity, values)
    places = scale.place(values)
    assert (np.diff(places) > 0).all()
    assert scale.value(places) == pytest.approx(values)
    assert (np.diff(scale.cost(values)) < 0).all() == quantity.higher_is_better


def test_accuracies_are_apart_by_the_ratio_of_their_errors() -> None:
    """A point of one percent is seen at 98 %, and an axis where all are low is even."""
    scale = Scale(Quantity.of(Accuracy()), [])
    high, middle, low = (np.diff(scale.place([accuracy, accuracy + 1]))[0] for accuracy in (98, 96, 10))
    assert high / middle == pytest.approx(math.log(2.1 / 1.1) / math.log(4.1 / 3.1))
    assert high > 50 * low
    steps = np.diff(scale.place([8, 9, 10, 11, 12]))
    assert steps.max() < 1.05 * steps.min()


@pytest.mark.parametrize("ends", [(8, 12), (0, 97), (10, 100), (94, 97.5), (99.2, 99.6), (99.9, 100), (99.99, 100)])
@pytest.mark.parametrize("metric", [Accuracy(), ErrorRate()], ids=str)
def test_ticks_are_round_and_apart(metric: Metric, ends: tuple[float, float]) -> None:
    ends = ends if metric.higher_is_better else (100 - ends[1], 100 - ends[0])
    scale = Scale(Quantity.of(metric), ends)
    marks = scale.marks(*ends)
    assert len(marks) >= 3
    assert ends[0] <= marks[0] < marks[-1] <= ends[1]
    places = scale.place(marks)
    assert np.diff(places).min() > 0.08 * (places[-1] - places[0])
    assert all(len(f"{mark:g}") <= 7 for mark in marks)


# ------------------------------------------------------------------------- figures


def test_the_figures_and_the_backend_of_the_caller_are_left_alone() -> None:
    """A notebook that has swept goes on showing what it draws, and shows ours."""
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("svg")
    try:
        mine = pyplot.figure()
        ours = pictures.learning_curves(rows(1, 3))
        assert ours._repr_png_().startswith(b"\x89PNG")
        assert pyplot.get_backend() == "svg"
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.gcf() is mine
    finally:
        pyplot.close("all")
        pyplot.switch_backend(before)


def test_every_figure_says_which_run_it_shows() -> None:
    axes = (("learning_rate", (0.01, 0.1)), ("filters", ((4,), (8,))))
    chosen = sweep(**dict(axes))
    points = ranked(chosen, [0.9, 0.92, 0.95, 0.94], std=0.01, seeds=3, lost=[(3, 0)])
    swept = Swept(points, rows(12, 4), {}, {}, 1, SweepConfig(BASE, axes), None, "runs/mine")  # type: ignore[arg-type]
    figures = figures_of(swept.config, swept)
    assert [*figures] == ["curves", "gaps", "grid", "rates", "parallel"]
    for name, figure in figures.items():
        assert saying(figure).startswith("mine: digits, 4 points, 3 seeds, 4 epochs ")
        assert ("one standard deviation over 3 seeds" in saying(figure)) == (name in ("curves", "grid", "rates"))
        assert ("diverged" in saying(figure)) == (name in ("curves", "gaps", "rates"))
    assert "95 % intervals" in saying(figures["gaps"])
    one = swept._replace(config=SweepConfig(BASE, (), seeds=1), rows=rows(1, 4))
    [(name, figure)] = figures_of(BASE, one).items()
    assert (name, saying(figure)) == ("curves", "mine: digits, seed 0, 4 epochs")


def test_the_same_points_give_the_same_bytes() -> None:
    drawn = [[figure._repr_png_() for figure in every(measured(CASES["off"], 7)) if figure] for _ in "ab"]
    assert len(drawn[0]) == 5
    assert drawn[0] == drawn[1]


def every(points: Sequence[Ranked], metric: Metric = METRICS[0], title: str = "") -> list[Any]:
    """All figures of points; None for those that have nothing to show."""
    trials = sum(len(point.results) for point in points)
    lost = {result.trial.number for point in points for result in point.results if result.status == "diverged"}
    curves = pictures.compare_curves(rows(trials, 2, metric, lost), points, metric, title)
    return [curves, *(draw(points, metric, title) for draw in ACROSS)]


ACROSS = [pictures.gaps_to_best, pictures.grid, pictures.rate_curves, pictures.parallel_coordinates]
NAMES = [draw.__name__ for draw in ACROSS]


# ------------------------------------------------------------------------- curves


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_curves_are_those_of_the_metric(metric: Metric) -> None:
    points = ranked([{"rate": 1}, {"rate": 2}], [0.2, 0.1] if metric.higher_is_better else [0.1, 0.2], metric)
    one = pictures.learning_curves(rows(3, 4, metric)[8:], metric)
    many = pictures.compare_curves(rows(2, 4, metric), points, metric)
    words = {"accuracy": "accuracy (%)", "error_rate": "error rate (%)", "deviation": "deviation", "margin": "margin"}
    assert one.axes[1].get_ylabel() == many.axes[2].get_ylabel() == words[metric.name]
    assert [axis.get_title() for axis in many.axes] == ["training", "validation", "", ""]
    factor = 100 if metric.percent else 1
    lines = [[line.get_ydata().tolist() for line in axis.lines] for axis in (one.axes[1], *many.axes[2:])]
    assert lines[0] == [[0.5 * factor] * 4, [0.2 * factor] * 4]
    assert lines[1:] == [[[0.5 * factor] * 4] * 2, [[0.0] * 4, [0.1 * factor] * 4]]


def test_a_curve_is_a_mean_over_seeds_and_ends_where_none_is_left() -> None:
    points = ranked([{"rate": 1}, {"rate": 2}], [0.9, 0.8], seeds=2, lost=[(1, 1)])
    early = [row for row in rows(4, 3, lost=[3]) if row["trial"] != 2 or row["epoch"] == 1]
    figure = pictures.compare_curves(early, points)
    first, second = (line.get_ydata() for line in figure.axes[3].lines)
    bare = [{name: row[name] for name in row if name != "train_accuracy"} for row in early]
    assert not crossed(pictures.compare_curves(bare, points[:1]).axes[2])  # an old record lacks it
    assert first.tolist() == pytest.approx([5.0] * 3)
    assert second.tolist() == pytest.approx([25, 30, math.nan], nan_ok=True)
    assert len(figure.axes[3].collections) == 3  # two bands, and a cross
    for axis, top in zip(figure.axes, (True, True, False, False), strict=True):
        [(epoch, height)] = crossed(axis)
        assert epoch == 3
        assert (height > 0.9) == top
    assert [word.get_text() for word in figure.legends[0].get_texts()] == ["1", "2 (1 of 2 diverged)"]


def test_one_epoch_and_a_run_that_diverged_at_once(render: Callable) -> None:
    for epochs, lost in ((1, ()), (1, [0]), (5, [0])):
        figure = render(pictures.learning_curves(rows(1, epochs, lost=lost), title="x: digits"))
        assert_read(figure)
        assert ("diverged" in saying(figure)) == bool(lost)
        assert len(crossed(figure.axes[0])) == 2 * len(lost)
        assert all(float(tick) == int(tick) for tick in figure.axes[0].get_xticks())


def test_no_picture_needs_color_to_tell_series_apart(render: Callable) -> None:
    """Line style and marker differ as well, and the legend names every series."""
    names = [{"field": f"point {i}"} for i in range(7)]
    many = pictures.compare_curves(rows(7, 3), ranked(names, np.linspace(0.9, 0.3, 7)))
    for figure in (render(pictures.learning_curves(rows(1, 3))), render(many)):
        assert_read(figure)
        [legend] = figure.legends
        for axis in figure.axes:
            for look in ("get_color", "get_linestyle", "get_marker"):
                assert len({getattr(line, look)() for line in axis.lines}) > 1, look
            styles = {(line.get_color(), str(line._dash_pattern)) for line in axis.lines}
            assert len(styles) == len({line.get_marker() for line in axis.lines}) == len(axis.lines)
            assert len(legend.get_texts()) == len(axis.lines)
    assert legend.get_title().get_text() == "field\n(best 6 of 7 points)"
    assert len(set(STYLES)) == len({color for color, *_ in STYLES}) == COMBINATIONS


# ------------------------------------------------------------------------- grids


def cells(figure: Any, panel: int = 0) -> dict[tuple[int, int], str]:
    """The words of a grid's cells by column and row."""
    found: dict[tuple[int, int], str] = {}
    for word in figure.axes[panel].texts:
        place = tuple(round(at) for at in word.get_position())
        found[place] = f"{word.get_text()}\n{found[place]}" if place in found else word.get_text()
    return found


BRIGHTEST = (0.993248, 0.906157, 0.143936, 1.0)  # of viridis


@pytest.mark.parametrize(
    ("names", "panels"), [((), 0), (("a",), 0), (("a", "b"), 1), (("a", "b", "c"), 2), ("abcd", 2)]
)
def test_a_grid_needs_two_fields_and_a_third_is_panels(names: Sequence[str], panels: int) -> None:
    chosen = sweep(**dict.fromkeys(names, (1, 2)), always=(3,))
    figure = pictures.grid(ranked(chosen, np.linspace(0.3, 0.9, len(chosen))))
    assert bool(figure) == bool(panels)
    if figure:
        assert len(figure.axes) == panels + 1
        assert len(cells(figure)) == 4
        assert (
            ("best of 2" in cells(figure)[0, 0])
            == ("Each cell shows the best over" in saying(figure))
            == (len(names) > 3)
        )


def test_the_fields_of_a_grid_are_those_that_matter() -> None:
    chosen = sweep(weak=(1, 2), strong=(1, 2), medium=(1, 2), learning_rate=(0.1, 0.2))
    effects = {"weak": 0.001, "strong": 0.1, "medium": 0.05, "learning_rate": 2.0}
    means = [0.1 + sum(values[name] * effect for name, effect in effects.items()) for values in chosen]
    figure = pictures.grid(ranked(chosen, means))
    assert figure.get_supxlabel() == "learning rate"
    assert figure.get_supylabel() == "strong"
    assert [axis.get_title() for axis in figure.axes[:2]] == ["medium 1", "medium 2"]


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_a_grid_shows_the_best_by_its_metric(metric: Metric) -> None:
    """The best is bold and has the brightest color; what diverged is gray."""
    chosen = sweep(rate=(0.1, 0.3), decay=(0.0, 0.1))
    means = [0.4, 0.35, math.nan, 0.3] if metric.higher_is_better else [0.3, 0.35, math.nan, 0.4]
    figure = pictures.grid(ranked(chosen, means, metric, 0.01, 3), metric)
    axis = figure.axes[0]
    words = [f"{100 * m:.2f}\n± 1.00" if metric.percent else f"{m:.4g}\n± 0.01" for m in means]
    assert cells(figure) == {(0, 0): words[0], (0, 1): words[1], (1, 0): "diverged", (1, 1): words[3]}
    assert [word.get_text() for word in axis.texts if word.get_weight() == "bold"] == [words[0]]
    colors = {patch.get_xy(): patch.get_facecolor() for patch in axis.patches}
    assert colors[-0.5, -0.5] == pytest.approx(BRIGHTEST)
    assert colors[0.5, -0.5] == to_rgba("0.85")
    assert len({*colors.values()}) == 4
    label = metric.kind().replace("-", " ") + (" (%)" if metric.percent else "")
    assert figure.axes[1].get_ylabel() == f"validation {label}"


@pytest.mark.parametrize("means", [(0.1, 0.11, 0.12, 0.13, 1e9, 0.12), (0.996, 0.995, 0.994, 0.993, 0.1, 0.9945)])
def test_a_few_bad_values_do_not_hide_the_rest(means: Sequence[float]) -> None:
    """Colors end at twice the way from the best to the median."""
    metric = Deviation() if means[4] > 1 else Accuracy()
    figure = pictures.grid(ranked(sweep(a=(1, 2, 3), b=(1, 2)), means, metric), metric)
    colors = [np.array(patch.get_facecolor()) for patch in figure.axes[0].patches]
    good = [color for color, mean in zip(colors, sorted(means, reverse=metric.higher_is_better), strict=True) if mean]
    assert min(np.abs(a - b).max() for a, b in combinations(good[:3], 2)) > 0.1


def test_a_trial_that_diverged_and_one_that_was_stopped_are_named_in_their_cells() -> None:
    chosen = sweep(a=(1, 2), b=(1, 2))
    points = ranked(chosen, [0.9, 0.8, 0.7, math.nan], seeds=3, lost=[(1, 0)], stopped=[2])
    words = cells(pictures.grid(points))
    assert words[0, 1] == "80.00\n± 0.00\n1 of 3\ndiverged"
    assert words[1, 0] == "70.00\n± 0.00\nstopped at\nepoch 2"
    assert words[1, 1] == "diverged"


def test_an_unstable_point_is_named_in_its_cell() -> None:
    points = ranked(sweep(a=(1, 2, 3), b=(1, 2)), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], std=0.01, seeds=3)
    wild = [
        result._replace(valid_metric=score) for result, score in zip(points[5].results, (0.1, 0.4, 0.7), strict=True)
    ]
    points = rank([*(result for point in points[:5] for result in point.results), *wild])
    words = cells(pictures.grid(points))
    assert [place for place, word in words.items() if "unstable" in word] == [(2, 1)]
    assert words[2, 1] == "40.00\n± 30.00\nunstable"


def test_what_a_point_lacks_and_what_is_off_have_ticks() -> None:
    adam = sweep(optimizer=(Adam(clip_norm=7.0),), rate=(0.1,))
    sgd = sweep(optimizer=(SGD(momentum=0.5),), clip_norm=(2.0, None, 0.5), rate=(0.1,))
    points = ranked([*adam, *sgd], [0.5, 0.6, 0.65, 0.7])
    grid, parallel = pictures.grid(points).axes[0], pictures.parallel_coordinates(points).axes[0]
    assert [tick.get_text() for tick in grid.get_xticklabels()] == ["adam", "sgd"]
    assert [tick.get_text() for tick in grid.get_yticklabels()] == ["-", "none", "0.5", "2"]
    assert cells(grid.figure) == {(0, 0): "50.00", (1, 3): "60.00", (1, 1): "65.00", (1, 2): "70.00"}
    names = [word.get_text() for word in parallel.texts if word.get_position()[1] == 1.06]
    assert names == ["optimizer", "clip norm", "validation\naccuracy (%)"]
    heights = {word.get_text(): word.xy[1] for word in parallel.texts if getattr(word, "xy", (0, 0))[0] == 1}
    assert [*heights] == ["-", "none", "0.5", "2"]
    assert [*heights.values()] == sorted(heights.values())
    lines = [segment[:, 1].tolist() for segment in parallel.collections[1].get_segments()]
    assert {line[1] for line in lines} == {*heights.values()}


# ------------------------------------------------------------------------- over many fields


class Warmup:
    """A value that is no number, has no order and cannot be hashed."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __str__(self) -> str:
        return f"warm up for {self.steps} steps, $then$ stay"


def sweep(**axes: tuple) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def drawn_at_random(count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    return [
        {
            "learning_rate": float(10 ** draw.uniform(-3, 0.5)),
            "momentum": float(draw.uniform(0, 0.99)),
            "weight_decay": float(draw.integers(2) * 10 ** draw.uniform(-6, -2)),
            "filters": [(8, 16), (16, 32), (64, 128, 256)][draw.integers(3)],
            "batch_size": int(draw.choice([32, 64, 128, 256])),
            "schedule": ["cosine", "constant", "step"][draw.integers(3)],
            "batch_norm": bool(draw.integers(2)),
            "label_smoothing": float(draw.uniform(0, 0.2)),
        }
        for _ in range(count)
    ]


def measured(chosen: list[dict[str, Any]], each: int, metric: Metric = METRICS[0]) -> list[Ranked]:
    """Points with numbers between 0.03 and 1, some with a diverged or stopped trial; with `each` one, all diverged."""
    draw = np.random.default_rng(1)
    means = [float(draw.uniform(0.03, 1)) if (i + 1) % each else math.nan for i in range(len(chosen))]
    count = range(len(chosen))
    return ranked(chosen, means, metric, 0.02, 3, lost=[(i, 1) for i in count[4::9]], stopped=count[5::9])


CASES = {
    "one field": sweep(learning_rate=(0.001, 0.01, 0.1, 1.0)),
    "one point": sweep(learning_rate=(0.1,)),
    "words only": sweep(schedule=("cosine", "step"), batch_norm=(False, True)),
    "a grid": sweep(learning_rate=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), filters=((), (8,), (8, 16), (16, 32)), nesterov=(False, True)),
    "of every kind": sweep(momentum=(0.0, 0.5, 0.9, 0.95), padding=("SAME", 1, (1, 2), "$^$")),
    "objects": [{"learning_rate": 0.01 * 1.3**i, "schedule": Warmup(i % 12)} for i in range(30)],
    "long": sweep(weight_decay=(0.0, 1e-5, 1e-4), filters=tuple((8,) * i for i in range(2, 31, 2))),
    "off": sweep(dropout=(None, 0.1, 0.3), filters=((8, 16), (16, 32))),
    "off or one": sweep(clip_norm=(None, 1.0), learning_rate=(0.01, 0.1)),
    "parts": [
        *sweep(optimizer=(SGD(nesterov=True),), momentum=(0.0, 0.5, 0.9), learning_rate=(0.01, 0.1)),
        *sweep(optimizer=(Adam(clip_norm=1.0),), learning_rate=(0.01, 0.1)),
    ],
    "fields of parts": [
        *sweep(network=(CNNConfig(),), dropout=(None, 0.1, 0.3), filters=((8,), (8, 16))),
        *sweep(network=(MLPConfig(),), dropout=(None, 0.1, 0.3), hidden=((100,), (300,))),
    ],
    "tuples of parts": sweep(augment=((), (Flip(),), (Flip(), Shift(cells=1.0))), learning_rate=(0.01, 0.1)),
    "functions": sweep(activation=("relu", ACTIVATIONS["tanh"], saying), learning_rate=(0.01, 0.1)),
    "long names": [
        {"a_field_with_a_name_of_30_letter": rate, "b_field_with_a_name_of_30_letter": word, "rate": 10 * rate}
        for rate in (0.01, 0.1) for word in ("a_value_that_has_thirty_letter", "b_value_that_has_thirty_letter")
    ],
    "40 at random": drawn_at_random(40),
    "1000 at random": drawn_at_random(1000),
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "each"),
    [*((case, 7) for case in CASES), *((case, 1) for case in ("one field", "a grid", "parts", "40 at random"))],
    ids=lambda value: {1: "all diverged", 7: "some"}.get(value, value),
)
def test_whatever_was_swept_can_be_read(render: Callable, case: str, each: int) -> None:
    title = "a-run-with-a-long-name-20260101-120000: a_data_set_with_a_long_name, 3 seeds"
    figures = every(measured(CASES[case], each), title=title)
    missing = {name for name, figure in zip(("curves", *NAMES), figures, strict=True) if figure is None}
    assert missing == {
        "one field": {"grid", "parallel_coordinates"},
        "one point": {*NAMES},
        "words only": {"rate_curves"},
        "objects": {"grid"},
    }.get(case, set())
    for figure in filter(None, figures):
        assert_read(render(figure))


@pytest.mark.parametrize("metric", METRICS[1:], ids=str)
@pytest.mark.parametrize("case", ["a grid", "off", "parts"])
def test_whatever_metric_can_be_read(render: Callable, case: str, metric: Metric) -> None:
    for figure in filter(None, every(measured(CASES[case], 7, metric), metric)):
        assert_read(render(figure))


@pytest.mark.parametrize("level", [0.1, 0.995], ids=["all low", "all high"])
def test_accuracies_that_are_alike_are_told_apart(render: Callable, level: float) -> None:
    chosen = sweep(learning_rate=(0.01, 0.1), filters=((4,), (8,)))
    points = ranked(chosen, level + 0.001 * np.arange(4), std=0.0002, seeds=3)
    for figure in every(points):
        assert_read(render(figure))
    colors = [np.array(patch.get_facecolor()) for patch in pictures.grid(points).axes[0].patches]
    assert min(np.abs(a - b).max() for a, b in combinations(colors, 2)) > 0.1
    axis = pictures.rate_curves(points).axes[1]
    heights = [line.get_ydata() for line in axis.lines]
    low, high = axis.get_ylim()
    assert np.ptp(heights) > 0.5 * (high - low)


# ------------------------------------------------------------------------- rates


def test_a_curve_for_each_of_the_best_combinations() -> None:
    chosen = sweep(filters=tuple((i,) for i in range(1, 11)), learning_rate=(0.1, 0.01, 1.0))
    losses = [2.0 * v["filters"][0] + v["learning_rate"] for v in chosen]
    scores = [0.9 - loss / 100 if i not in (2, 5) else math.nan for i, loss in enumerate(losses)]
    figure = pictures.rate_curves(ranked(chosen, scores, std=0.01, seeds=3, losses=losses))
    for axis, number in zip(figure.axes, (lambda x: 2 * x, lambda x: 90 - 2 * x), strict=True):
        assert axis.get_xlabel() == "learning rate"
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0.01", "0.1", "1"]
        assert np.allclose(axis.get_xticks(), [0, 0.5, 1])
        assert len(axis.lines) == COMBINATIONS
        for i, line in enumerate(axis.lines, 1):
            assert np.allclose(line.get_xdata(), [0, 0.5, 1], atol=0.04)
            off = np.array([0.01, 0.1, math.nan if i < 3 else 1.0]) * (1 if axis is figure.axes[0] else -1)
            assert np.allclose(line.get_ydata(), number(i) + off, equal_nan=True)
    loss, score = figure.axes
    assert (loss.get_ylabel(), score.get_ylabel()) == ("validation loss", "validation accuracy (%)")
    assert sorted(np.ptp(path.vertices[:, 1]) for path in score.collections[0].get_paths()) == pytest.approx([2.0] * 22)
    assert np.allclose([place for place, _ in crossed(loss)], 1)
    assert [height for _, height in crossed(loss)] == pytest.approx([0.98, 0.945])
    assert [height for _, height in crossed(score)] == pytest.approx([0.02, 0.055])
    [legend] = figure.legends
    assert [label.get_text() for label in legend.get_texts()] == [str(i) for i in range(1, 9)]
    assert legend.get_title().get_text() == "filters\n(best 8 of 10)"
    assert loss.get_ylim()[0] > 0


def test_losses_over_a_decade_are_on_a_logarithmic_scale() -> None:
    points = ranked([{"momentum": 0.0}, {"momentum": 0.9}], [0.9, 0.5], std=0.2, seeds=3, losses=[0.1, 2.0])
    axis = pictures.rate_curves(points).axes[0]
    assert axis.get_xlabel() == "momentum"
    assert 0.02 < axis.get_ylim()[0] < 0.1
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    places = [axis.transData.transform((0, loss))[1] for loss in (0.1, 0.2, 0.4)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])


@pytest.mark.parametrize(("second", "axes", "legends"), [("momentum", 3, 0), ("filters", 2, 1)])
def test_points_drawn_at_random_stand_alone(second: str, axes: int, legends: int) -> None:
    chosen = [
        {name: values[name] for name in (second, "learning_rate", "label_smoothing")} for values in drawn_at_random(60)
    ]
    means = [math.nan if i < 20 else 0.5 + i / 200 for i in range(60)]
    figure = pictures.rate_curves(ranked(chosen, means, stopped=[30, 40]))
    assert len(figure.axes) == axes
    assert len(figure.legends) == legends
    for axis in figure.axes[:2]:
        assert axis.get_xlabel() == "learning rate"
        assert not axis.lines
        dots = axis.collections[1]
        assert len(dots.get_offsets()) == 40
        assert len(crossed(axis)) == 20
        assert sum((dots.get_facecolors() == 1).all(1)) == 2
        assert "Hollow: stopped early." in saying(figure)
        colors = {tuple(color) for color in dots.get_edgecolors()}
        assert len(colors) == 3 if legends else len(colors) > 20


def test_crosses_of_one_rate_stay_inside() -> None:
    chosen = [{"learning_rate": (0.1, 1.0)[i % 2], "momentum": i / 100} for i in range(100)]
    axis = pictures.rate_curves(ranked(chosen, [0.5 if i % 2 == 0 else math.nan for i in range(100)])).axes[0]
    assert len(axis.collections[1].get_offsets()) == len(crossed(axis)) == 50
    assert min(height for _, height in crossed(axis)) > 0.7


# ------------------------------------------------------------------------- parallel coordinates


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_the_best_is_on_top_whatever_the_metric(metric: Metric) -> None:
    """Drawn last and thick; what diverged is dashed and ends below."""
    means = (0.4, 0.1, math.nan, 0.3, 0.2)
    points = ranked([{"decay": float(i), "even": i % 2} for i in range(5)], means, metric)
    figure = pictures.parallel_coordinates(points, metric)
    axis = figure.axes[0]
    grey, lines = axis.collections[:2]
    [gone] = grey.get_segments()
    assert grey.get_linestyle() != lines.get_linestyle()
    assert gone[2, 1] == -0.1
    best = 0 if metric.higher_is_better else 1
    order = [round(4 * segment[0, 1]) for segment in lines.get_segments()]
    assert order == ([1, 4, 3, 0] if metric.higher_is_better else [0, 3, 4, 1])
    heights = [segment[2, 1] for segment in lines.get_segments()]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert heights[-1] == 1
    thick = max(axis.lines, key=lambda line: line.get_linewidth())
    assert thick.get_ydata().tolist() == [best / 4, best, 1]
    assert tuple(lines.get_colors()[-1]) == pytest.approx(BRIGHTEST)
    assert np.allclose(lines.get_colors()[-1], to_rgba(thick.get_color()))
    words = {word.get_text(): word.xy[1] for word in axis.texts if getattr(word, "xy", (0, 0))[0] == 2}
    assert words[f"{100 * means[best]:.2f}" if metric.percent else str(means[best])] == 1


def test_a_decade_of_a_number_is_a_decade() -> None:
    decays = (0.0, 1e-4, 1e-3, 1e-2)
    chosen = [{"weight_decay": decay, "schedule": "abab"[i]} for i, decay in enumerate(decays)]
    lines = pictures.parallel_coordinates(ranked(chosen, (0.9, 0.99, 0.95, 0.98))).axes[0].collections[1]
    zero, *heights = sorted(segment[0, 1] for segment in lines.get_segments())
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert zero == 0 < heights[0]


# ------------------------------------------------------------------------- gaps


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_every_seed_has_a_dot_and_every_point_its_interval(metric: Metric) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 3))
    better = 0.9 - 0.05 * np.arange(4) if metric.higher_is_better else 0.1 + 0.05 * np.arange(4)
    points = ranked([{"rate": i} for i in range(4)], better.tolist(), metric, seeds=3)
    points = [
        point._replace(
            results=tuple(r._replace(valid_metric=r.valid_metric + x) for r, x in zip(point.results, line, strict=True))
        )
        for point, line in zip(points, noise, strict=True)
    ]
    seeds, gaps = pictures.gaps_to_best(points, metric).axes
    factor = 100 if metric.percent else 1
    dots = [line.get_xdata().tolist() for line in seeds.lines if line.get_marker() == "."]
    assert dots == [[factor * result.valid_metric for result in point.results] for point in points]
    compared = compare(points, metric)
    assert [line.get_xdata()[0] for line in gaps.lines] == pytest.approx([factor * each.gap for each in compared])
    ends = [tuple(path.vertices[:, 0]) for bars in gaps.collections for path in bars.get_paths()]
    assert ends == [pytest.approx((factor * each.low, factor * each.high)) for each in compared]
    assert {each.verdict for each in compared} >= {"best", "worse"}


def test_the_best_are_shown_and_the_rest_counted() -> None:
    points = measured(drawn_at_random(100), 7)
    figure = pictures.gaps_to_best(points)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert len(figure.axes[0].get_yticklabels()) == len(dots) == SHOWN
    assert f"The best {SHOWN} of 100 points." in saying(figure)


def test_a_gap_beyond_the_axis_is_an_arrow_and_what_diverged_a_cross() -> None:
    chosen = [{"rate": i} for i in range(6)]
    points = ranked(chosen, [0.98, 0.97, 0.96, 0.975, 0.1, math.nan], std=0.001, seeds=3, lost=[(3, 1)])
    figure = pictures.gaps_to_best(points)
    seeds, gaps = figure.axes
    assert [line.get_marker() for line in gaps.lines][-1] == ">"
    assert gaps.lines[-1].get_xdata()[0] < gaps.get_xlim()[1] < 10
    names = [label.get_text() for label in seeds.get_yticklabels()]
    assert names == ["0", "1", "2", "4", "3 (1 of 3 diverged)", "5 (diverged)"]
    assert sorted(round(height) for _, height in crossed(seeds)) == [4, 5, 5, 5]
    assert all(axis == 0.02 for axis, _ in crossed(seeds))


def test_one_seed_has_no_intervals() -> None:
    figure = pictures.gaps_to_best(ranked([{"rate": i} for i in range(3)], [0.9, 0.8, 0.7]))
    assert "One seed: no intervals." in saying(figure)
    assert not figure.axes[1].collections
