"""What runs where is decided when a program is lowered, for any platform."""

import functools
import re

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses
from diffai_jax.attacks import iterated
from diffai_jax.kernels import platforms, precision
from diffai_jax.kernels.images import convolve, convolve_transposed
from diffai_jax.kernels.matrices import (
    add_bias,
    apply_stacked,
    concatenate,
    sum_of_squares,
)
from diffai_jax.nn import Conv2D, Flatten, Linear, ReLU, Sequential
from diffai_jax.types import Mode

OTHERS = ("cuda", "rocm", "tpu")
NETWORK = Sequential((
    Conv2D(8, 4, stride=2), ReLU(), Conv2D(128, 3, padding=1), ReLU(),
    Conv2D(128, 3, padding=1), ReLU(), Conv2D(5, 1), ReLU(), Flatten(),
    Linear(3),
))
IMAGES = jax.ShapeDtypeStruct((2, 10, 10, 1), jnp.float32)
PARAMS = jax.eval_shape(
    lambda: NETWORK.init(jax.random.key(0), jnp.zeros((1, 10, 10, 1)))
)


def text_for(platform, function, *arguments):
  """The program that a function is exported as."""
  exported = export.export(jax.jit(function), platforms=(platform,))
  return exported(*arguments).mlir_module()


def run(params, images):
  return NETWORK.apply(params, domains.box(images, 0.1), Mode.CERTIFY)


def train(params, images):
  """What a training step differentiates: an attack, points and a box."""
  labels = jnp.zeros(len(images), int)

  def loss(params):
    fixed = jax.lax.stop_gradient(params)
    points = iterated.pgd(
        functools.partial(NETWORK.apply, fixed), images - 0.1, images + 0.1,
        labels, steps=2, step_size=0.5,
    )
    both = domains.Product((points, domains.box(images, 0.1)))
    points, box = NETWORK.apply(params, both, Mode.TRAIN).parts
    return sum(
        losses.cross_entropy(losses.margins(part, labels)).sum()
        for part in (points, box)
    )

  with precision.for_losses(True):
    gradient = jax.grad(loss)(params)
  return gradient, sum_of_squares(jax.tree.leaves(gradient))


@functools.cache
def programs(platform):
  return (
      text_for(platform, run, PARAMS, IMAGES),
      text_for(platform, train, PARAMS, IMAGES),
  )


def operations(text, name):
  return re.findall(rf"stablehlo\.{name}\b.*", text)


@pytest.mark.parametrize("platform", OTHERS)
def test_elsewhere_a_step_has_the_plain_forms(platform):
  """Convolutions of the library, sums as sums, loops as loops, no barrier."""
  _, step = programs(platform)
  assert not operations(step, "optimization_barrier")
  assert len(operations(step, "while")) == 1
  # Points and centers in one, radii, two for an attack's step; by the input
  # and by the kernel each, the attack's by the input alone; four layers.
  found = operations(step, "convolution")
  assert len(found) == 4 * (2 + 2 * 2 + 2) - 1 - 1
  # The dense layer alone multiplies matrices.
  assert len(operations(step, "dot_general")) < 10
  assert not any("x128xf32>, tensor<128" in line
                 for line in operations(step, "dot_general"))


@pytest.mark.parametrize("platform", OTHERS)
def test_elsewhere_bounds_are_products_of_matrices(platform):
  """No library's convolution, whose algorithm nobody knows."""
  bounds, _ = programs(platform)
  assert not operations(bounds, "optimization_barrier")
  assert not operations(bounds, "convolution")
  products = operations(bounds, "dot_general")
  assert products
  assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_cpus_have_their_forms():
  bounds, step = programs("cpu")
  assert operations(bounds, "convolution")
  assert operations(step, "optimization_barrier")
  assert not operations(step, "while")
  # Winograd's sixteen, for each gradient of one layer; points and bounds.
  _, plain = programs("cuda")
  more = [len(operations(t, "dot_general")) for t in (step, plain)]
  assert more[0] - more[1] >= 2 * 2 * 16


def test_a_program_for_two_platforms_has_both_forms():
  exported = export.export(jax.jit(run), platforms=("cpu", "cuda"))(
      PARAMS, IMAGES
  )
  text = exported.mlir_module()
  assert operations(text, "convolution") and operations(text, "case")
  params = jax.tree.map(lambda s: jnp.full(s.shape, 0.1, s.dtype), PARAMS)
  images = jnp.linspace(0, 1, 200).reshape(IMAGES.shape)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-6),
      exported.call(params, images), jax.jit(run)(params, images),
  )


