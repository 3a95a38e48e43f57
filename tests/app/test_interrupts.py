"""Signals end the program where nothing is lost, and change nothing else."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from diffai_jax.app import interrupts

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", _SIGNALS)
def test_outside_of_deferred_parts_it_is_raised_at_once(number):
  """With the exit code that shells know, and where the program was."""
  with pytest.raises(interrupts.Interrupted) as caught, interrupts.caught():
    with interrupts.told("outside"), interrupts.told("in the middle"):
      os.kill(os.getpid(), number)
  assert caught.value.exit_code == 128 + number
  name = signal.Signals(number).name
  assert caught.value.message == f"stopped by {name} in the middle"


def test_a_deferred_part_looks_by_itself(monkeypatch):
  """It is told at once; what was not looked at raises at its end."""
  seen, said, told = [], [], threading.Event()

  def say(text):
    said.append(text)
    told.set()

  monkeypatch.setattr(interrupts, "_say", say)
  with pytest.raises(interrupts.Interrupted) as caught, interrupts.caught():
    with interrupts.deferred("at its end"):
      seen.append(interrupts.requested())
      os.kill(os.getpid(), signal.SIGTERM)
      seen.append(interrupts.requested())
      assert told.wait(timeout=30)
    seen.append("not reached")
  assert seen == [None, signal.SIGTERM]
  assert interrupts.requested() is None  # Of this process's next run.
  assert caught.value.message == "stopped by SIGTERM at its end"
  assert said == [
      "SIGTERM: stopping after this step; once more ends at once"
  ]


def test_the_handlers_from_before_come_back():
  """Whatever happens inside; and importing has set none."""
  before = [signal.getsignal(number) for number in _SIGNALS]
  assert before[0] is signal.default_int_handler
  with pytest.raises(ValueError), interrupts.caught():
    assert signal.getsignal(signal.SIGTERM) not in before
    raise ValueError
  assert [signal.getsignal(number) for number in _SIGNALS] == before
  with interrupts.caught():
    assert interrupts.requested() is None


def test_what_is_ignored_stays_ignored():
  """A command under nohup outlives its terminal."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with interrupts.caught():
      os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, before)


def _run(program: str) -> subprocess.CompletedProcess:
  return subprocess.run(
      [sys.executable, "-c", textwrap.dedent(program)], capture_output=True,
      text=True, timeout=60, check=False,
  )


def test_a_second_signal_ends_whatever_goes_on():
  """Also what never looks, such as a compilation."""
  found = _run("""
      import os, signal, threading
      from diffai_jax.app import interrupts
      with interrupts.caught(), interrupts.deferred(""):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait()
  """)
  assert found.returncode == 130
  assert "Traceback" not in found.stderr
  assert found.stderr.endswith("error: stopped by SIGINT at once\n")


def test_a_compilation_that_has_nothing_to_save_is_ended():
  """Python's handler does not run in it; the process ends all the same."""
  found = _run("""
      import hashlib, os, signal, threading
      from diffai_jax.app import interrupts
      interrupts._PATIENCE = 0.01
      with interrupts.caught():
        threading.Timer(
            0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)
        ).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # Takes ages.
  """)
  assert found.returncode == 143
  assert "in a compilation" in found.stderr


def test_a_signal_in_what_swallows_exceptions_comes_again():
  """Such as a callback of the garbage collector, of which JAX has one."""
  found = _run("""
      import gc, os, signal, time
      from diffai_jax.app import interrupts

      def callback(phase, info):
        gc.callbacks.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

      gc.disable()
      try:
        with interrupts.caught():
          gc.callbacks.append(callback)
          gc.collect()
          time.sleep(30)
          print("not reached")
      except interrupts.Interrupted as error:
        print(error.number)
  """)
  assert (found.returncode, found.stdout, found.stderr) == (0, "15\n", "")


def test_once_all_is_done_a_signal_changes_nothing():
  """Python drops handlers of its own before its end; ignored ones stay."""
  found = _run("""
      import atexit, os, signal
      from diffai_jax.app import interrupts
      with interrupts.caught(last=True):
        pass
      for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert signal.getsignal(number) == signal.SIG_IGN
        atexit.register(os.kill, os.getpid(), number)
      print("done")
  """)
  assert (found.returncode, found.stdout, found.stderr) == (0, "done\n", "")


def test_while_loading_it_is_one_line():
  found = _run("""
      import os, signal
      from diffai_jax.app import interrupts
      interrupts.end_while_loading()
      os.kill(os.getpid(), signal.SIGHUP)
      print("not reached")
  """)
  assert (found.returncode, found.stdout) == (129, "")
  assert found.stderr.split("\n") == [
      "", "error: stopped by SIGHUP before anything was done", ""
  ]


def test_who_has_to_know_is_told_before_the_process_ends():
  """A signal in what never gets to a handler: the others of a run, say."""
  program = """
      import os, signal, sys, time
      from diffai_jax.app import interrupts

      interrupts.before_end(
          lambda message, code: os.write(1, f"{code} {message}".encode())
      )
      with interrupts.caught(), interrupts.deferred("at its end"):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
  """
  done = _run(program)
  assert done.returncode == 143
  assert done.stdout == "143 stopped by SIGTERM at once"
