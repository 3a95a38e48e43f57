"""Specs: what the output must be, as linear inequalities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import precision
from diffai_jax.types import Array, shown


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spec:
  """An output z fulfils it if *every* group has *some* row with C·z + d < 0.

  This is a conjunction of disjunctions. A conjunction of rows, such as that of
  labels, has groups of one row each. An unsafe set of VNN-LIB, which is a
  disjunction of conjunctions A·z ≤ b, is avoided if each of its conjunctions is
  broken by some row, b - A·z < 0: one group for each. A disjunction of
  conjunctions (C·z + d < 0 for every row of some group) takes this form by
  distributing one over the other.

  With one upper bound for each row over a region, `proved` says whether every
  point of the region fulfils the spec. Of a group that is one bound below 0; that
  some points break one row of it and others another does not show.

  A pytree: rows and offsets are arguments of a compiled program.

  Attributes:
    rows: C, [S, K], or [B, S, K] where each example has its own.
    offsets: d, [S] or [B, S].
    groups: the number of each row's group, S numbers that are 0, 1, 2, ...; each
      group has at least one row (static). None is a group for each row.

  >>> import numpy as np
  >>> spec = labels(np.array([1]), 3)
  >>> print(spec.holds(np.array([[0.1, 0.7, 0.2]], np.float32)))
  [ True]
  """

  rows: Array
  offsets: Array
  groups: tuple[int, ...] | None = dataclasses.field(
      default=None, metadata={"static": True}
  )

  def values(self, outputs: Array) -> Array:
    """C·z + d of outputs [B, K], as floats come out: [B, S]."""
    self.check()
    rows, outputs = jnp.asarray(self.rows), jnp.asarray(outputs)
    if outputs.ndim != 2 or outputs.shape[1] != rows.shape[-1]:
      raise ValueError(
          f"outputs are {list(outputs.shape)}; the spec is about"
          f" [B, {rows.shape[-1]}]"
      )
    equation = "bk,sk->bs" if rows.ndim == 2 else "bk,bsk->bs"
    return self.offsets + jnp.einsum(
        equation, outputs, rows, precision=jax.lax.Precision.HIGHEST
    )

  def holds(self, outputs: Array) -> Array:
    """Which outputs [B, K] fulfil it, as floats come out: bool [B].

    NaN fulfils nothing.
    """
    return self.proved(self.values(outputs))

  def proved(self, bounds: Array) -> Array:
    """Which examples fulfil it, from upper bounds of C·z + d.

    Args:
      bounds: [B, S]. NaN proves nothing.

    Returns:
      bool [B].
    """
    groups = self.check()
    bounds = jnp.asarray(bounds)
    if bounds.ndim != 2 or bounds.shape[1] != len(groups):
      raise ValueError(
          f"bounds are {list(bounds.shape)}; the spec has rows for"
          f" [B, {len(groups)}]"
      )
    members = np.asarray(groups) == np.arange(max(groups) + 1)[:, None]
    return jnp.all(jnp.any((bounds < 0)[:, None] & members, 2), 1)

  def margins(self, bounds: Array) -> Array:
    """How far below 0 the bounds are: the least of all groups' best rows, [B].

    Above 0 exactly where `proved` holds; NaN where any bound is.

    Args:
      bounds: [B, S], as of `proved`.
    """
    groups = self.check()
    members = np.asarray(groups) == np.arange(max(groups) + 1)[:, None]
    best = jnp.where(members, -bounds[:, None], -jnp.inf).max(axis=2)
    return jnp.where(
        jnp.any(jnp.isnan(bounds), axis=1), jnp.nan, best.min(axis=1)
    )

  def check(self) -> tuple[int, ...]:
    """The group of each row.

    Raises:
      ValueError: if rows, offsets and groups do not fit each other.
    """
    shape, offsets = np.shape(self.rows), np.shape(self.offsets)
    if len(shape) not in (2, 3) or not shape[-2]:
      raise ValueError(
          f"rows of a spec are {list(shape)}; expected [S, K] or [B, S, K], with"
          f" at least one row"
      )
    if offsets not in (shape[-2:-1], shape[:-1]):
      raise ValueError(
          f"offsets of a spec are {list(offsets)}; expected {[shape[-2]]}, one for"
          f" each row"
      )
    groups = self.groups
    if groups is None:
      return tuple(range(shape[-2]))
    if len(groups) != shape[-2] or set(groups) != set(range(max(groups) + 1)):
      raise ValueError(
          f"groups of a spec are {shown(groups)}; expected {shape[-2]} numbers,"
          f" those of all groups from 0 on"
      )
    return tuple(groups)


def labels(labels: Array, classes: int, dtype=np.float32) -> Spec:
  """The label's logit is above all others: z_k - z_y < 0 for every k ≠ y.

  Args:
    labels: y, int [B], from 0 to classes - 1. A traced label that is none gives
      rows of NaN.
    classes: K ≥ 2.
    dtype: of the rows.

  Returns:
    K - 1 rows for each example, in the order of the other classes.

  Raises:
    ValueError: if a label is known to be none of the classes.
  """
  found = _checked(labels, classes, "label")
  others = jnp.arange(classes - 1)
  others = others + (others >= found[:, None])  # [B, K - 1], y left out.
  return _differences(others, found, classes, dtype)


def targets(
    labels: Array, targets: Array, classes: int, dtype=np.float32
) -> Spec:
  """The label's logit is above those of the given classes: z_t - z_y < 0.

  Args:
    labels: y, int [B].
    targets: t, int [B], one for each example, or [B, T]. None may be the label:
      nothing is above itself.
    classes: K ≥ 2.
    dtype: of the rows.

  Raises:
    ValueError: if a label or target is known to be none of the classes, or they
      are known to be equal.
  """
  found = _checked(labels, classes, "label")
  shape = jnp.shape(targets)
  if len(shape) not in (1, 2) or shape[:1] != found.shape:
    raise ValueError(
        f"targets are {list(shape)}; expected {list(found.shape)} or"
        f" {[found.shape[0], 'T']}, one or several for each label"
    )
  wanted = _checked(jnp.reshape(targets, -1), classes, "target")
  wanted = wanted.reshape(shape[0], -1)
  precision.refuse(
      wanted == found[:, None],
      "is both label and target; a class is never above itself", wanted,
  )
  return _differences(wanted, found, classes, dtype)


def linear(
    rows: Array, offsets: Array, groups: tuple[int, ...] | None = None
) -> Spec:
  """C·z + d < 0 for every row, or for some row of every group.

  Args:
    rows: C, [S, K] or [B, S, K].
    offsets: d, [S] or [B, S].
    groups: as `Spec` has them.

  Raises:
    ValueError: if they do not fit each other.
  """
  spec = Spec(rows, offsets, groups)
  spec.check()
  return spec


def _checked(given: Array, classes: int, name: str) -> Array:
  """Class numbers [B] as JAX's integers; -1 where a traced one is none."""
  if classes < 2:
    raise ValueError(f"there are {classes} classes; expected at least 2")
  given = given if hasattr(given, "dtype") else np.asarray(given)
  if given.ndim != 1 or not jnp.issubdtype(given.dtype, jnp.integer):
    raise ValueError(
        f"{name}s are {given.dtype} {list(given.shape)}; expected whole numbers,"
        f" one for each example"
    )
  wrong = (given < 0) | (given >= classes)
  precision.refuse(
      wrong, f"is no {name}; expected one from 0 to {classes - 1}", given
  )
  return jnp.where(jnp.asarray(wrong), -1, jnp.asarray(given, jnp.int32))


def _differences(above: Array, below: Array, classes: int, dtype) -> Spec:
  """The rows z_a - z_b: classes [B, S] and [B]."""
  below = jnp.broadcast_to(below[:, None], above.shape)
  one_hot = lambda c: jax.nn.one_hot(c, classes, dtype=dtype)
  rows = one_hot(above) - one_hot(below)
  none = (above < 0) | (below < 0)
  rows = jnp.where(none[..., None], jnp.nan, rows)
  return Spec(rows, jnp.zeros(above.shape, dtype))
