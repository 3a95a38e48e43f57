"""Sealed results: every bit that changes is noticed."""

import json

import numpy as np
import pytest

from diffai_jax.storage import sealed

_VALUE = {"epsilon": 0.1, "name": "é", "counts": [1, 2], "none": None}
_ARRAYS = {"a": np.arange(3), "b/c": np.float32([[0.5, np.nan]])}


def _write(folder):
  sealed.write(str(folder), "r.json", _VALUE, {"r.npz": _ARRAYS})
  return str(folder / "r.json")


def _read(path):
  value = sealed.read(path, "make it again")
  return value, sealed.arrays(path, value, "r.npz", "make it again")


def test_what_is_written_is_read(tmp_path):
  value, arrays = _read(_write(tmp_path))
  assert value.items() >= _VALUE.items()
  assert set(arrays) == set(_ARRAYS)
  for name, array in _ARRAYS.items():
    assert arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(arrays[name], array)
  assert {p.name for p in tmp_path.iterdir()} == {"r.json", "r.npz"}


def test_no_file_is_no_damage(tmp_path):
  assert sealed.read(str(tmp_path / "r.json"), "") is None


@pytest.mark.parametrize("name", ["r.json", "r.npz"])
def test_every_flipped_bit_is_noticed_or_says_the_same(tmp_path, name):
  """Of the archive each; of the JSON those of its layout may differ."""
  path = _write(tmp_path)
  wanted, _ = _read(path)
  file = tmp_path / name
  content = file.read_bytes()
  silent = 0
  for bit in range(len(content) * 8):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    try:
      assert sealed.read(path, "make it again") == wanted
      silent += 1
    except sealed.DamagedError as error:
      message = str(error)
      assert "\n" not in message and "make it again" in message
      assert name in message
  assert silent == 0 or name == "r.json" and silent < 10


@pytest.mark.parametrize("name", ["r.json", "r.npz"])
@pytest.mark.parametrize("damage", [
    "cut", "empty", "zeros", "bytes", "deep", "list", "other", "folder", "gone",
])
def test_damage_of_any_kind_is_one_line(tmp_path, name, damage):
  path = _write(tmp_path)
  file = tmp_path / name
  content = file.read_bytes()
  new = {
      "cut": content[:-7], "empty": b"", "zeros": bytes(len(content)),
      "bytes": b"\xff\xfe{}", "deep": b"[" * 100_000, "list": b"[1]",
      "other": json.dumps({"files": 3}).encode(),
  }
  file.unlink()
  if damage == "folder":
    file.mkdir()
  elif damage != "gone":
    file.write_bytes(new[damage])
  if (name, damage) == ("r.json", "gone"):
    assert sealed.read(path, "") is None
    return
  with pytest.raises(sealed.DamagedError) as caught:
    sealed.read(path, "make it again")
  assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_killed_between_its_files_there_is_no_mixture(tmp_path, monkeypatch):
  """The old JSON never vouches for a new archive."""
  path = _write(tmp_path)

  def killed(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(sealed.files, "write_json", killed)
  with pytest.raises(KeyboardInterrupt):
    sealed.write(
        str(tmp_path), "r.json", {"epsilon": 9}, {"r.npz": {"a": np.ones(1)}}
    )
  assert sealed.read(path, "") is None
