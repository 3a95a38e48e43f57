"""Small ReLU networks, what they give in NumPy, and their maxima by a MILP."""

import numpy as np
import scipy.optimize

from diffai_jax import transformers
from diffai_jax.graph import Builder

SIZES = (4, 7, 6, 3)


def random_weights(seed, sizes=SIZES):
  """(kernel, bias) of dense layers, in float32."""
  rng = np.random.default_rng(seed)
  return [
      (rng.normal(size=(a, b)).astype(np.float32) * np.float32((2 / a) ** 0.5),
       rng.normal(size=b).astype(np.float32) / 2)
      for a, b in zip(sizes, sizes[1:])
  ]


def graph_of(weights):
  """Dense layers with ReLUs between them."""
  builder = Builder(weights[0][0].shape[:1], weights[0][0].dtype)
  x = builder.input
  for number, (kernel, bias) in enumerate(weights):
    x = transformers.relu(x) if number else x
    x = transformers.dense(x, kernel, bias)
  return builder.graph(x)


def run(weights, points):
  """Values [P, n] of all neurons that flow into ReLUs, and outputs [P, K]."""
  x, neurons = points, []
  for number, (kernel, bias) in enumerate(weights):
    x = np.maximum(x, 0) if number else x
    x = x @ kernel + bias
    neurons.append(x)
  return np.concatenate(neurons[:-1], axis=1), x


def largest(weights, low, high, row):
  """The largest ⟨row, f(x)⟩ in a box, with a binary variable for each ReLU."""
  l, u = low.astype(float), high.astype(float)
  inputs, count = np.arange(len(l)), len(l)
  rows, ends, lower, upper = [], [], list(l), list(u)
  for kernel, bias in weights[:-1]:
    kernel, bias = kernel.astype(float), bias.astype(float)
    above, below = np.maximum(kernel, 0), np.minimum(kernel, 0)
    l, u = l @ above + u @ below + bias, u @ above + l @ below + bias
    outputs = count + np.arange(kernel.shape[1])
    for n, (z, least, most) in enumerate(zip(outputs, l, u)):
      least, most, on = min(least, 0), max(most, 0), z + len(outputs)
      given = dict(zip(inputs, -kernel[:, n]))
      # z ≥ x, z ≤ x - l·(1 - on), z ≤ u·on.
      rows += [given | {z: 1}, given | {z: 1, on: -least}, {z: 1, on: -most}]
      ends += [(bias[n], np.inf), (-np.inf, bias[n] - least), (-np.inf, 0)]
    l, u = np.maximum(l, 0), np.maximum(u, 0)
    lower += [0] * 2 * len(outputs)
    upper += [*u, *np.ones(len(outputs))]
    inputs, count = outputs, count + 2 * len(outputs)
  matrix = np.zeros((len(rows), count))
  for line, terms in zip(matrix, rows):
    line[list(terms)] = list(terms.values())
  kernel, bias = (a.astype(float) for a in weights[-1])
  cost = np.zeros(count)
  cost[inputs] = -kernel @ row
  begin = len(low)
  whole = np.zeros(count)
  for kernel, _ in weights[:-1]:
    whole[begin + kernel.shape[1] : begin + 2 * kernel.shape[1]] = 1
    begin += 2 * kernel.shape[1]
  found = scipy.optimize.milp(
      cost, integrality=whole, bounds=scipy.optimize.Bounds(lower, upper),
      constraints=scipy.optimize.LinearConstraint(matrix, *np.array(ends).T),
      options={"mip_rel_gap": 1e-9},
  )
  return bias @ row - found.fun
