"""Reading ahead: what is consumed next is made by a thread meanwhile."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
import itertools
from typing import TypeVar

_Order = TypeVar("_Order")
_Made = TypeVar("_Made")


def prefetched(
    make: Callable[[_Order], _Made], orders: Iterable[_Order], ahead: int
) -> Iterator[tuple[_Order, _Made]]:
  """Yields each order and what is made of it, in their order.

  Closing the generator, as `contextlib.closing` does, ends the thread after what
  it is making.

  Args:
    make: is called with one order after the other, never with two at once. What
      it raises is raised where its result would have been yielded.
    orders: read by the consumer's thread, `ahead` before they are needed.
    ahead: how many results may wait beside the one that is consumed; 0 makes
      each when it is asked for, without a thread.
  """
  orders = iter(orders)
  if not ahead:
    for order in orders:
      yield order, make(order)
    return
  executor = ThreadPoolExecutor(1, thread_name_prefix="batches")
  waiting = deque()
  try:
    while True:
      for order in itertools.islice(orders, ahead + 1 - len(waiting)):
        waiting.append((order, executor.submit(make, order)))
      if not waiting:
        return
      order, made = waiting.popleft()
      yield order, made.result()
  finally:
    executor.shutdown(wait=True, cancel_futures=True)
