"""Draws the loss of a run on a plane of its parameters; the same as `cnnjax surface`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.surface import command  # noqa: E402

if __name__ == "__main__":
    command()
