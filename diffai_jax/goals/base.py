"""What a goal is (paper, section 4.2): an abstraction and a loss."""

import dataclasses
from typing import Callable

from diffai_jax import losses
from diffai_jax.domains.product import Value
from diffai_jax.terms import Term
from diffai_jax.types import Array, Mode, PRNGKey


@dataclasses.dataclass(frozen=True)
class Context:
  """What a goal may use besides its input box.

  Attributes:
    forward: the network with the current parameters, (value, mode) -> output.
    labels: int, [B].
    epoch: fractional epochs completed, on the schedules' clock; a scalar.
    key: a random key for each example, [B], or None where a run draws none.
    data_range: lowest and highest value that data can have.
  """

  forward: Callable[[Value, Mode], Value]
  labels: Array
  epoch: Array
  key: PRNGKey | None = None
  data_range: tuple[float, float] = (0.0, 1.0)


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
