"""A reading of the code: its size, its largest functions, and which files know a field by name.

python tests/reading.py [CHECKOUT ...]
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


class Function(NamedTuple):
    """A function: where it is, its lines, and its branches (each condition, loop, handler and `and` or `or`)."""

    name: str
    lines: int
    branches: int


def sources(checkout: Path) -> list[Path]:
    """The files of the package and of the scripts."""
    return sorted([*(checkout / "cnnjax").rglob("*.py"), *(checkout / "experiments").glob("*.py")])


def functions(path: Path) -> Iterator[Function]:
    """The functions of a file, without those that lie in others."""

    def found(node: ast.AST) -> Iterator[ast.FunctionDef]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield child
            elif isinstance(child, ast.ClassDef):
                yield from found(child)

    for function in found(ast.parse(path.read_text())):
        nodes = list(ast.walk(function))
        branches = sum(isinstance(node, BRANCHES) for node in nodes)
        branches += sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
        assert function.end_lineno
        yield Function(f"{path.stem}.{function.name}", function.end_lineno - function.lineno + 1, branches)


def knows(path: Path, field: str) -> bool:
    """Whether code names a field, as an attribute, a variable, a keyword or a word that stands alone; not in prose."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = (
            getattr(node, "attr", None),
            getattr(node, "id", None),
            getattr(node, "arg", None),
            node.value if isinstance(node, ast.Constant) else None,
        )
        if any(isinstance(name, str) and name.strip("_") in (field, f"{field}_rate") for name in names):
            return True
    return False


def main(checkout: Path) -> None:
    files = sources(checkout)
    every = [function for path in files for function in functions(path)]
    longest, most = max(every, key=lambda f: f.lines), max(every, key=lambda f: f.branches)
    lines = [function.lines for function in every]
    print(f"{checkout}: {sum(len(path.read_text().splitlines()) for path in files)} lines in {len(files)} files")
    print(f"  {len(every)} functions, median {sorted(lines)[len(lines) // 2]} lines")
    print(f"  longest: {longest.name}, {longest.lines} lines; over 50 lines: {sum(n > 50 for n in lines)}")
    print(f"  most branches: {most.name}, {most.branches}; over 12: {sum(f.branches > 12 for f in every)}")
    for field in ("dropout", "clip_norm"):
        print(f"  files that know {field}: {', '.join(p.stem for p in files if knows(p, field)) or 'none'}")


if __name__ == "__main__":
    for checkout in map(Path, sys.argv[1:] or [Path(__file__).parents[1]]):
        main(checkout)
