"""Processes find those that were started with them, in a store that remembers others before them."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import DistStoreError, HashStore

from encapkeras.distribution.attempt import agree_on_attempt

PATIENCE, NONE = timedelta(seconds=30), timedelta(seconds=0.2)


def names(store, order):
    """What three processes agree on, started in this order."""
    with ThreadPoolExecutor(3) as threads:
        told = [threads.submit(agree_on_attempt, store, rank, 3, PATIENCE) for rank in order]
        return {each.result() for each in told}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_agree_on_one_name_which_is_new_each_time(order):
    store = HashStore()
    first, second = names(store, order), names(store, order)
    assert len(first) == len(second) == 1
    assert first != second


def test_processes_that_were_lost_in_the_middle_do_not_mislead_the_next():
    store = HashStore()
    with pytest.raises(DistStoreError):
        agree_on_attempt(store, 1, 3, NONE)  # asks, and is gone
    with pytest.raises(TimeoutError, match=r"of 3 processes these did not arrive within 0:00:00.2.*: \[1, 2\]"):
        agree_on_attempt(store, 0, 3, NONE)  # answers the one that is gone
    assert len(names(store, (0, 1, 2))) == 1


def test_a_process_alone_waits_for_nobody():
    assert agree_on_attempt(HashStore(), 0, 1, NONE)
