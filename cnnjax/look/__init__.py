"""Functions that show what a network has learned. They take and return arrays.

Most functions take a network, as returned by `cnnjax.functional`, its variables and a batch of inputs:

>>> import jax
>>> from cnnjax import CNN, functional, look
>>> network = functional(lambda rngs, example: CNN((8, 8, 1), 3, filters=(4,), rngs=rngs))
>>> images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
>>> variables = network.init(jax.random.key(1), images)
>>> maps = look.activations(network, variables, images)
>>> maps["blocks.0.convolutions.0"].shape
(6, 8, 8, 4)

For a trained network, `run = cnnjax.load_run(folder)`, these are `cnnjax.make_task(run.config, run.spec).functions`,
`run.variables` and `run.spec.standardize(images)`.

Layers are named by their paths, such as `blocks.0.convolutions.0`; `outline` lists them. Each function is
compiled once for each network and input shape, so create the network once and reuse it.
"""

from cnnjax.look.attributions import grad_cam as grad_cam
from cnnjax.look.attributions import gradient as gradient
from cnnjax.look.attributions import gradient_times_input as gradient_times_input
from cnnjax.look.attributions import integrated_gradients as integrated_gradients
from cnnjax.look.attributions import occlusion as occlusion
from cnnjax.look.classification import Calibration as Calibration
from cnnjax.look.classification import Mistakes as Mistakes
from cnnjax.look.classification import PerClass as PerClass
from cnnjax.look.classification import calibration as calibration
from cnnjax.look.classification import confusion as confusion
from cnnjax.look.classification import mistakes as mistakes
from cnnjax.look.classification import per_class as per_class
from cnnjax.look.costs import Costs as Costs
from cnnjax.look.costs import LayerCost as LayerCost
from cnnjax.look.costs import summarize as summarize
from cnnjax.look.kernels import kernels as kernels
from cnnjax.look.kernels import smoothness as smoothness
from cnnjax.look.layers import Layer as Layer
from cnnjax.look.layers import activations as activations
from cnnjax.look.layers import outline as outline
from cnnjax.look.maximization import Maximized as Maximized
from cnnjax.look.maximization import maximize as maximize
from cnnjax.look.projection import projection as projection
from cnnjax.look.randomization import randomized as randomized
from cnnjax.look.randomization import rank_correlation as rank_correlation
from cnnjax.look.receptive_fields import ReceptiveField as ReceptiveField
from cnnjax.look.receptive_fields import receptive_fields as receptive_fields
from cnnjax.look.surface import Plane as Plane
from cnnjax.look.surface import around as around
from cnnjax.look.surface import project as project
from cnnjax.look.surface import random_plane as random_plane
from cnnjax.look.surface import spaced as spaced
from cnnjax.look.surface import surface as surface
from cnnjax.look.surface import trajectory as trajectory
from cnnjax.look.surface import trajectory_plane as trajectory_plane
from cnnjax.look.texts import token_contributions as token_contributions
from cnnjax.look.units import Top as Top
from cnnjax.look.units import dead_units as dead_units
from cnnjax.look.units import maxima as maxima
from cnnjax.look.units import patches as patches
from cnnjax.look.units import top_examples as top_examples
