"""Trainings without the drawings in TensorBoard, which take most of the time of a small one."""

import contextlib

import pytest
from support.warm import WITHOUT_DRAWINGS


@contextlib.contextmanager
def without_drawings():
    from torch.utils.tensorboard import SummaryWriter

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SummaryWriter, "add_figure", lambda *arguments, **options: None)
        patch.setenv(WITHOUT_DRAWINGS, "1")  # for other processes
        yield