def plainly(monkeypatch):
  """What is traced from now on has the forms of other platforms; runs here."""
  for name in ("images", "matrices", "loops"):
    monkeypatch.setattr(
        f"diffai_jax.kernels.{name}.on_cpu",
        lambda fast, plain, *operands: plain(*operands),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("for_losses", [False, True])
def test_both_forms_are_equal(monkeypatch, for_losses):
  """Values and gradients of all that has two, but for rounding."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))
  digits, x, kernel, own = (
      draw(2, 8, 8, 1), draw(2, 7, 6, 5), draw(3, 3, 5, 4), draw(4, 4, 1, 4)
  )

  def function(digits, x, kernel, own, bias):
    y = add_bias(convolve(x, kernel, 1, 1), bias)
    back = kernel[:, :, :4].transpose(0, 1, 3, 2)
    y, z = apply_stacked(lambda v: convolve_transposed(v, back, 2, 1), [y, -y])
    w = concatenate([convolve(digits, own, 2, 1), y[:, :4, :4]], -1)
    return sum_of_squares([jnp.sin(z), w, own])

  arguments = (digits, x, kernel, own, draw(4))
  gradients = jax.value_and_grad(function, range(5))
  with precision.for_losses(for_losses):
    found = jax.jit(gradients)(*arguments)
    plainly(monkeypatch)
    expected = jax.jit(lambda *a: gradients(*a))(*arguments)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11),
      found, expected,
  )


def chosen(x):
  return platforms.on_cpu(lambda x: 2 * x, lambda x: 3 * x, x)


@pytest.mark.parametrize("function", [
    chosen,
    jax.jit(chosen),
    jax.vmap(chosen),
    lambda x: jax.pmap(chosen)(x[None])[0],
    lambda x: jax.lax.scan(lambda _, v: (None, chosen(v)), None, x)[1],
    lambda x: jax.grad(lambda x: jnp.sum(chosen(x) * x))(x) / 2,
    lambda x: jax.jvp(chosen, (x,), (x,))[1],
    lambda x: jax.linear_transpose(chosen, x)(x)[0],
], ids=["eager", "jit", "vmap", "pmap", "scan", "grad", "jvp", "transpose"])
def test_forms_are_chosen_under_every_transformation(function):
  x = jnp.arange(1.0, 4.0)
  np.testing.assert_array_equal(function(x), 2 * x)


@pytest.mark.parametrize("backend, primitive", [
    ("cpu", "tanh"), ("gpu", "sin"), ("tpu", "sin"),
])
def test_of_two_forms_the_default_platform_s_is_looked_into(
    monkeypatch, backend, primitive
):
  monkeypatch.setattr(platforms.jax, "default_backend", lambda: backend)
  program = jax.make_jaxpr(
      lambda x: platforms.on_cpu(jnp.tanh, jnp.sin, x)
  )(1.0).jaxpr
  inside = [
      operation.primitive.name
      for switch in program.eqns
      for inner in platforms.inner_programs(switch)
      for operation in inner.eqns
  ]
  assert inside == [primitive]


def test_programs_of_loops_are_looked_into():
  program = jax.make_jaxpr(
      jax.jit(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x), x))
  )(1.0).jaxpr
  (loop,) = platforms.inner_programs(program.eqns[0])
  inside = [
      operation.primitive.name
      for inner in platforms.inner_programs(loop.eqns[0])
      for operation in inner.eqns
  ]
  assert "tanh" in inside


@pytest.mark.parametrize("backend, platform", [
    ("cpu", platforms.CPU), ("gpu", platforms.GPU), ("tpu", platforms.TPU),
    ("METAL", platforms.GPU),  # A device beside the CPU, like a GPU.
])
def test_each_platform_has_its_own(monkeypatch, backend, platform):
  monkeypatch.setattr(platforms.jax, "default_backend", lambda: backend)
  assert platforms.here() is platform
  assert platforms.platform_name() == backend


@pytest.mark.parametrize("backend, devices, queued", [
    ("cpu", 1, True), ("cpu", 2, False), ("gpu", 1, True), ("gpu", 8, True),
])
def test_only_several_cpus_wait_for_each_step(
    monkeypatch, backend, devices, queued
):
  """However many of them are this process's: all meet in sums."""
  monkeypatch.setattr(platforms.jax, "default_backend", lambda: backend)
  monkeypatch.setattr(platforms.jax, "device_count", lambda: devices)
  monkeypatch.setattr(platforms.jax, "local_device_count", lambda: 1)
  assert (platforms.queued_dispatches() > 0) == queued


def test_small_steps_go_together_where_a_dispatch_is_dear(monkeypatch):
  """Fewer the larger they are; a step that fills the device goes alone."""
  flops = (0, 1e9, 1e10, 1e11, 1e13)
  count = lambda n: platforms.steps_per_dispatch(lambda: n)
  assert list(map(count, flops)) == [1] * 5
  monkeypatch.setattr(platforms.jax, "default_backend", lambda: "gpu")
  counts = list(map(count, flops))
  assert counts == sorted(counts, reverse=True)
  assert counts[0] == platforms._MOST_STEPS and counts[-1] == 1
  # Together they take as long as one that fills it: 0.3 ms and 1 ms each.
  assert counts[2] == 8


@pytest.mark.parametrize("platform", [
    platforms.CPU, platforms.GPU, platforms.TPU,
])
def test_every_batch_has_a_size(platform):
  """Rising sizes, from the one image that has to fit."""
  assert platform.batches[0] == 1
  assert list(platform.batches) == sorted(set(platform.batches))
  assert 0 < platform.memory_share < 1
