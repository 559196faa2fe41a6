"""All that encapkeras uses of torch beyond its documented interface: one function for each, with the versions read.

A new version of torch may change any of it without notice. `tests/package/test_torch_internals.py` tests each function
against what it says, so that a change is found there, and not in the results of a training.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from encapkeras.errors import environment_number

CDIST_FORWARD = torch.ops.aten._cdist_forward
"""The operation that `torch.cdist` makes, as `FlopCounterMode` sees it (torch 2.9 to 2.14)."""


def is_fake(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has a shape and a device but no values (`FakeTensor`; torch 2.9 to 2.14)."""
    return isinstance(tensor, FakeTensor)


def is_tracing() -> bool:
    """Return whether TorchScript records operations, as ONNX exports do (`jit.is_tracing`; torch 2.9 to 2.14)."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def without_values() -> contextlib.AbstractContextManager[Any]:
    """Make a mode in which tensors have no values, on any device (`FakeTensorMode`; torch 2.9 to 2.14)."""
    return FakeTensorMode()


def each_operation(see: Callable[[Any, Sequence[Any], dict[str, Any]], None]) -> contextlib.AbstractContextManager[Any]:
    """Call a function with each operation and its arguments before it runs (`TorchDispatchMode`; torch 2.9 to 2.14).

    Operations of backward passes count too, and after autocast has chosen types; those within `see` do not.
    """
    return _Seen(see)


class _Seen(TorchDispatchMode):
    def __init__(self, see: Callable[[Any, Sequence[Any], dict[str, Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.see(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def limit_recompiles(shapes: int) -> contextlib.AbstractContextManager[Any]:
    """Have `torch.compile` compile a function for at most this many shapes (`_dynamo.config`; torch 2.9 to 2.14)."""
    limit: contextlib.AbstractContextManager[Any] = torch._dynamo.config.patch(recompile_limit=shapes)
    return limit


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy many tensors in few operations of a GPU (`_foreach_copy_`; torch 2.9 to 2.14)."""
    torch._foreach_copy_(list(targets), list(sources))


def add_all(tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor], alpha: float) -> list[torch.Tensor]:
    """Compute `tensor + alpha * other` of many, in few operations of a GPU (`_foreach_add`; torch 2.9 to 2.14)."""
    return list(torch._foreach_add(list(tensors), list(others), alpha=alpha))


def multiply_all(tensors: Sequence[torch.Tensor], factor: torch.Tensor) -> list[torch.Tensor]:
    """Multiply many by one number on their device, in few operations (`_foreach_mul`; torch 2.9 to 2.14)."""
    return list(torch._foreach_mul(list(tensors), factor))


