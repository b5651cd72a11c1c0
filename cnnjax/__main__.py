"""The command `cnnjax`, also `python -m cnnjax`."""

import ast
import importlib
import signal
import sys
from importlib import metadata
from pathlib import Path

from cnnjax.commands.terminal import piped

COMMANDS = ("train", "sweep", "predict", "look", "report", "surface", "summarize", "merge", "diff", "prepare")


def main() -> None:
    """Runs the command that is named by the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports
    program = "python -m cnnjax" if Path(sys.argv[0]).name == "__main__.py" else "cnnjax"
    words = sys.argv[1:]
    if words[:1] in (["--version"], ["-V"]):
        print(f"cnnjax {metadata.version('cnnjax')}")
        return
    if not words or words[0] not in COMMANDS:
        helped = bool({"-h", "--help"} & set(words))
        if words and not words[0].startswith("-"):
            from cnnjax.commands.errors import fail
            from cnnjax.options import suggest

            fail(f"{words[0]}: no such command: {suggest(words[0], COMMANDS)}use one of {', '.join(COMMANDS)}", 2)
        lines = [f"usage: {program} COMMAND ...", "", "commands (each has --help):"]
        lines += [f"  {name:9s} {_summary(name)}" for name in COMMANDS]
        with piped():
            print("\n".join(lines), file=sys.stdout if helped else sys.stderr)
        raise SystemExit(0 if helped else 2)
    sys.argv = [f"{program} {words[0]}", *words[1:]]
    importlib.import_module(f"cnnjax.commands.{words[0]}").command()


def _summary(name: str) -> str:
    """Returns the first line of the docstring of a command without importing it, which would take a second."""
    source = Path(__file__).with_name("commands") / f"{name}.py"
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").splitlines()[0]


if __name__ == "__main__":
    main()
