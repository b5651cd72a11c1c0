"""Writes the report of a run again; the same as `cnnjax report`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.report import command  # noqa: E402

if __name__ == "__main__":
    command()
