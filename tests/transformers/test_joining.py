"""Two paths that meet: symbols are known by name, whatever their structure."""

import dataclasses

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Dense, Diagonal, HybridZonotope, Product
from diffai_jax.domains.generators import Local

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)


convolve = jax.jit(transformers.conv, static_argnames="padding")


def structured(rng, kind):
  """Elements of 40 symbols named "s", in every structure a block can have."""
  center = rng.normal(size=(3, *SHAPE))
  radius = np.abs(rng.normal(size=(3, *SHAPE)))
  block = Diagonal(rng.normal(size=(3, *SHAPE)))
  if kind == "dense":
    block = Dense(rng.normal(size=(3, 40, *SHAPE)))
  element = HybridZonotope(center, radius, {"s": block})
  if kind.startswith("window"):
    size = int(kind[-1])
    kernel = rng.normal(size=(size, size, 2, 2))
    element = convolve(element, kernel, np.zeros(2), padding=size // 2)
    assert isinstance(element.correlated["s"], Local)
  return element


KINDS = ("diagonal", "dense", "window1", "window3")
JOINS = {
    "add": (lambda x, y: transformers.add(x, y), np.add),
    "subtract": (lambda x, y: transformers.subtract(x, y), np.subtract),
    "concat": (lambda x, y: transformers.concat([x, y]),
               lambda x, y: np.concatenate([x, y], axis=-1)),
    "stack": (lambda x, y: transformers.concat([x, y], axis=0),
              lambda x, y: np.concatenate([x, y], axis=1)),
}


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_symbols_of_one_name_are_the_same(first, second, join):
  rng = np.random.default_rng(0)
  x, y = structured(rng, first), structured(rng, second)
  y = dataclasses.replace(
      y, correlated=y.correlated | {"own": Diagonal(np.ones((3, *SHAPE)))}
  )
  transform, concrete = JOINS[join]
  result = transform(x, y)
  assert set(result.correlated) == {"s", "own"}
  one = elements.draw_many(rng, x, 10)
  other = elements.draw_many(rng, y, 10) | {"s": one["s"]}
  images = concrete(*(
      elements.points_of(*pair).reshape(-1, *SHAPE)
      for pair in ((x, one), (y, other))
  ))
  elements.assert_covers_all(
      result, {"s": one["s"], "own": other["own"]},
      images.reshape(10, 3, *images.shape[1:]),
  )
  np.testing.assert_allclose(  # Exact: sums of the coefficients, no more.
      elements.dense_numbers(result.correlated["s"]),
      concrete(*(
          np.moveaxis(elements.dense_numbers(e.correlated["s"]), 1, 0)
          .reshape((-1, *SHAPE)) for e in (x, y)
      )).reshape((40, 3) + result.center.shape[1:]).swapaxes(0, 1),
      atol=1e-12,
  )


def test_what_is_shared_cancels():
  x = structured(np.random.default_rng(1), "window3")
  x = dataclasses.replace(x, uncorrelated=None)
  radius, array = jax.jit(lambda x: (
      domains.radius(transformers.subtract(x, x)),
      transformers.subtract(x, x.center),
  ))(x)
  assert np.all(radius < 1e-12)
  np.testing.assert_allclose(array.center, 0, atol=1e-12)


def test_symbols_of_two_layers_stay_apart():
  """relu(x) - relu(-x) over [-1, 1] is x; DiffAI v3 said [0, 0]."""

  @jax.jit
  def bounds(center):
    x = transformers.to_zonotope(
        domains.correlated_box(center, 1.0, "s"), "none"
    )
    minus = transformers.scale_shift(x, -1.0, 0.0)
    result = transformers.subtract(
        transformers.relu(x, symbol="one"),
        transformers.relu(minus, symbol="two"),
    )
    return domains.lower(result), domains.upper(result)

  low, high = map(np.asarray, bounds(np.zeros((1, 1))))
  assert low[0, 0] <= -1 and high[0, 0] >= 1


@pytest.mark.parametrize("kind", elements.KINDS)
def test_gather(kind):
  rng = np.random.default_rng(2)
  element = elements.random_element(rng, SHAPE, kind)
  for axis, indices in ((-1, [1, 0, 1]), (0, [3, 1]), (1, [0, 2, 4])):
    result = jax.jit(lambda x: transformers.gather(x, indices, axis))(element)
    elements.assert_images_covered(
        rng, element, result,
        lambda x: x.take(indices, axis=axis % 3 + 1), 10
    )
  with pytest.raises(IndexError, match="of an axis of size 2"):
    transformers.gather(element, [2])


def test_products_meet_part_by_part():
  x, y = np.ones((2, 3)), domains.box(np.ones((2, 3)), 0.5)
  total, wide = jax.jit(lambda x, y: (
      transformers.add(Product((x, y)), Product((x, x))),
      transformers.concat([Product((x, y)), Product((x, y))]),
  ))(x, y)
  np.testing.assert_array_equal(total[0], 2)
  np.testing.assert_allclose(total[1].center, 2)
  assert wide[1].center.shape == (2, 6)
  with pytest.raises(ValueError, match="Products of as many parts"):
    transformers.add(Product((x, y)), x)


def test_what_cannot_meet_is_refused():
  x = domains.correlated_box(np.zeros((1, 3)), 1.0, "input")
  with pytest.raises(ValueError, match="met the shapes"):
    transformers.add(x, domains.point(np.zeros((1, 4))))
  with pytest.raises(ValueError, match="different rules"):
    transformers.add(x, dataclasses.replace(x, relu="deepz"))
  few = HybridZonotope(x.center, None, {"input": Dense(np.ones((1, 2, 3)))})
  with pytest.raises(ValueError, match=r"\[2, 3\] noise symbols"):
    transformers.add(x, few)
  with pytest.raises(TypeError, match="add has no rule for str"):
    transformers.add(x, "y")
  with pytest.raises(ValueError, match="at least one value"):
    transformers.concat([])


@pytest.mark.parametrize("act", [
    lambda x: transformers.concat([x, x], axis=3),
    lambda x: transformers.sum_axes(x, (5,)),
    lambda x: transformers.gather(x, [0], axis=-4),
])
def test_axes_that_do_not_exist_are_refused(act):
  for x in (np.zeros((2, 3, 3, 1)), domains.box(np.zeros((2, 3, 3, 1)), 0.1)):
    with pytest.raises(ValueError, match="is none of the 3 axes"):
      act(x)


def test_shapes_that_do_not_agree_are_refused():
  for make in (jnp.asarray, domains.point):
    values = [make(np.zeros((2, 3))), make(np.zeros((2, 3, 1)))]
    with pytest.raises(ValueError, match="concat met the shapes"):
      transformers.concat(values, axis=0)


def test_gather_takes_whole_numbers_only():
  with pytest.raises(IndexError, match="whole numbers, not bool"):
    transformers.gather(np.zeros((2, 3)), [True, False, True])


def test_gradients_through_concatenations_are_computed_once():
  """As many operations as layers, by the compiler's account, not as pairs."""

  def loss(params, x):
    for kernel, bias in params:
      narrow = jax.nn.relu(x) @ kernel + bias
      x = transformers.concat([x, narrow])
    return x.sum()

  widths = [8 + 4 * i for i in range(24)]
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float64)
  params = [(shape(width, 4), shape(4)) for width in widths]
  compiled = jax.jit(jax.grad(loss)).lower(params, shape(512, 8)).compile(
      {"xla_disable_hlo_passes": "cse_barrier_expander"}
  )
  products = 3 * 2 * 512 * 4 * sum(widths)
  assert compiled.cost_analysis()["flops"] < 1.5 * products
