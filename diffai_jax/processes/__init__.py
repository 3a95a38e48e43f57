"""Several processes as one run: what they share, and that they end together."""

from diffai_jax.processes.connect import connect, disconnect
from diffai_jax.processes.exchange import (
    agreed,
    by_first,
    count,
    current,
    from_first,
    gathered,
    index,
    is_first,
    share,
    together,
)
from diffai_jax.processes.stop import Stop

__all__ = [
    "Stop", "agreed", "by_first", "connect", "count", "current", "disconnect",
    "from_first", "gathered", "index", "is_first", "share", "together",
]
