"""The loop of training on steps that cost nothing: what it takes, tells, keeps."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.kernels import platforms
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
    self._due = set(due)

  def latest(self):
    return "the/last"

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
  monkeypatch.setattr(
      loop.platforms, "queued_dispatches", lambda: ahead
  )
  saver = _Saver()
  _run(saver=saver)
  confirmed = [step for what, step in saver.calls if what == "confirm"]
  assert confirmed == [0, 1, 2, 3, 4, 5, 6, 7]
  # The last state is written after the step before it is known to be good.
  assert saver.calls[-2:] == [("write", 7), ("confirm", 7)]


def test_checkpoints_are_written_when_they_are_due(monkeypatch):
  monkeypatch.setattr(
      loop.platforms, "queued_dispatches", lambda: 0
  )
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


# Several steps in one dispatch.


def _group(size, losses=None, taken=None):
  """Steps of `_step` as one, on images [devices, size, b, ...]."""
  step = _step(losses, taken)

  def group(state, images, labels):
    assert images.shape[1] == labels.shape[1] == size
    rows = []
    for number in range(size):
      state, metrics = step(state, images[:, number], labels[:, number])
      rows.append(metrics)
    names = set(rows[0]) - {"odd"}  # One program's steps have the same.
    return state, {name: jnp.stack([r[name] for r in rows]) for name in names}

  return group


def _grouped(size, losses=None, fit=lambda number: True, **options):
  """A run in groups: its state, its rows, how many steps each dispatch took."""
  dispatches = []

  def of(count, step):
    def noted(state, *batch):
      dispatches.append((int(state.step), count))
      return step(state, *batch)
    return noted

  rows = []
  groups = loop.Groups(
      size, fit, lambda number: of(size, _group(size, losses))
  )
  state = _run(
      step=of(1, _step(losses)), rows=rows, groups=groups, **options
  )
  return state, rows, dispatches


@pytest.mark.parametrize("start, size, expected", [
    (0, 3, [(0, 3), (3, 3), (6, 1), (7, 1)]),
    (0, 2, [(0, 2), (2, 1), (3, 2), (5, 1), (6, 1), (7, 1)]),
    (1, 2, [(1, 2), (3, 2), (5, 1), (6, 1), (7, 1)]),
    (0, 4, [(n, 1) for n in range(8)]),  # Longer than an epoch.
])
def test_groups_end_where_an_epoch_and_the_run_do(start, size, expected):
  """What is left goes one by one; the trial is of the last dispatch's."""
  state, _, dispatches = _grouped(size, state=_state(start))
  assert (int(state.step), float(state.params["w"])) == (7, 7.0)
  assert dispatches == expected


def test_the_trial_after_a_group_needs_no_other_program(monkeypatch):
  monkeypatch.setattr(
      "test_loop._LENGTH", dataclasses.replace(_LENGTH, total=6)
  )
  state, _, dispatches = _grouped(3)
  assert dispatches == [(0, 3), (3, 3), (6, 3)] and int(state.step) == 6


def test_steps_that_do_not_fit_go_one_by_one():
  """Such as those between which the objective changes."""
  asked = []

  def fit(number):
    asked.append(number)
    return number != 0

  _, _, dispatches = _grouped(2, fit=fit)
  assert dispatches == [(0, 1), (1, 2), (3, 2), (5, 1), (6, 1), (7, 1)]
  assert asked == [0, 1, 3]


def test_each_step_of_a_group_is_reported_and_confirmed():
  """As if it had gone by itself."""
  rows, saver = [], _Saver()
  _run(rows=rows, epoch_rows=True)
  _, grouped, _ = _grouped(3, saver=saver, epoch_rows=True)
  assert [number for number, _ in grouped] == [3, 6, 7]
  for (_, one), (_, other) in zip(rows, grouped):
    for name in ("loss", "epsilon", "epoch", "largest_bound"):
      assert one[name] == pytest.approx(other[name])
  confirmed = [step for what, step in saver.calls if what == "confirm"]
  assert confirmed == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("bad", range(1, 9))
def test_what_is_not_finite_within_a_group_ends_it(bad):
  losses = [float("nan") if number == bad else 1.0 for number in range(1, 11)]
  saver = _Saver()
  with pytest.raises(loop.NotFiniteError, match=rf"^step {bad} "):
    _grouped(3, losses, saver=saver)
  confirmed = [step for what, step in saver.calls if what == "confirm"]
  assert max(confirmed, default=-1) == bad - 2


