"""Trains and ranks the points of a sweep; the same as `cnnjax sweep`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.sweep import command  # noqa: E402

if __name__ == "__main__":
    command()
