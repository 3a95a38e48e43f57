"""What a goal is (paper, section 4.2): an abstraction and a loss."""

from collections.abc import Iterator
import dataclasses
from typing import Callable

import jax

from diffai_jax import losses
from diffai_jax.domains.product import Value
from diffai_jax.text.terms import Term
from diffai_jax.types import Array, Mode, PRNGKey


@dataclasses.dataclass(frozen=True)
class Context:
  """What a goal may use besides its input box.

  Attributes:
    forward: the network, (value, mode) -> output, with the current parameters
      held fixed: for attacks.
    labels: int, [B].
    epoch: fractional epochs completed, on the schedules' clock; a scalar.
    key: a random key for each example, [B], or None where a run draws none.
    batch_key: a random key for the whole batch, or None likewise.
    data_range: lowest and highest value that data can have; None is no range.
    images: that the input boxes are around, [B, ...]; None if there are none,
      and then the boxes' centers are.
    shared: the points (original, attacked) that the surrounding AdvDom or
      BiSample shares with its goals, or None outside of one.
  """

  forward: Callable[[Value, Mode], Value]
  labels: Array
  epoch: Array
  key: PRNGKey | None = None
  batch_key: PRNGKey | None = None
  data_range: tuple[float, float] | None = (0.0, 1.0)
  images: Array | None = None
  shared: tuple[Array, Array] | None = None

  def child(self, number: int) -> "Context":
    """The context of a goal's part: its random numbers are its own."""
    if self.key is None:
      return self
    keys = jax.vmap(jax.random.fold_in, (0, None))(self.key, number)
    return dataclasses.replace(self, key=keys)

  def keys(self, goal: "Goal") -> PRNGKey:
    """`key`, which `goal` draws from.

    Raises:
      ValueError: if there is none.
    """
    if self.key is None:
      raise ValueError(
          f"{goal} draws random numbers; give its Context a key for each"
          f" example"
      )
    return self.key


class Goal(Term):
  """A way to abstract an input box, and the loss on what comes out.

  Subclasses are frozen dataclasses (hashable, static under jit) whose fields
  are numbers, schedules or goals. Their values are read at `context.epoch`,
  which is traced: nothing recompiles as schedules move. A subclass supplies
  `abstract`, and whichever of the other methods differ from the default; the
  defaults are those of a goal whose `abstract` returns an array or an element.

  A network maps `abstract`'s result to the `output` of the other methods, part
  by part.

  Attributes:
    measures: what `accuracies` calls the examples that the goal holds on.
  """

  measures = "verified"

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    """The paper's α^g(l, u).

    Args:
      lower, upper: bounds l ≤ u of the input box, [B, ...].
      context: see Context.

    Returns:
      An array or element over [...], or a Product of them.
    """
    raise NotImplementedError

  def margins(self, output: Value, labels: Array, context: Context) -> Array:
    """Upper bounds of z_k - z_y over all that `output` stands for, [B, K]."""
    return losses.margins(output, labels)

  def loss(self, output: Value, labels: Array, context: Context) -> Array:
    """The paper's loss^g(d, t) of each example, [B]."""
    return losses.cross_entropy(self.margins(output, labels, context))

  def accuracies(
      self, output: Value, labels: Array, context: Context
  ) -> dict[str, Array]:
    """Which examples the goal holds on, by the name of what is measured.

    Returns:
      bool [B] by "accuracy" for goals on points, "verified" on regions.
    """
    margin = self.margins(output, labels, context)
    return {self.measures: losses.proved(margin, labels)}

  def children(self) -> tuple["Goal", ...]:
    """The goals that this one is made of, in the order of its text."""
    values = (getattr(self, f.name) for f in dataclasses.fields(self))
    return tuple(value for value in values if isinstance(value, Goal))

  def with_children(self, children: Iterator["Goal"]) -> "Goal":
    """This goal with other goals in the places of `children()`."""
    replaced = {
        f.name: next(children)
        for f in dataclasses.fields(self)
        if isinstance(getattr(self, f.name), Goal)
    }
    return dataclasses.replace(self, **replaced) if replaced else self

  def is_single(self) -> bool:
    """Whether `abstract` gives one array or element, not a Product."""
    return True


class Weighed(Goal):
  """Base of goals whose loss weighs what they are made of.

  What has the weight 0 at an epoch is left out of that step's program
  (`goals.active_at`), so it costs nothing.
  """

  def weights(self, epoch: Array, batch_key: PRNGKey | None) -> Array:
    """w_i of each part, which sum to 1, [P]."""
    raise NotImplementedError

  def only(self, kept: tuple[bool, ...]) -> Goal:
    """This goal without the parts that are not kept; itself if none is."""
    raise NotImplementedError


def walk(goal: Goal) -> Iterator[Goal]:
  """The goal and all that it is made of, from the outside in."""
  yield goal
  for child in goal.children():
    yield from walk(child)
