"""What a search is told, what it says on the way, and what it knows at its end."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to search.

  Attributes:
    seconds: of an image; compiling is left out.
    total: of all images together.
    root_steps: of α before anything is split.
    cuts: whether subdomains are bounded over the corner alone where they may break
      the spec, see `cuts`. Not where leaves are asked for, nor of networks of few
      ReLUs, which take less time than that program's compiling.
    steps: of α and β after each split, at most; see few_steps.
    attack_steps, restarts: of the attacks on what is open; 0 steps attack nothing.
    batch: parents a device and round; None is what the platform gains from.
    pool_mib: what open subdomains may take on the host, in MiB. Beyond, the image
      that has the most of them is given up.
    few_inputs: regions of at most so many variables that are no single number are
      split themselves; others by the signs of ReLUs.
    fewest_inputs: those of at most so many are split whatever the network.
    few_relus: networks of at most so many ReLUs, and nothing else to relax, are
      split by their signs in all other regions. (Random networks of 50 to 70 ReLUs:
      of 4 to 8 inputs boxes take a third of the time, of 10 ten times as long.)
    few_steps: of α and β after each split of these networks. Their steps cost less
      than what the host does in a round, and of a subdomain with nearly every sign
      decided few steps prove little. (Of 25 with 10 inputs and 60 ReLUs, the two
      hardest take 3 and 14 thousand subdomains, with 10 steps 115 and over 270
      thousand; a ConvMed is faster with 10.)
    seed: of random starts.
  """

  seconds: float = 30.0
  total: float = math.inf
  root_steps: int = 20
  cuts: bool = True
  steps: int = 10
  attack_steps: int = 40
  restarts: int = 2
  batch: int | None = None
  pool_mib: float = 1024.0
  few_inputs: int = 12
  fewest_inputs: int = 8
  few_relus: int = 64
  few_steps: int = 40
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class State:
  """How far a search is.

  Attributes:
    images: how many are open.
    subdomains: that are open.
    bounded: subdomains that were bounded so far.
    worst: the largest bound of an open one.
    rate: subdomains bounded a second in the last round.
  """

  images: int
  subdomains: int
  bounded: int
  worst: float
  rate: float

  def __str__(self) -> str:
    return (
        f"{self.images} open, {self.subdomains} subdomains of {self.bounded},"
        f" worst {self.worst:.3g}, {self.rate:.0f}/s"
    )


@dataclasses.dataclass(frozen=True)
class Found:
  """What is known of I images.

  Attributes:
    verified, falsified: bool [I]; where both are false it is unknown.
    bound: upper bound of the worst group, [I]; below 0 if verified.
    points: that break the spec where it is falsified, else 0, [I, ...].
    seconds: of each image, compiling left out, [I].
    subdomains: bounded for each image after its root, [I].
    interrupted: whether Ctrl-C ended the search.
  """

  verified: np.ndarray
  falsified: np.ndarray
  bound: np.ndarray
  points: np.ndarray
  seconds: np.ndarray
  subdomains: np.ndarray
  interrupted: bool = False
