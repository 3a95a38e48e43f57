"""Outlines against corners found by brute force; figures have what they show."""

import itertools
import subprocess
import sys

import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np
import pytest
from scipy.spatial import ConvexHull

from diffai_jax import domains, transformers
from diffai_jax.app import plot
from diffai_jax.domains import Dense, HybridZonotope
from diffai_jax.types import UsageError


def _hull(center, sides) -> np.ndarray:
  """Corners of all 2^m sign choices' hull, counterclockwise (by qhull)."""
  signs = np.array(list(itertools.product([-1, 1], repeat=len(sides))))
  points = center + signs @ sides
  return points[ConvexHull(points).vertices]


def _same_polygon(found, wanted) -> None:
  """Equal up to where they begin."""
  assert len(found) == len(wanted)
  start = np.argmin(np.abs(wanted - found[0]).sum(axis=1))
  np.testing.assert_allclose(found, np.roll(wanted, -start, 0), atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_outline_is_the_hull_of_all_corners(seed):
  """Of random elements with both kinds of error, for either pair of axes."""
  random = np.random.default_rng(seed)
  count = seed + 1
  center = random.normal(size=(2, 3)).astype(np.float32)
  box = random.uniform(0.1, 1, (2, 3)).astype(np.float32)
  sides = random.normal(size=(2, count, 3)).astype(np.float32)
  element = HybridZonotope(
      jnp.asarray(center), jnp.asarray(box), {"a": Dense(jnp.asarray(sides))}
  )
  for axes, example in (((0, 1), 0), ((2, 0), 1), ((1, -1), -1)):
    chosen = list(axes)
    every = np.concatenate([
        sides[example][:, chosen], np.diag(box[example][chosen])
    ])
    _same_polygon(
        plot.outline(element, axes, example),
        _hull(center[example][chosen], every),
    )


def test_outline_of_symbols_in_several_blocks_and_images():
  """Diagonal and windowed blocks, over variables [H, W, C]."""
  images = domains.correlated_box(jnp.ones((1, 3, 3, 1)), 0.5)
  kernel = np.random.default_rng(0).normal(size=(2, 2, 1, 2))
  moved = transformers.conv(
      images, jnp.asarray(kernel, jnp.float32), jnp.zeros(2), stride=1,
      padding=0,
  )
  found = plot.outline(moved, (0, 1))
  wanted = _hull(kernel.sum((0, 1, 2)), 0.5 * kernel.reshape(4, 2))
  # Rounding has added a little box; both reach as far in every direction.
  angles = np.linspace(0, 2 * np.pi, 100)
  directions = np.stack([np.cos(angles), np.sin(angles)])
  reaches = [np.max(corners @ directions, 0) for corners in (found, wanted)]
  np.testing.assert_allclose(*reaches, atol=1e-4)


def test_parallel_sides_are_one_side():
  twice = HybridZonotope(
      jnp.zeros((1, 2)), None,
      {"a": Dense(jnp.array([[[1.0, 1.0], [-1.0, -1.0], [2.0, -2.0]]]))},
  )
  found = plot.outline(twice)
  assert len(found) == 4
  np.testing.assert_allclose(sorted(found.tolist()), [
      [-4.0, 0.0], [0.0, -4.0], [0.0, 4.0], [4.0, 0.0]
  ])


def test_points_and_segments_have_an_outline_too():
  point = domains.point(jnp.array([[1.0, 2.0]]))
  assert plot.outline(point).tolist() == [[1.0, 2.0]]
  segment = domains.box(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.5]]))
  assert plot.outline(segment).tolist() == [[1.0, 1.5], [1.0, 2.5]]
  for element in (point, segment):
    assert isinstance(plot.zonotope(element), plot.Drawing)


@pytest.mark.parametrize("change, message", [
    ({"axes": (0, 2)}, r"axes is \(0, 2\); expected the numbers of two of the 2"),
    ({"axes": (0,)}, "axes is"),
    ({"axes": (0, 0.5)}, "axes is"),
    ({"example": 1}, "example is 1; expected one of the batch of 1"),
    ({"element": np.zeros((1, 2))}, "expected a HybridZonotope"),
    ({"element": domains.box(jnp.zeros((1, 2)), jnp.inf)}, "is not bounded"),
])
def test_what_has_no_outline_is_one_line(change, message):
  values = {"element": domains.box(jnp.zeros((1, 2)), 1.0)} | change
  with pytest.raises(UsageError, match=message) as caught:
    plot.outline(**values)
  assert "\n" not in str(caught.value)


def test_zonotope_draws_the_outline_where_it_is_told():
  axes = Figure().add_subplot()
  element = domains.box(jnp.array([[0.0, 1.0, 2.0]]), 0.5)
  drawn = plot.zonotope(element, (1, 2), axes, label="box", facecolor="red")
  assert drawn is axes.figure
  (patch,) = axes.patches
  assert {tuple(p) for p in patch.get_xy().tolist()} == {
      (0.5, 1.5), (1.5, 1.5), (1.5, 2.5), (0.5, 2.5)
  }
  assert patch.get_label() == "box"
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("variable 1", "variable 2")


def test_curves_draw_what_was_measured():
  rows = [
      {"step": 1, "epoch": 0.5, "loss": 2.0, "accuracy": 0.25},
      {"step": 2, "epoch": 1.0, "loss": 1.0, "accuracy": 0.5, "verified": 0.25},
  ]
  loss, shares = plot.curves(rows).axes
  assert loss.lines[0].get_xydata().tolist() == [[0.5, 2.0], [1.0, 1.0]]
  assert [line.get_label() for line in shares.lines] == ["accuracy", "verified"]
  assert shares.lines[1].get_xydata().tolist() == [[1.0, 0.25]]
  with pytest.raises(UsageError, match="nothing to draw"):
    plot.curves([])


def test_margins_draw_the_share_with_at_least_each():
  axes = plot.margins({"Box": [0.5, -1.0, np.nan, 2.0]}).axes[0]
  assert axes.lines[0].get_xydata().tolist() == [
      [2.0, 0.25], [0.5, 0.5], [-1.0, 0.75]
  ]


def test_certified_falls_after_each_largest_radius():
  """At a radius, the share of images with at least it."""
  axes = plot.certified({"Box": [0.1, -np.inf, -np.inf, 0.3]}).axes[0]
  line = axes.lines[0]
  assert line.get_drawstyle() == "steps-pre"
  assert line.get_xydata().tolist() == [
      [0.0, 0.5], [0.1, 0.5], [0.3, 0.25], [0.3, 0.0]
  ]


def test_a_figure_shows_itself_without_pyplot():
  """As a PNG; nothing of matplotlib's global state is loaded."""
  script = (
      "import sys, diffai_jax as dj\n"
      "figure = dj.plot.margins({'Box': [1.0]})\n"
      "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
      "assert 'matplotlib.pyplot' not in sys.modules\n"
  )
  subprocess.run([sys.executable, "-c", script], check=True)
