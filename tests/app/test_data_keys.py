"""What the keys of a config say about data."""

import numpy as np
import pytest

from diffai_jax.app import command_line, data_keys
from diffai_jax.app.config import base_config, describe_differences, differences
from diffai_jax.app.job import Job
from diffai_jax.app.validation import epsilon_of, validate
from diffai_jax.data import Examples, dataset
from diffai_jax.types import UsageError


@pytest.fixture
def table(tmp_path):
  """A table of three columns: the dataset's name."""
  random = np.random.default_rng(0)
  np.savez(
      tmp_path / "table.npz", images=random.normal(size=(40, 3)) * 5,
      labels=np.arange(40) % 2,
  )
  return f"npz:{tmp_path}/table.npz"


def config_of(name, *flags):
  config = base_config("", name, 0.1)
  words = [f"--config.{flag}" for flag in flags]
  command_line.apply(config, command_line.take_changes(["main", *words])[1])
  return config


def test_epsilon_is_needed_where_there_is_no_usual_one():
  """No file is looked for to say so."""
  for variant, flags in (
      ("npz:none.npz", {}), ("", {"dataset": "folder:none"}),
      ("mnist", {"dataset": "tfds:stl10"}),
  ):
    with pytest.raises(UsageError, match="epsilon is missing: .*no usual radius"):
      base_config(variant, flags=flags)
  assert base_config("npz:none.npz,0.3").epsilon == 0.3
  assert base_config("", flags={"dataset": "npz:x", "epsilon": 2}).epsilon == 2
  assert base_config("tiny_imagenet:none").epsilon == pytest.approx(1 / 255)
  assert base_config("tfds:mnist").epsilon == 0.1


@pytest.mark.parametrize("text, expected", [
    ("0,1", (0, 1)), ("-1,1", (-1, 1)), ("(0, 255)", (0, 255)), ("none", None),
    ("None", None), ("null", None), ("()", None), ("-1/2,8/255", (-0.5, 8 / 255)),
])
def test_ranges(text, expected):
  config = config_of("digits", f"data_range={text}")
  assert data_keys.range_of(config) == expected


@pytest.mark.parametrize(
    "text", ["1", "1,0", "0,0", "a,b", "0,1,2", "0,inf", "0,1e39"]
)
def test_ranges_that_are_none(text):
  with pytest.raises(UsageError, match="data_range is .*--config.data_range="):
    data_keys.range_of(config_of("digits", f"data_range={text}"))


def test_epsilon_is_in_the_units_of_the_data():
  config = config_of("digits", "data_range=0,255", "epsilon=8")
  assert epsilon_of(config) == 8
  config = config_of("digits", "data_range=none", "epsilon=1e6")
  assert epsilon_of(config) == 1e6
  for flags in (
      ("data_range=0,255", "epsilon=256"), ("epsilon=1.5",),
      ("data_range=none", "epsilon=-1"),
  ):
    with pytest.raises(UsageError, match="epsilon is .*(from 0 to|of at least 0)"):
      epsilon_of(config_of("digits", *flags))


def test_shape_and_classes_are_the_datas(table):
  job = Job.from_config(config_of(
      table, "data_range=none", "mean=1/2,0,1", "std=5", "network=FFNN"
  ))
  assert job.dataset.image_shape == (3,) and job.dataset.num_classes == 2
  assert job.dataset.mean == (0.5, 0, 1) and job.dataset.std == (5, 5, 5)
  assert job.data_range is None and job.config.data_range == ()
  first, *_ = job.describe().splitlines()
  assert first == "Normalize mean=[0.5, 0.0, 1.0] std=[5.0, 5.0, 5.0]"
  again = Job.from_config(job.config)  # What a config became is one.
  assert again.config.to_dict() == job.config.to_dict()


def test_the_datasets_own_mean_unless_the_config_has_one():
  own = dataset("cifar10")
  job = Job.from_config(config_of("cifar10"))
  assert (job.dataset.mean, job.dataset.std) == (own.mean, own.std)
  job = Job.from_config(config_of("cifar10", "mean=0.5"))
  assert (job.dataset.mean, job.dataset.std) == ((0.5,) * 3, own.std)
  job = Job.from_config(config_of("cifar10", "mean=0.5", "mean=none"))
  assert job.dataset.mean == own.mean


@pytest.mark.parametrize("flag", [
    "mean=1,2", "mean=a", "mean=inf", "std=0", "std=-1", "std=1,2,3,4", "mean=()",
    "std=1e-40", "mean=1e39",
])
def test_means_and_deviations_that_are_none(flag):
  key = flag.partition("=")[0]
  with pytest.raises(UsageError, match=f"{key} is .*3 channels.*--config.{key}="):
    validate(config_of("cifar10", flag))


def test_rows_of_a_table_are_not_augmented(table):
  for flag, key in (("augment.flip=true", "flip"), ("augment.crop_padding=2",
                                                    "crop_padding")):
    with pytest.raises(UsageError, match=rf"augment.{key} is .* the shape \[3\]"):
      validate(config_of(table, "data_range=none", flag))
  validate(config_of(table, "data_range=none", "augment.crop_padding=0"))


def test_advice_about_mean_and_deviation(table):
  """Once, with flags that can be copied; none where they are known."""
  random = np.random.default_rng(0)
  images = random.integers(0, 255, (3000, 4, 5, 2), dtype=np.uint8)
  examples = Examples(images, np.zeros(3000, np.int32))
  line = data_keys.advice(dataset(table), "mine", examples)
  values = (images / 255).reshape(-1, 2)
  mean, std = (",".join(f"{x:.4g}" for x in f(values, axis=0))
               for f in (np.mean, np.std))
  assert line.endswith(f"--config.mean={mean} --config.std={std}")
  assert "mean 0 and std 1, as mine has none" in line and "\n" not in line
  half = data_keys.dataset_of(config_of(table, "mean=0.5"))
  line = data_keys.advice(half, "mine", examples)
  assert "--config.mean" not in line and "--config.std" in line
  assert data_keys.advice(dataset("mnist"), "mnist", examples) is None
  table_of_many = Examples(random.random((9, 30)), examples.labels[:9])
  line = data_keys.advice(dataset(table), "mine", table_of_many)
  assert line.count(",") == 1  # One number for all.


def test_the_same_data_elsewhere_are_the_same():
  """A record's digest tells them apart, where they are not."""
  record = {"dataset": "npz:a/b.npz", "data_range": [0.0, 1.0], "mean": None}
  same = {"dataset": "npz:/c/b.npz", "data_range": (0.0, 1.0)}
  assert differences(record, same) == []
  assert differences({"dataset": "folder:a/b"}, {"dataset": "folder:c/b/"}) == []
  for other in ("npz:a/c.npz", "folder:a/b.npz", "mnist"):
    assert differences(record, same | {"dataset": other}) == ["dataset"]
  assert differences({"dataset": "tfds:a"}, {"dataset": "tfds:b"}) == ["dataset"]
  assert differences(record, same | {"data_range": ()}) == ["data_range"]
  # Records that are older than the keys.
  assert differences({"dataset": "mnist"}, {
      "dataset": "mnist", "data_range": [0, 1], "mean": None, "std": None,
  }) == []
  told = describe_differences(["mean"], {"mean": None}, {"mean": [0.5]})
  assert told == "mean (None, now [0.5])"
