r"""One check of a machine with an accelerator: is it sound there, and how fast.

  bash launch/gpu_check.sh
  python -m benchmarks.gpu_check --json=FILE --table=FILE

Parts, each in a process of its own, so that one that fails or never ends takes
no other with it:

- soundness: random networks whose points are looked for outside of their bounds,
  in float32 and float64 against NumPy's long double, and the device's own products
  against what proofs allow for;
- step, torch: a training step of ResNet-18 and CNN7 (without batch normalisation)
  on a point and a box, at the batch of their configs, in float32, with TF32
  products, and in bfloat16; ours and, where it is installed, PyTorch's;
- certification: milliseconds an image of predictions, Box and HBox;
- training: a short run on digits, certified.

Nothing is downloaded, and the command line's packages (ml_collections, TFDS,
array_record, tensorboardX), scikit-learn and PyTorch may be missing. On CPUs
ConvSmall stands for the networks, and sizes are small: only that the parts work is
seen there.

Exits with 1 if a part failed; what the others found is written all the same.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time

from absl import app, flags, logging

from benchmarks import tables

_JSON = flags.DEFINE_string("json", "gpu_check.json", "file for the results")
_TABLE = flags.DEFINE_string("table", "gpu_check.md", "file for the table")
_ONLY = flags.DEFINE_list(
    "only", [], "parts, or what their names begin with; all by default"
)
_MINUTES = flags.DEFINE_float("minutes", 30.0, "that a part may take")
_ONE = flags.DEFINE_string("one", None, "the part to do in this process")

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch",
    "nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "libtpu",
)
# What PyTorch's loss and gradients are compared on is not the device's.
_ON_HOST = ("torch/",)
_HEADER = ("part", "batch", "ms", "median", "a second", "MiB", "compile, s", "")


def main(argv) -> None:
  del argv
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    from benchmarks import gpu_parts  # pylint: disable=g-import-not-at-top

    parts = gpu_parts.PARTS | {"machine": gpu_parts.machine}
    print("\n" + json.dumps(parts[_ONE.value]()))
    return
  machine = run_part("machine")
  parts = machine.pop("parts", {})
  results = {"system": system(), "machine": machine, "parts": {}}
  names = _chosen(list(parts))
  if machine.get("platform") == "cpu":  # To see that it works, soon.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
  for number, name in enumerate(names, 1):
    start = time.monotonic()
    left_out = parts[name]
    found = {"not available": left_out} if left_out else run_part(name)
    results["parts"][name] = found
    found["part_seconds"] = time.monotonic() - start
    told = found.get("failed") or found.get("not available") or "done"
    print(f"{number}/{len(names)} {name}: {told}", flush=True)
    tables.write_json(_JSON.value, results)
    _write_table(results)
  tables.write_json(_JSON.value, results)
  _write_table(results)
  print("\n" + table_of(results))
  print(f"\nwrote {_JSON.value} and {_TABLE.value}")
  if any("failed" in found for found in (machine, *results["parts"].values())):
    sys.exit(1)


def _chosen(names: list[str]) -> list[str]:
  """Those that --only asks for; none where there is no device."""
  for given in _ONLY.value if names else ():
    if not any(name.startswith(given) for name in names):
      raise app.UsageError(
          f"--only has {given!r}; expected some of {', '.join(names)}"
      )
  wanted = tuple(_ONLY.value)
  return [name for name in names if not wanted or name.startswith(wanted)]


def run_part(name: str) -> dict:
  """What a part found, or {"failed": why, in one line}."""
  environment = dict(os.environ)
  if name.startswith(_ON_HOST):
    environment["JAX_PLATFORMS"] = "cpu"
  try:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", f"--one={name}"],
        capture_output=True, text=True, check=False, env=environment,
        timeout=60 * _MINUTES.value,
    )
  except subprocess.TimeoutExpired:
    return {"failed": f"it took more than {_MINUTES.value:g} minutes"}
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  lines = [line for line in done.stderr.splitlines() if line.strip()]
  return {
      "failed": lines[-1].strip()[:500] if lines else "it said nothing",
      "exit_code": done.returncode, "stderr": lines[-40:],
  }


def system() -> dict:
  """Names and versions: the card, its driver, the host, the packages."""
  return {
      "host": f"{platform.system()} {platform.machine()}, {_cpu()},"
              f" {os.cpu_count()} cores",
      "python": platform.python_version(),
      "cards": _cards(),
      "packages": dict(filter(all, ((n, _version(n)) for n in _PACKAGES))),
  }


def _cards() -> list[str]:
  """Of NVIDIA's: name, memory and driver, a line each."""
  try:
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total,driver_version",
         "--format=csv,noheader"],
        capture_output=True, text=True, check=True, timeout=60,
    )
  except (OSError, subprocess.SubprocessError):
    return []
  return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def _cpu() -> str:
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      names = [line for line in file if line.startswith("model name")]
    return names[0].partition(":")[2].strip()
  except (OSError, IndexError):
    return platform.processor() or "unknown CPU"


