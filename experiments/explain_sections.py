"""The sections of the page of `explain.py`: an image in, pictures and text out."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import explain_figures as figures
import jax
import jax.numpy as jnp
import numpy as np
from explain_figures import Case, Cost, Filtered, Pooled, Sliding
from flax import nnx
from jaxtyping import Float, Num
from PIL import Image

import cnnjax
from cnnjax import Spec, conv_general_dilated, look, make_task
from cnnjax.data.images import read_image
from cnnjax.networks.layers import ACTIVATIONS, POOLS, Maps, by_name, dense
from cnnjax.operations import explicit_padding
from cnnjax.presets import load_preset
from cnnjax.reports import Section, Shown
from cnnjax.runs import Trained, load_run

SIDE, FILTERS, WINDOW = 32, 6, 5
PHOTO, SMALL = 96, 12
SHIFT = (2, 3)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
PREWITT = np.array([[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]], np.float32)
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
MILLISECONDS = 180


class Subject(NamedTuple):
    """An image in three sizes, with values from 0 (black) to 1 (white)."""

    photo: Float[np.ndarray, "96 96 3"]
    image: Float[np.ndarray, "32 32 3"]
    shades: Num[np.ndarray, "12 12"]
    """Gray levels from 0 to 9, stretched so that the darkest is 0 and the lightest 9."""


class Chapter(NamedTuple):
    """A section of the page, and the lines that the command prints about it."""

    section: Section
    lines: Sequence[str] = ()


# ------------------------------------------------------------------------- operations on one image


def convolved(
    image: np.ndarray,
    kernel: np.ndarray,
    stride: int = 1,
    padding: Any = "VALID",
    dilation: int = 1,
    groups: int = 1,
) -> np.ndarray:
    """Convolves an image [height, width, channels] with a kernel [*window, channels / groups, filters]."""
    return np.asarray(
        conv_general_dilated(
            jnp.asarray(image, jnp.float32)[None],
            jnp.asarray(kernel, jnp.float32),
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )[0]
    )


def mapped(image: np.ndarray, kernel: np.ndarray, **options: Any) -> np.ndarray:
    """Convolves a gray image [height, width] with one filter [rows, columns]."""
    return convolved(image[..., None], kernel[..., None, None], **options)[..., 0]


def pooled(image: np.ndarray, size: int, kind: str = "average") -> np.ndarray:
    """Pools an image [height, width] or [height, width, channels] over windows that do not overlap."""
    volume = jnp.asarray(image, jnp.float32).reshape(1, *image.shape[:2], -1)
    found = np.asarray(POOLS[kind](volume, (size, size), (size, size))[0])
    return found.reshape(*found.shape[:2], *image.shape[2:])


def grayscale(image: np.ndarray) -> np.ndarray:
    """Returns the luma of a color image, by a 1x1 convolution."""
    return convolved(image, LUMA[None, None, :, None])[..., 0]


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shifts an image; the first row and column are repeated where it leaves space."""
    padded = np.pad(image, ((down, 0), (right, 0), *((0, 0),) * (image.ndim - 2)), mode="edge")
    return padded[: image.shape[0], : image.shape[1]]


