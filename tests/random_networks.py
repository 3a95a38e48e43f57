"""Random small networks of every layer, rule and abstract layer.

What is drawn are Flax modules, so that arrays and elements take the same path
as in the networks of the package. `draw` gives a network; points of the input
box that leave its bounds are counterexamples to soundness.
"""

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from diffai_jax import nn as layers
from diffai_jax import transformers
from diffai_jax.domains.product import example_shape
from diffai_jax.types import Mode

ACTIVATIONS = (
    layers.ReLU, layers.ReLU, layers.ReLU, layers.LeakyReLU, layers.ELU,
    layers.SELU, layers.Softplus, layers.Sigmoid, layers.Tanh, layers.GELU,
)
RULES = ("box", "switch", "smooth", "deepz")


class Residual(nn.Module):
  """Two branches that meet by "add", "subtract", "concat" or "same".

  "same" calls one ReLU on both x and -x and subtracts: symbols of both calls
  must not be taken for the same.
  """

  first: tuple
  second: tuple
  meet: str
  axis: int = -1  # Of "concat".

  @nn.compact
  def __call__(self, x, mode):
    if self.meet == "same":
      relu = layers.ReLU()
      minus = transformers.scale_shift(x, -1.0, 0.0)
      return transformers.subtract(relu(x, mode), relu(minus, mode))
    one, other = (run(branch, x, mode) for branch in (self.first, self.second))
    if self.meet == "concat":
      return transformers.concat([one, other], self.axis)
    return getattr(transformers, self.meet)(one, other)


class Network(nn.Module):
  """Layers on images, then layers on vectors, then four outputs.

  With `whole`, the call returns the list of what each step gave, as vectors.
  """

  body: tuple
  tail: tuple = ()
  whole: bool = False

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    seen = []
    x = run(self.body, x, mode, seen)
    x = run(self.tail, transformers.flatten(x), mode, seen)
    x = layers.Linear(4)(x, mode)
    return seen + [x] if self.whole else x


def run(steps, x, mode, seen=None):
  """Applies (kind, arguments) steps; abstract layers and modules alike.

  Appends what each of them gives to `seen`, if there is one.
  """
  for kind, arguments in steps:
    if kind == "gather":
      size = example_shape(x)[-1]
      x = transformers.gather(x, [i % size for i in arguments])
    elif kind == "sum":
      total = transformers.sum_axes(x, (1,))
      x = transformers.reshape(total, (total_size(total), 1, 1))
    elif kind == "scale":
      x = transformers.scale_shift(x, *arguments)
    else:
      x = kind(**dict(arguments))(x, mode)
    if seen is not None:
      seen.append(transformers.flatten(x))
  return x


def total_size(x) -> int:
  return int(np.prod(example_shape(x)))


def draw_abstract(rng) -> tuple:
  kinds = [
      (layers.CorrelateAll, ()),
      (layers.CorrelateFixed, (("k", int(rng.integers(0, 40))),)),
      (layers.CorrelateMax, (("k", int(rng.integers(0, 40))),)),
      (layers.CorrelateRandom, (("k", int(rng.integers(0, 40))),)),
      (layers.CorrelateMaxPool,
       (("window", 2), ("stride", int(rng.integers(1, 3))))),
      (layers.DecorrelateAll, ()),
      (layers.DecorrelateMin, (("k", int(rng.integers(0, 20))),)),
      (layers.DecorrelateRandom, (("k", int(rng.integers(0, 20))),)),
      (layers.ToZonotope, (("relu", RULES[rng.integers(4)]),)),
      (layers.ToHybrid, (("relu", RULES[rng.integers(4)]),)),
      (layers.DeepLoss, (("weight", 0.1),)),
  ]
  return kinds[rng.integers(len(kinds))]


