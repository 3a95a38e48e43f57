"""Linear bounds walked from a result of a graph back to its input (CROWN).

Zhang et al. 2018, "Efficient neural network robustness certification with general
activation functions"; Xu et al. 2020, "Automatic perturbation analysis for scalable
certified robustness and beyond", for graphs.

Rows Λ of linear functions of a result are replaced, call by call, by rows on what
flows into it, so that ⟨Λ, y⟩ ≤ Σ ⟨Λ', x⟩ + constant for every run in the region.
Ways that meet again are added, so that what they share cancels. The region ends the
walk with the largest value of the last rows. Each step says why it is sound, and
what rounding may add: all of it is added to the bound, which holds in exact
arithmetic and for every float evaluation of the network, in the type that bounds
are computed in.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.backward.affine_step import (
    AFFINE,
    IDENTITIES,
    AffineStep,
    affine_step,
)
from diffai_jax.backward.pulled import Pulled, summed
from diffai_jax.backward.relaxed_steps import Bounds, relaxed_step
from diffai_jax.backward.windows import Frame, Windows, aligned
from diffai_jax.domains import rounding
from diffai_jax.graph import Call, Graph
from diffai_jax.regions import L2, Cut, largest_cut, of_examples
from diffai_jax.regions import Bounds as Box
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IdentityStep:
  """A call that leaves concrete runs as they are."""

  def at(self, examples: Array) -> "IdentityStep":
    return self

  def frame(self, after: Frame) -> Frame:
    return after

  def under(self, windows: Windows, examples: Array) -> "IdentityStep":
    return self

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    none = jnp.zeros(coefficients.shape[:2], coefficients.dtype)
    return Pulled((coefficients,), none)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Way:
  """A graph up to some result, made ready to be walked back.

  Attributes:
    steps: one for each call.
    sizes: the largest magnitude of each result that several calls use, [B, ...],
      by its number; the input is number 0.
    inputs: numbers of the results that flow into each call (static).
    careful: whether rounding is allowed for (static).
  """

  steps: tuple
  sizes: dict[int, Array]
  inputs: tuple[tuple[int, ...], ...] = dataclasses.field(
      metadata={"static": True}
  )
  careful: bool = dataclasses.field(metadata={"static": True})

  def plain(self) -> "Way":
    """The same way without allowances for rounding, for descent and losses."""
    steps = tuple(
        dataclasses.replace(step, careful=False)
        if hasattr(step, "careful") else step for step in self.steps
    )
    return Way(steps, {}, self.inputs, False)

  def choices(self) -> dict[int, dict]:
    """What there is to choose, by the number of the result: see the steps."""
    found = {}
    for number, step in enumerate(self.steps, start=1):
      chosen = step.choices() if hasattr(step, "choices") else None
      if chosen is not None:
        found[number] = chosen
    return found


def prepared(
    call: Call,
    shapes: Sequence[tuple[int, ...]],
    bounds: Sequence[Bounds],
    result: Bounds,
    careful: bool = True,
):
  """The step of a call.

  Args:
    call: of a graph.
    shapes: of one example of each input.
    bounds: of each input, (l, u), [B, ...]. Sound for every run.
    result: bounds of the result.
    careful: whether rounding is allowed for; without, bounds serve losses alone.
  """
  if call.transformer in IDENTITIES:
    return IdentityStep()
  if call.transformer in AFFINE:
    return affine_step(call, tuple(map(tuple, shapes)), tuple(bounds), careful)
  if call.transformer == "multiply" and call.inputs[0] == call.inputs[1]:
    call = dataclasses.replace(
        call, transformer="square", inputs=call.inputs[:1]
    )
  return relaxed_step(call, shapes, bounds, result, careful)


def way_to(
    graph: Graph, steps: Sequence, bounds: Sequence[Bounds],
    careful: bool = True,
) -> Way:
  """The way from the last of these steps' results to the input.

  Args:
    graph: which may have more calls than there are steps.
    steps: of the first calls, by `prepared`.
    bounds: of the input and of each of their results.
    careful: as of the steps.
  """
  inputs = tuple(call.inputs for call in graph.calls[: len(steps)])
  uses = [0] * (len(steps) + 1)
  for numbers in inputs:
    for number in numbers:
      uses[number] += 1
  sizes = {
      number: jnp.maximum(*map(jnp.abs, bounds[number]))
      for number, count in enumerate(uses) if count > 1
  }
  return Way(tuple(steps), sizes if careful else {}, inputs, careful)


def upper_bounds(
    way: Way,
    region,
    images: Array,
    rows: Array | Windows,
    offsets: Array,
    number: int,
    chosen: Mapping[int, dict] | None = None,
    examples: Array | None = None,
) -> Array:
  """Upper bounds of ⟨Λ, y⟩ + d over a region, y a result of the graph.

  Args:
    way: of the graph.
    region: what inputs may be: Linf, L2 or Bounds, or what is cut of them.
    images: [B, ...], that the region is around.
    rows: Λ, [B, S, ...]; or [R, S, ...] with `examples`, windows too.
    offsets: d, [B, S] or [R, S].
    number: of the result.
    chosen: of `Way.choices`, by number, arrays of [B, S, ...] or [B, 1, ...];
      what is not there is chosen by the steps.
    examples: numbers of the examples that the rows are of, [R], each any number
      of times; None if rows i are of example i.

  Returns:
    [B, S] or [R, S].
  """
  return walked_back(
      way, region, images, rows, offsets, number, chosen, examples
  )[0]


def at_input(
    way: Way,
    images: Array,
    rows: Array,
    offsets: Array,
    number: int,
    chosen: Mapping[int, dict] | None = None,
) -> tuple[Array, Array]:
  """Linear bounds of ⟨Λ, y⟩ + d by the input alone: ⟨Λ', x⟩ + c.

  Args:
    way, images, rows, offsets, number, chosen: as `upper_bounds` takes them.

  Returns:
    (Λ', [B, S, ...]; c, with what rounding may add, [B, S]).
  """
  waiting, constants, _ = _walk(way, rows, offsets, number, chosen)
  if 0 not in waiting:
    lead = offsets.shape + images.shape[1:]
    return jnp.zeros(lead, offsets.dtype), _total(way, constants)
  rows, lost = _merged(waiting[0], way, 0, None)
  return rows, _total(way, [*constants, *lost])


def over_box(
    way: Way,
    bounds: Sequence[Bounds],
    rows: Array,
    offsets: Array,
    number: int,
) -> Array:
  """Upper bounds of ⟨Λ, y⟩ + d from the intervals of what is behind y.

  The walk goes through affine calls alone, and ends on the boxes of all results
  that wait when it meets another one. So it is at least as sharp as intervals
  that are pushed on from there.

  Args:
    way, rows, offsets, number: as `upper_bounds` takes them.
    bounds: of the input and of each result, (l, u), [B, ...].

  Returns:
    [B, S].
  """
  waiting, constants, _ = _walk(way, rows, offsets, number, affine_alone=True)
  for place, parts in waiting.items():
    rows, lost = _merged(parts, way, place, None)
    low, high = bounds[place]
    constants += [Box(low, high).linear_max(rows), *lost]
  return _total(way, constants)


def walked_back(
    way: Way,
    region,
    images: Array,
    rows: Array | Windows,
    offsets: Array,
    number: int,
    chosen: Mapping[int, dict] | None = None,
    examples: Array | None = None,
) -> tuple[Array, dict[int, Array | Windows]]:
  """`upper_bounds`, and the coefficients that the walk had on each result.

  Returns:
    ([B, S], by the number of the result, 0 of the input, [B, S, ...]).
  """
  waiting, constants, met = _walk(way, rows, offsets, number, chosen, examples)
  if 0 in waiting:
    rows, lost = _merged(waiting[0], way, 0, examples)
    constants += [_largest(region, images, rows, examples), *lost]
    met[0] = rows
  return _total(way, constants), met


def _walk(
    way: Way, rows: Array | Windows, offsets: Array, number: int,
    chosen: Mapping[int, dict] | None = None, examples: Array | None = None,
    affine_alone: bool = False,
) -> tuple[dict[int, list], list[Array], dict[int, Array | Windows]]:
  """Rows that wait at the walk's end, constants, and rows on each result.

  Args:
    affine_alone: whether it ends before the first call that is not affine; else
      it ends at the input.
  """
  chosen = chosen or {}
  waiting, met, constants = {number: [rows]}, {}, [offsets]
  for place in range(number, 0, -1):
    if place not in waiting:
      continue
    step = way.steps[place - 1]
    if affine_alone and not isinstance(step, (AffineStep, IdentityStep)):
      break
    rows, lost = _merged(waiting.pop(place), way, place, examples)
    inputs, constant = _pulled(step, rows, chosen.get(place), examples)
    constants += [constant, *lost]
    met[place] = rows
    for given, part in zip(way.inputs[place - 1], inputs):
      waiting.setdefault(given, []).append(part)
  return waiting, constants, met


def choices_under(
    way: Way, met: Mapping[int, Array | Windows], examples: Array
) -> dict[int, dict]:
  """What there is to choose for rows that are on their way; see `Way.choices`.

  Args:
    way: of the graph.
    met: the rows on each result, of `walked_back` with these examples.
    examples: numbers of the examples that the rows are of, [R].

  Returns:
    By the number of the result, arrays [R, 1, ...], under windows where rows are
    windows.
  """
  found = {}
  for number in way.choices():
    rows, step = met.get(number), way.steps[number - 1]
    if rows is None:
      continue
    if isinstance(rows, Windows) and hasattr(step, "frame"):
      step = step.under(rows, examples)
    else:
      step = step.at(examples)
    found[number] = step.choices()
  return found


def _total(way: Way, constants: Sequence[Array]) -> Array:
  """The sum, [B, S], with what rounding may lose in it."""
  bound = sum(constants[1:], constants[0])
  if not way.careful:
    return bound
  size = sum(map(jnp.abs, constants))
  share = 2 * rounding.relative(bound.dtype, len(constants))
  slack = share * size + rounding.absolute(bound.dtype, len(constants))
  return bound + lax.stop_gradient(slack)


def _pulled(
    step, rows: Array | Windows, chosen: dict | None, examples: Array | None
) -> tuple[Sequence[Array | Windows], Array]:
  """What rows on a call's result are on its inputs, and the constant."""
  if isinstance(rows, Windows):
    frame = step.frame(rows.frame) if hasattr(step, "frame") else None
    if frame is not None:
      pulled = step.under(rows, examples).pull(rows.inside, chosen)
      inputs = [
          Windows(part, rows.places, frame).cut() for part in pulled.inputs
      ]
      if not frame.is_small:
        inputs = [part.whole() for part in inputs]
      return inputs, pulled.constant
    rows = rows.whole()
  if examples is not None:
    step = step.at(examples)
  pulled = step.pull(rows, chosen)
  return pulled.inputs, pulled.constant


def _largest(
    region, images: Array, rows: Array | Windows, examples: Array | None
) -> Array:
  """The largest values of rows on the input, [B, S]."""
  if examples is None:
    return region.linear_max(rows, images)
  if isinstance(rows, Windows):
    under = lambda array: rows.under(array, examples)
    is_cut = isinstance(region, Cut)
    whole = region.region if is_cut else region
    if not isinstance(whole, L2):
      box = Box(*map(under, region.bounds(images)))
      if not is_cut:
        return box.linear_max(rows.inside)
      cut = under(region.rows)
      rest = region.outside(images, box.lower, box.upper, cut, examples)
      return largest_cut(
          rows.inside, box.lower, box.upper, cut, rest, box.linear_max
      )
    rows = rows.whole()
  own, around = of_examples(region, images, examples)
  return own.linear_max(rows, around)


def _merged(
    rows: Sequence[Array | Windows], way: Way, place: int,
    examples: Array | None,
) -> tuple[Array | Windows, list[Array]]:
  """The sum of rows [B, S, ...]; and what rounding may lose in it, [B, S]."""
  if len(rows) == 1:
    return rows[0], []
  windows = None
  if all(isinstance(row, Windows) for row in rows):
    windows = aligned(rows)
  if windows is None:
    parts = [r.whole() if isinstance(r, Windows) else r for r in rows]
  else:
    parts = [window.inside for window in windows]
  total = sum(parts[1:], parts[0])
  found = total
  if windows is not None:
    found = dataclasses.replace(windows[0], inside=total)
  if not way.careful:
    return found, []
  size = way.sizes[place]
  if windows is not None:
    size = found.under(size, examples)
  elif examples is not None:
    size = size[examples]
  magnitude = sum(map(jnp.abs, parts)) * size[:, None]
  share = 2 * rounding.relative(total.dtype, len(rows))
  return found, [lax.stop_gradient(
      summed(share * magnitude, jnp.zeros_like(magnitude))
  )]
