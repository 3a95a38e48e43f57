"""The command starts again with large pages, once, and only where there are any."""

import subprocess
import sys

import pytest

from diffai_jax.app import huge_pages

ASKED = "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("before, after", [
    ({}, {"GLIBC_TUNABLES": ASKED}),
    ({"HOME": "/"}, {"HOME": "/", "GLIBC_TUNABLES": ASKED}),
    (
        {"GLIBC_TUNABLES": "glibc.malloc.check=3"},
        {"GLIBC_TUNABLES": f"glibc.malloc.check=3:{ASKED}"},
    ),
    (
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
        {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
    ),
])
def test_environment_adds_to_what_is_set(monkeypatch, before, after):
  monkeypatch.setattr(huge_pages, "on_request", lambda: True)
  assert huge_pages.environment(before) == after
  assert huge_pages.environment(after) == after


def test_environment_stays_where_there_are_none(monkeypatch):
  monkeypatch.setattr(huge_pages, "on_request", lambda: False)
  assert huge_pages.environment({"HOME": "/"}) == {"HOME": "/"}


@pytest.mark.parametrize("library, kernel, expected", [
    (("glibc", "2.36"), "always [madvise] never\n", True),
    (("glibc", "2.34"), "always [madvise] never\n", False),
    (("glibc", "2.36"), "[always] madvise never\n", False),
    (("glibc", "2.36"), "always madvise [never]\n", False),
    (("glibc", "2.36"), None, False),
    (("", ""), "always [madvise] never\n", False),
    (("glibc", ""), "always [madvise] never\n", False),
])
def test_on_request(monkeypatch, tmp_path, library, kernel, expected):
  path = tmp_path / "enabled"
  if kernel is not None:
    path.write_text(kernel)
  monkeypatch.setattr(huge_pages, "_KERNEL", str(path))
  monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
  assert huge_pages.on_request() is expected


def test_restart_keeps_the_command_and_happens_once(tmp_path):
  """Each start adds a line to a file; the arguments arrive as they were."""
  starts = tmp_path / "starts"
  script = tmp_path / "command.py"
  script.write_text(
      "import os, sys\n"
      "from diffai_jax.app import huge_pages\n"
      "huge_pages.on_request = lambda: True\n"
      f"open({str(starts)!r}, 'a').write('started\\n')\n"
      "huge_pages.restart()\n"
      "print(sys.argv[1:], os.environ['GLIBC_TUNABLES'])\n"
  )
  done = subprocess.run(
      [sys.executable, str(script), "--a=b c", "d"], text=True, check=True,
      stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)},
  )
  assert done.stdout.strip() == f"['--a=b c', 'd'] {ASKED}"
  assert starts.read_text() == "started\nstarted\n"
