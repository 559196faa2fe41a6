"""Keras, torch and other libraries are entered by undocumented names in two rooms alone, where each has its test."""

import ast
from pathlib import Path

import encapkeras

PACKAGE = Path(encapkeras.__file__).parent
ROOMS = {PACKAGE / "keras_internals.py", PACKAGE / "torch_internals.py"}
MODULES = sorted({*PACKAGE.rglob("*.py"), PACKAGE.parent / "train.py"} - ROOMS)

OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # documented
# Without an underscore, and not documented as something to set or to read.
UNDOCUMENTED = {"file_writer", "train_function"}
NOT_TO_BE_SET = {"apply", "compiled", "output_names", "predict_step", "scale_loss", "test_step", "train_step"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def own_names(tree):
    """The private names that a file makes itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "self.__dict__":
            yield ast.literal_eval(node.slice)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "self.__dict__.setdefault":
            yield ast.literal_eval(node.args[0])


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def entries(tree, of_package):
    """Where a file enters a library, as (line, name); `of_package`: private names of its own classes' bases."""
    of_file = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if private_module(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in names if private_module(name))
        elif isinstance(node, ast.Attribute):
            known = of_file | OF_NAMED_TUPLES | (of_package if is_self(node.value) else set())
            named = is_private(node.attr) and node.attr not in known
            undocumented = node.attr in UNDOCUMENTED or ast.unparse(node) == "keras.src"
            is_set = isinstance(node.ctx, ast.Store) and not is_self(node.value) and node.attr in NOT_TO_BE_SET
            if named or undocumented or is_set:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr") and len(node.args) > 1:
                name = getattr(node.args[1], "value", "")
                if isinstance(name, str) and (is_private(name) or name in UNDOCUMENTED | NOT_TO_BE_SET):
                    yield node.lineno, ast.unparse(node)


def private_module(name):
    parts = name.split(".")
    return parts[0] != "__future__" and (any(is_private(part) for part in parts) or parts[:2] == ["keras", "src"])


def names_of_package():
    """The private names that classes of the package make: files use those of their base classes."""
    trees = [ast.parse(module.read_text(encoding="utf-8")) for module in MODULES]
    return {name for tree in trees for name in own_names(tree) if is_private(name)}


def test_no_undocumented_name_is_used_outside_of_the_two_rooms():
    of_package = names_of_package()
    found = [
        f"{module.relative_to(PACKAGE.parent)}:{line}: {name}"
        for module in MODULES
        for line, name in entries(ast.parse(module.read_text(encoding="utf-8")), of_package)
    ]
    assert not found, "\n".join(found)


def test_each_way_to_enter_a_library_is_found():
    code = """
import torch._dynamo
from keras.src.backend import config
from torch import _C
keras.src.layers
torch._foreach_norm(tensors)
self._seed_generators
getattr(layer, "_moments")
model.train_function
model.train_step = step
setattr(optimizer, "apply", step)
sizes._replace(batch_size=2)
self._own
self.train_step = 1
"""
    assert sorted(line for line, _ in entries(ast.parse(code), {"_own"})) == list(range(2, 12))
    assert "_flatten_layers" not in names_of_package()
