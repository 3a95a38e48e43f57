"""Any JAX function becomes a graph: plain Flax layers, primitives, errors."""

import drawn_weights
from flax import linen as nn
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import plain_search
import pytest
from test_graph import SHAPES, images, network_of

from diffai_jax.graph import from_jax, record, split
from diffai_jax.types import UsageError

_DRAWN = np.random.default_rng(7)


def drawn(*shape):
  return _DRAWN.normal(size=shape)


def _convolutions():
  for strides in (1, 2, (1, 3)):
    for padding in ("SAME", "VALID", "CIRCULAR", ((2, 0), (1, 3))):
      yield f"conv {strides} {padding}", nn.Conv(
          4, (3, 2), strides=strides, padding=padding
      )
  for strides in ((1, 1), (2, 2), (3, 2)):
    for padding in ("SAME", "VALID", "CIRCULAR"):
      yield f"conv transposed {strides} {padding}", nn.ConvTranspose(
          4, (2, 3), strides=strides, padding=padding
      )
  for window, strides, padding in (
      ((2, 2), (2, 2), "VALID"), ((2, 3), (2, 1), "SAME"),
      ((3, 2), (1, 2), ((1, 0), (0, 1))),
  ):
    options = dict(window_shape=window, strides=strides, padding=padding)
    yield f"max {options}", lambda x, o=options: nn.max_pool(x, **o)
    yield f"mean {options}", lambda x, o=options: nn.avg_pool(x, **o)
    yield f"mean of inputs {options}", lambda x, o=options: nn.avg_pool(
        x, count_include_pad=False, **o
    )


def conv_of_one(kernel):
  """A convolution of one example [C, H, W], as Equinox has them."""
  return lambda x: jax.lax.conv_general_dilated(
      x[None], kernel.astype(x.dtype), (1, 1), [(1, 1), (1, 1)]
  )[0]


def _images():
  yield from _convolutions()
  kernel, weights = drawn(3, 4, 3, 3), drawn(4, 3)
  yield "batch norm", nn.BatchNorm(use_running_average=True)
  yield "group norm", nn.GroupNorm(2)
  yield "layer norm", nn.LayerNorm()
  yield "instance norm", nn.InstanceNorm()
  yield "dilated in groups", nn.Conv(
      4, (3, 3), kernel_dilation=2, feature_group_count=2
  )
  yield "input dilated", nn.Conv(
      4, (3, 3), padding=[(1, 2), (3, 0)], input_dilation=2
  )
  yield "input dilated, strides", nn.Conv(
      4, (3, 3), strides=2, padding=[(1, 2), (3, 0)], input_dilation=2
  )
  yield "transposed, dilated", nn.ConvTranspose(
      4, (3, 3), strides=(2, 2), kernel_dilation=(2, 2)
  )
  yield "conv mapped", lambda x: jax.vmap(conv_of_one(kernel))(
      x.transpose(0, 3, 1, 2)
  )
  yield "dense general", nn.DenseGeneral((2, 3), axis=(1, 3))
  yield "resize", lambda x: jax.image.resize(
      x, (x.shape[0], 8, 9, 4), "bilinear"
  )
  yield "pads", lambda x: jnp.pad(
      x, ((0, 0), (1, 2), (0, 1), (0, 0)), mode="reflect"
  ) + jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=2.0)
  rows = drawn(5, 2)
  yield "einsum", lambda x: jnp.einsum("bhwc,cd,hk->bdwk", x, weights, rows)
  yield "rows and columns", lambda x: x[:, 1:4, ::2, ::-1][:, :, 0]
  yield "take", lambda x: jnp.take(x, jnp.array([3, 0, 0]), axis=2)
  yield "pairs", lambda x: x[:, jnp.array([0, 1]), jnp.array([2, 0])]
  yield "rotated", lambda x: jnp.roll(jnp.rot90(x, axes=(1, 2)), 1, 1)
  yield "reduced", lambda x: x.sum(1) + x.max(1) - x.min(1) + x.mean((1, 2))[
      :, None] + x.cumsum(2)[:, 0]
  yield "stacked", lambda x: jnp.stack([x, 2 * x, jnp.ones_like(x)], 2)
  yield "repeated", lambda x: jnp.tile(x, (1, 2, 1, 1)) + jnp.repeat(x, 2, 1)


