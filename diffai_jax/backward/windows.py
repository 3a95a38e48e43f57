"""Coefficients on images that are 0 outside of a window: the way of one neuron.

What a neuron of a convolution depends on is a window of each image before it, which
grows from layer to layer. While it is small, coefficients are kept on the window
alone, and a step backwards works on what lies under it. Where windows begin follows
from the neuron's place and the strides on the way: sizes are static, places are
numbers in the program.
"""

from collections.abc import Sequence
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.types import Array

# A window of a larger part of its image is no longer worth its gathering.
_MOST_OF_IMAGE = 0.75


@dataclasses.dataclass(frozen=True)
class Frame:
  """Where windows lie: that of the neuron at place p begins at p·scale + offset.

  All by axis, for rows and columns, and static.

  Attributes:
    image: H, W, C of the whole.
    size: of a window.
    scale, offset: as above, in pixels.
    neurons: how many rows and columns of neurons there are.
  """

  image: tuple[int, ...]
  size: tuple[int, int]
  scale: tuple[int, int]
  offset: tuple[int, int]
  neurons: tuple[int, int]

  @property
  def margins(self) -> tuple[tuple[int, int], ...]:
    """How far windows reach out of their images at most, (before, after)."""
    return tuple(
        (max(0, -offset),
         max(0, scale * (neurons - 1) + offset + size - length))
        for offset, scale, neurons, size, length in zip(
            self.offset, self.scale, self.neurons, self.size, self.image
        )
    )

  @property
  def is_small(self) -> bool:
    """Whether windows save anything."""
    most = _MOST_OF_IMAGE * self.image[0] * self.image[1]
    return self.size[0] * self.size[1] <= most

  def before(
      self,
      image: tuple[int, ...],
      window: tuple[int, int],
      stride: tuple[int, int],
      padding: tuple[int, int],
  ) -> "Frame":
    """The frame of what goes into these windows, through a sliding window.

    Args:
      image: H, W, C of the input.
      window: rows and columns that one output sees.
      stride: of the sliding window.
      padding: rows and columns that it begins before the image.
    """
    return Frame(
        image,
        tuple((n - 1) * s + w for n, s, w in zip(self.size, stride, window)),
        tuple(m * s for m, s in zip(self.scale, stride)),
        tuple(o * s - p for o, s, p in zip(self.offset, stride, padding)),
        self.neurons,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Windows:
  """Coefficients [R, S, H, W, C] that are 0 outside of windows.

  Attributes:
    inside: on the windows, [R, S, h, w, C].
    places: row and column of each neuron, [R, 2].
    frame: where the windows are (static).
  """

  inside: Array
  places: Array
  frame: Frame = dataclasses.field(metadata={"static": True})

  @property
  def starts(self) -> Array:
    """Row and column that each window begins at, [R, 2]; some are outside."""
    scale, offset = (
        jnp.asarray(pair, self.places.dtype)
        for pair in (self.frame.scale, self.frame.offset)
    )
    return self.places * scale + offset

  def under(self, array: Array, examples: Array) -> Array:
    """What lies under the windows; 0 outside of the image.

    Args:
      array: of all examples, [B, H, W, C] or [1, H, W, C].
      examples: which example each window is of, [R].

    Returns:
      [R, h, w, C].
    """
    margins = self.frame.margins
    padded = jnp.pad(array, ((0, 0), *margins, (0, 0)))
    if array.shape[0] == 1:
      examples = jnp.zeros_like(examples)
    first = self.starts + jnp.asarray(
        [low for low, _ in margins], self.places.dtype
    )
    size = (1, *self.frame.size, array.shape[3])
    at = lambda example, start: lax.dynamic_slice(
        padded, (example, start[0], start[1], jnp.zeros_like(example)), size
    )[0]
    return jax.vmap(at)(examples, first)

  def cut(self) -> "Windows":
    """The same without what reaches out of the image."""
    kept = jnp.ones((), bool)
    for axis, (length, size, margins) in enumerate(
        zip(self.frame.image, self.frame.size, self.frame.margins)
    ):
      if not any(margins):
        continue
      pixels = self.starts[:, axis, None] + jnp.arange(size)
      own = (pixels >= 0) & (pixels < length)
      shape = [len(own), 1, 1, 1, 1]
      shape[2 + axis] = size
      kept = kept & own.reshape(shape)
    inside = jnp.where(kept, self.inside, 0) if kept.ndim else self.inside
    return dataclasses.replace(self, inside=inside)

  def whole(self) -> Array:
    """The coefficients on the whole image, [R, S, H, W, C]."""
    margins = self.frame.margins
    height, width, channels = self.frame.image
    (top, bottom), (left, right) = margins
    shape = self.inside.shape[1:2] + (
        top + height + bottom, left + width + right, channels
    )
    first = self.starts + jnp.asarray((top, left), self.places.dtype)

    def placed(inside, start):
      none = jnp.zeros_like(start[0])
      return lax.dynamic_update_slice(
          jnp.zeros(shape, inside.dtype), inside,
          (none, start[0], start[1], none),
      )

    found = jax.vmap(placed)(self.inside, first)
    return found[:, :, top : top + height, left : left + width]


def one_hot(neurons: Array, shape: tuple[int, ...], dtype) -> Windows:
  """Rows 1 and -1 on one neuron each: windows of one pixel.

  Args:
    neurons: numbers in the image's flat order, [R].
    shape: H, W, C.
    dtype: of the coefficients.
  """
  _, width, channels = shape
  own = jax.nn.one_hot(neurons % channels, channels, dtype=dtype)
  pixels = neurons // channels
  return Windows(
      jnp.stack([own, -own], axis=1)[:, :, None, None],
      jnp.stack([pixels // width, pixels % width], axis=1),
      Frame(tuple(shape), (1, 1), (1, 1), (0, 0), tuple(shape[:2])),
  )


def aligned(parts: Sequence[Windows]) -> list[Windows] | None:
  """The same windows in one frame; None where their strides differ."""
  first = parts[0].frame
  if any(part.frame.scale != first.scale for part in parts):
    return None
  ends = [
      tuple(o + n for o, n in zip(p.frame.offset, p.frame.size)) for p in parts
  ]
  offset = tuple(map(min, zip(*(part.frame.offset for part in parts))))
  size = tuple(e - o for e, o in zip(map(max, zip(*ends)), offset))
  frame = dataclasses.replace(first, offset=offset, size=size)
  found = []
  for part, end in zip(parts, ends):
    pads = [
        (o - begin, begin + n - e)
        for o, e, begin, n in zip(part.frame.offset, end, offset, size)
    ]
    inside = jnp.pad(part.inside, ((0, 0), (0, 0), *pads, (0, 0)))
    found.append(Windows(inside, part.places, frame))
  return found
