"""Goals that give another goal a box of their own (paper, Table 1)."""

import dataclasses

import jax
import jax.numpy as jnp

from diffai_jax.domains.hybrid_zonotope import HybridZonotope, upper
from diffai_jax.domains.product import Value, center
from diffai_jax.goals.base import Context, Goal, walk
from diffai_jax.graph import plain
from diffai_jax.schedules import NumberOrSchedule, extent, require_share, value_at
from diffai_jax.text.terms import Number
from diffai_jax.transformers.relu import shrunk_rule
from diffai_jax.types import Array


class _Within(Goal):
  """Base: the loss, margins and accuracies are those of `inner`."""

  @property
  def inner(self) -> Goal:
    raise NotImplementedError

  def margins(self, output: Value, labels: Array, context: Context) -> Array:
    return self.inner.margins(output, labels, context)

  def loss(self, output: Value, labels: Array, context: Context) -> Array:
    return self.inner.loss(output, labels, context)

  def accuracies(
      self, output: Value, labels: Array, context: Context
  ) -> dict[str, Array]:
    return self.inner.accuracies(output, labels, context)

  def is_single(self) -> bool:
    return self.inner.is_single()


@dataclasses.dataclass(frozen=True)
class Sub(_Within):
  """`goal` on the box scaled by `scale` around its center.

  Sub(δ, g) is α^g(½(u + l - δ(u - l)), ½(u + l + δ(u - l))), with the loss of
  g. A δ above 1 trains on more than the box.
  """

  scale: NumberOrSchedule
  goal: Goal

  @property
  def inner(self) -> Goal:
    return self.goal

  def check(self) -> None:
    low, _ = extent(self.scale)
    if low < 0:
      name = type(self).__name__
      raise ValueError(f"the scale of {name} must not be below 0, not {low}")

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    return self.goal.abstract(
        *scaled(lower, upper, value_at(self.scale, context.epoch)), context
    )


@dataclasses.dataclass(frozen=True)
class NormalSub(Sub):
  """`goal` on a box of random size: Sub(δ·|n|, g) with n ~ N(0, 1).

  n is drawn for each example. NormalAdv of DiffAI v3, for any goal.
  """

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    keys = context.child(0).keys(self)
    sizes = jnp.abs(jax.vmap(jax.random.normal)(keys)).astype(lower.dtype)
    scale = value_at(self.scale, context.epoch) * sizes
    scale = scale.reshape((-1,) + (1,) * (lower.ndim - 1))
    return self.goal.abstract(*scaled(lower, upper, scale), context.child(1))


class _Picking(_Within):
  """Base of goals that give `target` a box about what `source` picks."""

  @property
  def inner(self) -> Goal:
    return self.target

  def check(self) -> None:
    if not self.source.is_single():
      raise ValueError(
          f"{type(self).__name__}'s first goal must pick one point or element;"
          f" {type(self.source).__name__} has several"
      )


@dataclasses.dataclass(frozen=True)
class Sample(_Picking):
  """`target` on a small box around a point that `source` picks in the box.

  Sample(δ, r, gs, gt) is α^gt(b - ½δ(u - l), b + ½δ(u - l)), b the center of
  α^{Sub(1 - r·δ, gs)}(l, u), with the loss of gt. With r = 1, which the text may
  leave out, the small box stays within [l, u]; with r < 1 it may extend beyond.
  """

  scale: NumberOrSchedule
  reach: NumberOrSchedule
  source: Goal
  target: Goal

  def check(self) -> None:
    (low, high), (least, most) = extent(self.scale), extent(self.reach)
    if low < 0 or least < 0 or most > 1 or high * most > 1:
      raise ValueError(
          f"Sample's scale must be at least 0, its reach within 0 and 1 and"
          f" their product at most 1; they go from {low} to {high} and from"
          f" {least} to {most}"
      )
    super().check()

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    scale = value_at(self.scale, context.epoch)
    reach = value_at(self.reach, context.epoch)
    inside = scaled(lower, upper, 1 - reach * scale)
    point = center(plain(self.source.abstract(*inside, context.child(0))))
    half = scale * (upper - lower) / 2
    return self.target.abstract(point - half, point + half, context.child(1))


