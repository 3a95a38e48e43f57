"""The machine's arithmetic against float64: what is right, and planted faults.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import networks, nn
from diffai_jax.networks.as_graph import graph_of
from diffai_jax.verification import affine_check
from diffai_jax.transformers import affine
from diffai_jax.types import UsageError

SHAPE = (8, 9, 3)


def _network():
  """Every kind of affine layer, with strides, padding and many channels."""
  return nn.Sequential((
      nn.Normalize((0.5,) * 3, (0.25,) * 3),
      nn.Conv2D(5, 3, padding=1),
      nn.ConvTranspose2D(4, 3, stride=2, padding=1),
      nn.ReLU(),
      nn.Conv2D(7, 4, stride=2, padding=1),
      nn.Flatten(),
      nn.Linear(6),
  ))


def _params(network, dtype=np.float32):
  shape = (1, *SHAPE)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros(shape))["params"]
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda w: rng.normal(size=w.shape).astype(dtype), params)


@pytest.fixture(autouse=True)
def _compiled_anew():
  """What a test puts in the place of a product is not what is compiled."""
  affine_check._run.clear_cache()
  yield
  affine_check._run.clear_cache()


@pytest.fixture(scope="module")
def case():
  network = _network()
  return network, _params(network)


def _graph(network, params, shape, dtype=np.float32):
  return graph_of(network, {"params": params}, shape, dtype=dtype)


def _check(case, dtype=np.float32):
  affine_check.check(_graph(*case, SHAPE, dtype), dtype)


def test_this_machine_is_right(case):
  """No false alarm, with weights of any size and in a network that branches."""
  network, params = case
  _check(case)
  for scale in (1e-37, 1e36):
    _check((network, jax.tree.map(lambda w: w * np.float32(scale), params)))
  _check((network, jax.tree.map(lambda w: w * np.float32(np.nan), params)))
  tiny = networks.create("ResNet-Tiny", 10)
  x = jnp.zeros((1, 8, 8, 3))
  variables = jax.jit(tiny.init)(jax.random.key(0), x)
  affine_check.check(
      _graph(tiny, variables["params"], (8, 8, 3)), np.float32
  )


def test_float64_is_right(float64):
  network = _network()
  _check((network, _params(network, np.float64)), np.float64)


def _cut(x, bits):
  """x with so many bits of its fraction, as TF32 (10) and bfloat16 (7) have."""
  mask = np.int32(-1 << (23 - bits))
  return lax.bitcast_convert_type(
      lax.bitcast_convert_type(x, jnp.int32) & mask, jnp.float32
  )


@pytest.mark.parametrize("name", ["convolve", "convolve_transposed", "multiply"])
@pytest.mark.parametrize("bits", [10, 18])
def test_short_factors_are_found(case, monkeypatch, name, bits):
  """TF32, and factors that lack five bits; long sums do not hide them."""
  right = getattr(affine, name)
  monkeypatch.setattr(
      affine, name, lambda x, k, *rest: right(_cut(x, bits), _cut(k, bits), *rest)
  )
  with pytest.raises(UsageError, match="times the error that proofs allow"):
    _check(case)


def test_short_factors_are_found_in_sums_of_thousands(monkeypatch):
  """Of 4,608 products: the allowance of a dense sum alone would hide TF32."""
  network = nn.Sequential((nn.Conv2D(8, 3, padding=1),))
  shape = (4, 4, 512)
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)))
  right = affine.convolve
  affine_check.check(_graph(network, params["params"], shape), np.float32)
  monkeypatch.setattr(
      affine, "convolve",
      lambda x, k, *rest: right(_cut(x, 10), _cut(k, 10), *rest),
  )
  affine_check._run.clear_cache()
  with pytest.raises(UsageError, match="layers_0"):
    affine_check.check(_graph(network, params["params"], shape), np.float32)


def test_algorithms_that_mix_neighbours_are_found(case, monkeypatch):
  """A convolution by Fourier transforms: large pixels spoil small ones."""

  def by_fourier(x, kernel, stride, padding):
    x = jnp.pad(x, [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)])
    size = x.shape[1:3]
    spectrum = jnp.einsum(
        "bhwc,hwcf->bhwf", jnp.fft.rfft2(x, axes=(1, 2)),
        jnp.conj(jnp.fft.rfft2(kernel, size, axes=(0, 1))),
    )
    y = jnp.fft.irfft2(spectrum, size, axes=(1, 2))
    height, width = (n - k + 1 for n, k in zip(size, kernel.shape[:2]))
    return y[:, :height:stride, :width:stride]

  x = jnp.ones((1, 5, 5, 2))
  kernel = jnp.arange(36.0).reshape(3, 3, 2, 2)
  np.testing.assert_allclose(
      by_fourier(x, kernel, 2, 1), affine.convolve(x, kernel, 2, 1), rtol=1e-5
  )
  monkeypatch.setattr(affine, "convolve", by_fourier)
  with pytest.raises(UsageError, match="layers_1"):
    _check(case)


def test_one_wrong_output_is_found(case, monkeypatch):
  """The last pixel alone."""
  right = affine.convolve
  monkeypatch.setattr(
      affine, "convolve",
      lambda *args: right(*args).at[:, -1, -1].multiply(1 + 1e-5),
  )
  with pytest.raises(UsageError, match="layers_1"):
    _check(case)
