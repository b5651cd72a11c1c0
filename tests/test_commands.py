"""What the commands print besides results: commands to type next, progress that fits, mistakes in one line."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, script

from cnnjax import MLPConfig, RunFolder, SweepConfig, TrainConfig
from cnnjax.commands import shell
from cnnjax.commands.terminal import Log
from cnnjax.runs.progress import _duration, _fitted


@pytest.mark.parametrize(
    ("words", "continued"),
    [
        (["digits"], ["digits", "--name", "r-1", "--resume"]),
        (["digits", "--name", "r-1"], ["digits", "--name", "r-1", "--resume"]),
        (["digits", "--name=r-1", "--resume"], ["digits", "--name=r-1", "--resume"]),
        (["runs/r-1", "--resume"], ["runs/r-1", "--resume"]),
        (["my net.py", "--runs_dir", "a"], ["my net.py", "--runs_dir", "a", "--name", "r-1", "--resume"]),
    ],
)
def test_a_run_is_continued_by_what_was_typed(
    words: list[str], continued: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m cnnjax train", *words])
    assert shell.Typed.now().continued(Path("runs/r-1"), sweep=False) == shell.line(continued)
    assert shell.line(continued).startswith("python -m cnnjax train ")


@pytest.mark.parametrize("name", ["--learning-rate", "--learning_rate", "--optimizer.learning-rate"])
def test_the_next_command_has_each_option_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["digits", name, "0.1", "0.3", "--seeds", "2", "--resume", "--name", "r"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    config = SweepConfig(TrainConfig(MLPConfig()), (("learning_rate", (0.1, 0.3)),))
    with RunFolder(tmp_path / "r") as folder:
        command = shell.Typed.now().grid({"learning_rate": (0.1, 0.3, 1.0)}, folder.path, config, extend=False)
    assert command == "python sweep.py digits --seeds 2 --learning-rate 0.1 0.3 1.0"


def test_progress_has_what_fits_the_first_first() -> None:
    pieces = ["epoch 3/10", "14 s left", "valid accuracy 94.17 %", "train loss 0.1"]
    assert _fitted(pieces, 0) == ""
    assert _fitted(pieces, 20) == "epoch 3/10"
    assert _fitted(pieces, 21) == "epoch 3/10, 14 s left"
    assert _fitted(pieces, 40) == "epoch 3/10, 14 s left, train loss 0.1"
    assert _fitted(pieces, 80) == ", ".join(pieces)
    assert [_duration(s) for s in (0.2, 48, 130, 5940, 12_000)] == ["0 s", "48 s", "2 min", "99 min", "3.3 h"]


def test_a_log_has_what_stays_on_the_screen(tmp_path: Path) -> None:
    log, path = Log(), tmp_path / "log.txt"
    with log.copying():
        sys.stdout.write("before there is a file\n")
        log.follow(path)
        sys.stderr.write("a bar \ra longer bar\r")
        sys.stderr.write("     \rof standard ")
        sys.stderr.write("error\nbar\rdone\n")
    sys.stdout.write("after\n")
    assert [line[21:] for line in path.read_text().splitlines()] == [
        "before there is a file",
        "of standard error",
        "done",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--learnin-rate", "0.1"], "Unrecognized options: --learnin-rate, 0.1: did you mean --learning-rate?"),
        (["--filters", "a,8"], "--filters: 'a,8': give --filters INT,..."),
        (["--epochs", "x"], "--epochs: 'x': give --epochs INT"),
        (["--name"], "Missing value for argument '--name'. Expected 1 values"),
        (
            ["--device", "x"],
            "invalid choice 'x' for argument '--device'. Expected one of ('cpu', 'gpu', 'tpu', 'none')",
        ),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    done = script("train", "digits", *words, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_help_comes_in_groups_that_fit_the_width(name: str, tmp_path: Path) -> None:
    said = script(name, "digits", "--help", cwd=tmp_path).stdout
    groups = re.findall(r"^[╭ ]─? ?(\w+) options ", said, re.M)
    assert groups == ["network", "optimizer", "loss", "data", *(["search"] if name == "sweep" else []), "execution"]
    assert "{None}" not in said
    assert " ...]" not in said
    assert "--device {cpu,gpu,tpu,none}" in said


def test_a_reader_that_leaves_ends_a_command_without_a_word(tmp_path: Path) -> None:
    command = f"{sys.executable} {ROOT}/experiments/sweep.py digits --help | true"  # which ends before the first word
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def screen(columns: int, command: list[str], cwd: Path, **more: str) -> str:
    """What a command writes on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(command, cwd=cwd, env={**env, **more}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux has no end of file here
        pass
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


@pytest.mark.slow
def test_help_has_no_colors_where_none_are_wanted(tmp_path: Path) -> None:
    command = [sys.executable, f"{ROOT}/experiments/train.py", "digits", "--help"]
    assert "\x1b" not in screen(80, command, tmp_path, TERM="xterm", NO_COLOR="1")
    assert "\x1b" in screen(80, command, tmp_path, TERM="xterm")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_bar_fits_its_terminal(columns: int, tmp_path: Path) -> None:
    words = ["digits", "--epochs", "200", "--filters", "4", "--lanes", "1:1", "--learning-rate", "0.03", "0.1", "1e30"]
    said = screen(columns, [sys.executable, f"{ROOT}/experiments/sweep.py", *words, "--seeds", "2"], tmp_path)
    bars = [line for line in re.split(r"[\r\n]+", said) if re.match(r" *\d+%\|", line)]
    assert max(map(len, bars)) <= columns
    assert len({line[:4] for line in bars}) > 2  # it moves
    assert any(" s left" in line for line in bars)
    assert any("best valid accuracy" in line for line in bars) is (columns > 40)
    assert "compiling" in said
    assert " 0 stopped" not in said
