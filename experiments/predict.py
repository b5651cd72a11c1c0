"""Predicts the classes of image files or series with a trained network; the same as `cnnjax predict`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback during the imports

from cnnjax.commands.predict import command  # noqa: E402

if __name__ == "__main__":
    command()
