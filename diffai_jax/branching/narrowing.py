"""The part of a box in which a group of rows may be broken at all.

A row's linear bound is largest in one corner of the box, b, and falls by |a_i| for
each unit that a point is away from that corner along variable i. A point that breaks
the group has every row at 0 or above, so it is at most b / |a_i| away: what is
farther is proved, and cut off. As in
Clip-and-Verify, Zhou et al. 2025, "Clip-and-Verify: linear constraint-driven domain
clipping for accelerating neural network verification".
"""

import dataclasses

import numpy as np

# What is cut off has a row below this share of -b, which is a bound for it, and
# more than the float64 below may be wrong by.
_MARGIN = 2.0**-10
_SMALLEST = 1e-30  # A bound; a share of less may be 0 in float32.
_PASSES = 3
_ROUNDING = 2.0**-40  # More than that of a sum of few products, of its own size.


@dataclasses.dataclass(frozen=True)
class Narrowed:
  """What is left of N boxes.

  Attributes:
    low, high: ends, [N, n], in the type that was given.
    bound: upper bounds of the least row in what was cut off, [N]; -inf where
      nothing was.
    rest: of the least row in what is left, but for what rounding outwards adds to
      it, of which `bound` is one, too; [N]. Below 0 if all is proved.
  """

  low: np.ndarray
  high: np.ndarray
  bound: np.ndarray
  rest: np.ndarray


def narrowed(
    low: np.ndarray, high: np.ndarray, slopes: np.ndarray, bounds: np.ndarray
) -> Narrowed:
  """Cuts off what linear bounds of the rows prove.

  Sound: with L(x) = ⟨a, x⟩ + c ≥ the row's value everywhere in the box, and b ≥ L's
  largest value, L(x) ≤ b - |a_i| t at distance t from the end of edge i at which L is
  largest. A cut at t = (1 + margin) b / |a_i| leaves out points with L < -margin·b;
  t is computed in float64, in which it is wrong by far less than that, and ends are
  rounded outwards.

  Args:
    low, high: ends of the boxes, [N, n].
    slopes: a of each row, [N, S, n].
    bounds: b of each row, [N, S]; rows without a number above 1e-30 cut nothing.
  """
  given, given_ends = low.dtype, (low, high)
  low, high, slopes, bounds = (
      np.asarray(a, float) for a in (low, high, slopes, bounds)
  )
  size, rising = np.abs(slopes), slopes > 0
  gone = np.full(len(low), -np.inf)
  for _ in range(_PASSES):
    cuts = np.isfinite(bounds) & (bounds > _SMALLEST)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
      away = (1 + _MARGIN) * bounds[..., None] / size
      usable = cuts[..., None] & (size > 0) & np.isfinite(away)
      away = np.where(usable, away, np.inf)
      # The best end of a rising row is the upper one.
      least = np.where(rising, high[:, None] - away, -np.inf).max(axis=1)
      most = np.where(rising, np.inf, low[:, None] + away).min(axis=1)
      new_low = np.maximum(low, np.nextafter(least, -np.inf))
      new_high = np.minimum(high, np.nextafter(most, np.inf))
      cut = ((new_low > low) | (new_high < high)).any(axis=1)
      margin = np.where(cuts, _MARGIN * bounds, np.inf).min(axis=1)
      gone = np.where(cut, np.maximum(gone, -margin), gone)
      lost = np.where(
          rising, (high - new_high)[:, None], (new_low - low)[:, None]
      )
      lost = np.where(size > 0, size * lost, 0).sum(axis=2)
      bounds = np.nextafter(bounds - (1 - _ROUNDING) * lost, np.inf)
    low, high = new_low, new_high
  rest = bounds.min(axis=1)
  empty = (low > high).any(axis=1)
  rest = np.where(empty, np.fmin(rest, gone), rest)
  ends = (
      _outwards(low, given, -np.inf), _outwards(high, given, np.inf)
  )
  return Narrowed(
      np.maximum(ends[0], given_ends[0]), np.minimum(ends[1], given_ends[1]),
      gone, rest,
  )


def _outwards(values: np.ndarray, dtype: np.dtype, way: float) -> np.ndarray:
  """Float64 in another type, rounded towards -inf or inf."""
  found = values.astype(dtype)
  inside = found > values if way < 0 else found < values
  return np.where(inside, np.nextafter(found, dtype.type(way)), found)
