"""A GPU that is not there: tensors of the CPU that say they are on `cuda`, and notes of all that waits for them.

A GPU works while Python goes on. Where Python needs a number from it (`item`, `if tensor`, `nonzero`, which has a
result of unknown size), or copies memory of the host to it, Python waits until all that was asked for is done.
"""

import contextlib
import traceback
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import encapkeras

PACKAGE = str(Path(encapkeras.__file__).parent)
KERAS = "/keras/src/"
PASSED_THROUGH = ("backend/", "ops/", "utils/traceback_utils")  # on the way from what asks to what is done
GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
VALUES = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim")
VALUES = (*VALUES, "unique_consecutive", "_linalg_check_errors", "bincount", "item")
TENSOR = torch.Tensor
GIVEN_AWAY = (TENSOR.item, TENSOR.tolist, TENSOR.__bool__, TENSOR.__float__, TENSOR.__int__, TENSOR.__index__)
GIVEN_AWAY = (*GIVEN_AWAY, TENSOR.numpy, TENSOR.__array__, TENSOR.cpu)
MADE_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, TENSOR.new_tensor, torch.from_numpy)
WITHOUT_DEVICE = {torch.from_numpy}
MADE = {torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace, torch.rand, torch.randn}
MADE |= {torch.eye, torch.randint, torch.randperm, torch.scalar_tensor, torch.empty_strided}
MIXING = {torch.add, torch.mul, torch.matmul, TENSOR.add, TENSOR.mul, TENSOR.matmul}
MIXING |= {TENSOR.__add__, TENSOR.__mul__, TENSOR.__matmul__}
PLACES = (TENSOR.device.__get__, TENSOR.is_cpu.__get__, TENSOR.is_cuda.__get__)
MOVES = {TENSOR.to, TENSOR.cuda, TENSOR.cpu, TENSOR.copy_, TENSOR.type, TENSOR.type_as}


class Wait(NamedTuple):
    """Something that waits: which operation, our line that leads to it, and the innermost function of Keras."""

    operation: str
    line: str
    keras: str

    def __str__(self):
        return f"{self.operation} at {self.line}" + (f" (in Keras: {self.keras})" if self.keras else "")


def on_host(tensor):
    return getattr(tensor, "pretended_on_host", False)


def tensors_in(*things):
    return [leaf for leaf in tree_leaves(things) if isinstance(leaf, torch.Tensor)]


