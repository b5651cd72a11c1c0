"""Convolution and pooling that stay fast under jit, grad, scan and vmap.

On CPU, XLA runs a convolution quickly when its operands lie NHWC / HWIO. At the top level of a
program it brings other layouts into that form itself; inside a loop (`lax.scan`, `lax.map`) it
does not, and the two gradients that `jax.lax` emits for a convolution fall to plain loops there
(https://github.com/jax-ml/jax/issues/12868).

Here a convolution and its gradients are lowered on CPU as whichever form suits their sizes
(`forms`), and on every other backend as what `jax.lax` itself would have emitted.
"""

from cnnjax.operations.convolution import conv_general_dilated as conv_general_dilated
from cnnjax.operations.pooling import avg_pool as avg_pool
from cnnjax.operations.pooling import max_pool as max_pool
from cnnjax.operations.windows import Padding as Padding
from cnnjax.operations.windows import Pairs as Pairs
from cnnjax.operations.windows import explicit_padding as explicit_padding
from cnnjax.operations.windows import output_size as output_size
