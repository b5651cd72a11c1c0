"""Draws the loss of a run on a plane of its parameters.

python experiments/surface.py RUN [--points 51] [--examples 2000] [--directions random|trajectory] [--rates 0.5 ...]
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # which would end in a traceback while the imports last

from cnnjax.commands.surface import command  # noqa: E402

if __name__ == "__main__":
    command()