class PretendedGpu(TorchFunctionMode):
    """Tensors are on a GPU unless they were made on the host; `waits` has what waits for the one or the other."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self._operations = _Operations(self)

    def __enter__(self):
        self._patches = contextlib.ExitStack()
        self._patches.enter_context(mock.patch.object(torch, "Generator", _Generator))
        self._patches.enter_context(self._operations)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._patches.close()

    def note(self, operation):
        """Note that an operation waits, unless it is part of one that is noted already."""
        ours, keras = "outside of encapkeras", ""
        for frame in reversed(traceback.extract_stack()):
            if frame.filename.startswith(PACKAGE):
                ours = f"{Path(frame.filename).relative_to(Path(PACKAGE).parent)}:{frame.lineno} {frame.line}"
                break
            module = frame.filename.partition(KERAS)[2]
            if module and not keras and not module.startswith(PASSED_THROUGH):
                keras = f"{module} {frame.name}"
        self.waits.append(Wait(operation, ours, keras))

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = dict(keywords or {})
        if function in PLACES:
            return _place(function, arguments[0])
        if function is TENSOR.get_device:
            return -1 if on_host(arguments[0]) else 0
        given = tensors_in(arguments, keywords)
        of_gpu = [tensor for tensor in given if not on_host(tensor)]
        if function in GIVEN_AWAY and of_gpu:
            self.note(resolve_name(function))
            with self._operations.unnoted():
                return self._marked(_alias(function(*arguments, **keywords), given), True)
        if function is TENSOR.__getitem__ and not on_host(arguments[0]) and _is_on_host(arguments[1]):
            self.note("an index, from the host")
        host = self._is_result_on_host(function, given, of_gpu, arguments, keywords)
        arguments, keywords = _without_gpu(arguments), _without_gpu(keywords)
        result = function(*arguments, **keywords)
        if function in MOVES and function is not TENSOR.copy_:
            result = _alias(result, given)
        return result if any(result is tensor for tensor in given) else self._marked(result, host)

    def _is_result_on_host(self, function, given, of_gpu, arguments, keywords):
        """Where the result will be, with a note where numbers are copied between host and GPU."""
        wanted = _wanted_device(function, arguments, keywords)
        waits = not keywords.get("non_blocking", False)
        own = function is TENSOR.new_tensor
        if function in MADE_OF_NUMBERS and not tensors_in(arguments[own:]):
            host = on_host(arguments[0]) if own and wanted is None else wanted is None or wanted.type == "cpu"
            if not host:
                self.note(f"{resolve_name(function)}, from the host")
            return host
        if function in MOVES or function in MADE_OF_NUMBERS:
            to = on_host(arguments[0]) if wanted is None else wanted.type == "cpu"
            source = arguments[1] if function is TENSOR.copy_ else arguments[0]
            if isinstance(source, torch.Tensor) and on_host(source) != to and waits:
                self.note(f"{resolve_name(function)} {'to' if to else 'from'} the host")
            return to
        if function in MADE:
            return wanted is None or wanted.type == "cpu"
        if wanted is not None:
            return wanted.type == "cpu"
        large = [tensor for tensor in given if on_host(tensor) and tensor.dim()]
        if of_gpu and large and function in MIXING:
            raise AssertionError(f"{resolve_name(function)} of tensors on the host and on the GPU")
        return bool(given) and not of_gpu

    @staticmethod
    def _marked(result, host):
        for tensor in tensors_in(result):
            tensor.pretended_on_host = host
        return result


class _Generator(torch.Generator):
    """One of the CPU, whatever is asked for: Keras makes one for each draw."""

    def __new__(cls, device=None):
        return super().__new__(cls)


def _alias(result, given):
    """Another tensor, where an operation of one device returns what it was given."""
    return result.view_as(result) if any(result is tensor for tensor in given) else result


def _place(function, tensor):
    real = function(tensor)
    if tensor.device.type != "cpu":
        return real
    host = on_host(tensor)
    return (HOST if host else GPU) if function == PLACES[0] else host if function == PLACES[1] else not host


class _Operations(TorchDispatchMode):
    """Sees what operations are made of, those of backward passes included."""

    def __init__(self, gpu):
        super().__init__()
        self._gpu, self._noting = gpu, True

    @contextlib.contextmanager
    def unnoted(self):
        before, self._noting = self._noting, False
        try:
            yield
        finally:
            self._noting = before

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        of_gpu = any(not on_host(tensor) for tensor in tensors_in(arguments))
        if self._noting and of_gpu:
            masks = "index" in name and any(
                tensor.dtype in (torch.bool, torch.uint8)
                for part in arguments[1:2]
                if isinstance(part, list | tuple)
                for tensor in tensors_in(part)
            )
            by_number = name == "repeat_interleave" and "Tensor" in str(function)
            if name in VALUES or masks or by_number:
                self._gpu.note(f"aten.{name}" + (" by a mask" if masks else ""))
        return function(*arguments, **(keywords or {}))


def _is_on_host(index):
    """Whether a part of an index is a list, or a tensor on the host."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) or (isinstance(part, torch.Tensor) and on_host(part)) for part in parts)


def _wanted_device(function, arguments, keywords):
    wanted = keywords.get("device")
    for given in arguments[1:]:
        if function in (TENSOR.to, TENSOR.type_as) and isinstance(given, torch.Tensor):
            given = HOST if on_host(given) else GPU
        if isinstance(given, torch.device) or (isinstance(given, str) and given.split(":")[0] in ("cpu", "cuda")):
            wanted = given
    return None if wanted is None else torch.device(wanted)


def _without_gpu(thing):
    if isinstance(thing, dict):
        return {name: _without_gpu(value) for name, value in thing.items()}
    if type(thing) in (tuple, list):
        return type(thing)(_without_gpu(value) for value in thing)
    if isinstance(thing, torch.device) and thing.type == "cuda":
        return HOST
    return HOST if isinstance(thing, str) and thing.split(":")[0] == "cuda" else thing
