"""Checks proofs of branch and bound: `python -m diffai_jax.check PROOF ...`.

An independent program: NumPy in float64 alone, nothing of the package that wrote
the proof. A proof says that each point x of a box gives an output z with C·z + d < 0
for some row of every group, and shows it by a binary tree for each group: at each
node the sign of one neuron (what flows into a ReLU) is split, at each leaf there are
slopes α in [0, 1] and multipliers β ≥ 0. Bounds are not in the file. It is checked that

- the leaves of each group cover everything: wherever a path goes to one sign of a
  neuron, others go to the other sign, and do so completely;
- every leaf's bound is below 0. Bounds l, u of neurons are computed here: intervals,
  then CROWN's walk for neurons that these leave open. The leaf's walk begins with the
  rows Λ = C and replaces them call by call, ⟨Λ, y⟩ ≤ ⟨Λ', x⟩ + constant, until
  they stand on the input, whose box ends it:
    y = A·x + b:  Λ' = AᵀΛ, constant ⟨Λ, b⟩;
    y = relu(x):  x if l ≥ 0, 0 if u ≤ 0, else α·x ≤ y ≤ s·x + o, with s = u/(u - l)
      and o = max(-s·l, (1 - s)·u), where the first serves Λ < 0, the second Λ > 0;
    β·s is added to the Λ' of a neuron that was split to s·x ≥ 0.

This is exact arithmetic, computed in floats with unit roundoff u = 2^-53: a sum of n
products is off by at most γ(n) times the sum of their magnitudes (Higham 2002,
section 3.1), where γ(n) = 2(n + 16)u here, which also covers the arithmetic of
the allowances themselves. With |x| ≤ X = max(|l|, |u|), rounding of AᵀΛ and ⟨Λ, b⟩
moves the bound by at most γ(n)·⟨|Λ|, |A|X + |b|⟩, of products with slopes by 2u·⟨|Λ'|, X⟩,
of k ways that meet by γ(k)·⟨Σ|Λ_i|, X⟩; all of it is added. Adding β·s needs nothing:
rounding is monotonic. 1e-280 covers underflow; overflow is not below 0.
"""

import argparse
import hashlib
import json
import math
import sys

import numpy as np

_UNIT, _TINY = 2.0**-53, 1e-280
_AT_ONCE = 2**25  # Numbers of a batch of rows on one result.


class Refused(Exception):
  """Why a proof is none."""

def sums(a, b=1.0):
  """Sums of products over all axes but the first two."""
  return (a * b).reshape(a.shape[:2] + (-1,)).sum(axis=2)


def gamma(terms):
  """γ(n): what sums of so many products are off by."""
  return 2 * (terms + 16) * _UNIT


class Affine:
  """y = A·x + b: A, |A| and Aᵀ as functions of arrays [n, ...]."""

  def __init__(self, op, arrays, options, shape):
    self.op, self.inputs, self.options = op, tuple(shape), options
    exact = {k: np.asarray(v, float) for k, v in arrays.items()}
    self.kernel = exact.get("kernel", exact.get("factor", np.ones(())))
    self.bias = exact.get("bias", exact.get("shift", np.zeros(())))
    if set(options) - {"stride", "padding", "shape", "axes", "terms"}:
      raise Refused(f"options {sorted(options)} of {op} are unknown")
    self.stride = _pair(options.get("stride", 1))
    self.padding = [_pair(p) for p in _pair(options.get("padding", 0))]
    self.shape = self.apply(np.zeros((1, *shape)), self.kernel).shape[1:]
    if op in ("scale_shift", "add") and self.shape != self.inputs:
      raise Refused(f"{op} repeats its input")
    self.bias = np.broadcast_to(self.bias, self.shape)
    # Products in a sum, of y or of AᵀΛ, and in ⟨Λ, b⟩.
    self.terms = self.kernel.size + 2 + math.prod(self.shape)

  def apply(self, x, kernel):
    """A·x with this kernel, [n, ...]."""
    if self.op == "dense":
      return x @ kernel
    if self.op == "scale_shift":
      return x * kernel
    if self.op == "reshape":
      return x.reshape((len(x), *self.options["shape"]))
    if self.op == "transpose":
      return x.transpose((0, *(a + 1 for a in self.options["axes"])))
    if self.op == "add":
      return x
    x = np.pad(x, ((0, 0), *self.padding, (0, 0)))
    rows, columns = (
        (x.shape[n + 1] - kernel.shape[n]) // self.stride[n] + 1 for n in (0, 1)
    )
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i, j, window in self._windows(rows, columns):
      y += x[window] @ kernel[i, j]
    return y

  def transposed(self, y):
    """AᵀΛ, [n, ...]."""
    if self.op == "dense":
      return y @ self.kernel.T
    if self.op == "scale_shift":
      return y * self.kernel
    if self.op == "reshape":
      return y.reshape((len(y), *self.inputs))
    if self.op == "transpose":
      order = np.argsort([a + 1 for a in self.options["axes"]]) + 1
      return y.transpose((0, *order))
    if self.op == "add":
      return y
    (top, bottom), (left, right) = self.padding
    height, width, channels = self.inputs
    x = np.zeros((len(y), height + top + bottom, width + left + right, channels))
    for i, j, window in self._windows(*y.shape[1:3]):
      x[window] += y @ self.kernel[i, j].T
    return x[:, top : top + height, left : left + width]

  def _windows(self, rows, columns):
    """Where each of the kernel's places meets the padded input."""
    down, right = self.stride
    for i in range(self.kernel.shape[0]):
      for j in range(self.kernel.shape[1]):
        yield i, j, (slice(None), slice(i, i + down * (rows - 1) + 1, down),
                     slice(j, j + right * (columns - 1) + 1, right))


