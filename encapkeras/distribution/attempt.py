"""A name for the processes of one start by torchrun, which none of its earlier starts had."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch.distributed import Store  # type: ignore[attr-defined]

_SECONDS_BETWEEN_LOOKS = 0.05


def agree_on_attempt(store: Store, rank: int, count: int, timeout: timedelta) -> str:
    """Return a new name that all processes of this attempt agree on; raise TimeoutError if one does not come.

    torchrun keeps one store over its restarts, so processes could read what others wrote before they were killed, and
    wait for those. Its count of restarts does not help: each machine counts for itself, and from 0 when it returns.
    Therefore the first process chooses a name. It answers each request, which has a number never used before, and
    is done when all others have confirmed this name. No older process is left to confuse it: torchrun starts new ones
    only after those of all machines have ended.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"request/{rank}", own)
        store.wait([f"answer/{own}"], timeout)
        name = str(store.get(f"answer/{own}").decode())
        store.set(f"confirmed/{name}/{rank}", "")
        return name
    missing = list(range(1, count))
    until = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > until:
            raise TimeoutError(f"of {count} processes these did not arrive within {timeout}: {missing}")
        for each in missing:
            if store.check([f"request/{each}"]):
                store.set(f"answer/{store.get(f'request/{each}').decode()}", own)
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        missing = [each for each in missing if not store.check([f"confirmed/{own}/{each}"])]
    return own