def _vectors():
  weights, other = drawn(6, 4), drawn(4, 6)
  per_head = drawn(2, 3, 4)
  yield "dense", nn.Dense(5)
  yield "sequential", nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(2)])
  yield "dropout", nn.Sequential([
      nn.Dense(4), nn.Dropout(0.5, deterministic=True)
  ])
  yield "normed weights", nn.WeightNorm(nn.Dense(4))
  yield "layer norm", nn.LayerNorm(use_fast_variance=False)
  yield "root mean square norm", nn.RMSNorm()
  yield "learned slope", nn.PReLU()
  yield "mapped", jax.vmap(lambda x: other @ x + other[:, 0])
  yield "mapped twice", lambda x: jax.vmap(jax.vmap(
      lambda r: weights[:2].T @ jnp.tanh(r), in_axes=1, out_axes=1
  ))(x.reshape(-1, 2, 3))
  yield "checkpoint", jax.checkpoint(lambda x: jnp.tanh(x @ weights))
  yield "heads", lambda x: jnp.einsum(
      "bhc,hck->bkh", x.reshape(-1, 2, 3), per_head
  )
  yield "products", lambda x: jnp.einsum(
      "bij,bkj->bik", x.reshape(-1, 3, 2), x.reshape(-1, 3, 2)[:, :2]
  )
  yield "mask", lambda x: jnp.where(jnp.arange(6) % 2 == 0, x, 3.0)
  yield "where of ones", lambda x: jnp.where(jnp.ones_like(x) > 0, x, 2.0)
  yield "concatenated", lambda x: jnp.concatenate(
      [x, jnp.ones((x.shape[0], 2)), 2 * x], -1
  )
  yield "slice at an index", lambda x: jax.lax.dynamic_slice(
      x, (0, 1), (x.shape[0], 3)
  )
  yield "branch", lambda x: jax.lax.cond(
      True, lambda x: 2 * x, lambda x: x, x
  )
  yield "upper triangle", lambda x: jnp.triu(x.reshape(-1, 2, 3))
  yield "limits", lambda x: jnp.minimum(jnp.maximum(x, other[0]), 0.5)
  yield "roots", lambda x: jnp.sqrt(x * x + 1) / (1 + jnp.exp2(x)) + 1 / (
      1 + x * x
  ) + jnp.log(1 + x * x) + jnp.expm1(x)


def _words():
  yield "attention", nn.MultiHeadDotProductAttention(
      num_heads=2, qkv_features=4
  )
  yield "conv", nn.Conv(4, (3,), strides=2)
  yield "causal conv", nn.Conv(4, (3,), padding="CAUSAL")
  yield "transposed conv", nn.ConvTranspose(4, (2,), strides=(2,))
  yield "mean", lambda x: nn.avg_pool(x, (2,), (2,))


GROUPS = {
    "images": ((5, 6, 4), dict(_images())),
    "vectors": ((6,), dict(_vectors())),
    "words": ((5, 4), dict(_words())),
}


def functions_of(group, dtype):
  """The functions of a group by name, with drawn weights, and an input."""
  shape, kinds = GROUPS[group]
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, *shape)), dtype)
  rng = np.random.default_rng(1)

  def of(kind):
    if not isinstance(kind, nn.Module):
      return kind
    like = jax.eval_shape(kind.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.2, 1, leaf.shape), dtype),
        like,
    )
    return lambda x: kind.apply(variables, x)

  return {name: of(kind) for name, kind in kinds.items()}, x


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_layers_and_primitives(group, wide, request):
  if wide:
    request.getfixturevalue("float64")
  functions, x = functions_of(group, jnp.float64 if wide else jnp.float32)
  graphs = {n: from_jax(f, x.shape[1:], x.dtype) for n, f in functions.items()}
  both = jax.jit(lambda x: {n: (f(x), graphs[n](x))
                            for n, f in functions.items()})(x)
  tolerance = 1e-9 if wide else 1e-5
  for name, (expected, found) in both.items():
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance, err_msg=name
    )
    assert graphs[name].output_shape == expected.shape[1:], name


