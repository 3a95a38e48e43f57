"""Peaks of programs, by hand."""

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.verification import memory


def test_peaks_are_those_of_values_that_are_needed_still():
  def chain(x):
    y = jnp.concatenate([x, x])  # 2 of x's size; x is an input.
    z = y * 2.0  # 4 in all.
    return z[:1] + 1.0  # y is gone.

  x = jnp.zeros(1000)
  peak = memory.peak(jax.make_jaxpr(chain)(x).jaxpr)
  assert peak == 4 * 4000


def test_peaks_look_into_loops_and_keys():
  def loop(x):
    key = jax.random.key(0)
    body = lambda i, v: jnp.sum(jnp.outer(v, v), axis=0)
    return lax.fori_loop(0, 3, body, x) + jax.random.uniform(key)

  x = jnp.zeros(100)
  assert memory.peak(jax.make_jaxpr(loop)(x).jaxpr) >= 4 * 100 * 100
