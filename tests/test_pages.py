"""The pages for readers: what they show as code runs, and every command and option that they name exists."""

import ast
import inspect
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tyro
from conftest import ROOT, script
from PIL import Image

from cnnjax import load, look
from cnnjax.commands import arguments, diff, merge, predict, prepare, report, summarize, surface
from cnnjax.commands import look as look_command
from cnnjax.commands.parser import parse_words
from cnnjax.descriptions import describe
from cnnjax.presets import load_preset
from cnnjax.runs import RunFolder, as_sweep
from cnnjax.sweeps import programs_of, search

README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").glob("*.py")),
]
EVERY_AUGMENTATION = (
    "flip,alternating-flip,shift,cutout,affine,color-jitter,mixup,cutmix,jitter,scaling,window-slice,token-dropout"
)
FORMS = {
    "merge": merge.Arguments,
    "diff": diff.Arguments,
    "prepare": prepare.Arguments,
    "predict": predict.Arguments,
    "surface": surface.Arguments,
    "report": report.Arguments,
    "look": look_command.Arguments,
}
SHARD = "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
COMMAND = re.compile(
    r"(?:^|&& |, then )(?:\S*python3? )?(?:-m )?(?:cnnjax (\w+)|(?:experiments/|tests/)?(\w+)\.py)\b(.*)"
)


def fences(page: Path, language: str) -> list[str]:
    """The blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def code(page: Path) -> Iterator[str]:
    """What a page shows as code: a line of a block, or a span of text, at a time."""
    text = page.read_text().replace("\\\n", " ")
    if page.suffix == ".py":
        yield from (ast.get_docstring(ast.parse(text)) or "").splitlines()
        return
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    for span in re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield " ".join(span.split())


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands that a page names with arguments, and their words."""
    for line in code(page):
        if (found := COMMAND.search(line)) and found[3].strip():
            words = shlex.split(re.sub(r" \[.*| \(.*", "", found[3]).replace(SHARD, "1/8").replace("...", ""))
            yield found[1] or found[2], words


def check_command(name: str, words: list[str]) -> None:
    """Parses a command line as the command does; one that trains is planned."""
    if name in ("train", "sweep"):
        parsed = arguments.parse("", words, several=name == "sweep")
        assert programs_of(next(search(as_sweep(parsed.config))), ())
    elif name == "summarize":
        summarize.read(words)
    elif name in FORMS:
        parse_words(FORMS[name], "", words)
    else:
        [path] = [*ROOT.glob(f"experiments/{name}.py"), *ROOT.glob(f"tests/{name}.py")]
        if form := runpy.run_path(str(path)).get("Arguments"):
            tyro.cli(form, args=words)


@pytest.fixture
def _at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has what the pages name: the preset of the README, and a sweep's winner."""
    [preset] = [block for block in fences(README, "python") if "class FocalLoss" in block]
    (tmp_path / "focal.py").write_text(preset)
    monkeypatch.syspath_prepend(ROOT / "experiments")  # scripts import modules beside them
    with RunFolder(tmp_path / "runs" / "NAME" / "winner") as folder:
        folder.write_json("config.json", describe(load_preset("digits").train))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_parses_and_plans(page: Path) -> None:
    found = list(commands(page))
    assert found or page.name == "extending.md"
    for name, words in found:
        check_command(name, words)


@pytest.mark.usefixtures("_at_hand")
def test_every_option_of_a_page_exists(capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["--optimizer", "sgd", "adamw", "rmsprop", "muon", "--schedule", "step", "linear", "one-cycle"]
    every = ["digits", *parts, "--augment", EVERY_AUGMENTATION, "--help"]
    with pytest.raises(SystemExit):
        arguments.parse("", every, several=True)
    for network in ("alexnet", "convnext", "resnet", "vgg"):
        with pytest.raises(SystemExit):
            arguments.parse("", ["digits", "--network", network, "--help"], several=False)
    for form in (predict.Arguments, look_command.Arguments):
        with pytest.raises(SystemExit):
            parse_words(form, "", ["--help"])
    told = capsys.readouterr().out + (summarize.__doc__ or "")
    known = {option.strip("-").split(".")[-1] for option in re.findall(r"--[\w.-]+", told)}
    for page in PAGES:
        for span in code(page):
            if span.startswith("--"):
                for option in re.findall(r"--[\w.-]+", span):
                    assert option.strip("-").split(".")[-1] in known, f"{page.name}: {option}"


@pytest.mark.slow
def test_the_readme_shows_the_table_that_a_sweep_prints(tmp_path: Path) -> None:
    shown = fences(README, "text")[0].splitlines()
    few = ["--learning-rate", "0.01", "0.1", "--filters", "4,8", "--epochs", "1", "--seeds", "2"]
    printed = script("sweep", "digits", *few, cwd=tmp_path).stdout.splitlines()
    [header] = [line for line in printed if line.startswith("rank")]
    assert header.split() == shown[0].split()
    assert re.sub(r"[\d.]+", "", printed[-2]) == re.sub(r"[\d.]+", "", shown[-2])


@pytest.fixture
def _first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has the run of the README's training command, with one epoch."""
    [train] = [words for name, words in commands(README) if name == "train" and "first" in words]
    script("train", *train, "--epochs", "1", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("_first_run")
def test_the_readme_s_python_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own, preset, modules, sweep = fences(README, "python")
    digits = load("digits").test
    Image.fromarray((digits.inputs[0, ..., 0] * (255 / 16)).round().astype(np.uint8)).save("digit.png")
    names: dict = {}
    exec(own, names)
    assert (names["image"] == digits.inputs[0]).all()
    *shown, last = capsys.readouterr().out.splitlines()
    assert shown[0] == "Trained"
    assert re.fullmatch(r"9: [\d.]+%", last)
    [command, _] = [words for name, words in commands(README) if name == "predict"]
    done = script("predict", *[word for word in command if word != "drawings/"], cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("digit.png: ")

    exec(modules, names)
    assert names["logits"].shape == (8, 10)
    assert names["maps"].shape == (8, 28, 28, 6)

    exec(sweep, names)
    _, points = capsys.readouterr().out.split("Swept\n")
    assert "12 complete" in points
    assert len([line for line in points.splitlines() if line.startswith("{")]) == 4

    (tmp_path / "focal.py").write_text(preset)
    [command] = [words for name, words in commands(README) if words[:1] == ["focal.py"]]
    done = script("sweep", *command, "--epochs", "1", "--seeds", "1", cwd=tmp_path)
    assert "12 trials: 12 complete" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("_first_run")
def test_the_python_of_the_page_on_look_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = ROOT / "docs" / "look.md"
    layers, mistakes, units = fences(page, "python")
    names: dict = {}
    exec(layers, names)
    printed, _ = fences(page, "text")
    assert capsys.readouterr().out == printed
    exec(mistakes, names)
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.size == (800, 400)
    exec(units, names)
    assert names["patches"].shape == (4, 8, 8, 1)
    assert names["found"].inputs.shape == (1, 8, 8, 1)


def test_the_page_on_look_names_every_function() -> None:
    named = re.findall(r"`(\w+)`(?=[^|\n]*\|[^|\n]*\|$)", (ROOT / "docs" / "look.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(name for name, value in vars(look).items() if inspect.isfunction(value))


def test_ci_runs_the_commands_of_the_readme() -> None:
    """`.ci/run` takes them out of the README's first two shell blocks, so they cannot differ."""
    blocks = fences(README, "bash")
    assert "experiments/sweep.py digits" in blocks[0]
    assert "pytest" in blocks[1]
    assert all(len(block.strip().splitlines()) == 1 for block in blocks[:2])
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
