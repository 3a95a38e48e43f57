"""The batches that programs are compiled for."""

import pytest

from diffai_jax.verification import programs


@pytest.mark.parametrize("fixed, each, memory_mb, size", (
    (0, 10, 4096, 2),  # What a batch gains from, and no more.
    (5, 10, 4096, 2),
    (60, 10, 4096, 5),  # As much again for the images, and more, pays for it.
    (60, 10, 100, 2),  # Where memory allows it.
    (60, 10, 75, 1),
    (60, 0.1, 4096, 100),
))
def test_batches_grow_with_what_each_takes_anew(fixed, each, memory_mb, size):
  needed = lambda size: fixed + each * size
  found = programs._fitting(
      "Box", lambda size: programs.Program(None, needed(size)), needed,
      memory_mb, 100,
  )
  assert found == size
