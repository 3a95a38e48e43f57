"""Archives of arrays, made by the tests: what is read, and what is refused."""

import pathlib

import numpy as np
import pytest

from diffai_jax.data import dataset, load
from diffai_jax.types import UsageError


@pytest.fixture
def archive(tmp_path):
  """Writes arrays by their names; gives the dataset's name."""

  def write(**arrays):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    return f"npz:{path}"

  return write


def _numbered(count, *shape, dtype=np.float32, first=0):
  """Examples all of whose entries tell their row: row/100."""
  rows = (first + np.arange(count)).reshape(-1, *(1,) * len(shape))
  values = rows if dtype == np.uint8 else rows / 100
  return np.broadcast_to(values, (count, *shape)).astype(dtype)


def refused(name, match, split="train", data_range=(0.0, 1.0)):
  with pytest.raises(UsageError, match=match) as caught:
    dataset(name)
    load(name, split, data_range=data_range)
  assert str(caught.value).isprintable() and len(str(caught.value)) < 600
  return str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape, example", [
    ((3,), (3,)), ((4, 5), (4, 5, 1)), ((4, 5, 2), (4, 5, 2)),
    ((2, 3, 4, 5), (2, 3, 4, 5)),
])
def test_arrays_of_any_rank(archive, shape, example, dtype):
  """Images without channels have one; types are bytes or float32."""
  name = archive(
      x_train=_numbered(6, *shape, dtype=dtype), y_train=[0, 1, 2, 2, 1, 0],
      x_test=_numbered(3, *shape, dtype=dtype, first=50), y_test=[2, 0, 0],
  )
  found = dataset(name)
  assert (found.image_shape, found.num_classes) == (example, 3)
  assert (found.mean, found.std, found.epsilon) == (None, None, None)
  test = load(name, "test")
  assert test.images.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
  np.testing.assert_array_equal(test.labels, [2, 0, 0])
  np.testing.assert_array_equal(
      test.images,
      _numbered(3, *example, dtype=dtype, first=50).astype(test.images.dtype),
  )


@pytest.mark.parametrize("split, rows", {
    "train": range(6), "train[2:4]": [2, 3], "test": [50, 51, 52],
    "test[1:]+train[:2]+test[:1]": [51, 52, 0, 1, 50], "train+test[:1]":
    [0, 1, 2, 3, 4, 5, 50],
}.items())
def test_splits_of_given_parts(archive, split, rows):
  """In the order of the arrays; labels stay with their examples."""
  name = archive(
      images=_numbered(6, 2, dtype=np.uint8), labels=np.arange(6) % 3,
      test_images=_numbered(3, 2, dtype=np.uint8, first=50),
      test_labels=np.arange(50, 53) % 3,
  )
  found = load(name, split)
  np.testing.assert_array_equal(found.images[:, 0], list(rows))
  np.testing.assert_array_equal(found.labels, np.asarray(list(rows)) % 3)


def test_a_fifth_is_held_out_where_there_are_no_test_arrays(archive):
  """Of each class; every row is in one part."""
  labels = np.repeat([0, 1], [60, 20])
  name = archive(images=_numbered(80, 2, dtype=np.uint8), labels=labels)
  train, test = load(name, "train"), load(name, "test")
  assert np.bincount(train.labels).tolist() == [48, 16]
  assert np.bincount(test.labels).tolist() == [12, 4]
  for part in (train, test):
    np.testing.assert_array_equal(labels[part.images[:, 0]], part.labels)
    assert set(part.labels[:10].tolist()) == {0, 1}
  rows = np.concatenate([train.images[:, 0], test.images[:, 0]])
  assert sorted(rows) == list(range(80))
  np.testing.assert_array_equal(load(name, "test").images, test.images)


def test_a_class_of_one_example_is_trained_on(archive):
  name = archive(images=_numbered(5, 2), labels=[0, 0, 1, 2, 2])
  assert sorted(load(name, "train").labels) == [0, 1, 2]
  assert sorted(load(name, "test").labels) == [0, 2]


def test_columns_of_labels_and_compressed_files(tmp_path):
  path = tmp_path / "a.npz"
  np.savez_compressed(
      path, x_train=_numbered(4, 2), y_train=np.array([[0], [1], [1], [0]], "u1")
  )
  assert dataset(f"npz:{path}").num_classes == 2
  assert len(load(f"npz:{path}", "train+test")) == 4


