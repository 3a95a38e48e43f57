"""Transformers: functions on arrays, and their sound versions on elements.

Each is a pure function `f(x, ...)`. On an array [B, ...] it is the concrete
function; on an element it returns an element with f(γ(h)) ⊆ γ(f(h)); on a
Product it does both to its parts.
"""

from diffai_jax.transformers.smooth import (
    elu,
    erf,
    gelu,
    selu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from diffai_jax.transformers.arranging import (
    broadcast,
    pad,
    slice_axes,
    transpose,
)
from diffai_jax.transformers.affine import (
    average_pool,
    conv,
    conv_transpose,
    dense,
    global_average_pool,
    scale_shift,
    sum_axes,
)
from diffai_jax.transformers.dispatch import (
    TRANSFORMERS,
    Deferred,
    apply,
    named,
    transformer,
)
from diffai_jax.transformers.correlation import (
    correlate_all,
    correlate_fixed,
    correlate_max,
    correlate_max_pool,
    correlate_random,
)
from diffai_jax.transformers.decorrelation import (
    decorrelate_all,
    decorrelate_min,
    decorrelate_random,
    to_hybrid,
    to_zonotope,
)
from diffai_jax.transformers.joining import add, concat, subtract
from diffai_jax.transformers.pooling import max_axes, max_pool
from diffai_jax.transformers.relu import leaky_relu, relu
from diffai_jax.transformers.sharing import adopt_symbols
from diffai_jax.transformers.moving import constant, flatten, gather, reshape
from diffai_jax.transformers.curves import (
    exp,
    log,
    reciprocal,
    sqrt,
    square,
)
from diffai_jax.transformers.clipping import absolute, clip
from diffai_jax.transformers.products import maximum, minimum, multiply
from diffai_jax.transformers.softmax import softmax

__all__ = [
    "Deferred",
    "TRANSFORMERS",
    "absolute",
    "add",
    "adopt_symbols",
    "apply",
    "average_pool",
    "broadcast",
    "clip",
    "concat",
    "constant",
    "conv",
    "conv_transpose",
    "correlate_all",
    "correlate_fixed",
    "correlate_max",
    "correlate_max_pool",
    "correlate_random",
    "decorrelate_all",
    "decorrelate_min",
    "decorrelate_random",
    "dense",
    "elu",
    "erf",
    "exp",
    "flatten",
    "gather",
    "gelu",
    "global_average_pool",
    "leaky_relu",
    "log",
    "max_axes",
    "max_pool",
    "maximum",
    "minimum",
    "multiply",
    "named",
    "pad",
    "reciprocal",
    "relu",
    "reshape",
    "scale_shift",
    "selu",
    "sigmoid",
    "silu",
    "slice_axes",
    "softmax",
    "softplus",
    "sqrt",
    "square",
    "subtract",
    "sum_axes",
    "tanh",
    "to_hybrid",
    "to_zonotope",
    "transformer",
    "transpose",
]
