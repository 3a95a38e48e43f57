"""Blocks of results: what was whole comes back, and nothing else."""

import numpy as np
import pytest

from diffai_jax.storage.journal import Journal

_POINTS = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 7


def _filled(path, identity="this"):
  journal = Journal(str(path), identity)
  margin = np.float32([0.1, -np.inf])
  journal.append("Box", 2, [0, 1], {"margin": margin}, 0.5)
  journal.append("attack", 5, [3, 7], {"point": _POINTS}, 1.0)
  journal.append("Box", 2, [4, 9], {"margin": margin * 2}, 0.25)
  journal.close()


def test_blocks_come_back(tmp_path):
  path = tmp_path / "blocks"
  _filled(path)
  journal = Journal(str(path), "this")
  found = journal.found("Box")
  assert (found.batch, found.seconds) == (2, 0.75)
  assert found.rows.tolist() == [0, 1, 4, 9]
  wanted = np.float32([0.1, -np.inf, 0.2, -np.inf])
  np.testing.assert_array_equal(found.arrays["margin"], wanted)
  assert found.arrays["margin"].dtype == np.float32
  np.testing.assert_array_equal(
      journal.found("attack").arrays["point"], _POINTS
  )
  nothing = journal.found("HBox")
  assert nothing.batch is None and not len(nothing.rows)
  journal.remove()
  assert not path.exists()


def test_blocks_of_something_else_are_dropped(tmp_path):
  path = tmp_path / "blocks"
  _filled(path)
  Journal(str(path), "that").close()
  journal = Journal(str(path), "this")
  assert journal.found("Box").batch is None
  journal.close()


@pytest.mark.parametrize("bit", range(0, 8))
def test_changed_lines_are_left_out(tmp_path, bit):
  """Wherever a bit flips or the file ends: a block is whole or unknown."""
  path = tmp_path / "blocks"
  _filled(path)
  content = path.read_bytes()
  for place in range(bit, len(content), 8):
    flipped = bytearray(content)
    flipped[place] ^= 1 << bit
    for changed in (bytes(flipped), content[:place]):
      path.write_bytes(changed)
      journal = Journal(str(path), "this")
      found = journal.found("Box")
      values = dict(zip(found.rows, found.arrays.get("margin", ())))
      wanted = {0: np.float32(0.1), 1: -np.inf, 4: np.float32(0.2), 9: -np.inf}
      assert values.items() <= wanted.items()
      # What follows begins a line of its own.
      journal.append("more", 1, [5], {"x": np.ones(1)}, 0.0)
      journal.close()
      again = Journal(str(path), "this")
      assert again.found("more").rows.tolist() == [5]
      again.close()
    if place > 600:
      break


def test_without_a_path_nothing_is_kept(tmp_path):
  journal = Journal()
  journal.append("Box", 1, [0], {"x": np.ones(1)}, 0.0)
  assert journal.found("Box").batch is None
  journal.remove()


def test_a_folder_in_its_place_is_an_os_error(tmp_path):
  (tmp_path / "blocks").mkdir()
  with pytest.raises(OSError):
    Journal(str(tmp_path / "blocks"), "this")