def test_the_range_is_the_configs(archive):
  wide = _numbered(4, 2) * 1000 - 5
  name = archive(images=wide, labels=[0, 1, 0, 1])
  assert load(name, "train", data_range=None).images.min() == -5
  assert load(name, "train", data_range=(-5, 30)).images.min() == -5
  error = refused(name, r"images\[0, 0\] is -5, outside of the data's range")
  assert "--config.data_range=lowest,highest, or None" in error
  name = archive(images=wide * 5 + 25, labels=[0, 1, 0, 1])
  assert "--config.data_range=0,255, and epsilon" in refused(name, "divide them")
  name = archive(images=_numbered(4, 2, dtype=np.uint8), labels=[0, 1, 0, 1])
  refused(
      name, r"images are uint8.*give --config.data_range=0,1",
      data_range=(0, 255),
  )


@pytest.mark.parametrize("arrays, message", [
    ({}, "has the arrays none; expected x_train"),
    ({"a": [1]}, r"has the arrays \['a'\]; expected x_train"),
    ({"images": [[1.0]] * 4}, "expected x_train"),
    ({"x_train": [[1.0]] * 4, "y_train": [0, 1, 1, 0], "x_test": [[0.0]]},
     "has x_test, but not both of x_test and y_test"),
    ({"images": np.array([[{}]] * 4, object), "labels": [0, 1, 0, 1]},
     "Python objects, which are not read"),
    ({"images": np.zeros(4), "labels": [0, 1, 0, 1]}, r"the shape \[4\]; expected"),
    ({"images": np.zeros((4, 2), int), "labels": [0, 1, 0, 1]}, "type int64"),
    ({"images": np.full((4, 2), np.nan), "labels": [0, 1, 0, 1]},
     r"data.npz': images\[0, 0\] is nan; expected finite"),
    ({"images": np.zeros((5, 2)), "labels": [0, 1, 0, 1]},
     "has 5 examples, but there are 4 labels"),
    ({"images": np.zeros((4, 2)), "labels": [0, 2, 2, 0]},
     "labels go up to 2, but none is 1"),
    ({"images": np.zeros((4, 2)), "labels": [1, 2, 2, 1]}, "none is 0"),
    ({"images": np.zeros((4, 2)), "labels": [0, 0, 0, 0]}, "none is 1"),
    ({"images": np.zeros((4, 2)), "labels": [0, 1, -1, 0]}, r"labels\[2\] is -1"),
    ({"images": np.zeros((4, 2)), "labels": [0, 1, 2**40, 0]}, r"labels\[2\] is"),
    ({"images": np.zeros((4, 2)), "labels": [0.0, 1, 0, 1]}, "type float64"),
    ({"images": np.zeros((0, 2)), "labels": np.zeros(0, int)}, "is empty"),
    ({"images": np.zeros((4, 0)), "labels": [0, 1, 0, 1]}, "are empty"),
    ({"images": np.zeros((4, 2)), "labels": np.eye(4, dtype=int)}, "argmax"),
])
def test_mistakes_with_arrays_are_one_line(archive, arrays, message):
  refused(archive(**arrays), message)


@pytest.mark.parametrize("test, message", [
    ({"x_test": np.zeros((2, 2)), "y_test": [0, 7]}, r"y_test\[1\] .*0 to 1"),
    ({"x_test": np.zeros((2, 3)), "y_test": [0, 1]}, "one shape"),
    ({"x_test": np.zeros((3, 2)), "y_test": [0, 1]}, "3 examples.*2 labels"),
    ({"x_test": np.full((2, 2), 2.0), "y_test": [0, 1]}, r"x_test\[0, 0\] is 2"),
])
def test_mistakes_with_test_arrays(archive, test, message):
  name = archive(x_train=np.zeros((4, 2)), y_train=[0, 1, 1, 0], **test)
  refused(name, message, "test")


def test_files_that_are_no_archives(tmp_path):
  (tmp_path / "text.npz").write_text("hello")
  refused(f"npz:{tmp_path}/text.npz", "is no archive of arrays")
  np.save(tmp_path / "one.npy", np.zeros(3))
  refused(f"npz:{tmp_path}/one.npy", "is no archive of arrays")
  refused(f"npz:{tmp_path}", "is a folder; give the file")
  refused(f"npz:{tmp_path}/nowhere.npz", "does not exist; give the file")


def test_damaged_archives(archive):
  name = archive(images=_numbered(60, 40), labels=np.arange(60) % 2)
  path = pathlib.Path(name.removeprefix("npz:"))
  data = path.read_bytes()
  changed = bytearray(data)
  changed[3000] ^= 255
  for content in (bytes(changed), data[: len(data) // 2], b"", data[:-10]):
    path.write_bytes(content)
    refused(name, "data.npz' (cannot be read|is no archive)")
