"""Certification from Python: `certify`, `bounds` and `largest_epsilon`.

Each takes a *run*: what training or loading gives, any object with a network and
its variables, or the pair of them.
"""

from collections.abc import Callable, Sequence
import contextlib
import functools
import numbers
from typing import Any

from flax import linen as nn
import numpy as np

from diffai_jax import processes
from diffai_jax.attacks import StepwiseAttack
from diffai_jax.data import Examples
from diffai_jax.data.arrays import checked_range
from diffai_jax.graph import Graph, from_jax, simplify
from diffai_jax.networks import (
    PlainNetwork,
    certified,
    network_of_graph,
    takes_mode,
)
from diffai_jax.regions import Linf
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import ArgumentError, Array, UsageError, shown
from diffai_jax.verification import certification
from diffai_jax.verification.attack_texts import Attack
from diffai_jax.verification.bisection import largest_proved
from diffai_jax.verification.certification_input import (
    certified_params,
    check_arithmetic,
    check_memory_mb,
    check_network,
)
from diffai_jax.verification.inputs import Inputs, checked, float_type
from diffai_jax.verification.layer_bounds import layer_bounds
from diffai_jax.verification.linear_methods import Linear
from diffai_jax.verification.methods import METHODS, Domain, Method, parse

Progress = Callable[[str, int], None]
_MOST_STEPS = 200  # Of bisection; floats have no more between 0 and 1.


@contextlib.contextmanager
def _value_errors():
  """Whatever is wrong with an argument is a ValueError, in one line."""
  try:
    yield
  except UsageError as error:
    if isinstance(error, ValueError):
      raise
    raise ArgumentError(str(error), error.detail) from None


def _public(function: Callable) -> Callable:
  @functools.wraps(function)
  def wrapped(*args, **kwargs):
    with _value_errors():
      return function(*args, **kwargs)

  return wrapped


@_public
def certify(
    run: Any,
    images: Array,
    labels: Array,
    region: Linf,
    methods: Sequence[str | Method] = ("Box", "HBox"),
    *,
    attack: Attack | None = Attack(),
    attacks: Sequence[str | StepwiseAttack] | None = None,
    skip_decided: bool = False,
    memory_mb: float | None = None,
    progress: Progress | None = None,
    proofs: str | None = None,
) -> certification.Certification:
  """Standard, attacked and verified accuracy, and each image's own results.

  An image is verified by a method if the network gets it right and the method
  proves the same class for every point of the region. Batch normalisation is
  folded into the layers before it first. Programs are compiled once for images
  of a shape: another region, other images and other weights use them again.

  Args:
    run: of `dj.train` or `dj.load`; (network, variables) with a Flax module, ours
      or any other, which is then taken as it is after training; a function of
      images, which a Flax NNX or Equinox model is, too; or a graph, such as
      `dj.from_onnx` gives.
    images: [N, ...], NumPy's or JAX's: floats within the region's range, or
      uint8, which stand for q/255. Floats are certified in float32, or in float64
      under x64.
    labels: whole numbers from 0, [N].
    region: such as Linf(0.1), around each image; ε in the images' units, of
      uint8 in those of [0, 1].
    methods: texts or methods, such as ["Box", dj.methods.HBox()].
    attack: how MI-FGSM looks for counterexamples; None for not at all.
    attacks: other attacks in its place, texts or of `dj.attacks`, such as
      ["MIFGSM", "APGD(100)", "APGDTargeted(100)"]. Each is tried on the images
      that those before left standing.
    skip_decided: whether methods but Box are asked only about images that no
      attack broke and no method before proved. Then what is verified by a method
      is so by it or by one before it.
    memory_mb: most memory of a batch, in MiB a device; None is half of what is
      free.
    progress: called with a phase, such as "HBox", and how many images are done.
    proofs: a folder for the proofs of BranchAndBound, NUMBER.npz for each image,
      which `python -m diffai_jax.check` checks.

  Returns:
    Labels, predictions, and by the method's text what is verified and with which
    margin; points that the network gets wrong, in the region exactly; what each
    attack broke; `summary()` has the accuracies.

  Raises:
    ValueError: in one line, if an argument cannot be used.

  This network says which of two pixels is brighter:

  >>> import numpy as np
  >>> import diffai_jax as dj
  >>> network = dj.nn.Linear(2)
  >>> variables = {"params": {"kernel": np.eye(2), "bias": np.zeros(2)}}
  >>> images = np.array([[0.9, 0.1], [0.5, 0.6]], np.float32)
  >>> found = dj.certify((network, variables), images, [0, 1], dj.Linf(0.1))
  >>> found.verified["Box"].tolist(), found.falsified.tolist()
  ([True, False], [False, True])
  >>> print(found.margins["Box"].round(2))
  [ 0.6 -0.1]
  >>> list(found.counterexamples)
  [1]
  """
  network, params = _certified(run, checked(images, labels, region))
  return certification.certify(
      network, params, Examples(images, labels), region,
      methods=methods, attack=attack, attacks=attacks,
      memory_mb=memory_mb, skip_decided=skip_decided,
      progress=progress or _no_progress, proofs=proofs,
  )


