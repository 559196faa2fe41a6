"""Shared by the tests of this folder."""

import pytest

from encapkeras.losses import register_loss
from encapkeras.losses.registry import LOSSES


@pytest.fixture
def registered():
    """Registers losses for one test."""
    before = dict(LOSSES._entries)
    yield register_loss
    LOSSES._entries.clear()
    LOSSES._entries.update(before)
