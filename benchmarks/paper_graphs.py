r"""The paper's networks as graphs: `record` and `from_jax` against `apply`.

  python -m benchmarks.paper_graphs --size=16

Of each network of the registry (ten classes, images [size, size, 3], drawn weights):
outputs of both graphs against those of the modules, relative to the largest, in
float32; and bounds of Box and HBox of the recorded graph against the modules' own
with the same abstract layers, in float64.

Exits with 1 where outputs differ by more than 1e-5 or bounds by more than 1e-9.
"""

import sys
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax import networks
from diffai_jax.domains import box, correlated_box, lower, upper
from diffai_jax.graph import from_jax, record
from diffai_jax.transformers import correlate_fixed
from diffai_jax.types import Mode

_SIZE = flags.DEFINE_integer("size", 16, "of the images' sides")
_ONLY = flags.DEFINE_list("only", [], "names of networks; all by default")
_SYMBOLS = flags.DEFINE_integer(
    "symbols", 0, "variables that HBox correlates, evenly spaced; 0 is all of them"
)
_RADIUS = 0.02


def _network(name: str, shape):
  """(network, variables with which no layer's outputs are all alike)."""
  network = networks.create(name, 10, (0.4,) * 3, (0.3,) * 3)
  like = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)))
  rng = np.random.default_rng(0)

  def draw(leaf):
    if len(leaf.shape) > 1:  # As He et al. 2015 draw kernels.
      size = np.sqrt(2 * leaf.shape[-1] / leaf.size)
      drawn = rng.normal(size=leaf.shape) * size
    else:
      drawn = rng.uniform(0.1, 0.5, leaf.shape)
    return drawn.astype(np.float32)

  return network, jax.tree.map(draw, like)


def _difference(found, expected) -> float:
  """The largest one, of the largest value's size."""
  return max(
      float(jnp.abs(a - b).max() / jnp.abs(b).max())
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected),
                      strict=True)
  )


def _outputs(name: str, shape, images) -> tuple[float, float]:
  """How far (`record`, `from_jax`) are from `apply`, float32."""
  network, variables = _network(name, shape)
  run = lambda x: network.apply(variables, x)
  graphs = record(run, shape), from_jax(run, shape)
  call = jax.jit(lambda function, x: function(x))
  expected = jax.jit(run)(images)
  return tuple(_difference(call(graph, images), expected) for graph in graphs)


def _bounds(name: str, shape, images) -> dict[str, float]:
  """How far a recorded graph's bounds are from the modules', float64."""
  found = {}
  with jax.enable_x64(True):
    network, variables = _network(name, shape)
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), variables)
    run = lambda x: network.apply(variables, x, Mode.CERTIFY)
    graph = record(run, shape, np.float64)
    ends = lambda element: (lower(element), upper(element))
    images = np.asarray(images, float)
    for domain, element_of in (("Box", box), ("HBox", _correlated)):
      element = element_of(images, np.full(images.shape, _RADIUS))
      found[domain] = _difference(
          jax.jit(lambda graph, e: ends(graph(e)))(graph, element),
          jax.jit(lambda e: ends(run(e)))(element),
      )
  return found


def _correlated(images, radius):
  """HBox's element; of --symbols, the other variables stay a box."""
  if not _SYMBOLS.value:
    return correlated_box(images, radius)
  return correlate_fixed(box(images, radius), _SYMBOLS.value)


def main(argv: list[str]) -> None:
  del argv
  shape = (_SIZE.value, _SIZE.value, 3)
  rng = np.random.default_rng(1)
  images, failed = rng.uniform(size=(1, *shape)).astype(np.float32), []
  for name in _ONLY.value or networks.NETWORKS:
    began = time.monotonic()
    outputs, bounds = _outputs(name, shape, images), _bounds(name, shape, images)
    fine = max(outputs) <= 1e-5 and max(bounds.values()) <= 1e-9
    failed += [] if fine else [name]
    print(
        f"{name}: record {outputs[0]:.1e}, from_jax {outputs[1]:.1e};"
        f" bounds {', '.join(f'{d} {v:.1e}' for d, v in bounds.items())};"
        f" {time.monotonic() - began:.0f} s", flush=True,
    )
  print(f"failed: {failed or 'none'}")
  sys.exit(bool(failed))


if __name__ == "__main__":
  app.run(main)
