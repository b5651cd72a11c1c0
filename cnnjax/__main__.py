"""The command `cnnjax`, and `python -m cnnjax`."""

import signal
import sys
import types
from importlib import metadata

COMMANDS = ("train", "sweep", "merge", "diff", "prepare")


def main() -> None:
    """Runs the command that the first word names."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which would end in a traceback while the imports last
    words = sys.argv[1:]
    if words[:1] in (["--version"], ["-V"]):
        print(f"cnnjax {metadata.version('cnnjax')}")
        return
    if not words or words[0] not in COMMANDS:
        helped = bool({"-h", "--help"} & set(words))
        if words and not words[0].startswith("-"):
            from cnnjax.commands.errors import fail
            from cnnjax.options import suggest

            fail(f"{words[0]}: no such command: {suggest(words[0], COMMANDS)}there are {', '.join(COMMANDS)}", 2)
        lines = ["usage: cnnjax COMMAND ...", "", "commands (each has --help):"]
        lines += [f"  {name:8s} {_summary(name)}" for name in COMMANDS]
        print("\n".join(lines), file=sys.stdout if helped else sys.stderr)
        raise SystemExit(0 if helped else 2)
    sys.argv = [f"cnnjax {words[0]}", *words[1:]]
    _module(words[0]).command()


def _module(name: str) -> types.ModuleType:
    from cnnjax.commands import diff, merge, prepare, sweep, train

    return {"train": train, "sweep": sweep, "merge": merge, "diff": diff, "prepare": prepare}[name]


def _summary(name: str) -> str:
    return (_module(name).__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    main()
