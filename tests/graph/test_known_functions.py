"""Activations of JAX, however they are written, become the sharp transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.graph import from_jax

_HALF = np.sqrt(0.5)


def softmax_by_hand(x):
  return jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)


# One call each.
SHARP = {
    "abs": (jnp.abs, "absolute"),
    "abs by max": (lambda x: jnp.maximum(x, -x), "absolute"),
    "abs by where": (lambda x: jnp.where(x > 0, x, -x), "absolute"),
    "celu": (jax.nn.celu, "elu"),
    "clip": (lambda x: jnp.clip(x, -1, 1), "clip"),
    "elu": (jax.nn.elu, "elu"),
    "gelu by erf": (lambda x: jax.nn.gelu(x, approximate=False), "gelu"),
    "gelu by hand": (lambda x: 0.5 * x * (1 + jax.lax.erf(x * _HALF)), "gelu"),
    "gelu by tanh": (jax.nn.gelu, "gelu"),
    "gelu mapped": (jax.vmap(jax.nn.gelu), "gelu"),
    "hard_tanh": (jax.nn.hard_tanh, "clip"),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu"),
    "leaky_relu by max": (lambda x: jnp.maximum(x, 0.25 * x), "leaky_relu"),
    "leaky_relu of 0.2": (lambda x: jax.nn.leaky_relu(x, 0.2), "leaky_relu"),
    "relu": (jax.nn.relu, "relu"),
    "relu by max": (lambda x: jnp.maximum(0, x), "relu"),
    "relu by where": (lambda x: jnp.where(x < 0, 0, x), "relu"),
    "relu6": (jax.nn.relu6, "clip"),
    "selu": (jax.nn.selu, "selu"),
    "sigmoid": (jax.nn.sigmoid, "sigmoid"),
    "silu": (jax.nn.silu, "silu"),
    "silu by hand": (lambda x: jax.nn.sigmoid(x) * x, "silu"),
    "softmax": (jax.nn.softmax, "softmax"),
    "softmax by hand": (softmax_by_hand, "softmax"),
    "softmax mapped": (jax.vmap(jax.nn.softmax), "softmax"),
    "softplus": (jax.nn.softplus, "softplus"),
    "softplus by hand": (lambda x: jnp.log1p(jnp.exp(x)), "softplus"),
    "square": (lambda x: x * x, "square"),
    "tanh": (jnp.tanh, "tanh"),
}
# Several calls; the set has those that must be among them.
COMPOSED = {
    "elu of 0.5": (lambda x: jax.nn.elu(x, 0.5), {"elu", "relu"}),
    "elu of 2": (lambda x: jax.nn.elu(x, 2.0), {"elu", "relu"}),
    "celu of 0.5": (lambda x: jax.nn.celu(x, 0.5), {"elu"}),
    "glu": (jax.nn.glu, {"sigmoid", "multiply"}),
    "hard_sigmoid": (jax.nn.hard_sigmoid, {"clip"}),
    "hard_silu": (jax.nn.hard_silu, {"clip", "multiply"}),
    "leaky_relu of 2": (lambda x: jax.nn.leaky_relu(x, 2.0), {"relu"}),
    "leaky_relu of -1/2": (lambda x: jax.nn.leaky_relu(x, -0.5), {"relu"}),
    "log_sigmoid": (jax.nn.log_sigmoid, {"softplus"}),
    "log_softmax": (jax.nn.log_softmax, {"exp", "clip", "log"}),
    "logaddexp": (lambda x: jnp.logaddexp(x, x[:, ::-1]), {"softplus"}),
    "logsumexp": (lambda x: jax.nn.logsumexp(x, -1), {"clip", "log"}),
    "mish": (jax.nn.mish, {"softplus", "tanh", "multiply"}),
    "powers": (lambda x: x**3 + (x**2 + 1) ** -0.5 + 2.0**x, {"multiply"}),
    "sigmoid by hand": (lambda x: 1 / (1 + jnp.exp(-x)), {"sigmoid"}),
    "soft_sign": (jax.nn.soft_sign, {"reciprocal"}),
    "squareplus": (jax.nn.squareplus, {"sqrt"}),
    "swish of 1.7": (lambda x: x * jax.nn.sigmoid(1.7 * x), {"silu"}),
    "two slopes": (lambda x: jnp.where(x < 0.5, 2 * x, 3 * x - 0.5), {"relu"}),
}


@pytest.fixture(scope="module")
def runs():
  """(function of x, graph of x) by name, in one program."""
  x = np.random.default_rng(0).normal(scale=2, size=(5, 6)).astype(np.float32)
  functions = {n: f for n, (f, _) in (SHARP | COMPOSED).items()}
  graphs = {name: from_jax(f, (6,)) for name, f in functions.items()}
  both = jax.jit(lambda x: {n: (f(x), graphs[n](x))
                            for n, f in functions.items()})
  return graphs, both(x)


@pytest.mark.parametrize("name", sorted(SHARP | COMPOSED))
def test_a_known_function_is_found_and_equal(name, runs):
  graphs, values = runs
  calls = [call.transformer for call in graphs[name].calls]
  if name in SHARP:
    assert calls == [SHARP[name][1]]
  else:
    assert set(calls) >= COMPOSED[name][1]
  expected, found = values[name]
  np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def almost(scale):
  return lambda x: 0.5 * x * (1 + jax.lax.erf(x * scale))


@pytest.mark.parametrize("function,wrong", [
    (almost(0.7), "gelu"),
    (almost(-_HALF), "gelu"),
    (lambda x: x * (1 + 0.5 * jax.lax.erf(x * _HALF)), "gelu"),
    (lambda x: x * jax.nn.sigmoid(x + 1), "silu"),
    (lambda x: 0.5 * x * (1 + jnp.tanh(0.8 * (x + 0.05 * x**3))), "gelu"),
    (lambda x: jnp.log(2 + jnp.exp(x)), "softplus"),
    (lambda x: jnp.exp(x) / jnp.exp(2 * x).sum(-1, keepdims=True), "softmax"),
    (lambda x: jnp.exp(x) / jnp.exp(x[:, :2]).sum(-1)[:, None], "softmax"),
    (lambda x: jnp.maximum(x, 1.5 * x), "leaky_relu"),
    (lambda x: x / (2 + jnp.abs(x)), "subtract"),
    (lambda x: 1.06 * jax.nn.elu(x, 1.67), "selu"),
])
def test_what_is_nearly_a_known_function_is_itself(function, wrong):
  graph = from_jax(function, (3,))
  assert wrong not in [call.transformer for call in graph.calls]
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
  np.testing.assert_allclose(graph(x), function(x), rtol=1e-5, atol=1e-6)


def test_a_function_of_a_known_name_is_read_for_what_it_is():

  @jax.jit
  def relu(x):
    return x + 1

  @jax.jit
  def softmax(x):
    return 2 * x

  graph = from_jax(lambda x: softmax(relu(x)), (2,))
  assert {call.transformer for call in graph.calls} == {"scale_shift"}
  np.testing.assert_array_equal(graph(jnp.ones((1, 2))), 4)


def test_the_variance_of_a_norm_is_of_differences():
  norm = lambda x: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(
      jnp.maximum(0, (x * x).mean(-1) - x.mean(-1) ** 2)[:, None] + 1e-3
  )
  graph = from_jax(norm, (4,))
  calls = [call.transformer for call in graph.calls]
  # The difference is taken once, and what is squared is that.
  assert calls.count("subtract") == calls.count("square") == 1
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)), jnp.float32)
  np.testing.assert_allclose(graph(x), norm(x), rtol=1e-5, atol=1e-6)
