r"""Methods of certification on trained networks, beside the same in plain PyTorch.

  python -m benchmarks.verification --run=FOLDER --dataset=mnist --epsilon=0.1 \
      --data_dir=FOLDER [--images=200] [--json=FILE]

For each method: how many of the first test images it proves, milliseconds an image
(least and median of runs in turn, after compiling) and seconds of the first run, with
its compilation. PyTorch, where it is installed, computes CROWN_IBP, CROWN and
AlphaCROWN as `torch_crown` does, in batches of --torch_batch images, as sharp but without an
allowance for rounding. Whole certifications are timed, host and all.
"""

from absl import app, flags, logging
import jax
import numpy as np

from benchmarks import tables, timing
from benchmarks.first_images import first_of_test
import diffai_jax as dj
from diffai_jax.networks import certified, graph_of
from diffai_jax.types import Mode
from diffai_jax.verification import program_cache

try:
  import torch

  from benchmarks import torch_crown
except ImportError:  # Only the columns of PyTorch need it.
  torch = None

_RUN = flags.DEFINE_string("run", None, "work folder of a trained network")
_DATASET = flags.DEFINE_string("dataset", "mnist", "whose test images")
_DATA = flags.DEFINE_string("data_dir", None, "of prepared datasets")
_EPSILON = flags.DEFINE_float("epsilon", 0.1, "of the boxes")
_IMAGES = flags.DEFINE_integer("images", 200, "the first ones")
_METHODS = flags.DEFINE_list(
    "methods", ["Box", "CROWN_IBP", "HBox", "ZDeepZ", "CROWN", "AlphaCROWN(20)"],
    "what is measured",
)
_BATCH = flags.DEFINE_integer("torch_batch", 20, "images that PyTorch takes")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "of timing")
_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_OF_TORCH = {
    "CROWN_IBP": ("CROWN_IBP", 0), "CROWN": ("CROWN", 0),
    "AlphaCROWN(20)": ("CROWN", 20),
}


def _with_torch(run, images, labels) -> dict:
  """By method, what computes all margins, [N, K - 1]."""
  shape = images.shape[1:]
  network, params = certified(run.network, run.variables, shape)
  graph = graph_of(
      network, {"params": params}, shape, Mode.CERTIFY, np.dtype("float32")
  )
  bounds = torch_crown.Crown(graph)

  def margins(method, steps):
    found = []
    for begin in range(0, len(images), _BATCH.value):
      part = slice(begin, begin + _BATCH.value)
      found.append(bounds.margins(
          images[part], labels[part], _EPSILON.value, method, steps
      ))
    return np.concatenate(found)

  return {
      name: lambda given=given: margins(*given)
      for name, given in _OF_TORCH.items() if name in _METHODS.value
  }


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.FATAL)
  run = dj.load(_RUN.value)
  images, labels = first_of_test(_DATASET.value, _IMAGES.value, _DATA.value)

  def certify(method):
    return dj.certify(
        run, images, labels, dj.Linf(_EPSILON.value), [method], attack=None
    )

  results, functions = {}, {}
  for method in _METHODS.value:
    program_cache.forget()
    found = certify(method)
    results[method] = {
        "proved": int(found.verified[method].sum()),
        "first_seconds": found.seconds[method],
    }
  program_cache.forget()
  for method in _METHODS.value:
    functions[method] = lambda method=method: certify(method)
  of_torch = _with_torch(run, images, labels) if torch is not None else {}
  for method, margins in of_torch.items():
    found = margins()
    results[method]["PyTorch proved"] = int((found < 0).all(axis=1).sum())
    functions[f"PyTorch {method}"] = margins
  functions |= timing.matrix_products()
  times = timing.interleaved(functions, rounds=3, seconds=_SECONDS.value)
  for method in _METHODS.value:
    own = results[method]
    for prefix in ("", "PyTorch "):
      if prefix + method in times:
        taken = np.asarray(times[prefix + method]) * 1e3 / len(images)
        own[f"{prefix}ms"] = float(taken.min())
        own[f"{prefix}median"] = float(np.median(taken))
  print(f"{len(images)} images of {_DATASET.value}, epsilon {_EPSILON.value:g};"
        f" {timing.THREADS} threads; JAX {jax.__version__}")
  print(tables.table(
      ["method", "proved", "ms", "median", "first run s", "PyTorch proved",
       "ms", "median"],
      [
          [m, *(_shown(results[m].get(key)) for key in (
              "proved", "ms", "median", "first_seconds", "PyTorch proved",
              "PyTorch ms", "PyTorch median",
          ))]
          for m in _METHODS.value
      ],
  ))
  tables.write_json(_JSON.value, results)


def _shown(value) -> str:
  if value is None:
    return ""
  return str(value) if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
  app.run(main)
