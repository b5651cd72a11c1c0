"""Convolution and pooling that stay fast on CPU under jit, grad, scan and vmap.

On CPU, XLA computes a convolution efficiently only in the layouts NHWC and HWIO. At the top level of
a program it converts other layouts itself. Inside a loop (`lax.scan`, `lax.map`) it does not, and the
two gradient convolutions that `jax.lax` emits run as naive loops
(https://github.com/jax-ml/jax/issues/12868).

On CPU, this package lowers a convolution and each of its gradients to the form that suits their
sizes (see `forms`). On any other backend it emits what `jax.lax` emits.
"""

from cnnjax.operations.convolution import conv_general_dilated as conv_general_dilated
from cnnjax.operations.pooling import avg_pool as avg_pool
from cnnjax.operations.pooling import max_pool as max_pool
from cnnjax.operations.reference import in_float64 as in_float64
from cnnjax.operations.windows import Padding as Padding
from cnnjax.operations.windows import Pairs as Pairs
from cnnjax.operations.windows import explicit_padding as explicit_padding
from cnnjax.operations.windows import output_size as output_size
