"""The house itself: which way imports point, what an import costs, what is documented."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import reading
import yaml

import cnnjax

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "cnnjax").rglob("*.py"))

# Each room may import from rooms before its own line, and from its own.
ROOMS = [
    {"options", "operations", "devices", "logs"},
    {"data"},
    {"networks", "losses", "schedules", "metrics", "augmentation"},
    {"optimizers"},
    {"config"},
    {"descriptions"},
    {"training"},
    {"sweeps"},
    {"planning"},
    {"look"},
    {"pictures", "tensorboard"},
    {"reports"},
    {"runs"},
    {"presets"},
    {"commands", "__main__"},
]

# What parts, and what reads and writes them, import besides: no part knows of another, unless it holds it.
PARTS = {
    "networks": {"options", "operations"},
    "losses": {"options", "data"},
    "schedules": {"options"},
    "metrics": {"options"},
    "augmentation": {"options", "data"},
    "optimizers": {"options", "schedules"},
    "look": {"options", "devices", "data", "networks", "training"},
    "reports": set(),
    "config": {"options", "data", "networks", "losses", "metrics", "augmentation", "optimizers"},
    "descriptions": {
        "options",
        "data",
        "networks",
        "losses",
        "schedules",
        "metrics",
        "augmentation",
        "optimizers",
        "config",
    },
}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "cnnjax").parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "__init__"], ids=str)
def test_imports_point_one_way(path: Path) -> None:
    [level] = [i for i, rooms in enumerate(ROOMS) if room(path) in rooms]
    allowed = PARTS.get(room(path), {name for rooms in ROOMS[: level + 1] for name in rooms}) | {room(path)}
    for name in imports(path):
        if name.startswith("cnnjax."):
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


def test_the_library_neither_prints_nor_reads_the_command_line() -> None:
    """But for the progress of a run, which whoever calls may ask for."""
    for path in MODULES:
        if room(path) in ("commands", "__main__"):
            continue
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        shows = path.name == "progress.py"
        assert shows or "print" not in calls
        assert not ({"tyro", "argparse", "signal"} | (set() if shows else {"tqdm.tqdm", "tqdm.auto.tqdm"})) & imports(
            path
        )


def test_one_seam_per_dependency() -> None:
    """By room, or where a room has several files by file."""
    homes = {
        "tensorflow_datasets": {"data", "commands/prepare"},
        "sklearn": {"data", "look"},
        "platformdirs": {"data/cache"},
        "matplotlib": {"pictures"},
        "jinja2": {"reports"},
        "orbax": {"runs/checkpoints"},
        "tqdm": {"runs/progress"},
        "tensorboardX": {"tensorboard"},
        "optuna": {"sweeps/search"},
        "tyro": {"commands"},
    }
    for path in MODULES:
        file = path.relative_to(ROOT / "cnnjax").with_suffix("").as_posix()
        for name in imports(path):
            if (library := name.split(".")[0]) in homes:
                assert {room(path), file} & homes[library], f"{file} imports {name}"


def test_no_code_comes_from_data() -> None:
    """Only a preset, which its user names, is run; nothing else turns bytes into code or objects."""
    for path in [*MODULES, *sorted((ROOT / "experiments").glob("*.py"))]:
        banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "importlib.import_module"}
        if path.name != "presets.py":
            banned |= {"runpy"}
        assert not banned & {part for name in imports(path) for part in (name, name.split(".")[0])}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                assert called not in {"eval", "exec", "compile", "__import__"} or isinstance(
                    node.func, ast.Attribute
                ), path
                given = {word.arg: word.value for word in node.keywords}
                if "allow_pickle" in given or (
                    called in {"load", "loadtxt", "fromfile"} and "np" in ast.unparse(node.func)
                ):
                    allowed = given.get("allow_pickle", ast.Constant(value=False))
                    assert isinstance(allowed, ast.Constant), path
                    assert allowed.value is False, path


def test_importing_costs_jax_flax_and_optax_only() -> None:
    code = (
        "import cnnjax, sys\n"
        "assert not {'jax', 'flax', 'numpy'} & set(sys.modules)\n"
        "assert all(hasattr(cnnjax, name) for name in cnnjax.__all__)\n"
        "heavy = ['tensorflow_datasets', 'orbax.checkpoint', 'matplotlib', 'tensorflow', 'sklearn', 'PIL', 'tyro']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_names_are_imported_from_where_type_checkers_look() -> None:
    tree = ast.parse((ROOT / "cnnjax" / "__init__.py").read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    named = [
        (node.module, alias.name) for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(named) == sorted((home, name) for home, names in cnnjax._HOMES.items() for name in names.split())


def test_the_decorator_is_not_the_module_of_its_name() -> None:
    code = "from cnnjax.config import Range\nfrom cnnjax import config\nimport cnnjax\nprint(config is cnnjax.config, config)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("True <function config")


def public(module: object) -> list[object]:
    return [
        value
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__  # type: ignore[attr-defined]
    ]


def test_everything_public_has_a_docstring() -> None:
    for path in MODULES:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        __import__(name)
        module = sys.modules[name]
        assert module.__doc__, f"{name} has none"
        for value in public(module):
            assert inspect.getdoc(value), f"{name}.{value.__name__} has none"  # type: ignore[attr-defined]


def test_no_file_but_the_part_that_has_a_field_knows_it() -> None:
    """Numbers that can be off need no exception anywhere: they are leaves, or None."""
    files = reading.sources(ROOT)
    with_noise = {"alexnet", "all_cnn", "cnn", "mlp", "text_cnn", "vgg", "wide_resnet"}
    found = {path.stem for path in files if reading.knows(path, "dropout")}
    assert found == with_noise | {"base", "layers"}
    assert {path.stem for path in files if reading.knows(path, "clip_norm")} == {"optimizers"}


def test_no_comprehension_lies_deeper_than_two() -> None:
    kinds = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

    def depth(node: ast.AST) -> int:
        return isinstance(node, kinds) + max(map(depth, ast.iter_child_nodes(node)), default=0)

    for path in reading.sources(ROOT):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, kinds) or depth(node) <= 2, f"{path.name}:{node.lineno}"


def test_the_loop_stands_once() -> None:
    """Whoever trains goes through `runs.run`; only what measures trains besides."""
    users = {
        path.stem
        for path in reading.sources(ROOT)
        if {"cnnjax.training.parts", "cnnjax.training.train"} & imports(path)
    }
    assert users == {"runner"}


def test_constraints_name_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["dev"], *extras["benchmark"]]
    wanted = {re.split(r"[^\w-]", line)[0] for line in lines}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert wanted <= pinned


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what its schema requires
    assert citation["title"] == project["name"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_commits_are_checked_as_ci_checks_them() -> None:
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    checked = (ROOT / ".ci" / "run").read_text()
    assert len(local["hooks"]) == 3
    assert all(f"\n{hook['entry']}" in checked for hook in local["hooks"])
