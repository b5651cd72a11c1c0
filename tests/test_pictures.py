"""The pictures of a run: that they are drawn of whatever there is, show what was measured, and can be read."""

import math
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnjax import SGD, Adam, CNNConfig, Flip, Metric, MLPConfig, Shift, config, pictures
from cnnjax.metrics import Accuracy
from cnnjax.networks import ACTIVATIONS
from cnnjax.sweeps import Summary

DIVERGED = Summary(math.nan, math.nan, 0)
ACROSS = [pictures.rate_curves, pictures.parallel_coordinates]


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


def rows(trials: int, epochs: int, metric: Metric = METRICS[0]) -> list[dict]:
    return [
        {
            "trial": t,
            "epoch": e,
            "train_loss": 1 / e,
            f"train_{metric.name}": 0.5,
            "valid_loss": 1 / e,
            f"valid_{metric.name}": 0.1 * t,
        }
        for t in range(trials)
        for e in range(1, epochs + 1)
    ]


def drawn(path: Path) -> bool:
    """A picture with something on it."""
    return len(Image.open(path).convert("RGB").getcolors(1 << 20)) > 20


def test_curves_are_drawn_also_of_runs_that_end_early(tmp_path: Path) -> None:
    pictures.learning_curves(rows(1, 3), tmp_path / "one.png")
    early = [*rows(2, 3), {"trial": 2, "epoch": 1, "valid_loss": None, "valid_accuracy": None}]
    pictures.compare_curves(early, {"a": [0, 1], "b": [0, 2]}, tmp_path / "many.png")
    assert drawn(tmp_path / "one.png")
    assert drawn(tmp_path / "many.png")


def test_the_figures_and_the_backend_of_the_caller_are_left_alone(tmp_path: Path) -> None:
    """A notebook that has swept goes on showing what it draws."""
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("svg")
    try:
        mine = pyplot.figure()
        pictures.learning_curves(rows(1, 3), tmp_path / "one.png")
        pictures.compare_curves(rows(2, 3), {"a": [0], "b": [1]}, tmp_path / "many.png")
        assert pyplot.get_backend() == "svg"
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.gcf() is mine
    finally:
        pyplot.close("all")
        pyplot.switch_backend(before)


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_curves_are_those_of_the_metric(tmp_path: Path, figures: list[Any], metric: Metric) -> None:
    pictures.learning_curves(rows(3, 4, metric)[8:], tmp_path / "one.png", metric)
    pictures.compare_curves(rows(3, 4, metric), {"a": [0, 2], "b": [1]}, tmp_path / "many.png", metric)
    one, many = (figure.axes[1] for figure in figures)
    words = {"accuracy": "accuracy", "error_rate": "error rate", "deviation": "deviation", "margin": "margin"}
    assert one.get_ylabel() == words[metric.name]
    assert many.get_ylabel() == f"validation {words[metric.name]}"
    assert [line.get_ydata().tolist() for line in one.lines] == [[0.5] * 4, [0.2] * 4]
    assert [line.get_ydata().tolist() for line in many.lines] == [[0.1] * 4] * 2


def test_no_picture_needs_color_to_tell_series_apart(tmp_path: Path, figures: list[Any]) -> None:
    """Line style and marker differ as well, and the legend, which names every series, lies beside the axes."""
    pictures.learning_curves(rows(1, 3), tmp_path / "one.png")
    pictures.compare_curves(rows(7, 3), {f"point {i}": [i] for i in range(7)}, tmp_path / "many.png")
    for figure in figures:
        [legend] = figure.legends
        for axis in figure.axes:
            assert not axis.get_window_extent().overlaps(legend.get_window_extent())
            for look in ("get_color", "get_linestyle", "get_marker"):
                assert len({getattr(line, look)() for line in axis.lines}) > 1, look
            styles = {(line.get_color(), str(line._dash_pattern)) for line in axis.lines}
            assert len(styles) == len({line.get_marker() for line in axis.lines}) == len(axis.lines)
            assert len(legend.get_texts()) == len(axis.lines)
    assert len(set(pictures.STYLES)) == len({color for color, *_ in pictures.STYLES}) == pictures.COMBINATIONS


