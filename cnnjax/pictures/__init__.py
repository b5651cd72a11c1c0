"""Matplotlib figures of what runs recorded: of `rows` as in `metrics.jsonl`, and of `points` as `rank` orders them.

Each function returns a `Figure` that notebooks show and `savefig` writes, or None where there is nothing to show.
Neither the backend nor the open figures of `pyplot` are touched. Matplotlib is imported with this package.
"""

from cnnjax.pictures.curves import compare_curves as compare_curves
from cnnjax.pictures.curves import learning_curves as learning_curves
from cnnjax.pictures.drawing import seeds_of as seeds_of
from cnnjax.pictures.gaps import gaps_to_best as gaps_to_best
from cnnjax.pictures.grids import grid as grid
from cnnjax.pictures.parallel import parallel_coordinates as parallel_coordinates
from cnnjax.pictures.rates import rate_curves as rate_curves
