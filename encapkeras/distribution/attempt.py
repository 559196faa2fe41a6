"""What keeps apart the processes that torchrun started last and those that it started before."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed import Store  # type: ignore[attr-defined]

_SECONDS_BETWEEN_LOOKS = 0.05


def name_of_attempt(store: Store, rank: int, count: int, timeout: timedelta) -> str:
    """A new name that this process and the others of its attempt agree on.

    torchrun keeps one store while it starts the processes again and again, so that they may read in it what others
    wrote that were killed since, and wait for those. Its own count of restarts does not tell: each machine counts for
    itself, and begins anew when it returns. Therefore the first process chooses a name and gives it to who asks, each
    by a number that nobody used before, and is done when all others of now have confirmed that very name. Nothing is
    left of processes before: torchrun starts none on any machine until those of all machines have ended.

    Args:
        store: Of all processes.
        rank: Of this process.
        count: Of processes.
        timeout: How long to wait for the others.

    Raises:
        TimeoutError: Another process did not come in time.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", own)
        store.wait([f"told/{own}"], timeout)
        name = store.get(f"told/{own}").decode()
        store.set(f"knows/{name}/{rank}", "")
        return name
    missing = list(range(1, count))
    until = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > until:
            raise TimeoutError(f"of {count} processes these did not come within {timeout}: {missing}")
        for each in missing:
            if store.check([f"asks/{each}"]):
                store.set(f"told/{store.get(f'asks/{each}').decode()}", own)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        missing = [each for each in missing if not store.check([f"knows/{own}/{each}"])]
    return own