class Block(nn.Module):

  @nn.compact
  def __call__(self, x):
    y = nn.Conv(4, (3, 3), strides=2)(x)
    y = nn.relu(nn.BatchNorm(use_running_average=True)(y))
    return y + nn.Conv(4, (1, 1), strides=2)(x)


class Plain(nn.Module):

  @nn.compact
  def __call__(self, x):
    x = Block(name="second")(Block()(x))
    head = nn.Dense(4)
    x = nn.gelu(head(x.reshape(x.shape[0], -1)))
    return head(x)[:, jnp.array([0, 2])]


def plain():
  x = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype(np.float32)
  network = Plain()
  return network, drawn_weights.variables(network, x.shape[1:]), x


def test_calls_bear_the_paths_of_flax():
  network, variables, x = plain()
  graph = from_jax(lambda x: network.apply(variables, x), (4, 4, 3))
  named = {call.name: call.transformer for call in graph.calls}
  assert named == {
      "Block_0/Conv_0": "conv", "Block_0/BatchNorm_0": "scale_shift",
      "Block_0/Conv_1": "conv", "Block_0": "add", "second/Conv_0": "conv",
      "second/BatchNorm_0": "scale_shift", "second/Conv_1": "conv",
      "second": "add", "Dense_0": "dense", "Dense_0#2": "dense",
      "": "slice_axes",
  }
  first, second = split(graph, "Block_0")
  assert first.output_shape == (2, 2, 4)
  parts, whole = jax.jit(lambda x: (second(first(x)), graph(x)))(x)
  np.testing.assert_allclose(parts, whole, rtol=1e-6)


def test_weights_may_be_traced_and_have_gradients():
  network, variables, x = plain()

  @jax.jit
  def gradients(variables, x):
    loss = lambda run: lambda variables: jnp.sum(run(variables) ** 2)
    by_graph = lambda v: from_jax(lambda x: network.apply(v, x), (4, 4, 3))(x)
    return (jax.grad(loss(by_graph))(variables),
            jax.grad(loss(lambda v: network.apply(v, x)))(variables))

  found, expected = gradients(variables, x)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      found, expected,
  )


def test_what_is_broadcast_to_the_batch_may_be_traced():
  wide = lambda b: lambda x: x + jnp.broadcast_to(b, x.shape) * jnp.ones_like(x)
  run = jax.jit(lambda b, x: from_jax(wide(b), (2,))(x))
  b, x = jnp.array([1.0, 2.0]), jnp.ones((3, 2))
  np.testing.assert_array_equal(run(b, x), wide(b)(x))


def test_nnx_modules_are_functions():

  class Network(nnx.Module):

    def __init__(self, rngs):
      self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
      self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
      self.dropout = nnx.Dropout(0.5, deterministic=True)
      self.head = nnx.Linear(64, 2, rngs=rngs)

    def __call__(self, x):
      x = self.dropout(nnx.relu(self.norm(self.conv(x))))
      return self.head(x.reshape(x.shape[0], -1))

  network, x = Network(nnx.Rngs(0)), np.ones((2, 4, 4, 3), np.float32)
  graph = from_jax(network, (4, 4, 3))
  found, expected = jax.jit(lambda x: (graph(x), network(x)))(x)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_outputs_and_what_is_not_needed():
  graph = from_jax(lambda x: {"a": 2 * x, "b": (x, jnp.sort(x))[:1]}, (2,))
  x = jnp.ones((1, 2))
  for found, factor in zip(graph(x), (2, 1), strict=True):
    np.testing.assert_array_equal(found, factor * x)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_networks_of_the_paper(name):
  network, variables, shape = network_of(name)
  run = lambda x: network.apply(variables, x)
  x = images(shape).astype(np.float32)
  found, recorded, expected = map(np.asarray, jax.jit(lambda x: (
      from_jax(run, shape)(x), record(run, shape)(x), run(x)
  ))(x))
  for other in (found, recorded):
    difference = np.abs(other - expected).max() / np.abs(expected).max()
    assert difference < 1e-5


