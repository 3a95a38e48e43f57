"""Names that every floor shares: arrays, the mode, the user's error."""

import enum

import jax

Array = jax.Array
PRNGKey = jax.Array
AXIS = "devices"  # The name of the axis that pmap splits a batch along.


class Mode(enum.Enum):
  """What flows through a network, and which abstract layers act.

  CONCRETE: arrays flow; every abstract layer is the identity.
  TRAIN: abstract elements flow; every abstract layer acts.
  CERTIFY: abstract elements flow; layers with `only_train=True` are the
    identity (paper, section 3).
  """

  CONCRETE = "concrete"
  TRAIN = "train"
  CERTIFY = "certify"


class UsageError(Exception):
  """Something the user gave cannot be used.

  The message is one line: the value, what was expected, what to do. `main`
  prints it without a traceback.

  Attributes:
    detail: further lines that show the place, such as a marked text, or "".
  """

  def __init__(self, message: str, detail: str = ""):
    super().__init__(message)
    self.detail = detail