@_public
def bounds(
    run: Any,
    images: Array,
    region: Linf,
    at: str | None = None,
    method: str | Method = "Box",
    *,
    memory_mb: float | None = None,
) -> tuple[np.ndarray, np.ndarray] | dict[str, tuple[np.ndarray, np.ndarray]]:
  """Lower and upper bounds of what a layer gives, over a region.

  They hold in exact arithmetic and for the network as it is computed. Nothing
  is folded: the bounds are of the layers that the network has.

  Args:
    run, images, region, memory_mb: as `certify` takes them.
    at: the layer's path in Flax's names, such as "layers_2" or
      "layers_3/first/layers_0"; "layers_2#2" is the second call of a layer that
      is used twice. None is every layer.
    method: as text or method. Domains bound all layers by one run of an element.
      Linear ones, such as "CROWN" and "AlphaCROWN(20)", walk back from each neuron
      of each layer with the lines that they take by default; of the output the
      bounds are their own, of AlphaCROWN with the slopes that it chooses. With
      CROWN_IBP all but the output have interval bounds.

  Returns:
    (lower, upper), [N, ...] each; of every layer, by its path and in the order
    of the run, where `at` is None. A network without layers inside has the path
    "".

  Raises:
    ValueError: in one line, if an argument cannot be used; with the nearest
      name, if there is no such layer.

  >>> import numpy as np
  >>> import diffai_jax as dj
  >>> network = dj.nn.Sequential([dj.nn.Linear(2), dj.nn.ReLU()])
  >>> turned = {"kernel": np.array([[1, 1], [-1, 1]]), "bias": np.zeros(2)}
  >>> run = network, {"params": {"layers_0": turned}}
  >>> image = np.array([[0.5, 0.5]], np.float32)
  >>> lower, upper = dj.bounds(run, image, dj.Linf(0.25), at="layers_1")
  >>> print(abs(lower.round(3)), upper.round(3))
  [[0.  0.5]] [[0.5 1.5]]
  >>> list(dj.bounds(run, image, dj.Linf(0.25)))
  ['layers_0', 'layers_1']
  """
  method = parse(method)
  if not isinstance(method, (Domain, Linear)):
    known = [
        name for name, kind in METHODS.items()
        if issubclass(kind, (Domain, Linear))
    ]
    raise unknown_name("method for bounds of layers", str(method), known)
  check_memory_mb(memory_mb)
  inputs = checked(images, None, region)
  network, variables = _network_of(run, inputs)
  check_network(network, variables, inputs, needs_logits=False)
  check_arithmetic(network, variables, inputs)
  found = layer_bounds(network, variables, inputs, method, at, memory_mb)
  return found if at is None else found[at]


