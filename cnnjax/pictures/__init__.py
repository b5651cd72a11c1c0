"""Matplotlib figures of runs, from `rows` as in `metrics.jsonl` and `points` as returned by `cnnjax.sweeps.rank`.

Each function returns a `Figure`, which notebooks display and `savefig` writes, or None if there is nothing to show.
The figures are independent of `pyplot` and its backend. Importing this package imports Matplotlib.
"""

from cnnjax.pictures.curves import compare_curves as compare_curves
from cnnjax.pictures.curves import learning_curves as learning_curves
from cnnjax.pictures.drawing import seeds_of as seeds_of
from cnnjax.pictures.gaps import gaps_to_best as gaps_to_best
from cnnjax.pictures.grids import grid as grid
from cnnjax.pictures.parallel import parallel_coordinates as parallel_coordinates
from cnnjax.pictures.rates import rate_curves as rate_curves
