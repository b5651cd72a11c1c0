"""Looking inside networks: arrays in, arrays out."""

from cnnjax.look.surface import Plane as Plane
from cnnjax.look.surface import around as around
from cnnjax.look.surface import filter_normalized as filter_normalized
from cnnjax.look.surface import project as project
from cnnjax.look.surface import random_plane as random_plane
from cnnjax.look.surface import spaced as spaced
from cnnjax.look.surface import surface as surface
from cnnjax.look.surface import trajectory as trajectory
from cnnjax.look.surface import trajectory_plane as trajectory_plane
