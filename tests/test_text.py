"""Texts as data: the rule for words, the vocabulary of a training split, damaged files, `TextCNN`, and runs."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mistake, script
from flax import nnx

import cnnjax
from cnnjax import (
    Adam,
    CNNConfig,
    Flip,
    Loading,
    Mixup,
    SweepConfig,
    TextCNN,
    TextCNNConfig,
    TokenDropout,
    TrainConfig,
)
from cnnjax.augmentation import Augmentation
from cnnjax.data import PADDING, UNKNOWN, DataError, Dataset, Split, load, summary
from cnnjax.data.texts import SPECIAL, encode, words_of
from cnnjax.runs import InMemory
from cnnjax.sweeps import embedding
from cnnjax.training import make_task, validate

GOOD, BAD, OTHER = ["good", "great", "fine"], ["bad", "awful", "dull"], ["the", "a", "film", "plot", "is", "was"]
TINY = TextCNNConfig(embedding=4, kernels=(1, 3), filters=2)
ONE = TrainConfig(TINY, Adam(learning_rate=0.03), augment=(TokenDropout(0.1),), batch_size=16, epochs=2)


def reviews(count: int) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        words = [*rng.choice(OTHER, rng.integers(1, 6)), rng.choice(BAD if i % 2 else GOOD)]
        made.append((" ".join(rng.permutation(words)), "neg" if i % 2 else "pos"))
    return made


def write(path: Path, rows: Any, header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def read(path: Path, **loading: Any) -> Dataset:
    return load(str(path), cache_dir=path.parent / "cache", loading=Loading(**loading))


def texts_of(data: Dataset, split: Split) -> list[str]:
    return [" ".join(data.vocabulary[token] for token in row if token != PADDING) for row in split.inputs]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read(write(tmp_path_factory.mktemp("text") / "r.csv", reviews(120)))


# ------------------------------------------------------------------------- words and vocabulary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GOOD, isn't it?", ["it's", "good", ",", "isn't", "it", "?"]),
        ("10/10 -- co-op", ["10", "/", "10", "-", "-", "co", "-", "op"]),
        ("'quoted' dogs'", ["'", "quoted", "'", "dogs", "'"]),
        ("Ærø l’été", ["ærø", "l’été"]),
        (" \t\n", []),
    ],
)
def test_words_are_lower_case_and_punctuation_is_apart(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_no_text_has_the_words_of_special_tokens() -> None:
    assert all(words_of(word) != [word] for word in SPECIAL)
    assert encode(["<unknown>"], (*SPECIAL, "unknown"), 3).tolist() == [[UNKNOWN, 2, UNKNOWN]]


def test_the_vocabulary_is_that_of_the_training_split(tmp_path: Path) -> None:
    train = [("b a a once", "x"), ("b a c", "y")] * 3 + [("c rare", "x")]
    write(tmp_path / "r_train.csv", train)
    write(tmp_path / "r_valid.csv", [("a new new new", "x"), ("b", "y")])
    write(tmp_path / "r_test.csv", [("New c a b a b", "x"), ("rare", "y")])
    found = read(tmp_path / "r_train.csv")
    assert found.vocabulary == (*SPECIAL, "a", "b", "c", "once")
    assert (found.spec.tokens, found.spec.shape, found.spec.dtype) == (6, (4,), "int32")
    assert texts_of(found, found.valid) == ["a" + 3 * " <unknown>", "b"]
    assert texts_of(found, found.test) == ["<unknown> c a b", "<unknown>"]
    assert texts_of(found, found.train) == [text.replace("rare", "<unknown>") for text, _ in train]
    assert list(summary(found))[2:] == [
        "4 words in texts of up to 4; 1 that the training texts have only once are unknown",
        "1 of 11 texts are cut at 4 words",
    ]
    assert found.vocabulary == read(tmp_path / "r_train.csv").vocabulary  # of the cache
    every = read(tmp_path / "r_train.csv", min_count=1, max_length=2)
    assert (every.vocabulary, every.spec.shape) == ((*SPECIAL, "a", "b", "c", "rare"), (2,))
    with pytest.raises(
        DataError, match="min_count: 99: no word occurs so often in the training texts, at most 9 times"
    ):
        read(tmp_path / "r_train.csv", min_count=99)


def test_words_of_a_split_that_is_cut_are_not_known(tmp_path: Path) -> None:
    found = read(write(tmp_path / "r.csv", [(f"w{i} w{i} all", "xy"[i % 2]) for i in range(40)]))
    assert set(found.vocabulary[3:]) == {f"w{i}" for i in range(40)} & set(
        " ".join(texts_of(found, found.train)).split()
    )
    assert len(found.vocabulary) == 3 + 28
    assert set(texts_of(found, found.test)) == {"<unknown> <unknown> all"}


def test_columns_in_any_order_and_by_name(tmp_path: Path) -> None:
    rows = reviews(40)
    usual = read(write(tmp_path / "a.csv", rows))
    moved = read(
        write(tmp_path / "b.csv", [(str(i), label, text) for i, (text, label) in enumerate(rows)], "n,Label,Text")
    )
    named = read(write(tmp_path / "c.csv", rows, "review,label"), input_key="review")
    (tmp_path / "d.tsv").write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for text, label in rows))
    tabs = read(tmp_path / "d.tsv")
    for other in (moved, named, tabs):
        assert (other.vocabulary, other.classes) == (usual.vocabulary, ("neg", "pos"))
        np.testing.assert_array_equal(other.train.inputs, usual.train.inputs)
        np.testing.assert_array_equal(other.train.labels, usual.train.labels)


def test_labels_may_be_integers_and_texts_quoted(tmp_path: Path) -> None:
    rows = [(f'"a, ""b""\nword{i % 3}"', str(i % 2 * 10 - 1)) for i in range(40)]
    found = read(write(tmp_path / "r.csv", rows))
    assert found.classes == ("-1", "9")
    assert texts_of(found, found.train)[0][:-1] == 'a , " b " word'
    (tmp_path / "r.tsv").write_text("text\tlabel\n" + "".join(f'"rain" of 5\t{i % 2}\n' for i in range(40)))
    tabs = read(tmp_path / "r.tsv")
    assert set(texts_of(tabs, tabs.train)) == {'" rain " of 5'}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "r.csv: is empty: must have a header with text and label"),
        (b"text,label\n", "r.csv: has no rows after the header text, label"),
        (
            b"text,lable\na,x\n",
            "has no column label: did you mean 'lable'.*the header is text, lable; name .*--label-key",
        ),
        (b"text,text,label\na,b,x\n", "r.csv: has 2 columns text"),
        (b"text,label\na,x\nb\n", "r.csv: line 3: columns: 1: must be 2, as in the header"),
        (b"text,label\na,x\nb,c,y\n", "r.csv: line 3: columns: 3: must be 2"),
        (b"text,label\na,x\n  ,y\n", "r.csv: line 3: text: is empty"),
        (b"text,label\na,x\nb,\n", "r.csv: line 3: label: is empty"),
        (b"text,label\na,x\n\xff\xfe,y\n", "r.csv: is not a text file in UTF-8"),
        (b'text,label\na,x\n"b,y\n', "r.csv: line 3: is not CSV: unexpected end of data"),
        (b"text,label\na,x\nb,x\nc,x\nd,x\n", "r.csv: only one class, x"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "r.csv")


def test_a_label_that_is_not_in_train_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r_train.csv", reviews(20))
    write(tmp_path / "r_test.csv", [("good", "pos"), ("fine", "so-so")])
    with pytest.raises(DataError, match=r"r_test.csv: example 1 has label so-so, which is not in r_train.csv"):
        read(tmp_path / "r_train.csv")


def test_tokens_of_your_own_are_checked() -> None:
    labels = np.arange(20) % 2
    made = Dataset.of("own", "ab", Split(np.full((20, 3), 2), labels), vocabulary=(*SPECIAL, "word"))
    assert (made.spec.standardize(made.train.inputs).dtype, made.spec.example.dtype) == (jnp.int32, jnp.int32)
    for tokens, message in (
        (np.full((20, 3), 3), "tokens are 0 to 3: must be from 0 to 2"),
        (np.full((20, 3), -1), "tokens are -1 to 0"),
        (np.full((20, 3, 1), 1), r"inputs are int32\[20, 3, 1\]: tokens must be integers"),
        (np.full((20, 3), 1.0), r"inputs are float32\[20, 3\]: tokens must be integers"),
    ):
        with pytest.raises(DataError, match=message):
            Dataset.of("own", "ab", Split(tokens, labels), vocabulary=(*SPECIAL, "word"))
    with pytest.raises(DataError, match="tokens are 0 to 3"):
        made._replace(test=Split(made.test.inputs + 1, made.test.labels)).check()


# ------------------------------------------------------------------------- TextCNN


@pytest.fixture(scope="module")
def network() -> TextCNN:
    """Its windows of padding would have the largest values."""
    found = TextCNN(30, 2, embedding=6, kernels=(2, 5), filters=4, rngs=nnx.Rngs(0))
    for convolution in found.convolutions:
        convolution.bias[...] = jnp.full(4, 3.0)
    found.eval()
    return found


def test_padding_changes_nothing(network: TextCNN) -> None:
    lengths = jnp.array([1, 2, 200])
    texts = jnp.arange(210) % 28 + 2
    padded = network(jnp.where(jnp.arange(210) < lengths[:, None], texts, PADDING))
    for length, found in zip(lengths.tolist(), padded, strict=True):
        np.testing.assert_allclose(network(texts[None, :length])[0], found, rtol=1e-5, atol=1e-6)


def test_only_windows_with_a_word_count(network: TextCNN) -> None:
    """Against the definition, window by window."""
    text = np.array([5, 9, 3, 0, 0, 0])
    features = []
    for convolution in network.convolutions:
        kernel, bias = np.asarray(convolution.kernel[...]), np.asarray(convolution.bias[...])
        size = len(kernel)
        embedded = np.zeros((3 + 2 * (size - 1), 6))
        embedded[size - 1 : size + 2] = np.asarray(network.embedding.embedding[...])[text[:3]]
        windows = [np.einsum("te,tef->f", embedded[i : i + size], kernel) + bias for i in range(3 + size - 1)]
        features.append(np.maximum(np.max(windows, 0), 0))
    [last] = network.dense
    expected = np.einsum("kf,kfc->c", features, last.kernel[...]) + last.bias[...]
    np.testing.assert_allclose(network(jnp.asarray(text)[None])[0], expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_padding_is_zero(network: TextCNN) -> None:
    text = jnp.array([[5, 9, 0, 0], [0, 0, 0, 0]])
    gradient = nnx.grad(lambda net: net(text).sum())(network).embedding.embedding[...]
    assert np.isfinite(gradient).all()
    assert set(np.flatnonzero(np.abs(gradient).sum(1)).tolist()) == {5, 9}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernels": ()}, "kernels: none"),
        ({"kernels": (3, 0)}, "kernels: 3,0: every"),
        ({"dropout": 1.0}, "dropout: 1.0"),
    ],
)
def test_arguments_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextCNN(10, 2, **fields, rngs=nnx.Rngs(0))


def test_what_does_not_fit_text_is_refused(data: Dataset, small: Dataset) -> None:
    def refused(given: Dataset, message: str, network: Any = TINY, augment: tuple[Augmentation, ...] = ()) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            validate(make_task(TrainConfig(network, augment=augment, batch_size=8), given.spec), given)
        assert "\n" not in str(caught.value)

    refused(data, "network: cnn: is not for text: use another, such as text-cnn", CNNConfig())
    refused(small, "network: text-cnn: is for text, and the data are numbers: use another, such as cnn")
    refused(data, r"augment: flip: needs .* but inputs are tokens \[6\]: use another", augment=(Flip(),))
    refused(data, r"augment: mixup: needs .* but inputs are tokens \[6\]: use another", augment=(Mixup(),))
    assert embedding.obstacle(TINY, Adam(), data.spec).startswith("network TextCNNConfig: does not name its width")


# ------------------------------------------------------------------------- runs


def leaves(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
def test_training_resumes_bit_for_bit_and_a_lane_is_the_single_run(data: Dataset) -> None:
    whole = cnnjax.fit(ONE, data, lanes="1:1")
    store, asked = InMemory(), itertools.chain([False, True])
    with pytest.raises(KeyboardInterrupt):
        cnnjax.fit(ONE, data, store=store, lanes="1:1", stop=lambda: next(asked, True))
    again = cnnjax.fit(ONE, data, store=store, lanes="1:1", resume=True)
    assert leaves(again.variables) == leaves(whole.variables)
    axes = (("learning_rate", (0.01, 0.03)),)
    swept = cnnjax.sweep(SweepConfig(ONE, axes, 1), data, lanes="1:1")
    [same] = [r.trial.number for r in swept.results if r.trial.config.optimizer.learning_rate == 0.03]
    assert leaves(swept.trained(same).variables) == leaves(whole.variables)


def test_a_network_learns_and_takes_own_texts(data: Dataset) -> None:
    trained = cnnjax.fit(
        TrainConfig(TextCNNConfig(embedding=8, filters=8), Adam(learning_rate=0.03), batch_size=16, epochs=6), data
    )
    assert trained.test is not None
    assert trained.test[0] >= 0.9
    found = trained.probabilities(trained.tokens(["An AWFUL film", "a great, great plot!"]))
    assert [data.classes[i] for i in found.argmax(1)] == ["neg", "pos"]
    with pytest.raises(ValueError, match=r"tokens: the inputs of .* are not text"):
        trained._replace(vocabulary=()).tokens(["a"])


OWN = '''
"""A bag of words."""
import jax.numpy as jnp
from flax import nnx

import cnnjax


class Bag(nnx.Module):
    def __init__(self, tokens, classes, *, size, rngs):
        self.embedding, self.last = nnx.Embed(tokens, size, rngs=rngs), nnx.Linear(size, classes, rngs=rngs)

    def __call__(self, inputs):
        return self.last(jnp.where(inputs[..., None] > 0, self.embedding(inputs), 0).sum(1))


@cnnjax.config
class BagConfig(cnnjax.NetworkConfig):
    module = Bag
    for_text = True
    size: int = 4


train = cnnjax.TrainConfig(BagConfig(), cnnjax.Adam(learning_rate=0.03), data="r.csv", batch_size=16, epochs=2)
sweep = cnnjax.SweepConfig(train, axes=(("size", (4, 8)),), seeds=1)
'''


@pytest.mark.slow
def test_the_commands_train_on_text(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", reviews(120))
    (tmp_path / "bag.py").write_text(OWN)
    given = ["--data", "r.csv", "--batch-size", "16", "--epochs", "2"]
    words = ["movie-review", *given, "--embedding", "4", "--kernels", "1,3"]
    sweep = script(
        "sweep", *words, "--learning-rate", "0.01", "0.03", "--filters", "2", "3", "--seeds", "1", cwd=tmp_path
    )
    assert "13 words" in sweep.stdout or "12 words" in sweep.stdout
    script("train", *words, "--filters", "2", "--augment", "token-dropout", "--p", "0.2", "--name", "t", cwd=tmp_path)
    loaded = cnnjax.load_run(tmp_path / "runs" / "t")
    assert loaded.vocabulary[:2] == SPECIAL
    assert "great" in loaded.vocabulary
    assert loaded.tokens(["great"]).tolist()[0][1:] == [PADDING] * 5
    script("sweep", "bag.py", "--name", "b", cwd=tmp_path)
    script("report", "runs/t", cwd=tmp_path)
    drawn = script("look", "runs/b", "--preset", "bag.py", cwd=tmp_path).stdout
    assert "left out: filters, feature maps, " in drawn
    for command, code, message in (
        (["predict", "runs/t", "r.csv", "--invert"], 2, "error: invert: applies to images only, and the inputs"),
        (["train", "digits", *given], 2, "error: network: cnn: is not for text: use another, such as text-cnn"),
    ):
        mistake(*command, cwd=tmp_path, code=code, message=message)