@pytest.mark.parametrize("names", [(), ("rate",), ("rate", "filters"), ("rate", "filters", "loss")])
def test_a_grid_of_any_number_of_fields(tmp_path: Path, names: tuple[str, ...]) -> None:
    points = [
        ({name: (i, 2) if name == "filters" else i for name in names}, Summary(0.5 + i / 10, 0.1, 3)) for i in range(3)
    ]
    points.append((points[0][0], Summary(math.nan, math.nan, 0)))
    pictures.grid(points, tmp_path / "grid.png")
    assert drawn(tmp_path / "grid.png")


def test_a_grid_where_everything_diverged(tmp_path: Path) -> None:
    pictures.grid([({"rate": 1.0}, Summary(math.nan, math.nan, 0))], tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 0


def cells(figure: Any) -> dict[str, Any]:
    """The words of a grid's cells."""
    return {word.get_text(): word for word in figure.axes[0].texts}


def colour(shades: Any, value: float) -> tuple[float, ...]:
    return tuple(shades.cmap(shades.norm(value)))


BRIGHTEST = (0.993248, 0.906157, 0.143936, 1.0)  # of viridis


@pytest.mark.parametrize(
    ("metric", "best", "ends", "words"),
    [
        (Accuracy(), 0.9876, (98.76 - pictures.SPAN, 98.76), ["98.76\n± 1.00", "12.35\n± 1.00"]),
        (ErrorRate(), 0.1235, (12.35, 12.35 + pictures.SPAN), ["98.76\n± 1.00", "12.35\n± 1.00"]),
        (Deviation(), 0.1235, (0.1235, 0.9876), ["0.9876\n± 0.01", "0.1235\n± 0.01"]),
        (Margin(), 0.9876, (0.1235, 0.9876), ["0.9876\n± 0.01", "0.1235\n± 0.01"]),
    ],
    ids=str,
)
def test_a_grid_shows_the_best_by_its_metric(
    tmp_path: Path, figures: list[Any], metric: Metric, best: float, ends: tuple[float, float], words: list[str]
) -> None:
    """Of points in one cell the best, in bold and in the brightest colour; a diverged one never."""
    means = {0.1: (0.9876, math.nan), 0.3: (0.1235,), 1.0: (math.nan, math.nan)}
    means[0.1] += (0.9 if metric.higher_is_better else 0.99,)
    points = [
        ({"rate": rate, "decay": 0.0, "more": i}, Summary(mean, mean and 0.01, 3) if mean == mean else DIVERGED)
        for rate, of_cell in means.items()
        for i, mean in enumerate(of_cell)
    ]
    pictures.grid(points, tmp_path / "grid.png", metric)
    assert {*cells(figures[0])} == {*words, "diverged"}
    bold = [word for word, text in cells(figures[0]).items() if text.get_weight() == "bold"]
    assert bold == [words[0] if best == 0.9876 else words[1]]
    [image] = figures[0].axes[0].images
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx(ends)
    factor = 100 if metric.percent else 1
    assert colour(image, factor * best) == pytest.approx(BRIGHTEST)
    label = f"validation {metric.kind().replace('-', ' ')}" + (" (%)" if metric.percent else "")
    assert figures[0].axes[1].get_ylabel() == label


def test_a_few_bad_values_do_not_hide_the_rest(tmp_path: Path, figures: list[Any]) -> None:
    """Without percent the colours end at twice the way from the best to the median."""
    means = (0.1, 0.11, 0.12, 0.13, 1e9)
    pictures.grid(
        [({"rate": i}, Summary(m, math.nan, 1)) for i, m in enumerate(means)], tmp_path / "a.png", Deviation()
    )
    pictures.grid([({"rate": 1}, Summary(0.5, math.nan, 1))], tmp_path / "b.png", Deviation())
    (first,), (second,) = (figure.axes[0].images for figure in figures)
    assert (first.norm.vmin, first.norm.vmax) == pytest.approx((0.1, 0.14))
    assert second.norm.vmin == 0.5 < second.norm.vmax
    assert set(cells(figures[0])) == {"0.1", "0.11", "0.12", "0.13", "1e+09"}


def test_what_a_point_lacks_and_what_is_off_have_ticks(tmp_path: Path, figures: list[Any]) -> None:
    adam = [({"optimizer": Adam(), "rate": 0.1}, Summary(0.5, math.nan, 1))]
    sgd = [
        ({"optimizer": SGD(), "clip_norm": clip, "rate": 0.1}, Summary(0.6, math.nan, 1)) for clip in (2.0, None, 0.5)
    ]
    pictures.grid(adam + sgd, tmp_path / "grid.png")
    pictures.parallel_coordinates(adam + sgd, tmp_path / "parallel.png")
    grid, parallel = (figure.axes[0] for figure in figures)
    assert [tick.get_text() for tick in grid.get_xticklabels()] == ["adam", "sgd"]
    assert [tick.get_text() for tick in grid.get_yticklabels()] == ["-", "none", "0.5", "2"]
    assert {word.get_position(): word.get_text() for word in grid.texts} == {
        (0, 0): "50.00", (1, 1): "60.00", (1, 2): "60.00", (1, 3): "60.00"
    }  # fmt: skip
    names = [word.get_text() for word in parallel.texts if word.get_position()[1] == 1.06]
    assert names == ["optimizer", "clip\nnorm", "rate", "validation\naccuracy\n(%)"]
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


def measured(chosen: list[dict[str, Any]], diverged: Callable[[int], bool]) -> list[tuple]:
    """Points with numbers between 0.03 and 1."""
    draw = np.random.default_rng(1)
    numbers = [Summary(float(draw.uniform(0.03, 1)), 0.02, 3) for _ in chosen]
    return [(values, DIVERGED if diverged(i) else numbers[i]) for i, values in enumerate(chosen)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every figure that was saved, at few pixels, with `written`: the words that were drawn and their boxes."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    found: list[Any] = []
    save, draw = Figure.savefig, Text.draw

    def drawing(text: Any, renderer: Any, *rest: Any, **more: Any) -> None:
        draw(text, renderer, *rest, **more)
        if text.get_text() and text.get_visible():
            figure = text.get_figure(root=True)
            figure.written[text] = text.get_window_extent(renderer), figure.bbox.frozen()

    def saving(figure: Any, path: Path, dpi: float) -> None:
        assert dpi > 60
        figure.written = {}
        found.append(figure)
        save(figure, path, dpi=60)

    monkeypatch.setattr(Text, "draw", drawing)
    monkeypatch.setattr(Figure, "savefig", saving)
    return found


CASES = {
    "one field": sweep(learning_rate=(0.001, 0.01, 0.1, 1.0)),
    "one point": sweep(learning_rate=(0.1,)),
    "words only": sweep(schedule=("cosine", "step"), batch_norm=(False, True)),
    "a grid": sweep(learning_rate=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), filters=((), (8,), (8, 16), (16, 32)), nesterov=(False, True)),
    "of every kind": sweep(momentum=(0.0, 0.5, 0.9, 0.95), padding=("SAME", 1, (1, 2), "$^$")),
    "objects": [{"learning_rate": 0.01 * 1.3**i, "schedule": Warmup(i % 12)} for i in range(30)],
    "long": sweep(weight_decay=(0.0, 1e-5, 1e-4), filters=tuple((8,) * i for i in range(1, 31))),
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
    "functions": sweep(activation=("relu", ACTIVATIONS["tanh"], drawn), learning_rate=(0.01, 0.1)),
    "40 at random": drawn_at_random(40),
    "1000 at random": drawn_at_random(1000),
}  # fmt: skip


@pytest.mark.parametrize("picture", ACROSS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("all_diverged", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_whatever_was_swept_can_be_read(
    tmp_path: Path, figures: list[Any], case: str, all_diverged: bool, picture: Callable[..., None]
) -> None:
    points = measured(CASES[case], lambda i: all_diverged or i % 7 == 6)
    picture(points, tmp_path / "a.png")
    if picture is pictures.rate_curves and case in ("one point", "words only"):
        assert not [*tmp_path.iterdir()]
        return
    assert drawn(tmp_path / "a.png")
    assert_read(figures[0])


@pytest.mark.parametrize("metric", METRICS, ids=str)
@pytest.mark.parametrize("case", ["a grid", "of every kind", "off", "parts", "fields of parts", "tuples of parts"])
def test_whatever_metric_can_be_read(tmp_path: Path, figures: list[Any], case: str, metric: Metric) -> None:
    points = measured(CASES[case], lambda i: i % 7 == 6)
    for picture in (pictures.grid, pictures.parallel_coordinates):
        picture(points, tmp_path / "a.png", metric)
        assert_read(figures[-1])


def assert_read(figure: Any) -> None:
    """Every word lies inside of the picture, and on no other."""
    words = [(text.get_text(), box) for text, (box, _) in figure.written.items()]
    assert words
    for text, (box, page) in figure.written.items():
        assert 0 <= box.x0 < box.x1 <= page.width, f"{text.get_text()!r} is cut"
        assert 0 <= box.y0 < box.y1 <= page.height, f"{text.get_text()!r} is cut"
    for (one, first), (other, second) in combinations(words, 2):
        assert not first.padded(-1).overlaps(second.padded(-1)), f"{one!r} lies on {other!r}"


@pytest.mark.parametrize("picture", ACROSS, ids=lambda function: function.__name__)
def test_nothing_is_drawn_of_no_field(tmp_path: Path, picture: Callable[..., None]) -> None:
    picture([({}, Summary(0.5, 0.1, 3))], tmp_path / "a.png")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("picture", ACROSS, ids=lambda function: function.__name__)
def test_the_same_points_give_the_same_bytes(tmp_path: Path, picture: Callable[..., None]) -> None:
    for name in ("a.png", "b.png"):
        picture(measured(CASES["a grid"], lambda i: i % 7 == 6), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_curve_for_each_of_the_best_combinations(tmp_path: Path, figures: list[Any]) -> None:
    chosen = sweep(filters=tuple((i,) for i in range(1, 11)), learning_rate=(0.1, 0.01, 1.0))
    points = [(v, Summary(2.0 * v["filters"][0] + v["learning_rate"], 0.5, 3)) for v in chosen]
    points[2], points[5] = ((chosen[i], DIVERGED) for i in (2, 5))
    pictures.rate_curves(points, tmp_path / "a.png")
    [axis] = figures[0].axes
    assert axis.get_xlabel() == "learning rate"
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert np.allclose(axis.get_xticks(), [0, 0.5, 1])
    for i, line in enumerate(axis.lines, 1):
        assert np.allclose(line.get_xdata(), [0, 0.5, 1])
        last = math.nan if i < 3 else 2 * i + 1
        assert np.allclose(line.get_ydata(), [2 * i + 0.01, 2 * i + 0.1, last], equal_nan=True)
    assert len(axis.lines) == pictures.COMBINATIONS
    [legend] = figures[0].legends
    assert [label.get_text() for label in legend.get_texts()] == [str(i) for i in range(1, 9)]
    assert legend.get_title().get_text() == "filters\n(best 8 of 10)"
    bars, dots, crosses = axis.collections
    assert sorted(np.ptp(path.vertices[:, 1]) for path in bars.get_paths()) == pytest.approx([1.0] * 22)
    assert len(dots.get_offsets()) == 22
    assert np.allclose(crosses.get_offsets(), [(1, 1), (1, 1 - 0.035)])
    assert axis.get_yscale() == "linear"


def test_losses_over_a_decade_are_on_a_logarithmic_scale(tmp_path: Path, figures: list[Any]) -> None:
    points = [({"momentum": 0.0}, Summary(0.1, 0.2, 3)), ({"momentum": 0.9}, Summary(2.0, 0.2, 3))]
    pictures.rate_curves(points, tmp_path / "a.png")
    [axis] = figures[0].axes
    assert axis.get_xlabel() == "momentum"
    assert axis.get_yscale() == "log"
    assert 0.02 < axis.get_ylim()[0] < 0.1
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0.05", "0.1", "0.2", "0.5", "1", "2"]


@pytest.mark.parametrize(("second", "axes", "legends"), [("momentum", 2, 0), ("filters", 1, 1)])
def test_points_drawn_at_random_stand_alone(
    tmp_path: Path, figures: list[Any], second: str, axes: int, legends: int
) -> None:
    chosen = [
        {name: values[name] for name in (second, "learning_rate", "label_smoothing")} for values in drawn_at_random(60)
    ]
    pictures.rate_curves(measured(chosen, lambda i: i < 20), tmp_path / "a.png")
    assert len(figures[0].axes) == axes
    assert len(figures[0].legends) == legends
    axis = figures[0].axes[0]
    assert axis.get_xlabel() == "learning rate"
    assert not axis.lines
    _, dots, crosses = axis.collections
    assert len(dots.get_offsets()) == 40
    assert len(crosses.get_offsets()) == 20
    colours = {tuple(colour) for colour in dots.get_facecolors()}
    assert len(colours) == 3 if legends else len(colours) > 20


def test_the_best_point_is_drawn_last_and_thick(tmp_path: Path, figures: list[Any]) -> None:
    decays, accuracies = (0.0, 1e-4, 1e-3, 1e-2), (0.9, 0.99, math.nan, 0.98)
    chosen = [{"weight_decay": decay, "schedule": "abab"[i]} for i, decay in enumerate(decays)]
    points = [(values, Summary(share, math.nan, 1)) for values, share in zip(chosen, accuracies, strict=True)]
    pictures.parallel_coordinates(points, tmp_path / "a.png")
    axis = figures[0].axes[0]
    grey, lines = axis.collections[:2]
    assert [segment[:, 0].tolist() for segment in (*grey.get_segments(), *lines.get_segments())] == [[0, 1, 2]] * 4
    [gone] = grey.get_segments()
    assert grey.get_linestyle() != lines.get_linestyle()
    assert gone[1:, 1].tolist() == [0, -0.1]
    worst, second, best = [segment[:, 1] for segment in lines.get_segments()]
    assert worst.tolist() == [0, 0, 0]
    assert second[:2].tolist() == [1, 1]
    assert best[1:].tolist() == [1, 1]
    assert np.isclose(gone[0, 1] - best[0], 1 - gone[0, 1])  # by their logarithm, a decade is a decade
    assert best[0] > 0
    thick = max(axis.lines, key=lambda line: line.get_linewidth())
    assert thick.get_ydata().tolist() == best.tolist()
    assert np.allclose(lines.get_colors()[2], thick.get_color())
    assert len({tuple(colour) for colour in lines.get_colors()}) == 3
    bar = figures[0].axes[1]
    assert np.allclose(bar.get_ylim(), (99 - pictures.SPAN, 99))


@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_the_best_is_on_top_whatever_the_metric(tmp_path: Path, figures: list[Any], metric: Metric) -> None:
    means = (0.4, 0.1, math.nan, 0.3, 0.2)
    points = [({"decay": float(i)}, Summary(mean, math.nan, 1)) for i, mean in enumerate(means)]
    pictures.parallel_coordinates(points, tmp_path / "a.png", metric)
    axis = figures[0].axes[0]
    [gone], lines = axis.collections[0].get_segments(), axis.collections[1]
    best = 0 if metric.higher_is_better else 1
    assert gone[1, 1] == -0.1
    order = [round(4 * segment[0, 1]) for segment in lines.get_segments()]
    assert order == ([1, 4, 3, 0] if metric.higher_is_better else [0, 3, 4, 1])
    heights = [segment[1, 1] for segment in lines.get_segments()]
    assert heights == sorted(heights)
    assert heights[0] == 0
    assert heights[-1] == 1
    thick = max(axis.lines, key=lambda line: line.get_linewidth())
    assert thick.get_ydata().tolist() == [best / 4, 1]
    assert tuple(lines.get_colors()[-1]) == pytest.approx(BRIGHTEST)
    words = {word.get_text(): word.xy[1] for word in axis.texts if getattr(word, "xy", (0, 0))[0] == 1}
    assert words[f"{100 * means[best]:.2f}" if metric.percent else str(means[best])] == 1


def test_crosses_of_one_rate_stay_inside(tmp_path: Path, figures: list[Any]) -> None:
    chosen = [{"learning_rate": (0.1, 1.0)[i % 2], "momentum": i / 100} for i in range(100)]
    pictures.rate_curves(measured(chosen, lambda i: i % 2 == 1), tmp_path / "a.png")
    _, dots, crosses = figures[0].axes[0].collections
    assert (len(dots.get_offsets()), len(crosses.get_offsets())) == (50, 50)
    assert crosses.get_offsets()[:, 1].min() > 0.7
