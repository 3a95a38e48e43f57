"""A small folder of Tiny ImageNet's form, made by the tests."""

import shutil

import numpy as np
import PIL.Image
import pytest

from diffai_jax.data import dataset, load
from diffai_jax.types import UsageError

WNIDS = [f"n{10_000_000 + 7 * number}" for number in range(200)]


def _picture(path, value, mode="RGB"):
  path.parent.mkdir(parents=True, exist_ok=True)
  PIL.Image.new(mode, (64, 64), value if mode == "L" else (value,) * 3).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Two training images and a test image a class; gray of its number."""
  top = tmp_path_factory.mktemp("data")
  folder = top / "tiny-imagenet-200"
  lines = []
  for number, wnid in enumerate(WNIDS):
    for i in range(2):
      _picture(
          folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", number,
          "L" if number == 3 else "RGB",  # Some of the authors' are gray.
      )
    _picture(folder / "val" / "images" / f"val_{number}.JPEG", number)
    lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62")
  order = np.random.default_rng(0).permutation(200)
  (folder / "wnids.txt").write_text("\n".join(WNIDS[i] for i in order) + "\n")
  (folder / "val" / "val_annotations.txt").write_text(
      "\n".join(lines[i] for i in order) + "\n"
  )
  return top


@pytest.mark.parametrize("name, data_dir, inside", [
    ("tiny_imagenet:{}", "", ""), ("tiny_imagenet", "{}", ""),
    ("tiny_imagenet:{}", "nowhere", "/tiny-imagenet-200"),
])
def test_both_parts_have_their_labels(root, name, data_dir, inside):
  """By the order of the sorted names, not of the file's lines."""
  place = f"{root}{inside}"
  for split, size in (("train", 400), ("test", 200)):
    found = load(name.format(place), split, data_dir.format(place))
    assert found.images.shape == (size, 64, 64, 3)
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int32
    pixels = found.images[:, 32, 32].astype(int)
    assert (abs(pixels - found.labels[:, None]) <= 2).all()  # JPEG.
    assert np.bincount(found.labels).tolist() == [size // 200] * 200
    assert len(set(found.labels[:20].tolist())) > 15  # Not class by class.


def test_constants_need_no_folder():
  for name in ("tiny_imagenet", "tiny_imagenet:nowhere"):
    found = dataset(name)
    assert (found.image_shape, found.num_classes) == ((64, 64, 3), 200)
    assert found.epsilon == pytest.approx(1 / 255) and len(found.mean) == 3


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "wnids.txt").unlink(), "wnids.txt' cannot be read"),
    (lambda folder: (folder / "wnids.txt").write_text("n1\nn2\n"),
     "names 2 classes; expected 200"),
    (lambda folder: (folder / "val" / "val_annotations.txt").write_text("a\tb\n"),
     "has the line"),
    (lambda folder: (folder / "train").rename(folder / "x"), "does not exist"),
    (lambda folder: (folder / "val" / "images" / "val_7.JPEG").unlink(),
     "val_7.JPEG' cannot be read"),
    (lambda folder: _picture(folder / "train" / WNIDS[0] / "images" / "a.JPEG", 1)
     or PIL.Image.new("L", (9, 9)).save(
         folder / "train" / WNIDS[0] / "images" / "a.JPEG"),
     r"a.JPEG' is an image \[9, 9, 3\], but Tiny ImageNet's"),
])
def test_what_is_missing_is_named(root, tmp_path, change, message):
  folder = tmp_path / "copy"
  shutil.copytree(root / "tiny-imagenet-200", folder)
  change(folder)
  with pytest.raises(UsageError, match=message) as caught:
    load(f"tiny_imagenet:{folder}", "train+test")
  assert str(caught.value).isprintable()


def test_without_a_folder():
  with pytest.raises(UsageError, match="needs its folder; give the folder"):
    load("tiny_imagenet", "train")
  with pytest.raises(UsageError, match="nowhere' does not exist"):
    load("tiny_imagenet:nowhere", "train")