@_public
def largest_epsilon(
    run: Any,
    images: Array,
    labels: Array,
    method: str | Method = "HBox",
    most: float | None = None,
    steps: int = 20,
    *,
    data_range: tuple[float, float] | None | str = "run",
    memory_mb: float | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
  """For each image the largest ε of an L∞ ball that a method proves.

  By bisection of [0, most], all images at once, in one compiled program. The
  method itself gave a proof at each ε that is returned: `certify` with a region
  of these ε, one for each image, verifies the same images. That smaller ε are
  proved too, as they are nearly always, is not assumed.

  Args:
    run, images, labels, memory_mb: as `certify` takes them.
    method: as text or method.
    most: the largest ε that is tried; None is the width of the data's range.
    steps: of bisection: the result is within most/2^steps of one that the
      method does not prove, or it is `most`.
    data_range: of the images, (lowest, highest) or None for none; "run" is the
      run's own, [0, 1] if it has none.
    progress: called with the method and how many of steps + 2 are done.

  Returns:
    [N], in float32, or float64 under x64 where images are; in the images' units.
    -inf where nothing is proved at ε = 0 either: the image is misclassified, or
    the method finds no proof. So `found >= epsilon` is what is proved.

  Raises:
    ValueError: in one line, if an argument cannot be used.

  >>> import numpy as np
  >>> import diffai_jax as dj
  >>> network = dj.nn.Linear(2)
  >>> variables = {"params": {"kernel": np.eye(2), "bias": np.zeros(2)}}
  >>> images = np.array([[0.9, 0.1], [0.5, 0.6], [0.2, 0.3]], np.float32)
  >>> found = dj.largest_epsilon((network, variables), images, [0, 1, 0])
  >>> print(found.round(3))
  [0.4  0.05 -inf]
  """
  method = parse(method)
  check_memory_mb(memory_mb)
  if isinstance(data_range, str) and data_range == "run":
    data_range = getattr(run, "data_range", (0.0, 1.0))
  data_range = checked_range(data_range)
  if most is None:
    if data_range is None:
      raise UsageError(
          "most is None, and so is the data's range; give the largest epsilon"
          " to try"
      )
    most = data_range[1] - data_range[0]
  if np.ndim(most):
    raise UsageError(f"most is {shown(most)}; expected a number")
  whole = isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
  if not whole or not 0 <= steps <= _MOST_STEPS:
    raise UsageError(
        f"steps is {shown(steps)}; expected a whole number from 0 to"
        f" {_MOST_STEPS}"
    )
  inputs = checked(images, labels, Linf(most, data_range))
  network, params = _certified(run, inputs)
  check_network(network, {"params": params}, inputs)
  check_arithmetic(network, {"params": params}, inputs)
  return largest_proved(
      network, params, inputs, method, int(steps), memory_mb,
      progress or _no_progress,
  )


def _no_progress(phase: str, done: int) -> None:
  """Shows nothing."""


def _network_of(run: Any, inputs: Inputs) -> tuple[nn.Module, dict]:
  """The network that a caller gave, and its variables in the certified type.

  Args:
    run: as `certify` takes it.
    inputs: which it is to take.

  Raises:
    UsageError: if it is none.
  """
  dtype = float_type(inputs.images.dtype)
  network = getattr(run, "network", None)
  pair = network, getattr(run, "variables", None)
  if isinstance(run, (tuple, list)):
    pair = run
  elif isinstance(run, nn.Module) and run.scope is not None:
    pair = run.unbind()
  elif isinstance(run, Graph) or (network is None and callable(run)):
    shape = inputs.images.shape[1:]
    graph = run if isinstance(run, Graph) else from_jax(run, shape, dtype)
    network, params = network_of_graph(simplify(graph))
    pair = network, {"params": params}
  if len(pair) != 2 or not isinstance(pair[0], nn.Module):
    raise UsageError(
        f"the run is {shown(run)}; expected what dj.train or dj.load gives,"
        f" (network, variables) with a Flax module, a function of images, or a"
        f" graph"
    )
  network, variables = pair
  if not takes_mode(network):
    network = PlainNetwork(network)
  try:
    variables = {name: variables[name] for name in variables}
  except TypeError:
    raise UsageError(
        f"the network's variables are {shown(variables)}; expected what its init"
        f" gives, {{'params': ...}}"
    ) from None
  if variables and "params" not in variables:
    raise UsageError(
        f"the network's variables are {shown(list(variables))}; expected what its"
        f" init gives, {{'params': ...}}"
    )
  return network, certified_params({"params": {}} | variables)


def _certified(run: Any, inputs: Inputs) -> tuple[nn.Module, dict]:
  """The network without normalisation, and its weights.

  Raises:
    UsageError: if it cannot be folded or read, or has other variables.
  """
  network, variables = _network_of(run, inputs)
  dtype = float_type(inputs.images.dtype)
  if isinstance(network, PlainNetwork):
    check_network(network, variables, inputs)
  try:
    network, params = certified(
        network, variables, inputs.images.shape[1:], dtype
    )
  except KeyError as error:
    raise UsageError(
        f"the network's variables are another network's: they have no {error}"
    ) from None
  # Folding rounds as a machine does: the network is process 0's.
  return network, processes.from_first(params)
