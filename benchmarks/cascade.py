r"""A whole certification of a trained network: what each step decides, and its time.

  python -m benchmarks.cascade --run=FOLDER --dataset=mnist --epsilon=0.1 \
      --data_dir=FOLDER [--images=200] \
      [--attacks="MIFGSM,APGD(20)"] [--methods="Box,CROWN,BranchAndBound(60)"]

Several cascades are separated by "/" in --methods. Each is run twice, the second time
with everything compiled; of a search only its own seconds count then, as it measures
them. What one cascade proves and another does not is said at the end.
"""

from absl import app, flags, logging
import numpy as np

from benchmarks import tables
from benchmarks.first_images import first_of_test
import diffai_jax as dj
from diffai_jax.text.lists import split
from diffai_jax.verification import program_cache

_RUN = flags.DEFINE_string("run", None, "work folder of a trained network")
_DATASET = flags.DEFINE_string("dataset", "mnist", "whose test images")
_DATA = flags.DEFINE_string("data_dir", None, "of prepared datasets")
_EPSILON = flags.DEFINE_float("epsilon", 0.1, "of the boxes")
_IMAGES = flags.DEFINE_integer("images", 200, "the first ones")
_ATTACKS = flags.DEFINE_string("attacks", "MIFGSM", "tried first")
_METHODS = flags.DEFINE_string("methods", "Box,HBox", "of each cascade")


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.FATAL)
  run = dj.load(_RUN.value)
  images, labels = first_of_test(_DATASET.value, _IMAGES.value, _DATA.value)
  proved = {}
  for text in _METHODS.value.split("/"):
    program_cache.forget()
    for which in ("first run", "compiled"):
      found = dj.certify(
          run, images, labels, dj.Linf(_EPSILON.value), split(text),
          attacks=split(_ATTACKS.value), skip_decided=True,
      )
      print(f"{text}, {which}, {sum(found.seconds.values()):.2f} s in all:")
      print(_table(found), flush=True)
    proved[text] = found.verified[list(found.verified)[-1]]
  everything = np.any(list(proved.values()), axis=0)
  for text, own in proved.items():
    print(f"{text}: {own.sum()} proved, {(everything & ~own).sum()} that others do")


def _table(found) -> str:
  """What each step of a certification decided."""
  standing = found.predictions == found.labels
  rows = [["standard", len(standing), standing.sum(), found.seconds["standard"]]]
  for name, broken in found.broken.items():
    seconds = found.seconds.get(f"attack {name}", found.seconds.get("attack"))
    rows.append([name, standing.sum(), broken.sum(), seconds])
    standing = standing & ~broken
  for name, verified in found.verified.items():
    rows.append([name, found.asked[name], verified.sum(), found.seconds[name]])
    if name in found.image_seconds:
      rows[-1][3] = found.image_seconds[name].sum()
      rows.append([f"  {found.subdomains[name].sum()} subdomains, falsified", "",
                   (found.falsified & standing).sum(), ""])
  shown = lambda value: f"{value:.3f}" if isinstance(value, float) else str(value)
  return tables.table(
      ["step", "asked", "right, broken, proved", "seconds"],
      [[shown(float(v) if hasattr(v, "dtype") and v.dtype.kind == "f" else v)
        for v in row] for row in rows],
  )


if __name__ == "__main__":
  app.run(main)
