"""Reading ahead: the order, how far, and how it ends."""

import contextlib
import threading

import pytest

from diffai_jax.data import prefetched

_AHEAD = (0, 1, 3)


def _threads() -> list[threading.Thread]:
  return [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("ahead", _AHEAD)
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_everything_is_made_once_and_in_order(ahead, count):
  makers = []

  def make(order):
    makers.append((order, threading.current_thread().name))
    return order * order

  found = list(prefetched(make, range(count), ahead))
  assert found == [(n, n * n) for n in range(count)]
  assert [order for order, _ in makers] == list(range(count))
  own = threading.current_thread().name
  assert all((name == own) == (ahead == 0) for _, name in makers)
  assert not _threads()


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_are_made_before_they_are_asked_for(ahead):
  """And no more, however long the consumer takes."""
  made = threading.Semaphore(0)
  taken = []

  def orders():
    for number in range(100):
      taken.append(number)
      yield number

  def make(order):
    made.release()
    return order

  with contextlib.closing(prefetched(make, orders(), ahead)) as results:
    for number in range(3):
      next(results)
      # Blocks for ever if one of those is not made meanwhile.
      for _ in range(1 + ahead if not number else 1):
        assert made.acquire(timeout=60)
      assert not made.acquire(blocking=False)
      assert taken == list(range(number + 1 + ahead))


@pytest.mark.parametrize("ahead", _AHEAD)
def test_what_is_raised_while_making_reaches_the_consumer(ahead):
  """After what was made before it; nothing is made after it."""
  made = []

  def make(order):
    if order == 2:
      raise OSError("the disk is gone")
    made.append(order)
    return order

  found = []
  with pytest.raises(OSError, match="the disk is gone"):
    for _, result in prefetched(make, range(1000), ahead):
      found.append(result)
  assert found == [0, 1]
  assert not _threads() and max(made) <= 2 + ahead


def test_the_end_of_what_is_read_is_told_as_such():
  """A StopIteration of the maker's would end the consumer without a word."""
  for ahead in _AHEAD:
    with pytest.raises(RuntimeError):
      list(prefetched(lambda order: next(iter(())), range(3), ahead))


@pytest.mark.parametrize("ahead", _AHEAD)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_consumer_that_fails_leaves_no_thread(ahead, error):
  made = []
  with pytest.raises(error):
    with contextlib.closing(
        prefetched(made.append, range(10**6), ahead)
    ) as results:
      for _ in results:
        raise error
  assert not _threads()
  assert len(made) <= 1 + ahead


def test_a_failure_of_the_orders_ends_the_thread():
  def orders():
    yield 1
    raise ValueError("no more")

  with pytest.raises(ValueError, match="no more"):
    list(prefetched(lambda order: order, orders(), 2))
  assert not _threads()
