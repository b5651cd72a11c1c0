"""What the commands do with a network of texts: the words that activate units, sentences, and mistakes as words."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import images

import cnnjax
from cnnjax import Adam, TextCNN, TextCNNConfig, TrainConfig, functional, load_run, look
from cnnjax.commands import predict, report, text_chapters
from cnnjax.commands.look import Arguments, main
from cnnjax.commands.subject import Subject
from cnnjax.data import DataError, Dataset, load
from cnnjax.data.loading import Loading
from cnnjax.data.texts import read_texts
from cnnjax.pictures import words

LIKED, DISLIKED, REST = (
    ["great", "fine", "superb"],
    ["bad", "dull", "awful"],
    ["the", "film", "was", "a", "story", "of", "two", "people"],
)
CONFIG = TextCNNConfig(embedding=8, kernels=(2, 3), filters=4, dropout=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of which one word tells the class; the last ones have the other label."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("texts") / "films.csv"
    lines = ["text,label"]
    for i in range(120):
        sentence = [*rng.choice(REST, rng.integers(3, 8)), rng.choice((LIKED, DISLIKED)[i % 2])]
        lines.append(f"{' '.join(rng.permutation(sentence))},{('yes', 'no')[(i % 2) ^ (i > 110)]}")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def films(data: Path) -> Dataset:
    return load(str(data), cache_dir=data.parent / "cache")


@pytest.fixture(scope="module")
def run(data: Path, films: Dataset) -> Path:
    train = TrainConfig(CONFIG, Adam(learning_rate=0.03), data=str(data), batch_size=20, epochs=6)
    cnnjax.fit(train, films, store=data.parent / "run", lanes="1:1")
    return data.parent / "run"


# ------------------------------------------------------------------------- words


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_contributions_of_tokens_sum_to_the_activation(kernel: int) -> None:
    """Of a convolution of the embedding, without its bias; tokens outside of the window have none."""
    network = functional(lambda rngs, _: TextCNN(50, 2, embedding=8, kernels=(kernel,), filters=4, rngs=rngs))
    texts = jax.random.randint(jax.random.key(0), (5, 9), 1, 50).at[:, 6:].set(0)
    variables = network.init(jax.random.key(1), texts)
    layer = "convolutions.0"
    bias = jnp.arange(1.0, 5.0)
    variables.params["convolutions"][0]["bias"] = bias
    units, positions = jnp.array([0, 1, 2, 3, 0]), jnp.array([[0], [2], [4], [5 + kernel - 1], [5]])
    found = look.token_contributions(network, variables, texts, layer, units, positions)
    output = look.activations(network, variables, texts, [layer])[layer]
    expected = output[jnp.arange(5), positions[:, 0], units] - bias[units]
    np.testing.assert_allclose(found.sum(1), expected, rtol=1e-5, atol=1e-6)
    for row, [place] in enumerate(positions.tolist()):
        window = [token for token in range(place - kernel + 1, place + 1) if 0 <= token < 6]
        assert np.flatnonzero(found[row]).tolist() == window


def test_a_network_without_embedding_has_no_tokens() -> None:
    network = functional(lambda rngs, _: cnnjax.CNN((8, 8, 1), 2, filters=(4,), rngs=rngs))
    inputs = jnp.stack([row["image"] / 255 for row in images((8, 8, 1), 2)])
    variables = network.init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match=r"network: has no nnx.Embed, only "):
        look.token_contributions(network, variables, inputs, "dense.0", jnp.zeros(2, int), jnp.zeros((2, 0), int))


@pytest.mark.slow
def test_the_words_that_activate_a_unit_are_n_grams_of_the_validation_texts(run: Path, films: Dataset) -> None:
    subject = Subject(load_run(run), films, "films", examples=1000)
    assert subject.layers == ["convolutions.0", "convolutions.1"]
    part = text_chapters.of_units(subject)
    texts = [" ".join(films.vocabulary[token] for token in text if token) for text in films.valid.inputs]
    top = look.maxima(subject.network, subject.variables, subject.standardized, subject.layers)
    for layer, size in (("convolutions.0", 2), ("convolutions.1", 3)):
        for unit, best in part.facts["words"][layer].items():
            values = [value for _, value in best]
            assert values == sorted(values, reverse=True)
            assert values[0] == pytest.approx(float(top[layer][int(unit)]))
            assert len({entry for entry, _ in best}) == len(best)
            for entry, _ in best:
                assert 1 <= len(entry.split()) <= size
                assert any(f" {entry} " in f" {text} " for text in texts)
    assert [names.split(",")[0] for names, _ in part.omitted] == ["filters"]


def test_texts_are_drawn_whole() -> None:
    figure = words.ngrams({"unit 3": [("a $ b", 1.5)] * 9, "unit 4": [("c", 0.5)]}, "title")
    assert sum(text.get_text() == r"a \$ b" for text in figure.axes[0].texts) == 9
    long = "word " * 100
    figure = words.passages([long, "short"], ["yes as no 90 %", "no"], "title")
    figure.canvas.draw()
    assert " ".join(figure.axes[0].texts[1].get_text().split()) == long.strip()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert boxes[1].y0 > boxes[3].y1  # the second text is below the last line of the first


@pytest.mark.slow
def test_a_run_of_texts_is_drawn_and_reported(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Arguments(run, compilation_cache=False))
    printed = capsys.readouterr().out
    assert (
        "left out: filters, feature maps, receptive fields, inputs found by maximization, attributions: the " in printed
    )
    figures = run / "figures"
    drawn = {path.stem for path in figures.glob("*.png")}
    assert {"units-convolutions.0", "units-convolutions.1", "features", "confusion", "mistakes"} <= drawn
    assert set(json.loads((figures / "look.json").read_text())["words"]) == {"convolutions.0", "convolutions.1"}
    report.main(report.Arguments(run))
    page = (run / "report.html").read_text()
    assert page.count("<q>") >= 1


# ------------------------------------------------------------------------- predictions


def told(capsys: pytest.CaptureFixture[str], run: Path, *files: Path | str) -> tuple[int, list[str], list[str]]:
    """Exit code and lines of standard output and standard error of `predict`."""
    try:
        predict.main(predict.Arguments(run, tuple(map(Path, files)), compilation_cache=False))
        code = 0
    except SystemExit as ended:
        code = int(str(ended.code))
    out, err = capsys.readouterr()
    return code, out.splitlines()[1:], err.splitlines()


def test_sentences_and_files_of_texts_are_predicted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("the film was superb\n\na dull story\n")
    (tmp_path / "a.csv").write_text('more,text\n1,"the film was superb"\n2,a dull story\n')
    code, lines, err = told(capsys, run, "the film was superb", "a dull story", tmp_path / "a.txt", tmp_path / "a.csv")
    assert (code, err) == (0, [])
    assert lines[0].startswith("the film was superb: yes (")
    assert lines[1].startswith("a dull story: no (")
    answers = [line.rpartition(": ")[2] for line in lines]
    assert answers == answers[:2] * 3
    assert [line.rpartition(": ")[0] for line in lines[2:]] == [
        f"{tmp_path / name}:{row}" for name in ("a.txt", "a.csv") for row in (1, 2)
    ]


def test_texts_that_say_little_are_told(run: Path, films: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    long = "great film " * 200
    code, lines, err = told(capsys, run, "xyz q story", long, "see nothing.txt", "nothing.txt", " ")
    assert code == 1
    assert err == [
        "warning: xyz q story: 2 of 3 words are not in the vocabulary: xyz, q",
        f"warning: {long}: is cut at {films.spec.shape[0]} of its 400 words",
        "warning: see nothing.txt: 4 of 4 words are not in the vocabulary: see, nothing, ., txt",
        "error: nothing.txt: No such file or directory",
        "error:  : has no words",
    ]
    assert len(lines) == 3
    assert load_run(run).vocabulary == films.vocabulary


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt: is empty: must have a text in each line"),
        ("a.txt", b"\xff\xfe\x00", "a.txt: is not a text file in UTF-8"),
        ("a.csv", b"words\nfine\n", "a.csv: has no column text: the header is words; name the column with --input-key"),
        ("a.csv", b"text,label\nfine\n", "a.csv: line 2: columns: 1: must be 2, as in the header"),
    ],
)
def test_a_file_without_texts_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / name, Loading())
