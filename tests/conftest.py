"""Runs before every test module."""

import gc
import os
import signal

# The tests run in one process for each core: torch reads this when it is first imported, and so do their own processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The processes of the tests share one memory: what one has freed is for all.
os.environ.setdefault("ENCAPKERAS_KEEP_MEMORY", "0")

import hypothesis
import pytest
import torch
from support.double_precision import double_precision
from support.drawings import without_drawings

import encapkeras  # noqa: F401  # chooses the torch backend before a test imports keras

hypothesis.settings.register_profile("the same examples in each run", derandomize=True)
hypothesis.settings.load_profile("the same examples in each run")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So do shells start jobs in the background, also under nohup; here Ctrl-C is what is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` where torch finds none; tests that need more say so themselves."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA GPU on this machine"))


def pytest_collection_finish():
    """Leave all that the imports have made out of garbage collections, which trainings ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def no_drawings(request):
    """Write TensorBoard files without drawings; `DRAWS = True` in a module keeps them."""
    if getattr(request.module, "DRAWS", False):
        yield
        return
    with without_drawings():
        yield


@pytest.fixture(name="double_precision")
def in_double_precision():
    """Keras in float64, for comparisons with golden numbers."""
    with double_precision():
        yield


@pytest.fixture
def registered():
    """Register losses for one test."""
    from encapkeras.losses import LOSSES, register_loss

    before = dict(LOSSES._entries)
    yield register_loss
    LOSSES._entries.clear()
    LOSSES._entries.update(before)
