"""Files here and in an object store: the same calls, the same answers."""

import os

import fake_bucket
import numpy as np
import pytest

from diffai_jax.storage import files, journal, lock, sealed, store
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError


@pytest.fixture
def bucket(tmp_path):
  with fake_bucket.mounted(tmp_path / "bucket") as mounted:
    yield mounted


@pytest.fixture(params=["here", "bucket"])
def folder(request, bucket, tmp_path):
  """A folder of either kind, with two files and one below."""
  path = str(tmp_path) if request.param == "here" else "gs://bucket"
  path = os.path.join(path, "run")
  store.make_folders(os.path.join(path, "inner"))
  for name, content in (("b", b"1"), ("a", b"2"), ("inner/c", b"33")):
    with files.replacing(os.path.join(path, name), binary=True) as file:
      file.write(content)
  return path


def test_what_is_there(folder):
  assert store.names_in(folder) == ["a", "b", "inner"]
  one, inner = os.path.join(folder, "a"), os.path.join(folder, "inner")
  none = os.path.join(folder, "none")
  for path, wanted in ((one, (True, True, False)), (inner, (True, False, True)),
                       (none, (False, False, False))):
    found = store.exists(path), store.is_file(path), store.is_folder(path)
    assert found == wanted
  assert dict(store.files_below(folder)) == {
      name: os.path.join(folder, name) for name in ("a", "b", "inner/c")
  }
  assert store.read_bytes(os.path.join(inner, "c")) == b"33"
  with store.opened(one, "r") as file:
    assert file.read() == "2"
  for read in (store.read_bytes, store.names_in, store.delete):
    with pytest.raises(FileNotFoundError):
      read(none)


def test_what_is_copied_and_removed(folder):
  one, two = os.path.join(folder, "a"), os.path.join(folder, "two")
  store.copy(one, two)
  assert store.read_bytes(two) == b"2"
  store.delete(one)
  for name in ("two", "inner", "none"):
    store.remove(os.path.join(folder, name))
  assert store.names_in(folder) == ["b"]


def test_a_file_is_replaced_whole_or_not_at_all(folder):
  path = os.path.join(folder, "a")
  with pytest.raises(KeyError):
    with files.replacing(path) as file:
      file.write("half")
      raise KeyError
  assert store.read_bytes(path) == b"2" and len(store.names_in(folder)) == 3
  files.write_json(path, {"ε": 1})
  assert files.read_json(path, "") == {"ε": 1}
  assert files.read_json(os.path.join(folder, "none"), "") is None


def test_what_is_unfinished_goes(folder):
  for name in ("x.tmp", "y.orbax-checkpoint-tmp-1", "z.tmp"):
    with files.replacing(os.path.join(folder, name)) as file:
      file.write("")
  files.remove_unfinished(folder, but=[os.path.join(folder, "z.tmp")])
  assert store.names_in(folder) == ["a", "b", "inner", "z.tmp"]


def test_sealed_results(folder):
  sealed.write(folder, "r.json", {"x": 1}, {"r.npz": {"v": np.arange(3)}})
  path = os.path.join(folder, "r.json")
  found = sealed.read(path, "")
  assert found["x"] == 1
  assert sealed.arrays(path, found, "r.npz", "")["v"].tolist() == [0, 1, 2]
  with files.replacing(os.path.join(folder, "r.npz"), binary=True) as file:
    file.write(b"other")
  with pytest.raises(sealed.DamagedError):
    sealed.read(path, "")


def test_a_journal_goes_on(folder):
  """Of the same identity its blocks are there, of another none; then it goes."""
  path = os.path.join(folder, "j.blocks")

  def blocks(identity, add=()):
    one = journal.Journal(path, identity)
    rows = one.found("Box").rows.tolist()
    for row in add:
      one.append("Box", 4, [row], {"m": np.full(1, row, "f")}, 0.5)
    one.close()
    return rows

  assert blocks("a", add=(0, 1, 2)) == []
  assert blocks("a", add=(3,)) == [0, 1, 2]
  last = journal.Journal(path, "a")
  assert last.found("Box").arrays["m"].tolist() == [0, 1, 2, 3]
  last.close()
  assert blocks("b", add=(7,)) == []
  assert blocks("b") == [7]
  one = journal.Journal(path, "b")
  one.remove()
  assert not store.exists(path)


def test_a_changed_block_of_a_bucket_is_left_out(bucket):
  path = "gs://bucket/j.blocks"
  one = journal.Journal(path, "a")
  for row in range(3):
    one.append("Box", 4, [row], {}, 0.5)
  (bucket.folder / "j.blocks" / "00000002").write_bytes(b"cut")
  again = journal.Journal(path, "a")
  assert again.found("Box").rows.tolist() == [0, 2]
  # They are whole again, one after the other.
  assert store.names_in(path) == ["00000000", "00000001", "00000002"]
  again.append("Box", 4, [5], {}, 0.5)
  assert journal.Journal(path, "a").found("Box").rows.tolist() == [0, 2, 5]


def test_a_bucket_has_no_lock(bucket):
  held = lock.acquire("gs://bucket/run")
  assert held is None and not store.exists("gs://bucket/run")
  lock.release(held)


def test_errors_of_a_store_are_the_systems(bucket):
  bucket.broken = RuntimeError("429: slow down\nmore")
  for call in (store.exists, store.names_in, store.read_bytes):
    with pytest.raises(OSError) as error:  # Where none handles it, one line.
      call("gs://bucket/run")
    assert isinstance(error.value, UsageError)
    assert str(error.value).startswith(
        "gs://bucket/run cannot be reached (429: slow down)"
    )
    assert error.value.strerror == "429: slow down"
  with pytest.raises(files.CannotWrite, match="cannot write gs://bucket/x"):
    files.write_json("gs://bucket/x", {})
  store.remove("gs://bucket/run")  # What cannot be removed stays.


@pytest.mark.parametrize("path, whole", [
    ("gs://bucket/a/../run/", "gs://bucket/run"), ("gs://bucket", "gs://bucket"),
    ("s3://bucket/x", "s3://bucket/x"),
])
def test_remote_paths(path, whole):
  assert checked_path(path, "--workdir") == whole == store.absolute(path)
  assert store.is_same(path, whole)


@pytest.mark.parametrize("path, told", [
    ("gs:/bucket/run", "expected two slashes after the scheme"),
    ("gs://", "expected SCHEME://BUCKET/NAME"),
    ("gs:///run", "expected SCHEME://BUCKET/NAME"),
    ("gs://bucket/lr[0.1]", "without any of"),
    ("gs://bucket/a*", "without any of"),
    ("ftp://host/run", "expected a path of this machine, or one of gs://"),
])
def test_what_is_no_path(path, told):
  with pytest.raises(UsageError, match="--workdir is") as error:
    checked_path(path, "--workdir")
  assert told in str(error.value)
