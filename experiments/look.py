"""Draws what the network of a run has learned; the same as `cnnjax look`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.look import command  # noqa: E402

if __name__ == "__main__":
    command()
