"""MI-FGSM against a NumPy run of its formula, one example at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import attacks
from diffai_jax.kernels import loops as kernel

pytestmark = pytest.mark.usefixtures("float64")
RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(6, 8)), RNG.normal(size=8)
OUT = RNG.normal(size=(8, 3))


def forward(x):
  return jnp.tanh(x @ WEIGHTS + BIAS) @ OUT


@functools.partial(jax.jit, static_argnames="steps")
def mi_fgsm(x, low, high, labels, **options):
  """The attack on `forward`."""
  return attacks.mi_fgsm(forward, x, low, high, labels, **options)


def numpy_logits_and_gradient(x, label):
  """Logits and gradient of the cross entropy at one point."""
  hidden = np.tanh(x @ WEIGHTS + BIAS)
  logits = hidden @ OUT
  softmax = np.exp(logits - logits.max())
  softmax /= softmax.sum()
  softmax[label] -= 1
  return logits, WEIGHTS @ ((OUT @ softmax) * (1 - hidden**2))


def numpy_attack(x, low, high, label, step_size, steps, momentum):
  direction = np.zeros_like(x)
  for _ in range(steps):
    logits, gradient = numpy_logits_and_gradient(x, label)
    if logits.argmax() != label:
      return x
    direction = momentum * direction + gradient / np.abs(gradient).sum()
    x = np.clip(x + step_size * np.sign(direction), low, high)
  return x


def cases(count=40, epsilon=0.3):
  x = RNG.uniform(0, 1, (count, 6))
  labels = (np.tanh(x @ WEIGHTS + BIAS) @ OUT).argmax(axis=1)
  low, high = np.clip(x - epsilon, 0, 1), np.clip(x + epsilon, 0, 1)
  return x, low, high, labels


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_equals_the_formula_example_by_example(momentum):
  x, low, high, labels = cases()
  found = np.asarray(mi_fgsm(
      x, low, high, labels, step_size=0.03, steps=20, momentum=momentum
  ))
  wrong = 0
  for i in range(len(x)):
    expected = numpy_attack(
        x[i], low[i], high[i], labels[i], 0.03, 20, momentum
    )
    np.testing.assert_allclose(found[i], expected, atol=1e-12)
    wrong += numpy_logits_and_gradient(expected, labels[i])[0].argmax() != (
        labels[i]
    )
  assert 0 < wrong < len(x)  # The cases show both outcomes.


def test_stays_in_the_region_and_keeps_what_is_misclassified_already():
  x, low, high, labels = cases()
  found = np.asarray(mi_fgsm(x, low, high, labels, step_size=0.5, steps=5))
  assert np.all(found >= low) and np.all(found <= high)
  wrong_labels = (labels + 1) % 3
  kept = mi_fgsm(x, low, high, wrong_labels, step_size=0.5, steps=5)
  np.testing.assert_array_equal(kept, x)


def test_examples_do_not_affect_each_other():
  x, low, high, labels = cases(count=8)
  options = {"step_size": 0.03, "steps": 10}
  together = np.asarray(mi_fgsm(x, low, high, labels, **options))
  for i in range(8):
    part = slice(i, i + 1)
    alone = mi_fgsm(x[part], low[part], high[part], labels[part], **options)
    np.testing.assert_allclose(alone, together[part], atol=1e-12)


def test_no_steps_and_no_gradient_leave_the_images():
  x, low, high, labels = cases(count=4)
  options = {"step_size": 0.03, "steps": 0}
  np.testing.assert_array_equal(
      mi_fgsm(x, low, high, labels, **options), x
  )

  @jax.jit
  def flat(x):
    return attacks.mi_fgsm(
        lambda v: jnp.zeros((len(v), 3)).at[:, 0].set(1.0) + 0 * v[:, :1],
        x, low, high, jnp.zeros(4, int), step_size=0.03, steps=3,
    )

  np.testing.assert_array_equal(flat(x), x)


@pytest.mark.parametrize("attack", ["mi_fgsm", "pgd"])
def test_steps_written_out_are_those_of_the_loop(monkeypatch, attack):
  """Few steps of a small network have no loop; a large one's do."""
  x, low, high, labels = cases()

  def run(x):
    if attack == "pgd":
      return attacks.pgd(
          forward, low, high, labels, steps=7, step_size=0.3, momentum=0.5
      )
    return attacks.mi_fgsm(
        forward, x, low, high, labels, step_size=0.03, steps=7
    )

  def result(loops):
    """Of a program that has so many loops."""
    program = jax.jit(lambda x: run(x)).lower(x)
    assert program.as_text().count("stablehlo.while") == loops
    return program.compile()(x)

  written_out = result(loops=0)
  monkeypatch.setattr(kernel, "_UNROLLED", 50)
  np.testing.assert_allclose(result(loops=1), written_out, atol=1e-12)
