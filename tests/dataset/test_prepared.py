"""Folders of TFDS: what is wrong with one is said, and nothing else."""

import builtins
import os
import pathlib
import shutil
import types

import numpy as np
import pytest

from diffai_jax.data import DATASETS, load
from diffai_jax.data import prepared
from diffai_jax.types import UsageError

SHARED = pathlib.Path(__file__).parents[2].parent / "shared" / "tfds"
VERSION = "3.0.1"
RECORDS = f"mnist/{VERSION}/mnist-test.array_record-00000-of-00001"
INFO = f"mnist/{VERSION}/dataset_info.json"
FEATURES = f"mnist/{VERSION}/features.json"
FEW = 800  # Examples that take no time to decode.
NEEDS_MNIST = pytest.mark.skipif(
    not (SHARED / "mnist").is_dir(), reason="no prepared mnist in ../shared/tfds"
)


def refused(data_dir, split="test[:20]", name="mnist"):
  with pytest.raises(UsageError) as caught:
    load(name, split, str(data_dir))
  assert str(caught.value).isprintable()
  assert len(str(caught.value)) < 1000
  return caught.value


def _touch(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
  """The first of MNIST's test images, as TFDS would have prepared them."""
  from array_record.python import array_record_module

  folder = tmp_path_factory.mktemp("few")
  (folder / "mnist" / VERSION).mkdir(parents=True)
  for name in (INFO, FEATURES):
    text = (SHARED / name).read_text()
    (folder / name).write_text(text.replace('"10000"', f'"{FEW}"'))
  reader = array_record_module.ArrayRecordReader(str(SHARED / RECORDS))
  writer = array_record_module.ArrayRecordWriter(
      str(folder / RECORDS), "group_size:1"
  )
  for record in reader.read(0, FEW):
    writer.write(record)
  writer.close()
  reader.close()
  return folder


@pytest.fixture
def mnist(few, tmp_path):
  """A copy of them that a test may break."""
  return pathlib.Path(shutil.copytree(few, tmp_path / "data"))


@pytest.mark.parametrize("files, data_dir, texts, may_prepare", [
    ([], "missing", ["which does not exist"], True),
    (["file"], "file", ["which is not a folder"], False),
    (["x/file"], "x/file/y", ["which is not a folder"], False),
    ([], "", ["mnist is not in", "it has no dataset"], True),
    ([f"cifar10/3.0.2/{'x' * 5}", "notes/a"], "",
     ["mnist is not in", "it has ['cifar10']"], True),
    ([f"mnist/{VERSION}/dataset_info.json"], "mnist",
     ["the folder of mnist itself", "--config.data_dir={root}"], False),
    ([f"mnist/{VERSION}/dataset_info.json"], f"mnist/{VERSION}",
     ["the folder of mnist itself", "--config.data_dir={root}"], False),
    (["mnist/2.0.0/dataset_info.json"], "",
     ["holds 2.0.0", f"reads version {VERSION}"], True),
    (["mnist/notes"], "", ["holds no version"], True),
    (["mnist"], "", ["{root}/mnist is not a folder"], False),
    ([f"mnist/{VERSION}"], "", [f"{VERSION} is not a folder"], False),
    ([f"mnist/{VERSION}/mnist-test.tfrecord-00000-of-00001", INFO], "",
     ["holds tfrecord files", "expected array_record"], True),
    ([INFO], "", ["holds no data files"], True),
    ([RECORDS], "", ["has no dataset_info.json"], True),
], ids=lambda value: repr(value)[:40])
def test_what_is_wrong_with_a_folder(
    tmp_path, files, data_dir, texts, may_prepare
):
  """Each failing is told apart; the command stands where it would help."""
  _touch(tmp_path, *files)
  error = refused(tmp_path / data_dir)
  for text in texts:
    assert text.format(root=tmp_path) in str(error)
  assert "--config.data_dir=" in str(error)
  assert bool(error.detail) == may_prepare
  if may_prepare:
    for part in ("builder('mnist'", str(tmp_path / data_dir), "array_record",
                 "download_and_prepare()", "pip install tensorflow"):
      assert part in error.detail


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
  """Advice to prepare it again would mislead."""

  def refuse(path):
    raise PermissionError(13, "Permission denied", path)

  monkeypatch.setattr(os, "listdir", refuse)
  error = refused(tmp_path)
  assert "may not be read by you" in str(error) and not error.detail


@pytest.mark.parametrize("data_dir", [
    "\x00", "a\x00b", "\udcff", "x" * 300, "x/" * 5000, " ",
], ids=lambda value: repr(value)[:10])
def test_paths_that_no_folder_has(data_dir):
  assert "data_dir is " in str(refused(data_dir))


@pytest.mark.parametrize("package", [
    "tensorflow_datasets", "array_record.python.array_record_module",
    "PIL.Image",
])
def test_missing_packages(tmp_path, monkeypatch, package):
  """Named, with the command that installs it."""
  real = builtins.__import__

  def without(name, *args, **kwargs):
    if name == package:
      raise ImportError(f"No module named {name!r}", name=name)
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", without)
  error = str(refused(tmp_path))
  assert package in error and "pip install" in error


@NEEDS_MNIST
@pytest.mark.parametrize("content", [
    b"", b"{", b"{}", b"[]", b"\xff\x00", b'{"version": "3.0.1"}',
])
def test_damaged_descriptions(mnist, content):
  """Of whatever the file is."""
  (mnist / INFO).write_bytes(content)
  error = refused(mnist)
  assert INFO.split("/", maxsplit=1)[0] in str(error)


@NEEDS_MNIST
def test_a_cut_file_of_records(mnist):
  data = (mnist / RECORDS).read_bytes()
  for kept in (0, 1000, len(data) // 2, len(data) - 1):
    (mnist / RECORDS).write_bytes(data[:kept])
    error = str(refused(mnist, "test"))
    assert "the files of test in" in error and "empty folder" in error


@NEEDS_MNIST
def test_a_flipped_byte_of_records(mnist):
  """Either it is noticed, or what is read is what was there."""
  data = (mnist / RECORDS).read_bytes()
  expected = load("mnist", "test", str(mnist))
  noticed = 0
  for place in np.random.default_rng(0).integers(len(data), size=20):
    changed = bytearray(data)
    changed[place] ^= 0x10
    (mnist / RECORDS).write_bytes(changed)
    try:
      found = load("mnist", "test", str(mnist))
    except UsageError as error:
      noticed += 1
      assert "the files of test in" in str(error)
    else:
      np.testing.assert_array_equal(found.images, expected.images)
      np.testing.assert_array_equal(found.labels, expected.labels)
  assert noticed > 5


@NEEDS_MNIST
def test_more_examples_than_the_files_have(mnist):
  text = (mnist / INFO).read_text().replace(f'"{FEW}"', '"90000"')
  (mnist / INFO).write_text(text)
  assert "test" in str(refused(mnist, "test"))


@NEEDS_MNIST
@pytest.mark.parametrize("name", ["lr[0.1]", "a*b", "what?", "back\\slash"])
def test_folders_with_signs_of_patterns(mnist, name):
  """Such a folder is one like any other."""
  other = mnist.rename(mnist.parent / name)
  found = load("mnist", "test[:20]", str(other))
  expected = load("mnist", "test[:20]", str(SHARED))
  np.testing.assert_array_equal(found.images, expected.images)
  np.testing.assert_array_equal(found.labels, expected.labels)


@NEEDS_MNIST
def test_the_tilde_is_ones_home(mnist, monkeypatch):
  monkeypatch.setenv("HOME", str(mnist.parent))
  assert len(load("mnist", "test[:20]", "~/data")) == 20


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3], [0.5, 1.0]])
def test_labels_out_of_range(labels):
  images = np.zeros((2, 28, 28, 1), np.uint8)
  with pytest.raises(UsageError, match="label .* from 0 to 9"):
    prepared._checked(
        "mnist", "here", DATASETS["mnist"], images, np.asarray(labels)
    )


