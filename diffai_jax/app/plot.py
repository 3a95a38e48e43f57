"""Pictures: training curves, verified accuracy, hybrid zonotopes in the plane.

Each function draws on the axes that it is given, or on a figure of its own, and
returns the figure. None touches matplotlib's global state.
"""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import jax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from diffai_jax.domains import generators
from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.types import UsageError, shown

# The panels of the training curves: what the vertical axis is, and its columns.
_PANELS = (
    ("loss", ("loss",)),
    ("share of the images",
     ("accuracy", "verified", "test_accuracy", "test_verified")),
    ("epsilon trained on", ("epsilon",)),
    ("examples a second", ("examples_per_second",)),
)


class Drawing(Figure):
  """A figure that notebooks show by themselves, without pyplot."""

  def _repr_png_(self) -> bytes:
    buffer = io.BytesIO()
    self.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def figure(width: float, height: float) -> Drawing:
  """An empty figure of that size in inches."""
  return Drawing(figsize=(width, height), layout="constrained")


def curves(run) -> Figure:
  """Training curves: loss, accuracies, radius and speed over the epochs.

  Args:
    run: of `train` or `load`, or its `metrics` alone.

  >>> import diffai_jax as dj
  >>> rows = [{"step": k, "epoch": k / 2, "loss": 1 / k} for k in (1, 2, 3)]
  >>> len(dj.plot.curves(rows).axes)
  1
  """
  rows = getattr(run, "metrics", run)
  names = {name for row in rows for name in row}
  panels = [
      (label, [name for name in columns if name in names])
      for label, columns in _PANELS
  ]
  panels = [panel for panel in panels if panel[1]]
  if not panels:
    raise UsageError(
        f"there is nothing to draw in {shown(rows)}; expected rows of metrics, as"
        f" a run has them after its first step"
    )
  wide = min(len(panels), 2)
  high = -(-len(panels) // 2)
  drawn = figure(4.5 * wide, 2.75 * high)
  for place, (label, columns) in enumerate(panels):
    axes = drawn.add_subplot(high, wide, place + 1)
    for name in columns:
      points = [
          (row["epoch"], row[name])
          for row in rows if name in row and "epoch" in row
      ]
      marker = "o" if len(points) == 1 else None
      axes.plot(*zip(*points), label=name.replace("_", " "), linewidth=1,
                marker=marker)
    _label(axes, "epoch", label, legend=len(columns) > 1)
  return drawn


def margins(found: Any, ax: Axes | None = None) -> Figure:
  """For each method, the share of images with at least a given margin.

  Args:
    found: a certification, or its margins: by the method's name, an array with
      the lower bound of z_label - z_other of each image.
    ax: where to draw; None makes a figure.

  >>> import diffai_jax as dj
  >>> picture = dj.plot.margins({"Box": [0.1, -0.3], "HBox": [0.2, 0.1]})
  >>> [line.get_label() for line in picture.axes[0].lines[:2]]
  ['Box', 'HBox']
  """
  by_method = getattr(found, "margins", found)
  axes = _axes(ax, 9, 3)
  for method, values in by_method.items():
    values = np.asarray(values, float)
    known = np.sort(values[np.isfinite(values)])[::-1]
    if len(known):
      share = np.arange(1, len(known) + 1) / len(values)
      axes.plot(known, share, label=method, linewidth=1.2)
  axes.axvline(0, color="black", linewidth=0.8)
  _label(axes, "margin: lower bound of z_label - z_other over the ball",
         "share with at least it", legend=True)
  return axes.figure


def certified(
    largest: Mapping[str, Any] | Sequence[float], ax: Axes | None = None
) -> Figure:
  """Verified accuracy against ε: the share of images proved at each radius.

  Args:
    largest: of each image the largest ε that was proved, as `largest_epsilon`
      finds it, [N], -inf where nothing was; or such arrays by the name of a
      method.
    ax: where to draw; None makes a figure.

  >>> import diffai_jax as dj
  >>> picture = dj.plot.certified({"Box": [float("-inf"), 0.05, 0.1]})
  >>> picture.axes[0].lines[0].get_ydata().round(2).tolist()
  [0.67, 0.67, 0.33, 0.0]
  """
  if not isinstance(largest, Mapping):
    largest = {"": largest}
  axes = _axes(ax, 5.5, 3.5)
  for method, radii in largest.items():
    radii = np.asarray(radii, float)
    steps = np.unique([0.0, *radii[np.isfinite(radii)]])
    share = [np.mean(radii >= step) for step in steps]
    axes.step([*steps, steps[-1]], [*share, 0.0], where="pre",
              label=method, linewidth=1.2)
  axes.set_ylim(0, 1)
  axes.set_xlim(left=0)
  _label(axes, "epsilon", "share of images proved", legend=any(largest))
  return axes.figure


def zonotope(
    element: HybridZonotope,
    axes: Sequence[int] = (0, 1),
    ax: Axes | None = None,
    *,
    example: int = 0,
    **style,
) -> Figure:
  """Draws the exact projection of a hybrid zonotope to two of its variables.

  Args:
    element: over variables [...].
    axes: which two: their numbers in the flattened variables.
    ax: where to draw; None makes a figure.
    example: which of the batch.
    **style: of matplotlib's Polygon, such as label, facecolor or alpha.

  >>> import jax.numpy as jnp
  >>> import diffai_jax as dj
  >>> from diffai_jax import domains
  >>> square = domains.correlated_box(jnp.zeros((1, 2)), 1.0)
  >>> picture = dj.plot.zonotope(square, label="input")
  """
  corners = outline(element, axes, example)
  where = _axes(ax, 4, 4)
  style = {"alpha": 0.35, "edgecolor": "black", "linewidth": 1} | style
  (patch,) = where.fill(*corners.T, **style)
  if len(corners) < 3:  # A segment or a point has no area to be seen.
    marker = "o" if len(corners) == 1 else None
    where.plot(*corners.T, color=patch.get_facecolor()[:3], marker=marker)
  first, second = axes
  where.set_xlabel(f"variable {first}")
  where.set_ylabel(f"variable {second}")
  where.grid(alpha=0.3)
  return where.figure


def outline(
    element: HybridZonotope, axes: Sequence[int] = (0, 1), example: int = 0
) -> np.ndarray:
  """The corners of the projection to two variables, counterclockwise.

  The projection of a zonotope is a polygon whose sides are its generators, twice
  each, in the order of their angles; the uncorrelated box adds a horizontal and a
  vertical one.

  Args:
    element, axes, example: see `zonotope`.

  Returns:
    [V, 2], float64; V is 1 for a point and 2 for a segment.

  Raises:
    UsageError: if there are no such variables or no such example, or the element
      is not bounded.

  >>> import jax.numpy as jnp
  >>> import diffai_jax as dj
  >>> from diffai_jax import domains
  >>> square = domains.box(jnp.zeros((1, 2)), 1.0)
  >>> dj.plot.outline(square).tolist()
  [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
  """
  center, sides = _projected(element, axes, example)
  # Each side once, pointing to the right, or up where it is vertical.
  sides = sides[np.any(sides != 0, axis=1)]
  backwards = (sides[:, 0] < 0) | ((sides[:, 0] == 0) & (sides[:, 1] < 0))
  sides = np.where(backwards[:, None], -sides, sides)
  sides = sides[np.argsort(np.arctan2(sides[:, 1], sides[:, 0]), kind="stable")]
  sides = _merged(sides)
  lowest = center - sides.sum(axis=0)
  around = np.concatenate([sides, -sides])
  corners = lowest + 2 * np.concatenate(
      [np.zeros((1, 2)), np.cumsum(around, axis=0)]
  )
  return corners[: max(len(around), 1)]


def _projected(
    element: HybridZonotope, axes: Sequence[int], example: int
) -> tuple[np.ndarray, np.ndarray]:
  """The center [2] and all generators [m, 2] of a projection, in float64."""
  if not isinstance(element, HybridZonotope):
    raise UsageError(
        f"the element is {shown(element)}; expected a HybridZonotope, as"
        f" diffai_jax.domains makes them"
    )
  count, size = len(element.center), int(np.prod(element.center.shape[1:]))
  if not -count <= example < count:
    raise UsageError(
        f"example is {shown(example)}; expected one of the batch of {count}"
    )
  chosen = list(axes)
  if len(chosen) != 2 or not all(
      isinstance(i, (int, np.integer)) and -size <= i < size for i in chosen
  ):
    raise UsageError(
        f"axes is {shown(axes)}; expected the numbers of two of the {size}"
        f" variables"
    )

  one = jax.tree.map(lambda values: values[example][None], element)

  def pick(values) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, size)[:, chosen]

  sides = [
      pick(generators.to_dense(block).coefficients)
      for block in one.correlated.values()
  ]
  if one.uncorrelated is not None:
    sides.append(np.diag(pick(one.uncorrelated)[0]))
  center = pick(one.center)[0]
  every = np.concatenate([*sides, np.zeros((0, 2))])
  if not (np.isfinite(center).all() and np.isfinite(every).all()):
    raise UsageError(
        "the element is not bounded: it has numbers that are not finite, and no"
        " outline; choose a smaller input region"
    )
  return center, every


def _merged(sides: np.ndarray) -> np.ndarray:
  """Sorted sides, with those of one direction added up."""
  merged = []
  for side in sides:
    if merged:
      last = merged[-1]
      turn = last[0] * side[1] - last[1] * side[0]
      if abs(turn) <= 1e-12 * np.linalg.norm(last) * np.linalg.norm(side):
        merged[-1] = last + side
        continue
    merged.append(side)
  return np.array(merged).reshape(-1, 2)


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
  return figure(width, height).add_subplot() if ax is None else ax


def _label(axes: Axes, x: str, y: str, legend: bool) -> None:
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  axes.grid(alpha=0.3)
  if legend and axes.get_legend_handles_labels()[0]:
    axes.legend(frameon=False)