def _version(name: str) -> str | None:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _write_table(results: dict) -> None:
  if _TABLE.value:
    with open(_TABLE.value, "w", encoding="utf-8") as file:
      file.write(table_of(results) + "\n")


def table_of(results: dict) -> str:
  """All that was found, in markdown, with the machine's names above."""
  found, system_, parts = [], results["system"], results["parts"]
  device = results["machine"]
  if "failed" in device:
    found.append(f"JAX finds no device: {device['failed']}")
  else:
    found.append(
        f"{device['devices']} {device['kind']} ({device['platform']};"
        f" {device['platform_version']})"
    )
  found += system_["cards"] + [f"{system_['host']}; Python {system_['python']}"]
  found.append(", ".join(f"{n} {v}" for n, v in system_["packages"].items()))
  rows = []
  for name, part in parts.items():
    rows += _rows(name, part)
  return "  \n".join(found) + "\n\n" + tables.table(_HEADER, rows)


def _rows(name: str, part: dict) -> list[list]:
  """A part's rows of the table."""
  nothing = [None] * 6
  if "failed" in part:
    return [[name, *nothing, f"failed: {part['failed'][:120]}"]]
  if "not available" in part:
    return [[name, *nothing, part["not available"][:120]]]
  if name == "soundness":
    return [
        [f"{name}, {kind}", *nothing, _searched(found)]
        for kind, found in part.items() if isinstance(found, dict)
    ]
  if name == "training":
    proved = ", ".join(
        f"{n} {share:.3f}" for n, share in part["verified_accuracy"].items()
    )
    return [[
        name, None, None, None, f"{part['examples_per_second']:,.0f}", None, None,
        f"{part['data']}, {part['epochs']} epochs in {part['seconds']:.0f} s:"
        f" accuracy {part['standard_accuracy']:.3f}, attacked"
        f" {part['attacked_accuracy']:.3f}, verified {proved}",
    ]]
  if name.startswith("certification/"):
    return [
        _measured(f"{name}, {what}, an image", row)
        for what, row in part.items() if isinstance(row, dict)
    ]
  return [_measured(name, part)]


def _searched(found: dict) -> str:
  if "not available" in found:
    return found["not available"][:120]
  return (
      f"{found['networks']} networks, {found['points']:,} points,"
      f" {found['escapes']} escapes"
  )


def _measured(name: str, row: dict) -> list:
  rate, compiled, mib = (
      row.get(key) for key in ("examples_per_second", "compile_seconds", "mib")
  )
  return [
      name, row["batch"], f"{row['ms']:.3f}", f"{row['median_ms']:.3f}",
      None if rate is None else f"{rate:,.0f}",
      None if mib is None else f"{mib:,.0f}",
      None if compiled is None else f"{compiled:.1f}",
      ", ".join(row[key] for key in ("network", "device") if key in row),
  ]


if __name__ == "__main__":
  app.run(main)