@pytest.mark.parametrize("shape, dtype", [
    ((32, 32, 3), np.uint8), ((28, 28), np.uint8), ((28, 28, 1), np.float32)
])
def test_images_of_another_kind(shape, dtype):
  """NumPy would broadcast some of them."""
  images = np.zeros((2, *shape), dtype)
  with pytest.raises(UsageError, match="holds images"):
    prepared._checked(
        "mnist", "here", DATASETS["mnist"], images, np.zeros(2, int)
    )


@pytest.mark.parametrize("files, name, text", [
    (["a/1.0.0/x"], "tfds:b", "b is not in data_dir="),
    (["mnist/1.0.0/x"], "tfds:minst", "did you mean mnist?"),
    (["a/blue/1.0.0/x", "a/red/2.0.0/x"], "tfds:a",
     "configs ['blue', 'red'] of a; expected one of them, such as"),
    (["a/blue/1.0.0/x"], "tfds:a/red", "a/red does not exist"),
    (["a/2.0.0/x"], "tfds:a:1.0.0",
     "holds 2.0.0, but expected version 1.0.0"),
    (["a/2.0.0/x", "a/10.0.0/x"], "tfds:a", "a/10.0.0 holds no data files"),
    ([], "tfds:a/b/c", "expected a name of TFDS"),
    ([], "tfds:../x", "expected a name of TFDS"),
    ([], "tfds:\n", "expected --config.dataset=tfds:NAME"),
])
def test_names_of_tfds_that_a_folder_does_not_have(tmp_path, files, name, text):
  _touch(tmp_path, *files)
  error = refused(tmp_path, name=name)
  assert text in str(error)
  if error.detail:
    assert f"builder('{name.removeprefix('tfds:')}'" in error.detail


