"""Random small networks of plain Flax layers, and their weights.

A network is a tuple of steps, (kind, its settings), which `Plain` runs with
`flax.linen` and `jax.nn` alone; nothing here knows of graphs or bounds. `draw`
gives one, with weights and an input shape: images for even seeds, vectors for odd.
"""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {
    "abs": jnp.abs,
    "celu": jax.nn.celu,
    "clip": lambda x: jnp.clip(x, -0.7, 0.9),
    "elu": jax.nn.elu,
    "elu_of_half": lambda x: jax.nn.elu(x, 0.5),
    "gelu": jax.nn.gelu,
    "gelu_erf": lambda x: jax.nn.gelu(x, approximate=False),
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_silu": jax.nn.hard_silu,
    "hard_tanh": jax.nn.hard_tanh,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
    "log_sigmoid": jax.nn.log_sigmoid,
    "log_softmax": jax.nn.log_softmax,
    "mish": jax.nn.mish,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "soft_sign": jax.nn.soft_sign,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
    "square": lambda x: x**2,
    "squareplus": jax.nn.squareplus,
    "steep": lambda x: jnp.where(x < 0.25, 2 * x, x + 0.25),
    "tanh": jnp.tanh,
}


class Plain(nn.Module):
  """Steps in a row."""

  steps: tuple[tuple[str, Any], ...]

  @nn.compact
  def __call__(self, x):
    for kind, given in self.steps:
      x = STEPS[kind](x, given)
    return x


def _both(x, branches, meet):
  one, other = (Plain(steps)(x) for steps in branches)
  return meet(one, other)


def _turned(x, given):
  """One axis to another place and back, with a move between."""
  del given
  x = jnp.swapaxes(x, 1, -1)
  return jnp.swapaxes(x[:, ::-1], 1, -1)


def _mask(x):
  places = jnp.arange(x.shape[-1])
  return jnp.where(places % 3 == 1, 0.5, x)


def _fitting(x, options, window):
  """A window's options; padded where the image is smaller, and nothing was left."""
  options = dict(options)
  if any(a < b for a, b in zip(x.shape[1:], options[window])):
    options["padding"] = "SAME"
  return options


# By kind: what a step does with a value and its settings.
STEPS = {
    "activation": lambda x, name: ACTIVATIONS[name](x),
    "attention": lambda x, heads: nn.MultiHeadDotProductAttention(
        num_heads=heads, deterministic=True
    )(x),
    "average_pool": lambda x, o: nn.avg_pool(
        x, **_fitting(x, o, "window_shape")
    ),
    "batch_norm": lambda x, _: nn.BatchNorm(use_running_average=True)(x),
    "concat": lambda x, o: _both(
        x, o, lambda a, b: jnp.concatenate([a, b], -1)
    ),
    "conv": lambda x, o: nn.Conv(**_fitting(x, o, "kernel_size"))(x),
    "conv_transpose": lambda x, o: nn.ConvTranspose(**dict(o))(x),
    "dense": lambda x, size: nn.Dense(size)(x),
    "dropout": lambda x, _: nn.Dropout(0.5, deterministic=True)(x),
    "einsum": lambda x, size: nn.Einsum(
        (x.shape[-1], size), "...c,cd->...d"
    )(x),
    "flatten": lambda x, _: x.reshape(x.shape[0], -1),
    "gated": lambda x, _: nn.glu(x),
    "group_norm": lambda x, groups: nn.GroupNorm(groups)(x),
    "layer_norm": lambda x, _: nn.LayerNorm(epsilon=1e-3)(x),
    "mask": lambda x, _: _mask(x),
    "max_pool": lambda x, o: nn.max_pool(
        x, **_fitting(x, o, "window_shape")
    ),
    "mean": lambda x, _: x.mean((1, 2)),
    "pad": lambda x, o: jnp.pad(x, ((0, 0), *o)),
    "product": lambda x, o: _both(x, o, jnp.multiply),
    "slice": lambda x, o: x[:, o[0] : o[1] : o[2]],
    "sum": lambda x, o: _both(x, o, jnp.add),
    "take": lambda x, places: x[..., jnp.array(places)],
    "turned": _turned,
    "vectors": lambda x, _: x.reshape(x.shape[0], -1, x.shape[-1]),
}


def draw(seed: int, dtype=jnp.float32, most: int = 5):
  """A network, its variables and the shape of an example.

  Args:
    seed: of everything.
    dtype: of the variables.
    most: steps before the last dense layer, at most.
  """
  rng = np.random.default_rng(seed)
  if seed % 2:
    shape, steps = (int(rng.integers(3, 8)),), []
  else:
    shape = tuple(int(rng.integers(*r)) for r in ((4, 8), (4, 8), (1, 4)))
    steps = _image_steps(rng, int(rng.integers(1, most + 1)))
  steps += _vector_steps(rng, int(rng.integers(1, max(most - len(steps), 1) + 1)))
  network = Plain((*steps, ("dense", int(rng.integers(2, 5)))))
  like = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, *shape), dtype)
  )
  return network, weights(rng, like, dtype), shape


def weights(rng, like, dtype):
  """Numbers for variables of these shapes that keep values near 1 in size."""

  def one(path, leaf):
    name = path[-1].key
    if name == "var" or name == "scale":
      return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), dtype)
    deviation = 0.3
    if leaf.ndim > 1:
      deviation = 1.2 / math.sqrt(math.prod(leaf.shape[:-1]))
    return jnp.asarray(deviation * rng.normal(size=leaf.shape), dtype)

  return jax.tree_util.tree_map_with_path(one, like)


