"""The optimiser against updates written out in NumPy."""

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import optax
import pytest

from diffai_jax.training import optimizers
from diffai_jax.types import UsageError


def _tree(scale: float = 1.0, seed: int = 0) -> dict:
  random = np.random.default_rng(seed)
  return {
      "a": np.float32(scale) * random.normal(size=(3, 4)).astype(np.float32),
      "b": {"c": np.float32(scale) * random.normal(size=5).astype(np.float32)},
  }


def _flat(tree) -> np.ndarray:
  """All leaves as one float64 vector."""
  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def _config(**values) -> config_dict.ConfigDict:
  return config_dict.ConfigDict({
      "name": "sgd", "learning_rate": 0.1, "milestones": (), "decay": 0.1,
      "momentum": 0.9, "l2": 0.0, "clip_norm": 1.0,
  } | values)


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e10, 1e25, 1e37])
def test_global_norm_of_any_size(scale):
  """The norm is NumPy's in float64, also where squares would overflow."""
  tree = _tree(scale)
  norm = jax.jit(optimizers.global_norm)(tree)
  np.testing.assert_allclose(norm, np.linalg.norm(_flat(tree)), rtol=1e-6)


def test_global_norm_of_zeros_is_zero():
  """No division by the largest entry when that is 0."""
  assert optimizers.global_norm({"a": jnp.zeros(3)}) == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_global_norm_shows_what_is_not_finite(value):
  """One bad entry makes the norm not finite: that is how it is noticed."""
  tree = {"a": jnp.ones(3), "b": jnp.array([1.0, value])}
  assert not np.isfinite(optimizers.global_norm(tree))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e10, 1e25, 2e37, 1e38])
def test_clipped_updates_keep_their_direction(scale):
  """Updates beyond the bound come out with exactly that norm, as they lay."""
  tree = _tree(scale)
  transform = optimizers.clip_by_norm(0.5)
  clipped, _ = jax.jit(transform.update)(tree, transform.init(tree))
  norm = np.linalg.norm(_flat(tree))
  wanted = _flat(tree) * min(1, 0.5 / norm)
  np.testing.assert_allclose(_flat(clipped), wanted, rtol=1e-5)


def test_short_updates_pass_unchanged():
  """At or below the bound not a bit changes."""
  tree = _tree(1e-3)
  transform = optimizers.clip_by_norm(1.0)
  clipped, _ = transform.update(tree, transform.init(tree))
  jax.tree.map(np.testing.assert_array_equal, clipped, tree)


def test_clipping_hides_no_nan():
  """Updates that are NaN stay so, and are not replaced by something else."""
  transform = optimizers.clip_by_norm(1.0)
  clipped, _ = transform.update({"a": jnp.array([jnp.nan, 1.0])}, None)
  assert np.isnan(clipped["a"][0])


def test_learning_rate_falls_at_each_milestone():
  """The rate is initial·decay^(milestones reached), on the epochs' clock."""
  rate = optimizers.learning_rate(0.5, (2, 5), 0.1, lambda step: step / 10)
  for step in (0, 10, 19, 20, 21, 49, 50, 51, 1000):
    reached = sum(step / 10 >= milestone for milestone in (2, 5))
    np.testing.assert_allclose(
        rate(jnp.asarray(step)), 0.5 * 0.1**reached, rtol=1e-6
    )


def test_learning_rate_without_milestones_is_constant():
  """No milestone, no change."""
  rate = optimizers.learning_rate(0.5, (), 0.1, lambda step: step / 10)
  assert rate(0) == rate(10**6) == 0.5


def _run(config, epoch_of, weights, gradients) -> list[np.ndarray]:
  """Weights after each step of the optimiser under test."""
  optimizer = optimizers.create(config, epoch_of)
  weights = jax.tree.map(jnp.asarray, weights)
  state = optimizer.init(weights)
  update = jax.jit(optimizer.update)
  found = []
  for gradient in gradients:
    change, state = update(gradient, state, weights)
    weights = jax.tree.map(jnp.add, weights, change)
    found.append(_flat(weights))
  return found


def _clipped(gradient: np.ndarray, most: float) -> np.ndarray:
  return gradient * min(1, most / np.linalg.norm(gradient))


# Gradients short enough to pass, and long ones that are clipped.
_GRADIENTS = [_tree(scale, seed) for seed, scale in enumerate(
    (1e-2, 3.0, 1e-2, 1e25, 0.05, 0.1), start=1
)]


def test_sgd_with_momentum_and_l2():
  """m ← μ·m + clip(g + l2·w); w ← w - rate·m, and the rate follows epochs.

  The L2 term is large enough that adding it after clipping would show.
  """
  config = _config(l2=0.3, clip_norm=0.7, milestones=(2,), decay=0.5)
  found = _run(config, lambda step: step / 2, _tree(), _GRADIENTS)

  weights = _flat(_tree())
  trace = np.zeros_like(weights)
  for step, gradient in enumerate(map(_flat, _GRADIENTS)):
    trace = 0.9 * trace + _clipped(gradient + 0.3 * weights, 0.7)
    weights = weights - (0.1 if step < 4 else 0.05) * trace
    np.testing.assert_allclose(found[step], weights, rtol=2e-5, atol=1e-6)


