"""Free memory: what devices say, and files of control groups."""

import types

import jax
import psutil
import pytest

from diffai_jax.kernels import device_memory, platforms


def test_the_budget_is_a_share_of_what_is_free():
  free = psutil.virtual_memory().available / jax.device_count()
  most = free / 2**20 * platforms.CPU.memory_share * 1.2
  assert 1 <= device_memory.budget_mb() <= most


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
  found = device_memory._left_in_groups(str(groups), str(tmp_path))
  assert sorted(found) == [307, 450]
  none = str(tmp_path / "none")
  assert not device_memory._left_in_groups(none, str(tmp_path))


@pytest.mark.parametrize("devices", [1, 4])
def test_a_small_group_makes_the_budget_small(monkeypatch, devices):
  """Shared by the devices of all processes."""
  monkeypatch.setattr(device_memory, "_left_in_groups", lambda: [2**26])
  monkeypatch.setattr(device_memory.jax, "device_count", lambda: devices)
  share = platforms.CPU.memory_share
  assert device_memory.budget_mb() == int(64 * share / devices)


@pytest.mark.parametrize("in_use, left", [
    ((2**29,), 2**29), ((2**29, 2**29 + 2**28), 2**28), ((2**31,), 0),
])
def test_devices_that_count_their_memory_are_asked(monkeypatch, in_use, left):
  """The one that has the least left decides."""
  found = [
      types.SimpleNamespace(memory_stats=lambda used=used: {
          "bytes_limit": 2**30, "bytes_in_use": used
      })
      for used in in_use
  ]
  monkeypatch.setattr(device_memory.jax, "local_devices", lambda: found)
  monkeypatch.setattr(device_memory.jax, "default_backend", lambda: "gpu")
  assert device_memory.free_bytes() == left
  share = platforms.GPU.memory_share
  assert device_memory.budget_mb() == max(1, int(left * share / 2**20))
