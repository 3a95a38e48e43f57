"""Folders of images, made by the tests: what is read, and what is refused."""

import builtins
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from diffai_jax.data import dataset, load
from diffai_jax.types import UsageError

_SHAPES = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def picture(path, value, mode="L", size=(5, 4)):
  """Writes an image of 5×4 pixels, all of one value; returns its pixels."""
  pixels = np.full((*size[::-1], *_SHAPES[mode]), value, np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.fromarray(pixels, mode if mode == "LA" else None).save(path)
  return pixels.reshape(*size[::-1], -1)


@pytest.fixture
def pictures(tmp_path):
  """Two classes of six images; a pixel's tens are the class."""
  for number, name in enumerate(("zebra", "ape")):
    for i in range(6):
      picture(tmp_path / "pics" / name / f"{i}.png", 10 * (number + 1) + i)
  (tmp_path / "pics" / "ape" / "notes.txt").write_text("no image")
  (tmp_path / "pics" / ".hidden").mkdir()
  (tmp_path / "pics" / "README").write_text("neither a class")
  return tmp_path / "pics"


def refused(folder, split="train", match=""):
  with pytest.raises(UsageError, match=match) as caught:
    dataset(f"folder:{folder}")
    load(f"folder:{folder}", split)
  assert str(caught.value).isprintable() and len(str(caught.value)) < 600
  return str(caught.value)


def test_shape_and_classes_are_those_of_the_files(pictures):
  found = dataset(f"folder:{pictures}")
  assert (found.image_shape, found.num_classes) == ((4, 5, 1), 2)
  assert (found.mean, found.std, found.epsilon) == (None, None, None)
  assert (found.crop_padding, found.flip) == (0, False)


def test_every_image_is_in_one_part_with_its_label(pictures):
  """Classes in sorted order: the apes, whose pixels are 20 and more, are 0."""
  train, test = (load(f"folder:{pictures}", part) for part in ("train", "test"))
  assert train.images.dtype == np.uint8 and train.labels.dtype == np.int32
  assert (len(train), len(test)) == (10, 2)
  assert sorted(test.labels) == [0, 1]  # One of each: a fifth of six.
  pixels = []
  for part in (train, test):
    assert part.images.shape[1:] == (4, 5, 1)
    values = part.images[:, 0, 0, 0]
    assert (part.images == values[:, None, None, None]).all()
    np.testing.assert_array_equal(part.labels, (values < 20).astype(int))
    pixels += values.tolist()
  assert sorted(pixels) == [10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25]


def test_parts_are_always_the_same_and_mixed(pictures):
  first = load(f"folder:{pictures}", "train")
  again = load(f"folder:{pictures}/", "train+test[:0]")
  np.testing.assert_array_equal(first.images, again.images)
  assert len(set(first.labels[:5].tolist())) == 2
  cut = load(f"folder:{pictures}", "train[2:5]")
  np.testing.assert_array_equal(cut.images, first.images[2:5])


@pytest.mark.parametrize("tests, parts", [
    (["test"], {"train": 6, "test": 2}), (["val"], {"train": 6, "test": 2}),
    (["test", "val"], {"train": 6, "test": 2, "val": 2}),
])
def test_folders_of_parts(tmp_path, tests, parts):
  for part in ("train", *tests):
    for number, name in enumerate("ab"):
      for i in range(3 if part == "train" else 1):
        value = 100 * (part == "val") + 10 * number + i
        picture(tmp_path / part / name / f"{i}.jpg", value)
  for part, size in parts.items():
    assert len(load(f"folder:{tmp_path}", part)) == size
  if "val" in tests:
    last = load(f"folder:{tmp_path}", "val" if "test" in tests else "test")
    assert (abs(last.images[:, 0, 0, 0] - 100 - 10 * last.labels) < 3).all()
  else:
    refused(tmp_path, "val", "has no split 'val'")


def test_a_class_may_be_missing_among_the_test_images(tmp_path):
  """Its number is that of the training images all the same."""
  for name in "abc":
    picture(tmp_path / "train" / name / "1.png", 0)
  picture(tmp_path / "test" / "c" / "1.png", 0)
  assert load(f"folder:{tmp_path}", "test").labels.tolist() == [2]
  picture(tmp_path / "test" / "d" / "1.png", 0)
  refused(tmp_path, match="has the class 'd', which .*train' does not have")


def test_a_folder_of_training_images_alone_and_a_class_of_that_name(tmp_path):
  for name in "ab":
    for i in range(5):
      picture(tmp_path / "one" / "train" / name / f"{i}.png", i)
  assert dataset(f"folder:{tmp_path}/one").num_classes == 2
  assert len(load(f"folder:{tmp_path}/one", "test")) == 2
  for name in ("train", "car"):
    picture(tmp_path / "two" / name / "1.png", 7)
  found = load(f"folder:{tmp_path}/two", "train")
  assert sorted(found.labels) == [0, 1]


@pytest.mark.parametrize("mode", _SHAPES)
def test_channels_are_those_of_the_files(tmp_path, mode):
  for name in "ab":
    expected = picture(tmp_path / name / "1.png", 77, mode)
  found = load(f"folder:{tmp_path}", "train")
  np.testing.assert_array_equal(found.images, [expected, expected])


def test_palettes_and_bits_become_colours_and_gray(tmp_path):
  for kind, channels in (("P", 3), ("1", 1)):
    for name in "ab":
      (tmp_path / kind / name).mkdir(parents=True)
      image = PIL.Image.new(kind, (2, 2), 1)
      if kind == "P":
        image.putpalette([9, 9, 9, 50, 60, 70])
      image.save(tmp_path / kind / name / "1.png")
    found = load(f"folder:{tmp_path / kind}", "train").images
    assert found.shape == (2, 2, 2, channels)
    assert found[0, 0, 0].tolist() == ([50, 60, 70] if kind == "P" else [255])


def test_images_of_several_sizes_or_kinds(pictures):
  picture(pictures / "zebra" / "9.png", 0, size=(5, 5))
  error = refused(pictures, "train+test", r"9.png' is an image \[5, 5, 1\]")
  assert "is [4, 5, 1]" in error and "zebra" in error
  picture(pictures / "zebra" / "9.png", 0, "RGB")
  refused(pictures, "train+test", r"9.png' is an image \[4, 5, 3\]")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images(pictures, content):
  (pictures / "zebra" / "9.png").write_bytes(content)
  refused(pictures, "train+test", "9.png' cannot be read: .*; replace or")


def test_a_cut_image_is_named(pictures):
  path = pictures / "zebra" / "3.png"
  path.write_bytes(path.read_bytes()[:-30])
  refused(pictures, "train+test", "3.png' cannot be read")


def test_sixteen_bits_are_refused(tmp_path):
  for name in "ab":
    (tmp_path / name).mkdir()
    PIL.Image.new("I;16", (4, 4)).save(tmp_path / name / "1.png")
  refused(tmp_path, match="pixels of kind I;16; expected 8 bits")


def test_folders_without_classes(tmp_path, pictures):
  (pictures / "empty").mkdir()
  refused(pictures, match="class '.*empty' has no images")
  os.rmdir(pictures / "empty")
  for file in (pictures / "zebra").iterdir():
    file.unlink()
  (pictures / "zebra").rmdir()
  refused(pictures, match="has one class alone, 'ape'")
  refused(pictures / "ape", match="has no folder a class .and 6 images")
  refused(tmp_path / "nowhere", match="nowhere' does not exist")
  refused(pictures / "README", match="is not a folder")
  refused("x" * 5000, match="the folder of the dataset is")


def test_without_pillow_one_line_says_what_to_install(pictures, monkeypatch):
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name.startswith("PIL"):
      raise ImportError(name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  refused(pictures, match="pip install pillow")


def test_the_tilde_is_ones_home(pictures, monkeypatch):
  monkeypatch.setenv("HOME", str(pathlib.Path(pictures).parent))
  assert dataset("folder:~/pics").num_classes == 2