def draw_branch(rng, rules_may_change: bool, channels: int) -> tuple:
  """Layers that keep height and width and give `channels` channels."""
  steps = []
  for _ in range(rng.integers(0, 3)):
    step = draw_abstract(rng)
    if rules_may_change or not changes_rules(step):
      steps.append(step)
  size = int(rng.choice([1, 3]))
  steps.append((layers.Conv2D, (
      ("filters", channels), ("kernel_size", size), ("padding", size // 2),
  )))
  if rng.random() < 0.6:
    steps.append((ACTIVATIONS[rng.integers(len(ACTIVATIONS))], ()))
  if rng.random() < 0.4:
    pool = (layers.MaxPool2D, layers.AvgPool2D)[rng.integers(2)]
    steps.append((pool, (("window", 3), ("stride", 1), ("padding", 1))))
  return tuple(steps)


def draw_tail(rng) -> tuple:
  """Layers on vectors; a residual branch of vectors, too."""
  steps = []
  for _ in range(rng.integers(0, 3)):
    if rng.random() < 0.5:
      steps.append(draw_abstract(rng))
    if rng.random() < 0.4:
      branches = [
          (draw_abstract(rng),) if rng.random() < 0.5 else () for _ in range(2)
      ]
      if not any(changes_rules(step) for b in branches for step in b):
        steps.append((Residual, (
            ("first", branches[0]),
            ("second", branches[1] + ((layers.Tanh, ()),)),
            ("meet", str(rng.choice(["add", "subtract", "concat", "same"]))),
        )))
    steps.append((layers.Linear, (("features", int(rng.integers(3, 9))),)))
    steps.append((ACTIVATIONS[rng.integers(len(ACTIVATIONS))], ()))
  if rng.random() < 0.5:
    steps.append((layers.CorrelateAll, ()))
  return tuple(steps)


def changes_rules(step: tuple) -> bool:
  return step[0] in (layers.ToZonotope, layers.ToHybrid)


def draw(rng, small: bool = False) -> Network:
  """A network for images [6, 6, 2]; a small one is a step or two and a ReLU."""
  body = []
  for _ in range(1 if small else rng.integers(2, 5)):
    if rng.random() < 0.5:
      body.append(draw_abstract(rng))
    choice = rng.integers(8)
    if choice <= 2:
      body += draw_branch(rng, True, int(rng.integers(1, 4)))
    elif choice <= 5:
      meet = str(rng.choice(["add", "subtract", "concat", "same"]))
      channels = int(rng.integers(1, 4))
      body.append((Residual, (
          ("first", draw_branch(rng, False, channels)),
          ("second", draw_branch(rng, False, channels)),
          ("meet", meet),
          ("axis", int(rng.choice([-1, -1, 0, 1]))),
      )))
    elif choice == 6:
      body.append((layers.ConvTranspose2D, (
          ("filters", 2), ("kernel_size", 2), ("stride", 1), ("padding", 0),
      )))
    else:
      body.append(("gather", tuple(int(i) for i in rng.integers(0, 4, 3))))
  ends = [
      (layers.AvgPool2D, (("window", 2), ("padding", 1))),
      (layers.MaxPool2D, (("window", 2),)),
      (layers.Conv2D, (
          ("filters", 2), ("kernel_size", 3), ("stride", 2), ("padding", 1),
      )),
      (layers.GlobalAvgPool2D, ()),
      ("sum", ()),
      ("scale", (-1.5, 0.25)),
  ]
  if small:
    body.append((layers.ReLU, ()))
  body.append(ends[rng.integers(len(ends))])
  return Network(tuple(body), () if small else draw_tail(rng))


def draw_points(rng, center, radius, count):
  """Points of boxes [B, ...]: uniform and corners, [count·B, ...]."""
  shape = (count,) + center.shape
  noise = rng.uniform(-1, 1, shape)
  corners = rng.random((count,) + (1,) * center.ndim) < 0.5
  noise = np.where(corners, np.sign(noise), noise)
  points = center + radius * noise
  return jnp.asarray(points.reshape((-1,) + center.shape[1:]))
