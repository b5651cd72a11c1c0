"""What the tests share: two CPU devices, digits, and real TFDS directories made on the spot."""

import functools
import gc
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", max(2, len(os.sched_getaffinity(0))))

from cnnjax.data import Dataset, Split, load  # noqa: E402
from cnnjax.training import programs  # noqa: E402 - the number of devices is set first


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # workers compile a program once
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(shared / "cache"))


@pytest.fixture(autouse=True)
def _programs_are_freed() -> Iterator[None]:
    """Each program has mappings of its own, and Linux kills a process that comes to more than 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        programs._executable.cache_clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", cache_dir=tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def small(digits: Dataset) -> Dataset:
    """A few digits, for tests that train."""
    train, valid, test = (Split(s.inputs[:n], s.labels[:n]) for s, n in zip(digits[2:5], (160, 50, 50), strict=True))
    return Dataset.of("small", digits.classes, train, valid, test)


ROOT = Path(__file__).parents[1]


def experiment(name: str) -> ModuleType:
    """Imports a script of `experiments/` under its name."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec
    assert spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(*names: str) -> Any:
    """Returns the first of some modules or programs that is installed: the module, or the path of the program.

    If none is, the test is skipped. With `CNNJAX_CI=1`, as `.ci/run` sets it, the test fails instead.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            if program := shutil.which(name):
                return program
    missing = pytest.fail if os.environ.get("CNNJAX_CI") else pytest.skip
    return missing(f"{' or '.join(names)} is not installed")


@functools.cache
def _forks() -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("forks.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(**request: Any) -> dict[str, Any]:
    server = _forks()
    assert server.stdin
    assert server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer: dict[str, Any] = json.loads(server.stdout.readline())
    return answer


class Process:
    """`experiments/NAME.py` as a user runs it, as a fork of a process that has done its imports; warnings are errors.

    As `subprocess.Popen`, as far as it goes; `seconds` is the processor time that it took.
    """

    def __init__(self, name: str, *arguments: str | Path, cwd: Path):
        self.args = [str(ROOT / "experiments" / f"{name}.py"), *map(str, arguments)]
        self.returncode: int | None = None
        self.seconds = 0.0
        self._folder = tempfile.TemporaryDirectory()
        self._files = {stream: Path(self._folder.name) / stream for stream in ("stdout", "stderr")}
        files = {stream: str(path) for stream, path in self._files.items()}
        job = {"script": self.args[0], "arguments": self.args[1:], "cwd": str(cwd), "env": dict(os.environ), **files}
        self.pid: int = _asked(**job)["pid"]

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            answer = _asked(pid=self.pid, options=options)
            self.returncode, self.seconds = answer["code"], answer["seconds"]
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        self.poll(options=0)
        with self._folder:
            return self._files["stdout"].read_text(), self._files["stderr"].read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _forked(name: str, *arguments: str | Path, cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    process = Process(name, *arguments, cwd=cwd)
    stdout, stderr = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr), process.seconds


def script(name: str, *arguments: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `experiments/NAME.py` as a user does; warnings are errors."""
    done, _ = _forked(name, *arguments, cwd=cwd)
    assert not check or done.returncode == 0, done.stderr
    return done


BAD_INPUT = "bad inputs told in one line that names the culprit, exit 1 or 2; processor time"


def mistake(name: str, *arguments: str | Path, cwd: Path, code: int, message: str) -> float:
    """Runs a script with bad input, checks how it is told, and returns the seconds of processor time it took."""
    done, seconds = _forked(name, *arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if done.stderr.startswith("error:"):  # else tyro's box, or the overview of presets
        assert len(done.stderr.splitlines()) == 1
    return seconds


def images(shape: tuple[int, ...], count: int, seed: int = 0) -> list[dict]:
    """Images or series in which the label can be seen: a bright row, or a step."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        image = rng.integers(0, 60, shape, np.uint8)
        image[2 * (i % 10) : 2 * (i % 10) + 2] += 150
        rows.append({"image": image, "label": i % 10})
    return rows


def prepare(
    data_dir: Path, name: str, splits: dict[str, list[dict]], shape: tuple, file_format: str = "array_record"
) -> Path:
    """A TFDS directory written by TFDS itself; images given as arrays are stored as PNG, series as arrays."""
    import io

    import tensorflow_datasets as tfds
    from PIL import Image

    def png(image: np.ndarray | bytes) -> bytes:
        if isinstance(image, bytes):
            return image
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        return buffer.getvalue()

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = data_dir

        def _info(self):
            label = tfds.features.ClassLabel(num_classes=10)
            series = tfds.features.Tensor(shape=shape, dtype=np.float32)
            image = tfds.features.Image(shape=shape) if len(shape) == 3 else series
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows):
            for i, row in enumerate(rows):
                stored = png(row["image"]) if len(shape) == 3 else row["image"].astype(np.float32)
                yield i, {"image": stored, "label": row["label"]}

    Pictures.name = name
    builder = Pictures(data_dir=data_dir, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_path)


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared directories with the names and shapes of the presets' data, small and made up."""
    folder = tmp_path_factory.mktemp("tfds")
    shapes = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "gun_point": (150, 1), "italy_power_demand": (24, 1)}
    for name, shape in shapes.items():
        prepare(folder, name, {"train": images(shape, 300), "test": images(shape, 60, 1)}, shape)
    return folder


# ------------------------------------------------------------------------- figures


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Counts what tests show, for a line under their results: `figure(name, count, value)`.

    The line reads `50 of 50 NAME`, failures not counted, with the largest value if there are any.
    """

    def record(name: str, count: int = 1, value: float | None = None) -> None:
        record_property("figure", (name, count, value))

    return record


def pytest_sessionfinish() -> None:
    if _forks.cache_info().currsize:
        with _forks():  # closes its standard input, at which it ends
            pass


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    figures = defaultdict(list)
    for report in reports:
        for kind, figure in getattr(report, "user_properties", ()):
            if kind == "figure" and report.when == "call":
                name, count, value = figure
                figures[name].append((count, count * report.passed, value))
    if figures:
        terminalreporter.section("figures")
    for name, found in sorted(figures.items()):
        total, passed = (sum(column) for column in list(zip(*found, strict=True))[:2])
        values = [value for *_, value in found if value is not None]
        terminalreporter.line(f"{passed} of {total} {name}" + (f"; at most {max(values):.1f} s" if values else ""))