def read(path: Path) -> Subject:
    """Reads an image file; DataError as in `read_image`."""
    spec = Spec((PHOTO, PHOTO, 3), "float32", (), (), "float32", np.zeros(3), np.ones(3), (0.0,) * 3, (1.0,) * 3)
    photo = read_image(path, spec)
    small = grayscale(pooled(photo, PHOTO // SMALL))
    low, high = small.min(), small.max()
    shades = np.round(9 * ((small - low) / (high - low) if high - low > 0.02 else small))
    return Subject(photo, pooled(photo, PHOTO // SIDE), shades)


# ------------------------------------------------------------------------- sections


def introduction(subject: Subject) -> Chapter:
    """Shows the image as it is used."""
    text = (
        "The larger side is cut, or a drawing is padded with the color of its border, so that the image is square. "
        "Averages over windows make it smaller, and weighted averages of red, green and blue make it gray; both are "
        "convolutions."
    )
    shown = Shown(
        figures.subject(subject.photo, subject.image, subject.shades),
        "The image in three sizes",
        "The gray levels are stretched: the darkest is 0, the lightest 9.",
        f"The image with {PHOTO} x {PHOTO} and {SIDE} x {SIDE} pixels in color, and as {SMALL} x {SMALL} numbers from "
        "0 to 9.",
    )
    return Chapter(Section("The image", text, [shown]))


def sliding(subject: Subject) -> Chapter:
    """Shows a filter that slides over the image."""
    slide = Sliding(subject.shades, PREWITT, mapped(subject.shades, PREWITT))
    side = len(slide.map)
    row, column = divmod(int(np.abs(slide.map).argmax()), side)
    places = sorted({(0, 0), (0, 1), (row, column), (side - 1, side - 1)})
    patch, products = slide.at(row, column)
    strongest = (
        f"The strongest response, {figures.number(products.sum())}, is in row {row + 1}, column {column + 1}: "
        f"the patch is {text_of(patch)}, the products are {text_of(products)}."
    )
    what = (
        f"The image has {SMALL} x {SMALL} gray levels from 0 (black) to 9 (white), the filter 3 x 3 weights. It "
        "subtracts the left column of a patch from the right one, so it responds to vertical edges."
    )
    text = (
        "A filter is a small window of weights. At each position, the patch of the image under the window is "
        "multiplied by the weights, entry by entry. The sum of the products is one entry of the map.\n\n"
        "The filter then moves one step to the right and, at the end of a row, to the start of the next. The weights "
        "stay the same at every position. Mathematicians call this a cross-correlation: their convolution flips the "
        "filter first."
    )
    shown = [
        Shown(
            animation(slide),
            "A filter slides over the image (animated)",
            "Above: the image with the window, and the map so far. Below: the patch times the filter, and the sum. "
            "You can check each step by hand.",
            f"Animation. {what} The window visits {slide.map.size} positions, and the map fills with their sums.",
        ),
        Shown(
            figures.steps(slide, places),
            "A few steps",
            f"Red is positive and blue is negative. {strongest}",
            f"{len(places)} positions of the filter, each with patch, filter, products, sum and map. {strongest}",
        ),
    ]
    return Chapter(Section("A filter slides over the image", text, shown))


def text_of(values: np.ndarray) -> str:
    """Writes a small array row by row."""
    return " / ".join(" ".join(map(figures.number, row)) for row in values)


def animation(slide: Sliding) -> bytes:
    """Returns a GIF of all positions, the first few of them slower."""
    frames = list(figures.frames(slide))
    images = [Image.fromarray(frame) for frame in frames]
    colors = Image.fromarray(np.concatenate(frames[:: len(frames) // 4])).quantize(255)
    palette = np.array(colors.getpalette()).reshape(-1, 3)
    palette[palette.min(1) > 240] = 255  # the ground stays white
    colors.putpalette(palette.ravel().tolist())
    first, *rest = (image.quantize(palette=colors, dither=Image.Dither.NONE) for image in images)
    pauses = [8 * MILLISECONDS] * 4 + [MILLISECONDS] * (len(images) - 5) + [16 * MILLISECONDS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=pauses, loop=0)
    return buffer.getvalue()


def bank() -> dict[str, np.ndarray]:
    """Returns six filters of 5x5x3 integer weights, by what they respond to."""
    steps = np.arange(-2, 3)
    rows, columns = np.meshgrid(steps, steps, indexing="ij")
    every = np.ones(3, int)
    near = np.maximum(abs(rows), abs(columns)) < 2
    return {
        "vertical edges": columns[..., None] * every,
        "horizontal edges": rows[..., None] * every,
        "diagonal edges": np.sign(rows + columns)[..., None] * every,
        "spots": np.where(near, 16, -9)[..., None] * every,
        "red against the rest": np.ones_like(rows)[..., None] * np.array([2, -1, -1]),
        "brightness": np.ones_like(rows)[..., None] * every,
    }


def volumes(subject: Subject) -> Chapter:
    """Shows six filters over a volume of three channels."""
    filters = bank()
    kernel = np.stack([weights / np.abs(weights).sum() for weights in filters.values()], -1)
    maps = convolved(subject.image, kernel)
    colored = np.ptp(subject.image, -1).max() > 0.05
    name = "red against the rest" if colored else "vertical edges"
    one = kernel[..., [*filters].index(name)]
    parts = convolved(subject.image, one[:, :, None, :], groups=3)
    total = convolved(subject.image, one[..., None])[..., 0]
    whole, grouped = (count(convolution(groups)[0]) for groups in (1, 3))
    links = [
        (f"one group: each filter sees all {3} channels", np.ones((3, FILTERS)), whole),
        ("three groups: each filter sees one channel", np.repeat(np.eye(3), 2, 1), grouped),
    ]
    split = convolved(subject.image, np.tile(kernel[:, :, :1, :2], 3), groups=3)
    shape = " x ".join(map(str, maps.shape))
    text = (
        "A color image is a volume: its height, its width, and three channels. A filter has a slice for each channel "
        f"and spans all of them, so here it has {WINDOW} x {WINDOW} x 3 weights. It slides over height and width only."
        f"\n\nEach filter makes one map. {FILTERS} filters make {FILTERS} maps, which form the volume {shape}: the "
        "input of the next layer, where filters have one slice for each of these maps."
    )
    shown = [
        Shown(
            figures.volume(subject.image, filters, maps),
            f"{by_name(subject.image.shape)} with six filters of {WINDOW}x{WINDOW}x3 gives {by_name(maps.shape)}",
            "Red is positive, blue is negative, and each map has its own scale. The filters are made by hand.",
            f"Three channels of the image, six filters named {', '.join(filters)}, their six maps, and the maps as a "
            f"volume of {shape}.",
        ),
        Shown(
            figures.channels(subject.image, filters[name], parts, total),
            "One filter spans all channels",
            f"The filter for {name}. Each channel is convolved with its own slice, and the results are added.",
            f"The red, green and blue channel, each with its slice of the filter for {name} and its map; the three "
            "maps are added to one.",
        ),
        Shown(
            figures.groups(links, [maps, split]),
            "Filters that see only some channels",
            f"With groups, a filter has slices for the channels of its group only: {grouped} parameters "
            f"instead of {whole}. Here, two filters see red, two green and two blue; one of each pair is for vertical "
            "edges, the other for horizontal ones.",
            f"A table of three channels and six filters. With one group all are connected, with {whole} "
            f"parameters; with three groups each filter is connected to one channel, with {grouped}.",
        ),
    ]
    line = f"{' x '.join(map(str, subject.image.shape))} with {FILTERS} filters of {WINDOW} x {WINDOW} x 3: {shape}"
    return Chapter(Section("A filter spans all channels", text, shown), [line])


def convolution(groups: int = 1) -> tuple[nnx.Conv, tuple[int, ...]]:
    """Returns the shapes of a convolution of six 5x5 filters over the 32x32x3 image, and that of its output."""
    maps = Maps((SIDE, SIDE, 3))
    layer = nnx.eval_shape(lambda: maps.convolution(FILTERS, WINDOW, groups=groups, rngs=nnx.Rngs(0)))
    return layer, maps.shapes[-1]


def count(module: nnx.Module) -> int:
    """Returns the number of parameters of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


SIZES: Mapping[str, tuple[int, Any, int]] = {
    "valid: the window stays inside": (1, "VALID", 1),
    "same: zeros around the image keep its size": (1, "SAME", 1),
    "zero padding of 2: the map is larger": (1, [2, 2], 1),
    "stride 2: every second position": (2, "VALID", 1),
    "stride 2, same: half the size": (2, "SAME", 1),
    "dilation 2: the window has gaps": (1, "VALID", 2),
}
"""Stride, padding and dilation of each case."""


def cases(shades: np.ndarray) -> Iterator[Case]:
    """Yields the cases of `SIZES` with their maps."""
    for name, (stride, padding, dilation) in SIZES.items():
        pairs = explicit_padding(padding, shades.shape, PREWITT.shape, (stride, stride), (dilation, dilation))
        found = mapped(shades, PREWITT, stride=stride, padding=pairs, dilation=dilation)
        yield Case(name, stride, dilation, pairs[0], found)


def geometry(subject: Subject) -> Chapter:
    """Shows how stride, padding and dilation change the size of the map."""
    found = list(cases(subject.shades))
    window = len(PREWITT)
    formulas = "; ".join(f"{case.name.split(':')[0]}: {case.formula(SMALL, window)}" for case in found)
    text = (
        "Along each side, a map has floor((size + padding - reach) / stride) + 1 entries. The padding counts both "
        "ends. The reach of a window is its size, or, with gaps between its weights, (size - 1) x dilation + 1.\n\n"
        "Padding lets the window reach the border, at the price of zeros that are not part of the image: they make "
        "edges of their own. A stride makes the map smaller, and a dilation makes a window see further with the same "
        "number of weights."
    )
    shown = Shown(
        figures.sizes(subject.shades, window, found),
        "What changes the size of the map",
        "The same image and filter six times. Light blue cells are zeros. The orange window gives the orange entry "
        "of the map, the blue window the next one.",
        f"Six convolutions of {SMALL} x {SMALL} gray levels with a 3 x 3 filter. {formulas}.",
    )
    return Chapter(Section("Stride, padding and the size of the map", text, [shown]))


def edges(image: np.ndarray) -> np.ndarray:
    """Returns the map of vertical edges of a color image, 28x28."""
    weights = bank()["vertical edges"]
    return convolved(image, (weights / np.abs(weights).sum())[..., None])[..., 0]


def equivariance(subject: Subject) -> Chapter:
    """Shows that the map of a shifted image is the shifted map."""
    down, right = SHIFT
    moved = shifted(subject.image, down, right)
    before, after = edges(subject.image), edges(moved)
    expected = np.full_like(before, np.nan)
    expected[down:, right:] = before[:-down, :-right]
    difference = after - expected
    largest = float(np.nanmax(np.abs(difference)))
    said = "exactly 0" if largest == 0 else f"{largest:.1e}, which is rounding"
    name = f"{down} rows lower, {right} columns to the right"
    text = (
        "The weights are the same at every position. So if something moves in the image, its response moves in the "
        "map by as much: convolution is equivariant to translation. A network need not learn a pattern anew for each "
        f"place.\n\nHere the image moves by {down} rows and {right} columns. Where the window sees only pixels that "
        f"moved, the largest difference between the two maps is {said}."
    )
    shown = Shown(
        figures.equivariance(
            [("the image", subject.image, before), (name, moved, after)],
            expected,
            difference,
            f"largest difference {largest:.1e}" if largest else "largest difference 0",
        ),
        "Shift the image, and the map shifts",
        "The map of vertical edges. Gray entries depend on pixels that entered at the border; they are left out.",
        f"The image and its map; the shifted image and its map; the first map shifted, and its difference to the "
        f"second. The largest difference is {said}.",
    )
    line = f"shift by {down} rows and {right} columns: the map shifts equally, largest difference {largest:.2g}"
    return Chapter(Section("Shift the image, and the map shifts", text, [shown]), [line])


def nonlinearity(subject: Subject) -> Chapter:
    """Shows activation functions on a map."""
    values = edges(subject.image)
    values = values / (values.std() if values.std() > figures.ROUNDING else 1)
    limit = max(float(np.abs(values).max()), 1.0)
    x = np.linspace(-limit, limit, 200, dtype=np.float32)
    names = {"ReLU": "relu", "tanh": "tanh", "sigmoid": "sigmoid"}
    results, curves = (
        {name: np.asarray(ACTIVATIONS[word](jnp.asarray(a))) for name, word in names.items()} for a in (values, x)
    )
    zero = float(np.mean(results["ReLU"] == 0))
    text = (
        "A convolution only adds and multiplies, and two in a row are a single larger one. A function between them, "
        "applied to each entry alone, changes that. ReLU replaces negative entries by zero; tanh limits entries to "
        f"between -1 and 1, the sigmoid to between 0 and 1.\n\nOn this map, ReLU sets {zero:.0%} of the entries to "
        "zero: edges from light to dark vanish, and those from dark to light remain."
    )
    shown = Shown(
        figures.activations(values, results, curves, x),
        "A map before and after ReLU, tanh and the sigmoid",
        "The map of vertical edges, scaled to a standard deviation of 1. White is zero, red positive, blue negative.",
        f"A map of vertical edges with the distribution of its values; the curves of three functions, and the maps "
        f"that they return. ReLU sets {zero:.0%} of the entries to zero.",
    )
    return Chapter(Section("ReLU, tanh and the sigmoid", text, [shown]))


def pooling(subject: Subject) -> Chapter:
    """Shows maximum and average pooling, and what they do under a shift of one pixel."""
    small = mapped(subject.shades, PREWITT)
    large = np.maximum(mapped(grayscale(subject.photo), SOBEL), 0)
    kinds = {"maximum": "max", "average": "average"}
    rows = {name: [large, *(pooled(large, size, kind) for size in (2, 4, 8))] for name, kind in kinds.items()}
    before, after = (np.maximum(edges(image), 0) for image in (subject.image, shifted(subject.image, 0, 1)))
    compared = [Pooled("no pooling", before, after)]
    compared += [Pooled(name, pooled(before, 4, kind), pooled(after, 4, kind)) for name, kind in kinds.items()]
    changes = ", ".join(f"{each.name} {each.change:.0%}" for each in compared)
    text = (
        "Pooling replaces each window by one number: its maximum or its average. With windows of 2 x 2 that do not "
        "overlap, the map has half the height and width. It has no weights to learn.\n\nThe maximum says whether "
        "something was found in the window, the average how much of it. Where exactly it was is lost, so a small shift "
        "usually matters less.\n\nIf the image moves by one pixel, the maps change by this much (the norm of the "
        f"difference, divided by the norm of the map): {changes}."
    )
    shown = [
        Shown(
            figures.pooling(small, {name: pooled(small, 2, kind) for name, kind in kinds.items()}),
            "Pooling in numbers",
            "The map of the first section. The orange window gives the orange entry. Averages are rounded.",
            f"A map of {len(small)} x {len(small)} numbers in windows of 2 x 2, and the {len(small) // 2} x "
            f"{len(small) // 2} maxima and averages.",
        ),
        Shown(
            figures.repeated(rows),
            "Larger windows",
            "Vertical edges of the image after ReLU, pooled over windows of 2, 4 and 8, all on one scale.",
            "A map of edges and its maxima and averages over windows of 2, 4 and 8: maxima keep thin edges strong, "
            "averages fade them.",
        ),
        Shown(
            figures.shifts(compared),
            "A shift of one pixel",
            "The same map after ReLU, for the image and for the image moved by one pixel; pooled over windows of 4.",
            f"Maps before and after the shift, and their difference. They change by: {changes}.",
        ),
    ]
    return Chapter(Section("Maximum and average pooling", text, shown))


def edge_share(kernel: np.ndarray) -> np.ndarray:
    """Computes which share of the power of each filter [*window, channels, filters] lies in two straight ramps.

    The ramps increase along the rows and along the columns. The Prewitt filter has 1, and noise has 2 / weights of a
    slice on average.
    """
    height, width = kernel.shape[:2]
    axes = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    ramps = [ramp / (np.linalg.norm(ramp) or 1) for ramp in axes]
    power = sum(np.square(np.tensordot(ramp, kernel, ((0, 1), (0, 1)))).sum(0) for ramp in ramps)
    return power / np.maximum(np.square(kernel).sum((0, 1, 2)), 1e-12)


class Learned(NamedTuple):
    """The filters of a trained network's first convolution."""

    kernel: Float[np.ndarray, "rows columns channels filters"]
    source: str
    """Where they come from, in a sentence."""


def learned(run: Path | None, trial: int | None, preset: Path | None) -> Learned:
    """Returns the first filters of a run, or of a network that is trained here; ValueError if there are none."""
    if run is None:
        trained = cnnjax.fit(load_preset("digits").train)
        assert trained.test
        source = (
            f"Here, a small network learned them from the digits of scikit-learn, images of 8 x 8 pixels, while this "
            f"page was made. It has a test accuracy of {trained.test[0]:.1%}."
        )
    else:
        trained = load_run(run, trial, load_preset(str(preset)).classes if preset else ())
        source = f"Here, they are those of {run.resolve().name}, which was trained on {trained.config.data}."
    return Learned(first_kernel(trained, run), source)


def first_kernel(trained: Trained, run: Path | None) -> np.ndarray:
    """Returns the kernel of the first convolution."""
    network = make_task(trained.config, trained.spec).functions
    found = look.kernels(network, trained.variables, trained.spec.standardize(trained.spec.example))
    if not found:
        raise ValueError(f"run: {run}: its network has no convolution: choose another run")
    path, kernel = next(iter(found.items()))
    if kernel.ndim != 4 or kernel.shape[2] not in (1, 3):
        raise ValueError(
            f"run: {run}: the filters of {path} are {by_name(kernel.shape[:-1])}: "
            "choose a run on images with 1 (gray) or 3 (RGB) channels"
        )
    return np.asarray(kernel)


def standardized(image: np.ndarray) -> np.ndarray:
    """Scales each channel of an image to mean 0 and standard deviation 1; a constant channel becomes 0."""
    std = image.std((0, 1))
    return np.where(std > figures.ROUNDING, image - image.mean((0, 1)), 0) / np.maximum(std, figures.ROUNDING)


def filters(subject: Subject, found: Learned) -> Chapter:
    """Shows edge filters made by hand beside learned ones."""
    photo = pooled(subject.photo, 2)
    scaled = standardized(photo)
    shades = standardized(grayscale(photo))
    by_hand = {"Sobel: vertical edges": SOBEL, "Sobel: horizontal edges": SOBEL.T, "Prewitt: vertical edges": PREWITT}
    channels, number = found.kernel.shape[2:]
    share = edge_share(found.kernel)
    most = np.argsort(-share)[:6]
    maps = convolved(scaled if channels == 3 else shades[..., None], found.kernel)
    parts = {
        "made by hand": [Filtered(name, kernel, mapped(shades, kernel)) for name, kernel in by_hand.items()],
        f"learned: {len(most)} of {number}, by edge share": [
            Filtered(f"filter {i + 1}: edge share {share[i]:.0%}", np.squeeze(found.kernel[..., i], 2), maps[..., i])
            if channels == 1
            else Filtered(f"filter {i + 1}: edge share {share[i]:.0%}", found.kernel[..., i], maps[..., i])
            for i in most
        ],
    }
    noise = 2 / np.prod(found.kernel.shape[:2])
    said = (
        f"The Prewitt filter has 100%, random weights have {noise:.0%} on average, and these {number} learned filters "
        f"{share.mean():.0%}, from {share.min():.0%} to {share.max():.0%}."
    )
    text = (
        "A filter for vertical edges can be written down: negative weights on the left, positive ones on the right, as "
        "in the Sobel and Prewitt filters. Training finds the weights from examples instead. Some learned filters turn "
        f"out as edge filters, others respond to spots, lines or brightness. {found.source}\n\nThe edge share of a "
        "filter is the part of its power that lies in two straight ramps, from left to right and from top to bottom. "
        f"{said}"
    )
    shown = Shown(
        figures.filters(parts),
        "Filters made by hand, and learned filters",
        "Each filter with its map of the image, which is scaled to mean 0 and standard deviation 1 first."
        + (" Learned filters have three channels and are shown in color; zero is gray." if channels == 3 else ""),
        "Sobel and Prewitt filters with their maps of the image, in which edges stand out; below, learned filters with "
        f"theirs. {said}",
    )
    return Chapter(Section("Filters made by hand, and learned filters", text, [shown]))


def layer_costs() -> list[Cost]:
    """Counts a dense, a locally connected and a convolutional layer from 32x32x3 to 28x28x6."""
    layer, output = convolution()
    full = nnx.eval_shape(lambda: dense((SIDE, SIDE, 3), [int(np.prod(output))], rngs=nnx.Rngs(0)))
    outputs, weights = int(np.prod(output)), int(np.prod(layer.kernel_shape[:-1]))
    return [
        Cost("dense", count(full), SIDE * SIDE * 3 * outputs),
        Cost("locally connected", outputs * (weights + 1), outputs * weights),
        Cost("convolutional", count(layer), outputs * weights),
    ]


def parameters() -> Chapter:
    """Compares the numbers of parameters and of multiplications."""
    full, local, shared = layer_costs()
    sparse = full.multiplications / local.multiplications
    output = convolution()[1]
    text = (
        f"All three layers turn {SIDE} x {SIDE} x 3 numbers into {' x '.join(map(str, output))}. A dense layer has a "
        f"weight for each pair of an input and an output, and a bias for each output: {full.parameters:,} "
        "parameters.\n\n"
        "Sparse interaction: a locally connected layer computes each output from a window alone, with weights of its "
        f"own. This divides parameters and multiplications by about {sparse:.0f}, "
        f"to {local.parameters:,} and {local.multiplications:,}.\n\nParameter sharing: a convolution uses the same "
        f"weights at all {output[0] * output[1]} positions, with one bias for each filter. This divides the parameters "
        f"by {local.parameters / shared.parameters:.0f}, to {shared.parameters}; the multiplications stay the same."
    )
    numbers = "; ".join(
        f"{c.name} {c.parameters:,} parameters, {c.multiplications:,} multiplications" for c in (full, local, shared)
    )
    shown = Shown(
        figures.costs([full, local, shared]),
        "Dense, locally connected, convolutional",
        "Above: a small layer of each kind, inputs below and outputs above. Equal colors are equal "
        "weights. Below: the numbers for the image.",
        f"Connections of the three kinds of layers, and bars: {numbers}.",
    )
    lines = [
        f"parameters: {shared.parameters:,} convolutional, {local.parameters:,} locally connected, "
        f"{full.parameters:,} dense",
        f"multiplications: {shared.multiplications:,}, {local.multiplications:,}, {full.multiplications:,}",
    ]
    return Chapter(Section("Few parameters: windows, and shared weights", text, [shown]), lines)
