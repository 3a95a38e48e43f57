"""Reading datasets: the embedded digits and prepared TFDS folders."""

import pathlib
import socket

import numpy as np
import pytest
from sklearn import datasets as sklearn_datasets

from diffai_jax.data import (
    DATASETS,
    Examples,
    dataset,
    known,
    load,
    source_of,
)
from diffai_jax.data import prepared
from diffai_jax.types import UsageError, shown

SHARED = pathlib.Path(__file__).parents[2].parent / "shared" / "tfds"
PREPARED = pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.skipif(
        not (SHARED / name).is_dir(),
        reason=f"no prepared {name} in ../shared/tfds",
    ))
    for name in ("mnist", "cifar10")
])


@pytest.fixture(scope="module")
def digits():
  """The two parts, train and test."""
  return load("digits", "train"), load("digits", "test")


@pytest.fixture
def network(monkeypatch):
  """A list of all attempts to reach the network; each of them fails."""
  attempts = []

  def refuse(*args, **kwargs):
    attempts.append((args, kwargs))
    raise OSError("no network in tests")

  for place, name in (
      (socket, "getaddrinfo"),
      (socket, "create_connection"),
      (socket.socket, "connect"),
      (socket.socket, "connect_ex"),
  ):
    monkeypatch.setattr(place, name, refuse)
  return attempts


def rows(*parts):
  """Every example as bytes of its image and its label, sorted."""
  return sorted(
      (image.tobytes(), int(label))
      for part in parts
      for image, label in zip(part.images, part.labels, strict=True)
  )


def refused(name, split, data_dir=""):
  with pytest.raises(UsageError) as caught:
    load(name, split, data_dir)
  assert len(str(caught.value).splitlines()) == 1
  return caught.value


def equal(actual, images, labels):
  np.testing.assert_array_equal(actual.images, images)
  np.testing.assert_array_equal(actual.labels, labels)


# Digits.


def test_digits_shapes(digits):
  """1437 and 360 images of 8×8 bytes, with labels of 10 classes."""
  for part, size in zip(digits, (1437, 360)):
    assert isinstance(part, Examples)
    assert len(part) == size
    assert part.images.shape == (size, 8, 8, 1)
    assert part.images.dtype == np.uint8
    assert part.labels.shape == (size,)
    assert part.labels.dtype == np.int32


def test_digits_are_scikit_learns_each_once(digits):
  """Both parts together are all 1797, so no image is in both."""
  images, labels = sklearn_datasets.load_digits(return_X_y=True)
  # Its pixels count from 0 to 16; 255/16 = 15.9375, and no half is rounded.
  bytes_ = (images * 255 / 16 + 0.5).astype(np.uint8).reshape(-1, 8, 8, 1)
  halves = np.isclose(images * 255 / 16 % 1, 0.5)
  # Half a step (only 8 of 16, 127.5) may be rounded either way, by 1 at most.
  found = np.concatenate([part.images for part in digits])
  bytes_[halves.reshape(bytes_.shape)] = 128
  assert set(np.unique(found)) == set(np.unique(bytes_))
  assert rows(*digits) == rows(Examples(bytes_, labels))


def test_digits_parts_have_the_same_share_of_each_class(digits):
  """A fifth of each class is held out, give or take one."""
  train, test = (np.bincount(part.labels, minlength=10) for part in digits)
  assert np.all(np.abs(test - (train + test) * 360 / 1797) <= 1)


def test_digits_are_always_the_same(digits):
  """Whatever NumPy's global state; each load is the reader's own."""
  np.random.seed(1)
  again = load("digits", "train")
  equal(again, digits[0].images, digits[0].labels)
  again.images[:] = 0
  equal(load("digits", "train"), digits[0].images, digits[0].labels)


