r"""Training schemes side by side: the same network, data and time.

  python -m benchmarks.schemes --workdir=runs/schemes --data_dir=FOLDER

Trains ConvSmall on MNIST with each scheme at epsilon 0.1 and 0.3, for as many
epochs as --minutes allow (a few steps are timed first), certifies each on the
test set and prints a table for docs/results.md. A run that is done is not done
again, one that was killed goes on: the same command finishes the table.
Everything but the objective is the same for all of an epsilon. What was chosen
(settings, weights) was chosen on the last 10,000 training images.
"""

import json
import os
import subprocess
import sys

from absl import app, flags

from benchmarks import tables
from diffai_jax.objectives import objective

_WORKDIR = flags.DEFINE_string("workdir", None, "a folder for each run")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "prepared TFDS datasets")
_MINUTES = flags.DEFINE_float("minutes", 20, "of training, each")
_ONLY = flags.DEFINE_list("only", [], "names of schemes; all by default")
_EPSILONS = flags.DEFINE_list("epsilons", ["0.1", "0.3"], "one or both radii")
_METHODS = flags.DEFINE_list(
    "methods", ["Box", "HBox"], "that certify, such as Box,HBox,AlphaCROWN(20)"
)
_SETTINGS = flags.DEFINE_list(
    "set", [], "further config keys for all runs, such as batch_size=256"
)

# Table 2's schemes as they stand, the others with their weights for MNIST.
SCHEMES = {
    "Baseline": "Baseline",
    "InSamp": "InSamp",
    "InSampLPA": "InSampLPA",
    "AdvISLPA(3)": "AdvISLPA(3)",
    "SABR": "SABR({share})",
    "CROWN_IBP": "CROWN_IBP_Ramp(0.5, {end}, 1)",
    "TAPS": "TAPS_IBP(1)",
    "STAPS": "STAPS({share}, 1)",
    "MTL_IBP": "MTL_IBP(0.6)",
    "CC_IBP": "CC_IBP(0.6)",
}
# By epsilon: SABR's and STAPS's share of the box, and what CROWN-IBP's β ends at.
NUMBERS = {"0.1": {"share": 0.4, "end": 1}, "0.3": {"share": 0.6, "end": 0}}
_PROBE_EPOCHS = 1.0


def command(goal: str, epsilon: str, epochs: float, workdir: str) -> list[str]:
  """The command line of one run."""
  keys = {
      "goal": goal, "epochs": epochs, "schedule_epochs": 200.0,
      "data_dir": _DATA_DIR.value,
      "certify.methods": repr(tuple(_METHODS.value)),
  }
  settings = [f"{key}={value}" for key, value in keys.items()]
  settings += _SETTINGS.value
  return [
      sys.executable, "-m", "diffai_jax.main",
      f"--config=configs/convsmall.py:mnist,{epsilon}", f"--workdir={workdir}",
      *(f"--config.{setting}" for setting in settings),
  ]


def speed(goal: str, epsilon: str, workdir: str) -> float:
  """Examples a second of this objective with all of its parts at work."""
  # From the middle of the ramps on: parts of weight 0 cost nothing.
  halfway = str(objective(goal)).replace("Lin(0, ", "Lin(0.5, ")
  halfway = halfway.replace("Until(60, 0, 1)", "Until(0, 0, 1)")
  path = os.path.join(workdir, "metrics.jsonl")
  if not os.path.exists(path):
    run = command(halfway, epsilon, _PROBE_EPOCHS, workdir)
    subprocess.run(run + ["--config.certify.examples=100"], check=True)
  with open(path, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
  return max(row["examples_per_second"] for row in rows)


HEADER = ("epsilon", "scheme", "epochs", "standard", "attacked")


def main(_) -> None:
  tables.check_names(_ONLY.value, SCHEMES)
  tables.check_names(_EPSILONS.value, NUMBERS, "--epsilons")
  print(tables.table((*HEADER, *_METHODS.value), []), flush=True)
  for epsilon, numbers in NUMBERS.items():
    if epsilon not in _EPSILONS.value:
      continue
    for name, text in SCHEMES.items():
      if _ONLY.value and name not in _ONLY.value:
        continue
      goal = text.format(**numbers)
      workdir = os.path.join(_WORKDIR.value, f"{name}_{epsilon}")
      rate = speed(goal, epsilon, workdir + "_probe")
      epochs = max(1, round(60 * _MINUTES.value * rate / 60_000))
      results = os.path.join(workdir, "certification.json")
      if not os.path.exists(results):
        subprocess.run(command(goal, epsilon, epochs, workdir), check=True)
      with open(results, encoding="utf-8") as file:
        found = json.load(file)
      verified = found["verified_accuracy"]
      accuracies = (
          found["standard_accuracy"], found["attacked_accuracy"],
          *(verified[method] for method in _METHODS.value),
      )
      print(tables.line([
          epsilon, goal, epochs, *(f"{accuracy:.4f}" for accuracy in accuracies)
      ]), flush=True)


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  app.run(main)