def test_a_run_that_is_stopped_ends_with_its_group():
  asked, saver = [], _Saver()

  def stopped():
    asked.append(1)
    return len(asked) == 2

  state, _, dispatches = _grouped(3, saver=saver, stopped=stopped)
  assert int(state.step) == 6 and dispatches == [(0, 3), (3, 3), (6, 3)]
  assert saver.calls[-2:] == [("write", 6), ("confirm", 6)]


def test_further_metrics_are_of_the_state_that_a_dispatch_made():
  """They count for its last step alone."""
  def measure(number, state):
    assert int(state.step) == number
    return {"far": state.params["w"] * 10} if number % 3 == 0 else {}

  for run in (_run, lambda **options: _grouped(3, **options)):
    rows = []
    found = run(epoch_rows=True, measure=measure, **(
        {"rows": rows} if run is _run else {}
    ))
    rows = rows or found[1]
    assert [row.get("far") for _, row in rows] == [30.0, 60.0, None]


# A device with a memory of its own, to which a thread transfers batches.


@pytest.fixture
def apart(monkeypatch):
  """What accelerators get, on the CPU."""
  platform = dataclasses.replace(
      platforms.GPU, queued=2 if jax.device_count() == 1 else 0
  )
  monkeypatch.setattr(platforms, "here", lambda: platform)
  monkeypatch.setattr(platforms, "queued_dispatches", lambda: platform.queued)
  return platform


def _numbered():
  """Batches that say which one they are."""
  for number in itertools.count(1):
    yield np.full((8, 2), number, np.float32), np.full(8, number, np.int32)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_come_in_order_and_are_on_the_devices(apart, size):
  seen = []

  def look(state, images, labels):
    assert isinstance(images, jax.Array) and isinstance(labels, jax.Array)
    devices = jax.local_device_count()
    assert len(images.sharding.device_set) == devices
    assert images.sharding.shard_shape(images.shape)[0] == 1
    shaped = images.reshape(devices, -1, 8 // devices, 2)
    seen.append([int(x) for x in shaped[0, :, 0, 0]])
    np.testing.assert_array_equal(
        labels.reshape(devices, -1, 8 // devices)[-1, :, -1], seen[-1]
    )

  def looking(step):
    def looked(state, *batch):
      look(state, *batch)
      return step(state, *batch)
    return looked

  groups = loop.Groups(
      size, lambda number: True, lambda number: looking(_group(size))
  )
  single = looking(_step())
  state = loop.run(
      _state(), _LENGTH, lambda number: single, _numbered(),
      lambda number, row: None, groups=groups if size > 1 else None,
  )
  assert int(state.step) == 7
  assert list(itertools.chain(*seen[:-1])) == list(range(1, 8))
  assert seen[-1] == seen[-2]  # The trial.
  assert not [
      t for t in threading.enumerate() if t.name.startswith("batches")
  ]


def test_no_more_batches_are_read_than_steps_are_taken(apart):
  read = []

  def stream():
    for batch in itertools.islice(_numbered(), 7):
      read.append(1)
      yield batch

  step = _step()
  loop.run(
      _state(), _LENGTH, lambda number: step, stream(),
      lambda number, row: None,
  )
  assert len(read) == 7


@pytest.mark.parametrize("ahead", [True, False])
def test_a_failure_of_the_data_reaches_the_caller(ahead, request):
  """After the steps before it; the thread ends."""
  if ahead:
    request.getfixturevalue("apart")
  taken = []

  def stream():
    yield from itertools.islice(_numbered(), 3)
    raise OSError("the disk is gone")

  step = _step(taken=taken)
  with pytest.raises(OSError, match="the disk is gone"):
    loop.run(
        _state(), _LENGTH, lambda number: step, stream(),
        lambda number, row: None,
    )
  assert len(taken) == 3
  assert not [
      t for t in threading.enumerate() if t.name.startswith("batches")
  ]


def test_a_step_that_fails_ends_the_thread(apart):
  losses = [1.0, 1.0, float("nan")] + [1.0] * 9
  step = _step(losses)
  with pytest.raises(loop.NotFiniteError):
    loop.run(
        _state(), _LENGTH, lambda number: step, _numbered(),
        lambda number, row: None,
    )
  assert not [
      t for t in threading.enumerate() if t.name.startswith("batches")
  ]


def test_metrics_are_read_behind(apart):
  """The host is told of a step when `queued` later ones are on their way."""
  if not apart.queued:
    pytest.skip("several CPUs wait for each step")
  taken, told = [], []
  step = _step(taken=taken)
  saver = _Saver()
  saver.confirm = lambda number: told.append((number + 1, len(taken)))
  loop.run(
      _state(), _LENGTH, lambda number: step, _numbered(),
      lambda number, row: None, saver=saver,
  )
  assert told == [
      (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 7), (7, 7), (8, 8)
  ]