def square_all(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Square many, in few operations (`_foreach_mul`; torch 2.9 to 2.14)."""
    return list(torch._foreach_mul(list(tensors), list(tensors)))


def mix_all(
    targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor], kept: torch.Tensor, added: torch.Tensor
) -> None:
    """Set targets to `kept * target + added * source`, each product rounded (`_foreach_mul_`; torch 2.9 to 2.14)."""
    scaled = torch._foreach_mul(list(sources), added)  # not as `alpha` of the sum, which would not round it
    torch._foreach_mul_(list(targets), kept)
    torch._foreach_add_(list(targets), scaled)


def is_in_backward() -> bool:
    """Return whether a backward pass runs this, as where it repeats a forward pass (`_C`; torch 2.9 to 2.14)."""
    # `torch.compile` traces no backward pass here, and it cannot trace the second call.
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def call_after_backward(function: Callable[[], None]) -> None:
    """Call a function at the end of the backward pass under way, before it returns (torch 2.9 to 2.14)."""
    torch.autograd.Variable._execution_engine.queue_callback(function)


def end_workers(batches: Any) -> None:
    """End the processes of a `DataLoader`'s iterator, also if some have ended (torch 2.9 to 2.14)."""
    batches._shutdown_workers()


def storage_key(tensor: torch.Tensor) -> int:
    """Get a number that only tensors in the same memory share, also those without values (torch 2.9 to 2.14)."""
    return int(tensor.untyped_storage()._cdata)


_FOLDER = 0x10  # a bit in the directory of a zip, with which torch leaves the memory of an entry as it was


class DamagedFile(Exception):
    """A file of `torch.save` does not hold what it says."""


def load_saved(file: BinaryIO) -> Any:
    """Read what `torch.save` wrote, to the CPU, checked, running no code in it (zip records; torch 2.9 to 2.14).

    torch itself looks at no checksum, and hands out memory as it finds it where the directory of the zip is wrong.
    """
    zipped = file.read(4) == b"PK\x03\x04"  # else of torch before 1.6
    file.seek(0)
    records = _sound_records(file) if zipped else {}
    sizes = {name: len(content) for name, content in records.items()}
    folder = next(iter(records), "").partition("/")[0]
    described = records.get(f"{folder}/data.pkl", b"")
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as sound:
        for name in sizes:
            sound.writestr(name, records.pop(name))  # so that the whole is not in memory twice
    copy.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they are about ends in an error, or is of no concern
        loaded = torch.load(copy if zipped else file, map_location="cpu", weights_only=True)
        if zipped:
            _check_claims(described, f"{folder}/data", sizes)
    return loaded


def _sound_records(file: BinaryIO) -> dict[str, bytes]:
    """Return the records by name, which are what `torch.save` writes: each there once, not compressed."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if (
            sum(entry.file_size for entry in entries) > size
            or len(set(archive.namelist())) < len(entries)
            or any(entry.compress_type or entry.compress_size != entry.file_size for entry in entries)
            or any(entry.is_dir() or entry.external_attr & _FOLDER for entry in entries)
        ):
            raise DamagedFile("an entry in it is compressed, a folder, there twice, or larger than the file")
        damaged = archive.testzip()
        if damaged:
            raise DamagedFile(f"'{damaged}' in it does not have its checksum")
        return {entry.filename: archive.read(entry) for entry in entries}


def _check_claims(described: bytes, folder: str, sizes: dict[str, int]) -> None:
    """Check that no tensor reaches beyond its record, which not every version of torch does."""
    claims = _Claims(io.BytesIO(described))
    claims.load()
    for key, size in claims.sizes.items():
        if size != sizes[f"{folder}/{key}"]:
            raise DamagedFile(f"the tensor data '{key}' in it have another size than it says")


class _Claims(pickle.Unpickler):
    """Notes how many bytes a pickle of torch takes from each record; what it names is neither imported nor called."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Nothing,), {})

    def persistent_load(self, saved: Any) -> Any:
        _, kind, key, _, count = saved
        dtype = getattr(getattr(torch, kind.__name__), "dtype", torch.uint8)
        self.sizes[key] = count * dtype.itemsize
        return _Nothing()


class _Nothing:
    """Takes the place of any class or object of a pickle."""

    def __new__(cls, *arguments: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    append = extend = add = __setstate__


def launcher_keeps_store() -> bool:
    """Return whether the store of `env://` is torchrun's own, which outlives this process (torch 2.9 to 2.14)."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launcher_restarts() -> int:
    """Count how often torchrun may start processes again (torch 2.9 to 2.14)."""
    return environment_number("TORCHELASTIC_MAX_RESTARTS", 0)


def file_writer(writer: Any) -> Any:
    """Get what takes events and summaries of a `SummaryWriter`, in its file (torch 2.9 to 2.14)."""
    return writer.file_writer


def writer_into(file: Any, folder: str) -> Any:
    """Make a `SummaryWriter` that hands events to `file.add_event` (`_get_file_writer`; torch 2.9 to 2.14)."""
    from torch.utils.tensorboard import FileWriter, SummaryWriter

    class Writer(SummaryWriter):
        def _get_file_writer(self) -> Any:
            own: Any = self
            if own.file_writer is None:
                own.file_writer = FileWriter.__new__(FileWriter)
                own.file_writer.event_writer = file
                own.all_writers = {folder: own.file_writer}
            return own.file_writer

    return Writer(folder)