def test_adam_with_l2():
  """Kingma & Ba's algorithm 1 on clip(g + l2·w), β = (0.9, 0.999)."""
  config = _config(name="adam", l2=0.2, learning_rate=0.03)
  found = _run(config, lambda step: step, _tree(), _GRADIENTS)

  weights = _flat(_tree())
  first = second = np.zeros_like(weights)
  for step, gradient in enumerate(map(_flat, _GRADIENTS)):
    gradient = _clipped(gradient + 0.2 * weights, 1.0)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    mean = first / (1 - 0.9 ** (step + 1))
    square = second / (1 - 0.999 ** (step + 1))
    weights = weights - 0.03 * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(found[step], weights, rtol=2e-4, atol=2e-5)


def test_the_step_counts_from_zero():
  """A milestone at epoch 0 already acts on the first step."""
  config = _config(milestones=(0,), decay=0.5, momentum=0.0, clip_norm=1e9)
  gradient = _tree(1.0, seed=3)
  found, = _run(config, lambda step: step, _tree(), [gradient])
  wanted = _flat(_tree()) - 0.05 * _flat(gradient)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_unknown_optimizer_is_named():
  """The error says what was meant."""
  with pytest.raises(UsageError, match="'adamm'.*did you mean 'adam'"):
    optimizers.create(_config(name="adamm"), lambda step: step)


def test_every_number_may_be_a_schedule():
  """Rate, momentum, L2 and clipping each at its own epoch; milestones too."""
  config = _config(
      learning_rate="0.1 * Lin(1, 0.2, 2)", momentum="Lin(0.5, 0.9, 1, 1)",
      l2="Until(2, 0.3, 0)", clip_norm="Lin(0.7, 0.1, 3)", milestones=(2,),
      decay=0.5,
  )
  found = _run(config, lambda step: step / 2, _tree(), _GRADIENTS)

  weights = _flat(_tree())
  trace = np.zeros_like(weights)
  for step, gradient in enumerate(map(_flat, _GRADIENTS)):
    epoch = step / 2
    rate = 0.1 * np.interp(epoch, [0, 2], [1, 0.2]) * (0.5 if epoch >= 2 else 1)
    momentum = np.interp(epoch, [1, 2], [0.5, 0.9])
    gradient = gradient + (0.3 if epoch < 2 else 0) * weights
    most = np.interp(epoch, [0, 3], [0.7, 0.1])
    trace = momentum * trace + _clipped(gradient, most)
    weights = weights - rate * trace
    np.testing.assert_allclose(found[step], weights, rtol=2e-5, atol=1e-6)


def test_a_number_as_text_is_that_number():
  numbers = _config(l2=0.25, momentum=0.5)
  texts = _config(l2="1/4", momentum="0.5", learning_rate="0.2/2")
  for one, two in zip(*(
      _run(config, lambda step: step, _tree(), _GRADIENTS)
      for config in (numbers, texts)
  )):
    np.testing.assert_array_equal(one, two)
  one, two = (
      jax.tree.structure(optimizers.create(c, lambda s: s).init(_tree()))
      for c in (numbers, texts)
  )
  assert one == two


@pytest.mark.parametrize("name, descend", [
    ("sgd", optax.sgd(lambda step: 0.1, momentum=0.9)),
    ("adam", optax.adam(lambda step: 0.1)),
])
def test_numbers_keep_the_plain_state(name, descend):
  """That of optax's own parts: checkpoints do not depend on the rate's text."""
  plain = optax.chain(
      optax.add_decayed_weights(0.0), optax.clip_by_global_norm(1.0), descend
  ).init(_tree())
  for changes in (
      {}, {"l2": 0.5, "clip_norm": 3, "momentum": 0.5}, {"milestones": (2,)},
      {"learning_rate": "Lin(1, 0, 5)"}, {"l2": "1/2"},
  ):
    state = optimizers.create(
        _config(name=name, **changes), lambda step: step
    ).init(_tree())
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    jax.tree.map(np.testing.assert_array_equal, state, plain)


def test_adam_follows_schedules_too():
  """Its learning rate falls to 0 within the six steps."""
  config = _config(name="adam", learning_rate="Lin(0.03, 0, 2)", l2="0.2")
  found = _run(config, lambda step: step / 2, _tree(), _GRADIENTS)

  weights = _flat(_tree())
  first = second = np.zeros_like(weights)
  for step, gradient in enumerate(map(_flat, _GRADIENTS)):
    gradient = _clipped(gradient + 0.2 * weights, 1.0)
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    mean = first / (1 - 0.9 ** (step + 1))
    square = second / (1 - 0.999 ** (step + 1))
    rate = np.interp(step / 2, [0, 2], [0.03, 0])
    weights = weights - rate * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(found[step], weights, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "key", ["learning_rate", "momentum", "l2", "clip_norm"]
)
def test_texts_that_are_no_schedules_are_refused(key):
  with pytest.raises(UsageError, match="did you mean Lin") as caught:
    optimizers.create(_config(**{key: "Linn(0, 1, 5)"}), lambda step: step)
  assert len(str(caught.value).splitlines()) == 1
