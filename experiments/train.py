"""Trains one network and records the run; the same as `cnnjax train`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.train import command  # noqa: E402

if __name__ == "__main__":
    command()
