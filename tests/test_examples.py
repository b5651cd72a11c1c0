"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import cnnjax
from cnnjax import look

PACKAGE = Path(cnnjax.__file__).parent
NAMES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
TRAINING = (
    "look.attributions look.maximization look.surface networks.cnn networks.lenet networks.mlp networks.resnet "
    "training.core training.programs runs.entry runs.trained"
)
SLOW = {f"cnnjax.{name}" for name in TRAINING.split()}
SHOWN = (
    "CNN LeNet5 MLP ResNet Dropout functional avg_pool conv_general_dilated max_pool config number part static "
    "TrainConfig SweepConfig load load_preset load_run fit sweep make_task"
)


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES]
)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for test in examples(importlib.import_module(name)):
        assert doctest.DocTestRunner().run(test).failed == 0, test.name


def test_what_users_call_has_an_example() -> None:
    looking = [f"look.{name}" for name, value in vars(look).items() if inspect.isfunction(value)]
    assert len(looking) > 10
    for name in [*SHOWN.split(), "Dataset.of", *looking]:
        found = cnnjax
        for step in name.split("."):
            found = getattr(found, step)
        assert ">>> " in (inspect.getdoc(found) or ""), name
