"""Event files for TensorBoard, written at once by whoever adds an event, so that a full disk is an error there."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from encapkeras.files import open_own, open_regular
from encapkeras.torch_internals import writer_into

_numbers = itertools.count()


def open_event_file(folder: Path, suffix: str = "") -> SummaryWriter:
    """Open a new event file; what is added is in it when the call returns, whole, or not at all after an `OSError`.

    torch's own writers leave that to a thread, which prints a traceback when the disk is full.
    """
    writer: SummaryWriter = writer_into(_EventFile(folder, suffix), str(folder))
    return writer


class _EventFile:
    """The methods that torch calls of TensorBoard's writers; between two events the file is closed."""

    def __init__(self, folder: Path, suffix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        origin = f"{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._path = folder / f"events.out.tfevents.{int(time.time()):010d}.{origin}{suffix}"
        open_regular(self._path, "xb").close()
        self._records = RecordWriter(self)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def write(self, record: bytes) -> None:
        with open_own(self._path, "ab") as file:
            length, rest = file.tell(), memoryview(record)
            try:
                while rest:
                    rest = rest[os.write(file.fileno(), rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