def _pair(value):
  return (value, value) if isinstance(value, int) else value


class Network:
  """Calls (inputs, Affine or None of a ReLU); result 0 is the input."""

  def __init__(self, header, arrays):
    self.calls, self.shapes = [], [tuple(header["input_shape"])]
    first = {}  # The first ReLU of each result that flows into one.
    for number, call in enumerate(header["calls"], start=1):
      inputs, op = tuple(call["inputs"]), call["op"]
      if any(type(n) is not int or not 0 <= n < number for n in inputs):
        raise Refused("a call uses a later result")
      shape = self.shapes[inputs[0]]
      fits = all(self.shapes[n] == shape for n in inputs)
      if len(inputs) != (2 if op == "add" else 1) or not fits:
        raise Refused(f"{op} has other inputs than it needs")
      affine = None
      if op == "relu":
        first.setdefault(inputs[0], number)
      elif op in ("dense", "conv", "scale_shift", "reshape", "transpose", "add"):
        own = {k: arrays[f"{number}/{k}"] for k in call["arrays"]}
        affine = Affine(op, own, call["options"], shape)
      else:
        raise Refused(f"{op} is no affine map and no ReLU")
      self.calls.append((inputs, affine))
      self.shapes.append(shape if affine is None else affine.shape)
    self.relus, self.first = sorted(first), first
    self.count = sum(math.prod(self.shapes[n]) for n in self.relus)

  def forward(self, number, bounds):
    """Interval bounds of a result, from those of earlier ones."""
    inputs, affine = self.calls[number - 1]
    low, high = bounds[inputs[0]]
    if affine is None:
      return np.maximum(low, 0), np.maximum(high, 0)
    if affine.op in ("reshape", "transpose"):
      return affine.apply(low, None), affine.apply(high, None)
    if affine.op == "add":
      least, most = (sum(bounds[n][end] for n in inputs) for end in (0, 1))
    else:
      above, below = np.maximum(affine.kernel, 0), np.minimum(affine.kernel, 0)
      least = affine.apply(low, above) + affine.apply(high, below)
      most = affine.apply(high, above) + affine.apply(low, below)
    slack = gamma(affine.terms) * self.reach(number, bounds) + _TINY
    return least + affine.bias - slack, most + affine.bias + slack

  def reach(self, number, bounds):
    """|A|X + |b| of an affine call, [n, ...]."""
    inputs, affine = self.calls[number - 1]
    size = sum(np.maximum(*map(np.abs, bounds[n])) for n in inputs)
    return affine.apply(size, np.abs(affine.kernel)) + np.abs(affine.bias)

  def walk(self, number, rows, bounds, alpha=None, signed=None):
    """Upper bounds of ⟨rows, result⟩, [n, S]; rows are [n, S, ...].

    Bounds are of all earlier results, [n or 1, ...]. α and s·β are by the number of
    what flows into a ReLU, [n, S, ...]; without, α is 1 where u > -l, else 0.
    """
    waiting, lead = {number: [rows]}, rows.shape[:2]
    total, size, count = np.zeros(lead), np.zeros(lead), 1
    for place in range(number, -1, -1):
      found = waiting.pop(place, None)
      if found is None:
        continue
      rows, constant, lost = sum(found[1:], found[0]), 0.0, _TINY
      low, high = (b[:, None] for b in bounds[place]) if place < number else (0, 0)
      if len(found) > 1:
        most = np.maximum(np.abs(low), np.abs(high))
        lost = lost + gamma(len(found)) * sums(sum(map(np.abs, found)), most)
      if place == 0:
        ends = np.maximum(rows * low, rows * high)
        constant = sums(ends)
        lost = lost + gamma(math.prod(self.shapes[0])) * sums(np.abs(ends))
      elif self.calls[place - 1][1] is None:
        source, = self.calls[place - 1][0]
        own = signed if signed and self.first[source] == place else {}
        rows, constant, more = self._relu(
            rows, bounds[source], (alpha or {}).get(source), own.get(source)
        )
        lost = lost + more
        waiting.setdefault(source, []).append(rows)
      else:
        inputs, affine = self.calls[place - 1]
        constant = sums(rows, affine.bias)
        reach = self.reach(place, bounds)[:, None]
        lost = lost + gamma(affine.terms) * sums(np.abs(rows), reach)
        rows = affine.transposed(rows.reshape((-1,) + rows.shape[2:]))
        for source in inputs:
          waiting.setdefault(source, []).append(rows.reshape(lead + affine.inputs))
      total = total + constant + lost
      size, count = size + np.abs(constant) + lost, count + 2
    return total + gamma(count) * size

  def _relu(self, rows, bounds, alpha, signed):
    """Rows through a ReLU: (Λ', constant, what rounding may add)."""
    low, high = (b[:, None] for b in bounds)
    on, off = low >= 0, high <= 0
    is_open = ~(on | off)
    l, u = np.where(is_open, low, -1.0), np.where(is_open, high, 1.0)
    slope = np.clip(u / (u - l), 0, 1)
    offset = np.maximum(-slope * l, (1 - slope) * u) * (1 + 16 * _UNIT) + _TINY
    least = (u > -l).astype(float) if alpha is None else alpha
    above, below = np.maximum(rows, 0), np.minimum(rows, 0)
    pulled = np.where(on, rows, np.where(off, 0, above * slope + below * least))
    terms = np.where(is_open, above * offset, 0)
    constant = sums(terms)
    lost = 4 * _UNIT * sums(np.abs(pulled), np.maximum(np.abs(low), np.abs(high)))
    lost = lost + gamma(math.prod(rows.shape[2:])) * constant
    return (pulled if signed is None else pulled + signed), constant, lost

  def bounds(self, low, high):
    """Bounds of every result over a box, [1, ...] each."""
    found, deep = [(low, high)], set()
    for number in range(1, len(self.calls) + 1):
      inputs, affine = self.calls[number - 1]
      found.append(self.forward(number, found))
      if affine is None or deep.intersection(inputs):
        deep.add(number)
      if number in self.first and number in deep:
        found[number] = self._refined(number, found)
    return found

  def _refined(self, number, found):
    """Bounds of a result, of open neurons by walks of their own."""
    low, high = (b.reshape(-1).copy() for b in found[number])
    which = np.flatnonzero(~((low >= 0) | (high <= 0)))
    each = max(1, _AT_ONCE // (2 * max(map(math.prod, self.shapes))))
    for begin in range(0, len(which), each):
      own = which[begin : begin + each]
      rows = (own[:, None] == np.arange(len(low))).astype(float)
      rows = np.concatenate([rows, -rows]).reshape((1, -1, *self.shapes[number]))
      above = self.walk(number, rows, found)[0]
      high[own] = np.fmin(high[own], above[: len(own)])
      low[own] = np.fmax(low[own], -above[len(own) :])
    return tuple(b.reshape(found[number][0].shape) for b in (low, high))

  def apart(self, values):
    """Numbers of all neurons, [..., count], by the result that they are of."""
    found, begin = {}, 0
    for number in self.relus:
      end = begin + math.prod(self.shapes[number])
      shape = values.shape[:-1] + self.shapes[number]
      found[number], begin = values[..., begin:end].reshape(shape), end
    return found


def covers(leaves):
  """Whether paths of decisions, sign·(neuron + 1), then 0, are a whole tree's."""
  if any(any(path[path.index(0) :]) for path in leaves if 0 in path):
    return False  # It would be a leaf of more than its signs are of.
  waiting = [(leaves, 0)]
  while waiting:
    paths, depth = waiting.pop()
    if not paths:
      return False
    if any(len(path) == depth or path[depth] == 0 for path in paths):
      continue  # A leaf here has everything that comes to this node.
    neurons = {abs(path[depth]) for path in paths}
    if len(neurons) != 1:
      return False
    for one in (neurons.copy().pop(), -neurons.pop()):
      waiting.append(([p for p in paths if p[depth] == one], depth + 1))
  return True


def check_leaves(network, bounds, proof, which, rows, offsets, output):
  """The largest of some leaves' bounds."""
  decisions, places = proof["decisions"][which].astype(int), proof["places"]
  alpha, beta = (proof[k][which].astype(float) for k in ("alpha", "beta"))
  if not (np.all(alpha >= 0) and np.all(alpha <= 1) and np.all(beta >= 0)):
    raise Refused("a slope is not in [0, 1], or a multiplier is negative")
  leaves, several = alpha.shape[:2]
  inside = (places >= 0) & (places < network.count)
  slopes, signed = np.zeros((2, leaves, several, network.count))
  slopes[:, :, places[inside]] = alpha[:, :, inside]
  signs = np.zeros((leaves, network.count))
  for leaf, place in zip(*np.nonzero(decisions)):
    neuron, sign = abs(decisions[leaf, place]) - 1, np.sign(decisions[leaf, place])
    if neuron >= network.count or signs[leaf, neuron] == -sign:
      raise Refused("a path decides what is no neuron, or one both ways")
    signs[leaf, neuron] = sign
    signed[leaf, :, neuron] += sign * beta[leaf, :, place]
  own, signs = list(bounds), network.apart(signs)
  for number in range(len(own)):
    if number and network.calls[number - 1][1] is None:
      own[number] = network.forward(number, own)
    if number in signs:
      sign, (low, high) = signs[number], own[number]
      own[number] = (np.where(sign > 0, np.maximum(low, 0), low),
                     np.where(sign < 0, np.minimum(high, 0), high))
  shape = (several, *network.shapes[output])
  rows = np.broadcast_to(rows.reshape((1, *shape)), (leaves, *shape))
  found = network.walk(output, rows, own, *map(network.apart, (slopes, signed)))
  found = found + offsets + gamma(1) * (abs(found) + abs(offsets))
  return float(found.min(axis=1).max())


def digest(arrays):
  """The SHA-256 of a network's arrays, in the order of their names."""
  made = hashlib.sha256()
  for name in sorted(n for n in arrays if n[0].isdigit()):
    array = np.ascontiguousarray(arrays[name])
    made.update(f"{name} {array.dtype.str} {array.shape}".encode())
    made.update(array.tobytes())
  return made.hexdigest()


def check(path, network_path=None):
  """Checks a file; returns (number of leaves, largest bound, digest), or raises."""
  try:
    with np.load(path, allow_pickle=False) as file:
      proof = {name: file[name] for name in file.files}
    return _checked(proof, network_path)
  except Exception as error:  # Whatever a file that was made to harm leads to.
    if isinstance(error, Refused):
      raise
    reason = str(error).splitlines() or [type(error).__name__]
    raise Refused(f"it cannot be read ({reason[0][:200]})") from None


def _checked(proof, network_path):
  header = json.loads(str(proof["proof"]))
  own = digest(proof)
  if header["version"] != 1 or own != header["digest"]:
    raise Refused("its network, or its version, is not what it was written for")
  if network_path is not None:
    with np.load(network_path, allow_pickle=False) as file:
      given = {digest({"0": file[name]}) for name in file.files}
    for name, array in proof.items():
      if name[0].isdigit() and digest({"0": array}) not in given:
        raise Refused(f"its array {name} is not in {network_path}")
  for name, array in proof.items():
    if name != "proof" and not np.all(np.isfinite(array)):
      raise Refused(f"{name} has numbers that are not finite")
  network = Network(header, proof)
  low, high = (np.asarray(proof[k], float)[None] for k in ("lower", "upper"))
  if not low[0].shape == high[0].shape == network.shapes[0] or (low > high).any():
    raise Refused("its box is empty, or of another shape than the input")
  rows, offsets = (proof[k].astype(float) for k in ("rows", "offsets"))
  groups, bounds, worst = proof["group"], network.bounds(low, high), -math.inf
  if not len(rows) or len(groups) != len(proof["decisions"]):
    raise Refused("its lists do not fit each other")
  largest = max(network.count, *map(math.prod, network.shapes))
  each = max(1, _AT_ONCE // (rows.shape[1] * largest))
  for group in range(len(rows)):
    which = np.flatnonzero(groups == group)
    if not covers(proof["decisions"][which].tolist()):
      raise Refused(f"the leaves of group {group} do not cover everything")
    for begin in range(0, len(which), each):
      some = which[begin : begin + each], rows[group], offsets[group]
      found = check_leaves(network, bounds, proof, *some, header["output"])
      if not found < 0:
        raise Refused(f"a leaf of group {group} has the bound {found:.3g}")
      worst = max(worst, found)
  return len(groups), worst, own


def main(arguments=None):
  """The command; returns the exit code: 0 if every proof holds."""
  parser = argparse.ArgumentParser("python -m diffai_jax.check")
  parser.add_argument("proofs", nargs="+")
  parser.add_argument("--network", help="the network's weights, an .npz file")
  given, failed = parser.parse_args(arguments), 0
  for path in given.proofs:
    try:
      said = "holds (%d leaves, largest bound %.4g, network %.16s)" % check(
          path, given.network
      )
    except Refused as reason:
      failed, said = 1, f"refused: {reason}"
    print(f"{path}: {said}")
  return failed


if __name__ == "__main__":
  sys.exit(main())
