"""Prepares a TensorFlow Datasets data set; the same as `cnnjax prepare`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.prepare import command  # noqa: E402

if __name__ == "__main__":
    command()
