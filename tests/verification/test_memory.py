"""Free memory against files of control groups, and peaks by hand."""

import jax
from jax import lax
import jax.numpy as jnp
import psutil

from diffai_jax.verification import memory


def test_the_budget_is_a_share_of_what_is_free():
  free = psutil.virtual_memory().available / jax.local_device_count()
  assert 1 <= memory.budget_mb() <= free / 2**20 * memory.SHARE * 1.2


def _group(folder, **files):
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in files.items():
    (folder / f"memory.{name}").write_text(str(text))


def test_limits_of_both_versions_count(tmp_path):
  """Of every group above; what has no limit says nothing."""
  _group(tmp_path / "a", max=1000, current=600, stat="inactive_file 50\nx 1")
  _group(tmp_path / "a" / "b", max="max", current=10)
  _group(
      tmp_path / "memory" / "c", limit_in_bytes=500, usage_in_bytes=200,
      stat="total_inactive_file 7",
  )
  groups = tmp_path / "cgroup"
  groups.write_text("3:cpu:/z\n4:hugetlb,memory:/c\n0::/a/b\n")
  found = memory._left_in_groups(str(groups), str(tmp_path))
  assert sorted(found) == [307, 450]
  assert not memory._left_in_groups(str(tmp_path / "none"), str(tmp_path))


def test_a_small_group_makes_the_budget_small(monkeypatch):
  monkeypatch.setattr(memory, "_left_in_groups", lambda: [2**26])
  devices = jax.local_device_count()
  assert memory.budget_mb() == max(1, int(64 * memory.SHARE / devices))


def test_a_device_that_counts_its_memory_is_asked(monkeypatch):
  class Device:

    def memory_stats(self):
      return {"bytes_limit": 2**30, "bytes_in_use": 2**29}

  monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device()])
  assert memory.budget_mb() == 512 * memory.SHARE


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
