"""The loop of training on steps that cost nothing: what it takes, tells, keeps."""

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.training import loop
from diffai_jax.training.state import TrainState

_LENGTH = loop.Length(total=7, per_epoch=3, batch_size=8)


def _state(step: int = 0) -> TrainState:
  return TrainState(
      step=jnp.asarray(step, jnp.int32), params={"w": jnp.asarray(float(step))},
      optimizer=(), statistics={},
  )


def _step(losses=None, taken=None):
  """A step that adds 1 to the weight; its loss is of a list, or the weight."""

  def step(state, images, labels):
    number = int(state.step) + 1
    if taken is not None:
      taken.append((number, images.shape, labels.shape))
    new = dataclasses.replace(
        state, step=state.step + 1, params={"w": state.params["w"] + 1}
    )
    loss = float(number) if losses is None else losses[number - 1]
    return new, {
        "loss": jnp.asarray(loss), "gradient_norm": jnp.ones(()),
        "epsilon": jnp.asarray(number / 10), "largest_bound": jnp.ones(()),
    } | ({"odd": jnp.asarray(loss)} if number % 2 else {})

  return step


def _stream():
  while True:
    yield np.zeros((8, 2)), np.zeros(8, np.int32)


def _run(state=None, step=None, rows=None, **options):
  step = step or _step()
  rows = [] if rows is None else rows
  return loop.run(
      _state() if state is None else state, _LENGTH, lambda number: step,
      _stream(), lambda number, row: rows.append((number, row)), **options,
  )


class _Saver:
  """Notes what it is asked for."""

  def __init__(self, due=()):
    self.calls = []
    self.keeper = types.SimpleNamespace(latest="the/last")
    self._due = set(due)

  def is_due(self):
    return len(self.calls) in self._due

  def write(self, state):
    self.calls.append(("write", int(state.step)))
    return jax.tree.map(np.array, state)

  def confirm(self, step):
    self.calls.append(("confirm", step))


def test_it_takes_all_steps_and_tries_one_more():
  """Batches are split over the devices; the last state stays as it was."""
  taken = []
  state = _run(step=_step(taken=taken))
  assert (int(state.step), float(state.params["w"])) == (7, 7.0)
  devices = jax.local_device_count()
  assert [t[0] for t in taken] == [1, 2, 3, 4, 5, 6, 7, 8]
  assert {t[1:] for t in taken} == {
      ((devices, 8 // devices, 2), (devices, 8 // devices))
  }


def test_it_goes_on_from_a_state():
  taken = []
  assert int(_run(_state(5), _step(taken=taken)).step) == 7
  assert [t[0] for t in taken] == [6, 7, 8]
  taken.clear()
  assert int(_run(_state(7), _step(taken=taken)).step) == 7 and not taken


def test_the_end_of_each_epoch_has_a_row():
  """Means over its steps, the largest radius, what parts measured; the end too."""
  rows = []
  _run(rows=rows, epoch_rows=True)
  assert [number for number, _ in rows] == [3, 6, 7]
  first, second, last = (row for _, row in rows)
  assert first["epoch"] == 1.0 and first["loss"] == 2.0
  assert first["epsilon"] == pytest.approx(0.3) and first["odd"] == 2.0
  assert second["loss"] == 5.0 and second["odd"] == 5.0
  assert last["epoch"] == pytest.approx(7 / 3) and last["loss"] == 7.0
  assert all(row["examples_per_second"] > 0 for _, row in rows)


def test_otherwise_a_row_is_due_every_two_seconds(monkeypatch):
  """By the clock, which each step moves by a second here."""
  clock = itertools.count()
  monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)) / 2)
  rows = []
  _run(rows=rows)
  numbers = [number for number, _ in rows]
  assert numbers[-1] == 7 and 1 < len(numbers) < 7
  assert rows[0][1]["examples_per_second"] == pytest.approx(
      8 * numbers[0] / 2, rel=0.3
  )


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_state_is_confirmed_by_the_step_after_it(monkeypatch, ahead):
  monkeypatch.setattr(loop, "_STEPS_AHEAD", ahead)
  saver = _Saver()
  _run(saver=saver)
  confirmed = [step for what, step in saver.calls if what == "confirm"]
  assert confirmed == [0, 1, 2, 3, 4, 5, 6, 7]
  # The last state is written after the step before it is known to be good.
  assert saver.calls[-2:] == [("write", 7), ("confirm", 7)]


def test_checkpoints_are_written_when_they_are_due(monkeypatch):
  monkeypatch.setattr(loop, "_STEPS_AHEAD", 0)
  saver = _Saver(due=(2,))
  _run(saver=saver)
  assert saver.calls[:4] == [
      ("confirm", 0), ("confirm", 1), ("write", 2), ("confirm", 2)
  ]


def test_it_stops_after_the_step_that_it_is_in():
  """And looks whether that state can go on."""
  asked, saver = [], _Saver()

  def stopped():
    asked.append(1)
    return len(asked) == 4

  state = _run(saver=saver, stopped=stopped)
  assert (int(state.step), float(state.params["w"])) == (4, 4.0)
  assert saver.calls[-2:] == [("write", 4), ("confirm", 4)]


@pytest.mark.parametrize("bad", [1, 5, 7, 8])
def test_what_is_not_finite_ends_it(bad):
  """At that step, also the one that is only tried; no later one is confirmed."""
  losses = [float("nan") if number == bad else 1.0 for number in range(1, 9)]
  saver = _Saver()
  with pytest.raises(loop.NotFiniteError) as caught:
    _run(step=_step(losses), saver=saver)
  text = str(caught.value)
  assert text.startswith(f"step {bad} (epoch {bad / 3:.2f}")
  assert "the last good checkpoint is the/last" in text and "\n" not in text
  confirmed = [step for what, step in saver.calls if what == "confirm"]
  assert max(confirmed, default=-1) == bad - 2
  with pytest.raises(loop.NotFiniteError, match="there is no checkpoint yet"):
    _run(step=_step(losses))
