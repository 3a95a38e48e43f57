"""Memory in pages of 2 MiB instead of 4 KiB, where Linux has them on request.

XLA asks the C library for the temporaries of every step anew, and the kernel
hands them out page by page: 27,000 pages for a step of ConvBig, a quarter of its
time (docs/performance.md). The GNU C library asks for large pages if a variable
of the environment says so when the process begins; so Python starts once more.
"""

from collections.abc import Mapping
import os
import platform
import sys

_VARIABLE = "GLIBC_TUNABLES"
_NAME = "glibc.malloc.hugetlb"  # Since glibc 2.35; 1 is madvise.
_FIRST_RELEASE = (2, 35)
_KERNEL = "/sys/kernel/mm/transparent_hugepage/enabled"


def on_request() -> bool:
  """Whether this kernel has large pages on request, and the C library asks."""
  name, release = platform.libc_ver()
  if name != "glibc":
    return False
  numbers = release.split(".")[:2]
  if not all(number.isdecimal() for number in numbers):
    return False
  try:
    with open(_KERNEL, encoding="ascii") as file:
      enabled = file.read()
  except OSError:
    return False
  return tuple(map(int, numbers)) >= _FIRST_RELEASE and "[madvise]" in enabled


def environment(current: Mapping[str, str]) -> dict[str, str]:
  """An environment in which the C library asks for large pages.

  Equal to `current` if that says something about it already, such as
  GLIBC_TUNABLES=glibc.malloc.hugetlb=0, or if this machine has none on request.
  """
  given = current.get(_VARIABLE, "")
  if _NAME in given or not on_request():
    return dict(current)
  words = [word for word in (given, f"{_NAME}=1") if word]
  return dict(current) | {_VARIABLE: ":".join(words)}


def restart() -> None:
  """Starts this Python command again in that environment, if it is another.

  To be called before anything is loaded; does not return where it restarts.
  """
  wanted = environment(os.environ)
  if wanted != dict(os.environ):
    os.execve(sys.executable, sys.orig_argv, wanted)