def _activation(rng):
  return "activation", str(rng.choice(sorted(ACTIVATIONS)))


def _image_steps(rng, count: int) -> list:
  """Steps of images, and one that makes vectors of them."""
  channels = 4  # All layers give as many: branches meet, groups divide them.
  steps = [_conv(rng, channels, groups=1)]
  kinds = (
      "conv", "conv", "activation", "activation", "batch_norm", "group_norm",
      "layer_norm", "average_pool", "max_pool", "conv_transpose", "sum",
      "concat", "product", "dropout", "pad", "slice", "take", "turned", "mask",
      "einsum", "attention",
  )
  for _ in range(count):
    kind = str(rng.choice(kinds))
    if kind == "conv":
      steps.append(_conv(rng, channels, int(rng.choice([1, 1, 2, 4]))))
    elif kind == "activation":
      steps.append(_activation(rng))
    elif kind in ("batch_norm", "layer_norm", "dropout", "turned", "mask"):
      steps.append((kind, None))
    elif kind == "group_norm":
      steps.append((kind, int(rng.choice([1, 2]))))
    elif kind.endswith("pool"):
      steps.append((kind, (
          ("window_shape", tuple(int(n) for n in rng.integers(1, 3, 2))),
          ("strides", tuple(int(n) for n in rng.integers(1, 3, 2))),
          ("padding", str(rng.choice(["SAME", "VALID"]))),
          *((("count_include_pad", bool(rng.integers(2))),)
            if kind == "average_pool" else ()),
      )))
    elif kind == "conv_transpose":
      steps.append((kind, (
          ("features", channels),
          ("kernel_size", tuple(int(n) for n in rng.integers(1, 4, 2))),
          ("strides", tuple(int(n) for n in rng.integers(1, 3, 2))),
          ("padding", str(rng.choice(["SAME", "VALID", "CIRCULAR"]))),
      )))
      steps.append(("average_pool", (
          ("window_shape", (2, 2)), ("strides", (2, 2)), ("padding", "SAME"),
      )))
    elif kind in ("sum", "product", "concat"):
      one = (_conv(rng, channels, 1, same=True), _activation(rng))
      other = () if rng.integers(2) else (_conv(rng, channels, 1, same=True),)
      steps.append((kind, (one, other)))
      if kind == "concat":
        steps.append(_conv(rng, channels, 1, same=True))
    elif kind == "pad":
      steps.append((kind, tuple(
          tuple(int(n) for n in rng.integers(0, 2, 2)) for _ in range(2)
      ) + ((0, 0),)))
    elif kind == "slice":
      steps.append((kind, (0, None, int(rng.integers(1, 3)))))
    elif kind == "take":
      places = rng.integers(0, channels, channels)
      steps.append((kind, tuple(int(n) for n in places)))
    elif kind == "einsum":
      steps.append((kind, channels))
    elif kind == "attention":
      steps += [("vectors", None), (kind, 2)]
      return [*steps, ("flatten", None)]
  return [*steps, (str(rng.choice(["flatten", "mean"])), None)]


def _conv(rng, channels: int, groups: int, same: bool = False) -> tuple:
  """A convolution; with `same`, of the same height and width."""
  padding = "SAME" if same else [
      "SAME", "VALID", "CIRCULAR", ((1, 0), (0, 2))
  ][rng.integers(4)]
  small = 3 if padding == "VALID" else 4
  options = {
      "features": channels,
      "kernel_size": tuple(int(n) for n in rng.integers(1, small, 2)),
      "strides": (1, 1) if same else tuple(
          int(n) for n in rng.integers(1, 3, 2)
      ),
      "padding": padding,
      "feature_group_count": groups,
      "use_bias": bool(rng.integers(4)),
  }
  if padding == "SAME" and rng.integers(2):
    options["kernel_dilation"] = tuple(int(n) for n in rng.integers(1, 3, 2))
  return "conv", tuple(options.items())


def _vector_steps(rng, count: int) -> list:
  """Steps of vectors."""
  size = 2 * int(rng.integers(2, 5))
  steps = [("dense", size)]
  kinds = (
      "dense", "activation", "activation", "batch_norm", "layer_norm", "sum",
      "concat", "product", "dropout", "pad", "slice", "take", "mask", "einsum",
      "gated",
  )
  for _ in range(count):
    kind = str(rng.choice(kinds))
    if kind in ("dense", "einsum"):
      steps.append((kind, size))
    elif kind == "activation":
      steps.append(_activation(rng))
    elif kind in ("batch_norm", "layer_norm", "dropout", "mask"):
      steps.append((kind, None))
    elif kind in ("sum", "product", "concat"):
      branches = ((("dense", size), _activation(rng)), (("dense", size),))
      steps.append((kind, branches))
    elif kind == "pad":
      steps.append((kind, ((1, 1),)))
    elif kind == "slice":
      steps.append((kind, (1, None, int(rng.integers(1, 3)))))
    elif kind == "take":
      steps.append((kind, tuple(int(n) for n in rng.integers(0, 2, size))))
    else:
      steps += [("dense", size), (kind, None)]
  return steps
