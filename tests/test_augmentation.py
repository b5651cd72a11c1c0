"""Laws of augmentations: zero strength is the identity, and each agrees with an independent implementation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from scipy import ndimage, stats

from cnnjax import (
    SGD,
    Affine,
    AlternatingFlip,
    Augmentation,
    Batch,
    ColorJitter,
    CrossEntropy,
    CutMix,
    Cutout,
    Dataset,
    Flip,
    Jitter,
    Loss,
    Mixup,
    MLPConfig,
    Scaling,
    Shift,
    Split,
    SweepConfig,
    TokenDropout,
    TrainConfig,
    WindowSlice,
    config,
    make_task,
)
from cnnjax.augmentation.mixing import symmetric_beta
from cnnjax.data import PADDING, UNKNOWN
from cnnjax.sweeps import compile_program, plan, trials
from cnnjax.training import Lanes, as_batch, augmented, fit_task, train, validate

KEY = jax.random.key(3)
CONFIG = TrainConfig(MLPConfig(hidden=(8,)), SGD(learning_rate=0.1), batch_size=32, epochs=2)


run = jax.jit(lambda augment, key, batch: augment(key, batch))


def batch_of(inputs: Any, rows: Any = None, epoch: int = 0, key: Array = KEY) -> Batch:
    """A batch of four classes, as a step makes it."""
    inputs = np.asarray(inputs)
    split = Split(inputs, np.arange(len(inputs), dtype=np.int32) % 4)
    task = make_task(replace(CONFIG, batch_size=len(inputs)), Dataset.of("made", "abcd", split, split, split).spec)
    return as_batch(task, key, Split(*map(jnp.asarray, split)), rows, epoch)


def images(*shape: int) -> Batch:
    """Inputs without a zero, in which every cell is another number."""
    return batch_of(1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def noise(*shape: int) -> Batch:
    return batch_of(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def texts() -> Batch:
    tokens = np.random.default_rng(0).integers(2, 90, (200, 12)).astype(np.int32)
    tokens[:, 8:] = PADDING
    return batch_of(tokens)


def equal(a: object, b: object) -> bool:
    """Whether two arrays are the same bit for bit."""
    return np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


EACH = {
    "flip": (Flip(0.0), Flip(), noise(40, 6, 5, 3)),
    "alternating flip": (AlternatingFlip(0.0), AlternatingFlip(), noise(40, 6, 5, 3)),
    "shift": (Shift(0.0), Shift(), noise(40, 6, 5, 3)),
    "cutout": (Cutout(0.0), Cutout(3.0), noise(40, 6, 5, 3)),
    "affine": (Affine(0.0, 0.0, 0.0), Affine(), noise(40, 6, 5, 3)),
    "color jitter": (ColorJitter(0.0, 0.0, 0.0), ColorJitter(), noise(40, 6, 5, 3)),
    "mixup": (Mixup(0.0), Mixup(), noise(40, 6, 5, 3)),
    "cutmix, alpha": (CutMix(alpha=0.0), CutMix(), noise(40, 6, 5, 3)),
    "cutmix, p": (CutMix(p=0.0), CutMix(p=1.0), noise(40, 6, 5, 3)),
    "jitter": (Jitter(0.0), Jitter(), noise(40, 15, 2)),
    "scaling": (Scaling(0.0), Scaling(), noise(40, 15, 2)),
    "window slice": (WindowSlice(0.0), WindowSlice(), noise(40, 15, 2)),
    "token dropout": (TokenDropout(0.0), TokenDropout(), texts()),
}


@pytest.mark.parametrize(("zero", "default", "batch"), EACH.values(), ids=EACH)
def test_zero_strength_is_the_identity_and_a_key_decides(
    zero: Augmentation, default: Augmentation, batch: Batch
) -> None:
    """Bit for bit, with strengths as tracers; labels that are mixed become distributions."""
    same = run(zero, KEY, batch)
    assert equal(same.inputs, batch.inputs)
    mixes = isinstance(zero, Mixup | CutMix)
    assert equal(same.labels, np.eye(4, dtype=np.float32)[batch.labels] if mixes else batch.labels)
    once, again = (run(default, jax.random.key(7), batch) for _ in range(2))
    other = run(default, jax.random.key(8), batch._replace(key=jax.random.key(9)))
    assert equal(once.inputs, again.inputs)
    assert not equal(once.inputs, batch.inputs)
    assert not equal(once.inputs, other.inputs)


def test_zero_is_what_every_number_of_an_augmentation_may_be() -> None:
    """No augmentation is missing above."""
    from cnnjax import augmentation

    every = {cls for cls in vars(augmentation).values() if isinstance(cls, type)}
    assert every - {Augmentation} == {type(zero) for zero, _, _ in EACH.values()}


# ------------------------------------------------------------------------- positions


def test_flip_mirrors_every_image_or_none_or_a_share() -> None:
    batch = images(200, 3, 4, 2)
    always, never, some = (run(Flip(p), KEY, batch) for p in (1.0, 0.0, 0.25))
    assert equal(always.inputs, batch.inputs[:, :, ::-1])
    assert equal(never.inputs, batch.inputs)
    mirrored = (some.inputs == always.inputs).all((1, 2, 3))
    assert (mirrored | (some.inputs == batch.inputs).all((1, 2, 3))).all()
    assert 25 <= mirrored.sum() <= 75
    line = images(4, 5, 2)
    assert equal(Flip(1.0)(KEY, line).inputs, line.inputs[:, ::-1])


def moves_of(before: np.ndarray, after: np.ndarray) -> tuple[int, ...]:
    """By how much an image was moved along each spatial axis; fails if it is no move with zeros moved in."""
    spatial = before.shape[:-1]
    for move in np.ndindex(*(2 * n - 1 for n in spatial)):
        shift = tuple(m - n + 1 for m, n in zip(move, spatial, strict=True))
        to = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, spatial, strict=True))
        of = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, spatial, strict=True))
        expected = np.zeros_like(before)
        expected[to] = before[of]
        if np.array_equal(after, expected):
            return shift
    raise AssertionError("no move")


@pytest.mark.parametrize("shape", [(300, 6, 5, 2), (300, 7, 2)])
def test_shift_moves_by_at_most_its_cells_and_zeros_move_in(shape: tuple[int, ...]) -> None:
    batch, axes = images(*shape), len(shape) - 2
    found = run(Shift(2.0), KEY, batch)
    assert equal(found.labels, batch.labels)
    moves = np.asarray([moves_of(*pair) for pair in zip(*map(np.asarray, (batch.inputs, found.inputs)), strict=True)])
    for axis in range(axes):
        values, counts = np.unique(moves[:, axis], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 0.6 * len(batch.labels) / 5
    if axes == 2:
        assert abs(np.corrcoef(moves.T)[0, 1]) < 0.2  # each axis has a draw of its own
    between = run(Shift(0.5), KEY, batch)
    rare = [moves_of(*pair) for pair in zip(*map(np.asarray, (batch.inputs, between.inputs)), strict=True)]
    assert set(np.ravel(rare)) == {-1, 0, 1}


def test_every_other_epoch_is_flipped() -> None:
    """Two epochs in a row show an example once in either direction, whatever its place in the batch and the step."""
    inputs = np.asarray(images(200, 3, 4, 2).inputs)
    rows = np.random.default_rng(0).permutation(1000)[:200]

    def flipped(share: float, epoch: int, key: Array, order: Any = slice(None)) -> np.ndarray:
        batch = batch_of(inputs[order], jnp.asarray(rows[order]), epoch, key)
        found = np.asarray(AlternatingFlip(share)(jax.random.key(epoch), batch).inputs)
        mirrored = (found == inputs[order][:, :, ::-1]).all((1, 2, 3))
        assert (mirrored | (found == inputs[order]).all((1, 2, 3))).all()
        return mirrored

    first, second, third = (flipped(1.0, epoch, KEY) for epoch in range(3))
    assert 70 <= first.sum() <= 130
    assert (first == ~second).all()
    assert (first == third).all()
    assert (flipped(1.0, 0, KEY, slice(None, None, -1)) == first[::-1]).all()
    assert not (flipped(1.0, 0, jax.random.key(4)) == first).all()
    some = flipped(0.25, 0, KEY) | flipped(0.25, 1, KEY)
    assert 25 <= some.sum() <= 75


def test_a_run_tells_augmentations_epochs_and_rows(small: Dataset) -> None:
    """An augmentation that writes what it is told where labels are: each row once an epoch."""
    task = make_task(replace(CONFIG, augment=(Told(),), loss=Rows()), small.spec)
    *_, last = fit_task(task, KEY, small, 2)
    rows = np.arange(160)
    assert float(last.train.loss_sum) == (rows + 1000).sum()


@config
class Told(Augmentation):
    """Labels are rows, plus 1000 in the second epoch."""

    def __call__(self, key: Array, batch: Batch) -> Batch:
        return batch._replace(labels=(batch.rows + 1000 * batch.epoch).astype(batch.labels.dtype))


@config
class Rows(Loss):
    def __call__(self, logits: Array, labels: Array) -> Array:
        return labels.astype(jnp.float32) + 0 * logits.sum(-1)


@pytest.mark.parametrize("shape", [(700, 9, 7, 2), (300, 9, 2)])
@pytest.mark.parametrize("size", [1.0, 3.0, 4.0, 2.5])
def test_cutout_sets_a_square_to_zero(shape: tuple[int, ...], size: float) -> None:
    batch, side = images(*shape), int(np.ceil(size))
    found = np.asarray(run(Cutout(size), KEY, batch).inputs)
    assert ((found == 0) | (found == batch.inputs)).all()
    corners = set()
    for hidden in (found == 0).all(-1):
        [box] = ndimage.find_objects(hidden.astype(int))
        assert hidden[box].all()
        for edge, length in zip(box, hidden.shape, strict=True):
            inside = edge.start > 0 and edge.stop < length
            assert edge.stop - edge.start == side if inside else 1 <= edge.stop - edge.start <= side
        corners.add(tuple((edge.start, edge.stop) for edge in box))
    assert len(corners) == np.prod(shape[1:-1])  # every center occurs


@pytest.mark.parametrize(
    "augment", [Affine(40.0, 0.0, 0.0), Affine(0.0, 3.0, 0.0), Affine(0.0, 0.0, 0.4), Affine(180.0, 2.5, 0.3)]
)
def test_affine_agrees_with_scipy(augment: Affine) -> None:
    """The same draws, transformed by `scipy.ndimage.affine_transform`."""
    batch = noise(6, 9, 8, 2)
    keys, count = jax.random.split(KEY, 3), 6
    degrees, moves, sizes = (
        np.asarray(strength * jax.random.uniform(key, shape, minval=-1, maxval=1), np.float64)
        for key, strength, shape in zip(
            keys, (augment.degrees, augment.shift, augment.scale), ((count,), (count, 2), (count,)), strict=True
        )
    )
    expected = np.empty((6, 9, 8, 2))
    center = np.asarray([4.0, 3.5])
    for image, degree, move, size, out in zip(np.asarray(batch.inputs), degrees, moves, sizes, expected, strict=True):
        sine, cosine = np.sin(np.deg2rad(degree)), np.cos(np.deg2rad(degree))
        matrix = np.asarray([[cosine, sine], [-sine, cosine]]) / (1 + size)
        offset = center - matrix @ (center + move)
        for channel in range(2):
            out[..., channel] = ndimage.affine_transform(
                image[..., channel], matrix, offset, order=1, mode="grid-constant"
            )
    np.testing.assert_allclose(run(augment, KEY, batch).inputs, expected, atol=2e-5)
    assert np.abs(expected - batch.inputs).max() > 0.1


def test_rotation_turns_a_quarter_as_numpy_does() -> None:
    from cnnjax.augmentation.images import _transformed

    image = noise(1, 8, 8, 3).inputs[0]
    turned = _transformed(image, jnp.float32(np.pi / 2), jnp.zeros(2), jnp.float32(1))
    assert min(float(np.abs(turned - np.rot90(image, turns)).max()) for turns in (1, 3)) < 1e-4


# ------------------------------------------------------------------------- colors


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_colors_change_by_their_definition(field: str) -> None:
    strengths = dict.fromkeys(("brightness", "contrast", "saturation"), 0.0) | {field: 0.4}
    batch = noise(300, 5, 4, 3)
    before, after = np.asarray(batch.inputs), np.asarray(run(ColorJitter(**strengths), KEY, batch).inputs)
    if field == "brightness":
        amounts = (after - before)[:, 0, 0, 0]
        np.testing.assert_allclose(after, before + amounts[:, None, None, None], atol=1e-6)
    else:
        axes = (1, 2, 3) if field == "contrast" else (3,)
        mean = before.mean(axes, keepdims=True)
        amounts = ((after - mean) * (before - mean)).sum((1, 2, 3)) / np.square(before - mean).sum((1, 2, 3)) - 1
        np.testing.assert_allclose(after, mean + (1 + amounts[:, None, None, None]) * (before - mean), atol=2e-6)
        np.testing.assert_allclose(after.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=1e-6)
    assert stats.kstest(amounts, stats.uniform(-0.4, 0.8).cdf).pvalue > 0.01


# ------------------------------------------------------------------------- mixing


@pytest.mark.parametrize("lift", [jax.jit, lambda f: jax.jit(jax.vmap(f))], ids=["jit", "vmap"])
def test_symmetric_beta_has_its_distribution(lift: Callable[..., Any]) -> None:
    """Alpha is a tracer, and one of a lane under vmap; its limit 0 gives 0 or 1."""
    alphas, keys = np.asarray([0.05, 0.2, 1.0, 8.0, 0.0], np.float32), jax.random.split(KEY, 5)

    def draw(key: Array, alpha: Array) -> Array:
        return symmetric_beta(key, alpha, 2000)

    found = (
        lift(draw)(keys, alphas)
        if lift is not jax.jit
        else [lift(draw)(*pair) for pair in zip(keys, alphas, strict=True)]
    )
    for alpha, draws in zip(alphas[:-1], found, strict=False):
        kept = np.asarray(draws, np.float64).clip(1e-6, 1 - 1e-6)  # where float32 ends
        law = stats.beta(alpha, alpha)
        bins = law.cdf([0, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 1 - 1e-3, 1])
        counts = np.histogram(kept, [0, 1e-3, 0.1, 0.3, 0.5, 0.7, 0.9, 1 - 1e-3, 1])[0]
        seen = np.diff(bins) > 1e-3
        expected = np.diff(bins)[seen] / np.diff(bins)[seen].sum() * counts[seen].sum()
        assert stats.chisquare(counts[seen], expected).pvalue > 0.01
    assert set(np.unique(found[-1])) == {0.0, 1.0}


def test_mixup_mixes_inputs_and_labels_by_the_same_weights() -> None:
    """With the next example of the batch, and the larger of two weights from Beta(alpha, alpha)."""
    batch = noise(1000, 3, 2)
    found = run(Mixup(0.5), KEY, batch)
    before, labels = np.asarray(batch.inputs, np.float64), np.eye(4)[batch.labels]
    partners = np.roll(before, 1, 0)
    away = partners - before
    share = ((found.inputs - before) * away).sum((1, 2)) / np.square(away).sum((1, 2))
    np.testing.assert_allclose(found.inputs, before + share[:, None, None] * away, atol=1e-5)
    np.testing.assert_allclose(
        found.labels, (1 - share[:, None]) * labels + share[:, None] * np.roll(labels, 1, 0), atol=1e-4
    )
    np.testing.assert_allclose(found.labels.sum(1), 1, atol=1e-6)
    assert share.max() < 0.5 + 1e-6
    law = stats.beta(0.5, 0.5)
    assert stats.kstest(1 - share, lambda x: 2 * law.cdf(x) - 1).pvalue > 0.01


def test_mixup_keeps_the_mean_of_a_batch() -> None:
    batch = noise(1000, 3, 2)
    changes = [Mixup(1.0)(jax.random.key(i), batch).inputs.mean() - batch.inputs.mean() for i in range(20)]
    assert abs(np.mean(changes)) < 3 * np.std(changes) / np.sqrt(20) + 1e-6


@pytest.mark.parametrize("shape", [(400, 9, 7, 2), (400, 30, 2)])
def test_cutmix_replaces_a_box_and_mixes_labels_by_its_area(shape: tuple[int, ...]) -> None:
    batch = images(*shape)
    found = run(CutMix(p=0.6), KEY, batch)
    before, after = np.asarray(batch.inputs), np.asarray(found.inputs)
    taken = (after == np.roll(before, 1, 0)).all(-1)
    assert (taken | (after == before).all(-1)).all()
    for mask in taken[taken.reshape(len(taken), -1).any(1)]:
        [box] = ndimage.find_objects(mask.astype(int))
        assert mask[box].all()
    area = taken.mean(tuple(range(1, taken.ndim)))
    labels = np.eye(4)[batch.labels]
    np.testing.assert_allclose(
        found.labels, (1 - area[:, None]) * labels + area[:, None] * np.roll(labels, 1, 0), atol=1e-6
    )
    assert 0.45 < (area > 0).mean() < 0.65  # a few boxes have no cell


def test_cutmix_boxes_have_the_area_of_the_paper() -> None:
    """Its rule in NumPy: the same mean area, after what lies outside is cut off."""
    rng = np.random.default_rng(0)
    size, draws = 32, 20000
    side = (size * np.sqrt(1 - rng.beta(1, 1, draws))).astype(int)
    spans = []
    for _ in range(2):
        center = rng.integers(0, size, draws)
        spans.append(np.clip(center + side // 2, 0, size) - np.clip(center - side // 2, 0, size))
    expected = (spans[0] * spans[1]).mean() / size**2
    batch = batch_of(np.random.default_rng(0).normal(size=(4000, size, size, 1)).astype(np.float32))
    labels = run(CutMix(p=1.0), KEY, batch).labels
    area = 1 - labels[np.arange(4000), batch.labels]
    np.testing.assert_allclose(area.mean(), expected, rtol=0.06)


def test_numbers_of_a_regression_are_mixed_like_inputs() -> None:
    split = Split(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40, dtype=np.int32))
    data = Dataset.of("line", (), split)
    task = make_task(replace(CONFIG, batch_size=40), data.spec)
    found = Mixup(1.0)(KEY, as_batch(task, KEY, Split(*map(jnp.asarray, split))))
    share = (found.inputs - split.inputs)[:, 0] / (np.roll(split.inputs, 1, 0) - split.inputs)[:, 0]
    np.testing.assert_allclose(found.labels, (1 - share) * split.labels + share * np.roll(split.labels, 1), atol=1e-3)


# ------------------------------------------------------------------------- series and text


def test_jitter_and_scaling_are_normal() -> None:
    batch = noise(200, 15, 2)
    added = np.asarray(run(Jitter(0.3), KEY, batch).inputs) - batch.inputs
    assert stats.kstest(np.ravel(added), stats.norm(0, 0.3).cdf).pvalue > 0.01
    factors = np.asarray(run(Scaling(0.3), KEY, batch).inputs) / batch.inputs
    np.testing.assert_allclose(factors, np.broadcast_to(factors[:, :1], factors.shape), rtol=1e-4)
    assert stats.kstest(np.ravel(factors[:, 0]), stats.norm(1, 0.3).cdf).pvalue > 0.01


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_window_is_interpolated_as_numpy_does(cut: float) -> None:
    batch = noise(50, 15, 2)
    found = run(WindowSlice(cut), KEY, batch).inputs
    start = cut * 14 * np.asarray(jax.random.uniform(KEY, (50, 1)))[:, 0]
    for series, window, first in zip(np.asarray(batch.inputs), found, start, strict=True):
        places = np.linspace(first, first + (1 - cut) * 14, 15)
        for channel in range(2):
            np.testing.assert_allclose(
                window[:, channel], np.interp(places, np.arange(15), series[:, channel]), atol=1e-5
            )


def test_dropped_tokens_are_unknown_and_padding_stays() -> None:
    batch = texts()
    found = np.asarray(run(TokenDropout(0.25), KEY, batch).inputs)
    assert found.dtype == np.int32
    assert (found[:, 8:] == PADDING).all()
    dropped = found[:, :8] == UNKNOWN
    assert (dropped | (found[:, :8] == batch.inputs[:, :8])).all()
    assert 0.2 < dropped.mean() < 0.3
    assert (run(TokenDropout(1.0), KEY, batch).inputs[:, :8] == UNKNOWN).all()


# ------------------------------------------------------------------------- in training

SERIES = Dataset.of("series", "ab", Split(np.random.default_rng(0).normal(size=(100, 9, 1)), np.arange(100) % 2))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (ColorJitter(), "color-jitter: needs images [height, width, channels], but inputs are series [9, 1]"),
        (Affine(), "affine: needs images [height, width, channels], but inputs are series [9, 1]"),
        (TokenDropout(), "token-dropout: needs tokens [length], but inputs are series [9, 1]"),
    ],
)
def test_an_augmentation_of_other_inputs_is_refused(augment: Augmentation, message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        validate(make_task(replace(CONFIG, augment=(augment,)), SERIES.spec), SERIES)
    assert str(refused.value) == f"augment: {message}: use another augmentation"


def test_an_augmentation_of_series_is_refused_for_images(small: Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"^augment: window-slice: needs series \[steps, channels\], but inputs are images"
    ):
        validate(make_task(replace(CONFIG, augment=(Flip(), WindowSlice())), small.spec), small)


@config
class Integers(Loss):
    """A loss that takes the labels of the data set only."""

    def __call__(self, logits: Array, labels: Array) -> Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def test_a_loss_that_does_not_take_mixed_labels_is_refused(small: Dataset) -> None:
    validate(make_task(replace(CONFIG, loss=Integers()), small.spec), small)
    with pytest.raises(
        ValueError, match=r"^loss Integers: called with \(logits, labels that an augmentation has mixed\): TypeError"
    ):
        validate(make_task(replace(CONFIG, loss=Integers(), augment=(CutMix(),)), small.spec), small)


@config
class Plain(Augmentation):
    """An augmentation that returns a plain pair of arrays, as a Split."""

    def __call__(self, key: Array, batch: Batch) -> Split:
        return Split(-batch.inputs, batch.labels)


def test_an_augmentation_may_return_a_split(small: Dataset) -> None:
    """Those after it are told rows and epoch all the same."""
    task = make_task(replace(CONFIG, augment=(Plain(), AlternatingFlip())), small.spec)
    validate(task, small)
    batch = as_batch(task, KEY, Split(*(array[:32] for array in small.train)))
    flipped = AlternatingFlip()(
        KEY, batch._replace(inputs=-small.spec.standardize(batch.inputs), key=jax.random.fold_in(batch.key, 1))
    )
    assert equal(augmented(task, KEY, batch).inputs, flipped.inputs)


ALL = (AlternatingFlip(), Cutout(2.0), Affine(), ColorJitter(), Jitter(), Scaling(), Mixup(), CutMix())
AXES = {
    "share": (0.5, 1.0, 0.0),
    "size": (2.0, 0.0, 3.0),
    "degrees": (0.0, 30.0, 10.0),
    "shift": (1.0, 0.0, 2.0),
    "scale": (0.3, 0.1, 0.0),
    "brightness": (0.0, 0.1, 0.3),
    "contrast": (0.1, 0.3, 0.0),
    "saturation": (0.3, 0.0, 0.1),
    "noise": (0.1, 0.0, 0.2),
    "deviation": (0.0, 0.1, 0.2),
    "mixup.alpha": (0.2, 0.0, 1.0),
    "cutmix.alpha": (1.0, 0.5, 0.0),
    "cutmix.p": (0.0, 0.5, 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [Lanes(1, 1), Lanes(1, 2)])
def test_lanes_of_different_strengths_are_the_single_runs_to_the_bit(small: Dataset, lanes: Lanes) -> None:
    base = replace(CONFIG, augment=ALL)
    [program] = plan(trials(SweepConfig(base, tuple(AXES.items()), 1, zipped=(tuple(AXES),))), lanes)
    *_, together = train(compile_program(program, small))
    for row, trial in enumerate(program.trials):
        task = make_task(trial.config, small.spec)
        *_, single = fit_task(task, jax.random.key(trial.config.seed), small, 2)
        pairs = zip(jax.tree.leaves(together[2:]), jax.tree.leaves(single[2:]), strict=True)
        assert all(equal(np.asarray(many)[row], one) for many, one in pairs)


@pytest.mark.slow
def test_devices_that_share_a_batch_mix_the_whole_batch(small: Dataset) -> None:
    """The partner of an example may be on another device."""
    config = replace(CONFIG, loss=CrossEntropy(), augment=(Mixup(1.0), CutMix()))
    ends = []
    for lanes in (Lanes(1, 1), Lanes(1, 1, 2)):
        [program] = plan(trials(SweepConfig(config, ())), lanes)
        *_, last = train(compile_program(program, small))
        ends.append(last)
    for one, two in zip(jax.tree.leaves(ends[0][2:]), jax.tree.leaves(ends[1][2:]), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-5)
