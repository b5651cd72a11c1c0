"""Trains and ranks the points of a sweep: `cnnjax sweep` of a checkout."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # which would end in a traceback while the imports last

from cnnjax.commands.sweep import command  # noqa: E402

if __name__ == "__main__":
    command()
