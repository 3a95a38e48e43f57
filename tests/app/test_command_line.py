"""Values from texts: by the kind of their key, or a line that says why not."""

import random

from ml_collections import config_dict
import pytest

from diffai_jax.app import command_line
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.app.job import Job
from diffai_jax.types import UsageError
from diffai_jax.app.validation import get


def changed(*words: str) -> config_dict.ConfigDict:
  rest, changes = command_line.take_changes(["main.py", *words])
  assert rest == ["main.py"]
  config = base_config()
  config.lock()
  command_line.apply(config, changes)
  return config


@pytest.mark.parametrize("words, key, value", [
    (["--config.seed=3"], "seed", 3),
    (["-config.seed=3"], "seed", 3),
    (["--config.seed", "3"], "seed", 3),
    (["--config.seed=3", "--config.seed=4"], "seed", 4),
    (["--config.epochs=3"], "epochs", 3.0),
    (["--config.epsilon=8/255"], "epsilon", "8/255"),
    (["--config.epsilon=0.3"], "epsilon", 0.3),
    (["--config.dropout=Lin(0, 1, 5)"], "dropout", "Lin(0, 1, 5)"),
    (["--config.goal=Mix(a=b, c)"], "goal", "Mix(a=b, c)"),
    (["--config.goal="], "goal", ""),
    (["--config.bfloat16"], "bfloat16", True),
    (["--noconfig.xla_flags"], "xla_flags", False),
    (["--config.xla_flags=False"], "xla_flags", False),
    (["--config.batch_norm=true"], "batch_norm", True),
    (["--config.batch_norm=None"], "batch_norm", None),
    (["--config.certify.examples=null"], "certify.examples", None),
    (["--config.checkpoint=a/b"], "checkpoint", "a/b"),
    (["--config.abstract_layers=None"], "abstract_layers", "None"),
    (["--config.optimizer.milestones=(1, 2)"], "optimizer.milestones", (1, 2)),
    (["--config.optimizer.milestones=[1, 2.5]"], "optimizer.milestones",
     (1, 2.5)),
    (["--config.optimizer.milestones=3"], "optimizer.milestones", (3,)),
    (["--config.optimizer.milestones="], "optimizer.milestones", ()),
    (["--config.certify.methods=Box"], "certify.methods", ("Box",)),
    (["--config.certify.methods=Box, HBox"], "certify.methods",
     ("Box", "HBox")),
    (["--config.certify.methods=(Box,HBox)"], "certify.methods",
     ("Box", "HBox")),
    (["--config.certify.methods=('Box',)"], "certify.methods", ("Box",)),
    (["--config.certify.methods=Box, AlphaCROWN(20, HBox)"], "certify.methods",
     ("Box", "AlphaCROWN(20, HBox)")),
    (["--config.certify.attacks=MIFGSM,APGD(100, loss=DLR)"], "certify.attacks",
     ("MIFGSM", "APGD(100, loss=DLR)")),
    (["--config.certify.methods=Box", "--config.certify.methods=HBox"],
     "certify.methods", ("Box", "HBox")),
])
def test_values(words, key, value):
  """Of the key's kind, not only equal."""
  found = get(changed(*words), key)
  assert found == value and type(found) is type(value)


def test_other_words_are_left():
  """In their order; what stands after -- is nobody's flag."""
  rest, changes = command_line.take_changes([
      "main.py", "--workdir=a", "--config.seed=1", "--config=b", "x", "--",
      "--config.seed=2",
  ])
  assert rest == ["main.py", "--workdir=a", "--config=b", "x", "--",
                  "--config.seed=2"]
  assert changes == [("seed", "1")]


def _text(rng: random.Random) -> str:
  """Something that a user, or nobody, would give as a value."""
  words = (
      "0", "1", "-1", "0.5", "1e9", "1e400", "nan", "inf", "9" * 400, "9" * 5000,
      "true", "None", "", " ", "Box", "HBox", "Lin(0, 1, 5)", "cosine(1, 9)",
      "Mix(Point, Box, 0.5)", "(", ")", "[", "]", "{", "}", ",", "/", "*", "-",
      "\x00", "\n", "\udcff", "\u202e", "é", "'", '"', "\\\\", "#", "x" * 999,
      "2147483648", "8/255", "1/0", "train[", "test", "adam", "FFNN", "digits",
      "~", "..", "=", "Sub(", "PGD(1e30)", "0x10", "1_0", "0b1", "1j", "()",
  )
  return "".join(rng.choices(words, k=rng.choice((1, 1, 1, 2, 3, 6))))


@pytest.mark.parametrize("seed", range(4))
def test_random_texts_are_taken_or_refused_in_a_line(seed):
  """Of one key, or of three at once; nothing but a UsageError is raised."""
  rng, keys = random.Random(seed), keys_of(base_config())
  taken = 0
  for _ in range(500):
    words = [
        f"--config.{rng.choice(keys)}={_text(rng)}"
        for _ in range(rng.choice((1, 1, 3)))
    ]
    try:
      Job.from_config(changed(*words))
      taken += 1
    except UsageError as error:
      assert str(error).isprintable() and len(str(error)) < 1000, words
  assert 20 < taken < 400
