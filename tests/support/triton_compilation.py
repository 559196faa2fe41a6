"""Translates Triton's kernels for GPUs, on machines that need have none: as they would be launched."""

import contextlib
from types import SimpleNamespace

import torch

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64"}


class _Noted:
    """Takes the place of a kernel; notes its arguments in place of a launch."""

    def __init__(self, kernel, notes):
        self.kernel, self.notes = kernel, notes

    def __getitem__(self, grid):
        return lambda *given, **sides: self.notes.append(SimpleNamespace(kernel=self.kernel, given=given, sides=sides))


@contextlib.contextmanager
def noted_launches(module, monkeypatch):
    """Launch no kernel of a module; yield the list of the launches."""
    notes = []
    with monkeypatch.context() as patch:
        for kernel in module.KERNELS:
            patch.setattr(module, kernel.__name__, _Noted(kernel, notes))
        yield notes


def compiled(launch, capability):
    """Translate a kernel for a GPU of NVIDIA, such as 90, to what the GPU runs."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(names):
        value = launch.given[place] if place < len(launch.given) else launch.sides[name]
        if isinstance(value, torch.Tensor):
            signature[name], multiple = TYPES[value.dtype], True
        elif name in launch.sides or value == 1:  # Triton takes 1 for a constant
            signature[name], constants[place,], multiple = "constexpr", value, False
        else:
            signature[name], multiple = "i32", value % 16 == 0
        if multiple:
            attributes[place,] = [["tt.divisibility", 16]]
    assert len(launch.given) + len(launch.sides) == len(names)
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))