class _Feature:
  """What TFDS says of an entry of its records."""

  def __init__(self, shape=(), dtype=np.uint8, num_classes=None):
    self.shape, self.np_dtype, self.num_classes = shape, dtype, num_classes


class _Image(_Feature):
  pass


class _Label(_Feature):
  pass


@pytest.mark.parametrize("features, found", [
    ({"image": _Image((8, 9, 3)), "label": _Label(num_classes=7)},
     ("image", "label")),
    ({"photo": _Image((8, 9, 3)), "kind": _Label(num_classes=7), "id": _Feature()},
     ("photo", "kind")),
    ({"image": _Image((8, 9, 3)), "label": _Label(num_classes=7),
      "coarse_label": _Label(num_classes=2)}, ("image", "label")),
    ({"image": _Image((None, None, 3)), "label": _Label(num_classes=7)},
     "images \\['any', 'any', 3\\] of uint8 and 7 classes; expected one size"),
    ({"image": _Image((8, 9, 1), np.uint16), "label": _Label(num_classes=7)},
     "of uint16"),
    ({"image": _Image((8, 9, 3)), "label": _Label()}, "any classes"),
    ({"image": _Image((8, 9, 3))}, "records of .*expected one image and one label"),
    ({"a": _Image((8, 9, 3)), "b": _Image((8, 9, 3)),
      "label": _Label(num_classes=7)}, "records of"),
    (None, "records of"),
])
def test_records_of_tfds(features, found):
  """One image of one size and one label; of several those of the usual names."""
  tfds = types.SimpleNamespace(
      features=types.SimpleNamespace(Image=_Image, ClassLabel=_Label)
  )
  builder = types.SimpleNamespace(
      info=types.SimpleNamespace(features=features)
  )
  if isinstance(found, str):
    with pytest.raises(UsageError, match=found):
      prepared._contents(tfds, "name", "here", builder)
    return
  image, label, constants = prepared._contents(tfds, "name", "here", builder)
  assert (image, label) == found
  assert (constants.image_shape, constants.num_classes) == ((8, 9, 3), 7)