@pytest.mark.parametrize("seed", [1, 3, 20, 25])
def test_random_plain_networks_are_read_and_bounded(seed):
  found = plain_search.search(seed, 400)
  assert found.sound, found
  assert min(found.finite.values()) == 1


class Sines(nn.Module):

  @nn.compact
  def __call__(self, x):
    return jnp.sin(x)


class Inner(nn.Module):

  @nn.compact
  def __call__(self, x):
    return Sines()(2 * x)


@pytest.mark.parametrize("function,words", [
    (lambda x: Inner().apply({}, x), ("'sin'", "Sines_0", "test_from_jax.py:")),
    (lambda x: x - x.mean(0), ("'reduce_sum'", "batch")),
    (lambda x: x.reshape(-1), ("batch", "first axis")),
    (lambda x: x.reshape(-1) + 1, ("'add'", "batch")),
    (lambda x: x @ x.T, ("'dot_general'", "others")),
    (lambda x: x[0], ("'slice'", "batch")),
    (lambda x: x[::-1], ("'rev'", "between examples")),
    (lambda x: jnp.concatenate([x, x]), ("'concatenate'", "batch")),
    (lambda x: x + jnp.arange(x.shape[0])[:, None], ("'add'", "differ")),
    (lambda x: jax.nn.softmax(x, 0), ("'reduce_max'", "batch")),
    (lambda x: jnp.where(x > 0, 1.0, 0.0), ("'select_n'", "continuous")),
    (lambda x: jnp.where(x > 0, x, x + 1), ("'select_n'", "continuous")),
    (lambda x: (x > 0).astype(float), ("'convert_element_type'", "comparison")),
    (lambda x: x.astype(jnp.float16), ("float16", "float32")),
    (lambda x: x.astype(int), ("int32", "floats")),
    (lambda x: jnp.argmax(x, -1), ("'argmax'",)),
    (lambda x: jnp.sign(x), ("'sign'",)),
    (lambda x: jnp.sort(x), ("'sort'",)),
    (lambda x: jnp.ones(3), ("constant",)),
    (lambda x: x > 0, ("comparison",)),
    (lambda x: x.T, ("axis 1", "first")),
    (lambda x: x if x.sum() > 0 else -x, ("`if`",)),
])
def test_what_cannot_be_read_is_named_in_one_line(function, words):
  with pytest.raises(UsageError) as caught:
    from_jax(function, (2,))
  message = str(caught.value)
  assert "\n" not in message
  for word in words:
    assert word in message


def test_an_axis_of_the_batch_s_size_by_chance():
  weights = np.random.default_rng(0).normal(size=(2, 211)).astype(np.float32)
  run = lambda x: jnp.tanh(x @ weights).reshape(-1, 211) @ weights.T
  graph, x = from_jax(run, (2,)), np.ones((3, 2), np.float32)
  found, expected = jax.jit(lambda x: (graph(x), run(x)))(x)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_inputs_are_floats():
  with pytest.raises(UsageError, match="int32.*floats"):
    from_jax(lambda x: x, (2,), jnp.int32)


def test_negative_padding_crops():
  # Compared with a cropped image: XLA's own answers are wrong on some CPUs.
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
  kernel = rng.normal(size=(2, 2, 4, 3)).astype(np.float32)
  conv = lambda x, padding: jax.lax.conv_general_dilated(
      x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  graph = from_jax(lambda x: conv(x, ((-1, 1), (0, -2))), (5, 6, 4))
  found, expected = jax.jit(lambda x: (
      graph(x), conv(x[:, 1:, :-2], ((0, 1), (0, 0)))
  ))(x)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