@pytest.mark.parametrize("split, chosen", {
    "train[:90%]": lambda train, test: train[:1293],  # 1293.3
    "train[90%:]": lambda train, test: train[1293:],
    "train[1000:]": lambda train, test: train[1000:],
    "train[-10:]": lambda train, test: train[-10:],
    "train[5:8]": lambda train, test: train[5:8],
    "test[:50]": lambda train, test: test[:50],
    "test[:-1]": lambda train, test: test[:-1],
    "train+test": lambda train, test: np.concatenate([train, test]),
    "test[:3]+train[:2]": lambda train, test: np.concatenate(
        [test[:3], train[:2]]
    ),
}.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_splits_of_digits(split, chosen, digits):
  """TFDS's syntax: slices and sums of the two parts, in their order."""
  train, test = digits
  equal(
      load("digits", split),
      chosen(train.images, test.images),
      chosen(train.labels, test.labels),
  )


@pytest.mark.parametrize("split", [
    "validation", "train[", "train[:5]x", "train[:200%]", "", "train[a:b]",
    " train", "train+", "train+nope", "train\ntest", "test[::2]", "test[400:]",
    "test[:361]", "x" * 200_000, "train[:" + "9" * 5000 + "]", "\x00", "\udcff",
], ids=lambda split: repr(split)[:20])
def test_splits_that_do_not_exist(split):
  """One line that names the dataset and the split."""
  error = str(refused("digits", split))
  assert f"digits has no split {shown(split)}: it has train (1,437)" in error


@pytest.mark.parametrize("split", ["train[:0]", "train[5:3]", "test[360:]"])
def test_splits_without_examples(split):
  error = str(refused("digits", split))
  assert error.startswith(f"split {split!r} of digits has no examples; it has")


def test_digits_need_no_folder(tmp_path, network, digits):
  """They come with scikit-learn: nothing is read, written or fetched."""
  equal(load("digits", "test", str(tmp_path)), *vars(digits[1]).values())
  assert not list(tmp_path.iterdir())
  assert not network


# Names and constants.


def test_unknown_datasets():
  """Named with the nearest one, before any folder is looked at."""
  for call in (lambda: load("minst", "train"), lambda: dataset("minst")):
    with pytest.raises(UsageError) as caught:
      call()
    assert "unknown dataset 'minst'; did you mean 'mnist'?" in str(caught.value)
    for name in (*DATASETS, "folder:PATH", "npz:FILE", "tfds:NAME"):
      assert name in str(caught.value)


@pytest.mark.parametrize("name, meant", [
    ("nzp:a.npz", "'npz:a.npz'"), ("a.npz", "'npz:a.npz'"),
    ("x/y", "'folder:x/y'"), ("Folder:x", "'folder:x'"),
    ("cifar_100", "'cifar100'"), ("npz", "expected --config.dataset=npz:FILE"),
    ("folder:", "expected --config.dataset=folder:PATH"),
    ("tfds: ", "expected --config.dataset=tfds:NAME"),
    (None, "unknown dataset None"), (7, "unknown dataset 7"),
    ("\x00:\n", "unknown dataset"), ("x" * 10**6, "unknown dataset"),
])
def test_names_that_are_none(name, meant):
  """The form that was meant is told, and no file is looked for."""
  for call in (dataset, source_of, known):
    with pytest.raises(UsageError) as caught:
      call(name)
    error = str(caught.value)
    assert meant in error and error.isprintable() and len(error) < 500


def test_what_a_name_alone_tells():
  """Nothing of a user's own data; MNIST is MNIST by either name."""
  for name in ("folder:a:b", "npz:x", "tfds:stl10", "tfds:digits"):
    assert known(name) is None
  assert source_of("folder:a:b") == ("folder", "a:b")
  assert known("tfds:mnist") == known("mnist") == DATASETS["mnist"]
  assert known("tiny_imagenet:x") == DATASETS["tiny_imagenet"]


def test_bytes_are_within_their_range():
  with pytest.raises(UsageError, match="data_range is .* are bytes"):
    load("digits", "test", data_range=(0, 255))
  assert len(load("digits", "test", data_range=None)) == 360


@pytest.mark.parametrize("name, shape, epsilon", [
    ("digits", (8, 8, 1), 0.05),
    ("mnist", (28, 28, 1), 0.1),
    ("fashion_mnist", (28, 28, 1), 0.1),
    ("cifar10", (32, 32, 3), 8 / 255),
    ("cifar100", (32, 32, 3), 8 / 255),
    ("svhn_cropped", (32, 32, 3), 0.01),
    ("tiny_imagenet", (64, 64, 3), 1 / 255),
])
def test_constants(name, shape, epsilon):
  """Shapes and the usual radii; photographs of things are cropped, mirrored."""
  constants = dataset(name)
  assert constants.image_shape == shape
  classes = {"cifar100": 100, "tiny_imagenet": 200}
  assert constants.num_classes == classes.get(name, 10)
  assert constants.epsilon == epsilon
  assert len(constants.mean) == len(constants.std) == shape[2]
  mirrored = name in ("cifar10", "cifar100", "tiny_imagenet")
  expected = (4, True) if mirrored else (0, False)
  assert (constants.crop_padding, constants.flip) == expected


def test_mean_and_std_of_digits(digits):
  """Of the training images, for pixels in [0, 1]."""
  pixels = digits[0].images / 255
  constants = dataset("digits")
  np.testing.assert_allclose(constants.mean, [pixels.mean()], atol=1e-3)
  np.testing.assert_allclose(constants.std, [pixels.std()], atol=1e-3)


# Folders of TFDS.


@PREPARED
def test_prepared_folders(name, network):
  """The images and labels that TFDS itself gives, one at a time."""
  import tensorflow_datasets as tfds

  part = load(name, "test[:50]", str(SHARED))
  assert part.images.shape == (50, *dataset(name).image_shape)
  assert part.images.dtype == np.uint8
  assert part.labels.shape == (50,)
  assert part.labels.dtype == np.int32
  source = tfds.data_source(
      name, data_dir=str(SHARED), split="test", download=False
  )
  records = [source[i] for i in range(50)]
  equal(part, [r["image"] for r in records], [r["label"] for r in records])
  assert not network


@PREPARED
def test_prepared_folders_by_the_names_of_tfds(name, network):
  """The same images; shape and classes as TFDS has written them down."""
  expected = load(name, "test[:50]", str(SHARED))
  version = sorted(path.name for path in (SHARED / name).iterdir())[-1]
  for text in (f"tfds:{name}", f"tfds:{name}:{version}"):
    found = load(text, "test[:50]", str(SHARED))
    equal(found, expected.images, expected.labels)
    there = prepared.constants(text.removeprefix("tfds:"), str(SHARED))
    constants = dataset(name)
    assert there.image_shape == constants.image_shape
    assert there.num_classes == constants.num_classes
  assert not network
  assert "has no split 'val'" in str(refused(f"tfds:{name}", "val", str(SHARED)))


@PREPARED
def test_slices_of_prepared_folders(name):
  """Two parts in a row are the whole; the order is the folder's."""
  whole = load(name, "test[:20]", str(SHARED))
  first = load(name, "test[:12]", str(SHARED))
  rest = load(name, "test[12:20]", str(SHARED))
  equal(
      whole,
      np.concatenate([first.images, rest.images]),
      np.concatenate([first.labels, rest.labels]),
  )


@PREPARED
@pytest.mark.parametrize("split", ["validation", "test[", "test[20000:]"])
def test_splits_that_a_folder_does_not_have(name, split):
  error = str(refused(name, split, str(SHARED)))
  assert f"{name} has no split {split!r}: " in error


@PREPARED
def test_splits_of_a_folder_without_examples(name):
  """The same words as for the digits."""
  error = str(refused(name, "test[:0]", str(SHARED)))
  assert error.startswith(f"split 'test[:0]' of {name} has no examples")
