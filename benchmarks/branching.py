"""How many subdomains a second branch and bound gets through.

  python -m benchmarks.branching --batches=4,16,64 --devices=1,2,4

A network of the paper with random weights, and an ε at which roots are open: the
search then only splits. Batches are parents a device and round; with several devices
the CPU's cores are shared as XLA's host devices, each in a process of its own.
"""

import argparse
import os
import subprocess
import sys
import time


def measure(name: str, epsilon: float, batch: int, seconds: float) -> None:
  """Prints the rate of one batch size, compiling left out."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from diffai_jax import networks
  from diffai_jax.branching import Settings, search
  from diffai_jax.networks import certified, graph_of
  from diffai_jax.regions import Linf, labels

  shape = (28, 28, 1)
  network = networks.create(name, 10)
  variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)))
  network, params = certified(network, variables, shape)
  graph = graph_of(network, {"params": params}, shape)
  images = np.random.default_rng(0).uniform(size=(8, *shape))
  images = images.astype(np.float32)
  found = np.asarray(graph(images)).argmax(axis=1)
  states = []
  began = time.monotonic()
  result = search(
      graph, images, Linf(epsilon), labels(found, 10),
      Settings(seconds=seconds, total=seconds, attack_steps=0, batch=batch),
      progress=states.append,
  )
  full = [s.rate for s in states if s.subdomains > 4 * batch] or [0.0]
  print(
      f"{len(jax.local_devices())} devices, batch {batch}:"
      f" {np.median(full):.0f} subdomains/s in full rounds,"
      f" {result.subdomains.sum()} in {result.seconds.sum():.1f} s"
      f" ({time.monotonic() - began:.0f} s with compiling),"
      f" {result.verified.sum()} verified", flush=True,
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--network", default="ConvSmall")
  parser.add_argument("--epsilon", type=float, default=0.02)
  parser.add_argument("--batches", default="4,16,64")
  parser.add_argument("--devices", default="1")
  parser.add_argument("--seconds", type=float, default=20)
  parser.add_argument("--one", type=int, help="measure this batch here")
  given = parser.parse_args()
  if given.one:
    measure(given.network, given.epsilon, given.one, given.seconds)
    return
  for devices in given.devices.split(","):
    flags = os.environ.get("XLA_FLAGS", "")
    flags += f" --xla_force_host_platform_device_count={devices}"
    for batch in given.batches.split(","):
      subprocess.run(
          [
              sys.executable, "-m", "benchmarks.branching", f"--one={batch}",
              f"--network={given.network}", f"--epsilon={given.epsilon}",
              f"--seconds={given.seconds}",
          ],
          env=os.environ | {"XLA_FLAGS": flags}, check=True,
      )


if __name__ == "__main__":
  main()