@dataclasses.dataclass(frozen=True)
class SmallBox(_Picking):
  """`target` on a small box around a point that `source` picks near the image.

  SmallBox(λ, gs, gt) is α^gt([b - λ·e, b + λ·e] ∩ [l, u]) with the loss of gt,
  where b is the center of α^gs([o - (1 - λ)·e, o + (1 - λ)·e] ∩ [l, u]), o the
  image and e = max(o - l, u - o), in each variable. Where the range of the data
  cuts nothing off this is Sample(λ, gs, gt). Where it does, b stays near the
  image: with λ of at least ½ the image is always in the small box (Mueller et
  al. 2023, section 4).
  """

  share: NumberOrSchedule
  source: Goal
  target: Goal

  def check(self) -> None:
    require_share(self.share, "SmallBox's share")
    super().check()

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    share = value_at(self.share, context.epoch)
    image = (lower + upper) / 2
    if context.images is not None:  # Which a Sub may have left.
      image = jnp.clip(context.images, lower, upper)
    radius = jnp.maximum(image - lower, upper - image)

    def around(point: Array, reach: Array) -> tuple[Array, Array]:
      return (
          jnp.clip(point - reach, lower, upper),
          jnp.clip(point + reach, lower, upper),
      )

    near = around(image, (1 - share) * radius)
    point = center(plain(self.source.abstract(*near, context.child(0))))
    small = around(point, share * radius)
    return self.target.abstract(*small, context.child(1))


class _Sharing(_Picking):
  """Base of goals on a box between the center and a point that `source` finds.

  That point is the upper end of α^source(l, u). Both points are shared:
  `Original` and `Attacked` within `target` are them.
  """

  def box(self, original: Array, attacked: Array) -> tuple[Array, Array]:
    """The bounds that `target` is given."""
    raise NotImplementedError

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    found = plain(self.source.abstract(lower, upper, context.child(0)))
    original, attacked = (lower + upper) / 2, upper_end(found)
    inner = dataclasses.replace(
        context.child(1), shared=(original, attacked)
    )
    return self.target.abstract(*self.box(original, attacked), inner)


@dataclasses.dataclass(frozen=True)
class BiSample(_Sharing):
  """`target` on the box around the center that just reaches a found point.

  BiSample(g1, g2) is α^g2(c - |p - c|, c + |p - c|) with the loss of g2, where
  c = ½(l + u) and p is the upper end of α^g1(l, u). DiffAI v3 calls it BiAdv.
  """

  source: Goal
  target: Goal

  def box(self, original: Array, attacked: Array) -> tuple[Array, Array]:
    reach = jnp.abs(attacked - original)
    return original - reach, original + reach


@dataclasses.dataclass(frozen=True)
class AdvDom(_Sharing):
  """`target` on the box whose corners are the center and a found point.

  AdvDom(g1, g2) is α^g2(min(c, p), max(c, p)) with the loss of g2, where
  c = ½(l + u) and p is the upper end of α^g1(l, u).
  """

  source: Goal
  target: Goal

  def box(self, original: Array, attacked: Array) -> tuple[Array, Array]:
    return jnp.minimum(original, attacked), jnp.maximum(original, attacked)


@dataclasses.dataclass(frozen=True)
class Shrunk(_Within):
  """`goal` with a smaller upper bound of each ReLU whose sign is not known.

  ReLUs of the goal's elements take [l, u] with l < 0 < u to [0, factor·u] instead of
  [0, u]: ReLU shrinkage (Mueller et al. 2023, "Certified training: small boxes are
  all you need"; 0.8 at CIFAR-10's 2/255). With a factor below 1 the
  "bounds" hold for none but a part of the box: a loss to train on, no proof.

  Attributes:
    factor: above 0, at most 1.
    goal: whose elements follow ReLU rule `box`.
  """

  factor: Number
  goal: Goal

  @property
  def inner(self) -> Goal:
    return self.goal

  def check(self) -> None:
    if not 0 < self.factor <= 1:
      raise ValueError(
          f"Shrunk's factor must be above 0 and at most 1, not {self.factor}"
      )
    for term in walk(self.goal):
      rule = getattr(term, "relu", "box")
      if rule != "box":
        raise ValueError(
            f"Shrunk is of goals with the ReLU rule box; {term} has {rule}"
        )

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    value = self.goal.abstract(lower, upper, context)
    return jax.tree.map(
        lambda part: dataclasses.replace(part, relu=shrunk_rule(self.factor))
        if isinstance(part, HybridZonotope) else part,
        value, is_leaf=lambda part: isinstance(part, HybridZonotope),
    )


def scaled(
    lower: Array, upper: Array, scale: Array
) -> tuple[Array, Array]:
  """The box [l, u], [B, ...] each, scaled around its center."""
  width, total = scale * (upper - lower), upper + lower
  return (total - width) / 2, (total + width) / 2


def upper_end(value: Array | HybridZonotope) -> Array:
  """A point itself, an element's upper bounds."""
  return upper(value) if isinstance(value, HybridZonotope) else value
